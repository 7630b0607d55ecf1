"""From a distribution to a token: greedy, or drawn with keys that belong to the example and never to its batch."""

import jax
import jax.numpy as jnp

from calm_jax.argmax import argmax
from calm_jax.pytrees import pytree


@pytree
class Greedy:
    """The most likely token."""

    def __call__(self, logits, keys):
        return argmax(logits)


def likeliest_id(logits, ids):
    """The id int32 [B] of the largest of logits [B, K], whose ids are int32 [B, K]."""
    return jnp.take_along_axis(ids, argmax(logits)[:, None], axis=1)[:, 0]


@pytree(static=('temperature', 'top_k', 'top_p'))
class Sampled:
    """A draw from softmax(logits / temperature), restricted to the `top_k` likeliest tokens (0: all) and to the smallest
    set of tokens whose probability reaches `top_p` (1: all).

    Raises ValueError for a temperature that is not positive, a negative top_k, or a top_p outside (0, 1].
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f'temperature is {self.temperature}; expected a positive number (greedy decoding samples nothing)')
        if self.top_k < 0:
            raise ValueError(f'top_k is {self.top_k}; expected 0 (all tokens) or more')
        if not 0 < self.top_p <= 1:
            raise ValueError(f'top_p is {self.top_p}; expected a number in (0, 1]')

    def __call__(self, logits, keys):
        logits = logits / self.temperature
        if self.top_k:
            kept = min(self.top_k, logits.shape[-1])
            logits = jnp.where(logits < jax.lax.top_k(logits, kept)[0][:, -1:], -jnp.inf, logits)
        if self.top_p < 1:
            logits = jnp.where(logits < nucleus_floor(logits, self.top_p), -jnp.inf, logits)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def nucleus_floor(logits, top_p):
    """The smallest logit [B, 1] inside the nucleus: tokens in falling order until their probability reaches top_p
    (Holtzman et al. 2020)."""
    descending = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    return jnp.min(jnp.where(before < top_p, descending, jnp.inf), axis=-1, keepdims=True)


def example_keys(key, example_ids):
    """One key per row, of (key, example id): the same wherever the example stands in a batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example_ids)


def position_keys(keys, position):
    """One key per row for one generated position."""
    return jax.vmap(jax.random.fold_in)(keys, position)
