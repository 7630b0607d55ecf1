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
that has lost by its drafts goes on at full depth, each of whose tokens makes up for three hundredths of one, and tries again.
What a row says does not depend on that, nor on who stands beside it; how many drafts it takes does.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from calm_jax.decoding.begin import bias_at
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.layer_loop import LayerLoop, places
from calm_jax.decoding.packing import NEVER
from calm_jax.decoding.state import DecodeCarry, DecodeInputs, DecodeState, Round
from calm_jax.decoding.step import emitted, ends_with, forced, token_at
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


def drafted_on(call: Callable, config: TransformerConfig, state: DecodeState, decoding: Decoding) -> DecodeState:
    """The state after one more draft; after the last of a round, which is verified, what of it is said stands in the state.
    Rows stand apart (`start`, `first` [B]), and rings have room for W positions more than any row needs.

    Verification has no loop or conditional of its own around its layers: XLA copies caches that pass through nested ones.
    """
    (inputs, carry), rule = state, decoding.exit
    assert rule is not None and inputs.start is not None  # as `prefill_rows` has it
    assert carry.credit is not None and carry.pending is not None
    pays, pending = carry.credit >= 0, carry.pending + 1
    drafted, carry = _drafted(call, config, inputs, carry, decoding, pays)
    over = (pending >= jnp.where(pays, rule.verify, 1)) | ~jnp.any(drafted.drafting)
    said, scores, carry = _verified(call, config, inputs, carry, drafted, decoding, over)
    gained = _gained(config, inputs, carry, drafted, said, over)
    gain, alive = gained.count, carry.alive & ~gained.ends
    least = jnp.where(over, jnp.min(jnp.where(alive, gain, rule.verify)), 0)
    shift = jnp.where(alive, gain - least, 0)
    carry = jax.lax.cond(
        over, lambda carry: _recorded(config, carry, drafted, said, scores, gained), lambda carry: carry, carry
    )
    cursor = carry.cursor + least
    filled = tuple(jnp.where(over, cursor, each) for each in carry.cache.filled)
    carry = _turned_back(carry._replace(cache=carry.cache._replace(filled=filled)), shift)._replace(
        cursor=cursor, alive=alive, lengths=carry.lengths + gain, round=drafted, pending=jnp.where(over, 0, pending)
    )
    return DecodeState(inputs._replace(start=inputs.start - shift, first=inputs.first - shift), carry)


def _begun(carry: DecodeCarry, layers: int) -> Round:
    """The round under way, or a new one: every row that has not ended drafts."""
    now = carry.round
    assert now is not None
    new = Round(
        there=jnp.zeros_like(now.there),
        drafting=carry.alive,
        last=carry.last,
        least=jnp.full_like(now.least, layers),
        tokens=jnp.full_like(now.tokens, -1),
        depth=jnp.full_like(now.depth, layers),
        scored=jnp.zeros_like(now.scored),
        confidence=jnp.zeros_like(now.confidence),
    )
    now = now._replace(drafting=now.drafting & carry.alive)
    return jax.tree.map(lambda one, other: jnp.where(carry.pending == 0, one, other), new, now)


def _drafted(
    call: Callable,
    config: TransformerConfig,
    inputs: DecodeInputs,
    carry: DecodeCarry,
    decoding: Decoding,
    pays: Bool[Array, ''],
) -> tuple[Round, DecodeCarry]:
    """(the round with one more draft of every row that drafts, the carry). Where drafting does not pay it goes through all
    layers, and nobody is asked."""
    rule, layers, pending = decoding.exit, config.num_decoder_layers, carry.pending
    assert rule is not None and pending is not None  # as `prefill_rows` has it
    so_far = _begun(carry, layers)
    cursor, asks = carry.cursor + pending, jnp.broadcast_to(pays, carry.alive.shape)
    own = inputs._replace(depth=so_far.least, asks=asks if inputs.asks is None else asks & inputs.asks)
    token, choose = token_at(config, inputs, carry._replace(cursor=cursor, alive=so_far.drafting), decoding)
    loop = LayerLoop(call, config, decoding, own, token, choose, NEVER)
    # Nothing is filled in: no row enters a layer that a draft of its round has skipped.
    state, cache = loop.run(call(so_far.last, token.place[:, 0], method='embed'), carry.cache)
    waits = so_far.drafting & (state.visited < layers) & ~_sure(rule, state.visited, state.confidence, own, token.position)
    # What the last layer is followed by is no draft: the whole head says it, whatever the measure looks at.
    predicted = (state.predicted | waits) & (state.visited < layers)
    state, chosen = emitted(loop, state._replace(predicted=predicted))
    chosen = forced(inputs, token.position, chosen)
    goes_on = so_far.drafting & ~waits & ~ends_with(config, inputs, token.position, chosen)

    def put(column, value):
        there = so_far.drafting.reshape(-1, *[1] * (value.ndim - 1))
        kept = jax.lax.dynamic_index_in_dim(column, pending, axis=1, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(column, jnp.where(there, value, kept), pending, axis=1)

    slot = cursor % carry.table.shape[2]
    spoken = jnp.where(so_far.drafting, chosen, carry.table[:, 0, slot])
    assert state.scored is not None  # there is an exit
    drafted = Round(
        there=put(so_far.there, so_far.drafting),
        drafting=goes_on,
        last=jnp.where(goes_on, chosen, so_far.last),
        least=jnp.where(so_far.drafting, jnp.minimum(so_far.least, state.visited), so_far.least),
        tokens=put(so_far.tokens, jnp.where(waits, -1, chosen)),
        depth=put(so_far.depth, state.visited),
        scored=put(so_far.scored, state.scored),
        confidence=put(so_far.confidence, state.confidence),
    )
    return drafted, carry._replace(cache=cache, table=carry.table.at[:, 0, slot].set(spoken))


def _verified(
    call: Callable,
    config: TransformerConfig,
    inputs: DecodeInputs,
    carry: DecodeCarry,
    drafted: Round,
    decoding: Decoding,
    over: Bool[Array, ''],
) -> tuple[Int[Array, 'B P'], Float[Array, 'B P'] | None, DecodeCarry]:
    """(what full depth says at every position of a round that is over, its log-probabilities where they are asked for, the
    carry with what all layers hold of them)."""
    cache = carry.cache
    assert cache.exit_states is not None  # where drafts have left
    (rows, width), ring = drafted.tokens.shape, cache.ring
    index = carry.cursor + jnp.arange(width, dtype=jnp.int32)
    slots, place = index % ring, places(inputs, index)
    x = jnp.take(cache.exit_states, slots, axis=1)
    biases = [bias_at(inputs, each, ring) for each in index]
    bias = tuple(jnp.concatenate(each, axis=2) for each in zip(*biases))
    whose = jnp.repeat(jnp.arange(rows, dtype=jnp.int32), width)
    layers, early = [], over & jnp.any(drafted.there & (drafted.depth < config.num_decoder_layers))
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

        x, held = jax.lax.cond(over & jnp.any(part), through, lambda x, held: (x, held), x, cache.layers[layer])
        layers.append(held)
    scored = carry.log_probabilities is not None

    def read(said, scores):
        logits, said = call(x, method='unembed'), []
        for step in range(width):
            token, choose = token_at(config, inputs, carry._replace(cursor=carry.cursor + step), decoding)
            said.append(forced(inputs, token.position, choose(logits[:, step])))
        said = jnp.stack(said, axis=1)
        if scores is not None:
            scores = jax.nn.log_softmax(logits, axis=-1)
            scores = jnp.take_along_axis(scores, jnp.maximum(said, 0)[..., None], axis=-1)[..., 0].astype(jnp.float32)
        return said, scores

    # What has been through all layers has been said by them.
    said, scores = jax.lax.cond(
        over & (early | scored),
        read,
        lambda said, scores: (said, scores),
        drafted.tokens,
        jnp.zeros(drafted.tokens.shape, jnp.float32) if scored else None,
    )
    return said, scores, carry._replace(cache=cache._replace(layers=tuple(layers)))


class Gained(NamedTuple):
    """What a round comes to, nothing before it is over.

    accepted: int32 [B], drafts that are what full depth says, from the first on. count: int32 [B], tokens that each row says;
    last: int32 [B], the last of them; ends: bool [B], rows that end with it.
    """

    accepted: Array
    count: Array
    last: Array
    ends: Array


def _gained(
    config: TransformerConfig,
    inputs: DecodeInputs,
    carry: DecodeCarry,
    drafted: Round,
    said: Int[Array, 'B P'],
    over: Bool[Array, ''],
) -> Gained:
    """What a round comes to, if it is over."""
    agrees = (drafted.tokens == said) & drafted.there
    accepted = jnp.sum(jnp.cumprod(agrees, axis=1), axis=1, dtype=jnp.int32)
    there = jnp.sum(drafted.there, axis=1, dtype=jnp.int32)
    count = jnp.where(over, jnp.minimum(accepted + 1, there), 0)  # none of rows that had ended
    last = jnp.take_along_axis(said, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    ends = (count > 0) & ends_with(config, inputs, carry.lengths + count - 1, last)
    return Gained(accepted, count, last, ends)


def _price(config: TransformerConfig, drafted: Round) -> Float[Array, '']:
    """What a round takes, in tokens of all rows at full depth: drafts one after another, each as dear as the row that goes
    deepest, and the pass of all their positions through what is left."""
    rows, width = drafted.there.shape
    attention, keys_values, feed_forward = of_token(config)
    layer = attention * (1 if config.decoder_only else 2) + keys_values + feed_forward
    one_id = 2 * config.sizes.embedding
    whole = float(config.num_decoder_layers * layer + config.vocab_size * one_id)
    # Shares of a token, as operations of large models are no int32.
    layer, one_id, unit, head = (each / whole for each in (layer, one_id, config.emb_dim, config.vocab_size * one_id))
    scored = drafted.scored.astype(jnp.float32)
    steps = drafted.depth * layer + scored[..., 1] * one_id + scored[..., 2] * unit
    drafting = jnp.sum(jnp.max(jnp.where(drafted.there, steps, 0), axis=0))
    left = _left(config, drafted)
    together = (FREE + rows * width) / (FREE + rows)
    return drafting + jnp.where(left > 0, together * (left * layer + head), 0)


def _left(config: TransformerConfig, drafted: Round) -> Int[Array, '']:
    """Layers that verification takes some position of a round through."""
    layers = config.num_decoder_layers
    return layers - jnp.min(jnp.where(drafted.there, drafted.depth, layers))


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
    scores: Float[Array, 'B P'] | None,
    gained: Gained,
) -> DecodeCarry:
    """The carry with what was said, and what it took: of every position all layers, once; what was drafted in vain is counted
    with the last token of its round."""
    drafts, credit = carry.drafts, carry.credit
    assert drafts is not None and credit is not None  # as `prefill_rows` has it
    layers, (rows, width) = config.num_decoder_layers, said.shape
    step = jnp.arange(width, dtype=jnp.int32)
    new = step < gained.count[:, None]
    counts = {name: jnp.full((rows, width), layers, jnp.int32) for name in ('self_attention', 'feed_forward', 'keys_values')}
    counts['cross_attention'] = jnp.zeros_like(said) if config.decoder_only else counts['self_attention']
    verified = drafted.depth < layers
    counts['head_states'] = drafted.scored[..., 0] + verified
    counts['head_ids'] = drafted.scored[..., 1] + verified * config.vocab_size
    counts['decisions'] = drafted.scored[..., 2]
    work = jnp.stack([counts[name] * drafted.there for name in Work._fields], axis=2)
    final = new & ~jnp.pad(new[:, 1:], ((0, 0), (0, 1)))
    vain = jnp.sum(jnp.where(new[..., None], 0, work), axis=1, keepdims=True)
    work = jnp.where(new[..., None], work, 0) + jnp.where(final[..., None], vain, 0)
    columns = jnp.concatenate([said[..., None], jnp.full((rows, width, 1), layers), work], axis=2).astype(jnp.int32)
    slots = (carry.cursor + step) % carry.table.shape[2]

    def write(ring, values):
        there = new.reshape(rows, width, *[1] * (ring.ndim - 2))
        return ring.at[:, ..., slots].set(
            jnp.moveaxis(jnp.where(there, values, jnp.moveaxis(ring[:, ..., slots], -1, 1)), 1, -1)
        )

    deepest = jnp.sum(jnp.max(jnp.where(drafted.there, drafted.depth, 0), axis=0))
    executed = (deepest + _left(config, drafted) * width) * rows * (2 if config.decoder_only else 3)
    each = jnp.sum(gained.count) / jnp.maximum(jnp.sum(drafted.there[:, 0]), 1)
    return carry._replace(
        last=jnp.where(gained.count > 0, gained.last, carry.last),
        table=write(carry.table, columns),
        confidence=write(carry.confidence, drafted.confidence),
        executed=carry.executed.at[carry.cursor % carry.executed.shape[0]].set(executed.astype(jnp.int32)),
        log_probabilities=None if scores is None else write(carry.log_probabilities, scores),
        drafts=Drafts(
            drafts.rounds + drafted.there[:, 0],
            drafts.drafted + (drafted.there & (drafted.tokens >= 0) & verified),
            drafts.accepted + ((step < gained.accepted[:, None]) & verified),
        ),
        credit=jnp.minimum(credit + (1 + SLACK) * each - _price(config, drafted), MOST).astype(jnp.float32),
    )


def _turned_back(carry: DecodeCarry, shift: Int[Array, ' B']) -> DecodeCarry:
    """The rings of each row turned back by its own shift, each within a conditional of its own."""
    some = jnp.any(shift > 0)

    def turned(ring: Array, axis: int, by: Array) -> Array:
        size = ring.shape[axis]

        def turn(ring):
            index = (jnp.arange(size, dtype=jnp.int32) + by[:, None]) % size
            index = index.reshape(len(by), *[1] * (axis - 1), size, *[1] * (ring.ndim - axis - 1))
            return jnp.take_along_axis(ring, index, axis=axis)

        return jax.lax.cond(some, turn, lambda ring: ring, ring)

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
