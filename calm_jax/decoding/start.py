"""Where the token loop begins: after the encoder, or after the prompt of a decoder alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.decoding import layer_loop
from calm_jax.decoding.layer_loop import Layers
from calm_jax.models import cache as kv_cache
from calm_jax.models.cache import KVCache
from calm_jax.models.layers import MASKED
from calm_jax.types import Array


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


def begin(call, config, tokens, length, decisions):
    """The Start of `length` tokens after the source or prompt int32 [B, S]."""
    return (_at_prompt if config.decoder_only else _at_source)(call, config, tokens, length, decisions)


def _at_source(call, config, tokens, length, decisions):
    """After the encoder: nothing is decoded yet."""
    rows = tokens.shape[0]
    source_mask = call(tokens, method='source_mask')
    encoded = _encode(call, config, tokens, source_mask, decisions)
    cross_kv = tuple(_cross_kv(call, layer, encoded, decisions) for layer in range(config.num_decoder_layers))
    positions = length + decisions.propagation.window
    return Start(
        last=jnp.full(rows, config.decoder_start_id, jnp.int32),
        alive=jnp.any(source_mask, axis=-1),
        layers=_empty_layers(config, rows, positions, decisions),
        index=0,
        places=lambda index, width: index + jnp.arange(width, dtype=jnp.int32)[None],
        bias_at=_self_bias(call, positions),
        cross_bias=call(source_mask, method='cross_bias'),
        cross_kv=cross_kv,
    )


def _at_prompt(call, config, tokens, length, decisions):
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
            filled=tuple(jnp.full((), read, jnp.int32) for _ in layers.filled),
        )
    return Start(
        last=tokens[:, -1],
        alive=jnp.any(mask, axis=1),
        layers=layers,
        index=read,
        places=places,
        bias_at=lambda index: bias_of(index) + hidden_keys,
        cross_bias=None,
        cross_kv=None,
    )


def _read_prompt(call, config, tokens, mask, positions, caches, decisions):
    """The caches with the keys and values of prompt tokens [B, R], all positions at once."""
    bias = call(tokens.shape[1], mask, method='causal_bias')
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
        kv_cache.init(rows, config.kv_heads, positions, config.head_dim, config.dtype) for _ in range(config.num_decoder_layers)
    )
    filled = tuple(jnp.zeros((), jnp.int32) for _ in caches)
    waits = decisions.exit is not None and decisions.propagation.lazy
    return Layers(caches, filled, jnp.zeros((rows, positions, config.emb_dim), config.dtype) if waits else None)
