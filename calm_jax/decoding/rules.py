"""What may not be said: rules over the tokens before, applied to scores ahead of any choice."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from calm_jax.options import option
from calm_jax.pytrees import pytree
from calm_jax.types import Array


@pytree
class Rules:
    """Rules with the meaning that they have in Hugging Face transformers.

    no_repeat_ngram_size: no run of so many tokens occurs twice, the start token or prompt counted; 0 is off.
    min_new_tokens: no end of sequence before so many tokens; 0 is off.
    forced_first_id, forced_last_id: the first token, and the last that the limit leaves room for; −1 is off.

    In a decode state each is an int32 [B], another number for each row if need be, or None where no row has the rule.
    Raises ValueError for negative numbers that do not mean off.
    """

    no_repeat_ngram_size: Any = option('no N tokens in a row occur twice (0: off)', default=0, metavar='N')
    min_new_tokens: Any = option('no end of sequence before T tokens (0: off)', default=0, metavar='T')
    forced_first_id: Any = option('the first token (-1: free)', default=-1, metavar='ID')
    forced_last_id: Any = option('the last token that the limit leaves room for (-1: free)', default=-1, metavar='ID')

    def __post_init__(self):
        for name, off in _OFF.items():
            value = getattr(self, name)
            if isinstance(value, int) and value < off:
                raise ValueError(f'{name} is {value}; expected {"0 (off) or more" if off == 0 else "a token, or −1 (off)"}')

    def check(self, vocabulary: int) -> None:
        """Raises ValueError for an id that the vocabulary does not have."""
        for name in ('forced_first_id', 'forced_last_id'):
            if getattr(self, name) >= vocabulary:
                raise ValueError(f'{name} is {getattr(self, name)}; the vocabulary has {vocabulary} ids')

    def resolved(self) -> 'Rules':
        """The rules with None for those that are off."""
        values = {name: getattr(self, name) for name in _OFF}
        return Rules(
            **{name: None if isinstance(value, int) and value == _OFF[name] else value for name, value in values.items()}
        )

    def by_row(self, rows: int) -> 'Rules | None':
        """The rules that are on as int32 [B]; None where none is."""
        if not jax.tree.leaves(self):
            return None
        return jax.tree.map(lambda value: jnp.broadcast_to(jnp.asarray(value, jnp.int32), (rows,)), self)

    def __call__(
        self,
        scores: Float[Array, 'B V'],
        history: Int[Array, 'B H'],
        length: Int[Array, 'B'],
        position: Int[Array, 'B'],
        limit: Int[Array, 'B'],
        eos_ids: tuple[int, ...],
    ) -> Float[Array, 'B V']:
        """Scores with −∞ where a token may not be said.

        history: the start token or prompt and what has been said, anything after; length: how many of them there are.
        position: generated tokens so far; limit: the most of them.
        """
        vocabulary = scores.shape[-1]
        if self.no_repeat_ngram_size is not None:
            scores = jnp.where(repeats(history, length, self.no_repeat_ngram_size, vocabulary), -jnp.inf, scores)
        if self.min_new_tokens is not None:
            ends = jnp.zeros(vocabulary, bool).at[jnp.asarray(eos_ids)].set(True)
            scores = jnp.where(ends & (position < self.min_new_tokens)[:, None], -jnp.inf, scores)
        for token, place in ((self.forced_first_id, 0), (self.forced_last_id, limit - 1)):
            if token is not None:
                others = jnp.where(jnp.arange(vocabulary) == token[:, None], 0.0, -jnp.inf)
                scores = jnp.where(((position == place) & (token >= 0))[:, None], others, scores)
        return scores


_OFF = {'no_repeat_ngram_size': 0, 'min_new_tokens': 0, 'forced_first_id': -1, 'forced_last_id': -1}


def repeats(history: Int[Array, 'B H'], length: Int[Array, 'B'], size: Int[Array, 'B'], vocabulary: int) -> Bool[Array, 'B V']:
    """Tokens that would complete a run of `size` tokens (0: none) that has occurred among the first `length` of the history."""
    rows, most = history.shape
    place = jnp.arange(most)

    def follows(k, same):
        # Whether history[i − 1 − k] is history[length − 1 − k], for every i.
        last = jnp.take_along_axis(history, jnp.maximum(length - 1 - k, 0)[:, None], axis=1)
        shifted = jnp.roll(history, k + 1, axis=1)
        return same & ((shifted == last) | (k >= size - 1)[:, None])

    begins = (place >= (size - 1)[:, None]) & (place < length[:, None]) & (size > 0)[:, None]
    ends = jax.lax.fori_loop(0, jnp.max(size) - 1, follows, begins)
    banned = jnp.where(ends, history, vocabulary)  # a column past the end for those that ban nothing
    return jnp.zeros((rows, vocabulary + 1), bool).at[jnp.arange(rows)[:, None], banned].set(True)[:, :vocabulary]
