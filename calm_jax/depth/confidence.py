"""How sure an intermediate layer is of its token: local confidence measures (Schuster et al. 2022, §3.5).

A measure is a pair of pure functions. `init(rows, sizes)` makes what it remembers of earlier layers (None for most);
`observe(memory, evidence)` returns the new memory, the confidence float32 [B] in [0, 1], and the token int32 [B] that
it computed on the way, or None when it never looked at the vocabulary, so that the head is never applied twice
(`predicts` says which). `flops(layer, sizes)` counts one observation of one row; `remembers` asks to see
layers below the minimum exit layer too; `looks_ahead` asks for the full model's token in the evidence; `head` names the
trained arrays of a checkpoint that the class is made of, by its fields.
"""

from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from calm_jax.argmax import argmax
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Evidence, Sizes


class Confidence(Protocol):
    predicts: ClassVar[bool]
    remembers: ClassVar[bool]
    looks_ahead: ClassVar[bool]
    head: ClassVar[str | None]

    def init(self, rows: int, sizes: Sizes) -> Any: ...

    def observe(self, memory: Any, evidence: Evidence) -> tuple[Any, Array, Array | None]: ...

    def flops(self, layer: int, sizes: Sizes) -> int: ...


class Memoryless:
    """What measures share that look at one layer at a time: they remember nothing and need nobody's answer."""

    predicts: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False
    head: ClassVar[str | None] = None

    def init(self, rows, sizes):
        return None


@pytree
class SoftmaxGap(Memoryless):
    """p₍₁₎ − p₍₂₎, the difference of the two largest probabilities of softmax(W dⁱ) ("softmax response", §3.5)."""

    predicts: ClassVar[bool] = True

    def observe(self, memory, evidence):
        logits = evidence.logits()
        return memory, softmax_gap(logits), evidence.choose(logits)

    def flops(self, layer, sizes):
        return sizes.head_flops


@pytree
class SoftmaxMax(Memoryless):
    """p₍₁₎, the largest probability of softmax(W dⁱ)."""

    predicts: ClassVar[bool] = True

    def observe(self, memory, evidence):
        logits = evidence.logits()
        largest = jnp.max(logits, axis=-1, keepdims=True)
        return memory, 1 / jnp.sum(jnp.exp(logits - largest), axis=-1), evidence.choose(logits)

    def flops(self, layer, sizes):
        return sizes.head_flops


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

    def flops(self, layer, sizes):
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

    def flops(self, layer, sizes):
        return 2 * sizes.width


@pytree
class Oracle(Memoryless):
    """1 where the layer's token is the full model's, else 0: the local oracle of §3.3.1. It looks ahead, so it saves
    nothing; it bounds what a measure can save."""

    predicts: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = True

    def observe(self, memory, evidence):
        token = evidence.choose(evidence.logits())
        return memory, (token == evidence.oracle).astype(jnp.float32), token

    def flops(self, layer, sizes):
        return sizes.head_flops


@pytree
class StaticDepth(Memoryless):
    """i / L: a threshold k / L makes every token leave after k layers (the static baselines of Fig. 3)."""

    def observe(self, memory, evidence):
        share = (evidence.layer + 1) / evidence.num_layers
        return memory, jnp.full(evidence.ran.shape, share, jnp.float32), None

    def flops(self, layer, sizes):
        return 0


def softmax_gap(logits):
    """p₍₁₎ − p₍₂₎ of float32 logits [B, V] → [B]. Two maxima and a sum: sorting a vocabulary takes fifty times as long."""
    best = argmax(logits)[:, None]
    first = jnp.max(logits, axis=-1)
    rest = jnp.where(jnp.arange(logits.shape[-1])[None, :] == best, -jnp.inf, logits)
    second = jnp.max(rest, axis=-1)
    return (1 - jnp.exp(second - first)) / jnp.sum(jnp.exp(logits - first[:, None]), axis=-1)
