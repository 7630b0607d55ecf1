"""Published tensors as parameters, whichever files hold them: one at a time, each accounted for."""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from calm_jax.checkpoints import native, trees
from calm_jax.models.config import TransformerConfig
from calm_jax.models.families.weights import Weight


@dataclasses.dataclass(frozen=True)
class Pending:
    """A parameter that is read whenever an array is made of it (`np.asarray`), so that memory holds what is being used.

    where: the checkpoint's tensors by name; source: the name of the one that holds this parameter of the weight, its `part`-th;
    where none does, the weight says what stands in its place.
    """

    directory: Any
    where: Mapping[str, Any]
    weight: Weight
    source: str
    part: int
    shape: tuple[int, ...]
    dtype: Any

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __array__(self, dtype=None, copy=None):
        """Raises ValueError where the tensor is of another type than floating-point numbers, or unlike under two names."""
        if self.source not in self.where:
            absent = self.weight.absent
            made = absent(self.shape) if callable(absent) else np.full(self.shape, absent)
            return made.astype(self.dtype or np.float32)
        array = _read(self.directory, self.where[self.source])
        for name in self.weight.duplicates:
            if (
                name in self.where
                and name != self.source
                and not np.array_equal(_read(self.directory, self.where[name]), array, equal_nan=True)
            ):
                raise ValueError(f'{self.directory}: {name} and {self.source} differ; expected the same tensor twice')
        ours = np.split(as_ours(self.weight, array), len(self.weight.paths), axis=-1)[self.part]
        return trees.cast(np.ascontiguousarray(ours), self.dtype, f'{self.directory}: {self.source}')


def assemble(
    directory: str | os.PathLike,
    config: TransformerConfig,
    weights: Iterable[Weight],
    where: Mapping[str, Any],
    dtype: npt.DTypeLike | None,
) -> dict:
    """Our parameters, a nested dict of `Pending` ones, of the tensors {name: tensor} that a published checkpoint holds.

    weights: the `Weight` of every parameter. A tensor has a `shape` and can be `read` into an array. dtype: of the parameters;
    None keeps what is stored. `directory` starts messages.

    Raises ValueError where tensors are missing, left over or mis-shaped.
    """
    weights = list(weights)
    stored = {name: tensor.shape for name, tensor in where.items()}
    sources = {
        weight.name: next((name for name in (weight.name, *weight.duplicates) if name in where), weight.name)
        for weight in weights
    }
    shapes = native.parameter_shapes(config)
    expected = {}
    for weight in weights:
        shape = published_shape(weight, [shapes[path] for path in weight.paths])
        if weight.absent is None or sources[weight.name] in where:
            expected[sources[weight.name]] = shape
        expected |= {name: shape for name in weight.duplicates if name in where}
    if problems := trees.differences(expected, stored):
        raise ValueError(f'{directory}: the weights do not match the configuration: {problems}')
    params = {}
    for weight in weights:
        for part, path in enumerate(weight.paths):
            trees.put(
                params,
                path.split('/'),
                Pending(directory, where, weight, sources[weight.name], part, shapes[path], dtype and jnp.dtype(dtype)),
            )
    return params


def loaded(params: Mapping) -> dict:
    """The parameters as jax arrays, pending ones read."""
    tree = {}
    for path, leaf in trees.flatten(params):
        trees.put(tree, path, jnp.array(np.asarray(leaf)))  # A copy: the file may go away.
    return tree


def published_shape(weight: Weight, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the published tensor of parameters of these shapes."""
    *outer, _ = shapes[0]
    shape = (*outer, sum(each[-1] for each in shapes))
    return (1, *shape) if weight.row else shape[::-1] if weight.transpose else shape


def as_ours(weight: Weight, array: np.ndarray) -> np.ndarray:
    """The published tensor as its parameters have it, side by side."""
    return array[0] if weight.row else array.T if weight.transpose else array


def as_published(weight: Weight, array: np.ndarray) -> np.ndarray:
    """Parameters side by side as the published tensor has them."""
    return array[None] if weight.row else array.T if weight.transpose else array


def _read(directory, tensor):
    try:
        return tensor.read()
    except ValueError as error:
        raise ValueError(f'{directory}: {error}') from None
