"""Hugging Face directories: config.json, weights as safetensors, the tokenizer, generation_config.json.

Weights are read and written tensor by tensor; they may also stay in their files until each is used. Reading takes one
`model.safetensors`, or the shards that `model.safetensors.index.json` lists, or the same of `pytorch_model.bin` through torch's
reader for weights alone; writing makes one file.
"""

import json
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import safetensors

from calm_jax.checkpoints import atomic, native, trees
from calm_jax.checkpoints.weights import as_published, assemble, loaded, published_shape
from calm_jax.data import tokenizers
from calm_jax.files import read_json, write_json
from calm_jax.models import families

_SINGLE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'
_PICKLED, _PICKLED_INDEX = 'pytorch_model.bin', 'pytorch_model.bin.index.json'
_DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'F64': 'float64'}
# Where the published decoding defaults stand in ours, a document of `calm_jax.decoding.codec`: {part: {option: published}}.
_DEFAULTS = {
    'limits': {'max_new_tokens': 'max_new_tokens'},
    'choice': {'size': 'num_beams', 'length_penalty': 'length_penalty', 'early_stopping': 'early_stopping'},
    'rules': {
        'no_repeat_ngram_size': 'no_repeat_ngram_size',
        'min_new_tokens': 'min_new_tokens',
        'forced_first_id': 'forced_bos_token_id',
        'forced_last_id': 'forced_eos_token_id',
    },
}
# What leaves a published default off.
_OFF = {'num_beams': 1, 'length_penalty': 1.0, 'early_stopping': False, 'no_repeat_ngram_size': 0, 'min_new_tokens': 0}
_CODES = {name: code for code, name in _DTYPES.items()}


def is_published(directory: str | os.PathLike) -> bool:
    """Whether `directory` holds a published model's config.json (nothing else of it is checked)."""
    try:
        return 'model_type' in read_json(pathlib.Path(directory) / 'config.json')
    except (OSError, ValueError):
        return False


def read(
    directory: str | os.PathLike,
    dtype: npt.DTypeLike | None = 'float32',
    tokenizer: str | os.PathLike | None = None,
    pending: bool = False,
) -> native.Checkpoint:
    """Reads a published model as a `native.Checkpoint`; floating-point weights become `dtype` (None keeps what is stored).

    Every tensor in the files must be known, and every known tensor must be there with its shape; what a family stores twice
    must be equal.

    tokenizer: a folder that holds it, where it is not the model's own. pending: leave the parameters in their files, each
    to be read when it is used (`weights.Pending`).

    Raises FileNotFoundError where config.json, the weights or the tokenizer are not there; ValueError where the model is not
    understood, or its files are damaged or do not belong together.
    """
    directory = pathlib.Path(directory).absolute()
    path = directory / 'config.json'
    if not path.is_file():
        raise FileNotFoundError(f'{directory}: holds no config.json; expected a published model directory')
    published = read_json(path)
    generation = _read_generation(directory / 'generation_config.json', published)
    try:
        family = families.family_of(published)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    where = _where(_open(directory), family)
    try:
        config = families.config_from_published(published, where)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    if tokenizer is None:
        text_tokenizer = tokenizers.read_published(directory, family.TOKENIZER, encodes=not config.decoder_only)
    else:
        text_tokenizer = tokenizers.load_tokenizer(tokenizer)
    params = assemble(directory, config, family.weight_map(config), where, dtype)
    native.check(str(directory), config, params, text_tokenizer)
    return native.Checkpoint(config, params if pending else loaded(params), text_tokenizer, None, generation)


def write(
    directory: str | os.PathLike,
    checkpoint: native.Checkpoint,
    *,
    dtype: npt.DTypeLike | None = None,
    overwrite: bool = False,
    watch: Callable[[list], Iterable] = iter,
) -> None:
    """Writes a published model directory, whole or not at all; reading it back gives the same bits.

    `dtype` converts the weights; None keeps theirs. Heads have no place in the published format and stay behind.
    `watch` passes the weights on, as a progress bar does.

    Raises FileExistsError where `directory` is taken; ValueError where no published family has such a configuration, or a
    number does not fit `dtype`.
    """
    config = checkpoint.config
    native.check(str(directory), config, checkpoint.params, checkpoint.tokenizer)
    try:
        family = families.family_for(config)
    except ValueError as error:
        raise ValueError(f'{directory}: {error}') from None
    with atomic.new_directory(directory, overwrite) as temporary:
        stored = _write_weights(temporary / _SINGLE, list(family.weight_map(config)), checkpoint.params, dtype, watch)
        start = 'bos_token_id' if config.decoder_only else 'decoder_start_token_id'
        ids = {
            start: config.decoder_start_id,
            'eos_token_id': list(config.eos_ids) if config.other_eos_ids else config.eos_id,
            **({} if config.pad_id < 0 else {'pad_token_id': config.pad_id}),
        }
        generation = checkpoint.generation or {}
        defaults = {
            theirs: generation[part][ours]
            for part, options in _DEFAULTS.items()
            for ours, theirs in options.items()
            if ours in generation.get(part, {})
        }
        write_json(temporary / 'config.json', {**family.published_from_config(config), 'torch_dtype': stored}, sort_keys=True)
        write_json(temporary / 'generation_config.json', {**ids, **defaults}, sort_keys=True)
        checkpoint.tokenizer.publish(temporary)


def _read_generation(path, published):
    """Our decoding defaults, as a document; puts the token ids that generation_config.json gives in their place in `published`.

    The reference implementation prefers them to those of config.json when it generates; old directories keep all of it there.
    """
    settings = read_json(path) if path.is_file() else {}
    for name in ('decoder_start_token_id', 'bos_token_id', 'eos_token_id', 'pad_token_id'):
        if settings.get(name) is not None:
            published[name] = settings[name]
    merged = {**published, **{name: value for name, value in settings.items() if value is not None}}
    for ours, theirs in (('max_new_tokens', 'max_length'), ('min_new_tokens', 'min_length')):
        # Of a decoder-only model these count the prompt, of which a default knows nothing.
        length = merged.get(theirs)
        if merged.get(ours) is None and isinstance(length, int) and length > 1 and _encodes(published):
            merged[ours] = length - 1  # they count the start token
    document = {
        part: {
            ours: merged[theirs]
            for ours, theirs in options.items()
            if merged.get(theirs) is not None and merged[theirs] != _OFF.get(theirs)
        }
        for part, options in _DEFAULTS.items()
    }
    document['choice'] = {'class': 'beam', **document['choice']} if 'size' in document['choice'] else {}
    return {part: options for part, options in document.items() if options}


def _encodes(published):
    return published.get('is_encoder_decoder', published.get('model_type') in ('t5', 'mt5', 'longt5', 'bart'))


class _Tensor(NamedTuple):
    """One tensor of a safetensors file, under the name that it has there."""

    path: Any
    name: str
    shape: tuple[int, ...]
    code: str

    def read(self) -> np.ndarray:
        """The array, as stored. Raises ValueError for a type that no parameter has."""
        if self.code not in _DTYPES:
            raise ValueError(f'{self.name} is stored as {self.code}; expected one of {", ".join(_DTYPES)}')
        # Opened for every tensor: an open file stays mapped, and what has been read of it counts as memory.
        with _open_safetensors(self.path) as file:
            return file.get_tensor(self.name)


class _Pickled(NamedTuple):
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


def _where(tensors, family):
    """{name in the family's weight map: tensor}, buffers left out, where files may lack the family's prefix."""
    found = {name: tensor for name, tensor in tensors.items() if family.BUFFERS is None or not family.BUFFERS.fullmatch(name)}
    if family.PREFIX and not any(name.startswith(family.PREFIX) for name in found):
        found = {family.PREFIX + name: tensor for name, tensor in found.items()}
    return found


def _open(directory):
    """{name: tensor} of the weights in a directory: safetensors, or where there are none, what torch saved."""
    if found := _files(directory, _SINGLE, _INDEX):
        return {tensor.name: tensor for path in found for tensor in _tensors(path)}
    if found := _files(directory, _PICKLED, _PICKLED_INDEX):
        return {name: _Pickled(tensor, name) for path in found for name, tensor in _unpickle(path).items()}
    others = [path.name for path in sorted(directory.iterdir()) if path.suffix in ('.bin', '.msgpack', '.h5', '.pt')]
    held = (
        f'found {", ".join(others)}, which only their own libraries read; save it again as safetensors'
        if others
        else 'found no weights'
    )
    raise FileNotFoundError(f'{directory}: {held}; expected {_SINGLE} or {_INDEX}')


def _files(directory, single, index):
    """The paths of the one file, or of the shards that an index lists; none where neither is there."""
    if not (directory / index).is_file():
        return [directory / single] if (directory / single).is_file() else []
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


def _tensors(path):
    """The tensors of a safetensors file."""
    with _open_safetensors(path) as file:
        for name in file.keys():
            entry = file.get_slice(name)
            yield _Tensor(path, name, tuple(entry.get_shape()), entry.get_dtype())


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


def _write_weights(path, weights, params, dtype, watch=iter):
    """Writes one safetensors file tensor by tensor; returns the name of the dtype of most of it.

    The format: eight bytes with the length of a JSON header, the header ({name: {dtype, shape, data_offsets}}, padded with
    spaces to a multiple of eight), the tensors in the order of their offsets, little-endian, row by row. The library can only
    write tensors that are all in memory at once.
    """
    leaves = {'/'.join(names): leaf for names, leaf in trees.flatten(params)}
    header: dict[str, dict] = {'__metadata__': {'format': 'pt'}}
    offset, sizes = 0, {}
    for weight in weights:
        parts = [leaves[path] for path in weight.paths]
        stored = jnp.dtype(dtype or parts[0].dtype)
        if stored.name not in _CODES:
            raise ValueError(f'{weight.path}: has dtype {stored.name}; expected one of {", ".join(_CODES)}')
        shape = list(published_shape(weight, [part.shape for part in parts]))
        size = stored.itemsize * sum(part.size for part in parts)
        header[weight.name] = {'dtype': _CODES[stored.name], 'shape': shape, 'data_offsets': [offset, offset + size]}
        offset += size
        sizes[stored.name] = sizes.get(stored.name, 0) + size
    encoded = json.dumps(header, separators=(',', ':')).encode()
    encoded += b' ' * (-len(encoded) % 8)
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(encoded)) + encoded)
        for weight in watch(weights):
            array = np.concatenate([trees.cast(leaves[path], dtype, path) for path in weight.paths], axis=-1)
            file.write(np.ascontiguousarray(as_published(weight, array)).view(np.uint8).data)
    return max(sizes, key=sizes.__getitem__)
