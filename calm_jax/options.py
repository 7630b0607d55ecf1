"""Options: what a field of a value says of itself, from which flags, help, gin and JSON are made.

An option is a dataclass field whose metadata holds an `Option`. Its owner is the class that defines the field first; nothing
else repeats its name, default or meaning.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from calm_jax.checks import check_type, parts
from calm_jax.types import Array

KEY = 'option'


@dataclasses.dataclass(frozen=True)
class Option:
    """What one field says of itself.

    help: what it means, without the default. flag: the name of its flag, where that is not the field's; None: it has none.
    metavar: what stands for the value in the help. choices: the texts it may be.
    kinds: where the value is one of several classes, those that come along, by short name; `named` says that a class of
        the user's may be named too, as package.module:Class. kind: where the value is always of one class, that class.
    selects: a value other than this one chooses the option's class among its kinds; this value chooses the default class.
    array: the value is trained arrays, stored in a head of the checkpoint.
    """

    help: str = ''
    flag: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    kinds: Mapping[str, type] | None = None
    named: bool = False
    kind: type | None = None
    selects: Any = None
    array: bool = False


def option(help: str = '', *, default: Any = dataclasses.MISSING, flag: str | None = '', **entries: Any) -> Any:
    """A dataclass field that is an option. flag: '' where its flag is named as the field is; None where it has no flag."""
    return dataclasses.field(default=default, metadata={KEY: Option(help, flag, **entries)})


def array(*, optional: bool = False) -> Any:
    """A dataclass field of trained arrays, which a head of the checkpoint holds under the field's name; an optional one is None
    where the head holds none."""
    default = None if optional else dataclasses.MISSING
    return dataclasses.field(default=default, metadata={KEY: Option(flag=None, array=True)})


@functools.cache
def options(kind: type) -> tuple[tuple[dataclasses.Field, Option], ...]:
    """(field, option) of every option of a dataclass, in order; the option's flag is spelled out."""
    spelled = []
    for field in dataclasses.fields(kind):
        each = field.metadata.get(KEY)
        if each is not None:
            spelled.append((field, dataclasses.replace(each, flag=field.name) if each.flag == '' else each))
    return tuple(spelled)


def of(field: dataclasses.Field) -> Option:
    """What a field says of itself; nothing where it is no option."""
    return field.metadata.get(KEY, Option())


def owner(kind: type, name: str) -> type:
    """The class that defines the field `name` of a dataclass first."""
    return [each for each in kind.__mro__ if name in getattr(each, '__dataclass_fields__', {})][-1]


class Place(NamedTuple):
    """Where an option stands in a value: the names of the fields that lead to its own, the class that holds it there, its
    field, and what it says of itself."""

    path: tuple[str, ...]
    kind: type
    field: dataclasses.Field
    option: Option

    @property
    def full_path(self) -> tuple[str, ...]:
        """The names that lead to its value."""
        return (*self.path, self.field.name)


def walk(kind: type, more: Mapping[tuple[str, ...], Sequence[type]] = {}, path: tuple[str, ...] = ()) -> Iterator[Place]:
    """Every option of a dataclass and of all that its fields may hold, itself before what it holds.

    more: classes besides those that come along, by the path of the option that may be one of them.
    """
    for field, each in options(kind):
        place = Place(path, kind, field, each)
        yield place
        inner = [each.kind] if each.kind else (each.kinds or {}).values()
        for inner_kind in dict.fromkeys([*inner, *more.get(place.full_path, ())]):
            yield from walk(inner_kind, more, place.full_path)


def classes(kind: type) -> tuple[type, ...]:
    """The dataclass and every class that comes along for what its fields may hold, each once."""
    kinds = [kind]
    for place in walk(kind):
        kinds += [place.option.kind] if place.option.kind else (place.option.kinds or {}).values()
    return tuple(dict.fromkeys(kinds))


@functools.cache  # types are slow to read, and every call of a model checks its values
def annotations(kind: type) -> Mapping[str, Any]:
    """The type of each field of a dataclass, as a number or text: without `Array`, which a field may hold as well inside a
    compiled function. A field of any type is of that of its default."""
    try:
        hints = typing.get_type_hints(kind)
    except (NameError, AttributeError, TypeError, SyntaxError):  # names that are there for type checkers alone
        hints = {}
    narrowed = {field.name: _narrowed(hints.get(field.name, field.type), field.default) for field in dataclasses.fields(kind)}
    return types.MappingProxyType(narrowed)


def check_values(value: Any, path: str = '') -> None:
    """Raises ValueError, with the dotted path, where an option's value, or one of a value that it is made of, is not of its
    type. Arrays, which are values inside a compiled function, are passed over."""
    hints = annotations(type(value))
    for field, option in options(type(value)):
        part, where = getattr(value, field.name), f'{path}.{field.name}' if path else field.name
        if option.array or isinstance(part, Array):
            continue
        if dataclasses.is_dataclass(part):
            check_values(part, where)
        elif not (option.kinds or option.kind):
            check_type(where, part, hints[field.name])


def _narrowed(hint: Any, default: Any) -> Any:
    if hint is Any and isinstance(default, bool | int | float | str):
        return type(default)
    kinds = [each for each in parts(hint) if each is not Array]
    if len(kinds) == len(parts(hint)) or not kinds:
        return hint
    made = kinds[0]
    for each in kinds[1:]:
        made = made | each
    return made
