"""What a model is trained for, as a policy's stage sees it: which tokens follow, or what a task asks of a text."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp

from calm_jax.models.config import TransformerConfig
from calm_jax.models.task_head import task_scores
from calm_jax.tasks import Task
from calm_jax.training import losses
from calm_jax.training.task import of_positions, task_losses
from calm_jax.training.train_state import Batch
from calm_jax.types import Array


class NextTokens:
    """The tokens of a target; a decoder-only model reads a prompt in full before them.

    reads: whether the decoder only goes over a text, and says nothing.
    """

    reads: ClassVar[bool] = False

    def there(self, batch: Batch) -> Array:
        """Rows that count, bool [B]."""
        return jnp.any(batch['decoder_loss_weights'] > 0, axis=1)

    def new_tokens(self, batch: Batch) -> Array:
        """How many tokens the decoder goes over under a plan, int32 [B]."""
        return jnp.sum(batch['decoder_loss_weights'] > 0, axis=1, dtype=jnp.int32)

    def prompt(self, batch: Batch) -> Array:
        """Which tokens of a decoder-only model's batch are the prompt, bool [B, T]; what predicts the target's first token is
        the last of it."""
        weights = batch['decoder_loss_weights']
        return ((jnp.cumsum(weights, axis=1) - weights) == 0) & self.there(batch)[:, None]

    def looked_at(self, states: Array, batch: Batch) -> tuple[Array, Array]:
        """(states of the decoder behind an encoder that a policy which decides layer by layer reads, which of them are there):
        the first position's."""
        return states[:, :1], jnp.ones_like(states[:, :1, 0], bool)

    def losses(self, call: Callable, head: Any, states: Array, batch: Batch) -> Array:
        """Nats of each row, per target token, float32 [B], of the last states [B, T, D]."""
        weights = batch['decoder_loss_weights']
        each = losses.token_losses(call(states, method='unembed'), batch['decoder_target_tokens']).nll
        return jnp.sum(each * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1)


class TaskGoal:
    """A label, or first and last token of an answer, of a text that the decoder goes over; functions as `NextTokens`."""

    reads: ClassVar[bool] = True

    def __init__(self, task: Task, config: TransformerConfig):
        self.task, self.config = task, config

    def there(self, batch: Batch) -> Array:
        return batch['task_weights'] > 0

    def new_tokens(self, batch: Batch) -> Array:
        return jnp.sum(batch['decoder_mask'], axis=1, dtype=jnp.int32) * self.there(batch)

    def prompt(self, batch: Batch) -> Array:
        return batch['decoder_mask'] & self.there(batch)[:, None]

    def looked_at(self, states: Array, batch: Batch) -> tuple[Array, Array]:
        """(all that a policy which decides layer by layer reads of the decoder, which of it is there)."""
        return states, batch['decoder_mask']

    def losses(self, call: Callable, head: Any, states: Array, batch: Batch) -> Array:
        states = of_positions(self.task, self.config, states, batch)
        return task_losses(self.task, task_scores(head, call(states, method='top')), batch)


Goal = NextTokens | TaskGoal
