"""A policy's stage: which sub-layers and source tokens an input needs, learned with the model or on a frozen one.

Two objectives: the loss of the drawn plan, in nats per target token, and its cost, as a share of the full model's operations
(Zhang et al. 2024, §3.2). The gradient of the expected loss is estimated from draws, an `Estimator`; that of the expected cost
is exact, because the cost is a sum over decisions (`metrics/plan_cost.py`). A rule makes one direction of the two
(`constrained.py`), and the model follows the loss of the drawn plan.
"""

import functools
import inspect
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.checkpoints import native
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.depth import plans
from calm_jax.depth.layerwise import Course
from calm_jax.depth.policy import (
    TOKEN_CHOICES,
    Decisions,
    LayerwisePolicy,
    Logits,
    Parts,
    Policy,
    decided_alone,
    drawn,
    likeliest,
    log_likelihood,
    parts_of,
    plan_of,
    policy_flops,
    unread,
)
from calm_jax.metrics import plan_cost
from calm_jax.models.config import TransformerConfig
from calm_jax.tasks import Task
from calm_jax.training.constrained import RULES, DualAscent, Rule
from calm_jax.training.estimators import Draws, Estimator, LayerwiseDraws, Pass, self_critical, straight_through, untaught
from calm_jax.training.goals import NextTokens, TaskGoal
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.plan_loss import caller, followed, nats, of_texts, read, weighted
from calm_jax.training.policy_optimizer import optimizers, watched
from calm_jax.training.train_state import Stage
from calm_jax.types import Array, Sizes

SHARES = tuple((choice.numerator, choice.denominator) for choice in TOKEN_CHOICES)
ABOVE = 10.0  # what a nat above the bound weighs against all of the full model's operations, where the best step is chosen
DRAWN_COST = 7  # of the keys of a batch's draws, those that a cost is estimated from
FOREVER = 2**31 - 1  # steps


def entropy(logits: Logits, parts: Parts) -> Array:
    """The mean entropy of a decision, in nats: over the sub-layers that are decided, and the choice of tokens; [B]."""

    def bernoulli(logit):
        p = jax.nn.sigmoid(logit)
        return -(p * jax.nn.log_sigmoid(logit) + (1 - p) * jax.nn.log_sigmoid(-logit))

    stacks = [(logits.encoder, parts.encoder), (logits.decoder, parts.decoder)]
    total = sum(jnp.sum(jnp.where(part, bernoulli(logit), 0), axis=(1, 2)) for logit, part in stacks)
    count = sum(2 * jnp.sum(part) for _, part in stacks)
    tokens = -jnp.sum(jax.nn.softmax(logits.tokens) * jax.nn.log_softmax(logits.tokens), axis=-1)
    return (total + jnp.where(parts.tokens, tokens, 0)) / jnp.maximum(count + parts.tokens, 1)


def chances(logits: Logits, parts: Parts) -> plan_cost.Chances:
    """The probabilities of what is decided; 1 of what always runs."""
    tokens = jax.nn.softmax(logits.tokens)
    return plan_cost.Chances(
        jnp.where(parts.encoder, jax.nn.sigmoid(logits.encoder), 1.0),
        jnp.where(parts.decoder, jax.nn.sigmoid(logits.decoder), 1.0),
        jnp.where(parts.tokens, tokens, jax.nn.one_hot(0, len(TOKEN_CHOICES))),
    )


def chances_of(decisions: Decisions) -> plan_cost.Chances:
    """Decisions as probabilities of 0 and 1."""
    tokens = jax.nn.one_hot(decisions.tokens, len(TOKEN_CHOICES))
    return plan_cost.Chances(decisions.encoder.astype(jnp.float32), decisions.decoder.astype(jnp.float32), tokens)


def policy_stage(
    config: TransformerConfig,
    params: Any,
    tokenizer: Tokenizer,
    *,
    parts: Sequence[str] | None = None,
    estimator: Estimator = self_critical,
    rule: Rule = DualAscent(),
    tolerance: float = 0.05,
    backbone: Optimizer | None = None,
    entropy_floor: float = 0.0,
    exact_cost: bool | None = None,
    constant: bool = False,
    random: bool = False,
    layerwise: bool = False,
    dropout_steps: int = 0,
    seed: int = 0,
    heads: dict | None = None,
    generation: dict | None = None,
    task: Task | None = None,
) -> Stage:
    """Trains a policy on a frozen model, or with it.

    parts: of `depth.policy.PARTS`, what is decided; None: all that the model has. estimator: of the gradient of the expected
    loss. rule: how a direction is made of loss and cost. tolerance: nats per token by which the drawn plans' loss may be above
    the full plan's. backbone: of the model, which follows the loss of the drawn plans; None: it is frozen. entropy_floor: mean
    nats of a decision, below which entropy is raised. exact_cost: whether the gradient of the expected cost is exact; else it
    is estimated as that of the loss is; None: where it can be. constant: whether the policy is fed ones, whatever the input is.
    random: whether the policy learns nothing at all: the model does, under its draws, and evaluations are of draws. layerwise:
    whether it decides each layer from the states of the layer before (`depth.policy.LayerwisePolicy`), a layer drawn after the
    other; then the cost depends on draws, unless it is of prompts that are read in full, and has no exact gradient.
    dropout_steps: in which the model alone learns, under draws of a policy that has learned nothing. heads: those of the
    checkpoint, of which a policy is trained on. task: of the checkpoint; its head learns with the model.

    Raises ValueError for parts that the model does not have, and for what does not go together with deciding layer by layer.
    """
    if not isinstance(rule, Rule):
        raise ValueError(f'rule is {rule!r}; expected {", ".join(f"{each.__name__}()" for each in RULES)}')
    if not math.isfinite(tolerance):
        raise ValueError(f'tolerance is {tolerance}; expected a finite number')
    if not 0 <= entropy_floor < math.inf:
        raise ValueError(f'entropy_floor is {entropy_floor}; expected 0 or more')
    if dropout_steps < 0 or (dropout_steps and backbone is None):
        raise ValueError(f'dropout_steps is {dropout_steps}; expected 0 or more, and 0 where the model is frozen')
    if random and constant:
        raise ValueError('constant and random are two policies; choose one')
    if random:
        estimator, dropout_steps = untaught, FOREVER
    sizes = config.sizes
    decided, layers = parts_of(parts, sizes), (sizes.encoder_layers, sizes.layers)
    policy, by_layer = Policy(*layers), LayerwisePolicy(*layers)
    others = dict(heads or {})
    head = others.pop('policy', None)
    goal = NextTokens() if task is None else TaskGoal(task, config)
    depends = layerwise and (goal.reads or not config.decoder_only)  # on what was drawn before
    exact_cost = not depends if exact_cost is None else exact_cost
    if layerwise:
        _check_layerwise(sizes, estimator, exact_cost and depends, constant or random)
    if head is not None and (np.ndim(head['scale']) == 2) != layerwise:
        stored = 'all at once' if layerwise else 'layer by layer'
        raise ValueError(
            f"the checkpoint's policy decides {stored}; expected layerwise={not layerwise}, or a checkpoint without a policy"
        )
    whole = {'model': params, 'task': {} if task is None else others['task']}
    if head is None:
        nothing, key = (jnp.zeros((1, 1, config.emb_dim)), jnp.ones((1, 1), bool)), jax.random.key(seed)
        made = by_layer.init(key, 0, *nothing) if layerwise else policy.init(key, *nothing)
        head = cast(dict, made['params'])

    def scored(head, seen):
        states = jax.lax.stop_gradient(seen.context.hidden)
        states = jnp.ones_like(states) if constant else states
        return cast(Logits, policy.apply({'params': head}, states, seen.context.mask))

    def followed_by(call, head, batch, seen, choose):
        """`followed`, of a policy that decides layer by layer. choose: as `LayerwiseDraws.follow`."""

        def decide(layer, states, mask):
            logits = cast(Logits, by_layer.apply({'params': head}, layer, jax.lax.stop_gradient(states), mask))
            return logits, decided.limited(choose(logits))

        course = Course(plans.full(len(seen.context.mask), sizes), decide, seen.context.protected)
        return followed(call, config, batch, seen, course, goal=goal)

    def passes(call, now, head, batch, seen):
        """What `LayerwiseDraws` follow."""

        def follow(choose):
            states, course = followed_by(call, head, batch, seen, choose)
            return Pass(cast(Logits, course.logits), course.decisions(), goal.losses(call, now['task'], states, batch))

        return follow

    def decides(call, head, batch, seen, choose):
        """(scores, decisions) alone: of a policy that decides layer by layer nothing is run that it does not look at."""
        if not layerwise:
            logits = scored(head, seen)
            return logits, decided.limited(choose(logits))
        if not (goal.reads or config.decoder_only):
            batch = {**batch, 'decoder_input_tokens': batch['decoder_input_tokens'][:, :1]}
        _, course = followed_by(call, head, batch, seen, choose)
        return cast(Logits, course.logits), course.decisions()

    def drawing(key, rows):
        keys = jax.random.split(jax.random.fold_in(key, DRAWN_COST), rows)
        return lambda logits: drawn(logits, keys)

    def priced(seen):
        tokens = seen.source_tokens, jnp.maximum(seen.new_tokens, 1)
        return plan_cost.prices(config, *tokens, SHARES, policy_flops(sizes, layerwise), goal.reads, layerwise)

    def objective(trained, frozen, batch, key):
        """(float32 [], sums) of a batch; its gradients by policy and model are those that the steps take."""
        now = trained.get('backbone', frozen)
        dropout, draws = jax.random.split(key)
        call = caller(config, now['model'], dropout if config.dropout_rate and backbone is not None else None)
        seen = read(call, config, batch, goal)
        there = goal.there(batch).astype(jnp.float32)
        within = functools.partial(nats, call, config, batch, seen, goal=goal, head=now['task'])

        def loss_of(decisions):
            return within(plan_of(decisions, seen.context))

        def soft_loss_of(gates, decisions):
            plan = plan_of(decisions, seen.context)._replace(
                self_attention=gates.decoder[..., 0],
                cross_attention=gates.decoder[..., 0],
                feed_forward=gates.decoder[..., 1],
                encoder_attention=gates.encoder[..., 0],
                encoder_feed_forward=gates.encoder[..., 1],
            )
            return within(plan, weighted)

        def keys(number):
            return jax.random.split(jax.random.fold_in(draws, number), len(there))

        if layerwise:
            made = estimator(LayerwiseDraws(decided, passes(call, now, trained['policy'], batch, seen), keys))
        else:
            made = estimator(Draws(scored(trained['policy'], seen), decided, loss_of, soft_loss_of, keys))
        uncertain = entropy(made.logits, decided)
        full = jax.lax.stop_gradient(within(plans.full(len(there), sizes)))
        sums = {'loss': made.loss, 'full_loss': full, 'entropy': uncertain}
        return jnp.sum(made.objective * there), {name: jnp.sum(each * there) for name, each in sums.items()}

    def cost(head, backbone_params, batch, key):
        """float32 [], the sum of the expected cost over a batch's rows, or what has its gradient on average."""
        call = caller(config, backbone_params['model'])
        seen = read(call, config, batch, goal)
        there, prices = goal.there(batch).astype(jnp.float32), priced(seen)

        def of_chances(chances):
            return plan_cost.expected(prices, chances, config.decoder_only)

        likely_logits, likely = decides(call, head, batch, seen, likeliest)
        if exact_cost:
            share = of_chances(chances(likely_logits, decided))
            return jnp.sum(share * there), jnp.sum(share * there)
        logits, decisions = decides(call, head, batch, seen, drawing(key, len(there)))
        drawn_cost, likely_cost = (of_chances(chances_of(each)) for each in (decisions, likely))
        score = jax.lax.stop_gradient(drawn_cost - likely_cost) * log_likelihood(logits, decisions, decided)
        share = drawn_cost if depends else of_chances(chances(logits, decided))
        return jnp.sum(score * there), jnp.sum(share * there)

    def lacking(head, backbone_params, batch, key):
        """float32 [], what a batch's decisions lack of the entropy that they are to have, summed over its rows; of one draw,
        where they depend on draws."""
        call = caller(config, backbone_params['model'])
        seen = read(call, config, batch, goal)
        logits, _ = decides(call, head, batch, seen, drawing(key, len(seen.new_tokens)))
        return jnp.sum(jax.nn.relu(entropy_floor - entropy(logits, decided)) * goal.there(batch))

    def gradients(trained, frozen, batch, key):
        (_, sums), by = jax.value_and_grad(objective, has_aux=True)(trained, frozen, batch, key)
        backbone_params = trained.get('backbone', frozen)
        (_, share), cost_by = jax.value_and_grad(cost, has_aux=True)(trained['policy'], backbone_params, batch, key)
        there = jnp.sum(goal.there(batch), dtype=jnp.float32)
        made = {'loss': by['policy'], 'cost': cost_by}
        if entropy_floor:
            made['entropy'] = jax.grad(lacking)(trained['policy'], backbone_params, batch, key)
        if backbone is not None:
            made['backbone'] = by['backbone']
        return {**sums, 'cost': share, 'weight': there}, made

    def measure(trained, frozen, batch):
        now = trained.get('backbone', frozen)
        call = caller(config, now['model'])
        seen = read(call, config, batch, goal)
        there = goal.there(batch).astype(jnp.float32)
        within = functools.partial(nats, call, config, batch, seen, goal=goal, head=now['task'])
        if layerwise:
            logits, decisions, loss = passes(call, now, trained['policy'], batch, seen)(likeliest)
        else:
            logits = scored(trained['policy'], seen)
            decisions = decided.limited(drawn(logits, of_texts(seed, batch)) if random else likeliest(logits))
            loss = within(plan_of(decisions, seen.context))
        of_row = {
            'loss': loss,
            'full_loss': within(plans.full(len(there), sizes)),
            'cost': plan_cost.expected(priced(seen), chances_of(decisions), config.decoder_only),
            'entropy': entropy(logits, decided),
            'rows': jnp.ones_like(there),
            'encoder_runs': decisions.encoder,
            'decoder_runs': decisions.decoder,
            'token_choices': jax.nn.one_hot(decisions.tokens, len(TOKEN_CHOICES)),
        }
        return {name: jnp.tensordot(there, each.astype(jnp.float32), 1) for name, each in of_row.items()}

    def report(sums):
        means = {name: each / sums['rows'] for name, each in sums.items() if name != 'rows'}
        excess = means['loss'] - means['full_loss'] - tolerance
        runs = {name: means.pop(name) for name in ('encoder_runs', 'decoder_runs')}
        return {
            **{name: float(means[name]) for name in ('loss', 'full_loss', 'cost', 'entropy')},
            'objective': float(means['cost'] + ABOVE * max(0.0, excess)),
            'token_choices': means['token_choices'].tolist(),
            **{
                f'{stack}_{part}': runs[f'{stack}_runs'][:, place].tolist()
                for stack in ('encoder', 'decoder')
                for place, part in enumerate(('attention', 'feed_forward'))
            },
        }

    def export(trained, directory):
        head = fed_ones(policy, trained['policy']) if constant else trained['policy']
        now = trained.get('backbone', whole)
        made = {'policy': decided_alone(head, decided), **({} if task is None else {'task': now['task']})}
        native.save(
            directory,
            config,
            now['model'],
            tokenizer,
            heads={**others, **made},
            generation=generation,
            task=task,
            overwrite=True,
        )

    start = {'policy': head} if backbone is None else {'policy': head, 'backbone': whole}
    return Stage(
        params=start,
        frozen=whole if backbone is None else {},
        gradients=gradients,
        measure=measure,
        report=report,
        metrics=('objective', 'loss', 'cost'),
        export=export,
        optimizer=lambda optimizer: optimizers(optimizer, backbone, rule, tolerance, dropout_steps),
        watch=watched,
    )


def _check_layerwise(sizes: Sizes, estimator: Estimator, exact: bool, unread: bool) -> None:
    """Raises ValueError for what does not go together with deciding layer by layer."""
    if sizes.encoder_layers + sizes.layers < 2:
        raise ValueError('layerwise is True, and the only layer of this model always runs; expected False')
    if inspect.unwrap(getattr(estimator, 'func', estimator)) is straight_through:
        raise ValueError(
            'layerwise is True, and straight_through is of decisions made at once; expected self_critical or leave_one_out'
        )
    if exact:
        raise ValueError(
            'exact_cost is True, and the cost of decisions that depend on draws has no exact gradient; expected False or None'
        )
    if unread:
        raise ValueError('constant and random policies read nothing, and layerwise is of what is read; choose one')


def fed_ones(policy: Policy, head: dict) -> dict:
    """The policy that says of every input what this one says of ones."""
    ones = jnp.ones((1, 1, head['scale'].shape[0])), jnp.ones((1, 1), bool)
    return unread(cast(Logits, policy.apply({'params': head}, *ones)), head['scale'].shape[0])
