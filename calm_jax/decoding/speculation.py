"""Exact self-speculation: tokens that leave early are drafts, which one pass takes through the layers that they skipped.

A round begins with a token that is known. Its successors are drafted one after another, each by the exit of the one before,
and then all their positions go through the remaining layers together: weights are read once for all of them. What full depth
says at each position is what is said; the first position at which a draft said something else ends the round, and so every
round says one token at least, all of them those of full depth.

*What a draft may look at.* Below the layers at which the tokens of a round have left, keys and values are the full model's:
their states were computed from tokens that the round presumes, and by all layers below. So no token of a round goes deeper than
the shallowest exit before it: where it is not sure by then it waits, is the last of its round, and is verified with the others.

*Rows of a batch accept unequally.* They begin each round at one cursor all the same: it moves on by what every row has said,
and rows that have said more are turned back on their rings by the difference, with all that is counted from their beginnings.

*Drafting has to pay.* What a round takes, and what full depth would for as many tokens, is known from what was run: a batch
that has lost by its drafts goes on at full depth, until a few tokens in a hundred have made up for it, and tries again.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from calm_jax.decoding.begin import bias_at
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.layer_loop import LayerLoop, places
from calm_jax.decoding.packing import NEVER
from calm_jax.decoding.state import DecodeCarry, DecodeInputs, DecoderCache, DecodeState
from calm_jax.decoding.step import advance, emitted, ends_with, forced, token_at
from calm_jax.depth.exits import Exit
from calm_jax.models import cache as kv_cache
from calm_jax.models.cache import KVCache
from calm_jax.models.config import TransformerConfig
from calm_jax.models.flops import of_token
from calm_jax.types import Array, Drafts, Work

# A weight that is read once serves so many rows for the price of one: what a processor multiplies while it reads.
FREE = 8
# Drafting goes on while it has gained; a token at full depth earns it this much of another try, and it saves up no more tries.
SLACK, MOST = 0.03, 4.0


class Round(NamedTuple):
    """The drafts of a round so far; P = W positions.

    count: int32 [], positions that some row has; there: bool [B, P], those that each row has; drafting: bool [B], rows that go
    on. last: int32 [B], the token to feed next; least: int32 [B], the shallowest exit. tokens: int32 [B, P], what each position
    was said to be followed by, −1 where it waited; depth: int32 [B, P], layers that it has been through. scored: int32
    [B, P, 3], as `LayerState` has it; confidence: float32 [B, P]. cache: the decoder's memory; table: the ring of tokens, with
    the drafts.
    """

    count: Array
    there: Array
    drafting: Array
    last: Array
    least: Array
    tokens: Array
    depth: Array
    scored: Array
    confidence: Array
    cache: DecoderCache
    table: Array


def next_round(call: Callable, config: TransformerConfig, state: DecodeState, decoding: Decoding) -> DecodeState:
    """The state after a round: drafts, their verification, and what of them is said; or, where drafting has cost more than it
    gained, a token of every row at full depth. Rows stand apart (`start`, `first` [B]), and rings have room for W positions
    more than any row needs."""
    inputs, credit = state.inputs, state.carry.credit
    assert inputs.start is not None and credit is not None  # as `prefill_rows` has it

    def made_by(kind):
        def move(start, first, carry):
            now = DecodeState(inputs._replace(start=start, first=first), carry)
            new = kind(call, config, now, decoding)
            return new.inputs.start, new.inputs.first, new.carry

        return move

    # One after the other, with nothing on the other side: caches that one of two branches makes anew would be copied.
    parts = inputs.start, inputs.first, state.carry
    for takes, kind in ((credit >= 0, _round_of_drafts), (credit < 0, _plain)):
        parts = jax.lax.cond(takes, made_by(kind), lambda *same: same, *parts)
    start, first, carry = parts
    return DecodeState(inputs._replace(start=start, first=first), carry)


def _plain(call: Callable, config: TransformerConfig, state: DecodeState, decoding: Decoding) -> DecodeState:
    """A step at full depth, of a state between two rounds."""
    inputs, carry = state
    layers, whole = config.num_decoder_layers, carry.cache
    bare = carry._replace(cache=DecoderCache(whole.layers, (carry.cursor,) * layers, None), own_filled=None)
    without = dataclasses.replace(decoding, exit=None)
    after = advance(call, config, inputs._replace(threshold=None, asks=None), bare, without)
    cache = after.cache._replace(filled=_filled(whole, after.cursor), exit_states=whole.exit_states)
    credit = jnp.minimum(carry.credit + SLACK, MOST)
    assert carry.drafts is not None  # as `prefill_rows` has it
    drafts = carry.drafts._replace(rounds=carry.drafts.rounds + carry.alive)
    return DecodeState(inputs, after._replace(cache=cache, own_filled=carry.own_filled, drafts=drafts, credit=credit))


def _filled(cache: DecoderCache, cursor: Int[Array, '']) -> tuple[Array, ...]:
    """Up to the cursor, each layer alike."""
    return tuple(jnp.broadcast_to(cursor, each.shape) for each in cache.filled)


def _round_of_drafts(call: Callable, config: TransformerConfig, state: DecodeState, decoding: Decoding) -> DecodeState:
    """A round that drafts."""
    (inputs, carry), rule = state, decoding.exit
    assert rule is not None and carry.drafts is not None and carry.credit is not None  # speculation is of an exit
    drafted = _drafted(call, config, inputs, carry, decoding)
    said, cache, logits_of = _verified(call, config, inputs, carry, drafted, decoding)
    width, step = rule.verify, jnp.arange(rule.verify, dtype=jnp.int32)
    agrees = (drafted.tokens == said) & drafted.there
    accepted = jnp.sum(jnp.cumprod(agrees, axis=1), axis=1, dtype=jnp.int32)
    positions = jnp.sum(drafted.there, axis=1, dtype=jnp.int32)
    gain = jnp.minimum(accepted + 1, positions)  # none of rows that have ended
    new = step < gain[:, None]
    last = jnp.take_along_axis(said, jnp.maximum(gain - 1, 0)[:, None], axis=1)[:, 0]
    lengths = carry.lengths + gain
    alive = carry.alive & ~ends_with(config, inputs, lengths - 1, last)
    least = jnp.min(jnp.where(alive, gain, width))
    shift = jnp.where(alive, gain - least, 0)
    cursor = carry.cursor + least
    drafts = Drafts(
        carry.drafts.rounds + (positions > 0),
        carry.drafts.drafted + (drafted.there & (drafted.tokens >= 0)),
        carry.drafts.accepted + (step < accepted[:, None]),
    )
    gained = jnp.sum(gain) / jnp.maximum(jnp.sum(carry.alive), 1)
    credit = jnp.minimum(carry.credit + (1 + SLACK) * gained - _price(config, drafted), MOST)
    carry = _recorded(config, carry, drafted, said, new, logits_of)._replace(
        cache=cache._replace(filled=_filled(carry.cache, cursor)),
        cursor=cursor,
        last=last,
        alive=alive,
        lengths=lengths,
        drafts=drafts,
        credit=credit.astype(jnp.float32),
    )
    carry = jax.lax.cond(jnp.any(shift > 0), lambda carry: _turned_back(carry, shift), lambda carry: carry, carry)
    return DecodeState(inputs._replace(start=inputs.start - shift, first=inputs.first - shift), carry)


def _price(config: TransformerConfig, drafted: Round) -> Float[Array, '']:
    """What a round takes, in tokens of all rows at full depth: drafts one after another, each as dear as the row that goes
    deepest, and the pass of all their positions through what is left."""
    rows, width = drafted.there.shape
    attention, keys_values, feed_forward = of_token(config)
    layer = attention * (1 if config.decoder_only else 2) + keys_values + feed_forward
    each_id, whole = 2 * config.sizes.embedding, config.num_decoder_layers * layer
    head = each_id * config.vocab_size
    scored = drafted.scored.astype(jnp.float32)
    steps = drafted.depth * layer + scored[..., 1] * each_id + scored[..., 2] * config.emb_dim
    drafting = jnp.sum(jnp.max(jnp.where(drafted.there, steps, 0), axis=0))
    left = config.num_decoder_layers - jnp.min(jnp.where(drafted.there, drafted.depth, config.num_decoder_layers))
    together = (FREE + rows * width) / (FREE + rows)
    return (drafting + together * (left * layer + head)) / (whole + head)


def _drafted(call: Callable, config: TransformerConfig, inputs: DecodeInputs, carry: DecodeCarry, decoding: Decoding) -> Round:
    """A round's drafts: while some row is sure, up to W positions."""
    rule, rows, layers = decoding.exit, carry.last.shape[0], config.num_decoder_layers
    assert rule is not None
    width = rule.verify
    begun = Round(
        count=jnp.zeros((), jnp.int32),
        there=jnp.zeros((rows, width), bool),
        drafting=carry.alive,
        last=carry.last,
        least=jnp.full(rows, layers, jnp.int32),
        tokens=jnp.full((rows, width), -1, jnp.int32),
        depth=jnp.full((rows, width), layers, jnp.int32),
        scored=jnp.zeros((rows, width, 3), jnp.int32),
        confidence=jnp.zeros((rows, width), jnp.float32),
        cache=carry.cache._replace(filled=(carry.cursor,) * layers),
        table=carry.table,
    )

    def draft(so_far: Round) -> Round:
        cursor = carry.cursor + so_far.count
        here = carry._replace(cursor=cursor, table=so_far.table, alive=so_far.drafting)
        token, choose = token_at(config, inputs, here, decoding)
        own = inputs._replace(depth=so_far.least)
        loop = LayerLoop(call, config, decoding, own, token, choose, NEVER)
        # Nothing is filled in: the layers that a draft skipped are the verification's.
        cache = so_far.cache._replace(filled=(cursor,) * layers)
        state, cache = loop.run(call(so_far.last, token.place[:, 0], method='embed'), cache)
        sure = _sure(rule, state.visited, state.confidence, inputs, token.position)
        waits = so_far.drafting & (state.visited < layers) & ~sure
        state, chosen = emitted(loop, state._replace(predicted=state.predicted | waits))
        chosen = forced(inputs, token.position, chosen)
        goes_on = so_far.drafting & ~waits & ~ends_with(config, inputs, token.position, chosen)

        def put(column, value):
            there = so_far.drafting.reshape(-1, *[1] * (value.ndim - 1))
            kept = jax.lax.dynamic_index_in_dim(column, so_far.count, axis=1, keepdims=False)
            return jax.lax.dynamic_update_index_in_dim(column, jnp.where(there, value, kept), so_far.count, axis=1)

        slot = cursor % so_far.table.shape[2]
        spoken = jnp.where(so_far.drafting, chosen, so_far.table[:, 0, slot])
        assert state.scored is not None  # there is an exit
        return Round(
            count=so_far.count + 1,
            there=put(so_far.there, so_far.drafting),
            drafting=goes_on,
            last=jnp.where(goes_on, chosen, so_far.last),
            least=jnp.where(so_far.drafting, jnp.minimum(so_far.least, state.visited), so_far.least),
            tokens=put(so_far.tokens, jnp.where(waits, -1, chosen)),
            depth=put(so_far.depth, state.visited),
            scored=put(so_far.scored, state.scored),
            confidence=put(so_far.confidence, state.confidence),
            cache=cache,
            table=so_far.table.at[:, 0, slot].set(spoken),
        )

    return jax.lax.while_loop(lambda so_far: (so_far.count < width) & jnp.any(so_far.drafting), draft, begun)


def _verified(
    call: Callable, config: TransformerConfig, inputs: DecodeInputs, carry: DecodeCarry, drafted: Round, decoding: Decoding
) -> tuple[Int[Array, 'B P'], DecoderCache, Array]:
    """(what full depth says at every position, the caches with what their layers hold of them, the logits [B, P, V])."""
    rows, width = drafted.tokens.shape
    cache, ring = drafted.cache, drafted.cache.ring
    assert cache.exit_states is not None  # where drafts have left
    index = carry.cursor + jnp.arange(width, dtype=jnp.int32)
    slots, place = index % ring, places(inputs, index)
    x = jnp.take(cache.exit_states, slots, axis=1)
    biases = [bias_at(inputs, each, ring) for each in index]
    bias = tuple(jnp.concatenate(each, axis=2) for each in zip(*biases))
    whose = jnp.repeat(jnp.arange(rows, dtype=jnp.int32), width)
    layers = []
    for layer in range(config.num_decoder_layers):
        part = drafted.there & (drafted.depth <= layer)

        def through(x, held, layer=layer, part=part):
            queries, *made = call(layer, x, place, method='self_project')
            # Of positions that have been through the layer keys and values are there.
            to = jnp.where(part.reshape(-1), whose, rows)
            held = kv_cache.put(held, to, jnp.tile(slots, rows), *(_one_by_one(each, rows) for each in made))
            y = call(layer, x, queries, *held, bias[layer % len(bias)], method='self_attend')
            if inputs.cross_kv is not None:
                y = call(layer, y, *inputs.cross_kv[layer], inputs.cross_bias, method='cross_attend')
            return jnp.where(part[..., None], call(layer, y, method='feed_forward'), x), held

        x, held = jax.lax.cond(jnp.any(part), through, lambda x, held: (x, held), x, cache.layers[layer])
        layers.append(held)
    logits = call(x, method='unembed')
    said = []
    for step in range(width):
        here = carry._replace(cursor=carry.cursor + step, table=drafted.table)
        token, choose = token_at(config, inputs, here, decoding)
        said.append(forced(inputs, token.position, choose(logits[:, step])))
    return jnp.stack(said, axis=1), cache._replace(layers=tuple(layers)), logits


def _one_by_one(made: Float[Array, 'rows P H'], rows: int) -> Float[Array, 'pairs one H']:
    """Keys or values [B·N, P, H] of all positions as those of B·P rows of one, [B·P·N, 1, H]."""
    heads, width, size = made.shape[0] // rows, made.shape[1], made.shape[2]
    return made.reshape(rows, heads, width, size).swapaxes(1, 2).reshape(rows * width * heads, 1, size)


def _sure(
    rule: Exit, visited: Int[Array, ' B'], confidence: Float[Array, ' B'], inputs: DecodeInputs, position: Int[Array, ' B']
) -> Bool[Array, ' B']:
    """Whether a row left because the measure was sure."""
    reached = confidence >= rule.form(inputs.threshold, position, inputs.limit)
    asked = True if inputs.asks is None else inputs.asks
    return reached & (visited >= rule.min_exit_layer) & asked


def _recorded(
    config: TransformerConfig,
    carry: DecodeCarry,
    drafted: Round,
    said: Int[Array, 'B P'],
    new: Bool[Array, 'B P'],
    logits: Float[Array, 'B P V'],
) -> DecodeCarry:
    """The carry with what was said, and what it took: of every position all layers, once; what was drafted in vain is counted
    with the last token of its round."""
    layers, (rows, width) = config.num_decoder_layers, said.shape
    counts = {name: jnp.full((rows, width), layers, jnp.int32) for name in ('self_attention', 'feed_forward', 'keys_values')}
    counts['cross_attention'] = jnp.zeros_like(said) if config.decoder_only else counts['self_attention']
    counts['head_states'] = drafted.scored[..., 0] + 1
    counts['head_ids'] = drafted.scored[..., 1] + config.vocab_size
    counts['decisions'] = drafted.scored[..., 2]
    work = jnp.stack([counts[name] * drafted.there for name in Work._fields], axis=2)
    final = new & ~jnp.pad(new[:, 1:], ((0, 0), (0, 1)))
    vain = jnp.sum(jnp.where(new[..., None], 0, work), axis=1, keepdims=True)
    work = jnp.where(new[..., None], work, 0) + jnp.where(final[..., None], vain, 0)
    columns = jnp.concatenate([said[..., None], jnp.full((rows, width, 1), layers), work], axis=2).astype(jnp.int32)
    slots = (carry.cursor + jnp.arange(width, dtype=jnp.int32)) % carry.table.shape[2]

    def write(ring, values):
        there = new.reshape(rows, width, *[1] * (ring.ndim - 2))
        return ring.at[:, ..., slots].set(
            jnp.moveaxis(jnp.where(there, values, jnp.moveaxis(ring[:, ..., slots], -1, 1)), 1, -1)
        )

    executed = jnp.sum(jnp.where(drafted.there, layers, 0)) * (2 if config.decoder_only else 3)
    scores = carry.log_probabilities
    if scores is not None:
        each = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), jnp.maximum(said, 0)[..., None], axis=-1)[..., 0]
        scores = write(scores, each.astype(jnp.float32))
    return carry._replace(
        table=write(carry.table, columns),
        confidence=write(carry.confidence, drafted.confidence),
        executed=carry.executed.at[carry.cursor % carry.executed.shape[0]].set(executed.astype(jnp.int32)),
        log_probabilities=scores,
    )


def _turned_back(carry: DecodeCarry, shift: Int[Array, ' B']) -> DecodeCarry:
    """The rings of each row turned back by its own shift."""

    def turned(ring: Array, axis: int, by: Array) -> Array:
        size = ring.shape[axis]
        index = (jnp.arange(size, dtype=jnp.int32) + by[:, None]) % size
        return jnp.take_along_axis(
            ring, index.reshape(len(by), *[1] * (axis - 1), size, *[1] * (ring.ndim - axis - 1)), axis=axis
        )

    def of_heads(ring: Array) -> Array:
        return turned(ring, 1, jnp.repeat(shift, ring.shape[0] // shift.shape[0]))

    cache = carry.cache._replace(layers=tuple(KVCache(*map(of_heads, each)) for each in carry.cache.layers))
    scores = carry.log_probabilities
    return carry._replace(
        cache=cache,
        table=turned(carry.table, 2, shift),
        confidence=turned(carry.confidence, 1, shift),
        log_probabilities=None if scores is None else turned(scores, 1, shift),
    )
