"""Whether values are of the types that a dataclass or a signature declares, in one-line errors."""

import collections.abc
import dataclasses
import numbers
import os
import types
import typing
from typing import Any

_EXPECTED = {
    int: 'a whole number',
    float: 'a number',
    str: 'a text',
    bool: 'True or False',
    type(None): 'None',
    os.PathLike: 'a path',
}


def check_types(values: Any, prefix: str = '') -> None:
    """Raises ValueError for a field of a dataclass whose value is not of its type; the message starts with `prefix`."""
    for field in dataclasses.fields(values):
        check_type(prefix + field.name, getattr(values, field.name), field.type)


def check_type(name: str, value: Any, wanted: Any) -> None:
    """Raises ValueError unless a value is of a type: int, float, str, bool, None, a path, a sequence or tuple of one of
    them or of tuples, a Literal, or a union of those. Other types are not checked."""
    kinds = parts(wanted)
    if type(value) in kinds:
        return
    if all(expected(kind) for kind in kinds) and not any(_is(value, kind) for kind in kinds):
        words = dict.fromkeys(str(expected(kind)) for kind in kinds if not (kind is str and os.PathLike in kinds))
        raise ValueError(f'{name} is {value!r}; expected {" or ".join(words)}')


def check_seed(name: str, value: Any) -> None:
    """Raises ValueError unless a value is a seed: 0 ≤ seed < 2**32, what JAX's and NumPy's generators both take."""
    check_type(name, value, int)
    if not 0 <= value < 2**32:
        raise ValueError(f'{name} is {value}; expected a whole number from 0 to {2**32 - 1}')


def parts(wanted: Any) -> tuple:
    """The types of a union, or the one type."""
    return typing.get_args(wanted) if typing.get_origin(wanted) in (types.UnionType, typing.Union) else (wanted,)


def expected(kind: Any) -> str | None:
    """'a whole number': a type in words; None for one that is not checked."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ' or '.join(map(repr, inner))
    if origin in (tuple, collections.abc.Sequence):
        if typing.get_origin(inner[0]) is tuple:
            return 'a list of lists'
        return f'a list of {_EXPECTED[inner[0]].split()[-1]}s' if inner[0] in _EXPECTED else None
    return _EXPECTED.get(kind)


def _is(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value in inner
    if origin in (tuple, collections.abc.Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        kinds = inner if inner[-1] is not ... and origin is tuple else inner[:1] * len(value)
        return len(value) == len(kinds) and all(_is(each, kind) for each, kind in zip(value, kinds))
    if kind in (int, float):
        return isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
    return isinstance(value, kind)
