"""Padding: sequences of unequal length as one array, of one of few lengths so that few shapes are compiled."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

MOST_LENGTHS = 8


class Buckets(NamedTuple):
    """The lengths an axis may have: multiples of `step`, the last one shortened to what `limit` needs.

    `for_limit` picks the smallest multiple of 8 as step that leaves at most eight lengths: 8, 16, …, 64 for a limit
    of 64 ids, 64, 128, …, 512 for one of 512.
    """

    limit: int
    step: int

    @classmethod
    def for_limit(cls, limit: int, step: int | None = None) -> 'Buckets':
        """Buckets for sequences of at most `limit` ids. Raises ValueError for a limit or step below 1."""
        if limit < 1:
            raise ValueError(f'length limit {limit}: expected at least 1')
        if step is None:
            step = _round_up(-(-limit // MOST_LENGTHS), 8)
        if step < 1:
            raise ValueError(f'length multiple {step}: expected at least 1')
        return cls(limit, step)

    def number(self, length: int) -> int:
        """Which bucket holds `length` ids once cut to the limit, from 1."""
        return -(-min(length, self.limit) // self.step)

    def length(self, length: int) -> int:
        """The padded length for `length` ids once cut to the limit."""
        return min(self.number(length) * self.step, _round_up(self.limit, 8))


def pad_rows(
    rows: Sequence[Sequence[int] | np.ndarray],
    buckets: Buckets,
    num_rows: int,
    *,
    pad_id: int,
    end: Sequence[int] = (),
    left: bool = False,
) -> np.ndarray:
    """[num_rows, S] int32, S the bucket of the longest row: the ids of each row, those that end it, then padding.

    Ids after the limit are cut off, its last places kept for the `end`. `left` puts the padding before the ids. Rows after the
    last are all padding. Raises ValueError for a limit with no room for the `end`.
    """
    if buckets.limit < len(end):
        raise ValueError(f'length limit {buckets.limit}: expected at least {len(end)}, the ids that end every text')
    longest = max((len(row) + len(end) for row in rows), default=1)
    padded = np.full((num_rows, buckets.length(max(longest, 1))), pad_id, np.int32)
    for place, row in enumerate(rows):
        ids = [*row[: buckets.limit - len(end)], *end]
        padded[place, padded.shape[1] - len(ids) if left else 0 :][: len(ids)] = ids
    return padded


def shortened(
    ids: Sequence[int] | np.ndarray,
    limit: int,
    side: str = 'right',
    starts: Iterable[Sequence[int]] = (),
    ends: Iterable[Sequence[int]] = (),
) -> Sequence[int] | np.ndarray:
    """As many of the ids as a limit allows: the first, or where `side` is 'left', the last. What they start with stays if it is
    one of `starts`, and what they end in if it is one of `ends`."""
    if len(ids) <= limit:
        return ids
    return [ids[place] for place in places_left(ids, limit, side, starts, ends)]


def places_left(
    ids: Sequence[int] | np.ndarray,
    limit: int,
    side: str = 'right',
    starts: Iterable[Sequence[int]] = (),
    ends: Iterable[Sequence[int]] = (),
) -> list[int]:
    """Where the ids stand that `shortened` leaves, rising."""
    count = len(ids)
    if count <= limit:
        return list(range(count))
    first = max((len(each) for each in starts if list(ids[: len(each)]) == list(each)), default=0)
    first = first if first < limit else 0
    last = max((len(each) for each in ends if list(ids[count - len(each) :]) == list(each)), default=0)
    last = last if first + last < limit else 0
    if side == 'right':
        return [*range(limit - last), *range(count - last, count)]
    return [*range(first), *range(count - limit + first, count)]


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
