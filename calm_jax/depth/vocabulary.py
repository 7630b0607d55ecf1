"""Which ids a confidence looks at: every one; at later layers the likeliest of an earlier one (Vincenti et al. 2024); or a
fixed list of frequent ones.

A vocabulary is a part of a measure that reads logits. `init` makes what it remembers; `look` gives the `Candidates` of one
layer, or None where no token may leave and nothing later needs the head. `remembered` names the layers (from 0) whose logits a
later one asks for, as contrasts do.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from calm_jax.nearest import did_you_mean
from calm_jax.options import array, option
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Evidence, HeadRows, Sizes

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

    def log_probabilities(self, logits: Float[Array, 'B K']) -> Float[Array, 'B K']:
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


class Vocabulary:
    """What every choice of ids is, and what it says of itself where it looks at all of them.

    prunes: it looks at a part of the vocabulary between two layers that look at all of it. predicts: the token is the likeliest
    of the ids that it looks at; where not, the whole head says it, once, where the row leaves. head: the head of a checkpoint
    that holds its arrays.
    """

    prunes: ClassVar[bool] = False
    predicts: ClassVar[bool] = True
    head: ClassVar[str | None] = None

    @property
    def listed(self) -> Array | np.ndarray | None:
        """int32 [K], the ids that it looks at where they are the same for every row and layer; else None."""
        return None

    def init(self, rows: int, sizes: Sizes, remembered: Sequence[int] = ()) -> Any:
        """What it remembers before the first layer."""
        raise NotImplementedError

    def look(self, memory: Any, evidence: Evidence) -> tuple[Any, Candidates | None]:
        """The new memory, and what this layer says of the ids it looks at."""
        raise NotImplementedError

    def starts(self, layer: int) -> bool:
        """Whether it must see this layer (from 0), though no token may leave there."""
        return False

    def check(self, sizes: Sizes) -> None:
        """Raises ValueError where the model has fewer ids or layers than it needs."""


@pytree
class Whole(Vocabulary):
    """Every id at every layer."""

    def init(self, rows: int, sizes: Sizes, remembered: tuple[int, ...] = ()) -> Any:
        return {layer: jnp.zeros((rows, sizes.vocabulary), _logits_dtype(sizes)) for layer in remembered}

    def look(self, memory: Any, evidence: Evidence) -> tuple[Any, Candidates | None]:
        return _same_ids(memory, evidence, evidence.logits, None)


@pytree(static=('count',))
class FrequentIds(Vocabulary):
    """The same K ids F at every layer of every row, the most frequent of what the model says. Their columns of the head stand
    side by side, [E, K], made once per model. The measure is of

        p_v = exp(w_v·d) / Σ_{u ∈ F} exp(w_u·d)   for v in F, d being the layer's state as the head reads it.

    What is lost: with q the softmax over all ids, p_v = q_v / Σ_{u ∈ F} q_u. A softmax is the surer the less of q is in F, and
    an id outside of F is invisible, were it the likeliest of all. The token is not lost: the whole head says it, once, from the
    state in which the row leaves. With K = V the measure is that over all ids; with K = 1 there is no rival, and a softmax is
    sure at once.

    ids: int32 [N], by falling frequency (`frequent_ids`). count: K, of which the first are taken.
    Raises ValueError for K below 1; `check` for K beyond the list or the model's ids, and for what is no list of such.
    """

    ids: Array = array()
    count: int = option('ids of the list, the most frequent ones', default=1024, flag='frequent_count', metavar='K')

    predicts: ClassVar[bool] = False
    head: ClassVar[str | None] = 'frequent_ids'

    def __post_init__(self):
        if not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f'count is {self.count!r}; expected how many of the frequent ids to look at, 1 or more')

    @classmethod
    def of(cls, text: str, sizes: Sizes) -> dict[str, Any]:
        """What `--vocabulary frequent:K` says. Raises ValueError where K is none of 1…V."""
        number = text.strip()
        if not (number.isdecimal() and 1 <= int(number) <= sizes.vocabulary):
            raise ValueError(
                f"vocabulary is 'frequent:{text}'; expected frequent:K with K from 1 to the {sizes.vocabulary} ids of the model"
            )
        return {'count': int(number)}

    @property
    def listed(self) -> Array | np.ndarray | None:
        return self.ids[: self.count]

    def check(self, sizes: Sizes) -> None:
        if self.count > sizes.vocabulary:
            raise ValueError(f'frequent_count is {self.count}; the vocabulary has {sizes.vocabulary} ids')
        ids = np.asarray(self.ids)
        if ids.ndim != 1 or ids.dtype.kind not in 'iu' or len(np.unique(ids)) < len(ids):
            raise ValueError('the frequent ids are no list of distinct whole numbers')
        if self.count > len(ids):
            raise ValueError(f'frequent_count is {self.count}; the list has {len(ids)} frequent ids')
        if len(ids) and not 0 <= ids.min() <= ids.max() < sizes.vocabulary:
            outside = ids[(ids < 0) | (ids >= sizes.vocabulary)][0]
            raise ValueError(f'the frequent ids hold {outside}; the vocabulary has {sizes.vocabulary} ids')

    def init(self, rows: int, sizes: Sizes, remembered: tuple[int, ...] = ()) -> Any:
        return {layer: jnp.zeros((rows, self.count), _logits_dtype(sizes)) for layer in remembered}

    def look(self, memory: Any, evidence: Evidence) -> tuple[Any, Candidates | None]:
        assert evidence.head_columns is not None, 'whoever asks a measure hands it the columns of the ids that it lists'
        ids = jnp.broadcast_to(jnp.asarray(self.listed, jnp.int32), (len(evidence.ran), self.count))
        return _same_ids(memory, evidence, lambda: evidence.logits(evidence.head_columns), ids)


def frequent_ids(counts: Mapping[int, int]) -> np.ndarray:
    """Ids by how often they occur, falling, int32 [N]; of equals the smaller first."""
    return np.array(sorted(counts, key=lambda each: (-counts[each], each)), np.int32)


class Kept(NamedTuple):
    """What pruning remembers: ids int32 [B, k] by falling rank, their HeadRows, the log Σ exp of all others float32 [B],
    known bool [B], rows that have been pruned, and states {layer: [B, D]} that a later layer asks the logits of."""

    ids: Array
    rows: HeadRows
    log_rest: Array
    known: Array
    states: dict


@pytree(static=('pruning_layer', 'partition'))
class Pruned(Vocabulary):
    """The likeliest ids of layer j at all later layers: each row's own, their rows of the head gathered once a step.

    pruning_layer: j, 1…L. partition: 'kept', probabilities over the kept ids alone, as published, which inflates them; 'full',
    all others count as they stood at the layer that dropped them.

    Layer j itself ranks every id, and says what it would say unpruned. So does the last layer, which decides where none was
    sure, and for rows that skip layer j the next that they run. Between the two a token differs from the unpruned one where the
    likeliest id of its exit layer was not kept.
    Raises ValueError for j, k or k* below what they can be, and k* > k; `check` for those beyond the model's.
    """

    pruning_layer: int = option(
        'the layer that ranks all ids, for later layers to look at the likeliest alone', default=1, metavar='J'
    )
    partition: str = option(
        "probabilities over the 'kept' ids, as published, or the 'full' vocabulary, others as they stood when dropped",
        default='kept',
        choices=PARTITIONS,
    )

    prunes: ClassVar[bool] = True

    def __post_init__(self):
        if not isinstance(self.pruning_layer, int) or self.pruning_layer < 1:
            raise ValueError(f'pruning_layer is {self.pruning_layer!r}; expected a layer, 1…L')
        if self.partition not in PARTITIONS:
            raise ValueError(
                f'unknown partition {self.partition!r}; expected one of {", ".join(PARTITIONS)}'
                f'{did_you_mean(self.partition, PARTITIONS)}'
            )

    @property
    def most(self) -> int:
        """The ids that must be there to keep so many."""
        raise NotImplementedError

    def first(self, vocabulary: int) -> int:
        """How many ids the pruning layer keeps of so many."""
        raise NotImplementedError

    def fewer(self, count: int, layer: int, layers: int) -> int:
        """How many of so many ids stand after layer i of L."""
        raise NotImplementedError

    def starts(self, layer: int) -> bool:
        return layer + 1 == self.pruning_layer

    def check(self, sizes: Sizes) -> None:
        if self.most > sizes.vocabulary:
            raise ValueError(f'pruning keeps {self.most} ids; the vocabulary has {sizes.vocabulary}')
        if self.pruning_layer > sizes.layers:
            raise ValueError(f'pruning_layer is {self.pruning_layer}; the decoder has {sizes.layers} layers')

    def count(self, visited: int, layers: int, vocabulary: int) -> int:
        """How many ids stand after so many of L layers, from the pruning layer on."""
        count = self.first(vocabulary)
        for layer in range(self.pruning_layer, visited + 1):
            count = self.fewer(count, layer, layers)
        return count

    def init(self, rows: int, sizes: Sizes, remembered: tuple[int, ...] = ()) -> Any:
        bias = jnp.zeros((rows, 0), sizes.dtype) if sizes.head_bias else None
        return Kept(
            ids=jnp.zeros((rows, 0), jnp.int32),
            rows=HeadRows(jnp.zeros((rows, 0, sizes.embedding), sizes.dtype), bias),
            log_rest=jnp.zeros(rows, _logits_dtype(sizes)),
            known=jnp.zeros(rows, bool),
            states={layer: jnp.zeros((rows, sizes.width), sizes.state_dtype) for layer in remembered},
        )

    def look(self, memory: Any, evidence: Evidence) -> tuple[Any, Candidates | None]:
        visited, last = evidence.layer + 1, evidence.layer + 1 == evidence.num_layers
        if evidence.layer in memory.states:
            memory = memory._replace(states={**memory.states, evidence.layer: evidence.hidden})
        if not evidence.decides and visited != self.pruning_layer:
            return memory, None
        if last or visited <= self.pruning_layer:
            memory, candidates = self._look_at_all(memory, evidence)
            return memory, candidates if evidence.decides else None
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
        if visited < self.pruning_layer:
            return memory, Candidates(logits, None, None, lambda layer: evidence.logits(state=memory.states[layer]))
        count = self.count(max(self.pruning_layer, visited - 1), layers, logits.shape[-1])
        best, ids, log_rest = _ranked(logits, count)
        rows = functools.cache(lambda: evidence.head_rows(ids))
        candidates = Candidates(best, ids, log_rest, lambda layer: evidence.logits(rows(), memory.states[layer]))
        if visited + 1 < layers:
            memory = memory._replace(ids=ids, rows=rows(), log_rest=log_rest, known=jnp.ones_like(memory.known))
        return memory, candidates


@pytree(static=('pruning_layer', 'partition', 'keep'))
class FixedPruning(Pruned):
    """The k likeliest ids of the pruning layer, to the end."""

    keep: int = option('ids kept by rank', default=256, metavar='K')

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.keep, int) or self.keep < 1:
            raise ValueError(f'keep is {self.keep!r}; expected ids to keep, 1 or more')

    @property
    def most(self) -> int:
        return self.keep

    def first(self, vocabulary: int) -> int:
        return self.keep

    def fewer(self, count: int, layer: int, layers: int) -> int:
        return count


@pytree(static=('pruning_layer', 'partition', 'keep_first', 'keep_least'))
class DecayingPruning(Pruned):
    """Ever fewer ids: of k₁ after layer i of L, max(k*, ⌊k₁ / (1 + ((k₁ − k*) / k*) · i / L)⌋."""

    keep_first: int = option('ids that decaying pruning begins with (0: all)', default=0, metavar='K')
    keep_least: int = option('ids that decaying pruning ends with', default=256, metavar='K')

    def __post_init__(self):
        super().__post_init__()
        whole = isinstance(self.keep_first, int) and isinstance(self.keep_least, int)
        if not whole or self.keep_first < 0 or self.keep_least < 1:
            raise ValueError(
                f'pruning keeps from {self.keep_first} to {self.keep_least} ids; expected 1 or more, or from 0: all'
            )
        if 0 < self.keep_first < self.keep_least:
            raise ValueError(
                f'pruning keeps at least {self.keep_least} of {self.keep_first} ids; expected no more than it begins with'
            )

    @property
    def most(self) -> int:
        return max(self.keep_first, self.keep_least)

    def first(self, vocabulary: int) -> int:
        return self.keep_first or vocabulary

    def fewer(self, count: int, layer: int, layers: int) -> int:
        # In whole numbers: k₁ / (1 + ((k₁ − k*) / k*) · i / L) = k₁ k* L / (k* L + (k₁ − k*) i).
        whole = self.keep_least * layers
        return max(self.keep_least, count * whole // (whole + (count - self.keep_least) * layer))


VOCABULARIES = {'whole': Whole, 'frequent': FrequentIds, 'fixed': FixedPruning, 'decaying': DecayingPruning}


def _logits_dtype(sizes):
    return jnp.promote_types(sizes.dtype, jnp.float32)


def _same_ids(
    memory: dict[int, Array], evidence: Evidence, logits_of: Callable[[], Array], ids: Array | None
) -> tuple[dict[int, Array], Candidates | None]:
    """What a layer says of ids that are the same at every layer; memory: the logits of remembered layers."""
    amateur = evidence.layer in memory
    if not (evidence.decides or amateur):
        return memory, None
    logits = logits_of()
    if amateur:
        memory = {**memory, evidence.layer: logits}
    return memory, Candidates(logits, ids, None, memory.__getitem__) if evidence.decides else None


def _ranked(logits: Float[Array, 'B V'], count: int) -> tuple[Float[Array, 'B k'], Int[Array, 'B k'], Float[Array, 'B']]:
    """The `count` largest of logits [B, V], their ids, and the log Σ exp of all others [B]."""
    best, ids = jax.lax.top_k(logits, count)
    return best, ids, _log_rest(logits, best)


def _log_rest(logits: Float[Array, 'B K'], best: Float[Array, 'B k']) -> Float[Array, 'B']:
    """log Σ exp of logits [B, K] without the best of them, [B]: a difference of sums, as exact as probabilities need."""
    log_all, log_best = jax.nn.logsumexp(logits, axis=-1), jax.nn.logsumexp(best, axis=-1)
    return log_all + jnp.log1p(-jnp.minimum(jnp.exp(log_best - log_all), 1))


def _narrowed(memory: Kept, logits: Float[Array, 'B K'], count: int) -> Kept:
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


def _caught_up(memory: Kept, evidence: Evidence, late: Bool[Array, 'B']) -> Kept:
    """The memory with rows that skipped the layer which prunes, and are pruned by this one instead."""
    _, ids, log_rest = _ranked(evidence.logits(asked=late), memory.ids.shape[1])
    ranked = memory._replace(ids=ids, rows=evidence.head_rows(ids), log_rest=log_rest, known=jnp.ones_like(late))
    return jax.tree.map(lambda new, old: jnp.where(late.reshape(late.shape + (1,) * (new.ndim - 1)), new, old), ranked, memory)
