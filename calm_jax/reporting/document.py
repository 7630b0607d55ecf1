"""A JSON file whose every value knows its place, so that an error about it is one line naming file and place."""

import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any


class Document:
    """One value of a JSON file, with the path of the file and the place inside it (`points[3].layers`).

    Reading through a Document instead of the bare value turns a missing key or a wrong type into a `ValueError` that
    says which file, where in it, what was found and what was expected.
    """

    def __init__(self, path: pathlib.Path, value: Any, place: str = ''):
        self.path = path
        self.value = value
        self.place = place

    def error(self, found: str) -> ValueError:
        """The error to raise about this value."""
        return ValueError(f'{self.path}: {f"{self.place} " if self.place else "the file "}{found}')

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.object().get(key) is not None

    def at(self, key: str) -> 'Document':
        """The value of a key that must be there."""
        value = self.object()
        if key not in value:
            raise self.error(f'has no "{key}"; it has {", ".join(value) or "no keys at all"}')
        return Document(self.path, value[key], f'{self.place}.{key}' if self.place else key)

    def items(self, key: str | None = None, at_least: int = 0) -> list['Document']:
        """The elements of a list that must be there; of this value itself where no key is given."""
        node = self if key is None else self.at(key)
        if not isinstance(node.value, list):
            raise node.error(f'is {_shown(node.value)}: expected a list')
        if len(node.value) < at_least:
            raise node.error(f'has {len(node.value)} elements: expected at least {at_least}')
        return [Document(self.path, value, f'{node.place}[{index}]') for index, value in enumerate(node.value)]

    def number(self, key: str | None = None, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number within [low, high]; of this value itself where no key is given."""
        node = self if key is None else self.at(key)
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise node.error(f'is {_shown(value)}: expected a number')
        if not math.isfinite(value) or not low <= value <= high:
            raise node.error(f'is {value}: expected a finite number{_range(low, high)}')
        return value

    def integer(self, key: str | None = None, low: float = -math.inf, high: float = math.inf) -> int:
        """A whole number within [low, high]."""
        value = self.number(key, low, high)
        if value != int(value):
            raise (self if key is None else self.at(key)).error(f'is {value}: expected a whole number')
        return int(value)

    def optional_number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """The number, or None where the key is absent or null."""
        return self.number(key, low, high) if self.has(key) else None

    def text(self, key: str | None = None) -> str:
        """A string; of this value itself where no key is given."""
        node = self if key is None else self.at(key)
        if not isinstance(node.value, str):
            raise node.error(f'is {_shown(node.value)}: expected a string')
        return node.value

    def optional_text(self, key: str) -> str | None:
        """The string, or None where the key is absent or null."""
        return self.text(key) if self.has(key) else None

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """A string that must be one of a few."""
        value = self.text(key)
        if value not in choices:
            raise self.at(key).error(f'is {_shown(value)}: expected one of {", ".join(choices)}')
        return value

    def numbers(self, key: str | None = None, low: float = -math.inf, high: float = math.inf) -> tuple[float, ...]:
        """A list of finite numbers within [low, high]; of this value itself where no key is given."""
        return tuple(item.number(low=low, high=high) for item in self.items(key))

    def object(self) -> dict[str, Any]:
        """This value, which must be an object."""
        if not isinstance(self.value, dict):
            raise self.error(f'is {_shown(self.value)}: expected an object')
        return self.value


def load(path: pathlib.Path) -> Document:
    """Reads a JSON file. Raises `ValueError` naming file, line and column where it is not JSON or not UTF-8."""
    try:
        return Document(path, json.loads(path.read_text(encoding='utf-8')))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}') from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f'{path}: not readable as UTF-8 JSON: {type(error).__name__}') from None


def search(directory: pathlib.Path, pattern: str) -> Iterator[pathlib.Path]:
    """Files of that name at any depth, in the order of their paths, hidden folders left out."""
    for path in sorted(directory.rglob(pattern)):
        if path.is_file() and not any(part.startswith('.') for part in path.relative_to(directory).parts[:-1]):
            yield path


def _shown(value: Any) -> str:
    """The value as JSON, cut to what fits a line."""
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 40 else f'{shown[:37]}...'


def _range(low: float, high: float) -> str:
    if low > -math.inf and high < math.inf:
        return f' from {low:g} to {high:g}'
    return f' of at least {low:g}' if low > -math.inf else f' of at most {high:g}' if high < math.inf else ''
