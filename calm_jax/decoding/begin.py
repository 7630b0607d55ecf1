"""Where the token loop begins: the source or prompt is planned and read, before anything is said.

`decide_rows` asks the plan maker, on the states of as many layers as it wants to see; `prefill_rows` goes on from those
states, to the first `DecodeState`. Of a maker that decides layer by layer the first runs the encoder, and the second plans the
decoder, whose first position it knows.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from calm_jax.decoding.choice import example_keys
from calm_jax.decoding.decoding import Decoding, stands_at_one
from calm_jax.decoding.first_position import FirstPosition, first_position_units
from calm_jax.decoding.packing import NEVER, Packing, taken
from calm_jax.decoding.rows import Rows
from calm_jax.decoding.state import DecodeCarry, DecodeInputs, DecoderCache, DecodeState, Round
from calm_jax.depth import plans
from calm_jax.depth.layerwise import Course
from calm_jax.depth.plans import PlanMaker
from calm_jax.depth.policy import Decisions
from calm_jax.models import cache as kv_cache
from calm_jax.models import planned
from calm_jax.models.cache import KVCache
from calm_jax.models.config import TransformerConfig
from calm_jax.models.layers import MASKED
from calm_jax.models.positions import standing
from calm_jax.types import Array, Context, Drafts, HeadColumns, Plan, PrefillWork, Work


class Decided(NamedTuple):
    """What is known before the prefill. source: int32 [B, S]; mask: bool [B, S]; example_ids: int32 [B]; keys: [B].

    plan: sub-layers that rows run; None: all. Of a maker that decides layer by layer the decoder's are not decided yet, but for
    the first behind an encoder. states: [B, S, D], after the layers that have run (`layers_run`), None where none has;
    keys_values: those of these layers, of a prompt.
    """

    source: Array
    mask: Array
    example_ids: Array
    keys: Array
    plan: Plan | None
    states: Array | None
    keys_values: tuple[KVCache, ...]


def joined_rows(decided: Sequence[Decided]) -> Decided:
    """Batches of sources as wide as each other, end to end."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *decided)


def chosen_rows(decided: Decided, rows: Int[Array, ' n'], width: int) -> Decided:
    """Some rows; below 0: a row of nothing.

    width: of their sources from now on, at least as before, padding behind; the states stay as they are.
    """
    count, place = decided.mask.shape[0], jnp.maximum(rows, 0)

    def some(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf[place]
        return taken(leaf, place, count)

    def widened(leaf):
        return jnp.pad(leaf, ((0, 0), (0, width - leaf.shape[1])))

    chosen = jax.tree.map(some, decided)
    there, plan = (rows >= 0)[:, None], chosen.plan
    if plan is not None and plan.source is not None:
        plan = plan._replace(source=widened(plan.source & there))
    return chosen._replace(source=widened(chosen.source), mask=widened(chosen.mask & there), plan=plan)


def decide_rows(
    call: Callable,
    config: TransformerConfig,
    tokens: Int[Array, 'B S'],
    mask: Bool[Array, 'B S'],
    decoding: Decoding,
    example_ids: Int[Array, ' B'],
) -> Decided:
    """Which sub-layers each row runs, and the states that were looked at for it."""
    keys = example_keys(jax.random.key(decoding.seed), example_ids)
    so_far = Decided(tokens, mask, example_ids, keys, None, None, ())
    maker = decoding.plan
    if maker is None:
        return so_far
    protected = planned.protected(config.eos_ids, tokens, mask) if config.sizes.drops_tokens else None
    if maker.layerwise:
        so_far = so_far._replace(plan=plans.full(tokens.shape[0], config.sizes))
        if config.decoder_only:
            return so_far
        return _decide_encoder(call, config, so_far, course_of(config, so_far, maker, protected))
    after = layers_run(config, maker)
    if after:
        read = _first_prompt_layers if config.decoder_only else _first_encoder_layers
        so_far = read(call, so_far, after)
    plan = maker(Context(config.sizes, example_ids, tokens, mask, so_far.states, keys, protected=protected))
    plan = _checked_plan(maker, plan, mask, config)
    if not (config.decoder_only and maker.after == plans.WHOLE):
        plan = _with_first_layers(plan, after, config)
    return so_far._replace(plan=plan)


def course_of(config: TransformerConfig, decided: Decided, maker: PlanMaker | None, protected: Array | None = None) -> Course:
    """What is decided, and how it goes on: not at all, unless the maker decides layer by layer. protected: as of `Context`."""
    if maker is None or not maker.layerwise:
        return Course(decided.plan)

    def decide(layer, states, mask):
        context = Context(config.sizes, decided.example_ids, decided.source, mask, states, decided.keys)
        decisions, everything = maker.decide(layer, context), stands_at_one(maker)
        tokens = jnp.where(everything, 0, decisions.tokens)
        return None, Decisions(decisions.encoder | everything, decisions.decoder | everything, tokens)

    return Course(decided.plan, decide, protected)


def layers_run(config: TransformerConfig, maker: PlanMaker | None) -> int:
    """How many layers have run when rows are decided upon: of the encoder, or over a prompt."""
    if maker is None:
        return 0
    if maker.after == plans.WHOLE:
        return config.num_decoder_layers - 1 if config.decoder_only else config.num_encoder_layers
    return config.num_encoder_layers if maker.layerwise else maker.after


def _decide_encoder(call: Callable, config: TransformerConfig, decided: Decided, course: Course) -> Decided:
    """The encoder layer by layer, and the decoder's first layer. Dropped tokens are hidden and stay where they are: how many
    are kept is not known here."""
    mask, x = decided.mask, call(decided.source, method='embed_source')
    context = call(mask, method='encoder_context')
    for layer in range(config.num_encoder_layers):
        x = planned.encode(call, (layer,), x, context, course.plan if layer else None, planned.Skipped())
        course = course.after(layer, x, mask)
        if layer == 0 and course.source is not None:
            mask = course.source
            context = call(mask, method='encoder_context')
    return decided._replace(states=x, plan=course.plan)


def _checked_plan(maker: PlanMaker, plan: Any, mask: Bool[Array, 'B S'], config: TransformerConfig) -> Plan:
    """The plan, of everything where the maker's dial stands at 1. Raises ValueError for what is no plan of these rows."""
    rows = mask.shape[0]
    if not isinstance(plan, Plan):
        raise ValueError(f'{type(maker).__name__} gave {plan!r}; expected a Plan')
    layers = dict.fromkeys(Plan._fields[:3], config.num_decoder_layers) | dict.fromkeys(
        Plan._fields[3:5], config.num_encoder_layers
    )
    shapes: dict[str, tuple[int, ...]] = {name: (rows, count) for name, count in layers.items()}
    if plan.source is not None:
        shapes['source'] = mask.shape
        if not config.sizes.drops_tokens or maker.after != 1:
            why = 'it is not asked after the first layer' if config.sizes.drops_tokens else 'this model has no encoder that can'
            raise ValueError(f'{type(maker).__name__} drops source tokens, and {why}; expected None as source')
    for name, shape in shapes.items():
        part = getattr(plan, name)
        if getattr(part, 'shape', None) != shape or str(part.dtype) != 'bool':
            given = f'{getattr(part, "dtype", type(part).__name__)} {getattr(part, "shape", "")}'
            raise ValueError(f'{type(maker).__name__} gave {given} as {name}; expected bool {list(shape)}')
    if plan.choice is not None and (plan.source is None or plan.choice.shape != (rows,) or not maker.choices):
        raise ValueError(f'{type(maker).__name__} gave a choice; expected None, or int [{rows}] of its choices, beside source')
    everything, choice = stands_at_one(maker), plan.choice
    plan = jax.tree.map(lambda part: part | everything, plan._replace(choice=None))
    if plan.source is None:
        return plan
    return plan._replace(source=plan.source & mask, choice=None if choice is None else jnp.where(everything, 0, choice))


def _with_first_layers(plan: Plan, after: int, config: TransformerConfig) -> Plan:
    """The plan with the layers that ran to make it."""
    if config.decoder_only:
        first = jnp.arange(config.num_decoder_layers) < after
        return plan._replace(self_attention=plan.self_attention | first, feed_forward=plan.feed_forward | first)
    first = jnp.arange(config.num_encoder_layers) < after
    return plan._replace(
        encoder_attention=plan.encoder_attention | first, encoder_feed_forward=plan.encoder_feed_forward | first
    )


def _first_encoder_layers(call: Callable, decided: Decided, after: int) -> Decided:
    context = call(decided.mask, method='encoder_context')
    x = call(decided.source, method='embed_source')
    return decided._replace(states=planned.encode(call, range(after), x, context))


def _first_prompt_layers(call: Callable, decided: Decided, after: int, course: Course = Course(None)) -> Decided:
    """So many layers over prompts; course: what is decided of later ones on the way."""
    positions = standing(decided.source.shape[1], decided.mask)
    bias = call(decided.source.shape[1], decided.mask, method='causal_bias')
    x, keys_values = call(decided.source, positions, method='embed'), []
    for layer in range(after):
        x, made = planned.decoder_layer(call, layer, x, positions, bias)
        keys_values.append(made)
        course = course.after(layer, x, decided.mask)
    plan = decided.plan if course.plan is None else course.plan
    return decided._replace(plan=plan, states=x, keys_values=tuple(keys_values))


def prefill_rows(
    call: Callable,
    config: TransformerConfig,
    decided: Decided,
    decoding: Decoding,
    capacity: int,
    rows: Rows = Rows(),
    forced: Int[Array, 'B T'] | None = None,
    head_table: Array | HeadColumns | None = None,
    log_probabilities: bool = False,
    cursor: Int[Array, ''] | int | None = None,
    packing: Packing = NEVER,
    kept: int | None = None,
) -> DecodeState:
    """The state before the first token.

    capacity: generated tokens that caches and trace have room for (static), at least every row's limit.
    cursor: the index of the first generated token, which is otherwise that of the first free slot: for states whose rows stand
    apart, so that others may come in (`slots.py`). packing: of the rows (static). kept: room for the source tokens that a plan
    keeps, at least those of every row (static); None: for all.
    """
    count = decided.source.shape[0]
    adaptive = decoding.exit is not None or rows.depth is not None
    drafts = 0 if decoding.exit is None else decoding.exit.verify
    read = decided.source.shape[1] - 1 if config.decoder_only else 0
    room = capacity + drafts  # a round has positions that nothing may come of
    if drafts and cursor is None:
        cursor = _rounded_up(read, room)  # rows accept unequally, and so stand apart; what is written begins at slot 0
    ring = _rounded_up(read + room, decoding.propagation.window)
    after, course = layers_run(config, decoding.plan), course_of(config, decided, decoding.plan)
    cross_kv, cross_mask, start_ids = None, decided.mask, _start_ids(config, rows, count)
    run = planned.Skipped(packing.sub_layers)
    if config.decoder_only and course.decide is not None:
        after = config.num_decoder_layers - 1
        decided = _first_prompt_layers(call, decided, after, course)
    if config.decoder_only:
        layers, work = _read_prompt(call, config, decided, ring, after, decoding.plan_prompt == 'plan', run)
    else:
        layers = _empty(config, count, ring)
        cross_kv, cross_mask, work, course = _read_source(call, config, decided, after, kept, run, course, start_ids)
        decided = decided._replace(plan=course.plan)
    if decoding.plan is not None:
        units = jnp.asarray(config.sizes.units(decoding.plan.flops(config.sizes)), jnp.int32)
        if course.decide is not None and not config.decoder_only and course.plan is not None:
            units = units + first_position_units(config, course.plan, jnp.sum(cross_mask, axis=1, dtype=jnp.int32))
        work = work._replace(decisions=jnp.any(decided.mask, axis=1) * units)
    first, start = jnp.asarray(read, jnp.int32), None
    if config.decoder_only:
        start = jnp.sum(~decided.mask, axis=1, dtype=jnp.int32)
    if cursor is not None:
        shift = jnp.asarray(cursor, jnp.int32) - read
        layers = tuple(kv_cache.turned(each, shift) for each in layers)
        first = jnp.broadcast_to(first + shift, (count,))
        start = (jnp.zeros(count, jnp.int32) if start is None else start) + shift
    waits = adaptive and decoding.propagation.lazy
    inputs = DecodeInputs(
        source=decided.source,
        mask=decided.mask,
        prompt=decided.source if config.decoder_only else start_ids[:, None],
        example_ids=decided.example_ids,
        keys=decided.keys,
        first=first,
        start=start,
        limit=_limits(config, decided, decoding, rows, capacity),
        threshold=_threshold_of(decoding, rows),
        asks=None if decoding.exit is None or rows.threshold is None else jnp.asarray(rows.threshold) < 1,
        depth=rows.depth,
        plan=decided.plan,
        rules=decoding.rules.by_row(count, rows.first_id),
        forced=forced,
        bias_table=_bias_table(call, ring, wraps=start is not None),
        cross_kv=cross_kv,
        cross_bias=None if config.decoder_only else call(cross_mask, method='cross_bias'),
        head_table=_head_table(call, config, decoding, head_table),
        prefill=work,
    )
    carry = DecodeCarry(
        cursor=first if first.ndim == 0 else first[0],
        last=decided.source[:, -1] if config.decoder_only else start_ids,
        alive=jnp.any(decided.mask, axis=1),
        lengths=jnp.zeros(count, jnp.int32),
        cache=DecoderCache(
            layers,
            (jnp.broadcast_to(first, (count,)) if packing else first,) * len(layers),
            jnp.zeros((count, ring, config.emb_dim), config.state_dtype) if waits else None,
        ),
        own_filled=_own_filled(decided, len(layers), config) if waits and not drafts else None,
        table=jnp.zeros((count, 2 + len(Work._fields), room), jnp.int32),
        confidence=jnp.zeros((count, room), jnp.float32),
        executed=jnp.zeros(room, jnp.int32),
        log_probabilities=jnp.zeros((count, room), jnp.float32) if log_probabilities else None,
        **(_no_drafts(count, drafts) if drafts else {}),
    )
    return DecodeState(inputs, carry)


def _start_ids(config: TransformerConfig, rows: Rows, count: int) -> Int[Array, ' B']:
    """int32 [B], the token before the first of each row. Raises ValueError where a prompt stands there."""
    if rows.start_id is None:
        return jnp.full(count, config.decoder_start_id, jnp.int32)
    if config.decoder_only:
        raise ValueError('rows have start ids, and the model continues its prompts; expected start_id=None')
    return jnp.broadcast_to(jnp.asarray(rows.start_id, jnp.int32), (count,))


def _threshold_of(decoding: Decoding, rows: Rows) -> Array | None:
    """λ of each row, float32 [B], or of all, []; None where there is no exit rule."""
    if decoding.exit is None:
        return None
    return jnp.asarray(decoding.exit.threshold if rows.threshold is None else rows.threshold, jnp.float32)


def _limits(config: TransformerConfig, decided: Decided, decoding: Decoding, rows: Rows, capacity: int) -> Int[Array, ' B']:
    """int32 [B], the most tokens of each row."""
    limit = jnp.asarray(decoding.limits.max_new_tokens if rows.limit is None else rows.limit, jnp.int32)
    if decoding.limits.max_length is not None:
        before = jnp.sum(decided.mask, axis=1, dtype=jnp.int32) if config.decoder_only else 1
        limit = jnp.minimum(limit, jnp.maximum(jnp.asarray(decoding.limits.max_length, jnp.int32) - before, 1))
    return jnp.broadcast_to(jnp.minimum(limit, capacity), decided.mask.shape[:1])


def _head_table(
    call: Callable, config: TransformerConfig, decoding: Decoding, head_table: Array | HeadColumns | None
) -> Array | HeadColumns | None:
    """The head as the measure reads it beside the whole: at hand, or made here."""
    measure = decoding.exit and decoding.exit.measure
    if measure is not None and measure.listed is not None:
        return call(jnp.asarray(measure.listed), method='head_columns') if head_table is None else head_table
    if measure is None or not measure.prunes or config.tied_head:
        return None
    return call(method='head_table') if head_table is None else head_table


def _own_filled(decided: Decided, layers: int, config: TransformerConfig) -> Int[Array, 'B L']:
    """int32 [B, L]: the positions that the prefill has filled, of each row alone."""
    count = decided.source.shape[0]
    if not config.decoder_only:
        return jnp.zeros((count, layers), jnp.int32)
    read = jnp.maximum(jnp.sum(decided.mask, axis=1, dtype=jnp.int32) - 1, 0)
    return jnp.broadcast_to(read[:, None], (count, layers))


def _no_drafts(rows: int, width: int) -> dict[str, Any]:
    """What a carry holds of drafts before the first."""
    number, numbers = jnp.zeros(rows, jnp.int32), jnp.zeros((rows, width), jnp.int32)
    nobody = jnp.zeros((rows, width), bool), jnp.zeros(rows, bool)
    scored, confidence = jnp.zeros((rows, width, 3), jnp.int32), jnp.zeros((rows, width), jnp.float32)
    return {
        'drafts': Drafts(number, numbers, numbers),
        'round': Round(*nobody, number, number, numbers, numbers, scored, confidence),
        'pending': jnp.zeros((), jnp.int32),
        'credit': jnp.zeros((), jnp.float32),
    }


def _rounded_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _kept(mask: Bool[Array, 'B S'], states: Array, room: int) -> tuple[Bool[Array, 'B K'], Array, Int[Array, 'B K']]:
    """(which are there, their states [B, K, D], where in their source they stand) of the tokens of a mask, in order: K of them,
    or nothing behind them where the states, which may be narrower than the mask, are fewer."""
    mask = mask[:, : states.shape[1]]
    positions = jnp.argsort(~mask, axis=1, stable=True)[:, :room].astype(jnp.int32)
    there, states = (jnp.take_along_axis(each, positions[..., *(None,) * (each.ndim - 2)], axis=1) for each in (mask, states))
    behind = (0, 0), (0, room - positions.shape[1])
    return jnp.pad(there, behind), jnp.pad(states, (*behind, (0, 0))), jnp.pad(positions, behind)


class Encoded(NamedTuple):
    """A source as the decoder reads it. states: [B, K, D], after the encoder's last norm; mask: bool [B, K], which are there;
    work: of the encoder."""

    states: Array
    mask: Bool[Array, 'B K']
    work: PrefillWork


def encoded_rows(
    call: Callable,
    config: TransformerConfig,
    decided: Decided,
    after: int,
    room: int | None = None,
    run: planned.Skipped = planned.Skipped(),
) -> Encoded:
    """What the encoder makes of sources within their plans.

    after: how many layers have run. room: K, of the source tokens that a plan keeps (static); None: as many as there are. run:
    how sub-layers are skipped.
    """
    mask, plan, rows, positions = decided.mask, decided.plan, decided.mask.shape[0], None
    x = call(decided.source, method='embed_source') if decided.states is None else decided.states
    dropped = jnp.zeros(rows, jnp.int32)
    if plan is not None and plan.source is not None:
        dropped = jnp.sum(mask & ~plan.source, axis=1, dtype=jnp.int32)
        mask, x, positions = _kept(plan.source, x, mask.shape[1] if room is None else room)
    context = call(mask, positions, method='encoder_context')
    x = planned.encode(call, range(after, config.num_encoder_layers), x, context, plan, run)
    parts = None if plan is None else (plan.encoder_attention, plan.encoder_feed_forward)
    attention, feed_forward = _layers_of(mask, parts, (config.num_encoder_layers,) * 2)
    work = no_prefill(rows)._replace(
        encoder_attention=attention,
        encoder_feed_forward=feed_forward,
        encoder_first=jnp.where(dropped > 0, 1, 0).astype(jnp.int32),
        dropped_tokens=dropped,
    )
    return Encoded(call(x, method='encoder_norm'), mask, work)


def no_prefill(rows: int) -> PrefillWork:
    """The work of rows that need nothing."""
    return PrefillWork(*[jnp.zeros(rows, jnp.int32)] * len(PrefillWork._fields))


def _read_source(
    call: Callable,
    config: TransformerConfig,
    decided: Decided,
    after: int,
    room: int | None,
    run: planned.Skipped,
    course: Course,
    start_ids: Int[Array, ' B'],
) -> tuple[tuple[KVCache, ...], Bool[Array, 'B K'], PrefillWork, Course]:
    """Keys and values of the encoder's output, which of its positions are there, the work of that, and what was decided on the
    way, from the first position, that of the start ids; room, run: as `encoded_rows`."""
    encoded, mask, work = encoded_rows(call, config, decided, after, room, run)
    cross_kv, first = [], None
    if course.decide is not None:
        first = FirstPosition.at(call, start_ids, planned.CrossAttention(encoded, call(mask, method='cross_bias')))
    for layer in range(config.num_decoder_layers):

        def project(x, places=None, layer=layer):
            return call(layer, x, method='cross_kv')

        plan = course.plan
        made = project(encoded) if plan is None else run.project(plan.cross_attention[:, layer], project, encoded)
        cross_kv.append(KVCache(*made))
        if first is not None and layer < config.num_decoder_layers - 1:
            first = first.after(call, layer, cross_kv[-1], course.plan)
            course = course.after(config.num_encoder_layers + layer, first.state, first.there)
    plan = course.plan
    parts = None if plan is None else (plan.cross_attention,)
    (read,) = _layers_of(mask, parts, (config.num_decoder_layers,))
    return tuple(cross_kv), mask, work._replace(cross_keys_values=read), course


def _read_prompt(
    call: Callable, config: TransformerConfig, decided: Decided, ring: int, after: int, within: bool, run: planned.Skipped
) -> tuple[tuple[KVCache, ...], PrefillWork]:
    """Caches with the keys and values of all prompt tokens but the last, and the work of that; within: whether of the plan."""
    mask, plan, rows = decided.mask, decided.plan if within else None, decided.mask.shape[0]
    read, layers = decided.source.shape[1] - 1, list(_empty(config, rows, ring))
    if read:
        positions = standing(read, mask[:, :-1])
        reach = jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.int32)  # a prompt is as long as all of it
        bias = call(read, mask[:, :-1], method='causal_bias')
        if decided.states is None:
            x = call(decided.source[:, :-1], positions, method='embed')
        else:
            x = decided.states[:, :-1]
        for layer in range(config.num_decoder_layers):
            if layer < after:
                made = KVCache(*(each[:, :-1] for each in decided.keys_values[layer]))
            else:
                x, made = planned.decoder_layer(call, layer, x, positions, bias, None, plan, run, reach)
            layers[layer] = kv_cache.write(layers[layer], 0, *made)
    parts = None if plan is None else (plan.self_attention, plan.feed_forward, plan.self_attention)
    attention, feed_forward, keys_values = _layers_of(mask, parts, (config.num_decoder_layers,) * 3)
    work = no_prefill(rows)._replace(
        prompt_attention=attention,
        prompt_feed_forward=feed_forward,
        prompt_keys_values=keys_values,
        prompt_last=jnp.any(mask, axis=1) * jnp.asarray(after, jnp.int32),
    )
    return tuple(layers), work


def _layers_of(mask: Bool[Array, 'B S'], parts: tuple[Array, ...] | None, layers: tuple[int, ...]) -> list[Int[Array, ' B']]:
    """How many layers each row runs of three kinds, int32 [B]: all of them, or those of the parts of its plan, bool [B, ·]."""
    here = jnp.any(mask, axis=1).astype(jnp.int32)
    if parts is None:
        return [here * count for count in layers]
    return [here * jnp.sum(part, axis=1, dtype=jnp.int32) for part in parts]


def _empty(config: TransformerConfig, rows: int, ring: int) -> tuple[KVCache, ...]:
    """A cache per decoder layer."""
    made = [kv_cache.init(rows, config.kv_heads, ring, config.head_dim, config.dtype) for _ in range(config.num_decoder_layers)]
    return tuple(made)


def _bias_table(call: Callable, ring: int, wraps: bool) -> tuple[Float[Array, 'heads falling'], ...]:
    """float32 [N|1, 2R − 1] of each layer, or of all: a slice of R from element R − 1 − slot on holds the self-attention's
    scores, of the query there, for the key in each slot. Slots that the cursor has not reached hold keys of R entries before
    where the ring has wrapped; where it never does, they are masked here, once."""
    falling = jnp.arange(1 - ring, 1, dtype=jnp.int32)
    tables = call(falling, method='self_bias')

    def ahead(table):
        return table[:, : ring - 1] if wraps else jnp.full_like(table[:, : ring - 1], MASKED)

    return tuple(jnp.concatenate([table, ahead(table)], axis=-1) for table in tables)


def bias_at(inputs: DecodeInputs, cursor: Int[Array, ''], ring: int) -> tuple[Float[Array, 'rows heads 1 R'], ...]:
    """Scores of the query at the cursor for the key in each slot, of each layer or of all: by its age; hidden where it is older
    than the row."""
    slot = cursor if inputs.start is None else cursor % ring
    biases = tuple(
        jax.lax.dynamic_slice_in_dim(table, ring - 1 - slot, ring, axis=-1)[None, :, None, :] for table in inputs.bias_table
    )
    if inputs.start is None:
        return biases
    age = (slot - jnp.arange(ring, dtype=jnp.int32)) % ring
    hidden = jnp.where(age <= (cursor - inputs.start)[:, None], 0.0, MASKED)[:, None, None, :]
    return tuple(bias + hidden for bias in biases)
