"""The tensors in a checkpoint of t5x: msgpack with large arrays as zarr beside it, or orbax.

A tensor has a `shape` and can be `read` into an array, of the type that is stored; the optimizer's state is left out.
"""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from flax import serialization

from calm_jax.checkpoints import trees

_LEGACY, _ORBAX = 'checkpoint', 'state'


def holds_tensors(directory: str | os.PathLike) -> bool:
    """Whether `directory` looks like a checkpoint that t5x wrote (nothing in it is checked)."""
    directory = pathlib.Path(directory)
    state = directory / _ORBAX
    return (directory / _LEGACY).is_file() or any((state / name).exists() for name in ('_METADATA', 'manifest.ocdbt'))


def tensors_of(directory: pathlib.Path) -> dict[str, Any]:
    """{path, names joined by '/': tensor} of the parameters in a checkpoint of either format.

    Raises FileNotFoundError where an array is not there; ValueError where the checkpoint is damaged.
    """
    return _legacy(directory) if (directory / _LEGACY).is_file() else _orbax(directory / _ORBAX)


class _Held(NamedTuple):
    """An array that is in memory already."""

    array: Any

    @property
    def shape(self):
        return tuple(self.array.shape)

    def read(self):
        return np.asarray(self.array)


class _Stored(NamedTuple):
    """An array that tensorstore reads when it is asked for."""

    store: Any

    @property
    def shape(self):
        return tuple(self.store.shape)

    def read(self):
        return np.asarray(self.store.read().result())


def _legacy(directory):
    """{path: array} of the parameters in the msgpack file and the zarr directories that it names."""
    path = directory / _LEGACY
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
        target = tree['optimizer']['target'] if 'optimizer' in tree else tree['target']
        leaves = list(_leaves(target))
    except Exception as error:  # Whatever damaged bytes decode to.
        raise ValueError(f'{path}: no checkpoint of t5x, or a damaged one ({" ".join(str(error).split())[:200]})') from None
    found = {}
    for name, leaf in leaves:
        found[name] = _Held(leaf) if hasattr(leaf, 'shape') else _zarr(directory, name)
    return found


def _leaves(tree, path=''):
    """(path, array or what says where it is) of every parameter."""
    for name in sorted(tree):
        inner, value = f'{path}/{name}' if path else name, tree[name]
        if isinstance(value, dict) and not {'driver', 'kvstore'} <= set(value):
            yield from _leaves(value, inner)
        else:
            yield inner, value


def _zarr(directory, name):
    import tensorstore

    folder = directory / f'target.{name.replace("/", ".")}'
    if not folder.is_dir():
        raise FileNotFoundError(f'{directory}: the checkpoint lacks {folder.name}; copy it again')
    spec = {'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': str(folder)}}
    try:
        return _Stored(tensorstore.open(spec, open=True, read=True).result())
    except (ValueError, OSError) as error:
        raise ValueError(f'{folder}: damaged ({" ".join(str(error).split())[:200]}); copy it again') from None


def _orbax(directory):
    """{path: array} of the parameters in an orbax directory, the optimizer's state left out."""
    import orbax.checkpoint as ocp
    import tensorstore

    try:
        # A checkpointer would warn of what t5x does not write.
        tree: Any = ocp.PyTreeCheckpointHandler().metadata(directory).tree
        target = tree['target'] if 'target' in tree else tree['params']
        names = list(_names(target, 'target' if 'target' in tree else 'params'))
    except Exception as error:  # Orbax and tensorstore raise a dozen unrelated types here.
        raise trees.unreadable(directory, error) from None
    found = {}
    for inner, name in names:
        kvstore = (
            {'driver': 'ocdbt', 'base': f'file://{directory}', 'path': f'{name}/'}
            if (directory / 'manifest.ocdbt').exists()
            else {'driver': 'file', 'path': str(directory / name)}
        )
        try:
            store = tensorstore.open({'driver': 'zarr', 'kvstore': kvstore}, open=True, read=True).result()
        except (ValueError, OSError) as error:
            raise trees.unreadable(directory, error) from None
        found[inner] = _Stored(store)
    return found


def _names(tree, stored, path=''):
    """(path within the tree, name under which orbax stores it) of every leaf of nested mappings."""
    for name in sorted(tree):
        inner = f'{path}/{name}' if path else str(name)
        if hasattr(tree[name], 'items'):
            yield from _names(tree[name], f'{stored}.{name}', inner)
        else:
            yield inner, f'{stored}.{name}'
