"""Slots: the places of a running decode, which rows come into and leave at steps of their own.

A state whose rows stand apart (`begin` with a cursor) goes on while single rows of it are replaced. A row comes in
right-aligned at the cursor that the others have reached: what it brings in its caches, a decoder-only model's prompt, is turned
there on the ring, and what the slot held before is older than the row, so that it is not seen. The cursor and the ring are all
that rows share, and where drafts are verified the round; none of them is in what a row says.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.move import moved
from calm_jax.decoding.packing import NEVER, Packing
from calm_jax.decoding.state import DecodeCarry, DecodeInputs, DecoderCache, DecodeState
from calm_jax.decoding.trace import Written, generated, trace_of_written, written
from calm_jax.models.cache import KVCache
from calm_jax.models.config import TransformerConfig
from calm_jax.models.layers import MASKED
from calm_jax.types import Array, HeadColumns, Trace


class Slots(NamedTuple):
    """A decode of B rows that stand apart. numbers: int32 [B], of the text in each slot, ended or not; −1 where none is."""

    state: DecodeState
    numbers: Array

    def with_head_table(self, table: Array | HeadColumns | None) -> 'Slots':
        """The slots with another table of the head, or without."""
        return self._replace(state=self.state.with_head_table(table))


class Pause(NamedTuple):
    """Where a flight stops before its end, and what was decided when one stopped last.

    steps: int32 [], after which it stops, a round being as many as the most tokens that a row says. came: int32 [], how many
    had come in. ended: bool [B], slots whose rows end as they are.
    """

    steps: Any
    came: Any
    ended: Any


class Flown(NamedTuple):
    """What a flight did. numbers: int32 [n], of the texts that left their slots; −1 for places that nobody left from.

    trace: of these rows, without `executed`, which is of nobody's own. steps, executed: int32 [], how many were run (see
    `Pause`), and the places of the batch's sub-layers in them. came: int32 [], how many have come in, of a flight that may
    pause; else None.
    """

    numbers: Array
    trace: Trace
    steps: Array
    executed: Array
    came: Array | None = None


class Progress(NamedTuple):
    """What the rows in the slots have come to. numbers: as `Slots`; alive: bool [B]; lengths: int32 [B]; tokens: int32 [B, T],
    anything after a row's last."""

    numbers: Array
    alive: Array
    lengths: Array
    tokens: Array


def progress_of(slots: Slots) -> Progress:
    """What the rows in the slots have said so far."""
    (inputs, carry), numbers = slots
    return Progress(numbers, carry.alive, carry.lengths, generated(inputs, carry))


class Flight(NamedTuple):
    """A flight between two steps. rows: of the inputs, what is each row's own. came: int32 [], how many have come in.
    left, records: of those whose places they took, and what was written down of them, by order of coming."""

    rows: DecodeInputs
    carry: DecodeCarry
    numbers: Array
    came: Array
    left: Array
    records: Written
    steps: Array
    executed: Array


def vacant_slots(prefilled: DecodeState, count: int) -> Slots:
    """`count` empty slots for rows like those of `prefilled`."""
    rows = prefilled.carry.last.shape[0]

    def repeated(leaf):
        one = leaf[: leaf.shape[0] // rows]
        return jnp.broadcast_to(one[None], (count, *one.shape)).reshape(count * one.shape[0], *one.shape[1:])

    inputs, carry = prefilled
    shared = {'cursor': inputs.first[0], **{name: getattr(carry, name) for name in ('executed', 'pending', 'credit')}}
    carry = jax.tree.map(repeated, carry._replace(**dict.fromkeys(shared)))._replace(**shared, alive=jnp.zeros(count, bool))
    return Slots(DecodeState(jax.tree.map(repeated, inputs.own).joined(inputs), carry), jnp.full(count, -1, jnp.int32))


def widened_slots(slots: Slots, prefilled: DecodeState, pad_id: int) -> Slots:
    """The slots with the room that rows of `prefilled` need: for longer sources, or on the longer ring of longer prompts.

    pad_id: what sources are padded with, which rules read before a prompt.
    """
    (inputs, carry), numbers = slots
    wide = prefilled.inputs
    behind, front = wide.source.shape[1] - inputs.source.shape[1], 0
    if inputs.cross_kv is None:
        behind, front = 0, behind
        carry = carry._replace(cache=_on_ring(carry.cache, carry.cursor, prefilled.carry.cache.ring))
        inputs = inputs._replace(prompt=jnp.pad(inputs.prompt, ((0, 0), (front, 0)), constant_values=pad_id))
    else:
        more = wide.room - inputs.room
        inputs = inputs._replace(
            cross_kv=jax.tree.map(lambda each: jnp.pad(each, ((0, 0), (0, more), (0, 0))), inputs.cross_kv),
            cross_bias=jnp.pad(jnp.asarray(inputs.cross_bias), ((0, 0), (0, 0), (0, 0), (0, more)), constant_values=MASKED),
        )
    if inputs.plan is not None and inputs.plan.source is not None:
        inputs = inputs._replace(plan=inputs.plan._replace(source=jnp.pad(inputs.plan.source, ((0, 0), (front, behind)))))
    inputs = inputs._replace(
        source=jnp.pad(inputs.source, ((0, 0), (front, behind)), constant_values=pad_id),
        mask=jnp.pad(inputs.mask, ((0, 0), (front, behind))),
    )
    return Slots(DecodeState(inputs.own.joined(wide), carry), numbers)


def insert_row(state: DecodeState, slot: Array | int, prefilled: DecodeState, row: Array | int) -> DecodeState:
    """The state with a row of `prefilled` in a slot, in place of the one that was there."""
    inputs, carry = state
    new = prefilled.carry
    rows, shift = new.last.shape[0], carry.cursor - new.cursor

    def put(old, leaf, moved=lambda piece: piece):
        size = leaf.shape[0] // rows
        piece = moved(jax.lax.dynamic_slice_in_dim(leaf, row * size, size))
        return jax.lax.dynamic_update_slice_in_dim(old, piece, slot * size, axis=0)

    def later(index):
        return index + shift

    def turned(positions):
        return jnp.roll(positions, shift, axis=1)

    own, arriving, cache = inputs.own, prefilled.inputs.own, carry.cache
    own = jax.tree.map(put, own, arriving)._replace(
        first=put(own.first, arriving.first, later), start=put(own.start, arriving.start, later)
    )
    # A prompt stands in them; else zeros: what is there is older than the row, but hidden by adding, which no NaN heeds.
    layers = jax.tree.map(lambda old, leaf: put(old, leaf, turned), cache.layers, new.cache.layers)
    filled = tuple(put(old, leaf, later) for old, leaf in zip(cache.filled, new.cache.filled))
    carry = carry._replace(
        last=put(carry.last, new.last),
        alive=put(carry.alive, new.alive),
        lengths=put(carry.lengths, new.lengths),
        cache=cache._replace(layers=layers, filled=filled),
        own_filled=jax.tree.map(put, carry.own_filled, new.own_filled),
        drafts=jax.tree.map(put, carry.drafts, new.drafts),
        round=jax.tree.map(put, carry.round, new.round),  # the row drafts from the next on
    )
    return DecodeState(own.joined(inputs), carry)


def insert_rows(state: DecodeState, slots: Int[Array, ' n'], prefilled: DecodeState) -> DecodeState:
    """The state with the rows of `prefilled` in the slots [n]; a row whose slot is below 0 stays out."""

    def insert(row, state):
        return jax.lax.cond(
            slots[row] >= 0, lambda state: insert_row(state, slots[row], prefilled, row), lambda state: state, state
        )

    return jax.lax.fori_loop(0, slots.shape[0], insert, state)


def fly_rows(
    call: Callable,
    config: TransformerConfig,
    slots: Slots,
    prefilled: DecodeState,
    numbers: Int[Array, ' n'],
    last: Bool[Array, ''],
    decoding: Decoding,
    packing: Packing = NEVER,
    pause: Pause | None = None,
) -> tuple[Slots, Flown]:
    """Steps until all rows of `prefilled` have come in, each into an empty slot or that of a row that has ended; and with
    `last` until every row has ended.

    numbers: of the texts that the rows of `prefilled` are of; −1 behind them for rows that fill up.
    pause: where to stop before that, to be called again with the same rows; None: nowhere.
    """
    (inputs, carry), occupied = slots
    if pause is not None:
        carry = carry._replace(alive=carry.alive & ~pause.ended)
    waiting = jnp.sum(numbers >= 0, dtype=jnp.int32)
    place, of_slot = jax.lax.dynamic_update_slice_in_dim, jax.lax.dynamic_slice_in_dim

    def exchange(flight):
        """The first that waits, in the first slot that is free."""
        state, came = DecodeState(flight.rows.joined(inputs), flight.carry), flight.came
        slot = jnp.argmin(flight.carry.alive)
        records = jax.tree.map(lambda all, now: place(all, of_slot(now, slot, 1), came, 0), flight.records, written(state))
        rows, carry = insert_row(state, slot, prefilled, came)
        return flight._replace(
            rows=rows.own,
            carry=carry,
            numbers=place(flight.numbers, of_slot(numbers, came, 1), slot, 0),
            came=came + 1,
            left=place(flight.left, of_slot(flight.numbers, slot, 1), came, 0),
            records=records,
        )

    def refilled(flight):
        def free(flight):
            return (flight.came < waiting) & ~jnp.all(flight.carry.alive) & _between_rounds(flight.carry)

        return jax.lax.while_loop(free, exchange, flight)

    def stepped(flight):
        now, before = DecodeState(flight.rows.joined(inputs), flight.carry), flight.carry.cursor
        rows, carry = moved(call, config, now, decoding, packing)
        steps = jnp.max(carry.lengths - flight.carry.lengths)  # of a round the most tokens that a row says
        ran = jnp.where(carry.cursor > before, carry.executed[before % carry.executed.shape[0]], 0)
        return flight._replace(rows=rows.own, carry=carry, steps=flight.steps + steps, executed=flight.executed + ran)

    def before_pause(flight, goes_on):
        return goes_on if pause is None else goes_on & (flight.steps < pause.steps)

    def goes_on(flight):
        return before_pause(flight, (flight.came < waiting) | (last & jnp.any(flight.carry.alive)))

    def steps_on(flight):
        """Whether there is nothing to do but to step. Steps have a loop of their own, with nothing in it but steps."""
        whole = jnp.all(flight.carry.alive) | ~_between_rounds(flight.carry)
        return before_pause(flight, jnp.where(flight.came < waiting, whole, goes_on(flight)))

    def flown_on(flight):
        return refilled(jax.lax.while_loop(steps_on, stepped, flight))

    nothing = jnp.zeros((), jnp.int32)
    records = jax.tree.map(
        lambda leaf: jnp.zeros((numbers.shape[0], *leaf.shape[1:]), leaf.dtype), written(DecodeState(inputs, carry))
    )
    came = nothing if pause is None else jnp.asarray(pause.came, jnp.int32)
    flight = Flight(inputs.own, carry, occupied, came, jnp.full_like(numbers, -1), records, nothing, nothing)
    flight = jax.lax.while_loop(goes_on, flown_on, refilled(flight))
    slots = Slots(DecodeState(flight.rows.joined(inputs), flight.carry), flight.numbers)
    trace = trace_of_written(config, flight.records, jnp.zeros_like(carry.executed))
    return slots, Flown(flight.left, trace, flight.steps, flight.executed, None if pause is None else flight.came)


def _between_rounds(carry: DecodeCarry) -> Bool[Array, '']:
    """Whether rows may come in: where drafts are verified, those of a round stand alike."""
    return jnp.asarray(True) if carry.pending is None else carry.pending == 0


def _on_ring(cache: DecoderCache, cursor: Array, ring: int) -> DecoderCache:
    """The cache on a longer ring: every entry where its index stands there."""
    old = cache.ring
    slot = jnp.arange(ring, dtype=jnp.int32)
    age = (cursor - 1 - slot) % ring  # of the entry before the cursor: 0
    source = (cursor - 1 - jnp.minimum(age, old - 1)) % old

    def moved(positions):
        return jnp.take(positions, source, axis=1)

    states = None if cache.exit_states is None else moved(cache.exit_states)
    return cache._replace(layers=tuple(KVCache(*map(moved, each)) for each in cache.layers), exit_states=states)
