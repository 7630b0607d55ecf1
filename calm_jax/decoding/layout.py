"""Where every option of a decoding stands: which class may be at which path, and what it is by default."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from calm_jax import options
from calm_jax.checks import parts
from calm_jax.decoding.codec import class_name
from calm_jax.decoding.decoding import Decoding
from calm_jax.options import Place

# The names of the fields that lead to an option, as ('exit', 'measure').
Path = tuple[str, ...]


class Layout:
    """The options of `Decoding`, of the classes that come along, and of the user's own.

    own: the user's classes. places: every option in every class that holds it, one before those inside it.
    """

    def __init__(self, own: Iterable[type] = ()):
        library = options.classes(Decoding)
        self.own = tuple(dict.fromkeys(kind for kind in own if kind not in library))
        named = [place for place in options.walk(Decoding) if place.option.kinds is not None]
        self._own_at: dict[Path, list[type]] = {}
        for kind in self.own:
            for place in named:
                at = self._own_at.setdefault(place.full_path, [])
                if issubclass(kind, base(place)) and kind not in at:
                    at.append(kind)
        self.places = tuple(options.walk(Decoding, self._own_at))
        self._first: dict[Path, Place] = {}
        for place in self.places:
            self._first.setdefault(place.full_path, place)

    def place(self, path: Path) -> Place:
        """The option at a path. Raises KeyError where there is none."""
        return self._first[path]

    def flag(self, path: Path) -> str:
        """The name of the flag of the option at a path; where it has none, of the option."""
        return self._first[path].option.flag or path[-1]

    def kinds(self, path: Path) -> dict[str, type]:
        """The classes that the option at a path may be of, by name; none where it is always of one."""
        table = self._first[path].option.kinds or {}
        return {**table, **{class_name(each, table): each for each in self._own_at.get(path, ())}}

    def default_class(self, path: Path) -> str | None:
        """The name of the class that the option at a path is of where nothing is said."""
        place = self._first[path]
        default = place.field.default
        return class_name(type(default), place.option.kinds) if dataclasses.is_dataclass(default) else None

    def chosen(self, document: dict, path: Path) -> str | None:
        """The name of the class that a document has at a path."""
        return at(document, path).get('class') or self.default_class(path)

    def path_of(self, kind: type) -> Path:
        """The path of an option that may be of a class."""
        return next(
            place.full_path
            for place in self.places
            if kind is place.option.kind or kind in self.kinds(place.full_path).values()
        )

    def selecting(self) -> list[Place]:
        """The options that choose their class by another value than the one that chooses none."""
        return [place for place in self.places if place.option.selects is not None]

    def value(self, document: dict, path: Path) -> Any:
        """The value that a document has at a path, or the default there of the class that it has; None where that class has no
        such option, and of an option that chooses its class the value that chooses none."""
        *parents, name = path
        parent = tuple(parents)
        node = at(document, parent)
        if name in node:
            return node[name]
        kind: Any = Decoding
        if parent:
            kind = self.kinds(parent).get(self.chosen(document, parent) or '', self._first[parent].option.kind)
        field = {each.name: each for each in dataclasses.fields(kind)}.get(name) if kind else None
        if field is not None:
            return None if field.default is dataclasses.MISSING else field.default
        return next((place.option.selects for place in self.selecting() if place.full_path == path), None)


def at(document: dict, path: Path) -> dict:
    """The object that a document has at a path; {} where there is none."""
    for name in path:
        document = document.get(name) or {}
    return document


def base(place: Place) -> type:
    """What a class must be to be chosen for an option."""
    [kind] = [kind for kind in parts(options.annotations(place.kind)[place.field.name]) if kind is not type(None)]
    return kind
