"""Tables as plain text: columns that stand under each other, two spaces apart, and no line is ever broken.

What reads them may be a terminal of 80 columns or another program, so there are no frames and no colours.
"""

import unicodedata
from collections.abc import Sequence


def plain_table(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """The rows as lines without an end of the last. numbers: the columns whose cells end under each other, not begin."""
    widths = [max(map(_width, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            ' ' * (width - _width(cell)) + cell if place in numbers else cell + ' ' * (width - _width(cell))
            for place, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append('  '.join(cells).rstrip())
    return '\n'.join(lines)


def _width(text: str) -> int:
    """The places that a text takes in a terminal."""
    return sum(0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in 'WF' else 1 for each in text)
