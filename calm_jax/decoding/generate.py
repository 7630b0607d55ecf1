"""The token loop: encode the source, or read the prompt, once; then one token of every row at a time until all have ended."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.decoding import layer_loop
from calm_jax.decoding.layer_loop import Decisions, Layers, Step
from calm_jax.decoding.propagation import Lazy
from calm_jax.decoding.sampling import Greedy, example_keys, position_keys
from calm_jax.models import cache as kv_cache
from calm_jax.models.cache import KVCache
from calm_jax.models.layers import MASKED
from calm_jax.models.transformer import Transformer
from calm_jax.types import Array, Trace


class Decode(NamedTuple):
    """What the token loop carries. step: int32, tokens generated so far; last: int32 [B], the token to feed next;
    alive: bool [B], rows that have not ended; layers: the decoder's memory; trace: what has been written down."""

    step: Array
    last: Array
    alive: Array
    layers: Layers
    trace: Trace


@partial(jax.jit, static_argnames=('config', 'max_new_tokens'))
def generate(config, params, tokens, *, max_new_tokens, exit=None, gate=None, plan=None, propagation=Lazy(),
             sampling=Greedy(), example_ids=None, key=None, forced=None, limit=None):
    """Decodes a batch, each row to the depth that its decisions ask for.

    config: TransformerConfig; params: its parameters; tokens: int32 [B, S], the source, padded behind, or for a decoder
    alone the prompt, padded before. The prompt runs at full depth, but for its last token: what that one is followed by is
    the first decision.
    max_new_tokens: T, what the caches hold and N of a decaying threshold; limit: stop after so many, at most T.
    exit: when a token leaves (`Exit`), gate: which layers it enters, plan: which sub-layers its row runs (`Plan`).
    propagation: what skipped layers hold; sampling: how a token is chosen, from keys of (key, example id, position).
    forced: int32 [B, T], tokens to emit whatever the model says; −1 where it is free.
    A row of nothing but padding has ended before it starts. Returns a Trace.
    """
    rows = tokens.shape[0]
    model = Transformer(config)

    def call(*args, method):
        return model.apply({'params': params}, *args, method=method)

    decisions = Decisions(exit, gate, plan, propagation)
    start = (_start_at_prompt if config.decoder_only else _start_at_source)(call, config, tokens, max_new_tokens, decisions)
    key = jax.random.key(0) if key is None else key
    ids = jnp.arange(rows, dtype=jnp.int32) if example_ids is None else example_ids
    row_keys = example_keys(key, ids)
    limit = max_new_tokens if limit is None else jnp.minimum(limit, max_new_tokens)

    def body(state):
        position = jnp.full(rows, state.step, jnp.int32)
        draw_keys = position_keys(row_keys, position)
        index = state.step + start.index
        step = Step(
            index=index, position=position, places=start.places, alive=state.alive, length=max_new_tokens,
            self_bias=start.bias_at(index), cross_bias=start.cross_bias, cross_kv=start.cross_kv,
            choose=lambda logits: sampling(logits, draw_keys), gate_keys=draw_keys, oracle=None,
            sizes=config.sizes)
        hidden = call(state.last, start.places(index, 1)[:, 0], method='embed')
        layers = state.layers
        if exit is not None and exit.measure.looks_ahead:
            step, layers = _look_ahead(call, config, hidden, layers, step, decisions)
        token, layers = layer_loop.run_token(
            call, config.num_decoder_layers, hidden, layers, step, decisions)
        chosen = _emit(call, token, step)
        if forced is not None:
            told = jnp.asarray(forced)[:, state.step]
            chosen = jnp.where(told >= 0, told, chosen)
        chosen = jnp.where(state.alive, chosen, config.pad_id)
        return Decode(
            step=state.step + 1, last=chosen, alive=state.alive & ~_ends(config, chosen), layers=layers,
            trace=_record(state.trace, state.step, chosen, token, state.alive))

    def unfinished(state):
        return (state.step < limit) & jnp.any(state.alive)

    begun = Decode(
        step=jnp.zeros((), jnp.int32), last=start.last, alive=start.alive, layers=start.layers,
        trace=_empty_trace(rows, max_new_tokens))
    return jax.lax.while_loop(unfinished, body, begun).trace


class Start(NamedTuple):
    """Where the token loop begins. last, alive, layers: as `Decode`; index: where in the caches the first token goes;
    places: (index, width) → int32 [B|1, width], the positions of that many cache entries; bias_at: index → attention scores of
    the query there; cross_bias, cross_kv: as `Step`."""

    last: Array
    alive: Array
    layers: Layers
    index: int
    places: Callable
    bias_at: Callable
    cross_bias: Array | None
    cross_kv: tuple[KVCache, ...] | None


def _start_at_source(call, config, tokens, length, decisions):
    """After the encoder: nothing is decoded yet."""
    rows = tokens.shape[0]
    source_mask = call(tokens, method='source_mask')
    encoded = _encode(call, config, tokens, source_mask, decisions)
    cross_kv = tuple(_cross_kv(call, layer, encoded, decisions) for layer in range(config.num_decoder_layers))
    positions = length + decisions.propagation.window
    return Start(
        last=jnp.full(rows, config.decoder_start_id, jnp.int32), alive=jnp.any(source_mask, axis=-1),
        layers=_empty_layers(config, rows, positions, decisions), index=0,
        places=lambda index, width: index + jnp.arange(width, dtype=jnp.int32)[None],
        bias_at=_self_bias(call, positions), cross_bias=call(source_mask, method='cross_bias'), cross_kv=cross_kv)


def _start_at_prompt(call, config, tokens, length, decisions):
    """After all of the prompt but its last token, at full depth unless the plan leaves sub-layers out."""
    rows, read = tokens.shape[0], tokens.shape[1] - 1
    mask = call(tokens, method='source_mask')
    # Padding stands before the prompt. A row of nothing else has ended, and its entries are never read.
    padding = jnp.sum(~mask, axis=1, dtype=jnp.int32)
    positions = read + length + decisions.propagation.window
    hidden_keys = jnp.where(jnp.arange(positions) < padding[:, None], MASKED, 0.0)[:, None, None, :]
    bias_of = _self_bias(call, positions)

    def places(index, width):
        return jnp.maximum(index + jnp.arange(width, dtype=jnp.int32)[None] - padding[:, None], 0)

    layers = _empty_layers(config, rows, positions, decisions)
    if read:
        layers = layers._replace(
            caches=_read_prompt(call, config, tokens[:, :-1], mask[:, :-1], places(0, read), layers.caches, decisions),
            filled=tuple(jnp.full((), read, jnp.int32) for _ in layers.filled))
    return Start(
        last=tokens[:, -1], alive=jnp.any(mask, axis=1), layers=layers, index=read, places=places,
        bias_at=lambda index: bias_of(index) + hidden_keys, cross_bias=None, cross_kv=None)


def _read_prompt(call, config, tokens, mask, positions, caches, decisions):
    """The caches with the keys and values of prompt tokens [B, R], all positions at once."""
    steps = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    bias = call(steps[None, :] - steps[:, None], method='self_bias')[None]
    bias = bias + jnp.where(steps[None, :] <= steps[:, None], 0.0, MASKED) + call(mask, method='cross_bias')
    x, filled, plan = call(tokens, positions, method='embed'), [], decisions.plan
    off = layer_loop.everything_off(decisions.exit)
    for layer, cache in enumerate(caches):
        kv = call(layer, x, positions, method='self_kv')
        filled.append(kv_cache.write(cache, 0, *kv))

        def attend(x, layer=layer, kv=kv):
            return call(layer, x, *kv, bias, positions, method='self_attend')

        def feed(x, layer=layer):
            return call(layer, x, method='feed_forward')

        if plan is None:
            x = feed(attend(x))
        else:
            x = layer_loop.where_run(off | plan.self_attention[:, layer], attend, x)
            x = layer_loop.where_run(off | plan.feed_forward[:, layer], feed, x)
    return tuple(filled)


def _ends(config, tokens):
    """bool [B]: which tokens end a sequence."""
    return jnp.any(tokens[:, None] == jnp.asarray(config.eos_ids, jnp.int32), axis=1)


def _encode(call, config, tokens, source_mask, decisions):
    """States [B, S, D] of the source, through the encoder's sub-layers that the plan runs."""
    if decisions.plan is None:
        return call(tokens, method='encode')
    off = layer_loop.everything_off(decisions.exit)
    context = call(source_mask, method='encoder_context')
    x = call(tokens, method='embed_source')
    for layer in range(config.num_encoder_layers):
        attends = off | decisions.plan.encoder_attention[:, layer]
        x = layer_loop.where_run(attends, lambda x, i=layer: call(i, x, context, method='encoder_attend'), x)
        feeds = off | decisions.plan.encoder_feed_forward[:, layer]
        x = layer_loop.where_run(feeds, lambda x, i=layer: call(i, x, method='encoder_feed_forward'), x)
    return call(x, method='encoder_norm')


def _cross_kv(call, layer, encoded, decisions):
    """Keys and values of the encoder's output for one decoder layer; not computed where no row's plan reads them."""

    def project(encoded):
        return KVCache(*call(layer, encoded, method='cross_kv'))

    if decisions.plan is None:
        return project(encoded)
    reads = layer_loop.everything_off(decisions.exit) | decisions.plan.cross_attention[:, layer]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(project, encoded))
    return jax.lax.cond(jnp.any(reads), project, lambda encoded: nothing, encoded)


def _self_bias(call, positions):
    """step → scores float32 [1, N, 1, positions] of one query at that position: its bias for keys up to itself, masked
    after. One slice of a table laid out by falling distance, then hidden keys: element j of the slice that starts at
    positions − 1 − step is the bias of distance step − j."""
    falling = jnp.arange(positions, dtype=jnp.int32) - (positions - 1)
    table = call(falling, method='self_bias')
    table = jnp.concatenate([table, jnp.full_like(table, MASKED)], axis=-1)
    return lambda step: jax.lax.dynamic_slice_in_dim(table, positions - 1 - step, positions, axis=-1)[None, :, None, :]


def _empty_layers(config, rows, positions, decisions):
    caches = tuple(
        kv_cache.init(rows, config.kv_heads, positions, config.head_dim, config.dtype)
        for _ in range(config.num_decoder_layers))
    filled = tuple(jnp.zeros((), jnp.int32) for _ in caches)
    waits = decisions.exit is not None and decisions.propagation.lazy
    return Layers(caches, filled, jnp.zeros((rows, positions, config.emb_dim), config.dtype) if waits else None)


def _empty_trace(rows, length):
    count = jnp.zeros((rows, length), jnp.int32)
    return Trace(
        tokens=count, lengths=jnp.zeros(rows, jnp.int32), exit_layers=count, layers_run=count,
        confidence=jnp.zeros((rows, length), jnp.float32), executed=jnp.zeros(length, jnp.int32))


def _look_ahead(call, config, hidden, layers, step, decisions):
    """The step with the token that the model without exits would emit here. Layers that were behind stay filled; this
    position does not count as filled, so the exiting pass overwrites it."""
    without = decisions._replace(exit=None)
    token, seen = layer_loop.run_token(call, config.num_decoder_layers, hidden, layers, step, without)
    filled = tuple(jnp.minimum(each, step.index) for each in seen.filled)
    return step._replace(oracle=_emit(call, token, step)), Layers(seen.caches, filled, layers.exit_states)


def _emit(call, token, step):
    """The token of each row: what its measure computed on the way, or the head applied once to its exit state."""

    def head(token):
        return jnp.where(token.predicted, token.prediction, step.choose(call(token.hidden, method='unembed')))

    return jax.lax.cond(jnp.any(step.alive & ~token.predicted), head, lambda token: token.prediction, token)


def _record(trace, step, chosen, token, alive):
    def column(table, values):
        values = jnp.where(alive, values, 0).astype(table.dtype)[:, None]
        return jax.lax.dynamic_update_slice_in_dim(table, values, step, axis=1)

    return Trace(
        tokens=jax.lax.dynamic_update_slice_in_dim(trace.tokens, chosen[:, None], step, axis=1),
        lengths=trace.lengths + alive,
        exit_layers=column(trace.exit_layers, token.visited),
        layers_run=column(trace.layers_run, token.layers_run),
        confidence=column(trace.confidence, token.confidence),
        executed=jax.lax.dynamic_update_slice_in_dim(trace.executed, token.executed[None], step, axis=0))
