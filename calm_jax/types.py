"""What crosses folders: evidence for a decision, the plan of a sequence, the trace of a decode.

Shape letters, the same everywhere: B rows, T target positions, S source length, L decoder layers, D width, N heads,
H head size, F feed-forward width, V vocabulary. Layers count from 0; an *exit layer* is the number of layers visited, 1…L.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

Array = jax.Array


class Sizes(NamedTuple):
    """What a decision may size its memory by: L decoder layers, width D, vocabulary V; and what the head costs: operations of
    one application to one state."""

    layers: int
    width: int
    vocabulary: int
    head_flops: int


class Evidence(NamedTuple):
    """What a confidence measure may look at after one layer of one token.

    layer: which layer has just run (static, from 0); num_layers: L (static).
    position: int32 [B], generated tokens before this one.
    hidden, previous: [B, D], the state after and before the layer.
    ran: bool [B], whether the row ran the layer; a row that did not is not observed.
    oracle: int32 [B], the full model's token for this position, or None when no look-ahead ran.
    logits: () → float32 [B, V], the shared head on `hidden`, or ids int32 [B, k] → float32 [B, k], those columns of it;
        computed when called.
    choose: float32 [B, V] → int32 [B], the token a distribution emits (its argmax, or a seeded draw).
    """

    layer: int
    num_layers: int
    position: Array
    hidden: Array
    previous: Array
    ran: Array
    oracle: Array | None
    logits: Callable[..., Array]
    choose: Callable[[Array], Array]


class Plan(NamedTuple):
    """Which sub-layers each row runs for the whole sequence: bool [B, L]; for the encoder bool [B, its layers]."""

    self_attention: Array
    cross_attention: Array
    feed_forward: Array
    encoder_attention: Array
    encoder_feed_forward: Array


class Trace(NamedTuple):
    """What a decode reports; rows first, zeros past a row's end, and of tokens padding.

    tokens: int32 [B, T]; lengths: int32 [B], generated tokens with the end-of-sequence.
    exit_layers: int32 [B, T], layers visited, 1…L; layers_run: int32 [B, T], those of them that ran any sub-layer.
    confidence: float32 [B, T], the measure at the exit (1 where nothing was measured).
    executed: int32 [T], layers the batch executed at each step: what costs time.
    """

    tokens: Array
    lengths: Array
    exit_layers: Array
    layers_run: Array
    confidence: Array
    executed: Array
