"""The optimizers of a policy and its model: a rule's direction of loss and cost, and what is remembered of both."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from calm_jax.training.constrained import Rule, squared_norm
from calm_jax.training.optimizer import Optimizer
from calm_jax.types import Array

REMEMBERED = 0.95  # of the running difference to the full plan's loss, at each step
AVERAGED = 0.99  # of the running mean of the loss's gradient


class Noise(NamedTuple):
    """Running means of a gradient, pulled to 0 at first: mean, of itself, like parameters; square: float32 [], of its squared
    norm."""

    mean: Any
    square: Array

    def after(self, gradient: Any) -> 'Noise':
        """With one more gradient."""

        def running(old, new):
            return AVERAGED * old + (1 - AVERAGED) * new

        return Noise(jax.tree.map(running, self.mean, gradient), running(self.square, squared_norm(gradient)))

    def ratio(self, count: Array) -> Array:
        """float32 [], the mean squared norm over the squared norm of the mean, after `count` gradients: 1 where they are all
        alike, about (1 + m) / (1 − m) at most, m = `AVERAGED`, where they have nothing in common; 0 where all were 0."""
        weight = 1 - AVERAGED ** count.astype(jnp.float32)
        return self.square * weight / jnp.maximum(squared_norm(self.mean), jnp.finfo(jnp.float32).tiny)


class PolicyState(NamedTuple):
    """Of the optimizers of a policy and its model. excess: float32 [], the running difference of the drawn plans' loss and the
    full plan's, NaN before the first step; above_bound: float32 [], by how much that is above the tolerance, q − c.
    loss_norm, cost_norm: float32 [], of the last gradients of both objectives by the policy; noise: of the loss's."""

    step: Array
    rule: Any
    policy: Any
    backbone: Any
    excess: Array
    above_bound: Array
    loss_norm: Array
    cost_norm: Array
    noise: Noise


def optimizers(
    policy: Optimizer, backbone: Optimizer | None, rule: Rule, tolerance: float, warmup: int
) -> optax.GradientTransformationExtraArgs:
    """The step of both: `update({'loss', 'cost', …}, state, params, means={'loss', 'full_loss', …})`.

    The bound of the loss is the full plan's and `tolerance` nats; how far above it the loss is, is a running mean of both on
    the same batches. A gradient of what entropy lacks is added to the rule's direction. In the first `warmup` steps the policy
    stays as it was, and the model learns under its draws.
    """
    of_rule, of_policy, of_backbone = rule.build(), policy.build(), None if backbone is None else backbone.build()

    def init(params):
        return PolicyState(
            step=jnp.zeros((), jnp.int32),
            rule=of_rule.init(params['policy']),
            policy=of_policy.init(params['policy']),
            backbone=None if of_backbone is None else of_backbone.init(params['backbone']),
            excess=jnp.full((), jnp.nan, jnp.float32),
            above_bound=jnp.full((), jnp.nan, jnp.float32),
            loss_norm=jnp.zeros((), jnp.float32),
            cost_norm=jnp.zeros((), jnp.float32),
            noise=Noise(jax.tree.map(jnp.zeros_like, params['policy']), jnp.zeros((), jnp.float32)),
        )

    def update(updates: Any, state: PolicyState, params: Any = None, **extra: Any) -> tuple[Any, PolicyState]:
        means = extra['means']
        now = means['loss'] - means['full_loss']
        excess = jnp.where(jnp.isnan(state.excess), now, REMEMBERED * state.excess + (1 - REMEMBERED) * now)
        above_bound = excess - tolerance
        direction, followed = of_rule.update(updates['loss'], state.rule, cost=updates['cost'], excess=above_bound)
        if 'entropy' in updates:
            direction = jax.tree.map(jnp.add, direction, updates['entropy'])
        steps, learned = of_policy.update(direction, state.policy, params['policy'])
        waits = state.step < warmup
        made = {'policy': jax.tree.map(lambda step: jnp.where(waits, 0, step), steps)}
        trained = state.backbone
        if of_backbone is not None:
            made['backbone'], trained = of_backbone.update(updates['backbone'], state.backbone, params['backbone'])
        kept = jax.tree.map(lambda new, old: jnp.where(waits, old, new), (followed, learned), (state.rule, state.policy))
        rule_state, policy_state = kept
        return made, PolicyState(
            step=state.step + 1,
            rule=rule_state,
            policy=policy_state,
            backbone=trained,
            excess=excess,
            above_bound=above_bound,
            loss_norm=jnp.sqrt(squared_norm(updates['loss'])),
            cost_norm=jnp.sqrt(squared_norm(updates['cost'])),
            noise=state.noise.after(updates['loss']),
        )

    return optax.GradientTransformationExtraArgs(init, cast(Any, update))


def watched(state: PolicyState) -> dict[str, Array]:
    """What is logged of the optimizers, float32 [] each."""
    return {
        'multiplier': state.rule.multiplier,
        'excess': state.excess,
        'above_bound': state.above_bound,
        'loss_grad_norm': state.loss_norm,
        'cost_grad_norm': state.cost_norm,
        'loss_grad_noise': state.noise.ratio(state.step),
    }
