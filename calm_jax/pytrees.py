"""Frozen dataclasses that travel through compiled functions."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform, overload

import jax

from calm_jax.options import array, option

T = TypeVar('T')


@overload
def pytree(cls: type[T]) -> type[T]: ...


@overload
def pytree(*, static: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, option, array))
def pytree(cls: Any = None, *, static: tuple[str, ...] = ()) -> Any:
    """Makes a class a frozen dataclass and a pytree: its fields are children, but those named `static`, which must hash.

    The class itself is part of the tree's structure. `jax.tree_util.register_dataclass` leaves it out (jax 0.10): two
    classes with like fields then have equal structures, and a compiled function that saw one may run for the other.
    """
    return (lambda cls: _registered(cls, static)) if cls is None else _registered(cls, static)


def _registered(cls, static):
    cls = dataclasses.dataclass(frozen=True)(cls)
    children = [field.name for field in dataclasses.fields(cls) if field.name not in static]

    def flatten(value):
        return [getattr(value, name) for name in children], (cls, *(getattr(value, name) for name in static))

    def unflatten(structure, values):
        made = object.__new__(cls)  # not through __init__: children may be whatever a transformation puts there
        for name, value in (*zip(static, structure[1:]), *zip(children, values)):
            object.__setattr__(made, name, value)
        return made

    jax.tree_util.register_pytree_node(cls, flatten, unflatten)
    return cls
