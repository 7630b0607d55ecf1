"""From one λ to the threshold of each generated position, and the exit rule they make with a measure.

A form maps (λ, position, N) to λ_t; position counts generated tokens from 0 and N is the maximum output length.
"""

from typing import Any

import jax.numpy as jnp

from calm_jax.depth.confidence import Confidence
from calm_jax.depth.vocabulary import Pruned
from calm_jax.pytrees import pytree


@pytree
class Constant:
    """λ_t = λ."""

    def __call__(self, threshold, position, length):
        return jnp.broadcast_to(threshold, position.shape)


@pytree
class Decaying:
    """λ_t = clip₀₁(0.9 λ + 0.1 exp(−τ t / N)) (Schuster et al. 2022, Eq. 5)."""

    temperature: Any

    def __call__(self, threshold, position, length):
        return jnp.clip(0.9 * threshold + 0.1 * jnp.exp(-self.temperature * position / length), 0, 1)


@pytree
class ScaledDecaying:
    """λ_t = clip₀₁(λ (0.9 + 0.1 exp(−τ t / N))), the form of the paper's released code."""

    temperature: Any

    def __call__(self, threshold, position, length):
        return jnp.clip(threshold * (0.9 + 0.1 * jnp.exp(-self.temperature * position / length)), 0, 1)


@pytree(static=('min_exit_layer',))
class Exit:
    """Leave after the first layer whose confidence reaches λ_t (Eq. 4). λ ≥ 1 turns every decision off.

    measure: what the confidence is; threshold: λ, a number, swept without compiling again.
    form: how λ becomes λ_t; min_exit_layer: layers that every token visits, 1…L.
    """

    measure: Confidence
    threshold: Any = 1.0
    form: Any = Constant()
    min_exit_layer: int = 1

    @property
    def prunes(self) -> bool:
        """Whether the measure looks at a part of the vocabulary between two layers that look at all of it."""
        return isinstance(getattr(self.measure, 'vocabulary', None), Pruned)

    def observes(self, layer: int) -> bool:
        """Whether the measure looks at this layer (from 0) at all."""
        return self.measure.remembers or layer + 1 >= self.min_exit_layer

    def leaves(self, layer: int, confidence, position, length):
        """bool [B]: confidences that reach the threshold after this layer."""
        if layer + 1 < self.min_exit_layer:
            return jnp.zeros(confidence.shape, bool)
        return confidence >= self.form(self.threshold, position, length)
