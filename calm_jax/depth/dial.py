"""The dial λ of what is decided by logits: 1 is everything, ½ what was learned."""

from typing import Any

import jax.numpy as jnp

from calm_jax.types import Array

STEEPEST = 80.0  # |κ|, where λ is next to 0 or 1


def tilt(level: Array | float) -> Array:
    """κ = log(λ / (1 − λ)), what is added to the logit of running, float32 []; level: λ in [0, 1]."""
    level = jnp.asarray(level, jnp.float32)
    return jnp.clip(jnp.log(level) - jnp.log1p(-level), -STEEPEST, STEEPEST)


def check_level(name: str, level: Any) -> None:
    """Raises ValueError for a level, of the option of this name, outside [0, 1]; what is traced is not looked at."""
    if isinstance(level, int | float) and not 0 <= level <= 1:
        raise ValueError(f'{name} is {level}; expected a number from 0 to 1')


def level_of(text: str, kind: str, name: str) -> float:
    """λ, of `--{kind} {name}:λ`. Raises ValueError for what is no number from 0 to 1."""
    try:
        level = float(text)
    except ValueError:
        level = -1.0
    if not 0 <= level <= 1:
        raise ValueError(f"{kind} is '{name}:{text}'; expected {name}:λ with a number from 0 to 1")
    return level
