"""A model's methods with its parameters, to be called one by one where a loop decides what runs."""

from collections.abc import Callable

from flax import linen as nn

from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import Transformer


def bound(config: TransformerConfig, params: dict) -> Callable:
    """`call(*args, method)`: the methods of the model, parameters bound.

    All its modules are set up here, once. `apply` sets them up at every call, a third of the time to trace a deep model; and
    one that is bound and sets up on its way would do so within loops and branches, which may not leave modules behind.
    """
    model = _set_up(Transformer(config).bind({'params': params}))
    return lambda *args, method: getattr(model, method)(*args)


def _set_up(module: nn.Module) -> nn.Module:
    """A bound module, and with it all those in it."""
    hasattr(module, 'set_up')  # whichever attribute is asked for, Flax calls `setup` before it says that there is none
    for name, value in list(vars(module).items()):
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, nn.Module) and name != 'parent':
                _set_up(each)
    return module
