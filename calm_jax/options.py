"""Options: what a field of a value says of itself, from which flags, help, gin and JSON are made.

An option is a dataclass field whose metadata holds an `Option`. Its owner is the class that defines the field first; nothing
else repeats its name, default or meaning.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

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


def option(default: Any = dataclasses.MISSING, help: str = '', *, flag: str | None = '', **said: Any) -> Any:
    """A dataclass field that is an option. flag: '' where its flag is named as the field is; None where it has no flag."""
    return dataclasses.field(default=default, metadata={KEY: Option(help, flag, **said)})


def array() -> Any:
    """A dataclass field of trained arrays, which a head of the checkpoint holds under the field's name."""
    return dataclasses.field(metadata={KEY: Option(flag=None, array=True)})


def options(kind: type) -> Iterator[tuple[dataclasses.Field, Option]]:
    """(field, option) of every option of a dataclass, in order; the option's flag is spelled out."""
    for field in dataclasses.fields(kind):
        each = field.metadata.get(KEY)
        if each is not None:
            yield field, dataclasses.replace(each, flag=field.name) if each.flag == '' else each


def owner(kind: type, name: str) -> type:
    """The class that defines the field `name` of a dataclass first."""
    return [each for each in kind.__mro__ if name in getattr(each, '__dataclass_fields__', {})][-1]
