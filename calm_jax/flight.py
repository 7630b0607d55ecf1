"""A window of texts in flight: shorter sources first, each text into the slot of one that has ended.

    batches of the window        [1 2 3 4 | 5 6 7 8 | 9 …]      as `decode_windows` cuts them, by rising length
    prefill, a quarter at a time       [5 6]
    slots                        [1][2][3][4]  →  [5][2][6][4]  → …  until the last has ended

What is dispatched, and in which order, is a function of the texts and the settings alone; the host waits for what has left
while the device already goes on. But where rows end at what the host alone can tell, a text that they say, it looks at all that
are in flight every few steps, and the device waits for it.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from calm_jax.arrivals import Arrival, arrivals, groups_of, planned_arrivals, plans_by_input, room_of
from calm_jax.data.windows import DecodeBatch
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import capacity_of, conclude, decide, fly, generate, landed, prefill, progress, vacant, widen
from calm_jax.decoding.packing import NEVER, Packing
from calm_jax.decoding.rows import Rows
from calm_jax.decoding.slots import Flown, Pause, Slots
from calm_jax.decoding.state import DecodeState
from calm_jax.models.config import TransformerConfig
from calm_jax.output import DecodeReport
from calm_jax.types import Array, Trace

LOOK = 8  # steps between two looks at what rows in flight have said

Stopped = Callable[[int, Sequence[int]], bool]
"""(index in the input, tokens so far) → whether the row has said enough."""


class Landing(NamedTuple):
    """Rows that are done, of a batch or because they left their slots together.

    rows: int64 [n], their indices in the input; source_tokens: int [n]; truncated: bool [n]. trace: of these rows, on the host,
    without `executed`. seconds: of the batch, or since others left. places: steps times rows that ran meanwhile; executed:
    their sub-layers, times the rows they were computed for. widths: of the sources meanwhile, as far as plans keep them.
    """

    rows: np.ndarray
    source_tokens: np.ndarray
    truncated: np.ndarray
    trace: Trace
    seconds: float
    places: int
    executed: int
    widths: frozenset[int]

    def report(self, beams: int) -> DecodeReport:
        """What they took; beams: sequences of a row that ran side by side."""
        work = self.trace.work
        ran = work.self_attention, work.cross_attention, work.feed_forward
        needed = sum(int(np.sum(each, dtype=np.int64)) for each in ran)
        used = int(np.sum(self.trace.lengths, dtype=np.int64))
        drafts = self.trace.drafts
        return DecodeReport(
            seconds=self.seconds,
            sequences=len(self.rows),
            places=self.places,
            tokens=used,
            executed=self.executed * beams,
            needed=needed,
            widths=self.widths,
            rounds=0 if drafts is None else int(np.sum(drafts.rounds)),
            drafted=() if drafts is None else tuple(np.sum(drafts.drafted, axis=0).tolist()),
            accepted=() if drafts is None else tuple(np.sum(drafts.accepted, axis=0).tolist()),
        )


def decode_batches(
    config: TransformerConfig,
    params: dict,
    batches: Sequence[DecodeBatch],
    decoding: Decoding,
    *,
    example_ids: Callable[[np.ndarray], np.ndarray],
    settings: Callable[[np.ndarray], Rows | None],
    wanted: Collection[int],
    head_table: Array | None = None,
    log_probabilities: bool = False,
    packing: Packing = NEVER,
) -> Iterator[Landing]:
    """The rows of one batch after another, each decoded until the last of it has ended; those without a wanted row are passed
    over. Arguments as `fly_window`."""
    batches = [batch for batch in batches if any(row in wanted for row in batch.rows.tolist())]
    planned = plans_by_input(decoding) and config.sizes.drops_tokens

    def decided_on(batch):
        if not planned:
            return None
        return decide(config, params, batch.tokens, batch.mask, decoding, example_ids(batch.rows), outermost=True)

    began, decided = time.perf_counter(), decided_on(batches[0]) if batches else None
    for batch, following in zip(batches, [*batches[1:], None]):
        width = batch.tokens.shape[1]
        options = {'rows': settings(batch.rows), 'head_table': head_table, 'log_probabilities': log_probabilities}
        options['packing'] = packing
        if decided is None or decided.plan is None:
            arguments = batch.tokens, batch.mask, decoding
            trace = generate(config, params, *arguments, example_ids=example_ids(batch.rows), **options, outermost=True)
        else:
            # How wide sources are from here on is a shape, which the host reads from the plans; those of the next batch are
            # made meanwhile.
            room = room_of(jax.device_get(decided.plan.source), width)
            width = width if room is None else room
            options |= {'kept': room, 'capacity': capacity(decoding)}
            trace = conclude(config, params, decided, decoding, **options, outermost=True)
            decided = None if following is None else decided_on(following)
        trace = jax.device_get(trace)
        there = np.flatnonzero(batch.rows >= 0)
        executed = np.asarray(trace.executed)
        yield Landing(
            rows=batch.rows[there],
            source_tokens=batch.mask[there].sum(axis=1),
            truncated=batch.truncated[there],
            trace=_of_rows(trace, there),
            seconds=time.perf_counter() - began,
            places=int(np.max(trace.lengths)) * len(batch.rows),
            executed=int(np.sum(executed, dtype=np.int64)),
            widths=frozenset([width]),
        )
        began = time.perf_counter()


def fly_window(
    config: TransformerConfig,
    params: dict,
    batches: Sequence[DecodeBatch],
    decoding: Decoding,
    slots: int,
    *,
    example_ids: Callable[[np.ndarray], np.ndarray],
    settings: Callable[[np.ndarray], Rows | None],
    wanted: Collection[int],
    head_table: Array | None = None,
    log_probabilities: bool = False,
    packing: Packing = NEVER,
    stopped: Stopped | None = None,
) -> Iterator[Landing]:
    """The wanted rows of a window as they leave their slots.

    batches: of the window, at most `slots` rows each. example_ids, settings: of the rows int64 [n] with these indices in the
    input, −1 for rows that fill up. wanted: indices of the rows that are decoded. head_table, log_probabilities: as `program`.
    stopped: which rows end besides, seen every `LOOK` steps: what they say meanwhile is in their traces; None: none, and nobody
    looks.
    """
    options = {'capacity': capacity(decoding), 'head_table': head_table, 'log_probabilities': log_probabilities}
    groups = list(groups_of(batches, slots, wanted))
    if not groups:
        return
    flights, running = _Flights(groups, slots), None
    looks = None if stopped is None else _Looks(config, params, decoding, packing, flights.rows, stopped, slots)
    arrive = planned_arrivals if plans_by_input(decoding) else arrivals
    for arrival, last in _with_last(arrive(config, params, groups, decoding, example_ids)):
        width = arrival.decided.source.shape[1]
        prefilled = prefill(
            config,
            params,
            arrival.decided,
            decoding,
            rows=settings(arrival.rows),
            cursor=np.int32(width - 1 if config.decoder_only else 0),
            packing=packing,
            kept=arrival.room,
            outermost=True,
            **options,
        )
        inputs = prefilled.inputs
        if running is None:
            running = vacant(prefilled, slots)
        elif (width, inputs.room) != (running.state.inputs.source.shape[1], running.state.inputs.room):
            running = widen(config, running, prefilled)
        arriving = prefilled, flights.numbers(arrival.rows), last
        if looks is None:
            legs = [(*fly(config, params, running, *arriving, decoding, packing, outermost=True), True)]
        else:
            legs = looks.legs(running, *arriving)
        for running, flown, over in legs:
            left = [(flown.numbers, flown.trace)]
            if last and over:
                left.append((running.numbers, landed(config, running)))
            yield from flights.landing(_Flight(left, flown.steps, flown.executed, inputs.room))
    yield from flights.landing(None)


class _Looks:
    """Flights in legs of `LOOK` steps, after each of which the host looks at what is said. rows: int64 [N], the indices in the
    input of the texts by their numbers in flight. slots: how many there are."""

    def __init__(
        self,
        config: TransformerConfig,
        params: dict,
        decoding: Decoding,
        packing: Packing,
        rows: np.ndarray,
        stopped: Stopped,
        slots: int,
    ):
        self._model, self._decoding, self._rows, self._stopped = (config, params), (decoding, packing), rows, stopped
        self._ended = np.zeros(slots, bool)

    def legs(
        self, slots: Slots, prefilled: DecodeState, numbers: np.ndarray, last: bool
    ) -> Iterator[tuple[Slots, Flown, bool]]:
        """(slots, what was flown, whether that was the last leg) of each leg of a flight; arguments as `fly`."""
        waiting, came, over = np.count_nonzero(numbers >= 0), 0, False
        while not over:
            pause = Pause(np.int32(LOOK), np.int32(came), self._ended)
            arriving = prefilled, numbers, last
            slots, flown = fly(*self._model, slots, *arriving, *self._decoding, pause, outermost=True)
            seen, came = jax.device_get((progress(slots), flown.came))
            ended = map(self._says_enough, seen.numbers, seen.alive, seen.lengths, seen.tokens)
            self._ended = np.fromiter(ended, bool, len(seen.alive))
            over = bool(came == waiting and not (last and np.any(seen.alive & ~self._ended)))
            yield slots, flown, over

    def _says_enough(self, number: int, alive: bool, length: int, tokens: np.ndarray) -> bool:
        return bool(alive) and self._stopped(int(self._rows[number]), tokens[:length].tolist())


def capacity(decoding: Decoding) -> int:
    """The room for generated tokens of a decoding whose limits are numbers."""
    length = decoding.limits.max_new_tokens
    assert length is not None  # resolved
    return capacity_of(int(length))


def _with_last(arrivals: Iterator[Arrival]) -> Iterator[tuple[Arrival, bool]]:
    """Each with whether it is the last."""
    before = next(arrivals)
    for arrival in arrivals:
        yield before, False
        before = arrival
    yield before, True


class _Flight(NamedTuple):
    """What was dispatched: who will have left, (numbers, trace); what will have run."""

    left: list[tuple[Array, Trace]]
    steps: Array
    executed: Array
    width: int


class _Flights:
    """Flights that have been dispatched. One is not waited for, so that the device has the next before it is done with it."""

    def __init__(self, groups: Sequence[DecodeBatch], slots: int):
        self._slots = slots
        self.rows = np.concatenate([group.rows for group in groups])
        self._source_tokens = np.concatenate([group.mask.sum(axis=1) for group in groups])
        self._truncated = np.concatenate([group.truncated for group in groups])
        self._number = {row: number for number, row in enumerate(self.rows.tolist()) if row >= 0}
        self._before: _Flight | None = None
        self._since, self._steps, self._executed, self._widths = time.perf_counter(), 0, 0, set()

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """The numbers by which the rows are known in flight, int32 [n]; −1 for rows that fill up."""
        return np.array([self._number.get(row, -1) for row in rows.tolist()], np.int32)

    def landing(self, flight: _Flight | None) -> Iterator[Landing]:
        """Whoever left in the flight before this one, waited for now. What was run while nobody left goes to the next."""
        before, self._before = self._before, flight
        if before is None:
            return
        left, steps, executed, width = jax.device_get(before)
        self._steps, self._executed = self._steps + int(steps), self._executed + int(executed)
        self._widths.add(int(width))
        numbers, trace = jax.tree.map(lambda *parts: np.concatenate(parts), *left)
        places = np.flatnonzero(numbers >= 0)
        if not places.size:
            return
        now, numbers = time.perf_counter(), numbers[places]
        yield Landing(
            rows=self.rows[numbers],
            source_tokens=self._source_tokens[numbers],
            truncated=self._truncated[numbers],
            trace=_of_rows(trace, places),
            seconds=now - self._since,
            places=self._steps * self._slots,
            executed=self._executed,
            widths=frozenset(self._widths),
        )
        self._since, self._steps, self._executed, self._widths = now, 0, 0, set()


def _of_rows(trace: Trace, rows: np.ndarray) -> Trace:
    """The trace of some of its rows, without what the batch executed."""
    return jax.tree.map(lambda each: each[rows], trace._replace(executed=None))
