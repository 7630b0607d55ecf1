"""Contrastive confidence: a layer sets itself against an earlier one of the same model (Vincenti et al. 2024).

The layer that is asked is the expert p, the earlier one the amateur a. Plausible are M = {v: p_v ≥ α max p}; on them the scores
are s = softmax over M of (log p − log a), times Σ_M p, elsewhere s = p. The confidence is the difference of the two largest
scores. It is the token of p that is emitted, or, with `emits`, that of s (auto-contrastive decoding, Gera et al. 2023) or of
log p − log a on M (DoLa, Chuang et al. 2024). Layers count from 1 in the formulas. Without an amateur s = p.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from calm_jax.depth.confidence import VocabularyMeasure, two_largest
from calm_jax.nearest import did_you_mean
from calm_jax.options import option
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Evidence, Sizes

EMITS = ('model', 'auto_contrastive', 'dola')
# What a choice sees in the place of −∞, so that something is left to say where nothing plausible may be said.
IMPLAUSIBLE = -1e4


@pytree(static=('alpha', 'emits'))
class Contrast(VocabularyMeasure):
    """What both contrasts share: the memory of earlier layers, the scores, and what is emitted.

    Each says `amateurs(layer)`, the layers (from 0) that it looks at after `layer`, and `amateur(…)`, which of them it takes.
    Raises ValueError for an alpha outside (0, 1), an unknown distribution, and one of its own over listed ids alone.
    """

    alpha: float = option('a contrast weighs ids of at least α times the largest probability', default=0.1, metavar='α')
    emits: str = option('the distribution that a contrast says tokens from', default='model', choices=EMITS)

    remembers: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.alpha, int | float) or not 0 < self.alpha < 1:
            raise ValueError(f'alpha is {self.alpha!r}; expected a share of the largest probability, in (0, 1)')
        if self.emits not in EMITS:
            raise ValueError(
                f'unknown output distribution {self.emits!r}; expected one of {", ".join(EMITS)}'
                f'{did_you_mean(self.emits, EMITS)}'
            )
        if self.emits != 'model' and not self.vocabulary.predicts:
            raise ValueError(
                f'emits is {self.emits!r}, which has no score for ids outside a list of frequent ones; expected model'
            )

    def amateurs(self, layer: int) -> list[int]:
        """The layers (from 0) that it looks at after a layer."""
        raise NotImplementedError

    def amateur(self, layer: int, expert, likely, earlier: dict, seen) -> tuple[Array, Array]:
        """(log a [B, K] of the one that it takes, whether the row has one [B, 1])."""
        raise NotImplementedError

    def init(self, rows: int, sizes: Sizes) -> Any:
        return self.vocabulary.init(rows, sizes, self._remembered(sizes.layers)), jnp.zeros((rows, sizes.layers), bool)

    def observe(self, memory: Any, evidence: Evidence) -> tuple[Any, Float[Array, 'B'], Int[Array, 'B'] | None]:
        vocabulary, seen = memory
        vocabulary, candidates = self.vocabulary.look(vocabulary, evidence)
        memory = vocabulary, seen.at[:, evidence.layer].set(True)
        if candidates is None:
            return memory, jnp.zeros(evidence.ran.shape, jnp.float32), None
        expert = candidates.log_probabilities(candidates.logits)
        likely = plausible(expert, self.alpha)
        earlier = {layer: candidates.log_probabilities(candidates.earlier(layer)) for layer in self.amateurs(evidence.layer)}
        amateur, present = self.amateur(evidence.layer, expert, likely, earlier, seen)
        scores = jnp.where(present, contrast_scores(expert, amateur, likely), jnp.exp(expert))
        first, second = two_largest(scores)
        emitted = candidates.logits
        if self.emits == 'auto_contrastive':
            emitted = jnp.where(present, jnp.log(scores), emitted)
        if self.emits == 'dola':
            emitted = jnp.where(present, dola_scores(expert, amateur, likely), emitted)
        return memory, jnp.clip(first - second, 0, 1), self.token(emitted, candidates, evidence)

    def _remembered(self, layers):
        return tuple(sorted({amateur for layer in range(layers) for amateur in self.amateurs(layer)}))


@pytree(static=('alpha', 'emits'))
class WeightedContrast(Contrast):
    """Against layer ⌊i/2⌋; none at i = 1."""

    def amateurs(self, layer):
        return [(layer + 1) // 2 - 1] if layer else []

    def amateur(self, layer, expert, likely, earlier, seen):
        """(log a [B, K], whether the row has it [B, 1])."""
        if not earlier:
            return expert, jnp.zeros((len(expert), 1), bool)
        [(each, amateur)] = earlier.items()
        return amateur, seen[:, each : each + 1]


@pytree(static=('alpha', 'emits'))
class DivergentContrast(Contrast):
    """Against the layer j of 2 … i − 1 with the largest JSD(p, aⱼ) / (i − j), the Jensen–Shannon divergence summed over the
    plausible ids as they are; none at i ≤ 2."""

    def amateurs(self, layer):
        return list(range(1, layer))

    def amateur(self, layer, expert, likely, earlier, seen):
        """(log a [B, K], whether the row has one [B, 1])."""
        best, chosen = jnp.full((len(expert), 1), -1.0), expert
        for each, amateur in earlier.items():
            rate = divergence(expert, amateur, likely)[:, None] / (layer - each)
            better = seen[:, each : each + 1] & (rate > best)
            best, chosen = jnp.where(better, rate, best), jnp.where(better, amateur, chosen)
        return chosen, best >= 0


def plausible(expert: Float[Array, 'B K'], alpha: float) -> Bool[Array, 'B K']:
    """M, bool [B, K]: probabilities of at least α times the largest, from log-probabilities."""
    return expert >= jnp.max(expert, axis=-1, keepdims=True) + math.log(alpha)


def contrast_scores(
    expert: Float[Array, 'B K'], amateur: Float[Array, 'B K'], likely: Bool[Array, 'B K']
) -> Float[Array, 'B K']:
    """s, float32 [B, K], from log p and log a; it sums to what p sums to."""
    share = jax.nn.softmax(jnp.where(likely, expert - _finite(amateur), -jnp.inf), axis=-1)
    probability = jnp.exp(expert)
    mass = jnp.sum(jnp.where(likely, probability, 0), axis=-1, keepdims=True)
    return jnp.where(likely, share * mass, probability)


def dola_scores(expert: Float[Array, 'B K'], amateur: Float[Array, 'B K'], likely: Bool[Array, 'B K']) -> Float[Array, 'B K']:
    """log p − log a on M; elsewhere log p, moved below all of them."""
    return jnp.where(likely, jnp.minimum(expert - _finite(amateur), -IMPLAUSIBLE), expert + 2 * IMPLAUSIBLE)


def divergence(expert: Float[Array, 'B K'], amateur: Float[Array, 'B K'], likely: Bool[Array, 'B K']) -> Float[Array, 'B']:
    """Jensen–Shannon divergence of p and a, [B] in nats, over M alone and not normalised to it."""
    middle = jnp.logaddexp(expert, _finite(amateur)) - math.log(2)

    def relative(log, other):
        return jnp.where(likely & (log > -jnp.inf), jnp.exp(log) * (log - other), 0)

    return jnp.sum(relative(expert, middle) + relative(amateur, middle), axis=-1) / 2


def _finite(log: Float[Array, 'B K']) -> Float[Array, 'B K']:
    """Log-probabilities whose zeros are merely tiny: a difference of two stays a number."""
    return jnp.maximum(log, -1e30)
