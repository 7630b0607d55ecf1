"""Trained heads beside a published model: one more safetensors file, which no other library looks for."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from calm_jax.checkpoints import trees

HEADS = 'calm_heads.safetensors'
_SEPARATOR = '/'


def write(directory: pathlib.Path, heads: Mapping) -> None:
    """Writes a nested dict of arrays, if there is anything in it, each under its path, 'exit_adapters/scale'."""
    leaves = {_SEPARATOR.join(path): np.asarray(leaf, order='C') for path, leaf in trees.flatten(heads)}
    if leaves:
        safetensors.numpy.save_file(leaves, directory / HEADS)


def read(directory: pathlib.Path) -> dict[str, Any]:
    """What `write` wrote, the same bits; nothing where there is no such file. Raises ValueError for one that is damaged."""
    path, heads = directory / HEADS, {}
    if not path.is_file():
        return heads
    try:
        leaves = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f'{path}: {error}; export the checkpoint again') from None
    for name, leaf in leaves.items():
        *folders, last = name.split(_SEPARATOR)
        part = heads
        for folder in folders:
            part = part.setdefault(folder, {})
            if not isinstance(part, dict):
                raise ValueError(f'{path}: {folder} is an array and holds others; export the checkpoint again')
        part[last] = leaf
    return heads
