"""A window of texts in flight: shorter sources first, each text into the slot of one that has ended.

    batches of the window        [1 2 3 4 | 5 6 7 8 | 9 …]      as `decode_windows` cuts them, by rising length
    prefill, a quarter at a time       [5 6]
    slots                        [1][2][3][4]  →  [5][2][6][4]  → …  until the last has ended

What is dispatched, and in which order, is a function of the texts and the settings alone; the host waits for what has left
while the device already goes on.
"""

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from calm_jax.data.padding import Buckets
from calm_jax.data.windows import DecodeBatch
from calm_jax.decoding.begin import Decided
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import (
    capacity_of,
    chosen_program,
    decide,
    finish,
    fly,
    generate,
    landed,
    prefill,
    vacant,
    widen,
)
from calm_jax.decoding.packing import NEVER, Packing
from calm_jax.decoding.rows import Rows
from calm_jax.models.config import TransformerConfig
from calm_jax.output import DecodeReport
from calm_jax.types import Array, Plan, Trace

GROUPS = 4  # prefills that fill the slots
DECIDED = 8  # batches of one width whose plans are made before their rows come in, like plans together


class Landing(NamedTuple):
    """Rows that are done, of a batch or because they left their slots together.

    rows: int64 [n], their indices in the input; source_tokens: int [n]; truncated: bool [n]. trace: of these rows, on the host,
    without `executed`. seconds: of the batch, or since others left. places: steps times rows that ran meanwhile; executed:
    their sub-layers, times the rows they were computed for. widths: of the sources meanwhile.
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
        return DecodeReport(self.seconds, len(self.rows), self.places, used, self.executed * beams, needed, self.widths)


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
    for batch in batches:
        if not any(row in wanted for row in batch.rows.tolist()):
            continue
        began = time.perf_counter()
        model, ids = (config, params), example_ids(batch.rows)
        options = {'rows': settings(batch.rows), 'head_table': head_table, 'log_probabilities': log_probabilities}
        if plans_by_input(decoding):
            decided = decide(*model, batch.tokens, batch.mask, decoding, ids, outermost=True)
            room = room_of(jax.device_get(decided.plan), batch.tokens.shape[1])
            room = {'packed': bool(packing), 'kept': room, 'capacity': capacity(decoding)}
            state = prefill(*model, decided, decoding, **options, **room, outermost=True)
            trace = finish(*model, state, decoding, packing, outermost=True)
        else:
            options |= {'example_ids': ids, 'packing': packing}
            trace = generate(*model, batch.tokens, batch.mask, decoding, **options, outermost=True)
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
            widths=frozenset([batch.tokens.shape[1]]),
        )


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
) -> Iterator[Landing]:
    """The wanted rows of a window as they leave their slots.

    batches: of the window, at most `slots` rows each. example_ids, settings: of the rows int64 [n] with these indices in the
    input, −1 for rows that fill up. wanted: indices of the rows that are decoded. head_table, log_probabilities: as `program`.
    """
    options = {'capacity': capacity(decoding), 'head_table': head_table, 'log_probabilities': log_probabilities}
    groups = list(groups_of(batches, slots, wanted))
    if not groups:
        return
    flights, running = _Flights(groups, slots), None
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
        running, flown = fly(config, params, running, *arriving, decoding, packing, outermost=True)
        left = [(flown.numbers, flown.trace)]
        if last:
            left.append((running.numbers, landed(config, running)))
        yield from flights.landing(_Flight(left, flown.steps, flown.executed, inputs.room))
    yield from flights.landing(None)


class Arrival(NamedTuple):
    """Rows that come in together. rows: int64 [n], their indices in the input, −1 for those that fill up. room: for the source
    tokens that their plans keep; None: for all."""

    rows: np.ndarray
    decided: Decided
    room: int | None


def arrivals(
    config: TransformerConfig, params: dict, groups: Sequence[DecodeBatch], decoding: Decoding, example_ids: Callable
) -> Iterator[Arrival]:
    """Groups in their order."""
    for group in groups:
        decided = decide(config, params, group.tokens, group.mask, decoding, example_ids(group.rows), outermost=True)
        yield Arrival(group.rows, decided, None)


def planned_arrivals(
    config: TransformerConfig, params: dict, groups: Sequence[DecodeBatch], decoding: Decoding, example_ids: Callable
) -> Iterator[Arrival]:
    """Plans are made of the inputs of some groups of one width at a time. Their rows come in by how many source tokens they keep,
    and like plans together, so that sub-layers that nobody runs are skipped; the room for sources only grows."""
    widest, size, room = groups[-1].tokens.shape[1], len(groups[0].rows), 0
    for block in _blocks(groups, GROUPS * DECIDED):
        decided = [
            decide(config, params, group.tokens, group.mask, decoding, example_ids(group.rows), outermost=True)
            for group in block
        ]
        plans = jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get([each.plan for each in decided]))
        rows = np.concatenate([group.rows for group in block])
        order = np.array(
            sorted(np.flatnonzero(rows >= 0).tolist(), key=lambda place: _likeness(plans, place, widest)), np.int64
        )
        for start in range(0, len(order), size):
            places = np.pad(order[start : start + size], (0, max(0, start + size - len(order))), constant_values=-1)
            there = places[places >= 0]
            needed = room_of(jax.tree.map(lambda part, there=there: part[there], plans), widest)
            room = None if needed is None else max(room, needed)
            width = block[0].tokens.shape[1] if room is None else widest
            chosen = chosen_program.way(True)(decided, places.astype(np.int32), width=width)
            yield Arrival(np.where(places >= 0, rows[places], -1), chosen, room)


def plans_by_input(decoding: Decoding) -> bool:
    """Whether plans are made of what inputs say, so that rows are of different ones."""
    return decoding.plan is not None and decoding.plan.after > 0


def room_of(plan: Plan, width: int) -> int | None:
    """Room for the source tokens that plans, on the host, keep: one of few lengths up to `width`; None where they keep all."""
    if plan.source is None:
        return None
    return Buckets.for_limit(width).length(max(1, int(plan.source.sum(axis=1).max(initial=0))))


def capacity(decoding: Decoding) -> int:
    """The room for generated tokens of a decoding whose limits are numbers."""
    length = decoding.limits.max_new_tokens
    assert length is not None  # resolved
    return capacity_of(int(length))


def _likeness(plans: Plan, place: int, width: int) -> tuple:
    """What rows are sorted by: those that need like room, then those that run like sub-layers, stand together."""
    row = jax.tree.map(lambda part: part[place], plans)
    return room_of(jax.tree.map(lambda part: part[place : place + 1], plans), width) or 0, [part.tolist() for part in row[:5]]


def _blocks(groups: Sequence[DecodeBatch], most: int) -> Iterator[list[DecodeBatch]]:
    """Groups that follow each other and are of one width, so many at most."""
    for _, alike in itertools.groupby(groups, key=lambda group: group.tokens.shape[1]):
        while block := list(itertools.islice(alike, most)):
            yield block


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
        self._rows = np.concatenate([group.rows for group in groups])
        self._source_tokens = np.concatenate([group.mask.sum(axis=1) for group in groups])
        self._truncated = np.concatenate([group.truncated for group in groups])
        self._number = {row: number for number, row in enumerate(self._rows.tolist()) if row >= 0}
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
            rows=self._rows[numbers],
            source_tokens=self._source_tokens[numbers],
            truncated=self._truncated[numbers],
            trace=_of_rows(trace, places),
            seconds=now - self._since,
            places=self._steps * self._slots,
            executed=self._executed,
            widths=frozenset(self._widths),
        )
        self._since, self._steps, self._executed, self._widths = now, 0, 0, set()


def groups_of(batches: Sequence[DecodeBatch], slots: int, wanted: Collection[int] | None = None) -> Iterator[DecodeBatch]:
    """The wanted rows as they are prefilled, a part of the slots at a time, as wide as their batches; rows that fill up come
    last. None: all rows."""
    size = max(1, slots // GROUPS)
    for batch in batches:
        places = np.flatnonzero([row >= 0 and (wanted is None or row in wanted) for row in batch.rows.tolist()])
        for start in range(0, len(places), size):
            chosen = places[start : start + size]
            missing = size - len(chosen)
            yield DecodeBatch(
                tokens=np.pad(batch.tokens[chosen], ((0, missing), (0, 0))),
                mask=np.pad(batch.mask[chosen], ((0, missing), (0, 0))),
                rows=np.pad(batch.rows[chosen], (0, missing), constant_values=-1),
                truncated=np.pad(batch.truncated[chosen], (0, missing)),
            )


def _of_rows(trace: Trace, rows: np.ndarray) -> Trace:
    """The trace of some of its rows, without what the batch executed."""
    return jax.tree.map(lambda each: each[rows], trace._replace(executed=None))
