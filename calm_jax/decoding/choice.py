"""From a distribution to a token: greedy, or drawn with keys that belong to the example and never to its batch."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key, Shaped

from calm_jax.argmax import argmax
from calm_jax.options import option
from calm_jax.pytrees import pytree
from calm_jax.types import Array


class Choice:
    """What every choice of tokens is. `resolved()` leaves out of the program what would change nothing."""

    def resolved(self) -> 'Choice':
        """Itself, with None for the parts that are off."""
        return self

    def __call__(self, logits: Float[Array, 'B V'], keys: Array) -> Int[Array, ' B']:
        """The token of each row; a beam search, which chooses among sequences, has none."""
        raise NotImplementedError


@pytree
class Greedy(Choice):
    """The most likely token."""

    def __call__(self, logits: Float[Array, 'B V'], keys: Any) -> Int[Array, 'B']:
        return argmax(logits)


@pytree(static=('top_k',))
class Sampled(Choice):
    """A draw from softmax(logits / temperature), restricted to the `top_k` likeliest tokens (0: all) and to the smallest
    set of tokens whose probability reaches `top_p` (1: all). Temperature and top_p change without compiling again.

    Raises ValueError for a temperature that is not positive, a negative top_k, or a top_p outside (0, 1].
    """

    temperature: float | Array = option('0 decodes greedily (the default), else samples', default=1.0, metavar='X', selects=0.0)
    top_k: int = option('sample from the K likeliest tokens (0: all)', default=0, metavar='K')
    top_p: float | Array = option('sample from the likeliest tokens of probability P', default=1.0, metavar='P')

    def __post_init__(self):
        if isinstance(self.temperature, int | float) and not self.temperature > 0:
            raise ValueError(f'temperature is {self.temperature}; expected a positive number (greedy decoding samples nothing)')
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(f'top_k is {self.top_k!r}; expected 0 (all tokens) or more')
        if isinstance(self.top_p, int | float) and not 0 < self.top_p <= 1:
            raise ValueError(f'top_p is {self.top_p}; expected a number in (0, 1]')

    def resolved(self):
        off = isinstance(self.top_p, int | float) and self.top_p >= 1
        temperature: Any = None if isinstance(self.temperature, int | float) and self.temperature == 1 else self.temperature
        top_p: Any = None if off else self.top_p
        return Sampled(temperature, self.top_k, top_p)

    def __call__(self, logits: Float[Array, 'B V'], keys: Key[Array, 'B']) -> Int[Array, 'B']:
        if self.temperature is not None:
            logits = logits / self.temperature
        if self.top_k:
            count = min(self.top_k, logits.shape[-1])
            logits = jnp.where(logits < jax.lax.top_k(logits, count)[0][:, -1:], -jnp.inf, logits)
        if self.top_p is not None:
            logits = jnp.where(logits < nucleus_floor(logits, self.top_p), -jnp.inf, logits)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


@pytree(static=('size', 'early_stopping'))
class Beam(Choice):
    """The likeliest sequence that a few running ones lead to.

    size: K sequences run side by side. length_penalty: finished sequences are compared by log-probability / lengthᵖ.
    early_stopping: True ends a row when it has K finished ones; False, when no running one scores higher at its present length;
    'never', when none could at any length.

    Raises ValueError for a size below 1 and another kind of early stopping.
    """

    size: int = option('beam search with K sequences (1: none)', default=4, flag='num_beams', metavar='K', selects=1)
    length_penalty: float | Array = option('beam search compares log-probability / length^P', default=1.0, metavar='P')
    early_stopping: bool | Literal['never'] = option(
        'beam search ends a row with K finished sequences, or never before none could be better', default=False, metavar='WHEN'
    )

    def __post_init__(self):
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f'num_beams is {self.size!r}; expected 1 or more')
        if self.early_stopping not in (True, False, 'never'):
            raise ValueError(f'early_stopping is {self.early_stopping!r}; expected True, False or "never"')


def nucleus_floor(logits: Float[Array, 'B V'], top_p: Any) -> Float[Array, 'B 1']:
    """The smallest logit inside the nucleus: tokens in falling order until their probability reaches top_p
    (Holtzman et al. 2020). From top_p = 1 on: all of them."""
    descending = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    floor = jnp.min(jnp.where(before < top_p, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(jnp.asarray(top_p) >= 1, -jnp.inf, floor)


def likeliest_id(logits: Float[Array, 'B K'], ids: Int[Array, 'B K']) -> Int[Array, 'B']:
    """The id of the largest of logits."""
    return jnp.take_along_axis(ids, argmax(logits)[:, None], axis=1)[:, 0]


def example_keys(key: Key[Array, ''], example_ids: Int[Array, 'B']) -> Key[Array, 'B']:
    """One key per row, of (key, example id): the same wherever the example stands in a batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example_ids)


def position_keys(keys: Key[Array, 'B'], position: Shaped[Array, 'B']) -> Key[Array, 'B']:
    """One key per row for one generated position."""
    return jax.vmap(jax.random.fold_in)(keys, position)
