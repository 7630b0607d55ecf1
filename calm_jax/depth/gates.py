"""Gates: which rows run a layer, decided token by token on the way in.

A gate is a function (layer, position [B], hidden [B, D], keys [B]) → run bool [B].
"""

from typing import Protocol

import jax.numpy as jnp

from calm_jax.pytrees import pytree
from calm_jax.types import Array


class Gate(Protocol):
    def __call__(self, layer: int, position: Array, hidden: Array, keys: Array) -> Array: ...


@pytree
class ScriptedGate:
    """Runs what a table says: bool [T, L], row t for the t-th generated token (its last row for all later ones)."""

    runs: Array

    def __call__(self, layer, position, hidden, keys):
        return jnp.asarray(self.runs)[jnp.minimum(position, len(self.runs) - 1), layer]
