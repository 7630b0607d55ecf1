"""Reading a published configuration: every attribute is understood or refused by name."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from calm_jax.models.config import TransformerConfig

_TYPES = {field.name: field.type for field in dataclasses.fields(TransformerConfig)}


def fields_of(
    published: dict[str, Any],
    attributes: Mapping[str, tuple[str, Any]],
    *,
    fixed: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
) -> dict[str, Any]:
    """Fields of TransformerConfig from a published configuration (a dict).

    attributes: {published name: (our field, what leaving it out means, or None where it may not be left out)}.
    fixed: {name: the only value supported, and what leaving it out means}.
    Raises ValueError for an attribute that is missing, no number, or not at its only value.
    """
    missing = [name for name, (_, default) in attributes.items() if default is None and published.get(name) is None]
    if missing:
        raise ValueError(f'attributes missing: {", ".join(missing)}')
    for name, value in dict(fixed).items():
        if published.get(name, value) != value:
            raise ValueError(f'{name} is {published[name]!r}; expected {value!r}')
    return {
        field: number(name, default if published.get(name) is None else published[name], _TYPES[field])
        for name, (field, default) in attributes.items()
    }


def number(name: str, value: Any, kind: Any = int) -> Any:
    """A published value as a number of `kind`. Raises ValueError for one that is none."""
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        raise ValueError(f'{name} is {value!r}; expected a number')
    return kind(value)


def one_of(name: str, value: Any, table: Mapping[str, Any]) -> Any:
    """What a published value means. Raises ValueError for one that is not in the table."""
    if not isinstance(value, str) or value not in table:
        raise ValueError(f'{name} is {value!r}; expected one of {", ".join(table)}')
    return table[value]


def published_as(what: str, value: Any, table: Mapping[str, Any]) -> str:
    """The published name of our value. Raises ValueError where the family has none."""
    names = {ours: theirs for theirs, ours in table.items()}
    if value not in names:
        raise ValueError(f'{what} {value} cannot be published; expected one of {", ".join(map(str, names))}')
    return names[value]


def eos_ids(published: dict[str, Any], default: int) -> dict[str, Any]:
    """Our fields of the ids that end a sequence: published are one or several."""
    value = published.get('eos_token_id')
    ids = [default] if value is None else value if isinstance(value, list) else [value]
    first, *others = (number('eos_token_id', each) for each in ids)
    return {'eos_id': first, 'other_eos_ids': tuple(others)}


def published_eos(config: TransformerConfig) -> int | list[int]:
    """One id or several, as published."""
    return config.eos_id if not config.other_eos_ids else list(config.eos_ids)


def pad_id(published: dict[str, Any], eos: int, vocab_size: int) -> int:
    """Of a decoder-only model: −1 where the vocabulary has no padding, or pads with a token that texts hold."""
    value = published.get('pad_token_id')
    if value is None or value in (eos, published.get('bos_token_id')):
        return -1
    padding = number('pad_token_id', value)
    return padding if 0 <= padding < vocab_size else -1


def head_is_embedding(tensors: Mapping[str, Any], head: str, embeddings: Sequence[str]) -> bool:
    """Whether files whose configuration ties the head hold none, or the embedding once more: one that differs is a head of its
    own whatever the configuration says, as the reference implementation reads it."""
    names = [name for name in embeddings if name in tensors]
    if head not in tensors or not names:
        return True
    ours, theirs = tensors[head], tensors[names[0]]
    return tuple(ours.shape) == tuple(theirs.shape) and np.array_equal(ours.read(), theirs.read(), equal_nan=True)


def require(config: TransformerConfig, **wanted: Any) -> None:
    """Raises ValueError naming the first field of a configuration that the family does not have."""
    for name, value in wanted.items():
        found = getattr(config, name)
        if found not in value if isinstance(value, tuple) else found != value:
            raise ValueError(f'{name} {found} cannot be published; expected {value}')
