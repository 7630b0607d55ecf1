"""Windows of decoding batches: sources grouped by length, as a function of their order and the settings alone."""

import itertools
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from calm_jax.data.padding import Buckets, pad_rows, shortened

WINDOW = 64  # batches that are sorted together


class DecodeBatch(NamedTuple):
    """One batch of sources to decode.

    tokens: [B, S] int32. mask: [B, S] bool, which of them are there; told by lengths, as a text may hold the id that pads.
    rows: [B] int64, the index of each row in the input; −1 for a row that fills up the batch, to be thrown away.
    truncated: [B] bool, whether the row lost ids to the length limit.
    """

    tokens: np.ndarray
    mask: np.ndarray
    rows: np.ndarray
    truncated: np.ndarray


def decode_windows(
    sources: Iterable[Sequence[int]],
    batch_size: int,
    *,
    max_source_length: int,
    pad_id: int,
    eos_id: int | None,
    window: int = WINDOW,
    length_multiple: int | None = None,
    left: bool = False,
    depth: Callable[[int], float] | None = None,
    side: str = 'right',
    starts: Collection[Sequence[int]] = (),
    ends: Collection[Sequence[int]] = (),
) -> Iterator[list[DecodeBatch]]:
    """Lists of at most `window` batches that hold the next `window · batch_size` sources, shortest batches first.

    One window is in memory at a time. Within it sources are sorted by length (those of equal length keep their order)
    and cut into batches of `batch_size` rows. The last batch has as many rows as are left, filled up to the next power of two,
    or to `batch_size`, with rows of nothing but padding, which a decoder counts as ended. S is a multiple of
    `length_multiple`, by default the smallest multiple of 8 that leaves at most eight values up to `max_source_length`.

    `eos_id` is put after each source, inside the limit; None puts nothing, for prompts to be continued. `left` puts
    padding before the ids. depth: of the source with an index, what is known before of how deep its tokens go, any number that
    grows with it: sources of one width S are then sorted by that, because rows of like depth leave a layer together. A source
    that is too long loses ids on its `side`; on the left, those behind one of `starts`, on the right, those before one of
    `ends`.

    Raises ValueError for a batch size, window, limit or multiple below 1.
    """
    if batch_size < 1 or window < 1:
        raise ValueError(f'windows of {window} batches of {batch_size}: expected both to be at least 1')
    buckets = Buckets.for_limit(max_source_length, length_multiple)
    limit = buckets.limit - (eos_id is not None)
    cut = (_Source(shortened(ids, limit, side, starts, ends), len(ids) > limit) for ids in sources)
    size = min(window * batch_size, sys.maxsize)  # no more than can be counted
    return _windows(cut, size, batch_size, buckets, pad_id, eos_id, left, depth)


class _Source(NamedTuple):
    """The ids of a source within the limit, and whether it lost any."""

    ids: Sequence[int] | np.ndarray
    truncated: bool


def _windows(
    sources: Iterator[_Source],
    size: int,
    batch_size: int,
    buckets: Buckets,
    pad_id: int,
    eos_id: int | None,
    left: bool,
    depth: Callable[[int], float] | None,
) -> Iterator[list[DecodeBatch]]:
    first = 0

    def place(row, length):
        if depth is None:
            return length
        return buckets.number(length + (eos_id is not None)), depth(first + row), length

    while window_sources := list(itertools.islice(sources, size)):
        order = sorted(range(len(window_sources)), key=lambda row: place(row, len(window_sources[row].ids)))
        batches = []
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            missing = row_bucket(len(rows), batch_size) - len(rows)
            ids = [window_sources[row].ids for row in rows]
            tokens = pad_rows(ids, buckets, len(rows) + missing, pad_id=pad_id, eos_id=eos_id, left=left)
            lengths = [len(row) + (eos_id is not None) for row in ids] + [0] * missing
            batches.append(
                DecodeBatch(
                    tokens=tokens,
                    mask=length_mask(np.array(lengths), tokens.shape[1], left),
                    rows=np.array([first + row for row in rows] + [-1] * missing),
                    truncated=np.array([window_sources[row].truncated for row in rows] + [False] * missing),
                )
            )
        yield batches
        first += len(window_sources)


def row_bucket(rows: int, batch_size: int) -> int:
    """How many rows a batch of `rows` examples is compiled for: the next power of two, at most `batch_size`."""
    return min(batch_size, 1 << max(0, rows - 1).bit_length())


def length_mask(lengths: np.ndarray, width: int, left: bool) -> np.ndarray:
    """bool [B, width]: the first `lengths` places of each row, or the last ones where padding stands on the `left`."""
    places = np.arange(width)
    return (width - 1 - places if left else places) < lengths[:, None]
