"""What crosses folders: what a decision may look at, the plan of a sequence, the trace of a decode and its work.

Shape letters, the same everywhere: B rows, T target positions, S source length, L decoder layers, D width, N heads,
H head size, F feed-forward width, V vocabulary. Layers count from 0; an *exit layer* is the number of layers visited, 1…L.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

Array = jax.Array


def state_dtype(dtype: str) -> str:
    """Of the states between sub-layers of a model that runs in `dtype`: float16 ends at 65504, which sums of many sub-layers,
    and single ones of some models, pass."""
    return 'float32' if dtype == 'float16' else dtype


class Sizes(NamedTuple):
    """What a decision may size its memory by, and count its cost from: L decoder layers, the encoder's layers, width D,
    vocabulary V; of the head the width E, whether a state is projected to it first, whether it has a bias, and the name of
    its dtype; whether source tokens may be dropped, which needs an encoder in which every position reads every other."""

    layers: int
    width: int
    vocabulary: int
    embedding: int
    projects: bool = False
    head_bias: bool = False
    dtype: str = 'float32'
    encoder_layers: int = 0
    drops_tokens: bool = False

    @property
    def state_dtype(self) -> str:
        """Of the states that a decision looks at."""
        return state_dtype(self.dtype)

    def units(self, flops: int) -> int:
        """Floating-point operations in units of D, rounded up, as `Work` counts those of decisions."""
        return -(-flops // self.width)


class HeadRows(NamedTuple):
    """The head's rows of chosen ids, other ones for each row of a batch: weight [B, k, E]; bias [B, k], or None."""

    weight: Array
    bias: Array | None


class HeadColumns(NamedTuple):
    """The head's columns of listed ids, the same for all rows of a batch: weight [E, K]; bias [K], or None."""

    weight: Array
    bias: Array | None


class Evidence(NamedTuple):
    """What a confidence measure may look at after one layer of one token.

    layer: which layer has just run (static, from 0); num_layers: L (static).
    position: int32 [B], generated tokens before this one.
    hidden, previous: [B, D], the state after and before the layer.
    ran: bool [B], whether the row ran the layer; a row that did not is not observed.
    oracle: int32 [B], the full model's token for this position, or None when no look-ahead ran.
    logits: (part=None, state=None, asked=None) → float32, the shared head on `hidden`, or on another state [B, D]: of every
        id [B, V], or with HeadRows or HeadColumns of theirs alone [B, k]; computed, and counted as work, when called. asked:
        bool [B], the rows that need it, where not all that ran do.
    head_rows: ids int32 [B, k] → HeadRows.
    choose: float32 [B, V], or [B, k] and their ids int32 [B, k] → int32 [B], the token that a distribution emits (its
        argmax, or a seeded draw).
    head_columns: HeadColumns of the ids that the measure lists; None where it lists none.
    decides: static, whether a token may leave here; where not, only what later layers will ask for is worth computing.
    every_layer: static, whether all rows run every layer until they leave, as they do without gates and plans.
    drafts: static, whether tokens are verified, so that the likeliest of a list will do.
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
    head_columns: HeadColumns | None = None
    decides: bool = True
    every_layer: bool = True
    drafts: bool = False


class Context(NamedTuple):
    """What a plan maker, or a gate, may look at.

    sizes: of the model (static). example_ids: int32 [B], which texts the rows are.
    tokens: int32 [B, S], the source, padded behind, or the prompt, padded before; mask: bool [B, S], which of them are there.
    protected: bool [B, S], of a maker, source tokens that no plan drops: first, last, every end or separator; None where no
        source tokens can be dropped: in a decoder-only model, and where the encoder reads nearby tokens alone.
    hidden: the states that were asked for. Of a maker [B, S, D], after its `after` encoder or prompt layers, None where that is
        0; of a gate [B, D], entering the layer.
    keys: [B], a key for each row: of a maker one of (seed, example id), of a gate of (seed, example id, position, layer).
    layer: of a gate, which layer is entered (static, from 0). position: of a gate, int32 [B], generated tokens before this.
    """

    sizes: Sizes
    example_ids: Array
    tokens: Array
    mask: Array
    hidden: Array | None
    keys: Array
    layer: int | None = None
    position: Array | None = None
    protected: Array | None = None


class Plan(NamedTuple):
    """Which sub-layers each row runs for the whole sequence: bool [B, L]; for the encoder bool [B, its layers].

    source: bool [B, S], the source tokens that go on after the encoder's first layer, which the plan maker has seen; None: all.
    choice: int32 [B], which of the maker's named choices that is (`PlanMaker.choices`), for reports alone; None: of none.
    """

    self_attention: Array
    cross_attention: Array
    feed_forward: Array
    encoder_attention: Array
    encoder_feed_forward: Array
    source: Array | None = None
    choice: Array | None = None


class Work(NamedTuple):
    """What each token of a row needed, int32 [B, T] each, free of the row's neighbours; zeros past its end.

    self_attention, cross_attention, feed_forward: how many of each it ran. keys_values: projections of self-attention's keys
    and values, in positions summed over layers: its own, and those of earlier tokens that a layer entered for the first time
    lacked. head_states: states put through the head; head_ids: ids scored, summed over them. decisions: floating-point
    operations of measures and gates besides the head, in units of D, rounded up.
    """

    self_attention: Array
    cross_attention: Array
    feed_forward: Array
    keys_values: Array
    head_states: Array
    head_ids: Array
    decisions: Array


class PrefillWork(NamedTuple):
    """What each row needed before its first token, int32 [B] each: how many layers it ran over its whole source or prompt.

    encoder_attention, encoder_feed_forward: of the encoder; encoder_first: the first of both, which read a source before
    dropped_tokens of it were dropped. cross_keys_values: decoder layers that projected the encoder's
    output. prompt_attention, prompt_feed_forward, prompt_keys_values: of a decoder-only model, over the prompt but its last
    token. prompt_last: layers that ran over the last token too, for a plan maker to see. decisions: floating-point operations
    of the plan maker, in units of D, rounded up.
    """

    encoder_attention: Array
    encoder_feed_forward: Array
    cross_keys_values: Array
    prompt_attention: Array
    prompt_feed_forward: Array
    prompt_keys_values: Array
    prompt_last: Array
    decisions: Array
    encoder_first: Array
    dropped_tokens: Array


class Drafts(NamedTuple):
    """What became of tokens that left early to be verified, int32. rounds: [B], passes of the remaining layers, or of all where
    nothing was drafted; drafted, accepted: [B, W], how often a round had a draft at a position, and how often that was what
    full depth says."""

    rounds: Array
    drafted: Array
    accepted: Array


class Trace(NamedTuple):
    """What a decode reports; rows first, zeros past a row's end, and of tokens padding.

    tokens: int32 [B, T]; lengths: int32 [B], generated tokens with the end-of-sequence.
    exit_layers: int32 [B, T], layers visited, 1…L.
    confidence: float32 [B, T], the measure at the exit (1 where nothing was measured).
    work, prefill: what the rows needed. plan: what they ran within; None: everything.
    executed: int32 [T], places that the batch executed at each step, sub-layers times the rows they were computed for: what
        costs time.
    log_probabilities: float32 [B, T], of the tokens under the model's own logits at the exit; None where not asked for.
    drafts: of tokens that were verified; None where none are.
    """

    tokens: Array
    lengths: Array
    exit_layers: Array
    confidence: Array
    work: Work
    prefill: PrefillWork
    plan: Plan | None
    executed: Array
    log_probabilities: Array | None = None
    drafts: Drafts | None = None
