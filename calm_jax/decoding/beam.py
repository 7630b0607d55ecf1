"""Beam search at full depth, or within a plan: the likeliest sequences that a few running ones lead to."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from calm_jax.decoding.begin import bias_at, decide_rows, prefill_rows
from calm_jax.decoding.choice import Beam, likeliest_id
from calm_jax.decoding.compiled import compiled
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.layer_loop import LayerLoop, places
from calm_jax.decoding.rows import Rows
from calm_jax.decoding.state import DecodeInputs, DecoderCache, TokenInputs, spoken_by
from calm_jax.models.bound import bound
from calm_jax.models.cache import KVCache
from calm_jax.models.config import TransformerConfig
from calm_jax.types import Array, Plan, Trace, Work

IMPOSSIBLE = -1e9


class Search(NamedTuple):
    """What the loop carries.

    step: int32 [], tokens said. tokens: int32 [B, K, T] and scores: float32 [B, K], of running sequences, best first.
    finished: int32 [B, K, T], finished_scores: float32 [B, K], lengths: int32 [B, K], the same of finished ones, and how long
    they are; ended: bool [B, K], which of them are there.
    improvable: bool [B], whether a running sequence may still beat them; searched: int32 [B], steps for which that was so.
    stuck: bool [], whether every candidate ended. cache: the decoder's memory, of B·K sequences.
    """

    step: Array
    tokens: Array
    scores: Array
    finished: Array
    finished_scores: Array
    lengths: Array
    ended: Array
    improvable: Array
    searched: Array
    stuck: Array
    cache: DecoderCache


@compiled(static_argnames=('config', 'capacity'))
def beam_search(
    config: TransformerConfig,
    params: dict,
    tokens: Int[Array, 'B S'],
    mask: Bool[Array, 'B S'],
    example_ids: Int[Array, ' B'],
    decoding: Decoding,
    *,
    capacity: int,
    rows: Rows,
) -> Trace:
    """Decodes a batch by beam search as Hugging Face transformers does, token for token.

    Arguments as `generate_program`; the choice is a `Beam`. Sequences of a row share its plan. Returns the Trace of each row's
    best finished sequence; its work is that of all of them, as long as the row was searched.
    """
    count, beam = tokens.shape[0], decoding.choice
    assert isinstance(beam, Beam)
    size, length = beam.size, capacity
    call = bound(config, params)
    decided = decide_rows(call, config, tokens, mask, decoding, example_ids)
    state = prefill_rows(call, config, decided, decoding, capacity, rows)
    repeat = partial(_repeated, rows=count, size=size)
    inputs = state.inputs._replace(
        source=repeat(state.inputs.source),
        mask=repeat(state.inputs.mask),
        prompt=repeat(state.inputs.prompt),
        start=repeat(state.inputs.start),
        limit=repeat(state.inputs.limit),
        plan=repeat(state.inputs.plan),
        rules=repeat(state.inputs.rules),
        cross_kv=repeat(state.inputs.cross_kv),
        cross_bias=repeat(state.inputs.cross_bias),
    )
    row_limit, alive, first = state.inputs.limit, state.carry.alive, state.inputs.first
    most = max(2, 1 + len(config.eos_ids)) * size

    def body(search):
        loop = _loop(call, config, inputs, search, decoding, first, jnp.repeat(alive, size))
        history = jnp.concatenate([inputs.prompt, search.tokens.reshape(count * size, length)], axis=1)
        begun = inputs.prompt.shape[1] + search.step
        last = jax.lax.dynamic_slice_in_dim(history, begun - 1, 1, axis=1)[:, 0]
        state, cache = loop.run(call(last, loop.token.place[:, 0], method='embed'), search.cache)
        scores = jax.nn.log_softmax(call(state.hidden, method='unembed'), axis=-1)
        if inputs.rules is not None:
            spoken = spoken_by(inputs, search.tokens.reshape(count * size, length), loop.token.position)
            scores = inputs.rules.verdict(spoken, config.eos_ids, config.vocab_size)(scores)
        if beam.renormalize_logits:
            scores = jax.nn.log_softmax(scores, axis=-1)
        scores = scores.reshape(count, size, -1) + search.scores[:, :, None]
        best, place = jax.lax.top_k(scores.reshape(count, -1), most)
        parent, chosen = place // config.vocab_size, (place % config.vocab_size).astype(jnp.int32)
        candidates = _gather(search.tokens, parent)
        candidates = jax.lax.dynamic_update_slice_in_dim(candidates, chosen[:, :, None], search.step, axis=2)
        ends = jnp.any(chosen[..., None] == jnp.asarray(config.eos_ids), axis=-1)
        ends = ends | (search.step + 1 >= row_limit)[:, None]

        running, order = jax.lax.top_k(best + ends * IMPOSSIBLE, size)
        origin = jnp.take_along_axis(parent, order, axis=1)
        finished = _finish(search, candidates, best, ends, beam)
        improvable = _improvable(search.improvable, running, finished, search.step + 1, row_limit, beam)
        return Search(
            step=search.step + 1,
            tokens=_gather(candidates, order),
            scores=running,
            **finished,
            improvable=improvable,
            searched=search.searched + search.improvable,
            stuck=jnp.all(ends),
            cache=_reordered(cache, origin),
        )

    def unfinished(search):
        done = jnp.all(search.ended) & (beam.early_stopping is True)
        return jnp.any(search.improvable) & ~done & ~search.stuck

    begun = _search(beam, alive, repeat(state.carry.cache.layers), state.carry.cache.filled, length)
    final = jax.lax.while_loop(unfinished, body, begun)
    return _trace(config, final, alive, state.inputs.plan, state.inputs, beam)


def _search(
    beam: Beam, alive: Bool[Array, ' B'], layers: tuple[KVCache, ...], filled: tuple[Array, ...], length: int
) -> Search:
    """What the loop begins with: of each row one sequence that could be."""
    rows, size = alive.shape[0], beam.size
    nothing = jnp.zeros((rows, size, length), jnp.int32)
    first = jnp.broadcast_to(jnp.where(jnp.arange(size) == 0, 0.0, IMPOSSIBLE), (rows, size))
    return Search(
        step=jnp.zeros((), jnp.int32),
        tokens=nothing,
        scores=first,
        finished=nothing,
        finished_scores=jnp.full((rows, size), IMPOSSIBLE),
        lengths=jnp.zeros((rows, size), jnp.int32),
        ended=jnp.broadcast_to(~alive[:, None], (rows, size)),
        improvable=alive,
        searched=jnp.zeros(rows, jnp.int32),
        stuck=jnp.zeros((), bool),
        cache=DecoderCache(layers, filled, None),
    )


def _loop(
    call: Callable,
    config: TransformerConfig,
    inputs: DecodeInputs,
    search: Search,
    decoding: Decoding,
    first: Int[Array, ''],
    alive: Bool[Array, ' BK'],
) -> LayerLoop:
    """The way of one token of every sequence through the layers."""
    cursor, sequences = search.step + first, alive.shape[0]
    token = TokenInputs(
        cursor=cursor,
        slot=cursor,
        position=jnp.broadcast_to(search.step, (sequences,)),
        place=places(inputs, cursor[None]),
        alive=alive,
        self_bias=bias_at(inputs, cursor, search.cache.ring),
        keys=inputs.keys,
        oracle=None,
    )
    return LayerLoop(call, config, decoding, inputs, token, likeliest_id)


def _finish(
    search: Search, candidates: Int[Array, 'B most T'], best: Float[Array, 'B most'], ends: Bool[Array, 'B most'], beam: Beam
) -> dict[str, Array]:
    """The finished sequences with those candidates among the best K that end, the K highest by penalised score."""
    size = beam.size
    new = ends & (jnp.arange(ends.shape[1]) < size)
    scores = best / jnp.power((search.step + 1).astype(jnp.float32), beam.length_penalty)
    full = jnp.all(search.ended, axis=1, keepdims=True) & (beam.early_stopping is True)
    scores = scores + (full | ~search.improvable[:, None]) * IMPOSSIBLE + ~new * IMPOSSIBLE
    scores, order = jax.lax.top_k(jnp.concatenate([search.finished_scores, scores], axis=1), size)
    lengths = jnp.broadcast_to(search.step + 1, new.shape)
    return {
        'finished': _gather(jnp.concatenate([search.finished, candidates], axis=1), order),
        'finished_scores': scores,
        'lengths': jnp.take_along_axis(jnp.concatenate([search.lengths, lengths], axis=1), order, axis=1),
        'ended': jnp.take_along_axis(jnp.concatenate([search.ended, new], axis=1), order, axis=1),
    }


def _improvable(
    before: Bool[Array, ' B'],
    running: Float[Array, 'B K'],
    finished: dict[str, Array],
    length: Int[Array, ''],
    limit: Int[Array, ' B'],
    beam: Beam,
) -> Bool[Array, ' B']:
    """Whether the best running sequence may still score above the worst finished one, by what early stopping supposes."""
    reach = jnp.where((beam.early_stopping == 'never') & (beam.length_penalty > 0), limit, length).astype(jnp.float32)
    possible = running[:, :1] / jnp.power(reach, beam.length_penalty)[:, None]
    worst = jnp.min(finished['finished_scores'], axis=1, keepdims=True)
    return before & jnp.any(possible > jnp.where(finished['ended'], worst, IMPOSSIBLE), axis=1)


def _gather(sequences: Int[Array, 'B M T'], order: Int[Array, 'B K']) -> Int[Array, 'B K T']:
    """[B, M, T] and int32 [B, K] → [B, K, T]."""
    return jnp.take_along_axis(sequences, order[:, :, None], axis=1)


def _repeated(arrays: Any, rows: int, size: int) -> Any:
    """Arrays [B·n, ...] with each row's part once for each of its sequences, [B·K·n, ...]."""

    def repeat(array):
        by_row = array.reshape((rows, array.shape[0] // rows) + array.shape[1:])
        return jnp.repeat(by_row, size, axis=0).reshape((array.shape[0] * size,) + array.shape[1:])

    return jax.tree.map(repeat, arrays)


def _reordered(cache: DecoderCache, origin: Int[Array, 'B K']) -> DecoderCache:
    """The decoder's memory of the sequences that go on, from that of their parents."""
    rows, size = origin.shape

    def move(array):
        by_sequence = array.reshape((rows, size, -1) + array.shape[1:])
        return jnp.take_along_axis(by_sequence, origin[:, :, None, None, None], axis=1).reshape(array.shape)

    return cache._replace(layers=jax.tree.map(move, cache.layers))


def _trace(
    config: TransformerConfig, final: Search, alive: Bool[Array, ' B'], plan: Plan | None, inputs: DecodeInputs, beam: Beam
) -> Trace:
    length = final.finished.shape[2]
    lengths = jnp.where(alive, final.lengths[:, 0], 0)
    present, steps = jnp.arange(length) < lengths[:, None], jnp.arange(length)
    work, batch = _work(config, plan, alive)
    searched = steps < final.searched[:, None]
    return Trace(
        tokens=jnp.where(present, final.finished[:, 0], config.pad_id),
        lengths=lengths,
        exit_layers=jnp.where(present, config.num_decoder_layers, 0),
        confidence=present.astype(jnp.float32),
        work=Work(*(jnp.where(searched, beam.size * each[:, None], 0) for each in work)),
        prefill=inputs.prefill,
        plan=plan,
        executed=jnp.where(steps < final.step, batch * alive.shape[0], 0),
    )


def _work(config: TransformerConfig, plan: Plan | None, alive: Bool[Array, ' B']) -> tuple[Work, Int[Array, '']]:
    """What one step of one sequence of each row needs, int32 [B] each, and the sub-layers that the batch runs, int32 []."""
    one, crosses = jnp.ones(alive.shape, jnp.int32), not config.decoder_only
    if plan is None:
        layers = one * config.num_decoder_layers
        ran, batch = (layers, layers * crosses, layers), jnp.asarray(config.num_decoder_layers * (2 + crosses), jnp.int32)
    else:
        parts = (plan.self_attention, plan.cross_attention & crosses, plan.feed_forward)
        ran = tuple(jnp.sum(part, axis=1, dtype=jnp.int32) for part in parts)
        executed = jnp.stack([jnp.any(part & alive[:, None], axis=0) for part in parts])
        batch = jnp.sum(executed, dtype=jnp.int32)
    work = Work(
        self_attention=ran[0],
        cross_attention=ran[1],
        feed_forward=ran[2],
        keys_values=ran[0],
        head_states=one,
        head_ids=one * config.vocab_size,
        decisions=0 * one,
    )
    return work, batch
