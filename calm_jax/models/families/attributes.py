"""Reading a published configuration: every attribute is understood or refused by name."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from calm_jax.models.config import TransformerConfig

_TYPES = {field.name: field.type for field in dataclasses.fields(TransformerConfig)}


def fields_of(
    published: dict[str, Any],
    attributes: Mapping[str, tuple[str, Any]],
    *,
    fixed: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    without_effect: Iterable[str] = (),
    by_hand: Iterable[str] = (),
) -> dict[str, Any]:
    """Fields of TransformerConfig from a published configuration (a dict).

    attributes: {published name: (our field, what leaving it out means, or None where it may not be left out)}.
    fixed: {name: the only value supported, and what leaving it out means}; without_effect: names that no computation reads;
    by_hand: names that the family reads itself.
    Raises ValueError for an attribute that is missing, unknown, no number, or not at its only value.
    """
    fixed = dict(fixed)
    unknown = sorted(set(published) - {'model_type', *attributes, *fixed, *without_effect, *by_hand})
    if unknown:
        raise ValueError(f'attributes not understood: {", ".join(unknown)}')
    missing = [name for name, (_, default) in attributes.items() if default is None and published.get(name) is None]
    if missing:
        raise ValueError(f'attributes missing: {", ".join(missing)}')
    for name, value in fixed.items():
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


def pad_id(published: dict[str, Any], eos: int) -> int:
    """Of a decoder-only model: −1 where the vocabulary has no padding, pads with a token that texts hold, or with one that was
    added to the tokenizer and not to the embedding."""
    value = published.get('pad_token_id')
    if value is None or value in (eos, published.get('bos_token_id')):
        return -1
    padding, size = number('pad_token_id', value), published.get('vocab_size')
    return -1 if isinstance(size, int) and padding >= size else padding


def require(config: TransformerConfig, **wanted: Any) -> None:
    """Raises ValueError naming the first field of a configuration that the family does not have."""
    for name, value in wanted.items():
        found = getattr(config, name)
        if found not in value if isinstance(value, tuple) else found != value:
            raise ValueError(f'{name} {found} cannot be published; expected {value}')
