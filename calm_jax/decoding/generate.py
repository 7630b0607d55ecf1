"""The token loop: encode once, then one token of every row at a time until all rows have ended."""

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
from calm_jax.types import Array, Sizes, Trace


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

    config: TransformerConfig; params: its parameters; tokens: int32 [B, S], padded source.
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
    source_mask = call(tokens, method='source_mask')
    encoded = _encode(call, config, tokens, source_mask, decisions)
    cross_kv = tuple(_cross_kv(call, layer, encoded, decisions) for layer in range(config.num_decoder_layers))
    cross_bias = call(source_mask, method='cross_bias')
    positions = max_new_tokens + propagation.window
    bias_at = _self_bias(call, positions)
    key = jax.random.key(0) if key is None else key
    ids = jnp.arange(rows, dtype=jnp.int32) if example_ids is None else example_ids
    row_keys = example_keys(key, ids)
    limit = max_new_tokens if limit is None else jnp.minimum(limit, max_new_tokens)

    def body(state):
        position = jnp.full(rows, state.step, jnp.int32)
        draw_keys = position_keys(row_keys, position)
        step = Step(
            index=state.step, position=position, alive=state.alive, length=max_new_tokens, self_bias=bias_at(state.step),
            cross_bias=cross_bias, cross_kv=cross_kv, choose=lambda logits: sampling(logits, draw_keys),
            gate_keys=draw_keys, oracle=None,
            sizes=Sizes(config.num_decoder_layers, config.emb_dim, config.vocab_size))
        hidden = call(state.last, method='embed')
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
            step=state.step + 1, last=chosen, alive=state.alive & (chosen != config.eos_id), layers=layers,
            trace=_record(state.trace, state.step, chosen, token, state.alive))

    def unfinished(state):
        return (state.step < limit) & jnp.any(state.alive)

    start = Decode(
        step=jnp.zeros((), jnp.int32), last=jnp.full(rows, config.decoder_start_id, jnp.int32),
        alive=jnp.any(source_mask, axis=-1), layers=_empty_layers(config, rows, positions, decisions),
        trace=_empty_trace(rows, max_new_tokens))
    return jax.lax.while_loop(unfinished, body, start).trace


def _encode(call, config, tokens, source_mask, decisions):
    """States [B, S, D] of the source, through the encoder's sub-layers that the plan runs."""
    if decisions.plan is None:
        return call(tokens, method='encode')
    off = layer_loop.everything_off(decisions.exit)
    bias = call(source_mask, method='encoder_bias')
    x = call(tokens, method='embed')
    for layer in range(config.num_encoder_layers):
        attends = off | decisions.plan.encoder_attention[:, layer]
        x = layer_loop.where_run(attends, lambda x, i=layer: call(i, x, bias, method='encoder_attend'), x)
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
        kv_cache.init(rows, config.num_heads, positions, config.head_dim, config.dtype)
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
