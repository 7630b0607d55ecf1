"""Windows of decoding batches: sources grouped by length, as a function of their order and the settings alone."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from calm_jax.data.padding import Buckets, pad_rows

WINDOW = 64  # batches that are sorted together, and written together


class DecodeBatch(NamedTuple):
    """One batch of sources to decode.

    tokens: [B, S] int32.
    rows: [B] int64, the index of each row in the input; −1 for a row that fills up the batch, to be thrown away.
    truncated: [B] bool, whether the row lost ids to the length limit.
    """

    tokens: np.ndarray
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
    first: int = 0,
) -> Iterator[list[DecodeBatch]]:
    """Lists of at most `window` batches that hold the next `window · batch_size` sources, shortest batches first.

    One window is in memory at a time. Within it sources are sorted by length (those of equal length keep their order)
    and cut into batches of `batch_size` rows; the last batch is filled up with rows of nothing but padding, which a
    decoder counts as ended. S is a multiple of `length_multiple`, by default the smallest multiple of 8 that
    leaves at most eight values up to `max_source_length`.

    `eos_id` is put after each source, inside the limit; None puts nothing, for prompts to be continued. `left` puts
    padding before the ids. `first` is the input index of the first source: a run that goes on at a window's start
    passes the sources from there on and their first index, and gets the windows it would have got.

    Raises ValueError for a batch size, window, limit or multiple below 1, and for a `first` inside a window.
    """
    if batch_size < 1 or window < 1:
        raise ValueError(f'windows of {window} batches of {batch_size}: expected both to be at least 1')
    size = window * batch_size
    if first % size:
        raise ValueError(f'input {first} is not the first of a window of {size} inputs')
    buckets = Buckets.for_limit(max_source_length, length_multiple)
    return _windows(iter(sources), first, size, batch_size, buckets, pad_id, eos_id, left)


def _windows(
    sources: Iterator[Sequence[int]],
    first: int,
    size: int,
    batch_size: int,
    buckets: Buckets,
    pad_id: int,
    eos_id: int | None,
    left: bool,
) -> Iterator[list[DecodeBatch]]:
    limit = buckets.limit - (eos_id is not None)
    while held := list(itertools.islice(sources, size)):
        order = sorted(range(len(held)), key=lambda row: min(len(held[row]), limit))
        batches = []
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            missing = batch_size - len(rows)
            ids = [held[row] for row in rows]
            batches.append(
                DecodeBatch(
                    tokens=pad_rows(ids, buckets, batch_size, pad_id=pad_id, eos_id=eos_id, left=left),
                    rows=np.array([first + row for row in rows] + [-1] * missing),
                    truncated=np.array([len(row) > limit for row in ids] + [False] * missing),
                )
            )
        yield batches
        first += len(held)
