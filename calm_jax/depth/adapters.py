"""Exit adapters: what lets a model that never learned to exit be read after any layer.

The state of an early layer is not yet in the form that the last norm and the head read. An affine map of each layer, trained
towards what the full model says, brings it there ("tuned lens", Belrose et al. 2023); the model itself stays as it is, bit for
bit. Of the last layer there is none: full depth is the model's own.
"""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Float

from calm_jax.options import array
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Sizes


@pytree
class ExitAdapters:
    """h ↦ scale ⊙ h + bias + h · kernel, or + (h · down) · up, of each layer but the last.

    scale, bias: float32 [L − 1, D]. kernel: [L − 1, D, D], of full adapters; down: [L − 1, D, r] and up: [L − 1, r, D], of
    those of rank r; the others None.
    """

    head: ClassVar[str | None] = 'exit_adapters'

    scale: Array = array()
    bias: Array = array()
    kernel: Array | None = array(optional=True)
    down: Array | None = array(optional=True)
    up: Array | None = array(optional=True)

    def __call__(self, layer: int, hidden: Float[Array, '*B D']) -> Float[Array, '*B D']:
        """What the head reads of the states after a layer (static, from 0)."""
        if layer >= len(self.scale):
            return hidden
        x = hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32))
        moved = jnp.asarray(self.scale)[layer] * x + jnp.asarray(self.bias)[layer]
        if self.kernel is not None:
            moved += x @ jnp.asarray(self.kernel)[layer]
        if self.down is not None and self.up is not None:
            moved += x @ jnp.asarray(self.down)[layer] @ jnp.asarray(self.up)[layer]
        return moved.astype(hidden.dtype)

    def flops(self, layer: int, sizes: Sizes) -> int:
        """Floating-point operations of one row after a layer (from 0)."""
        if layer >= len(self.scale):
            return 0
        products = 0 if self.kernel is None else sizes.width**2
        products += 0 if self.down is None else 2 * sizes.width * self.down.shape[-1]
        return 2 * products + 2 * sizes.width

    def check(self, sizes: Sizes) -> None:
        """Raises ValueError where they are of another model."""
        if self.scale.shape != (sizes.layers - 1, sizes.width):
            raise ValueError(
                f'the exit adapters are [{", ".join(map(str, self.scale.shape))}], of another model; expected '
                f'[{sizes.layers - 1}, {sizes.width}], one after each layer but the last'
            )


ADAPTERS: dict[str, type[ExitAdapters]] = {'trained': ExitAdapters}
