"""Gates: which rows run a layer, or which of its sub-layers, decided token by token on the way in."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Bool

from calm_jax.options import option
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Context, Sizes


class Gate:
    """What every gate is: a pytree that is called at each layer of each token.

    `init(rows, sizes)` makes what it remembers of a token's earlier layers. A call takes that memory and a `Context` with
    the states that enter the layer, and returns the new memory and who runs: bool [B], the whole layer, or bool [B, 3],
    self-attention, cross-attention and feed-forward. A closed gate still writes its layer's keys and values.
    dial: the field that turns it off at 1, if it has one; head: the head of a checkpoint that holds its trained arrays.
    """

    dial: ClassVar[str | None] = None
    head: ClassVar[str | None] = None

    def init(self, rows: int, sizes: Sizes) -> Any:
        """What it remembers before the first layer."""
        return None

    def __call__(self, memory: Any, context: Context) -> tuple[Any, Bool[Array, 'B'] | Bool[Array, 'B 3']]:
        raise NotImplementedError

    def check(self, sizes: Sizes) -> None:
        """Raises ValueError where the model is not one that it can be of."""

    def flops(self, layer: int, sizes: Sizes) -> int:
        """Floating-point operations of asking for one row at a layer (from 0)."""
        return 0


@pytree
class ScriptedGate(Gate):
    """Runs what a table says: bool [T, L], or [T, L, 3] by sub-layer; row t for the t-th generated token, its last row for all
    later ones."""

    dial: ClassVar[str | None] = 'threshold'

    runs: Array
    threshold: float = option('the gate runs every layer at 1, and what its table says below', default=0.0, flag=None)

    def __call__(self, memory: Any, context: Context) -> tuple[Any, Bool[Array, 'B'] | Bool[Array, 'B 3']]:
        runs = jnp.asarray(self.runs)[jnp.minimum(jnp.asarray(context.position), len(self.runs) - 1), context.layer]
        return memory, runs
