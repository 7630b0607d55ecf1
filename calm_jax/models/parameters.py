"""Parameters of modules: float32 arrays under t5x's names and logical axes."""

import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning
from flax.linen.spmd import with_logical_constraint
from jax.sharding import PartitionSpec

from calm_jax.types import Array


def parameter(
    module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...], axes: tuple[str, ...]
) -> Array:
    """A parameter of a module, with named axes: made by `init` where the module is initialised.

    One that is there is read, and its shape compared here. Flax would trace the initializer for that at every call, which takes
    a twentieth of the time to trace a decode. Raises ValueError for one of another shape.
    """
    if not module.has_variable('params', name):
        return partitioning.param_with_axes(name, init, shape, jnp.float32, axes=axes, module=module)
    value = module.get_variable('params', name)
    if jnp.shape(value) != shape:
        path = '/'.join((*module.path, name))
        raise ValueError(f'the parameter {path} is of shape {list(jnp.shape(value))}; expected {list(shape)}')
    return with_logical_constraint(value, PartitionSpec(*axes))
