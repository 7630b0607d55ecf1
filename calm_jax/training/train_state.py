"""The state of a training run, and what is trained."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from calm_jax.training.optimizer import Optimizer

Batch = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything that the next step depends on, besides the batches and the seed.

    step: updates made so far; int32 [].
    params: what is trained.
    optimizer: optax's state.
    best: the best evaluation so far of the metric that picks the best checkpoint; float32 [], NaN before the first.
    waited: evaluations since that one, but for those that were not due; int32 [].
    """

    step: jax.Array
    params: Any
    optimizer: Any
    best: jax.Array
    waited: jax.Array


class Stage(NamedTuple):
    """What is trained, as functions; the loop around them is the same for every stage.

    Sums, not means, are returned, so that batches of unequal size add up, those of an update and those of an evaluation.

    params: initial values of what is trained.
    frozen: pytree of arrays that the functions read and nothing changes.
    gradients: (params, frozen, batch, key) → (sums over the batch, float32 [] each, 'loss' and 'weight' among them; what
        `optimizer` takes steps from, summed too). What is minimised is the ratio of loss and weight.
    measure: (params, frozen, batch) → dict of arrays, sums over the batch, without dropout.
    report: the dict of those sums over an evaluation set, as numpy → dict of numbers or lists of numbers, one per layer.
    metrics: names of the report's numbers, any of which can pick the best checkpoint.
    export: (params, directory) writes a checkpoint that decoding can load, in place of one that is there.
    optimizer: makes the transformation of a run's `Optimizer`; its update is given the means of the sums, as `means`.
    watch: of that transformation's state → numbers that are logged beside the means, float32 [] each.
    """

    params: Any
    frozen: Any
    gradients: Callable[[Any, Any, Batch, jax.Array], tuple[dict[str, jax.Array], Any]]
    measure: Callable[[Any, Any, Batch], dict[str, jax.Array]]
    report: Callable[[dict[str, np.ndarray]], dict[str, Any]]
    metrics: tuple[str, ...]
    export: Callable[[Any, Any], None]
    optimizer: Callable[[Optimizer], optax.GradientTransformation] = Optimizer.build
    watch: Callable[[Any], dict[str, jax.Array]] = lambda state: {}


def of_loss(loss: Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, jax.Array]]) -> Callable:
    """`Stage.gradients` of one loss: (params, frozen, batch, key) → (objective summed over the batch [], weight [])."""

    def gradients(params, frozen, batch, key):
        (objective, weight), grads = jax.value_and_grad(loss, has_aux=True)(params, frozen, batch, key)
        return {'loss': objective, 'weight': weight}, grads

    return gradients


def initial_state(stage: Stage, params: Any, optimizer: Optimizer) -> TrainState:
    """The state before the first update. `params` are copied: the loop donates its state's buffers."""

    def make(params):
        params = jax.tree.map(jnp.copy, params)
        made = stage.optimizer(optimizer).init(params)
        none = jnp.zeros((), jnp.int32)
        return TrainState(none, params, made, jnp.full((), jnp.nan, jnp.float32), none)

    return jax.jit(make)(params)
