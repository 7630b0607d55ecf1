"""One token through the layers.

The layers are a chain of `lax.cond` over per-layer parameters, each entered while any row still runs, so that depth
nobody needs costs nothing. Rows are independent: a row that has left keeps its state and takes no further part.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from calm_jax.decoding.chooser import Chooser
from calm_jax.decoding.decoding import Decoding, stands_at_one
from calm_jax.decoding.packing import NEVER, Packing, fitted, gathers, put, taken
from calm_jax.decoding.state import DecodeInputs, DecoderCache, LayerState, TokenInputs
from calm_jax.depth.exits import Exit
from calm_jax.models import cache as kv_cache
from calm_jax.models import planned
from calm_jax.models.cache import KVCache
from calm_jax.models.config import TransformerConfig
from calm_jax.models.layers import Some
from calm_jax.types import Array, Context, Evidence, HeadColumns, HeadRows


class SubLayers(NamedTuple):
    """Who runs each sub-layer of a layer, bool [B] each."""

    self_attention: Array
    cross_attention: Array
    feed_forward: Array

    @property
    def any(self) -> Array:
        """Rows that run any of them, bool [B]."""
        return self.self_attention | self.cross_attention | self.feed_forward


class Way(NamedTuple):
    """How some of a loop's rows take a layer, or a sub-layer.

    taken: bool [], whether it is the way. loop: over its rows. some: which of the rows of the whole loop those are; None: all.
    """

    taken: Array
    loop: 'LayerLoop'
    some: Some | None


class LayerLoop(NamedTuple):
    """What one token's way through the layers needs to know and does not change.

    call: (*args, method) → a method of the model, parameters bound. choose: of `Evidence`, a `Chooser` where rows are packed.
    packing: where rows are packed.
    some: which of the `count` rows of the batch inputs, token and states are of; None: all of them. Caches are the batch's.
    """

    call: Callable
    config: TransformerConfig
    decoding: Decoding
    inputs: DecodeInputs
    token: TokenInputs
    choose: Callable
    packing: Packing = NEVER
    some: Some | None = None
    count: int = 0

    @property
    def rows(self) -> Array | None:
        """int32 [w], which rows of the batch the loop is over; None: all."""
        return None if self.some is None else self.some.rows

    @property
    def every_layer(self) -> bool:
        """Whether all rows run every layer until they leave."""
        return self.decoding.gate is None and self.inputs.plan is None

    @property
    def by_sub_layer(self) -> bool:
        """Whether each sub-layer, self-attention with what it writes, is a part that no row or some rows run."""
        return self.inputs.plan is not None or (self.packing.sub_layers and not self.every_layer)

    @property
    def decides(self) -> bool:
        """Whether anything may keep a row from running a layer; where nothing does there is no conditional at all."""
        return not (self.every_layer and self.decoding.exit is None and self.inputs.depth is None)

    @property
    def predicts(self) -> bool:
        """Whether some rows need no head: an observation of the measure yields their token, or they wait."""
        rule = self.decoding.exit
        return rule is not None and (rule.measure.predicts or rule.verify > 0)

    @property
    def sub_layers(self) -> int:
        """How many sub-layers a layer has."""
        return 2 if self.config.decoder_only else 3

    def run(self, hidden: Float[Array, 'B D'], cache: DecoderCache) -> tuple[LayerState, DecoderCache]:
        """Takes one token of every row as far up as its row wants to go. hidden: the embedded token.

        Rows of the returned state without `predicted` still need the head.
        """
        state, layers, filled = self._first_state(hidden, cache), list(cache.layers), list(cache.filled)
        ran, ways = state.active, None
        for layer in range(self.config.num_decoder_layers):
            if layer in self.packing.points:
                ways = self.ways(state.active)
            previous = state.hidden
            state, layers[layer], filled[layer], ran = self._layer(
                layer, state, layers[layer], filled[layer], cache.exit_states, ways
            )
            if self.decoding.exit is not None and self.decoding.exit.observes(layer):
                state = self._observe(self.decoding.exit, layer, state, previous, ran, ways)
            if self.inputs.depth is not None:
                state = state._replace(active=state.active & (self.inputs.depth != layer + 1))
        if self.decoding.exit is not None and self.decoding.exit.measure.prunes:
            # Where no layer was sure the full head decides; a row that a plan or gate takes past the last has not seen it.
            state = state._replace(predicted=state.predicted & (~state.active | ran))
        return state, DecoderCache(tuple(layers), tuple(filled), self._exit_states(cache.exit_states, state))

    def read_by_head(self, state: LayerState) -> Float[Array, 'B D']:
        """The state of each row that the head reads: adapted, where the row has left before the last layer."""
        if state.adapted is None:
            return state.hidden
        return jnp.where((state.visited < self.config.num_decoder_layers)[:, None], state.adapted, state.hidden)

    def ways(self, some: Bool[Array, ' w']) -> 'list[Way]':
        """A way for every width of the packing, and one for all of the loop's rows: the least that holds these rows is taken,
        none where there are none."""
        count, widths = some.shape[0], self.packing.within(some.shape[0])
        if not widths:
            return [Way(jnp.any(some), self, None)]
        many, least, ways = jnp.sum(some, dtype=jnp.int32), 0, []
        order = jnp.argsort(~some, stable=True).astype(jnp.int32)
        ranks = jnp.maximum(jnp.cumsum(some, dtype=jnp.int32) - 1, 0)
        for width in widths:
            packed = Some(order[:width], jnp.minimum(ranks, width - 1))
            ways.append(Way((many > least) & (many <= width), self._of_rows(packed, count), packed))
            least = width
        return [*ways, Way(many > least, self, None)]

    def _of_rows(self, some: Some, count: int) -> 'LayerLoop':
        """The loop over some of its `count` rows."""
        return self._replace(
            inputs=self.inputs.of_rows(some.rows, count),
            token=self.token.of_rows(some.rows, count),
            choose=cast(Chooser, self.choose).of_rows(some.rows, count),
            some=some,
            count=count,
        )

    def _first_state(self, hidden: Float[Array, 'B D'], cache: DecoderCache) -> LayerState:
        rows, measure, gate = hidden.shape[0], self.decoding.exit and self.decoding.exit.measure, self.decoding.gate
        number, propagation = jnp.zeros(rows, jnp.int32), self.decoding.propagation
        empty = jnp.zeros_like(cache.layers[0].keys[:, :1]) if propagation.copies else None
        return LayerState(
            hidden=hidden,
            first=hidden if propagation.reads_first else None,
            adapted=None if self.decoding.exit is None or self.decoding.exit.adapters is None else hidden,
            active=self.token.alive,
            visited=number,
            confidence=jnp.ones(rows, jnp.float32),
            prediction=number,
            predicted=jnp.zeros(rows, bool),
            sub_layers=None if self.every_layer else jnp.zeros((rows, 3), jnp.int32),
            scored=None if measure is None and gate is None else jnp.zeros((rows, 3), jnp.int32),
            executed=None if self.every_layer and not self.packing else jnp.zeros((), jnp.int32),
            memory=None if measure is None else measure.init(rows, self.config.sizes),
            gate_memory=None if gate is None else gate.init(rows, self.config.sizes),
            exit_kv=None if empty is None else KVCache(empty, empty),
        )

    def _layer(
        self,
        layer: int,
        state: LayerState,
        cache: KVCache,
        filled: Int[Array, '*rows'],
        exit_states: Float[Array, 'B R D'] | None,
        ways: Any,
    ) -> tuple[LayerState, KVCache, Array, Bool[Array, ' B']]:
        """(state, cache, filled) after one layer, entered while any row runs, and which rows ran any of it, bool [B].

        A conditional for every width, with nothing on its other side: XLA copies the caches that one of several branches
        carries, those of one that also asks the measure, and those of one within another. Where sub-layers have conditionals of
        their own the layer has none.
        """
        nobody = jnp.zeros_like(state.active)

        def skip(state, cache, filled):
            if not self.decoding.propagation.lazy:
                cache = kv_cache.write(cache, self.token.slot, *self._passing(layer, state))
            return state, cache, filled, nobody

        if not self.decides or self.by_sub_layer:
            return self._visit(layer, state, cache, filled, exit_states)
        if ways is None:
            alone = partial(self._visit, layer, exit_states=exit_states)
            return jax.lax.cond(jnp.any(state.active), alone, skip, state, cache, filled)
        goes_on, ran = jnp.any(state.active), nobody
        for taken_now, loop, _ in ways:

            def visit(state, cache, filled, ran, loop=loop):
                return loop._visit_packed(layer, state, cache, filled, exit_states, ran)

            arguments = state, cache, filled, ran
            state, cache, filled, ran = jax.lax.cond(taken_now & goes_on, visit, lambda *carry: carry, *arguments)
        return state, cache, filled, ran

    def _visit_packed(
        self,
        layer: int,
        state: LayerState,
        cache: KVCache,
        filled: Int[Array, '*rows'],
        exit_states: Float[Array, 'B R D'] | None,
        ran: Bool[Array, ' B'],
    ) -> tuple[LayerState, KVCache, Array, Bool[Array, ' B']]:
        """`_visit` for the loop's rows, of the states of all."""
        if self.rows is None:
            return self._visit(layer, state, cache, filled, exit_states)
        # What the measure alone looks at stays where it is.
        own = state._replace(memory=None, confidence=None, prediction=None, predicted=None, executed=None)
        packed = taken(own, self.rows, self.count)._replace(executed=state.executed)
        packed, cache, filled, ran_packed = self._visit(layer, packed, cache, filled, exit_states)
        executed = packed.executed
        own = put(own, self.rows, packed._replace(executed=None), self.count)
        measured = {name: getattr(state, name) for name in ('memory', 'confidence', 'prediction', 'predicted')}
        return own._replace(executed=executed, **measured), cache, filled, ran.at[self.rows].set(ran_packed)

    def _visit(
        self,
        layer: int,
        state: LayerState,
        cache: KVCache,
        filled: Int[Array, '*rows'],
        exit_states: Float[Array, 'B R D'] | None,
    ) -> tuple[LayerState, KVCache, Array, Bool[Array, ' w']]:
        """One layer: keys and values, then sub-layers."""
        state, rows = self._who_runs(layer, state)
        x, cache, filled, attending = self._attended(layer, state, rows.self_attention, cache, filled, exit_states)
        reading, feeding = [], []
        if self.inputs.cross_kv is not None:
            x, reading = self._added(rows.cross_attention, partial(LayerLoop._read_source, layer=layer), x)
        x, feeding = self._added(rows.feed_forward, partial(LayerLoop._fed, layer=layer), x)
        ran = rows.any
        hidden = jnp.where(ran[:, None], x[:, 0], state.hidden)
        if self.decoding.propagation.copies:
            passed = jax.lax.cond(
                jnp.any(state.active), lambda state: self._passing(layer, state), lambda state: state.exit_kv, state
            )
            state = state._replace(exit_kv=passed)
        state = state._replace(
            hidden=hidden,
            first=hidden if layer == 0 and state.first is not None else state.first,
            visited=jnp.where(state.active, layer + 1, state.visited),
        )
        return self._count(state, rows, (attending, reading, feeding)), cache, filled, ran

    def _added(
        self, runs: Bool[Array, ' w'], sub_layer: 'Callable[[LayerLoop, Array], Array]', x: Float[Array, 'w 1 D']
    ) -> 'tuple[Array, list[Way]]':
        """(states after a sub-layer of the rows that run it, those that entered it of the others; the ways there are of it)."""
        if self.every_layer:
            return sub_layer(self, x), []
        ways = self.ways(runs) if self.by_sub_layer else [Way(jnp.any(runs), self, None)]
        for taken_now, loop, some in ways:

            def add(x, loop=loop, some=some):
                if some is None:
                    return planned.masked(runs, partial(sub_layer, loop), x)
                new = sub_layer(loop, jnp.take(x, some.rows, axis=0))
                return planned.masked(runs, lambda x: jnp.take(new, some.ranks, axis=0), x)

            x = jax.lax.cond(taken_now, add, lambda x: x, x)
        return x, ways

    def _read_source(self, x: Float[Array, 'w 1 D'], layer: int) -> Float[Array, 'w 1 D']:
        """States after cross-attention."""
        assert self.inputs.cross_kv is not None and self.inputs.cross_bias is not None
        seen = self._seen(self.inputs.cross_kv[layer], self.inputs.cross_bias)
        return self.call(layer, x, *seen, method='cross_attend')

    def _fed(self, x: Float[Array, 'w 1 D'], layer: int) -> Float[Array, 'w 1 D']:
        """States after the feed-forward."""
        return self.call(layer, x, method='feed_forward')

    def _attended(
        self,
        layer: int,
        state: LayerState,
        asks: Bool[Array, ' w'],
        cache: KVCache,
        filled: Int[Array, '*rows'],
        exit_states: Float[Array, 'B R D'] | None,
    ) -> 'tuple[Array, KVCache, Array, list[Way]]':
        """(states after self-attention of the rows that ask, the cache, up to where it is filled, the ways there are of it).

        A gate that closes still writes keys and values; a plan that skips self-attention never needs them. Rows that have left
        wait for `_fill`, or, where nothing is filled later, are written now.
        """
        held = self.token.alive if exit_states is None else state.active
        if self.inputs.plan is not None:
            held = held & self.inputs.plan.self_attention[:, layer]
        own = _of_attention(state)
        if not self.by_sub_layer:
            return *self._attend(layer, own, held, asks, cache, filled, exit_states), []
        x, ways = state.hidden[:, None], self.ways(held)
        for taken_now, loop, some in ways:

            def attend(x, cache, filled, loop=loop, some=some):
                if some is None:
                    return loop._attend(layer, own, held, asks, cache, filled, exit_states)
                packed, holds, reads = taken((own, held, asks), some.rows, asks.shape[0])
                new, cache, filled = loop._attend(layer, packed, holds, reads, cache, filled, exit_states)
                return planned.masked(asks, lambda x: jnp.take(new, some.ranks, axis=0), x), cache, filled

            x, cache, filled = jax.lax.cond(taken_now, attend, lambda *carry: carry, x, cache, filled)
        return x, cache, filled, ways

    def _attend(
        self,
        layer: int,
        state: LayerState,
        held: Bool[Array, ' w'],
        asks: Bool[Array, ' w'],
        cache: KVCache,
        filled: Int[Array, '*rows'],
        exit_states: Float[Array, 'B R D'] | None,
    ) -> tuple[Float[Array, 'w 1 D'], KVCache, Int[Array, '*rows']]:
        """(states after self-attention, the cache, up to where it is filled) of the loop's rows: held, those whose keys and
        values are wanted; asks, those that attend."""
        token, x, inside = self.token, state.hidden[:, None], held & state.active
        if exit_states is not None:
            cache = self._fill(layer, cache, filled, exit_states, inside)
        # Where a gate may keep all rows from asking, queries wait until one does.
        waits = self.decoding.gate is not None
        queries, entering = (None, self._passing(layer, state)) if waits else self._entering(layer, state)
        if self.some is not None:
            # What there is of the others is filled in later, or never read; to write some rows alone takes longer.
            entering = taken(entering, self.some.ranks, self.some.rows.shape[0])
        cache = kv_cache.write(cache, token.slot, *entering)
        seen = self._seen(cache, planned.of_layer(token.self_bias, layer))

        def read(x):
            asking = self.call(layer, x, token.place, method='self_queries') if queries is None else queries
            return self.call(layer, x, asking, *seen, method='self_attend')

        x = read(x) if self.every_layer else planned.Skipped()(asks, read, x)
        return x, cache, self._filled(filled, inside)

    def _seen(self, cache: KVCache, bias: Float[Array, 'rows heads 1 S']) -> tuple[Array, Array, Array, Some | None]:
        """(keys, values, bias, some) that the loop's rows attend with: their own, or everybody's with who they are."""
        if self.rows is None or not gathers(self.rows.shape[0], self.count):
            return cache.keys, cache.values, bias, self.some
        bias = bias if bias.shape[0] == 1 else taken(bias, self.rows, self.count)
        cache = taken(cache, self.rows, self.count)
        return cache.keys, cache.values, bias, None

    def _filled(self, filled: Int[Array, '*rows'], active: Bool[Array, ' w']) -> Int[Array, '*rows']:
        """Up to which index the layer is filled now: of all rows, or of each that is inside."""
        if not filled.ndim:
            return self.token.cursor + 1
        if self.rows is None:
            return jnp.where(active, self.token.cursor + 1, filled)
        return filled.at[self.rows].set(jnp.where(active, self.token.cursor + 1, filled[self.rows]))

    def _count(self, state: LayerState, rows: SubLayers, ways: 'tuple[list[Way], ...]') -> LayerState:
        """The state with the sub-layers that the rows run counted, and the places that the batch ran; ways: of each sub-layer,
        none where all of the loop's rows go one."""
        if state.executed is None:
            return state
        count = state.active.shape[0]
        if self.every_layer:
            return state._replace(executed=state.executed + self.sub_layers * count)
        ran, places = jnp.stack(rows, axis=1), jnp.zeros((), jnp.int32)
        for runs, each in zip(rows, ways):
            widths = [jnp.where(way.taken, count if way.some is None else way.some.rows.shape[0], 0) for way in each]
            places = places + jnp.any(runs) * (sum(widths[1:], widths[0]) if widths else count)
        executed = _counted(state.executed, places.astype(jnp.int32))
        return state._replace(sub_layers=_counted(state.sub_layers, ran), executed=executed)

    def executed(self, state: LayerState) -> Int[Array, '']:
        """Places that the batch ran for this token, sub-layers times rows: where rows run every layer until they leave, and are
        not packed, those of the deepest."""
        if state.executed is not None:
            return state.executed
        return self.sub_layers * jnp.max(state.visited) * state.active.shape[0]

    def _who_runs(self, layer: int, state: LayerState) -> tuple[LayerState, SubLayers]:
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
            scored = _counted(state.scored, state.active[:, None] * jnp.array([0, 0, units], jnp.int32))
            state = state._replace(gate_memory=memory, scored=scored)
            rows = [row & (opened if opened.ndim == 1 else opened[:, i]) for i, row in enumerate(rows)]
        if plan is not None:
            rows = [row & sub_layers[:, layer] for row, sub_layers in zip(rows, plan[:3])]
        if self.config.decoder_only and not self.every_layer:
            rows[1] = jnp.zeros_like(rows[1])
        return state, SubLayers(*rows)

    def _entering(self, layer: int, state: LayerState) -> tuple[Float[Array, 'w 1 N H'], KVCache]:
        """Queries of the token in this layer, and the keys and values that it holds for it; rows that are not inside ask
        nothing."""
        queries, *made = self.call(layer, self._held_state(state), self.token.place, method='self_project')
        return queries, self._held(KVCache(*made), state)

    def _passing(self, layer: int, state: LayerState) -> KVCache:
        """Keys and values [w·N, 1, H] alone that this layer holds for the token."""
        made = self.call(layer, self._held_state(state), self.token.place, method='self_kv')
        return self._held(KVCache(*made), state)

    def _held_state(self, state: LayerState) -> Float[Array, 'w 1 D']:
        """What keys and values are made of: the state entering the layer, or what stands in for rows that are not inside."""
        hidden, propagation = state.hidden, self.decoding.propagation
        if propagation.reads_first:
            hidden = jnp.where(state.active[:, None], hidden, propagation.source(hidden, state.first))
        if propagation.reads_adapted and state.adapted is not None:
            hidden = jnp.where(state.active[:, None], hidden, propagation.source(state.adapted, state.first))
        return hidden[:, None]

    def _held(self, made: KVCache, state: LayerState) -> KVCache:
        """The keys and values that were made, or those that were copied for rows that are not inside."""
        if not self.decoding.propagation.copies:
            return made
        active = jnp.repeat(state.active, made.keys.shape[0] // state.active.shape[0])[:, None, None]
        return jax.tree.map(lambda own, copied: jnp.where(active, own, copied), made, state.exit_kv)

    def _fill(
        self,
        layer: int,
        cache: KVCache,
        filled: Int[Array, '*rows'],
        exit_states: Float[Array, 'B R D'],
        active: Bool[Array, ' w'],
    ) -> KVCache:
        """The cache with the positions from `filled` to the cursor projected from the exit states, of all rows or of each that
        is inside."""
        if filled.ndim:
            return self._fill_pairs(layer, cache, filled, exit_states, active)
        return self._fill_windows(layer, cache, filled, exit_states)

    def _fill_windows(self, layer: int, cache: KVCache, filled: Int[Array, ''], exit_states: Float[Array, 'B R D']) -> KVCache:
        """All rows alike, some positions at a time. Windows begin at multiples of their width, which divides the ring, so that
        none crosses its end."""
        window, ring, cursor = self.decoding.propagation.window, exit_states.shape[1], self.token.cursor

        def project(carry):
            cache, begin = carry
            slot, index = begin % ring, begin + jnp.arange(window, dtype=jnp.int32)
            states = jax.lax.dynamic_slice_in_dim(exit_states, slot, window, axis=1)
            made = KVCache(*self.call(layer, states, places(self.inputs, index), method='self_kv'))
            pending = ((index >= filled) & (index < cursor))[None, :, None]
            there = kv_cache.read(cache, slot, window)
            made = jax.tree.map(lambda new, old: jnp.where(pending, new, old), made, there)
            return kv_cache.write(cache, slot, *made), begin + window

        # Where nothing is missing there is no window, though the cursor stands within one.
        first = jnp.where(filled < cursor, filled // window * window, cursor)
        return jax.lax.while_loop(lambda carry: carry[1] < cursor, project, (cache, first))[0]

    def _fill_pairs(
        self,
        layer: int,
        cache: KVCache,
        filled: Int[Array, ' B'],
        exit_states: Float[Array, 'B R D'],
        active: Bool[Array, ' w'],
    ) -> KVCache:
        """Of each row that is inside what it lacks: one list of (row, position), some of it at a time."""
        ring, cursor, count = exit_states.shape[1], self.token.cursor, exit_states.shape[0]
        rows = jnp.arange(count, dtype=jnp.int32) if self.rows is None else self.rows
        begin = filled[rows]
        lacks = jnp.where(active, cursor - begin, 0)
        ends = jnp.cumsum(lacks)
        size = max(self.decoding.propagation.window, rows.shape[0])

        def project(carry):
            cache, done = carry
            pair = done + jnp.arange(size, dtype=jnp.int32)
            of = jnp.minimum(jnp.searchsorted(ends, pair, side='right', method='compare_all'), rows.shape[0] - 1)
            index = begin[of] + pair - (ends[of] - lacks[of])
            states = exit_states[rows[of], index % ring]
            place = index if self.inputs.start is None else jnp.maximum(index - self.inputs.start[of], 0)
            made = self.call(layer, states[:, None], place[:, None], method='self_kv')
            # Beyond the list's end the row is one that there is not: nothing is written.
            return kv_cache.put(cache, jnp.where(pair < ends[-1], rows[of], count), index % ring, *made), done + size

        return jax.lax.while_loop(lambda carry: carry[1] < ends[-1], project, (cache, jnp.zeros((), ends.dtype)))[0]

    def _exit_states(self, exit_states: Float[Array, 'B R D'] | None, state: LayerState) -> Float[Array, 'B R D'] | None:
        """The ring of exit states with this token's."""
        if exit_states is None:
            return None
        left = self.read_by_head(state) if self.decoding.propagation.reads_adapted else state.hidden
        source = self.decoding.propagation.source(left, state.first)[:, None]
        return jax.lax.dynamic_update_slice_in_dim(exit_states, source, self.token.slot, axis=1)

    def _head_rows(self, ids: Int[Array, 'B k']) -> HeadRows:
        """HeadRows of ids int32 [B, k]; of a tied head straight from the embedding."""
        table = self.call(method='head_table') if self.inputs.head_table is None else self.inputs.head_table
        return self.call(ids, table, method='head_rows')

    def _observe(
        self, rule: Exit, layer: int, state: LayerState, previous: Float[Array, 'B D'], ran: Bool[Array, ' B'], ways: Any
    ) -> LayerState:
        """Asks the measure, and takes out of the race the rows that it is sure of."""
        asked = ran if self.inputs.asks is None else ran & self.inputs.asks

        # A conditional is worth the head, which measures of logits apply, and adapters; it costs more than what others compute.
        if not rule.measure.reads_logits and rule.adapters is None:
            return self._look(rule, layer, state, previous, asked)
        memory = state.memory
        after = jax.eval_shape(lambda state: self._look(rule, layer, state, previous, asked), state).memory
        state = state._replace(memory=jax.tree.map(lambda old, new: fitted(old, new.shape), memory, after))
        anybody = jnp.any(asked)
        for taken_now, loop, _ in [Way(anybody, self, None)] if ways is None else ways:

            def look(state, loop=loop):
                return loop._look_packed(rule, layer, state._replace(memory=memory), previous, asked)

            state = jax.lax.cond(anybody & taken_now, look, lambda state: state, state)
        return state

    def _look_packed(
        self, rule: Exit, layer: int, state: LayerState, previous: Float[Array, 'B D'], asked: Bool[Array, ' B']
    ) -> LayerState:
        """`_look` at the loop's rows, of the states of all."""
        if self.rows is None:
            return self._look(rule, layer, state, previous, asked)
        own = state._replace(executed=None)
        packed, previous, asked = taken((own, previous, asked), self.rows, self.count)
        own = put(own, self.rows, self._look(rule, layer, packed, previous, asked), self.count)
        return own._replace(executed=state.executed)

    def _look(
        self, rule: Exit, layer: int, state: LayerState, previous: Float[Array, 'w D'], asked: Bool[Array, ' w']
    ) -> LayerState:
        """The state with what the measure says of the rows that are asked."""
        hidden = rule.read(layer, state.hidden)
        if rule.measure.reads_previous:
            previous = rule.read(layer - 1, previous)
        head = CountedHead(self.call, hidden, asked, [])
        evidence = Evidence(
            layer=layer,
            num_layers=self.config.num_decoder_layers,
            position=self.token.position,
            hidden=hidden,
            previous=previous,
            ran=asked,
            oracle=self.token.oracle,
            logits=head,
            head_rows=self._head_rows,
            choose=self.choose,
            head_columns=table if isinstance(table := self.inputs.head_table, HeadColumns) else None,
            decides=layer + 1 >= rule.min_exit_layer,
            every_layer=self.every_layer,
            drafts=rule.verify > 0,
        )
        observed = rule.measure.observe(state.memory, evidence)
        memory, confidence, prediction = _checked_observation(rule.measure, observed, state.memory, len(asked))
        leaves = rule.leaves(layer, confidence, self.inputs.threshold, self.token.position, self.inputs.limit)
        units = self.config.sizes.units(rule.flops(layer, self.config.sizes))
        if state.adapted is not None:
            state = state._replace(adapted=jnp.where(asked[:, None], hidden, state.adapted))
        state = state._replace(
            memory=remembered(evidence, memory, state.memory),
            confidence=jnp.where(asked, confidence, state.confidence),
            active=state.active & ~(asked & leaves),
            scored=_counted(state.scored, head.work(units)),
        )
        if prediction is None:
            return state
        return state._replace(prediction=jnp.where(asked, prediction, state.prediction), predicted=state.predicted | asked)


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


def _of_attention(state: LayerState) -> LayerState:
    """What queries, keys and values of a layer are made of, alone."""
    others = set(LayerState._fields) - {'hidden', 'first', 'adapted', 'active', 'exit_kv'}
    return state._replace(**dict.fromkeys(others))


def _counted(before: Int[Array, '*shape'] | None, more: Shaped[Array, '*shape']) -> Int[Array, '*shape']:
    """A count that is kept, with what has come to it."""
    assert before is not None
    return before + more


def _checked_observation(measure: Any, observed: Any, before: Any, rows: int) -> tuple[Any, Array, Array | None]:
    """(what is remembered, confidence float32 [B], token int32 [B] or None). Raises ValueError for what is none of that."""
    name = f'{type(measure).__name__}.observe'
    if not isinstance(observed, tuple) or len(observed) != 3:
        raise ValueError(f'{name} gave {_form(observed)}; expected (memory, confidence, token or None)')
    memory, confidence, prediction = observed
    if getattr(confidence, 'shape', None) != (rows,) or not jnp.issubdtype(confidence.dtype, jnp.floating):
        raise ValueError(f'{name} gave {_form(confidence)} as confidence; expected float32 [{rows}], one for each row')
    if prediction is not None and (
        getattr(prediction, 'shape', None) != (rows,) or not jnp.issubdtype(prediction.dtype, jnp.integer)
    ):
        raise ValueError(f'{name} gave {_form(prediction)} as token; expected int32 [{rows}], or None')
    forms = [(jax.tree.structure(each), [jnp.ndim(leaf) for leaf in jax.tree.leaves(each)]) for each in (before, memory)]
    if forms[0] != forms[1]:
        raise ValueError(f'{name} gave {_form(memory)} as memory; expected what init makes, {_form(before)}, of any sizes')
    return memory, confidence.astype(jnp.float32), None if prediction is None else prediction.astype(jnp.int32)


def _form(value: Any) -> str:
    """What a value is, in a few words: the type and shape of an array, those of a tuple's parts."""
    if hasattr(value, 'shape') and hasattr(value, 'dtype'):
        return f'{value.dtype} {list(value.shape)}'
    if isinstance(value, tuple):
        return f'({", ".join(map(_form, value))})'
    return 'None' if value is None else type(value).__name__


def _checked_gate(gate: Any, opened: Any, rows: int) -> Array:
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
        return jnp.where(asked, new, fitted(old, new.shape))

    return jax.tree.map(merged, new, old)
