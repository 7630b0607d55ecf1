"""Names and shapes of the parameters in a checkpoint of t5x, whichever of its models wrote them.

`examples/t5` has layers apart, `encoder/layers_0/mlp/wo/kernel` [F, D], and attention's kernels of all heads, [D, N·H] and
[N·H, D]. `examples/scalable_t5` has heads apart, [D, N, H] and [N, H, D], and scans its layers: one tensor holds those of a
stack, `encoder/encoder/mlp/wo/kernel` [F, L, D], layers along the second axis unless it was told the first. flaxformer's T5
scans likewise, heads together.
"""

import functools
import os
import re
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_STACKS = ('encoder', 'decoder')
_HEADS_APART = re.compile(r'.*/(query|key|value|out)/kernel')
_WIDE = 'pre_mlp_layer_norm/scale'  # [D] in every layer of both stacks


def are_stacked(tensors: Mapping[str, Any]) -> bool:
    """Whether layers of any stack are."""
    return any(name.startswith(f'{stack}/{stack}/') for name in tensors for stack in _STACKS)


def layers_apart(directory: str | os.PathLike, tensors: Mapping[str, Any], axis: int | None = None) -> dict[str, Any]:
    """{path: tensor} with layers apart and heads together; `directory` starts messages.

    axis: along which layers are stacked, where they are; None: the second axis, unless only the first can be.

    Raises ValueError for layers that are both stacked and apart, and for stacks that do not hold the same number of layers.
    """
    embedding = tensors.get('token_embedder/embedding')
    width = None if embedding is None else embedding.shape[-1]
    tensors = dict(tensors)
    for stack in _STACKS:
        prefix = f'{stack}/{stack}/'
        names = [name for name in tensors if name.startswith(prefix)]
        if not names:
            continue
        if others := [name for name in tensors if name.startswith(f'{stack}/layers_')]:
            raise ValueError(f'{directory}: holds both {others[0]} and {names[0]}; expected layers apart or stacked')
        along, count = _axis_and_count(directory, prefix, tensors, width, axis)
        for name in names:
            tensor = tensors.pop(name)
            if tensor.shape[along : along + 1] != (count,):
                raise ValueError(f'{directory}: {name} is {list(tensor.shape)}; expected {count} layers along axis {along}')
            layers = _Stack(tensor, along)
            for layer in range(count):
                tensors[f'{stack}/layers_{layer}/{name.removeprefix(prefix)}'] = _Layer(layers, layer)
    return {
        name: _HeadsTogether(tensor, name.endswith('/out/kernel'))
        if _HEADS_APART.fullmatch(name) and len(tensor.shape) == 3
        else tensor
        for name, tensor in tensors.items()
    }


def _axis_and_count(directory, prefix, tensors, width, axis):
    """(along which axis the layers of a stack stand, how many), told by a tensor whose layers are all [D]."""
    if prefix + _WIDE not in tensors:
        raise ValueError(f'{directory}: holds no {prefix}{_WIDE}; expected a T5 of t5x, its layers stacked or apart')
    shape = tensors[prefix + _WIDE].shape
    # Where there are D layers either might be; t5x stacks along the second unless it is told.
    for along in (1, 0) if axis is None else (axis,):
        if len(shape) == 2 and along in (0, 1) and shape[1 - along] == width:
            return along, shape[along]
    axes = 'either axis' if axis is None else f'axis {axis}, which its gin file says'
    raise ValueError(f'{directory}: {prefix}{_WIDE} is {list(shape)}; expected layers of [{width}] along {axes}')


class _Stack:
    """A tensor of all layers, read once, and kept in a file that no longer has a name: layers are asked for one at a time, and
    every one of them may need all of what is compressed."""

    def __init__(self, tensor, axis):
        self.tensor, self.axis = tensor, axis
        self.shape = tensor.shape[:axis] + tensor.shape[axis + 1 :]

    @functools.cached_property
    def layers(self):
        """[L, ...]"""
        layers = np.moveaxis(self.tensor.read(), self.axis, 0)
        with tempfile.TemporaryFile() as file:
            for layer in layers:
                file.write(np.ascontiguousarray(layer).tobytes())
            file.flush()
            return np.memmap(file, layers.dtype, 'r', shape=layers.shape)


class _Layer(NamedTuple):
    """One layer of a stack."""

    stack: _Stack
    layer: int

    @property
    def shape(self):
        return self.stack.shape

    def read(self):
        return np.array(self.stack.layers[self.layer])


class _HeadsTogether(NamedTuple):
    """A kernel [D, N, H] as [D, N·H], or of what attention puts out, [N, H, D], as [N·H, D]."""

    tensor: Any
    out: bool

    @property
    def shape(self):
        first, second, third = self.tensor.shape
        return (first * second, third) if self.out else (first, second * third)

    def read(self):
        return self.tensor.read().reshape(self.shape)
