"""One token through the layers.

The layers are a chain of `lax.cond` over per-layer parameters, each entered while any row still runs, so that depth
nobody needs costs nothing. Rows are independent: a row that has left keeps its state and takes no further part.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.depth.thresholds import Exit
from calm_jax.models import cache as kv_cache
from calm_jax.models.cache import KVCache
from calm_jax.types import Array, Evidence, Plan, Sizes


class Decisions(NamedTuple):
    """What decides depth; None where nothing does, which compiles to no conditional at all."""

    exit: Exit | None
    gate: Callable | None
    plan: Plan | None
    propagation: Any


class Layers(NamedTuple):
    """The decoder's memory of a batch, kept between tokens.

    caches: self-attention per layer; filled: int32 per layer, how many positions of it hold keys and values.
    exit_states: [B, positions, D], what layers that a position skipped project for it when they are first entered; None
    where no layer is ever behind.
    """

    caches: tuple[KVCache, ...]
    filled: tuple[Array, ...]
    exit_states: Array | None


class Token(NamedTuple):
    """One token of every row on its way up. hidden, first: [B, D], the current state and the first layer's;
    active: bool [B], rows that still run; visited, layers_run: int32 [B]; confidence: float32 [B];
    prediction: int32 [B], valid where predicted; executed: int32, layers the batch ran;
    memory: the measure's; exit_kv: the keys and values of the last layer each row ran, where propagation copies them."""

    hidden: Array
    first: Array
    active: Array
    visited: Array
    layers_run: Array
    confidence: Array
    prediction: Array
    predicted: Array
    executed: Array
    memory: Any
    exit_kv: tuple[Array, Array] | None


class Step(NamedTuple):
    """What is the same for all layers of a token. index: where in the caches the token goes; position: int32 [B], generated
    tokens before it; places: (index, width) → int32 [B|1, width], where in their rows that many cache entries stand;
    alive: bool [B], rows that have not ended; length: the most tokens; self_bias, cross_bias: attention scores; cross_kv: per
    layer, None for a decoder alone; choose, head_rows: of Evidence; gate_keys: one per row; oracle: int32 [B] or None;
    sizes: of the model, for what a measure remembers."""

    index: Array
    position: Array
    places: Callable
    alive: Array
    length: int
    self_bias: Array
    cross_bias: Array | None
    cross_kv: tuple[KVCache, ...] | None
    choose: Callable
    head_rows: Callable
    gate_keys: Array
    oracle: Array | None
    sizes: Sizes


def run_token(call, num_layers, hidden, layers, step, decisions):
    """Takes one token of every row as far up as its row wants to go.

    call: (*args, method) → the model's method, parameters bound. hidden: [B, D], the embedded token.
    Returns (Token, Layers); rows without `predicted` still need the head.
    """
    token = _enter(hidden, step, decisions)
    if decisions.propagation.copies:
        shape = layers.caches[0].keys[:, :1]
        token = token._replace(exit_kv=(jnp.zeros_like(shape), jnp.zeros_like(shape)))
    caches, filled = list(layers.caches), list(layers.filled)
    for layer in range(num_layers):

        def visit(token, cache, filled, layer=layer):
            return _visit(call, layer, num_layers, token, cache, filled, layers.exit_states, step, decisions)

        def skip(token, cache, filled, layer=layer):
            if not decisions.propagation.lazy:
                cache = kv_cache.write(cache, step.index, *_entering_kv(call, layer, token, step, decisions.propagation))
            return token, cache, filled, jnp.zeros_like(token.active)

        previous, carry = token.hidden, (token, caches[layer], filled[layer])
        if decisions.exit is None and decisions.gate is None and decisions.plan is None:
            token, caches[layer], filled[layer], ran = visit(*carry)
        else:
            token, caches[layer], filled[layer], ran = jax.lax.cond(jnp.any(token.active), visit, skip, *carry)
        if decisions.exit is not None and decisions.exit.observes(layer):
            token = _observe(call, layer, num_layers, token, previous, ran, step, decisions)
    if decisions.exit is not None and decisions.exit.prunes:
        # Where no layer was sure the full head decides; a row that a plan or gate takes past the last layer has not seen it.
        token = token._replace(predicted=token.predicted & (~token.active | ran))
    exit_states = layers.exit_states
    if exit_states is not None:
        state = decisions.propagation.source(token.hidden, token.first)[:, None]
        exit_states = jax.lax.dynamic_update_slice_in_dim(exit_states, state, step.index, axis=1)
    return token, Layers(tuple(caches), tuple(filled), exit_states)


def _enter(hidden, step, decisions):
    rows = hidden.shape[0]
    count, number = jnp.zeros(rows, jnp.int32), jnp.ones(rows, jnp.float32)
    memory = None if decisions.exit is None else decisions.exit.measure.init(rows, step.sizes)
    return Token(
        hidden=hidden,
        first=hidden,
        active=step.alive,
        visited=count,
        layers_run=count,
        confidence=number,
        prediction=count,
        predicted=jnp.zeros(rows, bool),
        executed=jnp.zeros((), jnp.int32),
        memory=memory,
        exit_kv=None,
    )


def _visit(call, layer, num_layers, token, cache, filled, exit_states, step, decisions):
    """One layer of one token: keys and values, then sub-layers. Also says which rows ran any of it."""
    run = token.active
    if decisions.gate is not None:
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(step.gate_keys, layer)
        run = run & (everything_off(decisions.exit) | decisions.gate(layer, step.position, token.hidden, keys))
    rows = _sub_layer_rows(layer, run, decisions)

    run_sub = _for_all if decisions.gate is None and decisions.plan is None else where_run

    def attend(x, cache, filled):
        if exit_states is not None:
            cache = _fill(call, layer, cache, filled, step, exit_states, decisions.propagation.window)
        cache = kv_cache.write(cache, step.index, *_entering_kv(call, layer, token, step, decisions.propagation))
        x = run_sub(
            rows.self_attention,
            lambda x: call(layer, x, *cache, step.self_bias, step.places(step.index, 1), method='self_attend'),
            x,
        )
        return x, cache, step.index + 1

    x = token.hidden[:, None]
    if decisions.plan is None:
        x, cache, filled = attend(x, cache, filled)
    else:
        # A gate that closes still writes keys and values; a plan that skips self-attention never needs them. Rows that
        # have left wait for `_fill`, or, where nothing is filled later, are written now.
        held = step.alive if exit_states is None else token.active
        reads = held & (everything_off(decisions.exit) | decisions.plan.self_attention[:, layer])
        x, cache, filled = jax.lax.cond(jnp.any(reads), attend, lambda *carry: carry, x, cache, filled)
    if step.cross_kv is not None:
        cross = step.cross_kv[layer]
        x = run_sub(rows.cross_attention, lambda x: call(layer, x, *cross, step.cross_bias, method='cross_attend'), x)
    x = run_sub(rows.feed_forward, lambda x: call(layer, x, method='feed_forward'), x)[:, 0]

    ran = rows.self_attention | rows.feed_forward
    if step.cross_kv is not None:
        ran = ran | rows.cross_attention
    hidden = jnp.where(ran[:, None], x, token.hidden)
    if decisions.propagation.copies:
        token = token._replace(exit_kv=_entering_kv(call, layer, token, step, decisions.propagation))
    token = token._replace(
        hidden=hidden,
        first=hidden if layer == 0 else token.first,
        visited=jnp.where(token.active, layer + 1, token.visited),
        layers_run=token.layers_run + ran,
        executed=token.executed + jnp.any(ran),
    )
    return token, cache, filled, ran


class _Rows(NamedTuple):
    """bool [B] per sub-layer: who runs it."""

    self_attention: Array
    cross_attention: Array
    feed_forward: Array


def _sub_layer_rows(layer, run, decisions):
    if decisions.plan is None:
        return _Rows(run, run, run)
    off = everything_off(decisions.exit)
    return _Rows(*(run & (off | planned[:, layer]) for planned in decisions.plan[:3]))


def everything_off(exit):
    """λ ≥ 1 is the full model: no exits, no gates, the full plan."""
    return jnp.zeros((), bool) if exit is None else jnp.asarray(exit.threshold) >= 1


def _entering_kv(call, layer, token, step, propagation):
    """Keys and values [B·N, 1, H] that this layer holds for the token: of the state entering it, or what stands in."""
    entering = jnp.where(token.active[:, None], token.hidden, propagation.source(token.hidden, token.first))
    kv = call(layer, entering[:, None], step.places(step.index, 1), method='self_kv')
    if propagation.copies:
        active = jnp.repeat(token.active, kv[0].shape[0] // token.active.shape[0])[:, None, None]
        kv = tuple(jnp.where(active, own, copied) for own, copied in zip(kv, token.exit_kv))
    return kv


def _fill(call, layer, cache, filled, step, exit_states, window):
    """The cache with positions `filled`…`step.index` projected from the exit states, `window` of them at a time."""

    def project(carry):
        cache, start = carry
        states = jax.lax.dynamic_slice_in_dim(exit_states, start, window, axis=1)
        kv = call(layer, states, step.places(start, window), method='self_kv')
        return kv_cache.write(cache, start, *kv), start + window

    return jax.lax.while_loop(lambda carry: carry[1] < step.index, project, (cache, filled))[0]


def _for_all(rows, sub_layer, x):
    """sub_layer(x) for every row: where only exits decide, whoever stands in a layer that is entered is computed."""
    return sub_layer(x)


def where_run(rows, sub_layer, x):
    """sub_layer(x) for the rows that run it, x for the others; nothing at all when no row does."""
    return jax.lax.cond(jnp.any(rows), lambda x: jnp.where(rows[:, None, None], sub_layer(x), x), lambda x: x, x)


def _observe(call, layer, num_layers, token, previous, ran, step, decisions):
    """Asks the measure, and takes out of the race the rows that it is sure of."""
    exit = decisions.exit
    asked = ran & ~everything_off(exit)
    every_layer = decisions.gate is None and decisions.plan is None

    def look(token):
        evidence = Evidence(
            layer,
            num_layers,
            step.position,
            token.hidden,
            previous,
            asked,
            step.oracle,
            logits=lambda rows=None, state=None: call(token.hidden if state is None else state, rows, method='unembed'),
            head_rows=step.head_rows,
            choose=step.choose,
            decides=layer + 1 >= exit.min_exit_layer,
            every_layer=every_layer,
        )
        memory, confidence, prediction = exit.measure.observe(token.memory, evidence)
        confidence = confidence.astype(jnp.float32)
        token = token._replace(
            memory=remembered(evidence, memory, token.memory),
            confidence=jnp.where(asked, confidence, token.confidence),
            active=token.active & ~(asked & exit.leaves(layer, confidence, step.position, step.length)),
        )
        if prediction is None:
            return token
        return token._replace(prediction=jnp.where(asked, prediction, token.prediction), predicted=token.predicted | asked)

    # A conditional is worth the head, which measures that predict apply; it costs more than what the others compute.
    if not exit.measure.predicts:
        return look(token)
    after = jax.eval_shape(look, token).memory

    def pass_by(token):
        return token._replace(memory=jax.tree.map(lambda old, new: _fitted(old, new.shape), token.memory, after))

    return jax.lax.cond(jnp.any(asked), look, pass_by, token)


def remembered(evidence, new, old):
    """What a measure remembers after it was asked: of rows that it was not asked about, what it did before.

    Where all rows run every layer, whoever is not asked has left and is never asked again: no array needs a copy.
    """
    if evidence.every_layer:
        return new

    def merged(new, old):
        asked = evidence.ran.reshape(evidence.ran.shape + (1,) * (new.ndim - 1))
        return jnp.where(asked, new, _fitted(old, new.shape))

    return jax.tree.map(merged, new, old)


def _fitted(old, shape):
    """An array cut, or filled up with zeros, to a shape."""
    if old.shape == shape:
        return old
    cut = old[tuple(map(slice, shape))]
    return jnp.pad(cut, [(0, new - each) for each, new in zip(cut.shape, shape)])
