"""Flags made of options: names, types, help, and the classes of the user's that they name."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args, get_origin

import jax

from calm_jax import options
from calm_jax.checks import parts
from calm_jax.commands import own
from calm_jax.decoding.codec import class_name, class_reference
from calm_jax.decoding.layout import Layout, Path, base
from calm_jax.decoding.partial import TEXT
from calm_jax.nearest import did_you_mean
from calm_jax.options import Option, Place

NONE = 'none'  # names no class, where several decodings are made


class Flag(NamedTuple):
    """One flag, and its option in every class that holds it."""

    name: str
    places: tuple[Place, ...]

    @property
    def option(self) -> Option:
        """What the option says of itself."""
        return self.places[0].option

    @property
    def path(self) -> Path:
        """The names of the fields that lead to the option's value in a decoding."""
        return self.places[0].full_path


def flags(layout: Layout, without: tuple[Path, ...] = ()) -> dict[str, Flag]:
    """Every flag by name, but of the options at some paths.

    Raises ValueError where two options, of two classes or in two parts of a decoding, have one flag.
    """
    made: dict[str, Flag] = {}
    for place in layout.places:
        name = place.option.flag
        if name is None or place.option.array or place.option.kind or place.full_path in without or _reader(place) is None:
            continue
        before = made.get(name)
        if before and (_owner(before.places[0]), before.path) != (_owner(place), place.full_path):
            raise ValueError(
                f'--{name} is an option of {_described(before.places[0])} and of {_described(place)}; give one another flag, '
                "as in option(…, flag='…')"
            )
        made[name] = Flag(name, (*before.places, place) if before else (place,))
    return made


def add_arguments(group, table: dict[str, Flag], layout: Layout, repeatable: tuple[str, ...] = ()) -> None:
    """Adds flags to a group of a parser. repeatable: the parts of a decoding whose flags may be given several times, for
    several decodings, and may name no class, as `none`. Raises ValueError where the command has a flag of that name."""
    for name, flag in table.items():
        metavar, reader, action = flag.option.metavar or name.upper(), _reader(flag.places[0]), 'store'
        assert reader is not None  # else there is no flag
        if flag.path[0] in repeatable:
            action, reader = 'append', _or_none(reader) if optional(flag) else reader
        help = _help(flag, layout, action == 'append')
        try:
            group.add_argument(f'--{name}', type=reader, action=action, metavar=metavar, help=help)
        except argparse.ArgumentError:
            raise ValueError(
                f'--{name} is an option of {_described(flag.places[0])} and a flag of the command itself; give the option '
                "another flag, as in option(…, flag='…')"
            ) from None


def content(flag: Flag, value: Any) -> Any:
    """What a decoding document has for the value of a flag."""
    kinds = flag.option.kinds
    if isinstance(value, tuple):
        return json.loads(json.dumps(value))
    if kinds is None:
        return value
    name, colon, text = value.partition(':')
    if name in kinds:
        return {'class': name, TEXT: text} if colon else {'class': name}
    return class_reference(imported(value, flag), kinds)


def optional(flag: Flag) -> bool:
    """Whether a flag names the class of a decision, which there may be none of."""
    return flag.option.named


def is_own(flag: Flag, text: str) -> bool:
    """Whether a flag's text names a class of the user's."""
    return flag.option.named and ':' in text and text.partition(':')[0] not in (flag.option.kinds or {})


def imported(text: str, flag: Flag) -> type:
    """The class that --measure package.module:Class, or another flag of its kind, names.

    Raises ValueError where it cannot be imported, or is no class of that kind.
    """
    kind = own.imported(flag.name, text)
    wanted = base(flag.places[0])
    if not (isinstance(kind, type) and issubclass(kind, wanted)):
        raise ValueError(f'{flag.name} {text!r} is no subclass of {wanted.__module__}.{wanted.__name__}')
    if not dataclasses.is_dataclass(kind) or jax.tree_util.all_leaves([object.__new__(kind)]):
        raise ValueError(f'{flag.name} {text!r} is no pytree; put @calm_jax.pytrees.pytree above the class')
    return kind


def _help(flag: Flag, layout: Layout, repeatable: bool) -> str:
    """What an option means, its choices, its default, whose it is, and whether it may be given several times."""
    option = flag.option
    names = [*(option.kinds or {}), *(['package.module:Class'] if option.named else []), *option.choices]
    names += [NONE] if repeatable and optional(flag) else []
    notes = [f'one of {", ".join(names)}' if len(names) > 1 else names[0]] if names else []
    default = _default(flag)
    if default is not None:
        notes.append(f'default {default}')
    parent = flag.path[:-1]
    if parent and (kinds := layout.place(parent).option.kinds):
        above = layout.place(parent).option
        if above.flag:
            owners = dict.fromkeys(class_name(place.kind, kinds) for place in flag.places)
            notes.append(f'of --{above.flag} {", ".join(owners)}')
        elif option.selects is None:
            selecting = [place.option.flag for place in layout.selecting() if place.kind is flag.places[0].kind]
            notes.append(f'with --{selecting[0]}')
    if repeatable:
        notes.append('repeatable')
    return (option.help + (f' ({"; ".join(notes)})' if notes else '')).replace('%', '%%')


def _default(flag: Flag) -> Any:
    """A flag's default as it is written, None where there is none."""
    default = flag.places[0].field.default
    if flag.option.selects is not None:
        default = flag.option.selects
    if default is dataclasses.MISSING or default in (None, '', ()):
        return None
    if flag.option.kinds is not None:
        return class_name(type(default), flag.option.kinds)
    return str(default).lower() if isinstance(default, bool) else f'{default:g}' if isinstance(default, float) else default


def _reader(place: Place) -> Callable[[str], Any] | None:
    """From the text of a flag to its option's value; None where no text stands for it."""
    if place.option.kinds is not None:
        return _class_reader(place.option)
    kinds = [kind for kind in parts(options.annotations(place.kind)[place.field.name]) if kind is not type(None)]
    words: dict[str, Any] = {each: each for each in place.option.choices}
    for kind in kinds:
        if kind is bool:
            words.update(true=True, false=False)
        elif get_origin(kind) is Literal:
            words.update({str(each): each for each in get_args(kind)})
    if words:
        return _word_reader(words)
    if kinds and get_origin(kinds[0]) is tuple:
        return _texts if get_args(kinds[0])[0] is str else _listed
    return {int: _whole, float: _number, str: str}.get(kinds[0]) if len(kinds) == 1 else None


def _or_none(reader: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: text if text == NONE else reader(text)


def _word_reader(words: dict[str, Any]) -> Callable[[str], Any]:
    def read(text):
        for each in (text, text.lower()):
            if each in words:
                return words[each]
        *first, last = words
        listed = f'{", ".join(first)} or {last}' if first else last
        raise argparse.ArgumentTypeError(f'{text!r}; expected {listed}{did_you_mean(text, words)}')

    return read


def _class_reader(option: Option) -> Callable[[str], str]:
    """A reader of a class's name: one that comes along, or one of the user's where those may be named."""
    kinds = option.kinds or {}

    def read(text):
        name, colon, _ = text.partition(':')
        if name in kinds and colon and not hasattr(kinds[name], 'of'):
            raise argparse.ArgumentTypeError(f'{text!r}: {name} takes nothing after a colon')
        if name in kinds or (colon and option.named):
            return text
        names = [*kinds, *(['package.module:Class'] if option.named else [])]
        listed = f'one of {", ".join(names)}' if len(names) > 1 else names[0]
        raise argparse.ArgumentTypeError(f'unknown {text!r}; expected {listed}{did_you_mean(text, kinds)}')

    return read


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r}; expected a whole number') from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r}; expected a number') from None


def _texts(text: str) -> tuple:
    """A text, or a JSON list of them."""
    texts = _json_list(text)
    return (text,) if texts is None else texts


def _listed(text: str) -> tuple:
    """'64,65', '[64, 65]' or '[[12, 64], [65]]', as JSON but for the outermost brackets."""
    for whole in (text, f'[{text}]'):
        if (value := _json_list(whole)) is not None:
            return value
    raise argparse.ArgumentTypeError(f'{text!r}; expected a list, such as 64,65 or [[12, 64], [65]]')


def _json_list(text: str) -> tuple | None:
    """A JSON list, with tuples for lists, which a flag that is given several times has; None of anything else."""

    def frozen(value):
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    try:
        value = json.loads(text)
    except ValueError:
        return None
    return frozen(value) if isinstance(value, list) else None


def _owner(place: Place) -> type:
    return options.owner(place.kind, place.field.name)


def _described(place: Place) -> str:
    return f'{_owner(place).__name__} ({".".join(place.full_path)})'
