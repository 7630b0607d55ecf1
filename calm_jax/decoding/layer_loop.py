"""One token through the layers.

The layers are a chain of `lax.cond` over per-layer parameters, each entered while any row still runs, so that depth
nobody needs costs nothing. Rows are independent: a row that has left keeps its state and takes no further part.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from calm_jax.decoding.decoding import Decoding, stands_at_one
from calm_jax.decoding.state import DecodeInputs, DecoderCache, LayerState, TokenInputs
from calm_jax.depth.exits import Exit
from calm_jax.models import cache as kv_cache
from calm_jax.models import planned
from calm_jax.models.cache import KVCache
from calm_jax.models.config import TransformerConfig
from calm_jax.types import Array, Context, Evidence, HeadColumns


class SubLayers(NamedTuple):
    """Who runs each sub-layer of a layer, bool [B] each."""

    self_attention: Array
    cross_attention: Array
    feed_forward: Array

    @property
    def any(self) -> Array:
        """Rows that run any of them, bool [B]."""
        return self.self_attention | self.cross_attention | self.feed_forward


class LayerLoop(NamedTuple):
    """What one token's way through the layers needs to know and does not change.

    call: (*args, method) → a method of the model, parameters bound. choose: of `Evidence`.
    """

    call: Callable
    config: TransformerConfig
    decoding: Decoding
    inputs: DecodeInputs
    token: TokenInputs
    choose: Callable

    @property
    def every_layer(self) -> bool:
        """Whether all rows run every layer until they leave."""
        return self.decoding.gate is None and self.inputs.plan is None

    @property
    def decides(self) -> bool:
        """Whether anything may keep a row from running a layer; where nothing does there is no conditional at all."""
        return not (self.every_layer and self.decoding.exit is None and self.inputs.depth is None)

    @property
    def sub_layers(self) -> int:
        """How many sub-layers a layer has."""
        return 2 if self.config.decoder_only else 3

    def run(self, hidden: Float[Array, 'B D'], cache: DecoderCache) -> tuple[LayerState, DecoderCache]:
        """Takes one token of every row as far up as its row wants to go. hidden: the embedded token.

        Rows of the returned state without `predicted` still need the head.
        """
        state, layers, filled = self._entering(hidden, cache), list(cache.layers), list(cache.filled)
        ran = state.active
        for layer in range(self.config.num_decoder_layers):
            previous = state.hidden
            state, layers[layer], filled[layer], ran = self._layer(
                layer, state, layers[layer], filled[layer], cache.exit_states
            )
            if self.decoding.exit is not None and self.decoding.exit.observes(layer):
                state = self._observe(self.decoding.exit, layer, state, previous, ran)
            if self.inputs.depth is not None:
                state = state._replace(active=state.active & (self.inputs.depth != layer + 1))
        if self.decoding.exit is not None and self.decoding.exit.measure.prunes:
            # Where no layer was sure the full head decides; a row that a plan or gate takes past the last has not seen it.
            state = state._replace(predicted=state.predicted & (~state.active | ran))
        return state, DecoderCache(tuple(layers), tuple(filled), self._exit_states(cache.exit_states, state))

    def _entering(self, hidden, cache):
        rows, measure, gate = hidden.shape[0], self.decoding.exit and self.decoding.exit.measure, self.decoding.gate
        number, propagation = jnp.zeros(rows, jnp.int32), self.decoding.propagation
        empty = jnp.zeros_like(cache.layers[0].keys[:, :1]) if propagation.copies else None
        return LayerState(
            hidden=hidden,
            first=hidden if propagation.reads_first else None,
            active=self.token.alive,
            visited=number,
            confidence=jnp.ones(rows, jnp.float32),
            prediction=number,
            predicted=jnp.zeros(rows, bool),
            sub_layers=None if self.every_layer else jnp.zeros((rows, 3), jnp.int32),
            scored=None if measure is None and gate is None else jnp.zeros((rows, 3), jnp.int32),
            executed=None if self.every_layer else jnp.zeros((), jnp.int32),
            memory=None if measure is None else measure.init(rows, self.config.sizes),
            gate_memory=None if gate is None else gate.init(rows, self.config.sizes),
            exit_kv=None if empty is None else KVCache(empty, empty),
        )

    def _layer(self, layer, state, cache, filled, exit_states):
        """(state, cache, filled) after one layer, entered while any row runs, and which rows ran any of it, bool [B]."""

        def visit(state, cache, filled):
            return self._visit(layer, state, cache, filled, exit_states)

        def skip(state, cache, filled):
            if not self.decoding.propagation.lazy:
                cache = kv_cache.write(cache, self.token.slot, *self._entering_kv(layer, state))
            return state, cache, filled, jnp.zeros_like(state.active)

        if not self.decides:
            return visit(state, cache, filled)
        return jax.lax.cond(jnp.any(state.active), visit, skip, state, cache, filled)

    def _visit(self, layer, state, cache, filled, exit_states):
        """One layer: keys and values, then sub-layers."""
        state, rows = self._who_runs(layer, state)
        run = planned.everyone if self.every_layer else planned.skipped
        token, inputs, call = self.token, self.inputs, self.call

        def attend(x, cache, filled):
            if exit_states is not None:
                cache = self._fill(layer, cache, filled, exit_states)
            cache = kv_cache.write(cache, token.slot, *self._entering_kv(layer, state))
            x = run(
                rows.self_attention, lambda x: call(layer, x, *cache, token.self_bias, token.place, method='self_attend'), x
            )
            return x, cache, jnp.broadcast_to(token.cursor + 1, filled.shape)

        x = state.hidden[:, None]
        if inputs.plan is None:
            x, cache, filled = attend(x, cache, filled)
        else:
            # A gate that closes still writes keys and values; a plan that skips self-attention never needs them. Rows that
            # have left wait for `_fill`, or, where nothing is filled later, are written now.
            held = token.alive if exit_states is None else state.active
            reads = held & inputs.plan.self_attention[:, layer]
            x, cache, filled = jax.lax.cond(jnp.any(reads), attend, lambda *carry: carry, x, cache, filled)
        if inputs.cross_kv is not None:
            keys_values = inputs.cross_kv[layer]
            x = run(rows.cross_attention, lambda x: call(layer, x, *keys_values, inputs.cross_bias, method='cross_attend'), x)
        x = run(rows.feed_forward, lambda x: call(layer, x, method='feed_forward'), x)[:, 0]

        ran = rows.any
        hidden = jnp.where(ran[:, None], x, state.hidden)
        if self.decoding.propagation.copies:
            state = state._replace(exit_kv=self._entering_kv(layer, state))
        state = state._replace(
            hidden=hidden,
            first=hidden if layer == 0 and state.first is not None else state.first,
            visited=jnp.where(state.active, layer + 1, state.visited),
        )
        return self._count(state, rows), cache, filled, ran

    def _count(self, state, rows):
        """The state with the sub-layers that the rows run counted, and those that the batch ran."""
        if self.every_layer:
            return state
        ran = jnp.stack([rows.self_attention, rows.cross_attention, rows.feed_forward], axis=1)
        return state._replace(
            sub_layers=state.sub_layers + ran, executed=state.executed + jnp.sum(jnp.any(ran, axis=0), dtype=jnp.int32)
        )

    def executed(self, state: LayerState) -> Int[Array, '']:
        """Sub-layers that the batch ran for this token: where rows run every layer until they leave, those of the deepest."""
        return self.sub_layers * jnp.max(state.visited) if state.executed is None else state.executed

    def _who_runs(self, layer, state) -> tuple[LayerState, SubLayers]:
        """The state, with what the gate remembers, and who runs the layer's sub-layers."""
        rows = [state.active] * 3
        gate, plan = self.decoding.gate, self.inputs.plan
        if gate is not None:
            keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(self.token.keys, layer)
            context = Context(
                sizes=self.config.sizes,
                example_ids=self.inputs.example_ids,
                tokens=self.inputs.source,
                mask=self.inputs.mask,
                hidden=state.hidden,
                keys=keys,
                layer=layer,
                position=self.token.position,
            )
            memory, opened = gate(state.gate_memory, context)
            opened = _checked_gate(gate, opened, len(state.active))
            units = self.config.sizes.units(gate.flops(layer, self.config.sizes))
            scored = state.scored + state.active[:, None] * jnp.array([0, 0, units], jnp.int32)
            state = state._replace(gate_memory=memory, scored=scored)
            rows = [row & (opened if opened.ndim == 1 else opened[:, i]) for i, row in enumerate(rows)]
        if plan is not None:
            rows = [row & sub_layers[:, layer] for row, sub_layers in zip(rows, plan[:3])]
        if self.config.decoder_only and not self.every_layer:
            rows[1] = jnp.zeros_like(rows[1])
        return state, SubLayers(*rows)

    def _entering_kv(self, layer, state) -> KVCache:
        """Keys and values [B·N, 1, H] that this layer holds for the token: of the state entering it, or what stands in."""
        propagation, entering = self.decoding.propagation, state.hidden
        if propagation.reads_first:
            entering = jnp.where(state.active[:, None], entering, propagation.source(entering, state.first))
        kv = KVCache(*self.call(layer, entering[:, None], self.token.place, method='self_kv'))
        if propagation.copies:
            active = jnp.repeat(state.active, kv.keys.shape[0] // state.active.shape[0])[:, None, None]
            kv = jax.tree.map(lambda own, copied: jnp.where(active, own, copied), kv, state.exit_kv)
        return kv

    def _fill(self, layer, cache, filled, exit_states) -> KVCache:
        """The cache with every row's positions from `filled` to the cursor projected from the exit states.

        Windows begin at multiples of their width, which divides the ring, so that none crosses its end.
        """
        window, ring = self.decoding.propagation.window, exit_states.shape[1]
        cursor, heads = self.token.cursor, cache.keys.shape[0] // exit_states.shape[0]
        lowest = filled if filled.ndim == 0 else jnp.min(jnp.where(self.token.alive, filled, cursor))

        def project(carry):
            cache, begin = carry
            slot, index = begin % ring, begin + jnp.arange(window, dtype=jnp.int32)
            states = jax.lax.dynamic_slice_in_dim(exit_states, slot, window, axis=1)
            made = KVCache(*self.call(layer, states, places(self.inputs, index), method='self_kv'))
            pending = (index >= filled[..., None]) & (index < cursor)
            if filled.ndim:
                pending = jnp.repeat(pending, heads, axis=0)
            pending = jnp.atleast_2d(pending)[:, :, None]
            there = kv_cache.read(cache, slot, window)
            made = jax.tree.map(lambda new, old: jnp.where(pending, new, old), made, there)
            return kv_cache.write(cache, slot, *made), begin + window

        # Where nothing is missing there is no window, though the cursor stands within one.
        first = jnp.where(lowest < cursor, lowest // window * window, cursor)
        return jax.lax.while_loop(lambda carry: carry[1] < cursor, project, (cache, first))[0]

    def _exit_states(self, exit_states, state):
        """The ring of exit states with this token's."""
        if exit_states is None:
            return None
        source = self.decoding.propagation.source(state.hidden, state.first)[:, None]
        return jax.lax.dynamic_update_slice_in_dim(exit_states, source, self.token.slot, axis=1)

    def _head_rows(self, ids):
        """HeadRows of ids int32 [B, k]; of a tied head straight from the embedding."""
        table = self.call(method='head_table') if self.inputs.head_table is None else self.inputs.head_table
        return self.call(ids, table, method='head_rows')

    def _observe(self, rule: Exit, layer, state, previous, ran) -> LayerState:
        """Asks the measure, and takes out of the race the rows that it is sure of."""
        token, inputs = self.token, self.inputs
        asked = ran if inputs.asks is None else ran & inputs.asks

        def look(state):
            head = CountedHead(self.call, state.hidden, asked, [])
            evidence = Evidence(
                layer=layer,
                num_layers=self.config.num_decoder_layers,
                position=token.position,
                hidden=state.hidden,
                previous=previous,
                ran=asked,
                oracle=token.oracle,
                logits=head,
                head_rows=self._head_rows,
                choose=self.choose,
                head_columns=inputs.head_table if isinstance(inputs.head_table, HeadColumns) else None,
                decides=layer + 1 >= rule.min_exit_layer,
                every_layer=self.every_layer,
            )
            memory, confidence, prediction = rule.measure.observe(state.memory, evidence)
            confidence = confidence.astype(jnp.float32)
            leaves = rule.leaves(layer, confidence, inputs.threshold, token.position, inputs.limit)
            units = self.config.sizes.units(rule.measure.flops(layer, self.config.sizes))
            state = state._replace(
                memory=remembered(evidence, memory, state.memory),
                confidence=jnp.where(asked, confidence, state.confidence),
                active=state.active & ~(asked & leaves),
                scored=state.scored + head.work(units),
            )
            if prediction is None:
                return state
            return state._replace(prediction=jnp.where(asked, prediction, state.prediction), predicted=state.predicted | asked)

        # A conditional is worth the head, which measures of logits apply; it costs more than what the others compute.
        if not rule.measure.reads_logits:
            return look(state)
        after = jax.eval_shape(look, state).memory

        def pass_by(state):
            return state._replace(memory=jax.tree.map(lambda old, new: _fitted(old, new.shape), state.memory, after))

        return jax.lax.cond(jnp.any(asked), look, pass_by, state)


class CountedHead(NamedTuple):
    """The shared head on one layer's states, as `Evidence.logits`, counted where it is applied.

    asked: bool [B], rows that are asked. applied: what has been: (rows that needed it, ids scored).
    """

    call: Callable
    hidden: Array
    asked: Array
    applied: list[tuple[Array, int]]

    def __call__(self, rows: Any = None, state: Array | None = None, asked: Array | None = None) -> Array:
        logits = self.call(self.hidden if state is None else state, rows, method='unembed')
        self.applied.append((self.asked if asked is None else asked, logits.shape[-1]))
        return logits

    def work(self, units: int) -> Int[Array, 'B 3']:
        """States put through the head, ids scored, and `units` of other operations, of the rows asked."""
        shared = [ids for rows, ids in self.applied if rows is self.asked]
        work = self.asked[:, None] * jnp.array([len(shared), sum(shared), units], jnp.int32)
        for rows, ids in self.applied:
            if rows is not self.asked:
                work = work + rows[:, None] * jnp.array([1, ids, 0], jnp.int32)
        return work


def _checked_gate(gate, opened, rows) -> Array:
    """Who runs, bool [B] or [B, 3], everybody where the gate's dial stands at 1."""
    shape, kind = getattr(opened, 'shape', None), str(getattr(opened, 'dtype', None))
    if shape not in ((rows,), (rows, 3)) or kind != 'bool':
        raise ValueError(f'{type(gate).__name__} gave {kind} {shape}; expected bool [{rows}] or [{rows}, 3], who runs')
    return opened | stands_at_one(gate)


def places(inputs: DecodeInputs, index: Int[Array, ' W']) -> Int[Array, 'rows W']:
    """Where in their rows the cache entries of these indices stand, int32 [B|1, W]."""
    if inputs.start is None:
        return index[None]
    return jnp.maximum(index[None] - inputs.start[:, None], 0)


def remembered(evidence: Evidence, new: Any, old: Any) -> Any:
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
