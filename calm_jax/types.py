"""What crosses folders: evidence for a decision, the plan of a sequence, the trace of a decode.

Shape letters, the same everywhere: B rows, T target positions, S source length, L decoder layers, D width, N heads,
H head size, F feed-forward width, V vocabulary. Layers count from 0; an *exit layer* is the number of layers visited, 1…L.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

Array = jax.Array


class Sizes(NamedTuple):
    """What a decision may size its memory by, and count its cost from: L decoder layers, width D, vocabulary V; of the head the
    width E, whether a state is projected to it first, whether it has a bias, and the name of its dtype."""

    layers: int
    width: int
    vocabulary: int
    embedding: int
    projects: bool = False
    head_bias: bool = False
    dtype: str = 'float32'

    def head_flops(self, ids: int | None = None) -> int:
        """Operations of the head on one state: 2·E per id, of all V or of so many; and 2·D·E where the state is projected."""
        projection = 2 * self.width * self.embedding if self.projects else 0
        return projection + 2 * self.embedding * (self.vocabulary if ids is None else ids)


class HeadRows(NamedTuple):
    """The head's rows of chosen ids, other ones for each row of a batch: weight [B, k, E]; bias [B, k], or None."""

    weight: Array
    bias: Array | None


class Evidence(NamedTuple):
    """What a confidence measure may look at after one layer of one token.

    layer: which layer has just run (static, from 0); num_layers: L (static).
    position: int32 [B], generated tokens before this one.
    hidden, previous: [B, D], the state after and before the layer.
    ran: bool [B], whether the row ran the layer; a row that did not is not observed.
    oracle: int32 [B], the full model's token for this position, or None when no look-ahead ran.
    logits: (rows=None, state=None) → float32, the shared head on `hidden`, or on another state [B, D]: of every id [B, V], or
        with HeadRows of those alone [B, k]; computed when called.
    head_rows: ids int32 [B, k] → HeadRows.
    choose: float32 [B, V], or [B, k] and their ids int32 [B, k] → int32 [B], the token that a distribution emits (its
        argmax, or a seeded draw).
    decides: static, whether a token may leave here; where not, only what later layers will ask for is worth computing.
    every_layer: static, whether all rows run every layer until they leave, as they do without gates and plans.
    """

    layer: int
    num_layers: int
    position: Array
    hidden: Array
    previous: Array
    ran: Array
    oracle: Array | None
    logits: Callable[..., Array]
    head_rows: Callable[[Array], HeadRows]
    choose: Callable[..., Array]
    decides: bool = True
    every_layer: bool = True


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
