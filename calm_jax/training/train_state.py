"""The state of a training run and one update of it."""

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
    """

    step: jax.Array
    params: Any
    optimizer: Any
    best: jax.Array


class Stage(NamedTuple):
    """What is trained, as functions; the loop around them is the same for every stage.

    Sums, not means, are returned, so that micro-batches and evaluation batches of unequal size add up.

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
        return TrainState(jnp.zeros((), jnp.int32), params, made, jnp.full((), jnp.nan, jnp.float32))

    return jax.jit(make)(params)


def update(
    stage: Stage, optimizer: Optimizer, micro_batches: int, seed: int, state: TrainState, frozen: Any, batch: Batch
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step on one batch; returns the next state and {'loss', 'grad_norm', 'learning_rate'}, with what else the
    stage sums and watches, float32 [] each.

    The gradient is that of Σ loss / Σ weight over the whole batch, accumulated over `micro_batches` equal parts
    of its rows one after another; their number changes memory and dropout draws, and nothing else. Dropout keys are
    fold_in(fold_in(seed, step), micro-batch).
    """
    # 'rbg' bits are cheaper than threefry's, to draw and above all to compile: a mask per sub-layer adds up.
    step_key = jax.random.fold_in(jax.random.key(seed, impl='rbg'), state.step)

    def of_part(index, rows):
        return stage.gradients(state.params, frozen, rows, jax.random.fold_in(step_key, index))

    if micro_batches == 1:
        made = of_part(0, batch)
    else:
        parts = jax.tree.map(lambda array: _micro_batches(array, micro_batches), batch)
        shapes = jax.eval_shape(of_part, 0, jax.tree.map(lambda array: array[0], parts))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        numbered = jnp.arange(micro_batches), parts
        made, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, of_part(*part)), None), zeros, numbered)
    sums, grads = made
    weight = jnp.maximum(sums.pop('weight'), 1e-9)
    means, grads = jax.tree.map(lambda each: each / weight, (sums, grads))
    step = optax.with_extra_args_support(stage.optimizer(optimizer))
    updates, optimizer_state = step.update(grads, state.optimizer, state.params, means=means)
    params = optax.apply_updates(state.params, updates)
    metrics = {**means, **stage.watch(optimizer_state)}
    metrics |= {'grad_norm': optax.tree.norm(grads), 'learning_rate': optimizer.rate(state.step)}
    return TrainState(state.step + 1, params, optimizer_state, state.best), metrics


def _micro_batches(array: jax.Array, count: int) -> jax.Array:
    """[B, ...] → [count, B / count, ...], every device keeping its own rows when B is sharded in contiguous parts."""
    return array.reshape(-1, count, *array.shape[1:]).swapaxes(0, 1)
