"""Which examples share a batch: functions of the epoch and a batch's place in it, whatever was asked before."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from calm_jax.data.padding import Buckets


class Group(NamedTuple):
    """The rows of one batch, and where all batches of its kind have one shape, the lengths that they share.

    rows: examples; None is a row of weight 0, which fills the batch up. lengths: padded, of source and target; None: what the
    longest rows need.
    """

    rows: list
    lengths: tuple[int, int] | None


class Windows:
    """Batches of one number of rows, of like length.

    An epoch of `batches = N // batch_size` goes through a new permutation of the N examples, drawn from seed and epoch, and
    leaves out its last `N mod batch_size`. The permutation is cut into windows of `window` batches; in a window examples are
    sorted by `key` and cut into batches, whose order is permuted again. So padding is small and lengths stay mixed.

    Raises ValueError for fewer examples than a batch, and for windows below 1.
    """

    def __init__(self, examples: Sequence, batch_size: int, window: int, key: Callable[[Any], Any], seed: int):
        if len(examples) < batch_size:
            raise ValueError(f'{len(examples)} examples do not fill a batch of {batch_size}: lower the batch size')
        if window < 1:
            raise ValueError(f'window of {window} batches: expected at least 1')
        self.batches = len(examples) // batch_size
        self.row_counts = (batch_size,)
        self._examples, self._size, self._window, self._key, self._seed = examples, batch_size, window, key, seed
        # The window and permutation last asked for, so that batches in order sort each window once. Never read as state.
        self._held_window: tuple[tuple[int, int], list[list]] | None = None
        self._held_order: tuple[int, np.ndarray] | None = None

    def group(self, epoch: int, place: int) -> Group:
        window, place = divmod(place, self._window)
        held = self._held_window
        if held is None or held[0] != (epoch, window):
            held = self._held_window = (epoch, window), self._cut(epoch, window)
        return Group(held[1][place], None)

    def order(self, epoch: int) -> np.ndarray:
        """Indices of an epoch's examples, in the order its windows are cut from, [batches · batch_size]."""
        held = self._held_order
        if held is None or held[0] != epoch:
            held = self._held_order = epoch, _permutation(len(self._examples), (self._seed, epoch))
        return held[1][: self.batches * self._size]

    def _cut(self, epoch: int, window: int) -> list[list]:
        size = self._window * self._size
        examples = [self._examples[int(i)] for i in self.order(epoch)[window * size : (window + 1) * size]]
        examples.sort(key=self._key)
        shuffled = _permutation(len(examples) // self._size, (self._seed, epoch, window))
        return [examples[i * self._size : (i + 1) * self._size] for i in shuffled]


class Bucket(NamedTuple):
    """Examples that share one shape of batches. members: their indices; rows: of a batch; lengths: padded, of both sides."""

    members: np.ndarray
    rows: int
    lengths: tuple[int, int]


class TokenBuckets:
    """Batches of at most `batch_tokens` tokens, padding among them: rows times the longer of the two sides, as fairseq counts
    its `max_tokens` (Ott et al. 2019).

    Examples whose longer side is padded to one length form a bucket: eight of them at most, where no `length_multiple` asks for
    more. All batches of a bucket have one shape: lengths that hold its longest source and target, and as many rows as the limit
    then allows. An epoch holds every example once: each bucket is permuted anew, drawn from seed and epoch, and cut into
    batches, the last of which is filled up with rows of weight 0; then the order of all batches is drawn.

    sides: lengths [N, 2] of the examples as they are laid out. axes: the lengths that each side may have. row_multiple: the
    rows of every batch are a multiple of it.

    Raises ValueError where there are no examples, or the limit holds no batch of the longest ones.
    """

    def __init__(
        self,
        examples: Sequence,
        batch_tokens: int,
        sides: np.ndarray,
        axes: tuple[Buckets, Buckets],
        length_multiple: int | None,
        row_multiple: int,
        seed: int,
    ):
        if not len(examples):
            raise ValueError('0 examples fill no batch; expected one at least')
        axis = Buckets.for_limit(max(each.limit for each in axes), length_multiple)
        numbers = np.array([axis.number(int(longer)) for longer in sides.max(axis=1, initial=0)], np.int64)
        self.buckets: list[Bucket] = []
        for number in np.unique(numbers)[::-1]:  # the longest first, so that they are named where they do not fit
            members = np.flatnonzero(numbers == number)
            longest, whole = sides[members].max(axis=0), axis.length(int(number) * axis.step)
            source, target = (min(each.length(int(length)), whole) for each, length in zip(axes, longest))
            rows = _rows(batch_tokens, max(source, target), len(members), row_multiple)
            self.buckets.append(Bucket(members, rows, (source, target)))
        self._places = [(at, i) for at, each in enumerate(self.buckets) for i in range(0, len(each.members), each.rows)]
        self.batches = len(self._places)
        self.row_counts = tuple(sorted({each.rows for each in self.buckets}))
        self._examples, self._seed = examples, seed
        # The epoch last asked for, so that batches in order draw each once. Never read as state.
        self._held: tuple[int, np.ndarray, list[np.ndarray]] | None = None

    def group(self, epoch: int, place: int) -> Group:
        held = self._held
        if held is None or held[0] != epoch:
            # The order of batches is drawn as that of a bucket before the first.
            draws = [len(self._places), *(len(each.members) for each in self.buckets)]
            order, *orders = (_permutation(count, (self._seed, epoch, at)) for at, count in enumerate(draws))
            held = self._held = epoch, order, [each.members[i] for each, i in zip(self.buckets, orders)]
        _, order, members = held
        at, first = self._places[order[place]]
        bucket = self.buckets[at]
        rows = [self._examples[int(i)] for i in members[at][first : first + bucket.rows]]
        return Group(rows + [None] * (bucket.rows - len(rows)), bucket.lengths)


def _rows(batch_tokens: int, length: int, examples: int, multiple: int) -> int:
    """How many rows of a length a batch has: what the limit allows, and no more than there are examples."""
    rows = batch_tokens // length // multiple * multiple
    if rows < 1:
        needed = f'{multiple} row{"s" if multiple > 1 else ""} of {length} tokens, padding included'
        raise ValueError(f'batch_tokens is {batch_tokens}; expected {multiple * length} or more, {needed}, or shorter texts')
    return min(rows, -(-examples // multiple) * multiple)


def _permutation(length: int, seed: tuple[int, ...]) -> np.ndarray:
    # NumPy promises that the raw bits of a bit generator stay the same in later versions, and not that
    # Generator.permutation does: a resumed run must not depend on it.
    return np.argsort(np.random.PCG64(seed).random_raw(length), kind='stable')
