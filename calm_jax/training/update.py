"""One update of a training run: what a stage makes of its batches, summed, and the optimizer's step on the sum."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding
from jax.typing import ArrayLike

from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_state import Batch, Stage, TrainState

Made = tuple[dict[str, jax.Array], Any]
"""What `Stage.gradients` makes of a batch, or the sum of that over several."""


def batch_gradients(stage: Stage, seed: int, state: TrainState, frozen: Any, batch: Batch, index: ArrayLike) -> Made:
    """What the stage makes of one batch of an update, its number in it `index`, from 0; dropout keys are of
    fold_in(fold_in(seed, step), index)."""
    # 'rbg' bits are cheaper than threefry's, to draw and above all to compile: a mask per sub-layer adds up.
    step_key = jax.random.fold_in(jax.random.key(seed, impl='rbg'), state.step)
    return stage.gradients(state.params, frozen, batch, jax.random.fold_in(step_key, index))


def take_step(stage: Stage, optimizer: Optimizer, state: TrainState, made: Made) -> tuple[TrainState, dict[str, jax.Array]]:
    """The step on the sum of what was made of an update's batches: its gradient is that of Σ loss / Σ weight over all of their
    rows, as if they were one batch.

    Returns the next state and {'loss', 'grad_norm', 'learning_rate'}, with what else the stage sums and watches, float32 [].
    """
    sums, grads = dict(made[0]), made[1]
    weight = jnp.maximum(sums.pop('weight'), 1e-9)
    means, grads = jax.tree.map(lambda each: each / weight, (sums, grads))
    transformation = optax.with_extra_args_support(stage.optimizer(optimizer))
    updates, optimizer_state = transformation.update(grads, state.optimizer, state.params, means=means)
    params = optax.apply_updates(state.params, updates)
    metrics = {**means, **stage.watch(optimizer_state)}
    metrics |= {'grad_norm': optax.tree.norm(grads), 'learning_rate': optimizer.rate(state.step)}
    return state._replace(step=state.step + 1, params=params, optimizer=optimizer_state), metrics


class Update:
    """(state, frozen, the batches of an update) → (next state, metrics), compiled.

    One program for each shape of batches. Where an update has several, their number is `accumulate`, these programs only add to
    a sum, which takes the room of one more copy of the gradients, and one more program takes the step. The state is donated.
    """

    def __init__(self, stage: Stage, optimizer: Optimizer, seed: int, accumulate: int, everywhere: Sharding, by_row: Sharding):
        gradients = functools.partial(batch_gradients, stage, seed)
        take = functools.partial(take_step, stage, optimizer)

        def whole(state, frozen, batch):
            return take(state, gradients(state, frozen, batch, 0))

        def add(made, state, frozen, batch, index):
            return jax.tree.map(jnp.add, made, gradients(state, frozen, batch, index))

        self._alone, self._gradients = accumulate == 1, gradients
        self._compiled = functools.partial(jax.jit, out_shardings=everywhere)
        read = everywhere, everywhere, by_row
        self._whole = self._compiled(whole, in_shardings=read, donate_argnums=0)
        self._add = self._compiled(add, in_shardings=(everywhere, *read, everywhere), donate_argnums=0)
        self._take = self._compiled(take, in_shardings=everywhere, donate_argnums=0)
        self._zeros: Callable[[], Made] | None = None

    def __call__(self, state: TrainState, frozen: Any, batches: Iterable[Batch]) -> tuple[TrainState, dict[str, jax.Array]]:
        if self._alone:
            (batch,) = batches
            return self._whole(state, frozen, batch)
        made = None
        for index, batch in enumerate(batches):
            made = self._nothing(state, frozen, batch) if made is None else made
            made = self._add(made, state, frozen, batch, np.int32(index))
        return self._take(state, made)

    def _nothing(self, state: TrainState, frozen: Any, batch: Batch) -> Made:
        """The sum of no batches, whose shapes are the same for all."""
        if self._zeros is None:
            shapes = jax.eval_shape(self._gradients, state, frozen, batch, 0)
            self._zeros = self._compiled(lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
        return self._zeros()
