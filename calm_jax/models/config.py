"""The dimensions and choices of a transformer, named by meaning and never by family."""

import collections.abc
import dataclasses
import math
import numbers
import os
import types
import typing
from typing import Any

ACTIVATIONS = ('gelu', 'relu', 'silu', 'linear')
DTYPES = ('float32', 'bfloat16', 'float16', 'float64')

_EXPECTED = {
    int: 'a whole number', float: 'a number', str: 'a text', bool: 'True or False', type(None): 'None', os.PathLike: 'a path'}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Dimensions of an encoder-decoder transformer, under t5x's names.

    vocab_size: V, rows of the embedding; emb_dim: D; num_heads: N; head_dim: H; mlp_dim: F.
    mlp_activations: one name per input projection, their results multiplied (two names: a gated feed-forward).
    dropout_rate: share of activations dropped in training.
    norm_epsilon: added to the mean square before the root.
    relative_attention_num_buckets, relative_attention_max_distance: of the relative position bias; an encoder's quarter of
    the buckets and a decoder's half are exact distances, and the maximum lies beyond them.
    dtype: of activations; softmax, confidences and losses are float32 whatever it is.
    pad_id, eos_id, decoder_start_id: token ids; padding is masked in the source and ends nothing.
    Raises ValueError for a value of the wrong type, a dimension that is not positive, an unknown activation or dtype, a
    dropout_rate outside [0, 1), and buckets of relative positions that cannot be.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ('gelu', 'linear')
    dropout_rate: float = 0.0
    norm_epsilon: float = 1e-6
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dtype: str = 'float32'
    pad_id: int = 0
    eos_id: int = 1
    decoder_start_id: int = 0

    def __post_init__(self):
        check_types(self, 'TransformerConfig.')
        for name in ('vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers', 'num_decoder_layers'):
            if getattr(self, name) < 1:
                raise ValueError(f'TransformerConfig.{name} is {getattr(self, name)}; expected a positive number')
        if not self.mlp_activations:
            raise ValueError('TransformerConfig.mlp_activations is empty; expected a list of texts')
        object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))  # JSON and gin give lists
        for name in self.mlp_activations:
            if name not in ACTIVATIONS:
                raise ValueError(f'unknown activation {name!r}; known: {", ".join(ACTIVATIONS)}')
        if self.dtype not in DTYPES:
            raise ValueError(f'TransformerConfig.dtype is {self.dtype!r}; expected one of {", ".join(DTYPES)}')
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f'TransformerConfig.dropout_rate is {self.dropout_rate}; expected at least 0 and less than 1')
        if not 0 <= self.norm_epsilon < math.inf:
            raise ValueError(f'TransformerConfig.norm_epsilon is {self.norm_epsilon}; expected 0 or more')
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4:
            raise ValueError(f'TransformerConfig.relative_attention_num_buckets is {buckets}; expected 4 or more')
        if distance <= buckets // 2:
            raise ValueError(f'TransformerConfig.relative_attention_max_distance is {distance}; expected more than '
                             f'{buckets // 2}, half of the {buckets} buckets, which are exact distances')


def check_types(values: Any, prefix: str = '') -> None:
    """Raises ValueError for a field of a dataclass whose value is not of its type; the message starts with `prefix`."""
    for field in dataclasses.fields(values):
        check_type(prefix + field.name, getattr(values, field.name), field.type)


def check_type(name: str, value: Any, wanted: Any) -> None:
    """Raises ValueError unless a value is of a type: int, float, str, bool, None, a path, a sequence or tuple of one of
    them, a Literal, or a union of those. Other types are not checked."""
    kinds = parts(wanted)
    if all(expected(kind) for kind in kinds) and not any(_is(value, kind) for kind in kinds):
        said = dict.fromkeys(expected(kind) for kind in kinds if not (kind is str and os.PathLike in kinds))
        raise ValueError(f'{name} is {value!r}; expected {" or ".join(said)}')


def check_seed(name: str, value: Any) -> None:
    """Raises ValueError unless a value is a seed: 0 ≤ seed < 2**32, what JAX's and NumPy's generators both take."""
    check_type(name, value, int)
    if not 0 <= value < 2**32:
        raise ValueError(f'{name} is {value}; expected a whole number from 0 to {2**32 - 1}')


def parts(wanted: Any) -> tuple:
    """The types of a union, or the one type."""
    return typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)


def expected(kind: Any) -> str | None:
    """'a whole number': a type in words; None for one that is not checked."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ' or '.join(map(repr, inner))
    if origin in (tuple, collections.abc.Sequence):
        return f'a list of {_EXPECTED[inner[0]].split()[-1]}s' if inner[0] in _EXPECTED else None
    return _EXPECTED.get(kind)


def _is(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value in inner
    if origin in (tuple, collections.abc.Sequence):
        return isinstance(value, (list, tuple)) and all(_is(each, inner[0]) for each in value)
    if kind in (int, float):
        return isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
    return isinstance(value, kind)
