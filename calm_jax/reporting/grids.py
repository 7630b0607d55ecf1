"""Tables as printed: words flush left, numbers flush right with one count of decimals for each column."""

from collections.abc import Sequence
from typing import NamedTuple

from calm_jax.reporting.numerals import column, number


class Heading(NamedTuple):
    """A column's heading, its unit ('' for none), and whether its cells are numbers (set flush right)."""

    name: str
    unit: str
    numeric: bool


class Grid(NamedTuple):
    """A table as printed; the first cell of each row names the row."""

    headings: list[Heading]
    rows: list[list[str]]


def grid(headings: Sequence[tuple[str, str]], rows: Sequence[Sequence[str | float | bool | None]]) -> Grid:
    """The table of (name, unit) headings and rows of values: text as it is, truth values as yes and no, None as '–'."""
    printed, kinds = [], []
    for values in zip(*rows, strict=True) if rows else [()] * len(headings):
        numeric = any(value is not None for value in values) and all(map(_is_number_or_none, values))
        kinds.append(numeric)
        printed.append(column(values) if numeric else [_word(value) for value in values])
    return Grid(
        [Heading(name, unit, numeric) for (name, unit), numeric in zip(headings, kinds, strict=True)],
        [list(row) for row in zip(*printed, strict=True)],
    )


def _is_number_or_none(value: str | float | bool | None) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _word(value: str | float | bool | None) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return value if isinstance(value, str) else number(value)
