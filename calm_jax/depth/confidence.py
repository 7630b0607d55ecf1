"""How sure an intermediate layer is of its token: local confidence measures (Schuster et al. 2022, §3.5).

A measure is a pair of pure functions. `init(rows, sizes)` makes what it remembers of earlier layers (None for most);
`observe(memory, evidence)` returns the new memory, the confidence float32 [B] in [0, 1], and the token int32 [B] that
it computed on the way, or None where it has not looked at every id that may be said; the head is never applied twice for it
(`predicts` says which). What is remembered may change its shapes from layer to layer.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from calm_jax.argmax import argmax
from calm_jax.depth.vocabulary import VOCABULARIES, Candidates, Vocabulary, Whole
from calm_jax.options import array, option
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Evidence, Sizes


class Measure:
    """What every confidence measure is: a pytree with `observe`, and what it says of itself.

    remembers: it wants to see layers below the minimum exit layer too. looks_ahead: it wants the full model's token in the
    evidence. head: the head of a checkpoint that holds its trained arrays.
    """

    remembers: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False
    head: ClassVar[str | None] = None

    def init(self, rows: int, sizes: Sizes) -> Any:
        """What it remembers before the first layer."""
        return None

    def observe(self, memory: Any, evidence: Evidence) -> tuple[Any, Float[Array, 'B'], Array | None]:
        """(memory, confidence float32 [B] in [0, 1], token int32 [B] or None)."""
        raise NotImplementedError

    def flops(self, layer: int, sizes: Sizes) -> int:
        """Floating-point operations of observing one row after a layer (from 0), besides the head, which is counted where it is
        applied."""
        return 0

    def starts(self, layer: int) -> bool:
        """Whether it must see this layer (from 0), though no token may leave there."""
        return self.remembers

    @property
    def predicts(self) -> bool:
        """Whether an observation yields the token."""
        return False

    @property
    def reads_logits(self) -> bool:
        """Whether it applies the head, or a part of it, which is worth asking only where a row is left to ask."""
        return self.predicts

    @property
    def reads_previous(self) -> bool:
        """Whether it looks at the state before the layer."""
        return False

    @property
    def prunes(self) -> bool:
        """Whether it looks at a part of the vocabulary between two layers that look at all of it."""
        return False

    @property
    def listed(self) -> Array | np.ndarray | None:
        """int32 [K], the only ids that it looks at, whose `Evidence.head_columns` it wants; None: there is no list."""
        return None


@pytree
class VocabularyMeasure(Measure):
    """What measures share that look at the logits of one layer: `score` makes candidates a confidence [B]."""

    vocabulary: Vocabulary = option('the ids that the measure looks at', default=Whole(), kinds=VOCABULARIES)

    def __post_init__(self):
        if not isinstance(self.vocabulary, Vocabulary):
            raise TypeError(f'vocabulary is {self.vocabulary!r}; expected the ids to look at, such as FixedPruning(keep=64)')

    def init(self, rows: int, sizes: Sizes) -> Any:
        return self.vocabulary.init(rows, sizes)

    def observe(self, memory: Any, evidence: Evidence) -> tuple[Any, Float[Array, 'B'], Int[Array, 'B'] | None]:
        memory, candidates = self.vocabulary.look(memory, evidence)
        if candidates is None:
            return memory, jnp.zeros(evidence.ran.shape, jnp.float32), None
        return memory, self.score(candidates), self.token(candidates.logits, candidates, evidence)

    def score(self, candidates: Candidates) -> Float[Array, 'B']:
        """The confidence, float32 [B]."""
        raise NotImplementedError

    def token(self, scores: Float[Array, 'B K'], candidates: Candidates, evidence: Evidence) -> Int[Array, 'B'] | None:
        """The token that scores of the candidates say; None where ids that are not among them may be said as well, and nobody
        verifies it."""
        return evidence.choose(scores, candidates.ids) if self.predicts or evidence.drafts else None

    def starts(self, layer: int) -> bool:
        return self.remembers or self.vocabulary.starts(layer)

    @property
    def predicts(self) -> bool:
        return self.vocabulary.predicts

    @property
    def reads_logits(self) -> bool:
        return True

    @property
    def listed(self) -> Array | np.ndarray | None:
        return self.vocabulary.listed

    @property
    def prunes(self) -> bool:
        return self.vocabulary.prunes


@pytree
class SoftmaxGap(VocabularyMeasure):
    """p₍₁₎ − p₍₂₎, the difference of the two largest probabilities of softmax(W dⁱ) ("softmax response", §3.5)."""

    def score(self, candidates: Candidates) -> Float[Array, 'B']:
        return softmax_gap(candidates.logits, candidates.log_rest)


@pytree
class SoftmaxMax(VocabularyMeasure):
    """p₍₁₎, the largest probability of softmax(W dⁱ)."""

    def score(self, candidates: Candidates) -> Float[Array, 'B']:
        return 1 / _partition(candidates.logits, candidates.log_rest)


@pytree
class StateSimilarity(Measure):
    """cos(dⁱ, dⁱ⁻¹), clipped to [0, 1]; 0 after the first layer, which saturates nothing ("hidden-state saturation", §3.5)."""

    @property
    def reads_previous(self) -> bool:
        return True

    def observe(self, memory: Any, evidence: Evidence) -> tuple[Any, Float[Array, 'B'], Int[Array, 'B'] | None]:
        if evidence.layer == 0:
            return memory, jnp.zeros(evidence.ran.shape, jnp.float32), None
        now, before = evidence.hidden.astype(jnp.float32), evidence.previous.astype(jnp.float32)
        norms = jnp.linalg.norm(now, axis=-1) * jnp.linalg.norm(before, axis=-1)
        cosine = jnp.sum(now * before, axis=-1) / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)
        return memory, jnp.clip(cosine, 0, 1), None

    def flops(self, layer: int, sizes: Sizes) -> int:
        return 6 * sizes.width if layer else 0


@pytree
class Classifier(Measure):
    """σ(w·dⁱ + b), a linear early-exit classifier shared by all layers, read from the raw state ("early exit classifier",
    §3.5). kernel: float32 [D, 1]; bias: float32 [1]."""

    kernel: Array = array()
    bias: Array = array()

    head: ClassVar[str | None] = 'exit_classifier'

    def observe(self, memory: Any, evidence: Evidence) -> tuple[Any, Float[Array, 'B'], Int[Array, 'B'] | None]:
        # A product and a sum: a matrix kernel for one column costs more than the reduction.
        score = jnp.sum(evidence.hidden.astype(jnp.float32) * self.kernel[:, 0], axis=-1) + self.bias
        return memory, jax.nn.sigmoid(score), None

    def flops(self, layer: int, sizes: Sizes) -> int:
        return 2 * sizes.width


@pytree
class Oracle(VocabularyMeasure):
    """1 where the layer's token is the full model's, else 0: the local oracle of §3.3.1. It looks ahead, so it saves
    nothing; it bounds what a measure can save. Of listed ids, the layer's token is the likeliest of these."""

    looks_ahead: ClassVar[bool] = True

    def observe(self, memory: Any, evidence: Evidence) -> tuple[Any, Float[Array, 'B'], Int[Array, 'B'] | None]:
        memory, candidates = self.vocabulary.look(memory, evidence)
        if candidates is None:
            return memory, jnp.zeros(evidence.ran.shape, jnp.float32), None
        token = evidence.choose(candidates.logits, candidates.ids)
        return memory, (token == evidence.oracle).astype(jnp.float32), token if self.predicts else None


@pytree
class StaticDepth(Measure):
    """i / L: a threshold k / L makes every token leave after k layers (the static baselines of Fig. 3)."""

    def observe(self, memory: Any, evidence: Evidence) -> tuple[Any, Float[Array, 'B'], Int[Array, 'B'] | None]:
        share = (evidence.layer + 1) / evidence.num_layers
        return memory, jnp.full(evidence.ran.shape, share, jnp.float32), None


def softmax_gap(logits: Float[Array, 'B K'], log_rest: Float[Array, 'B'] | None = None) -> Float[Array, 'B']:
    """p₍₁₎ − p₍₂₎ of float32 logits [B, K] → [B]; log_rest: log Σ exp of those that are not among them."""
    first, second = two_largest(logits)
    return (1 - jnp.exp(second - first)) / _partition(logits, log_rest)


def two_largest(values: Float[Array, 'B K']) -> tuple[Float[Array, 'B'], Float[Array, 'B']]:
    """The largest and the next of float32 [B, K], [B] each. Two maxima: sorting a vocabulary takes fifty times as long."""
    best = argmax(values)[:, None]
    others = jnp.where(jnp.arange(values.shape[-1])[None, :] == best, -jnp.inf, values)
    return jnp.max(values, axis=-1), jnp.max(others, axis=-1)


def _partition(logits: Float[Array, 'B K'], log_rest: Float[Array, 'B'] | None) -> Float[Array, 'B']:
    """Σ exp of all logits over that of the largest here, [B]."""
    largest = jnp.max(logits, axis=-1)
    total = jnp.sum(jnp.exp(logits - largest[:, None]), axis=-1)
    return total if log_rest is None else total + jnp.exp(log_rest - largest)
