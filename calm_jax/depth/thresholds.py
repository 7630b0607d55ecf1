"""From one λ to the threshold of each generated position.

A form maps (λ, position, N) to λ_t; position counts generated tokens from 0 and N is the maximum output length.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, Int

from calm_jax.options import option
from calm_jax.pytrees import pytree
from calm_jax.types import Array


class ThresholdForm:
    """What every form is: a pytree that is called with λ (a number or [B]), position int32 [B] and N int32 [B]."""

    def __call__(self, threshold: Any, position: Int[Array, 'B'], length: Any) -> Float[Array, 'B']:
        raise NotImplementedError


@pytree
class Constant(ThresholdForm):
    """λ_t = λ."""

    def __call__(self, threshold: Any, position: Int[Array, 'B'], length: Any) -> Float[Array, 'B']:
        return jnp.broadcast_to(jnp.asarray(threshold), position.shape)


@pytree
class DecayingForm(ThresholdForm):
    """What decaying forms share: τ, how fast.

    Raises ValueError for a negative τ.
    """

    temperature: float = option('how fast a decaying threshold falls', default=4.0, flag='decay_temperature', metavar='τ')

    def __post_init__(self):
        if isinstance(self.temperature, int | float) and not self.temperature >= 0:
            raise ValueError(f'decay_temperature is {self.temperature}; expected τ of 0 or more')


@pytree
class Decaying(DecayingForm):
    """λ_t = clip₀₁(0.9 λ + 0.1 exp(−τ t / N)) (Schuster et al. 2022, Eq. 5)."""

    def __call__(self, threshold: Any, position: Int[Array, 'B'], length: Any) -> Float[Array, 'B']:
        return jnp.clip(0.9 * threshold + 0.1 * jnp.exp(-self.temperature * position / length), 0, 1)


@pytree
class ScaledDecaying(DecayingForm):
    """λ_t = clip₀₁(λ (0.9 + 0.1 exp(−τ t / N))), the form of the paper's released code."""

    def __call__(self, threshold: Any, position: Int[Array, 'B'], length: Any) -> Float[Array, 'B']:
        return jnp.clip(threshold * (0.9 + 0.1 * jnp.exp(-self.temperature * position / length)), 0, 1)


FORMS = {'constant': Constant, 'decaying': Decaying, 'scaled_decaying': ScaledDecaying}
