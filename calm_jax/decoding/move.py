"""One move of a decode: a step of every row, or, where drafts are verified, a draft of every row."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.packing import NEVER, Packing
from calm_jax.decoding.speculation import drafted_on
from calm_jax.decoding.state import DecodeState
from calm_jax.decoding.step import advance
from calm_jax.models.config import TransformerConfig


def moved(
    call: Callable, config: TransformerConfig, state: DecodeState, decoding: Decoding, packing: Packing = NEVER
) -> DecodeState:
    """The state after a move: one token more of every row that has not ended; or one draft more, after the last of which a row
    has said one token at least. Of the inputs `first` and `start` alone are new, and only then. packing: of rows that stand
    apart."""
    if decoding.exit is not None and decoding.exit.verify:
        return drafted_on(call, config, state, decoding)
    return state._replace(carry=advance(call, config, *state, decoding, packing))


def finished(
    call: Callable, config: TransformerConfig, state: DecodeState, decoding: Decoding, packing: Packing = NEVER
) -> DecodeState:
    """The state after the last of its rows has ended."""

    def joined(parts):
        (start, first), carry = parts
        return DecodeState(state.inputs._replace(start=start, first=first), carry)

    def move(parts):
        (inputs, carry) = moved(call, config, joined(parts), decoding, packing)
        return (inputs.start, inputs.first), carry

    begun = (state.inputs.start, state.inputs.first), state.carry
    return joined(jax.lax.while_loop(lambda parts: jnp.any(parts[1].alive), move, begun))
