"""Which token a row says: its choice under its rules, over all ids or over those that a pruned vocabulary kept."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float, Int

from calm_jax.decoding.choice import Choice, Greedy, likeliest_id
from calm_jax.decoding.packing import taken
from calm_jax.decoding.rules import DROPPED, Rules, Spoken
from calm_jax.types import Array


class Chooser(NamedTuple):
    """choice: of the decoding. vocab_size, eos_ids: of the model. keys: [B], for draws. rules: of each row, and spoken: what
    they look at; None without rules. They are about what is said; a measure looks at the logits as the model has them."""

    choice: Choice
    vocab_size: int
    eos_ids: tuple[int, ...]
    keys: Array
    rules: Rules | None
    spoken: Spoken | None

    def __call__(self, logits: Float[Array, 'B ids'], ids: Int[Array, 'B ids'] | None = None) -> Int[Array, ' B']:
        """The token of each row, of logits over all ids or over these."""
        if ids is not None and self.rules is None and isinstance(self.choice, Greedy):
            return likeliest_id(logits, ids)
        if ids is not None:
            # Rules and draws are about all ids: the same draw falls on the same token where that was not dropped.
            rows = logits.shape[0]
            logits = jnp.full((rows, self.vocab_size), DROPPED).at[jnp.arange(rows)[:, None], ids].set(logits)
        if self.rules is not None and self.spoken is not None:
            logits = self.rules(logits, self.spoken, self.eos_ids)
        return self.choice(logits, self.keys)

    def of_rows(self, rows: Int[Array, ' w'], count: int) -> 'Chooser':
        """That of some of `count` rows."""
        keys, rules, spoken = taken((self.keys, self.rules, self.spoken), rows, count)
        return self._replace(keys=keys, rules=rules, spoken=spoken)
