"""The token loop: plan and read the source or prompt once; then one token of every row at a time until all have ended."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from calm_jax.decoding.beam import beam_search
from calm_jax.decoding.begin import begin_program, bias_at, bound, decide, prefill
from calm_jax.decoding.choice import Beam, Greedy, likeliest_id, position_keys
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.layer_loop import LayerLoop
from calm_jax.decoding.rows import Rows
from calm_jax.decoding.state import DecodeCarry, DecodeInputs, DecodeState, LayerState, TokenInputs
from calm_jax.models.config import TransformerConfig
from calm_jax.types import Array, Trace, Work

# The logit of ids that pruning has dropped: below all others, above those that a rule forbids.
UNKEPT = -1e30
# Room for generated tokens grows by steps, so that one more token compiles nothing new.
CAPACITY_STEP = 16


def generate(
    config: TransformerConfig, params: dict, tokens: Any, mask: Any = None, decoding: Decoding = Decoding(), **options
) -> Trace:
    """Decodes a batch, each row to the depth that its decisions ask for.

    config, params: of the model. tokens: int32 [B, S], the source, padded behind, or for a decoder-only model the prompt,
    padded before; mask: bool [B, S], which of them are there; None: those that are no padding id. The prompt runs at full
    depth, but for what a plan leaves out, and but for its last token: what that one is followed by is the first decision.
    decoding: how; its max_new_tokens is a number here. A row of nothing but padding has ended before it starts.
    options: as `program`. Returns a Trace; T is the most tokens of any row, as far as that is known outside of other programs.
    Raises ValueError for what does not go together.
    """
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
    head_table: Array | None = None,
    log_probabilities: bool = False,
):
    """(compiled function, its arguments, its settings): what `generate` calls, to be compiled ahead of time or timed apart.

    rows: settings of each row (`Rows`). example_ids: int32 [B], which texts the rows are, for draws and plans; None: 0, 1, ….
    capacity: generated tokens that there is room for, static; None: what the limits need, in steps of CAPACITY_STEP.
    forced: int32 [B, T], tokens to say whatever the model says; −1 where it is free.
    head_table: the head as [V, E] where it is at hand (`Transformer.head_table`); else pruning makes it, once a call.
    log_probabilities: whether the trace has those of the tokens under the model's own logits at the exit.
    """
    decoding, rows, settings = resolved(decoding, rows, capacity)
    if isinstance(decoding.choice, Beam):
        if forced is not None or log_probabilities:
            raise ValueError(f'beam search takes no {"forced tokens" if forced is not None else "log-probabilities"}')
        return beam_search, (config, params, *_inputs(config, tokens, mask, example_ids), decoding), settings
    if log_probabilities and decoding.exit is not None and decoding.exit.measure.prunes:
        raise ValueError('log-probabilities are of the whole vocabulary, and the measure looks at a part of it')
    tokens, mask, example_ids = _inputs(config, tokens, mask, example_ids)
    arguments = config, params, tokens, mask, example_ids, decoding
    return (
        generate_program,
        arguments,
        {**settings, 'rows': rows, 'forced': forced, 'head_table': head_table, 'log_probabilities': log_probabilities},
    )


def begin(
    config: TransformerConfig,
    params: dict,
    tokens: Any,
    mask: Any = None,
    decoding: Decoding = Decoding(),
    *,
    rows=None,
    example_ids=None,
    capacity=None,
    forced=None,
    head_table=None,
    log_probabilities=False,
    cursor=None,
) -> DecodeState:
    """The state before the first token; arguments as `generate`. cursor: as `prefill`."""
    decoding, rows, settings = resolved(decoding, rows, capacity)
    if isinstance(decoding.choice, Beam):
        raise ValueError('a beam search has no state that leaves it; use generate')
    tokens, mask, example_ids = _inputs(config, tokens, mask, example_ids)
    return begin_program(
        config,
        params,
        tokens,
        mask,
        decoding,
        example_ids,
        rows=rows,
        forced=forced,
        head_table=head_table,
        log_probabilities=log_probabilities,
        cursor=cursor,
        **settings,
    )


def step(config: TransformerConfig, params: dict, state: DecodeState, decoding: Decoding = Decoding()) -> DecodeState:
    """The state after one more token of every row that has not ended. What the step makes anew is donated: the old state is
    gone. decoding: as it began."""
    carry = step_program(config, params, state.inputs, state.carry, decoding.resolved())
    return DecodeState(state.inputs, carry)


@partial(jax.jit, static_argnames=('config', 'capacity', 'log_probabilities'))
def generate_program(
    config, params, tokens, mask, example_ids, decoding, *, capacity, rows, forced, head_table, log_probabilities
) -> Trace:
    """`generate`, compiled: decide, prefill, then steps while any row is alive."""
    call = bound(config, params)
    decided = decide(call, config, tokens, mask, decoding, example_ids)
    state = prefill(call, config, decided, decoding, capacity, rows, forced, head_table, log_probabilities)
    carry = jax.lax.while_loop(
        lambda carry: jnp.any(carry.alive), lambda carry: advance(call, config, state.inputs, carry, decoding), state.carry
    )
    return trace_of(config, DecodeState(state.inputs, carry))


@partial(jax.jit, static_argnames=('config',), donate_argnames=('carry',))
def step_program(config, params, inputs, carry, decoding) -> DecodeCarry:
    """`advance`, compiled."""
    return advance(bound(config, params), config, inputs, carry, decoding)


def resolved(decoding: Decoding, rows: Rows | None, capacity: int | None) -> tuple[Decoding, Rows, dict]:
    """(the decoding without what is off, the rows' settings, the static settings) of a program.

    A threshold that is not a number yet is made a setting of the rows, whose mask says where it is off.
    """
    rows = Rows() if rows is None else rows
    if not isinstance(rows, Rows):
        raise TypeError(f'rows is {rows!r}; expected Rows(…)')
    decoding = decoding.resolved()
    if rows.threshold is None and decoding.exit is not None and isinstance(decoding.exit.threshold, jax.core.Tracer):
        rows = dataclasses.replace(rows, threshold=decoding.exit.threshold)
    if rows.threshold is not None and decoding.exit is None:
        raise ValueError('rows have thresholds, and there is no exit rule whose they are')
    if isinstance(decoding.choice, Beam) and jax.tree.leaves(rows):
        raise ValueError('beam search takes no settings of rows')
    if capacity is None:
        longest = _longest(decoding, rows)
        if longest is None:
            raise ValueError('max_new_tokens is no number here; say the capacity')
        capacity = -(-longest // CAPACITY_STEP) * CAPACITY_STEP
    return decoding, rows, {'capacity': capacity}


def _longest(decoding, rows):
    """The most tokens of any row, where that is known here."""
    limit = decoding.limits.max_new_tokens if rows is None or rows.limit is None else rows.limit
    if limit is None:
        raise ValueError('max_new_tokens is None; expected the most tokens to generate')
    return None if isinstance(limit, jax.core.Tracer) else int(np.max(limit))


def _inputs(config, tokens, mask, example_ids):
    tokens = jnp.asarray(tokens, jnp.int32)
    mask = tokens != config.pad_id if mask is None else jnp.asarray(mask, bool)
    ids = jnp.arange(tokens.shape[0], dtype=jnp.int32) if example_ids is None else jnp.asarray(example_ids, jnp.int32)
    return tokens, mask, ids


def advance(call, config: TransformerConfig, inputs: DecodeInputs, carry: DecodeCarry, decoding: Decoding) -> DecodeCarry:
    """One step: the next token of every row."""
    rows, ring = carry.last.shape[0], carry.cache.ring
    position = jnp.broadcast_to(carry.cursor - inputs.first, (rows,))
    place = carry.cursor[None, None] if inputs.start is None else (carry.cursor - inputs.start)[:, None]
    draws = not isinstance(decoding.choice, Greedy) or decoding.gate is not None
    token = TokenInputs(
        cursor=carry.cursor,
        slot=carry.cursor if inputs.start is None else carry.cursor % ring,
        position=position,
        place=jnp.maximum(place, 0),
        alive=carry.alive,
        self_bias=bias_at(inputs, carry.cursor, ring),
        keys=position_keys(inputs.keys, position) if draws else None,
        oracle=None,
    )
    choose = partial(_choose, config, inputs, carry, token, decoding)
    hidden = call(carry.last, token.place[:, 0], method='embed')
    loop, cache = LayerLoop(call, config, decoding, inputs, token, choose), carry.cache
    if decoding.exit is not None and decoding.exit.measure.looks_ahead:
        oracle, cache = _look_ahead(loop, hidden, cache)
        loop = loop._replace(token=token._replace(oracle=oracle))
    state, cache = loop.run(hidden, cache)
    state, chosen = _emit(loop, state)
    if inputs.forced is not None:
        forced = jnp.take_along_axis(inputs.forced, jnp.minimum(position, inputs.forced.shape[1] - 1)[:, None], axis=1)[:, 0]
        chosen = jnp.where(forced >= 0, forced, chosen)
    chosen = jnp.where(carry.alive, chosen, config.pad_id)
    ends = jnp.any(chosen[:, None] == jnp.asarray(config.eos_ids, jnp.int32), axis=1) | (position + 1 >= inputs.limit)
    return _recorded(loop, carry, state, cache, chosen)._replace(
        cursor=carry.cursor + 1, last=chosen, alive=carry.alive & ~ends, lengths=carry.lengths + carry.alive
    )


def _choose(config, inputs, carry, token, decoding, logits, ids=None):
    """The token int32 [B] that logits [B, V], or [B, K] of ids int32 [B, K], say under rules and choice."""
    greedy = isinstance(decoding.choice, Greedy)
    if ids is not None and inputs.rules is None and greedy:
        return likeliest_id(logits, ids)
    rows = logits.shape[0]
    if ids is not None:
        # Rules and draws are about all ids: the same draw falls on the same token where that was kept.
        logits = jnp.full((rows, config.vocab_size), UNKEPT).at[jnp.arange(rows)[:, None], ids].set(logits)
    if inputs.rules is not None:
        history = jnp.concatenate([inputs.prompt, said(inputs, carry)], axis=1)
        length = inputs.prompt.shape[1] + token.position
        logits = inputs.rules(logits, history, length, token.position, inputs.limit, config.eos_ids)
    return decoding.choice(logits, token.keys)


def said(inputs: DecodeInputs, carry: DecodeCarry) -> Int[Array, 'B T']:
    """The tokens of each row in order, anything after its last."""
    return _in_order(inputs, carry.table[:, 0])


def _in_order(inputs, ring):
    """[B, T, …] of a ring written at the cursor, each row from its first token on."""
    places = (inputs.first[..., None] + jnp.arange(ring.shape[1], dtype=jnp.int32)) % ring.shape[1]
    places = jnp.broadcast_to(places, ring.shape[:2])
    return jnp.take_along_axis(ring, places, axis=1)


def _look_ahead(loop, hidden, cache):
    """The token that the model without exits would emit here, and the caches. Layers that were behind stay filled; this
    position does not count as filled, so the exiting pass overwrites it."""
    without = loop._replace(decoding=dataclasses.replace(loop.decoding, exit=None))
    state, seen = without.run(hidden, cache)
    filled = tuple(jnp.minimum(each, loop.token.cursor) for each in seen.filled)
    return _emit(without, state)[1], seen._replace(filled=filled, exit_states=cache.exit_states)


def _emit(loop: LayerLoop, state: LayerState) -> tuple[LayerState, Array]:
    """The state with the head's last work counted, and the token of each row: what its measure computed on the way, or the
    head applied once to its exit state."""
    needs, rule = loop.token.alive & ~state.predicted, loop.decoding.exit

    def head(state):
        token = loop.choose(loop.call(state.hidden, method='unembed'))
        return jnp.where(state.predicted, state.prediction, token) if predicts else token

    predicts = rule is not None and rule.measure.predicts
    if state.scored is not None:
        scored = state.scored + needs[:, None] * jnp.array([1, loop.config.vocab_size, 0], jnp.int32)
        state = state._replace(scored=scored)
    if not predicts:
        return state, head(state)
    return state, jax.lax.cond(jnp.any(needs), head, lambda state: state.prediction, state)


def _recorded(loop, carry, state, cache, chosen):
    """The carry with what this token was, and what it needed, written down."""
    work, own_filled = _work(loop, carry, state)
    # Times a row's being there: nothing is counted past its end.
    columns = jnp.stack([state.visited, *work], axis=1) * carry.alive[:, None]
    column = jnp.concatenate([chosen[:, None], columns], axis=1)[:, :, None]
    slot = carry.cursor % carry.table.shape[2]
    write = jax.lax.dynamic_update_slice_in_dim
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
        executed=write(carry.executed, state.executed[None], slot, axis=0),
        log_probabilities=log_probabilities,
    )


def _work(loop, carry, state):
    """`Work` of this token, int32 [B] each, and how far each row alone would have filled its layers."""
    layers, inputs, propagation = loop.config.num_decoder_layers, loop.inputs, loop.decoding.propagation
    visited = state.visited
    if state.sub_layers is None:
        ran = [visited, jnp.zeros_like(visited) if loop.config.decoder_only else visited, visited]
    else:
        ran = [state.sub_layers[:, i] for i in range(3)]
    own_filled = carry.own_filled
    if own_filled is None and inputs.plan is None:
        written = visited if propagation.copies else jnp.full_like(visited, layers)
    else:
        # Of layers that the row's plan reads: those it entered, or all of them where they are written at once.
        entered = jnp.arange(layers) < visited[:, None]
        if own_filled is None and not propagation.copies:
            entered = jnp.ones_like(entered)
        if inputs.plan is not None:
            entered = entered & inputs.plan.self_attention
        if own_filled is None:
            written = jnp.sum(entered, axis=1, dtype=jnp.int32)
        else:
            filled = jnp.where(entered, loop.token.place + 1, own_filled)
            written, own_filled = jnp.sum(filled - own_filled, axis=1, dtype=jnp.int32), filled
    if state.scored is None:
        one = jnp.ones_like(visited)
        scored = [one, one * loop.config.vocab_size, jnp.zeros_like(visited)]
    else:
        scored = [state.scored[:, i] for i in range(3)]
    return Work(*ran, written, *scored), own_filled


def trace_of(config: TransformerConfig, state: DecodeState) -> Trace:
    """What the decode reports so far."""
    inputs, carry = state
    there = jnp.arange(carry.confidence.shape[1]) < carry.lengths[:, None]
    table = [_in_order(inputs, carry.table[:, i]) for i in range(carry.table.shape[1])]
    tokens, exit_layers, *work = [jnp.where(there, column, 0) for column in table]
    executed = carry.executed if inputs.first.ndim else jnp.roll(carry.executed, -inputs.first)
    return Trace(
        tokens=jnp.where(there, tokens, config.pad_id),
        lengths=carry.lengths,
        exit_layers=exit_layers,
        confidence=jnp.where(there, _in_order(inputs, carry.confidence), 0),
        work=Work(*work),
        prefill=inputs.prefill,
        plan=inputs.plan,
        executed=executed,
        log_probabilities=None
        if carry.log_probabilities is None
        else jnp.where(there, _in_order(inputs, carry.log_probabilities), 0),
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
