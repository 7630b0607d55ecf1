"""Which ids a confidence looks at: every one, or at later layers the likeliest of an earlier one (Vincenti et al. 2024).

A vocabulary is a part of a measure that reads logits. `init` makes what it remembers; `look` gives the `Candidates` of one
layer, or None where no token may leave and nothing later needs the head; `flops` counts one look. `remembered` names the layers
(from 0) whose logits a later one asks for, as contrasts do; `read` is how many of them one look asks for.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.nearest import did_you_mean
from calm_jax.pytrees import pytree
from calm_jax.types import Array, HeadRows

PARTITIONS = ('kept', 'full')


class Candidates(NamedTuple):
    """What one layer says of the ids it looks at.

    logits: float32 [B, K]; ids: int32 [B, K], which they are of, or None where they are all V in order.
    log_rest: float32 [B], log Σ exp of the logits of all other ids, as they stood when those were last looked at; None: they
        count for nothing.
    earlier: layer (from 0) → float32 [B, K], what a remembered layer says of the same ids.
    """

    logits: Array
    ids: Array | None
    log_rest: Array | None
    earlier: Callable[[int], Array]

    def log_probabilities(self, logits):
        """log p of these ids, float32 [B, K], from logits of any layer; without NaN for all but NaN."""
        limit = jnp.finfo(logits.dtype).max
        logits = jnp.clip(logits, -limit, limit)
        # Relative to the largest: beside a huge one the logarithm of a sum would be lost.
        largest = jnp.max(logits, axis=-1, keepdims=True)
        logits = logits - largest
        log_sum = jax.nn.logsumexp(logits, axis=-1)
        if self.log_rest is not None:
            log_sum = jnp.logaddexp(log_sum, self.log_rest - largest[:, 0])
        return logits - log_sum[:, None]


@pytree
class Whole:
    """Every id at every layer."""

    def init(self, rows, sizes, remembered=()):
        return {layer: jnp.zeros((rows, sizes.vocabulary), _logits_dtype(sizes)) for layer in remembered}

    def look(self, memory, evidence):
        kept = evidence.layer in memory
        if not (evidence.decides or kept):
            return memory, None
        logits = evidence.logits()
        if kept:
            memory = {**memory, evidence.layer: logits}
        return memory, Candidates(logits, None, None, memory.__getitem__) if evidence.decides else None

    def flops(self, layer, sizes, decides=True, remembered=(), read=0):
        """2·E·V, and 2·D·E where states are projected: the head, once."""
        return sizes.head_flops() if decides or layer in remembered else 0


class Kept(NamedTuple):
    """What pruning remembers: ids int32 [B, k] by falling rank, their HeadRows, the log Σ exp of all others float32 [B],
    known bool [B], rows that have been pruned, and states {layer: [B, D]} that a later layer asks the logits of."""

    ids: Array
    rows: HeadRows
    log_rest: Array
    known: Array
    states: dict


@pytree(static=('keep', 'least', 'start', 'partition'))
class Pruned:
    """The likeliest ids of layer j at all later layers: each row's own, their rows of the head gathered once a step.

    keep: k, ids kept by rank at layer j; 0: all V. least: k*; 0 keeps the k to the end ("fixed"), else every layer keeps fewer
    until k* are left ("decaying"): max(k*, ⌊k₁ / (1 + ((k₁ − k*) / k*) · i / L)⌋ of k₁ after layer i.
    start: j, 1…L. partition: 'kept', probabilities over the kept ids alone, as published, which inflates them; 'full', all
    others count as they stood at the layer that dropped them.

    Layer j itself ranks every id, and says what it would say unpruned. So does the last layer, which decides where none was
    sure, and for rows that skip layer j the next that they run. Between the two a token differs from the unpruned one where the
    likeliest id of its exit layer was not kept.
    Raises ValueError for k* > k, or j, k or k* below what they can be; `check` for those beyond the model's.
    """

    keep: int = 256
    least: int = 0
    start: int = 1
    partition: str = 'kept'

    def __post_init__(self):
        if self.keep < 0 or self.least < 0:
            raise ValueError(f'pruning keeps k = {self.keep} ids, at least k* = {self.least}; expected 1 or more')
        if not self.keep and not self.least:
            raise ValueError('pruning that keeps all ids to the end prunes nothing; expected k or k*')
        if self.keep and self.least > self.keep:
            raise ValueError(f'pruning keeps at least k* = {self.least} of k = {self.keep} ids; expected k* ≤ k')
        if self.start < 1:
            raise ValueError(f'pruning starts at layer j = {self.start}; expected 1…L')
        if self.partition not in PARTITIONS:
            raise ValueError(
                f'unknown partition {self.partition!r}; expected one of {", ".join(PARTITIONS)}'
                f'{did_you_mean(self.partition, PARTITIONS)}'
            )

    def check(self, sizes):
        """Raises ValueError where the model has fewer ids or layers."""
        if max(self.keep, self.least) > sizes.vocabulary:
            raise ValueError(f'pruning keeps {max(self.keep, self.least)} ids; the vocabulary has {sizes.vocabulary}')
        if self.start > sizes.layers:
            raise ValueError(f'pruning starts at layer j = {self.start}; the decoder has {sizes.layers} layers')

    def kept(self, visited, layers, vocabulary):
        """How many ids stand after so many of L layers, from `start` on."""
        count = self.keep or vocabulary
        for layer in range(self.start, visited + 1):
            count = self.fewer(count, layer, layers)
        return count

    def fewer(self, count, layer, layers):
        """How many of so many ids stand after layer i of L."""
        if not self.least:
            return count
        # In whole numbers: k₁ / (1 + ((k₁ − k*) / k*) · i / L) = k₁ k* L / (k* L + (k₁ − k*) i).
        whole = self.least * layers
        return max(self.least, count * whole // (whole + (count - self.least) * layer))

    def init(self, rows, sizes, remembered=()):
        bias = jnp.zeros((rows, 0), sizes.dtype) if sizes.head_bias else None
        return Kept(
            ids=jnp.zeros((rows, 0), jnp.int32),
            rows=HeadRows(jnp.zeros((rows, 0, sizes.embedding), sizes.dtype), bias),
            log_rest=jnp.zeros(rows, _logits_dtype(sizes)),
            known=jnp.zeros(rows, bool),
            states={layer: jnp.zeros((rows, sizes.width), sizes.dtype) for layer in remembered},
        )

    def look(self, memory, evidence):
        visited, last = evidence.layer + 1, evidence.layer + 1 == evidence.num_layers
        if evidence.layer in memory.states:
            memory = memory._replace(states={**memory.states, evidence.layer: evidence.hidden})
        if not evidence.decides:
            return memory, None
        if last or visited <= self.start:
            return self._look_at_all(memory, evidence)
        log_rest = None
        if not evidence.every_layer:
            late, before = evidence.ran & ~memory.known, memory
            memory = jax.lax.cond(jnp.any(late), lambda: _caught_up(before, evidence, late), lambda: before)
            log_rest = jnp.where(late, memory.log_rest, -jnp.inf)
        if self.partition == 'full':
            log_rest = memory.log_rest
        logits = evidence.logits(memory.rows)
        candidates = Candidates(logits, memory.ids, log_rest, lambda layer: evidence.logits(memory.rows, memory.states[layer]))
        count = self.fewer(logits.shape[-1], visited, evidence.num_layers)
        if count < logits.shape[-1] and visited + 1 < evidence.num_layers:
            return _narrowed(memory, logits, count), candidates
        return memory, candidates

    def _look_at_all(self, memory, evidence):
        """Every id ranked, by the layer that prunes and by the last; before pruning, every id as it is."""
        logits, layers, visited = evidence.logits(), evidence.num_layers, evidence.layer + 1
        if visited < self.start:
            return memory, Candidates(logits, None, None, lambda layer: evidence.logits(state=memory.states[layer]))
        count = self.kept(max(self.start, visited - 1), layers, logits.shape[-1])
        best, ids, log_rest = _ranked(logits, count)
        rows = functools.cache(lambda: evidence.head_rows(ids))
        candidates = Candidates(best, ids, log_rest, lambda layer: evidence.logits(rows(), memory.states[layer]))
        if visited + 1 < layers:
            memory = memory._replace(ids=ids, rows=rows(), log_rest=log_rest, known=jnp.ones_like(memory.known))
        return memory, candidates

    def flops(self, layer, sizes, decides=True, remembered=(), read=0):
        """Layer j and the last: the head, 2·E·V, and 2·E·k for each earlier layer read. Between them 2·E·k for the layer and
        each one read. Before j 2·E·V for them. And 2·D·E for each of these states where states are projected to the head.
        Ranking and gathering are no products."""
        visited = layer + 1
        if not decides:
            return 0
        if visited < self.start:
            return (1 + read) * sizes.head_flops()
        count = self.kept(max(self.start, visited - 1), sizes.layers, sizes.vocabulary)
        if visited in (self.start, sizes.layers):
            return sizes.head_flops() + read * sizes.head_flops(count)
        return (1 + read) * sizes.head_flops(count)


def _logits_dtype(sizes):
    return jnp.promote_types(sizes.dtype, jnp.float32)


def _ranked(logits, count):
    """The `count` largest of logits [B, V], their ids, and the log Σ exp of all others [B]."""
    best, ids = jax.lax.top_k(logits, count)
    return best, ids, _log_rest(logits, best)


def _log_rest(logits, best):
    """log Σ exp of logits [B, K] without the best of them, [B]: a difference of sums, as exact as probabilities need."""
    log_all, log_best = jax.nn.logsumexp(logits, axis=-1), jax.nn.logsumexp(best, axis=-1)
    return log_all + jnp.log1p(-jnp.minimum(jnp.exp(log_best - log_all), 1))


def _narrowed(memory, logits, count):
    """The memory with the `count` ids that these logits rank first."""
    best, places = jax.lax.top_k(logits, count)
    rows = HeadRows(
        jnp.take_along_axis(memory.rows.weight, places[:, :, None], axis=1),
        None if memory.rows.bias is None else jnp.take_along_axis(memory.rows.bias, places, axis=1),
    )
    return memory._replace(
        ids=jnp.take_along_axis(memory.ids, places, axis=1),
        rows=rows,
        log_rest=jnp.logaddexp(memory.log_rest, _log_rest(logits, best)),
    )


def _caught_up(memory, evidence, late):
    """The memory with rows that skipped the layer which prunes, and are pruned by this one instead."""
    _, ids, log_rest = _ranked(evidence.logits(), memory.ids.shape[1])
    ranked = memory._replace(ids=ids, rows=evidence.head_rows(ids), log_rest=log_rest, known=jnp.ones_like(late))
    return jax.tree.map(lambda new, old: jnp.where(late.reshape(late.shape + (1,) * (new.ndim - 1)), new, old), ranked, memory)
