"""One step of a decode: the next token of every row."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from calm_jax.decoding.begin import bias_at
from calm_jax.decoding.choice import position_keys
from calm_jax.decoding.chooser import Chooser
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.layer_loop import LayerLoop, places
from calm_jax.decoding.packing import NEVER, Packing
from calm_jax.decoding.state import DecodeCarry, DecodeInputs, DecoderCache, LayerState, TokenInputs, spoken_by
from calm_jax.decoding.trace import generated, recorded
from calm_jax.models.config import TransformerConfig
from calm_jax.types import Array


def advance(
    call: Callable,
    config: TransformerConfig,
    inputs: DecodeInputs,
    carry: DecodeCarry,
    decoding: Decoding,
    packing: Packing = NEVER,
) -> DecodeCarry:
    """One step: the next token of every row. packing: of rows that stand apart."""
    token, choose = token_at(config, inputs, carry, decoding)
    hidden = call(carry.last, token.place[:, 0], method='embed')
    loop, cache = LayerLoop(call, config, decoding, inputs, token, choose, packing), carry.cache
    if decoding.exit is not None and decoding.exit.measure.looks_ahead:
        oracle, cache = _look_ahead(loop, hidden, cache)
        loop = loop._replace(token=token._replace(oracle=oracle))
    state, cache = loop.run(hidden, cache)
    state, chosen = emitted(loop, state)
    chosen = jnp.where(carry.alive, forced(inputs, token.position, chosen), config.pad_id)
    ends = ends_with(config, inputs, token.position, chosen)
    return recorded(loop, carry, state, cache, chosen)._replace(
        cursor=carry.cursor + 1, last=chosen, alive=carry.alive & ~ends, lengths=carry.lengths + carry.alive
    )


def token_at(
    config: TransformerConfig, inputs: DecodeInputs, carry: DecodeCarry, decoding: Decoding
) -> tuple[TokenInputs, Chooser]:
    """The token at the cursor, of the rows that are alive, and what chooses the one after it."""
    rows, ring = carry.last.shape[0], carry.cache.ring
    position = jnp.broadcast_to(carry.cursor - inputs.first, (rows,))
    token = TokenInputs(
        cursor=carry.cursor,
        slot=carry.cursor if inputs.start is None else carry.cursor % ring,
        position=position,
        place=places(inputs, carry.cursor[None]),
        alive=carry.alive,
        self_bias=bias_at(inputs, carry.cursor, ring),
        keys=position_keys(inputs.keys, position),
        oracle=None,
    )
    verdict = None
    if inputs.rules is not None:
        spoken = spoken_by(inputs, generated(inputs, carry), position)
        verdict = inputs.rules.verdict(spoken, config.eos_ids, config.vocab_size)
    return token, Chooser(decoding.choice, config.vocab_size, token.keys, verdict)


def forced(inputs: DecodeInputs, position: Int[Array, ' B'], chosen: Int[Array, ' B']) -> Int[Array, ' B']:
    """What is said at these positions: what was chosen, where nothing is forced."""
    if inputs.forced is None:
        return chosen
    place = jnp.minimum(position, inputs.forced.shape[1] - 1)[:, None]
    said = jnp.take_along_axis(inputs.forced, place, axis=1)[:, 0]
    return jnp.where(said >= 0, said, chosen)


def ends_with(
    config: TransformerConfig, inputs: DecodeInputs, position: Int[Array, ' B'], said: Int[Array, ' B']
) -> Bool[Array, ' B']:
    """Whether a row ends with the token that it says at a position."""
    return jnp.any(said[:, None] == jnp.asarray(config.eos_ids, jnp.int32), axis=1) | (position + 1 >= inputs.limit)


def _look_ahead(loop: LayerLoop, hidden: Float[Array, 'B D'], cache: DecoderCache) -> tuple[Int[Array, ' B'], DecoderCache]:
    """The token that the model without exits would emit here, and the caches. Layers that were behind stay filled; this
    position does not count as filled, so the exiting pass overwrites it."""
    without = loop._replace(decoding=dataclasses.replace(loop.decoding, exit=None), packing=NEVER)
    state, seen = without.run(hidden, cache)
    filled = tuple(jnp.minimum(each, loop.token.cursor) for each in seen.filled)
    return emitted(without, state)[1], seen._replace(filled=filled, exit_states=cache.exit_states)


def emitted(loop: LayerLoop, state: LayerState) -> tuple[LayerState, Array]:
    """The state with the head's last work counted, and the token of each row: what its measure computed on the way, or the
    head applied once to its exit state."""
    needs = loop.token.alive & ~state.predicted
    if state.scored is not None:
        scored = state.scored + needs[:, None] * jnp.array([1, loop.config.vocab_size, 0], jnp.int32)
        state = state._replace(scored=scored)
    if not loop.predicts:
        return state, _said(loop, state)
    token = state.prediction
    for taken_now, some, _ in loop.ways(needs):

        def head(token, some=some):
            said = _said(some, state)
            if some.rows is None:
                return jnp.where(state.predicted, token, said)
            return token.at[some.rows].set(jnp.where(needs[some.rows], said, token[some.rows]))

        token = jax.lax.cond(taken_now, head, lambda token: token, token)
    return state, token


def _said(loop: LayerLoop, state: LayerState) -> Int[Array, ' w']:
    """What the head says of the loop's rows; state: of all."""
    hidden = loop.read_by_head(state)
    hidden = hidden if loop.rows is None else jnp.take(hidden, loop.rows, axis=0)
    return loop.choose(loop.call(hidden, method='unembed'))
