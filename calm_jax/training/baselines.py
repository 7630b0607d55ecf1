"""What a policy has to beat at equal cost: plans drawn alike for all inputs, and the best plan that is the same for all.

Both are heads that read nothing, decoded as any policy is. Their cost is the mean over texts of the share of the full model's
operations (`metrics/plan_cost.py`), as a policy's is.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.depth.dial import STEEPEST
from calm_jax.depth.policy import TOKEN_CHOICES, Decisions, Logits, Parts, plan_of, policy_flops, raised
from calm_jax.metrics import plan_cost
from calm_jax.models import planned
from calm_jax.models.config import TransformerConfig
from calm_jax.tasks import Task
from calm_jax.training.goals import NextTokens, TaskGoal
from calm_jax.training.plan_loss import caller, nats, read
from calm_jax.training.policy import SHARES, chances, chances_of
from calm_jax.types import Plan, Sizes

HALVINGS = 60  # of the range of κ


def check_share(name: str, share: float) -> None:
    """Raises ValueError for what is no share of the full model's operations."""
    if not 0 < share <= 1:
        raise ValueError(f"{name} is {share}; expected a share of the full model's operations, in (0, 1]")


def mean_prices(
    config: TransformerConfig, source_tokens: np.ndarray, target_tokens: np.ndarray, reads: bool = False
) -> plan_cost.Prices:
    """The prices of one input that costs within any plan what texts of these lengths, int [N], cost on average. reads: as
    `plan_cost.prices`."""

    @jax.jit
    def mean(source_tokens, target_tokens):
        each = plan_cost.prices(config, source_tokens, target_tokens, SHARES, policy_flops(config.sizes), reads)
        return jax.tree.map(lambda prices: jnp.mean(prices, axis=0, keepdims=True), each)

    return mean(np.asarray(source_tokens), np.asarray(target_tokens))


def drawn_alike(prices: plan_cost.Prices, parts: Parts, decoder_only: bool, share: float) -> Logits:
    """Logits of one row, of a policy whose plans cost a share of the full model's operations on average: those of a policy that
    finds all alike, 0, under the dial that makes it so.

    Every sub-layer that is decided runs with probability σ(κ), and choices of tokens are as likely as exp(κ · 10 · share).
    prices: of one row. Raises ValueError for a share that no dial reaches.
    """
    encoder, decoder = (jnp.zeros((1, part.shape[0], 2)) for part in parts[:2])
    nothing = Logits(encoder, decoder, jnp.zeros((1, len(TOKEN_CHOICES))))

    @jax.jit
    def cost(kappa):
        return plan_cost.expected(prices, chances(raised(nothing, kappa), parts), decoder_only)[0]

    low, high = -STEEPEST, STEEPEST
    least, most = (float(cost(end)) for end in (low, high))
    if not least <= share <= most:
        raise ValueError(f'a share of {share:g} cannot be reached: with all dropped that can be it is {least:.4g}')
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < share else (low, middle)
    return raised(nothing, high)


class StaticPlan(NamedTuple):
    """A plan that is the same for every input. encoder, decoder: of each layer, whether attention and feed-forward run; tokens:
    of `TOKEN_CHOICES`."""

    encoder: tuple[tuple[bool, bool], ...]
    decoder: tuple[tuple[bool, bool], ...]
    tokens: int

    @classmethod
    def full(cls, sizes: Sizes) -> 'StaticPlan':
        """The one that runs and keeps everything."""
        return cls(((True, True),) * sizes.encoder_layers, ((True, True),) * sizes.layers, 0)

    def decisions(self) -> Decisions:
        """As those of one row."""
        encoder, decoder = (jnp.asarray(each, bool).reshape(1, len(each), 2) for each in (self.encoder, self.decoder))
        return Decisions(encoder, decoder, jnp.array([self.tokens], jnp.int32))


def droppable(parts: Parts, plan: StaticPlan) -> dict[str, StaticPlan]:
    """{what: the plan without it}: each sub-layer that is decided and still runs, and each choice that keeps fewer tokens."""
    made = {}
    for stack, decided in (('encoder', parts.encoder), ('decoder', parts.decoder)):
        layers = getattr(plan, stack)
        for layer in np.flatnonzero(np.asarray(decided)[:, 0]):
            for place, name in enumerate(('attention', 'feed_forward')):
                if layers[layer][place]:
                    without = tuple(runs and place != at for at, runs in enumerate(layers[layer]))
                    others = (*layers[:layer], without, *layers[layer + 1 :])
                    made[f'{stack}.layers_{layer}.{name}'] = plan._replace(**{stack: others})
    if parts.tokens:
        for choice in range(plan.tokens + 1, len(TOKEN_CHOICES)):
            made[f'tokens.{TOKEN_CHOICES[choice].name}'] = plan._replace(tokens=choice)
    return made


def cost_of(prices: plan_cost.Prices, decoder_only: bool) -> Callable[[StaticPlan], float]:
    """What plans cost, of the full model's operations. prices: of one row."""
    expected = jax.jit(functools.partial(plan_cost.expected, decoder_only=decoder_only))
    return lambda plan: float(expected(prices, chances_of(plan.decisions()))[0])


def layers_of(plan: StaticPlan, decoder_only: bool) -> float:
    """Decoder layers that a plan runs: its sub-layers over those of a layer, of which attention is two with an encoder."""
    attention = 1 if decoder_only else 2
    return sum(attention * runs[0] + runs[1] for runs in plan.decoder) / (attention + 1)


def loss_of(
    config: TransformerConfig,
    params: Any,
    batches: Sequence[Mapping[str, Any]],
    task: Task | None = None,
    head: Mapping[str, Any] | None = None,
) -> Callable[[StaticPlan], float]:
    """What plans lose: nats per target token of a text, or of a task with its head, their mean over all texts.

    One program for each shape of batches, whatever the plan; a sub-layer that a plan leaves out is not computed, but over a
    decoder-only model's prompt.
    """
    goal = NextTokens() if task is None else TaskGoal(task, config)

    @jax.jit
    def sums(params, batch, decisions):
        call = caller(config, params)
        seen = read(call, config, batch, goal)
        there = goal.there(batch)
        all_rows = jax.tree.map(lambda each: jnp.broadcast_to(each, (len(there), *each.shape[1:])), decisions)
        plan: Plan = plan_of(all_rows, seen.context)
        each = nats(call, config, batch, seen, plan, planned.Skipped(), goal, head)
        return jnp.sum(jnp.where(there, each, 0)), jnp.sum(there)

    params, batches = jax.device_put((params, list(batches)))

    def loss(plan: StaticPlan) -> float:
        decisions = plan.decisions()
        made = np.asarray(jax.device_get([sums(params, batch, decisions) for batch in batches]), np.float64)
        return float(np.sum(made[:, 0]) / np.sum(made[:, 1]))

    return loss
