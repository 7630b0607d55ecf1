"""Which token a row says: its choice under its rules, over all ids or over those that a pruned vocabulary kept."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float, Int

from calm_jax.decoding.choice import Choice, Greedy, likeliest_id
from calm_jax.decoding.packing import taken
from calm_jax.decoding.rules import Rules
from calm_jax.types import Array

# The logit of ids that pruning has dropped: below all others, above those that a rule forbids.
DROPPED = -1e30


class Spoken(NamedTuple):
    """What rules look at, rows first. history: int32 [B, H], the prompt and what has been said, anything after; length: int32
    [B], how many of them there are; position, limit: as `Rules` has them."""

    rules: Rules
    history: Array
    length: Array
    position: Array
    limit: Array


class Chooser(NamedTuple):
    """choice: of the decoding. vocab_size, eos_ids: of the model. keys: [B], for draws. spoken: None without rules."""

    choice: Choice
    vocab_size: int
    eos_ids: tuple[int, ...]
    keys: Array
    spoken: Spoken | None

    def __call__(self, logits: Float[Array, 'B ids'], ids: Int[Array, 'B ids'] | None = None) -> Int[Array, ' B']:
        """The token of each row, of logits over all ids or over these."""
        if ids is not None and self.spoken is None and isinstance(self.choice, Greedy):
            return likeliest_id(logits, ids)
        if ids is not None:
            # Rules and draws are about all ids: the same draw falls on the same token where that was not dropped.
            rows = logits.shape[0]
            logits = jnp.full((rows, self.vocab_size), DROPPED).at[jnp.arange(rows)[:, None], ids].set(logits)
        if self.spoken is not None:
            rules, history, length, position, limit = self.spoken
            logits = rules(logits, history, length, position, limit, self.eos_ids)
        return self.choice(logits, self.keys)

    def of_rows(self, rows: Int[Array, ' w'], count: int) -> 'Chooser':
        """That of some of `count` rows."""
        return self._replace(keys=taken(self.keys, rows, count), spoken=taken(self.spoken, rows, count))
