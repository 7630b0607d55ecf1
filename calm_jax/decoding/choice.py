"""From a distribution to a token: greedy, or drawn with keys that belong to the example and never to its batch."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key, Shaped

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
    """A draw from softmax(logits / temperature), restricted to what every filter that is on leaves of it, one after the other
    in the order of Hugging Face transformers 5 (`generation/logits_process.py`); the likeliest token is always left. Numbers
    but top_k change without compiling again.

    top_h: of the 100 likeliest tokens as many as keep this share of their entropy (0: all). top_k: so many of the likeliest
    (0: all). top_p: the least of the likeliest whose probability reaches it (1: all; Holtzman et al. 2020). min_p: those at
    least this times as likely as the likeliest (0: all). typical_p: the least of those nearest to the expected surprise whose
    probability reaches it (1: all; Meister et al. 2022). epsilon_cutoff: those of at least this probability; eta_cutoff: of
    this, or less where many are likely (0: all; Hewitt et al. 2022).

    Raises ValueError for a temperature that is not positive, a negative top_k, a top_p or typical_p outside (0, 1], or another
    number outside [0, 1].
    """

    temperature: float | Array = option('0 decodes greedily (the default), else samples', default=1.0, metavar='X', selects=0.0)
    top_k: int = option('sample from the K likeliest tokens (0: all)', default=0, metavar='K')
    top_p: float | Array = option('sample from the likeliest tokens of probability P', default=1.0, metavar='P')
    min_p: float | Array = option(
        'sample from tokens at least P times as likely as the likeliest (0: all)', default=0.0, metavar='P'
    )
    typical_p: float | Array = option('sample from the most typical tokens of probability P', default=1.0, metavar='P')
    epsilon_cutoff: float | Array = option('sample from tokens of at least probability P (0: all)', default=0.0, metavar='P')
    eta_cutoff: float | Array = option(
        'sample from tokens of at least probability P, or less where many are likely (0: all)', default=0.0, metavar='P'
    )
    top_h: float | Array = option(
        'sample from the likeliest tokens of this share of the entropy (0: all)', default=0.0, metavar='H'
    )

    def __post_init__(self):
        if isinstance(self.temperature, int | float) and not self.temperature > 0:
            raise ValueError(f'temperature is {self.temperature}; expected a positive number (greedy decoding samples nothing)')
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(f'top_k is {self.top_k!r}; expected 0 (all tokens) or more')
        for name, (off, _) in FILTERS.items():
            value = getattr(self, name)
            if isinstance(value, int | float) and not (0 <= value <= 1 and (value > 0 or off == 0)):
                raise ValueError(f'{name} is {value}; expected a number in {"[" if off == 0 else "("}0, 1]')

    def resolved(self):
        temperature: Any = None if isinstance(self.temperature, int | float) and self.temperature == 1 else self.temperature
        filters: dict[str, Any] = {name: getattr(self, name) for name in FILTERS}
        for name, (off, _) in FILTERS.items():
            filters[name] = None if isinstance(filters[name], int | float) and filters[name] == off else filters[name]
        return Sampled(temperature, self.top_k, **filters)

    def __call__(self, logits: Float[Array, 'B V'], keys: Key[Array, 'B']) -> Int[Array, 'B']:
        return jax.vmap(jax.random.categorical)(keys, self.filtered(logits)).astype(jnp.int32)

    def filtered(self, logits: Float[Array, 'B V']) -> Float[Array, 'B V']:
        """The logits that are drawn from, −∞ where a filter leaves a token out."""
        if self.temperature is not None:
            logits = logits / self.temperature
        logits = self._left(logits, 'top_h')
        if self.top_k:
            count = min(self.top_k, logits.shape[-1])
            logits = jnp.where(logits < jax.lax.top_k(logits, count)[0][:, -1:], -jnp.inf, logits)
        for name in ('top_p', 'min_p', 'typical_p', 'epsilon_cutoff', 'eta_cutoff'):
            logits = self._left(logits, name)
        return logits

    def _left(self, logits: Float[Array, 'B V'], name: str) -> Float[Array, 'B V']:
        """What one filter leaves."""
        number = getattr(self, name)
        return logits if number is None else jnp.where(FILTERS[name][1](logits, number), logits, -jnp.inf)


@pytree(static=('size', 'early_stopping', 'renormalize_logits'))
class Beam(Choice):
    """The likeliest sequence that a few running ones lead to.

    size: K sequences run side by side. length_penalty: finished sequences are compared by log-probability / lengthᵖ.
    early_stopping: True ends a row when it has K finished ones; False, when no running one scores higher at its present length;
    'never', when none could at any length. renormalize_logits: rules change scores, which are made log-probabilities again.

    Raises ValueError for a size below 1 and another kind of early stopping.
    """

    size: int = option('beam search with K sequences (1: none)', default=4, flag='num_beams', metavar='K', selects=1)
    length_penalty: float | Array = option('beam search compares log-probability / length^P', default=1.0, metavar='P')
    early_stopping: bool | Literal['never'] = option(
        'beam search ends a row with K finished sequences, or never before none could be better', default=False, metavar='WHEN'
    )
    renormalize_logits: bool = option(
        'beam search makes log-probabilities of scores again after rules', default=False, metavar='BOOL'
    )

    def __post_init__(self):
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f'num_beams is {self.size!r}; expected 1 or more')
        if self.early_stopping not in (True, False, 'never'):
            raise ValueError(f'early_stopping is {self.early_stopping!r}; expected True, False or "never"')


def nucleus(logits: Float[Array, 'B V'], top_p: Any) -> Bool[Array, 'B V']:
    """Tokens in falling order until their probability reaches top_p. From top_p = 1 on: all of them."""
    descending = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    floor = jnp.min(jnp.where(before < top_p, descending, jnp.inf), axis=-1, keepdims=True)
    return (logits >= floor) | (jnp.asarray(top_p) >= 1)


def likely(logits: Float[Array, 'B V'], min_p: Any) -> Bool[Array, 'B V']:
    """Tokens at least min_p times as likely as the likeliest."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    return probabilities >= min_p * jnp.max(probabilities, axis=-1, keepdims=True)


def typical(logits: Float[Array, 'B V'], typical_p: Any) -> Bool[Array, 'B V']:
    """Tokens in order of how far their surprise is from the expected one, until their probability reaches typical_p. From
    typical_p = 1 on: all of them."""
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    distance = jnp.abs(-log_probabilities - _entropy(log_probabilities))
    order = jnp.argsort(distance, axis=-1)
    cumulative = jnp.cumsum(jnp.exp(jnp.take_along_axis(log_probabilities, order, axis=-1)), axis=-1)
    last = jnp.minimum(jnp.sum(cumulative < typical_p, axis=-1, keepdims=True), logits.shape[-1] - 1)
    farthest = jnp.take_along_axis(distance, jnp.take_along_axis(order, last, axis=-1), axis=-1)
    # The nearest is left even where its distance, an infinity, is no number.
    nearest = jnp.arange(logits.shape[-1]) == order[:, :1]
    return (distance <= farthest) | nearest | (jnp.asarray(typical_p) >= 1)


def probable(logits: Float[Array, 'B V'], epsilon_cutoff: Any) -> Bool[Array, 'B V']:
    """Tokens of at least a probability, and the likeliest."""
    return (jax.nn.softmax(logits, axis=-1) >= epsilon_cutoff) | _likeliest(logits)


def expected(logits: Float[Array, 'B V'], eta_cutoff: Any) -> Bool[Array, 'B V']:
    """Tokens of at least a probability, or of its root times exp(−entropy) where that is less, and the likeliest."""
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    cutoff = jnp.asarray(eta_cutoff, logits.dtype)
    least = jnp.minimum(cutoff, jnp.sqrt(cutoff) * jnp.exp(-_entropy(log_probabilities)))
    return (jnp.exp(log_probabilities) >= least) | _likeliest(logits)


def weighty(logits: Float[Array, 'B V'], top_h: Any) -> Bool[Array, 'B V']:
    """Of the 100 likeliest tokens, in falling order, those up to which their entropy is no more than top_h of its whole; and
    the likeliest (Potraghloo et al. 2025). At top_h = 0: all of them."""
    descending = jax.lax.top_k(logits, min(100, logits.shape[-1]))[0]
    log_probabilities = jax.nn.log_softmax(descending, axis=-1)
    terms = _surprises(log_probabilities)
    within = jnp.cumsum(terms, axis=-1) <= top_h * jnp.sum(terms, axis=-1, keepdims=True)
    floor = jnp.min(jnp.where(within, descending, jnp.inf), axis=-1, keepdims=True)
    return (logits >= floor) | _likeliest(logits) | (jnp.asarray(top_h) <= 0)


def _likeliest(logits: Float[Array, 'B V']) -> Bool[Array, 'B V']:
    return logits == jnp.max(logits, axis=-1, keepdims=True)


def _surprises(log_probabilities: Float[Array, 'B V']) -> Float[Array, 'B V']:
    """−p log p; 0 of what cannot be."""
    return jnp.where(log_probabilities > -jnp.inf, -jnp.exp(log_probabilities) * log_probabilities, 0.0)


def _entropy(log_probabilities: Float[Array, 'B V']) -> Float[Array, 'B 1']:
    return jnp.sum(_surprises(log_probabilities), axis=-1, keepdims=True)


# What is off, and which tokens a filter leaves of logits [B, V] and its number.
FILTERS: dict[str, tuple[float, Callable[[Array, Any], Array]]] = {
    'top_h': (0.0, weighty),
    'top_p': (1.0, nucleus),
    'min_p': (0.0, likely),
    'typical_p': (1.0, typical),
    'epsilon_cutoff': (0.0, probable),
    'eta_cutoff': (0.0, expected),
}


def likeliest_id(logits: Float[Array, 'B K'], ids: Int[Array, 'B K']) -> Int[Array, 'B']:
    """The id of the largest of logits."""
    return jnp.take_along_axis(ids, argmax(logits)[:, None], axis=1)[:, 0]


def example_keys(key: Key[Array, ''], example_ids: Int[Array, 'B']) -> Key[Array, 'B']:
    """One key per row, of (key, example id): the same wherever the example stands in a batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example_ids)


def position_keys(keys: Key[Array, 'B'], position: Shaped[Array, 'B']) -> Key[Array, 'B']:
    """One key per row for one generated position."""
    return jax.vmap(jax.random.fold_in)(keys, position)
