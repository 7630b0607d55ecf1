"""What may not be said: rules over the tokens before, applied to scores ahead of any choice."""

import jax
import jax.numpy as jnp

from calm_jax.pytrees import pytree


@pytree(static=('no_repeat_ngram_size', 'min_new_tokens', 'forced_first_id', 'forced_last_id'))
class Constraints:
    """Rules with the meaning that they have in Hugging Face transformers.

    no_repeat_ngram_size: no run of so many tokens occurs twice, the start token or prompt counted; 0 is off.
    min_new_tokens: no end of sequence before so many tokens; 0 is off.
    forced_first_id, forced_last_id: the first token, and the last that the limit leaves room for; −1 is off.
    """

    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    forced_first_id: int = -1
    forced_last_id: int = -1

    def __post_init__(self):
        for name in ('no_repeat_ngram_size', 'min_new_tokens'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} is {getattr(self, name)}; expected 0 (off) or more')
        for name in ('forced_first_id', 'forced_last_id'):
            if getattr(self, name) < -1:
                raise ValueError(f'{name} is {getattr(self, name)}; expected a token, or −1 (off)')

    def __call__(self, scores, history, before, step, length, eos_ids):
        """Scores float32 [B, V] with −∞ where a token may not be said.

        history: int32 [B, before + T], the start token or prompt and what has been said, anything after. before: of the
        history, what was there before the first generated token; step: int32, generated tokens so far; length: T.
        """
        if self.no_repeat_ngram_size:
            scores = jnp.where(_repeats(history, before + step, self.no_repeat_ngram_size, scores.shape[-1]), -jnp.inf, scores)
        if self.min_new_tokens:
            ends = jnp.zeros(scores.shape[-1], bool).at[jnp.asarray(eos_ids)].set(True)
            scores = jnp.where(ends & (step < self.min_new_tokens), -jnp.inf, scores)
        for token, place in ((self.forced_first_id, 0), (self.forced_last_id, length - 1)):
            if token >= 0:
                others = jnp.full(scores.shape[-1], -jnp.inf).at[token].set(0.0)
                scores = jnp.where(step == place, others, scores)
        return scores


def _repeats(history, said, size, vocabulary):
    """bool [B, V]: tokens that would complete a run of `size` tokens that has occurred; said: int32, tokens of history."""
    rows, length = history.shape
    starts = jnp.arange(max(length - size + 1, 0))
    runs = [history[:, i : i + len(starts)] for i in range(size)]
    same = jnp.broadcast_to(starts + size <= said, runs[0].shape)
    for i in range(size - 1):
        last = jax.lax.dynamic_slice_in_dim(history, jnp.maximum(said - size + 1 + i, 0), 1, axis=1)
        same = same & (runs[i] == last)
    banned = jnp.where(same, runs[-1], vocabulary)  # a column past the end for those that ban nothing
    return jnp.zeros((rows, vocabulary + 1), bool).at[jnp.arange(rows)[:, None], banned].set(True)[:, :vocabulary]
