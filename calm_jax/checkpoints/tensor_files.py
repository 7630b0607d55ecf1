"""The files that hold a published model's tensors, found and opened as the reference implementation does: one
`model.safetensors`, or the shards that `model.safetensors.index.json` lists, or the same of `pytorch_model.bin` through torch's
reader for weights alone. The first of these that is there is read, and no other.
"""

import logging
import os
import pathlib
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from calm_jax.files import read_json

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
_PICKLED, _PICKLED_INDEX = 'pytorch_model.bin', 'pytorch_model.bin.index.json'
DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'F64': 'float64'}
# Formats of other libraries, which are named where nothing else is there.
_FOREIGN = ('.bin', '.msgpack', '.h5', '.pt', '.pth', '.gguf', '.onnx')

_LOGGER = logging.getLogger('calm_jax')


class Tensor(NamedTuple):
    """One tensor of a safetensors file, under the name that it has there."""

    path: Any
    name: str
    shape: tuple[int, ...]
    code: str

    def read(self) -> np.ndarray:
        """The array, as stored. Raises ValueError for a type that no parameter has."""
        if self.code not in DTYPES:
            raise ValueError(f'{self.name} is stored as {self.code}; expected one of {", ".join(DTYPES)}')
        # Opened for every tensor: an open file stays mapped, and what has been read of it counts as memory.
        with _open_safetensors(self.path) as file:
            return file.get_tensor(self.name)


class Pickled(NamedTuple):
    """One tensor that torch has read, from a file that it maps into memory."""

    tensor: Any
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def read(self) -> np.ndarray:
        """The array, as stored. Raises ValueError for a type that no parameter has."""
        if not self.tensor.is_floating_point():
            raise ValueError(f'{self.name} is stored as {self.tensor.dtype}; expected floating-point numbers')
        if str(self.tensor.dtype) == 'torch.bfloat16':
            return self.tensor.view(_torch().int16).numpy().view(jnp.bfloat16)
        return self.tensor.numpy()


def tensors_of(directory: str | os.PathLike) -> dict[str, Tensor | Pickled]:
    """{name: tensor} of the weights in a directory; none of them is read yet.

    Raises FileNotFoundError where there are none, or shards are gone; ValueError where a file is damaged.
    """
    directory = pathlib.Path(directory)
    there = [name for name in (SINGLE, INDEX, _PICKLED, _PICKLED_INDEX) if (directory / name).is_file()]
    if not there:
        raise FileNotFoundError(f'{directory}: {_found(directory)}; expected {SINGLE} or {INDEX}')
    first, *others = there
    if first == SINGLE and INDEX in others:
        _LOGGER.warning(f'{directory}: holds {SINGLE} and {INDEX}; {SINGLE} is read, as transformers does')
    paths = [directory / first] if first in (SINGLE, _PICKLED) else _shards(directory, first)
    if first in (SINGLE, INDEX):
        return {tensor.name: tensor for path in paths for tensor in _tensors(path)}
    return {name: Pickled(tensor, name) for path in paths for name, tensor in _unpickle(path).items()}


def _found(directory):
    """What stands in place of weights, as part of a sentence."""
    others = [path.name for path in sorted(directory.iterdir()) if path.suffix in (*_FOREIGN, '.safetensors')]
    if not others:
        return 'found no weights'
    return f'found {", ".join(others[:6])}, which transformers does not read as it is; save it again as safetensors'


def _shards(directory, index):
    """The paths of the files that an index lists."""
    shards = read_json(directory / index).get('weight_map')
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f'{directory / index}: holds no weight_map; the file is damaged, copy it again')
    names = sorted(set(shards.values()))
    absent = [name for name in names if not (directory / name).is_file()]
    if absent:
        raise FileNotFoundError(
            f'{directory}: {index} lists {len(names)} files, {len(absent)} of them are not there: '
            f'{", ".join(absent[:4])}; copy them again'
        )
    return [directory / name for name in names]


def _tensors(path) -> Iterator[Tensor]:
    """The tensors of a safetensors file."""
    with _open_safetensors(path) as file:
        for name in file.keys():
            entry = file.get_slice(name)
            yield Tensor(path, name, tuple(entry.get_shape()), entry.get_dtype())


def _open_safetensors(path):
    try:
        return safetensors.safe_open(path, framework='np')
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f'{path}: not a complete safetensors file ({error}); copy it again') from None


def _unpickle(path):
    """{name: tensor} of a file that torch saved, read without running what it holds."""
    torch, mapped = _torch(), zipfile.is_zipfile(path)  # what torch saved before 1.6 cannot be mapped into memory
    try:
        held = torch.load(path, map_location='cpu', mmap=mapped, weights_only=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise ValueError(f'{path}: not a complete file of tensors ({reason}); copy it again') from None
    if not isinstance(held, dict) or not all(hasattr(tensor, 'is_floating_point') for tensor in held.values()):
        raise ValueError(f'{path}: holds something else than named tensors')
    return held


def _torch():
    try:
        import torch  # pyright: ignore[reportMissingImports]  # optional; nothing else needs it
    except ImportError:
        raise ValueError(
            'weights that torch saved (.bin) need torch: pip install torch, or save the model again as safetensors'
        ) from None
    return torch
