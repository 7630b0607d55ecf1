"""Exit adapters: what lets a model that never learned to exit be read after any layer.

The state of an early layer is not yet in the form that the last norm and the head read. An affine map of each layer, trained
towards what the full model says, brings it there ("tuned lens", Belrose et al. 2023); the model itself stays as it is, bit for
bit. Of the last layer there is none: full depth is the model's own.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from calm_jax.options import array
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Sizes

FIELDS = ('scale', 'bias', 'kernel', 'down', 'up')


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
        """Raises ValueError where they are of another model, or of no shape at all."""
        layers, width = sizes.layers - 1, sizes.width
        if np.shape(self.scale) != (layers, width):
            raise ValueError(
                f'the exit adapters are {_shape(self.scale)}, of another model; expected [{layers}, {width}], one after each '
                'layer but the last'
            )
        maps = ('kernel',) if self.down is None and self.up is None else ('down', 'up')
        if any((getattr(self, name) is not None) != (name in maps) for name in ('kernel', 'down', 'up')):
            raise ValueError('the exit adapters have other maps than a kernel, or down and up; train them again')
        rank = 0 if self.down is None else np.shape(self.down)[-1]
        shapes = {'bias': (layers, width), 'kernel': (layers, width, width)}
        shapes |= {'down': (layers, width, rank), 'up': (layers, rank, width)}
        for name in ('bias', *maps):
            if np.shape(getattr(self, name)) != shapes[name]:
                expected = ', '.join(map(str, shapes[name]))
                raise ValueError(f"the exit adapters' {name} is {_shape(getattr(self, name))}; expected [{expected}]")


def _shape(value: Array) -> str:
    return f'[{", ".join(map(str, np.shape(value)))}]'


ADAPTERS: dict[str, type[ExitAdapters]] = {'trained': ExitAdapters}


def adapters_of(head: Mapping[str, Any]) -> ExitAdapters:
    """Adapters with the arrays of a checkpoint's head. Raises ValueError for a head of other names."""
    if not {'scale', 'bias'} <= set(head) <= set(FIELDS):
        named = ', '.join(sorted(head))
        raise ValueError(f'the exit adapters hold {named}; expected scale and bias, and kernel, or down and up')
    maps = {name: head[name] for name in FIELDS[2:] if name in head}
    return ExitAdapters(head['scale'], head['bias'], **maps)
