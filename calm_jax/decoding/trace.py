"""What a decode writes down: the token, and what it needed, of every row at every step; and the Trace that this makes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped

from calm_jax.decoding.layer_loop import LayerLoop
from calm_jax.decoding.state import DecodeCarry, DecodeInputs, DecoderCache, DecodeState, LayerState
from calm_jax.models.config import TransformerConfig
from calm_jax.types import Array, Drafts, Plan, PrefillWork, Trace, Work


class Written(NamedTuple):
    """What a decode has written down of its rows, as `DecodeInputs` and `DecodeCarry` have it, rings from anywhere on."""

    first: Array
    lengths: Array
    table: Array
    confidence: Array
    log_probabilities: Array | None
    prefill: PrefillWork
    plan: Plan | None
    drafts: Drafts | None


def written(state: DecodeState) -> Written:
    """What is written down so far."""
    inputs, carry = state
    columns = carry.lengths, carry.table, carry.confidence, carry.log_probabilities
    return Written(inputs.first, *columns, inputs.prefill, inputs.plan, carry.drafts)


def generated(inputs: DecodeInputs, carry: DecodeCarry) -> Int[Array, 'B T']:
    """The tokens of each row in order, anything after its last."""
    return in_order(inputs.first, carry.table[:, 0])


def said(state: DecodeState, row: int, since: int = 0) -> list[int]:
    """The tokens of a row from its `since`-th on, on the host."""
    inputs, carry = state
    count = int(carry.lengths[row])
    if count <= since:
        return []
    ring, first = np.asarray(carry.table[row, 0]), int(np.broadcast_to(inputs.first, carry.lengths.shape)[row])
    return ring[(first + np.arange(since, count)) % len(ring)].tolist()


def in_order(first: Int[Array, '*rows'], ring: Shaped[Array, 'B T']) -> Shaped[Array, 'B T']:
    """[B, T, …] of a ring written at the cursor, each row from its first token on."""
    places = (first[..., None] + jnp.arange(ring.shape[1], dtype=jnp.int32)) % ring.shape[1]
    places = jnp.broadcast_to(places, ring.shape[:2])
    return jnp.take_along_axis(ring, places, axis=1)


def recorded(
    loop: LayerLoop, carry: DecodeCarry, state: LayerState, cache: DecoderCache, chosen: Int[Array, ' B']
) -> DecodeCarry:
    """The carry with what this token was, and what it needed, written down."""
    work, own_filled = _work(loop, carry, state)
    # Times a row's being there: nothing is counted past its end.
    columns = jnp.stack([state.visited, *work], axis=1) * carry.alive[:, None]
    column = jnp.concatenate([chosen[:, None], columns], axis=1)[:, :, None]
    slot = carry.cursor % carry.table.shape[2]

    def write(ring, column, slot, axis):
        if loop.inputs.first.ndim and column.ndim > 1:
            # The ring of a row that has ended goes on under it, until the row has left.
            there = jax.lax.dynamic_slice_in_dim(ring, slot, 1, axis=axis)
            column = jnp.where(carry.alive.reshape(-1, *[1] * (column.ndim - 1)), column, there)
        return jax.lax.dynamic_update_slice_in_dim(ring, column, slot, axis=axis)

    log_probabilities = carry.log_probabilities
    if log_probabilities is not None:
        logits = jax.nn.log_softmax(loop.call(state.hidden, method='unembed'), axis=-1)
        of_chosen = jnp.take_along_axis(logits, jnp.maximum(chosen, 0)[:, None], axis=1).astype(jnp.float32)
        log_probabilities = write(log_probabilities, jnp.where(carry.alive[:, None], of_chosen, 0), slot, axis=1)
    confidence = jnp.where(carry.alive, state.confidence, 0)[:, None]
    return carry._replace(
        cache=cache,
        own_filled=own_filled,
        table=write(carry.table, column, slot, axis=2),
        confidence=write(carry.confidence, confidence, slot, axis=1),
        executed=write(carry.executed, loop.executed(state)[None], slot, axis=0),
        log_probabilities=log_probabilities,
    )


def _work(loop: LayerLoop, carry: DecodeCarry, state: LayerState) -> tuple[Work, Array | None]:
    """`Work` of this token, int32 [B] each, and how far each row alone would have filled its layers."""
    visited, one = state.visited, jnp.ones_like(state.visited)
    if state.sub_layers is None:
        ran = (visited, jnp.zeros_like(visited) if loop.config.decoder_only else visited, visited)
    else:
        ran = tuple(state.sub_layers[:, i] for i in range(3))
    if state.scored is None:
        scored = (one, one * loop.config.vocab_size, 0 * one)
    else:
        scored = tuple(state.scored[:, i] for i in range(3))
    written, own_filled = _written(loop, carry.own_filled, visited)
    return Work._make((*ran, written, *scored)), own_filled


def _written(
    loop: LayerLoop, own_filled: Int[Array, 'B L'] | None, visited: Int[Array, ' B']
) -> tuple[Int[Array, ' B'], Int[Array, 'B L'] | None]:
    """At how many positions, summed over layers, keys and values were projected for this token of each row alone, int32 [B];
    and how far its layers are filled then."""
    layers, plan, copies = loop.config.num_decoder_layers, loop.inputs.plan, loop.decoding.propagation.copies
    entered = jnp.arange(layers) < visited[:, None]
    if own_filled is None and not copies:
        entered = jnp.ones_like(entered)  # written at once, whoever enters them
    if plan is not None:
        entered = entered & plan.self_attention
    if own_filled is None:
        return jnp.sum(entered, axis=1, dtype=jnp.int32), None
    filled = jnp.where(entered, loop.token.place + 1, own_filled)
    return jnp.sum(filled - own_filled, axis=1, dtype=jnp.int32), filled


def trace_of(config: TransformerConfig, state: DecodeState) -> Trace:
    """What the decode reports so far."""
    first, executed = state.inputs.first, state.carry.executed
    return trace_of_written(config, written(state), executed if first.ndim else jnp.roll(executed, -first))


def trace_of_written(config: TransformerConfig, rows: Written, executed: Array) -> Trace:
    """What is reported of rows; executed: int32 [T], of the batch that they were in."""
    # The last positions are a round's, beyond the most that any row says.
    count = rows.table.shape[2] - (0 if rows.drafts is None else rows.drafts.drafted.shape[1])

    def columns(ring):
        return in_order(rows.first, ring)[:, :count]

    present = jnp.arange(count) < rows.lengths[:, None]
    table = [columns(rows.table[:, i]) for i in range(rows.table.shape[1])]
    tokens, exit_layers, *work = [jnp.where(present, column, 0) for column in table]
    scores = rows.log_probabilities
    return Trace(
        tokens=jnp.where(present, tokens, config.pad_id),
        lengths=rows.lengths,
        exit_layers=exit_layers,
        confidence=jnp.where(present, columns(rows.confidence), 0),
        work=Work(*work),
        prefill=rows.prefill,
        plan=rows.plan,
        executed=executed[:count],
        log_probabilities=None if scores is None else jnp.where(present, columns(scores), 0),
        drafts=rows.drafts,
    )


def cut(trace: Trace, length: int) -> Trace:
    """The trace without the room behind its longest row's limit: T becomes `length`."""

    def columns(array):
        return array[:, :length]

    return trace._replace(
        tokens=columns(trace.tokens),
        exit_layers=columns(trace.exit_layers),
        confidence=columns(trace.confidence),
        work=Work(*map(columns, trace.work)),
        executed=trace.executed[:length],
        log_probabilities=None if trace.log_probabilities is None else columns(trace.log_probabilities),
    )
