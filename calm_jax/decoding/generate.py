"""The token loop: plan and read the source or prompt once; then one token of every row at a time until all have ended."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from calm_jax.decoding.beam import beam_search
from calm_jax.decoding.begin import Decided, chosen_rows, decide_rows, joined_rows, prefill_rows
from calm_jax.decoding.choice import Beam
from calm_jax.decoding.compiled import compiled
from calm_jax.decoding.decoding import Decoding, off
from calm_jax.decoding.move import finished, moved
from calm_jax.decoding.packing import NEVER, Packing
from calm_jax.decoding.readout import Readout, read_rows
from calm_jax.decoding.rows import Rows
from calm_jax.decoding.slots import (
    Flown,
    Pause,
    Progress,
    Slots,
    fly_rows,
    insert_rows,
    progress_of,
    vacant_slots,
    widened_slots,
)
from calm_jax.decoding.state import DecodeCarry, DecodeState
from calm_jax.decoding.trace import cut, trace_of, trace_of_written, written
from calm_jax.models.bound import bound
from calm_jax.models.config import TransformerConfig
from calm_jax.tasks import Task
from calm_jax.types import Array, HeadColumns, Trace

# Room for generated tokens grows by steps, so that one more token compiles nothing new.
CAPACITY_STEP = 16


def generate(
    config: TransformerConfig, params: dict, tokens: Any, mask: Any = None, decoding: Decoding = Decoding(), **options
) -> Trace:
    """Decodes a batch, each row to the depth that its decisions ask for.

    config, params: of the model. tokens: int32 [B, S], the source, padded behind, or for a decoder-only model the prompt,
    padded before; mask: bool [B, S], which of them are there; None: all of them, as an id that pads may be a text's own. The
    prompt runs at full depth, but for what a plan leaves out, and but for its last token: what that one is followed by is the
    first decision. decoding: how; its max_new_tokens is a number here. A row of which nothing is there has ended before it
    starts. options: as `program`. Returns a Trace; T is the most tokens of any row, as far as that is known outside of other
    programs.
    Raises TypeError for an option that there is none of; ValueError for what does not go together, and, outside of other
    programs, without a mask where a row begins or ends as padding would: with the id that pads.
    """
    if unknown := options.keys() - OPTIONS:
        raise TypeError(f'generate has no option {min(unknown)!r}; how to decode is said by decoding=Decoding(…)')
    run, arguments, settings = program(config, params, tokens, mask, decoding, **options)
    trace, length = run(*arguments, **settings), _longest(decoding, options.get('rows'))
    return trace if length is None or length == trace.tokens.shape[1] else cut(trace, length)


def program(
    config: TransformerConfig,
    params: dict,
    tokens: Any,
    mask: Any = None,
    decoding: Decoding = Decoding(),
    *,
    rows: Rows | None = None,
    example_ids: Any = None,
    capacity: int | None = None,
    forced: Any = None,
    head_table: Array | HeadColumns | None = None,
    log_probabilities: bool = False,
    packing: Packing = NEVER,
    outermost: bool = False,
):
    """(compiled function, its arguments, its settings): what `generate` calls, to be compiled ahead of time or timed apart.

    rows: settings of each row (`Rows`). example_ids: int32 [B], which texts the rows are, for draws and plans; None: 0, 1, ….
    capacity: generated tokens that there is room for, static; None: what the limits need, in steps of CAPACITY_STEP.
    forced: int32 [B, T], tokens to say whatever the model says; −1 where it is free.
    head_table: the head as the measure reads it beside the whole, where it is at hand: [V, E] to prune
        (`Transformer.head_table`), HeadColumns of listed ids (`head_columns`); else it is made, once a call.
    log_probabilities: whether the trace has those of the tokens under the model's own logits at the exit.
    packing: of the rows that are still inside after some layers, or that run a sub-layer (`Packing`), as far as that is of use.
    outermost: whether this is no part of another program, and may have this machine's compiler options (`compiled.py`).
    """
    if not isinstance(decoding, Decoding):
        raise TypeError(f'decoding is {decoding!r}; expected Decoding(…)')
    decoding, rows, settings = resolved(decoding, rows, capacity)
    arguments = config, params, *_inputs(config, tokens, mask, example_ids), decoding
    if isinstance(decoding.choice, Beam):
        if forced is not None or log_probabilities:
            raise ValueError(f'beam search takes no {"forced tokens" if forced is not None else "log-probabilities"}')
        return beam_search.way(outermost), arguments, {**settings, 'rows': rows}
    if log_probabilities and decoding.exit is not None and decoding.exit.measure.prunes:
        raise ValueError('log-probabilities are of the whole vocabulary, and the measure looks at a part of it')
    options = {'rows': rows, 'forced': forced, 'head_table': head_table, 'log_probabilities': log_probabilities}
    options['packing'] = of_use(packing, decoding, rows)
    return generate_program.way(outermost), arguments, {**settings, **options}


OPTIONS = frozenset(inspect.signature(program).parameters)


def decide(
    config: TransformerConfig,
    params: dict,
    tokens: Any,
    mask: Any = None,
    decoding: Decoding = Decoding(),
    example_ids: Any = None,
    outermost: bool = False,
) -> Decided:
    """Which sub-layers each row runs, and the states that the plan maker looked at; arguments as `program`."""
    tokens, mask, example_ids = _inputs(config, tokens, mask, example_ids)
    run = decide_program.way(outermost)
    return run(config, params, tokens, mask, example_ids, _stateful(decoding).resolved())


def prefill(
    config: TransformerConfig,
    params: dict,
    decided: Decided,
    decoding: Decoding = Decoding(),
    *,
    rows: Rows | None = None,
    capacity: int | None = None,
    forced: Any = None,
    head_table: Array | HeadColumns | None = None,
    log_probabilities: bool = False,
    cursor: Any = None,
    packing: Packing = NEVER,
    kept: int | None = None,
    outermost: bool = False,
) -> DecodeState:
    """The state before the first token, from what was decided; arguments as `program`; cursor and kept as
    `prefill_rows`."""
    decoding, rows, settings = resolved(_stateful(decoding), rows, capacity)
    options = {
        'forced': forced,
        'head_table': head_table,
        'log_probabilities': log_probabilities,
        'cursor': cursor,
        'packing': of_use(packing, decoding, rows),
        'kept': kept,
    }
    state = prefill_program.way(outermost)(config, params, decided, decoding, rows=rows, **settings, **options)
    return state if head_table is None else state.with_head_table(head_table)


def conclude(
    config: TransformerConfig,
    params: dict,
    decided: Decided,
    decoding: Decoding = Decoding(),
    *,
    rows: Rows | None = None,
    capacity: int | None = None,
    head_table: Array | HeadColumns | None = None,
    log_probabilities: bool = False,
    packing: Packing = NEVER,
    kept: int | None = None,
    outermost: bool = False,
) -> Trace:
    """What a batch comes to from what was decided on: `prefill` and `finish` as one program, as nobody looks at the state
    between; arguments as `prefill`."""
    decoding, rows, settings = resolved(_stateful(decoding), rows, capacity)
    options = {'head_table': head_table, 'log_probabilities': log_probabilities, 'kept': kept}
    packing = of_use(packing, decoding, rows)
    run = conclude_program.way(outermost)
    return run(config, params, decided, decoding, rows=rows, packing=packing, **settings, **options)


def begin(
    config: TransformerConfig,
    params: dict,
    tokens: Any,
    mask: Any = None,
    decoding: Decoding = Decoding(),
    *,
    example_ids: Any = None,
    outermost: bool = False,
    **options,
) -> DecodeState:
    """The state before the first token: `prefill` after `decide`; arguments as theirs."""
    decided = decide(config, params, tokens, mask, decoding, example_ids, outermost)
    return prefill(config, params, decided, decoding, outermost=outermost, **options)


def step(
    config: TransformerConfig, params: dict, state: DecodeState, decoding: Decoding = Decoding(), *, outermost: bool = False
) -> DecodeState:
    """The state after one more token of every row that has not ended, or draft, where they are verified. What the step makes
    anew is donated: the old state is gone. decoding: as it began; outermost: as `program`."""
    run = step_program.way(outermost)
    (start, first), carry = run(config, params, state.inputs, state.carry, _as_begun(decoding, state))
    return DecodeState(state.inputs._replace(start=start, first=first), carry)


def finish(
    config: TransformerConfig,
    params: dict,
    state: DecodeState,
    decoding: Decoding = Decoding(),
    packing: Packing = NEVER,
    *,
    outermost: bool = False,
) -> Trace:
    """What a state comes to: steps until every row has ended. decoding: as it began; packing, outermost: as `program`."""
    decoding = _as_begun(decoding, state)
    packing = of_use(packing, decoding, Rows(depth=state.inputs.depth))
    run = finish_program.way(outermost)
    return run(config, params, state.inputs, state.carry, decoding, packing=packing)


def read(
    config: TransformerConfig,
    params: dict,
    head: Mapping[str, Any],
    decided: Decided,
    decoding: Decoding = Decoding(),
    *,
    task: Task,
    kept: int | None = None,
    outermost: bool = False,
) -> Readout:
    """What the head of a task says of texts that are decided upon, as `read_rows`; kept: its room; outermost: as `program`."""
    run = read_program.way(outermost)
    return run(config, params, dict(head), decided, _stateful(decoding).resolved(), task=task, kept=kept)


def insert(state: DecodeState, slots: Any, prefilled: DecodeState) -> DecodeState:
    """The state with the rows of `prefilled` in its slots int32 [n], in place of those that were there; a row whose slot is
    below 0 stays out. Both states began with a cursor, which says that rows stand apart, and with the same capacity and widths
    of sources. The old state is donated. Between steps, so that a server may let rows in as others end."""
    bare = state.with_head_table(None), slots, prefilled.with_head_table(None)
    return insert_program(*bare).with_head_table(state.inputs.head_table)


def vacant(prefilled: DecodeState, count: int) -> Slots:
    """`count` empty slots for rows like those of `prefilled`."""
    return vacant_program(prefilled.with_head_table(None), count).with_head_table(prefilled.inputs.head_table)


def widen(config: TransformerConfig, slots: Slots, prefilled: DecodeState) -> Slots:
    """The slots with the room that rows of `prefilled`, whose sources are wider, need."""
    bare = slots.with_head_table(None), prefilled.with_head_table(None)
    return widen_program(config, *bare).with_head_table(slots.state.inputs.head_table)


def fly(
    config: TransformerConfig,
    params: dict,
    slots: Slots,
    prefilled: DecodeState,
    numbers: Any,
    last: Any = False,
    decoding: Decoding = Decoding(),
    packing: Packing = NEVER,
    pause: Pause | None = None,
    outermost: bool = False,
) -> tuple[Slots, Flown]:
    """Steps until all rows of `prefilled` have come in, or to a pause, as `fly_rows`; decoding: as they began; packing,
    outermost: as `program`. The old slots are donated."""
    numbers, last = np.asarray(numbers, np.int32), np.asarray(last)
    decoding, inputs = _as_begun(decoding, slots.state), slots.state.inputs
    packing = of_use(packing, decoding, Rows(depth=inputs.depth))
    # The table is the model's own: no state may give it away.
    bare = slots.with_head_table(None), prefilled.with_head_table(None)
    run, table = fly_program.way(outermost), inputs.head_table
    slots, flown = run(config, params, table, *bare, numbers, last, decoding, pause, packing=packing)
    return slots.with_head_table(table), flown


@compiled(static_argnames=('config',))
def landed(config: TransformerConfig, slots: Slots) -> Trace:
    """What is reported of the rows in all slots, without `executed`."""
    return trace_of_written(config, written(slots.state), jnp.zeros_like(slots.state.carry.executed))


def progress(slots: Slots) -> Progress:
    """What the rows in the slots have said so far."""
    return progress_program(slots.with_head_table(None))


@compiled()
def progress_program(slots) -> Progress:
    """`progress`, compiled."""
    return progress_of(slots)


@compiled(donate_argnames=('state',))
def insert_program(state, slots, prefilled) -> DecodeState:
    """`insert`, compiled."""
    return insert_rows(state, jnp.asarray(slots, jnp.int32), prefilled)


@compiled(static_argnames=('count',))
def vacant_program(prefilled, count) -> Slots:
    """`vacant`, compiled."""
    return vacant_slots(prefilled, count)


@compiled(static_argnames=('config',))
def widen_program(config, slots, prefilled) -> Slots:
    """`widen`, compiled."""
    return widened_slots(slots, prefilled, config.pad_id)


@compiled(static_argnames=('config', 'packing'), donate_argnames=('slots',))
def fly_program(config, params, table, slots, prefilled, numbers, last, decoding, pause, *, packing) -> tuple[Slots, Flown]:
    """`fly`, compiled; table: the head as the measure reads it beside the whole."""
    slots = slots.with_head_table(table)
    slots, flown = fly_rows(bound(config, params), config, slots, prefilled, numbers, last, decoding, packing, pause)
    return slots.with_head_table(None), flown


@compiled(static_argnames=('config', 'capacity', 'log_probabilities', 'packing'))
def generate_program(
    config, params, tokens, mask, example_ids, decoding, *, capacity, rows, forced, head_table, log_probabilities, packing
) -> Trace:
    """`generate`, compiled: decide, prefill, then steps while any row is alive."""
    call = bound(config, params)
    decided = decide_rows(call, config, tokens, mask, decoding, example_ids)
    options = {'log_probabilities': log_probabilities, 'packing': packing}
    state = prefill_rows(call, config, decided, decoding, capacity, rows, forced, head_table, **options)
    return trace_of(config, finished(call, config, state, decoding, packing))


@compiled(static_argnames=('config', 'capacity', 'log_probabilities', 'packing', 'kept'))
def conclude_program(
    config, params, decided, decoding, *, capacity, rows, head_table, log_probabilities, packing, kept
) -> Trace:
    """`conclude`, compiled."""
    call = bound(config, params)
    options = {'log_probabilities': log_probabilities, 'packing': packing, 'kept': kept}
    state = prefill_rows(call, config, decided, decoding, capacity, rows, None, head_table, **options)
    return trace_of(config, finished(call, config, state, decoding, packing))


@compiled(static_argnames=('config',))
def decide_program(config, params, tokens, mask, example_ids, decoding) -> Decided:
    """`decide`, compiled."""
    return decide_rows(bound(config, params), config, tokens, mask, decoding, example_ids)


@compiled(static_argnames=('config', 'capacity', 'log_probabilities', 'packing', 'kept'))
def prefill_program(
    config, params, decided, decoding, *, capacity, rows, forced, head_table, log_probabilities, cursor, packing, kept
) -> DecodeState:
    """`prefill`, compiled."""
    call, options = bound(config, params), {'log_probabilities': log_probabilities, 'cursor': cursor}
    arguments = call, config, decided, decoding, capacity, rows, forced, head_table
    state = prefill_rows(*arguments, **options, packing=packing, kept=kept)
    # One that is at hand would be copied on its way out.
    return state if head_table is None else state.with_head_table(None)


@compiled(static_argnames=('config', 'packing'))
def finish_program(config, params, inputs, carry, decoding, *, packing) -> Trace:
    """`finish`, compiled."""
    state = finished(bound(config, params), config, DecodeState(inputs, carry), decoding, packing)
    return trace_of(config, state)


@compiled(static_argnames=('config', 'task', 'kept'))
def read_program(config, params, head, decided, decoding, *, task, kept) -> Readout:
    """`read`, compiled."""
    return read_rows(bound(config, params), config, decided, decoding, head, task, kept)


@compiled()
def joined_program(decided) -> Decided:
    """`joined_rows`, compiled."""
    return joined_rows(decided)


@compiled(static_argnames=('width',))
def chosen_program(decided, rows, *, width) -> Decided:
    """`chosen_rows`, compiled."""
    return chosen_rows(decided, rows, width)


@compiled(static_argnames=('config',), donate_argnames=('carry',))
def step_program(config, params, inputs, carry, decoding) -> tuple[tuple, DecodeCarry]:
    """`step`, compiled: what is new of the inputs, and what the step makes anew."""
    inputs, carry = moved(bound(config, params), config, DecodeState(inputs, carry), decoding)
    return (inputs.start, inputs.first), carry


def _as_begun(decoding, state):
    """The decoding without what was off when the state began: λ stands there, by row if need be."""
    if decoding.exit is not None and state.inputs.threshold is not None:
        decoding = _without_threshold(decoding)
    return decoding.resolved()


def _without_threshold(decoding):
    """The decoding with an exit that no dial turns off."""
    return dataclasses.replace(decoding, exit=dataclasses.replace(decoding.exit, threshold=0.0))


def _stateful(decoding):
    """The decoding, refused where its state cannot leave it."""
    if isinstance(decoding.choice, Beam):
        raise ValueError('a beam search has no state that leaves it; use generate')
    return decoding


def resolved(decoding: Decoding, rows: Rows | None, capacity: int | None) -> tuple[Decoding, Rows, dict]:
    """(the decoding without what is off, the rows' settings, the static settings) of a program.

    A threshold that is not a number yet is made a setting of the rows, whose mask says where it is off.
    """
    rows = Rows() if rows is None else rows
    if not isinstance(rows, Rows):
        raise TypeError(f'rows is {rows!r}; expected Rows(…)')
    if rows.threshold is not None:
        if decoding.exit is None:
            raise ValueError('rows have thresholds, but the decoding has no exit rule')
        # The dial that theirs stand for must not turn the rule off.
        decoding = _without_threshold(decoding)
    elif decoding.exit is not None and isinstance(decoding.exit.threshold, Tracer):
        rows = dataclasses.replace(rows, threshold=decoding.exit.threshold)
    decoding = decoding.resolved()
    if isinstance(decoding.choice, Beam) and any(each is not None for each in (rows.threshold, rows.depth, rows.limit)):
        raise ValueError('beam search takes no settings of rows, but what they begin with')
    if rows.depth is not None and decoding.exit is not None and decoding.exit.verify:
        raise ValueError('verify with rows of their own depths: what is verified has all; leave one of the two out')
    if rows.depth is not None and decoding.exit is not None and decoding.exit.adapters is not None:
        raise ValueError('rows have depths, at which nothing adapts their states; expected an exit without adapters')
    if capacity is None:
        longest = _longest(decoding, rows)
        if longest is None:
            raise ValueError('max_new_tokens is no number here; say the capacity')
        capacity = capacity_of(longest)
    return decoding, rows, {'capacity': capacity}


def capacity_of(longest: int) -> int:
    """The room for so many generated tokens."""
    return -(-longest // CAPACITY_STEP) * CAPACITY_STEP


def of_use(packing: Packing, decoding: Decoding, rows: Rows | None = None) -> Packing:
    """What of a packing a decoding has a use for: points where tokens leave early, and skipped layers wait; sub-layers where
    plans or gates say who runs them."""
    if isinstance(decoding.choice, Beam) or (decoding.exit is not None and decoding.exit.verify):
        return NEVER
    rows = Rows() if rows is None else rows
    leaves = not off(decoding.exit) or (decoding.exit is not None and rows.threshold is not None) or rows.depth is not None
    return packing.part(leaves and decoding.propagation.lazy, not (off(decoding.plan) and off(decoding.gate)))


def _longest(decoding, rows):
    """The most tokens of any row, where that is known here."""
    limit = decoding.limits.max_new_tokens if rows is None or rows.limit is None else rows.limit
    if limit is None:
        raise ValueError('max_new_tokens is None; expected the most tokens to generate')
    return None if isinstance(limit, Tracer) else int(np.max(limit))


def _inputs(config, tokens, mask, example_ids):
    tokens = _array(tokens, np.int32)
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise ValueError(f'tokens are of shape {list(tokens.shape)}; expected [B, S], a row for each text')
    if mask is not None and np.shape(mask) != tokens.shape:
        raise ValueError(f'mask is of shape {list(np.shape(mask))}; expected that of the tokens, {list(tokens.shape)}')
    if mask is None:
        _check_unpadded(config, tokens)
        mask = np.ones(tokens.shape, bool)
    else:
        mask = _array(mask, bool)
    ids = np.arange(tokens.shape[0], dtype=np.int32) if example_ids is None else _array(example_ids, np.int32)
    return tokens, mask, ids


def _check_unpadded(config, tokens):
    """Raises ValueError for tokens, numbers already, of which a row may be padded."""
    if isinstance(tokens, Tracer):
        return
    outer = np.asarray(tokens[:, 0] if config.decoder_only else tokens[:, -1])
    if np.any(outer == config.pad_id):
        where, row = 'begins' if config.decoder_only else 'ends', int(np.argmax(outer == config.pad_id))
        raise ValueError(
            f'row {row} of tokens {where} with the id that pads, {config.pad_id}, and there is no mask; expected mask, bool '
            '[B, S], which tokens are there'
        )


def _array(value, dtype):
    """An array of a type, on the host where it is there: a compiled function takes it quicker than it is sent apart."""
    return jnp.asarray(value, dtype) if isinstance(value, jax.Array) else np.asarray(value, dtype)
