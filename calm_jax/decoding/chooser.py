"""Which token a row says: its choice under its rules, over all ids or over those that a pruned vocabulary kept."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from calm_jax.decoding.choice import Choice, Greedy, likeliest_id
from calm_jax.decoding.packing import taken
from calm_jax.decoding.rules import BOUND, DROPPED, Verdict
from calm_jax.types import Array


class Chooser(NamedTuple):
    """choice: of the decoding. vocab_size: of the model. keys: [B], for draws. verdict: of the rules; None without any. It is
    about what is said: a measure looks at the logits as the model has them."""

    choice: Choice
    vocab_size: int
    keys: Array
    verdict: Verdict | None

    def __call__(self, logits: Float[Array, 'B ids'], ids: Int[Array, 'B ids'] | None = None) -> Int[Array, ' B']:
        """The token of each row, of logits over all ids or over these."""
        if ids is None:
            return self._among_all(logits)
        if not isinstance(self.choice, Greedy):
            return self._among_all(self._spread(logits, ids))
        if self.verdict is None:
            return likeliest_id(logits, ids)
        # Where every row may say one of these, no other is looked at.
        left = self.verdict.at(ids)(logits, ids)
        return jax.lax.cond(
            jnp.all(jnp.max(left, axis=1) > -BOUND),
            lambda: likeliest_id(left, ids),
            lambda: self._among_all(self._spread(logits, ids)),
        )

    def _spread(self, logits: Float[Array, 'B ids'], ids: Int[Array, 'B ids']) -> Float[Array, 'B V']:
        """Logits of all ids: draws, and rules that force or forbid, are about all of them. The same draw falls on the same
        token where that was not dropped."""
        rows = logits.shape[0]
        return jnp.full((rows, self.vocab_size), DROPPED).at[jnp.arange(rows)[:, None], ids].set(logits)

    def _among_all(self, logits: Float[Array, 'B V']) -> Int[Array, ' B']:
        return self.choice(logits if self.verdict is None else self.verdict(logits), self.keys)

    def of_rows(self, rows: Int[Array, ' w'], count: int) -> 'Chooser':
        """That of some of `count` rows."""
        return self._replace(keys=taken(self.keys, rows, count), verdict=taken(self.verdict, rows, count))
