"""The state of a decode: pytrees of arrays, rows first, that may leave the loop at any step and come back.

A state has two parts. `DecodeInputs` is what every step reads and none writes, but for where rows begin, which rounds of drafts
move: the loop closes over it. `DecodeCarry` is what a step makes anew: it is donated.

*One write cursor serves all rows.* Caches are rings of R positions: the token of step `cursor` is written at slot
cursor mod R of every row, and a row begins at an index of its own. How old the entry in a slot is follows from cursor and slot
alone, so relative positions are the same for all rows; what differs is only which entries a row can see: those that are no
older than itself.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Int

from calm_jax.decoding.packing import taken
from calm_jax.decoding.rules import Rules, Spoken
from calm_jax.models.cache import KVCache
from calm_jax.types import Array, Drafts, HeadColumns, Plan, PrefillWork


class DecodeInputs(NamedTuple):
    """What every step reads.

    source: int32 [B, S], the source or prompt; mask: bool [B, S], which of its tokens are there, those that a plan drops too.
    prompt: int32 [B, P], what stood before the first generated token: the prompt, or the start token.
    example_ids: int32 [B]; keys: [B], of (seed, example id).
    first: int32 [] or [B], the cursor at a row's first generated token. start: int32 [B], at the first entry of its caches,
        which are those of its prompt too; None: every row starts with the others, at index 0.
    limit: int32 [B], the most tokens that the row generates.
    threshold: λ, [] or [B], None without an exit rule. asks: bool [B], rows whose exit rule is on; None: all.
    depth: int32 [B], layers after which a row leaves whatever a measure says, 0 never; None where no row does.
    plan: sub-layers that rows run; None: all.
    rules: what may be said, each [B, …] or None; None where there are none.
    forced: int32 [B, T], tokens that are said whatever the model says, −1 where it is free; None: nowhere.
    bias_table: float32 [N|1, ·], the self-attention's scores by falling distance, from which each step takes a slice; of each
        layer or, in a tuple of one, of all.
    cross_kv: keys and values of the source per layer, and cross_bias: float32 [B, 1, 1, S], which hides padding; None in a
        decoder-only model.
    head_table: the head as the measure reads it beside the whole: [V, E], a row per id, where it takes rows of it (None where
        they come from the embedding); HeadColumns of the ids that it lists; else None.
    prefill: the work that was done.
    """

    source: Array
    mask: Array
    prompt: Array
    example_ids: Array
    keys: Array
    first: Array
    start: Array | None
    limit: Array
    threshold: Array | None
    asks: Array | None
    depth: Array | None
    plan: Plan | None
    rules: Rules | None
    forced: Array | None
    bias_table: tuple[Array, ...]
    cross_kv: tuple[KVCache, ...] | None
    cross_bias: Array | None
    head_table: Array | HeadColumns | None
    prefill: PrefillWork

    @property
    def own(self) -> 'DecodeInputs':
        """What is each row's own, rows first; None in place of what all share."""
        shared: dict[str, None] = dict.fromkeys(('bias_table', 'head_table'))
        shared |= {name: None for name in ('threshold', 'first') if getattr(getattr(self, name), 'ndim', 0) == 0}
        return self._replace(**shared)

    @property
    def room(self) -> int:
        """Positions of the source that are attended to, fewer than S where a plan drops tokens; or of a prompt."""
        return self.source.shape[1] if self.cross_kv is None else self.cross_kv[0].keys.shape[1]

    def joined(self, shared: 'DecodeInputs') -> 'DecodeInputs':
        """These, each row's own, with what all share of others."""
        names = ('bias_table', 'head_table', 'threshold', 'first')
        return self._replace(**{name: getattr(shared, name) for name in names if getattr(self, name) is None})

    def of_rows(self, rows: Array, count: int) -> 'DecodeInputs':
        """Those of some of `count` rows, but for what attention reads of sources, which layers take as they need it."""
        whole = {name: getattr(self, name) for name in ('cross_kv', 'cross_bias', 'forced')}
        own = taken(self.own._replace(**dict.fromkeys(whole)), rows, count)
        return own.joined(self)._replace(**whole)


class DecoderCache(NamedTuple):
    """The decoder's memory of earlier tokens.

    layers: the self-attention's keys and values per layer, rings of R positions.
    filled: int32 [] or [B] per layer: up to which index, exclusive, a row's positions hold keys and values; [] where all rows
        are filled together.
    exit_states: [B, R, D], what layers that a position skipped project for it when they are first entered; None where no layer
        is ever behind.
    """

    layers: tuple[KVCache, ...]
    filled: tuple[Array, ...]
    exit_states: Array | None

    @property
    def ring(self) -> int:
        """R, positions of each ring."""
        return self.layers[0].keys.shape[1]


class Round(NamedTuple):
    """Drafts that are not verified yet, of P = W positions (`speculation.py`).

    there: bool [B, P], positions that each row has; drafting: bool [B], rows that go on. last: int32 [B], the token to feed
    next; least: int32 [B], the shallowest exit. tokens: int32 [B, P], what each position was said to be followed by, −1 where
    it waited; depth: int32 [B, P], layers that it has been through. scored: int32 [B, P, 3], as `LayerState` has it;
    confidence: float32 [B, P].
    """

    there: Array
    drafting: Array
    last: Array
    least: Array
    tokens: Array
    depth: Array
    scored: Array
    confidence: Array


class DecodeCarry(NamedTuple):
    """What a step makes anew.

    cursor: int32 [], the index where the next token goes. last: int32 [B], the token to feed next; alive: bool [B], rows that
    have not ended; lengths: int32 [B], tokens generated.
    cache: the decoder's memory.
    own_filled: int32 [B, L], up to which of its positions a row alone would have filled each layer: what its work is counted
        by; None where no layer is ever behind.
    table: int32 [B, 2 + kinds of work, T], a ring too: tokens, exit layers, and the columns of `Work`. confidence: float32
        [B, T]; executed: int32 [T], places that the batch ran; log_probabilities: float32 [B, T], or None.
    drafts: what became of tokens that were verified; None where none are, and so what follows. round: drafts that are not
        verified yet, pending: int32 [], at how many positions. credit: float32 [], full-depth tokens' worth that drafting has
        gained, of all rows.
    """

    cursor: Array
    last: Array
    alive: Array
    lengths: Array
    cache: DecoderCache
    own_filled: Array | None
    table: Array
    confidence: Array
    executed: Array
    log_probabilities: Array | None
    drafts: Drafts | None = None
    round: Round | None = None
    pending: Array | None = None
    credit: Array | None = None


class DecodeState(NamedTuple):
    """A decode between two steps: what is only read, and what the next step makes anew."""

    inputs: DecodeInputs
    carry: DecodeCarry

    def with_head_table(self, table: Array | HeadColumns | None) -> 'DecodeState':
        """The state with another table of the head, or without."""
        return self._replace(inputs=self.inputs._replace(head_table=table))


class TokenInputs(NamedTuple):
    """What is the same for all layers of one step.

    cursor: int32 [], slot: int32 [], the cursor in the ring. position: int32 [B], generated tokens before this one; place:
    int32 [B|1, 1], where in its row the token stands, its prompt counted. alive: bool [B], rows that have not ended.
    self_bias: scores [B|1, N|1, 1, R] of the self-attention, of each layer or, in a tuple of one, of all.
    keys: [B], of (seed, example id, position).
    oracle: int32 [B], the full model's token, or None.
    """

    cursor: Array
    slot: Array
    position: Array
    place: Array
    alive: Array
    self_bias: tuple[Array, ...]
    keys: Array
    oracle: Array | None

    def of_rows(self, rows: Array, count: int) -> 'TokenInputs':
        """That of some of `count` rows, 2 or more, but for `self_bias`, which layers take as they need it."""
        whole = ['cursor', 'slot', 'self_bias', *(['place'] if self.place.shape[0] == 1 else [])]
        own = taken(self._replace(**dict.fromkeys(whole)), rows, count)
        return own._replace(**{name: getattr(self, name) for name in whole})


class LayerState(NamedTuple):
    """One token of every row on its way up.

    hidden: [B, D], the state so far; first: [B, D], that after the first layer, None where propagation does not need it.
    adapted: [B, D], what the head reads of rows that have left early; None where that is the state itself.
    active: bool [B], rows that still run; visited: int32 [B], layers they entered; confidence: float32 [B].
    prediction: int32 [B], valid where predicted bool [B].
    sub_layers: int32 [B, 3], self-attention, cross-attention and feed-forward that ran; None where all of every layer visited
        do. scored: int32 [B, 3], states put through the head, ids scored, operations of decisions in units of D; None without
        exit rule and gate.
    executed: int32 [], places that the batch ran, sub-layers times rows; None as for `sub_layers`, where no row is packed.
    memory, gate_memory: of the measure and the gate. exit_kv: keys and values of the last layer each row ran, where
    propagation copies them.
    """

    hidden: Array
    first: Array | None
    adapted: Array | None
    active: Array
    visited: Array
    confidence: Array
    prediction: Array
    predicted: Array
    sub_layers: Array | None
    scored: Array | None
    executed: Array | None
    memory: Any
    gate_memory: Any
    exit_kv: KVCache | None


def spoken_by(inputs: DecodeInputs, generated: Int[Array, 'B T'], position: Int[Array, ' B']) -> Spoken:
    """What rules look at. generated: what each row has said from its first token on, anything after; position: how many."""
    history, decoder_only = jnp.concatenate([inputs.prompt, generated], axis=1), inputs.cross_kv is None
    return Spoken(
        history=history,
        length=inputs.prompt.shape[1] + position,
        begins=jnp.argmax(inputs.mask, axis=1).astype(jnp.int32) if decoder_only else jnp.zeros_like(position),
        position=position,
        limit=inputs.limit,
        source=inputs.source,
        mask=inputs.mask,
    )
