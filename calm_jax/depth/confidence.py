"""How sure an intermediate layer is of its token: local confidence measures (Schuster et al. 2022, §3.5).

A measure is a pair of pure functions. `init(rows, sizes)` makes what it remembers of earlier layers (None for most);
`observe(memory, evidence)` returns the new memory, the confidence float32 [B] in [0, 1], and the token int32 [B] that
it computed on the way, or None when it never looked at the vocabulary, so that the head is never applied twice
(`predicts` says which). What is remembered may change its shapes from layer to layer. `flops(layer, sizes, decides)`
counts one observation of one row, `decides` as in the evidence; `remembers` asks to see layers below the minimum exit
layer too; `looks_ahead` asks for the full model's token in the evidence; `head` names the trained arrays of a checkpoint
that the class is made of, by its fields. A measure that reads logits has a field `vocabulary`, which may prune them.
"""

from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from calm_jax.argmax import argmax
from calm_jax.depth.vocabulary import Pruned, Whole
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Evidence, Sizes


class Confidence(Protocol):
    predicts: ClassVar[bool]
    remembers: ClassVar[bool]
    looks_ahead: ClassVar[bool]
    head: ClassVar[str | None]

    def init(self, rows: int, sizes: Sizes) -> Any: ...

    def observe(self, memory: Any, evidence: Evidence) -> tuple[Any, Array, Array | None]: ...

    def flops(self, layer: int, sizes: Sizes, decides: bool = True) -> int: ...


class Memoryless:
    """What measures share that look at one layer at a time: they remember nothing and need nobody's answer."""

    predicts: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False
    head: ClassVar[str | None] = None

    def init(self, rows, sizes):
        return None


class OfCandidates:
    """What measures share that look at the logits of one layer: `score` makes candidates a confidence [B]."""

    predicts: ClassVar[bool] = True
    remembers: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False
    head: ClassVar[str | None] = None

    def init(self, rows, sizes):
        return self.vocabulary.init(rows, sizes)

    def observe(self, memory, evidence):
        memory, candidates = self.vocabulary.look(memory, evidence)
        return memory, self.score(candidates), evidence.choose(candidates.logits, candidates.ids)

    def flops(self, layer, sizes, decides=True):
        return self.vocabulary.flops(layer, sizes)


@pytree
class SoftmaxGap(OfCandidates):
    """p₍₁₎ − p₍₂₎, the difference of the two largest probabilities of softmax(W dⁱ) ("softmax response", §3.5)."""

    vocabulary: Whole | Pruned = Whole()

    def score(self, candidates):
        return softmax_gap(candidates.logits, candidates.log_rest)


@pytree
class SoftmaxMax(OfCandidates):
    """p₍₁₎, the largest probability of softmax(W dⁱ)."""

    vocabulary: Whole | Pruned = Whole()

    def score(self, candidates):
        return 1 / _partition(candidates.logits, candidates.log_rest)


@pytree
class StateSimilarity(Memoryless):
    """cos(dⁱ, dⁱ⁻¹), clipped to [0, 1]; 0 after the first layer, which saturates nothing ("hidden-state saturation", §3.5)."""

    def observe(self, memory, evidence):
        if evidence.layer == 0:
            return memory, jnp.zeros(evidence.ran.shape, jnp.float32), None
        now, before = evidence.hidden.astype(jnp.float32), evidence.previous.astype(jnp.float32)
        norms = jnp.linalg.norm(now, axis=-1) * jnp.linalg.norm(before, axis=-1)
        cosine = jnp.sum(now * before, axis=-1) / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)
        return memory, jnp.clip(cosine, 0, 1), None

    def flops(self, layer, sizes, decides=True):
        return 6 * sizes.width if layer else 0


@pytree
class Classifier(Memoryless):
    """σ(w·dⁱ + b), a linear early-exit classifier shared by all layers, read from the raw state ("early exit classifier",
    §3.5). kernel: float32 [D, 1]; bias: float32 [1]."""

    kernel: Array
    bias: Array

    head: ClassVar[str | None] = 'exit_classifier'

    def observe(self, memory, evidence):
        # A product and a sum: a matrix kernel for one column costs more than the reduction.
        score = jnp.sum(evidence.hidden.astype(jnp.float32) * self.kernel[:, 0], axis=-1) + self.bias
        return memory, jax.nn.sigmoid(score), None

    def flops(self, layer, sizes, decides=True):
        return 2 * sizes.width


@pytree
class Oracle(OfCandidates):
    """1 where the layer's token is the full model's, else 0: the local oracle of §3.3.1. It looks ahead, so it saves
    nothing; it bounds what a measure can save."""

    vocabulary: Whole | Pruned = Whole()

    looks_ahead: ClassVar[bool] = True

    def observe(self, memory, evidence):
        memory, candidates = self.vocabulary.look(memory, evidence)
        token = evidence.choose(candidates.logits, candidates.ids)
        return memory, (token == evidence.oracle).astype(jnp.float32), token


@pytree
class StaticDepth(Memoryless):
    """i / L: a threshold k / L makes every token leave after k layers (the static baselines of Fig. 3)."""

    def observe(self, memory, evidence):
        share = (evidence.layer + 1) / evidence.num_layers
        return memory, jnp.full(evidence.ran.shape, share, jnp.float32), None

    def flops(self, layer, sizes, decides=True):
        return 0


def softmax_gap(logits, log_rest=None):
    """p₍₁₎ − p₍₂₎ of float32 logits [B, K] → [B]; log_rest: log Σ exp of those that are not among them."""
    first, second = two_largest(logits)
    return (1 - jnp.exp(second - first)) / _partition(logits, log_rest)


def two_largest(values):
    """The largest and the next of float32 [B, K], [B] each. Two maxima: sorting a vocabulary takes fifty times as long."""
    best = argmax(values)[:, None]
    others = jnp.where(jnp.arange(values.shape[-1])[None, :] == best, -jnp.inf, values)
    return jnp.max(values, axis=-1), jnp.max(others, axis=-1)


def _partition(logits, log_rest):
    """Σ exp of all logits over that of the largest here, [B]."""
    largest = jnp.max(logits, axis=-1)
    total = jnp.sum(jnp.exp(logits - largest[:, None]), axis=-1)
    return total if log_rest is None else total + jnp.exp(log_rest - largest)
