"""Hugging Face directories: config.json, weights as safetensors, the tokenizer, generation_config.json.

Weights are read and written tensor by tensor: at any time memory holds one model and one tensor more. Reading takes one
`model.safetensors`, or the shards that `model.safetensors.index.json` lists; writing makes one file.
"""

import json
import pathlib
import struct
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from calm_jax.checkpoints import atomic, native, trees
from calm_jax.data import tokenizers
from calm_jax.models import families

_SINGLE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'
_DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'F64': 'float64'}
_CODES = {name: code for code, name in _DTYPES.items()}


def is_published(directory):
    """Whether `directory` holds a published model's config.json (nothing else of it is checked)."""
    try:
        return 'model_type' in json.loads((pathlib.Path(directory) / 'config.json').read_text())
    except (OSError, ValueError, TypeError):
        return False


def read(directory, dtype='float32', watch=iter):
    """Reads a published model as a `native.Checkpoint`; floating-point weights become `dtype` (None keeps what is stored).

    Every tensor in the files must be known, and every known tensor must be there with its shape; what a family stores twice
    must be equal.

    `watch` passes the weights on, as a progress bar does.

    Raises:
      FileNotFoundError: config.json, the weights or the tokenizer are not there.
      ValueError: the model is not understood, or its files are damaged or do not belong together.
    """
    directory = pathlib.Path(directory).absolute()
    path = directory / 'config.json'
    if not path.is_file():
        raise FileNotFoundError(f'{directory}: holds no config.json; expected a published model directory')
    published = native.read_json(path)
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
    tokenizer = _read_tokenizer(directory)
    params = _read_weights(directory, config, list(family.weight_map(config)), where, dtype, watch)
    native.check(str(directory), config, params, tokenizer)
    return native.Checkpoint(config, params, tokenizer, None, generation)


def write(directory, checkpoint, *, dtype=None, overwrite=False, watch=iter):
    """Writes a published model directory, whole or not at all; reading it back gives the same bits.

    `dtype` converts the weights; None keeps theirs. Heads have no place in the published format and stay behind.
    `watch` passes the weights on, as a progress bar does.

    Raises:
      FileExistsError: `directory` is taken.
      ValueError: no published family has such a configuration; a number does not fit `dtype`.
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
        ids = {start: config.decoder_start_id, 'eos_token_id': list(config.eos_ids) if config.other_eos_ids else config.eos_id,
               **({} if config.pad_id < 0 else {'pad_token_id': config.pad_id})}
        limit = (checkpoint.generation or {}).get('max_new_tokens')
        _write_json(temporary / 'config.json', {**family.published_from_config(config), 'torch_dtype': stored})
        _write_json(temporary / 'generation_config.json', ids if limit is None else {**ids, 'max_new_tokens': limit})
        _write_tokenizer(temporary, checkpoint.tokenizer)


def _read_generation(path, published):
    """Our decoding defaults; puts the token ids that generation_config.json gives in their place in `published`.

    The reference implementation prefers them to those of config.json when it generates.
    """
    if not path.is_file():
        return {}
    settings = native.read_json(path)
    for name in ('decoder_start_token_id', 'bos_token_id', 'eos_token_id', 'pad_token_id'):
        if settings.get(name) is not None:
            published[name] = settings[name]
    return {'max_new_tokens': settings['max_new_tokens']} if settings.get('max_new_tokens') else {}


def _read_tokenizer(directory):
    """The tokenizer; a byte-level one is published without any vocabulary file, as a class name only."""
    path = directory / 'tokenizer_config.json'
    settings = native.read_json(path) if path.is_file() else {}
    if settings.get('tokenizer_class') == 'ByT5Tokenizer':
        return tokenizers.ByteTokenizer(settings.get('extra_ids', 125))
    return tokenizers.load_tokenizer(directory)


def _write_tokenizer(directory, tokenizer):
    names = {tokenizers.ByteTokenizer: 'ByT5Tokenizer', tokenizers.SentencePieceTokenizer: 'T5Tokenizer'}
    if name := names.get(type(tokenizer)):
        special = {'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': '<pad>'}
        _write_json(directory / 'tokenizer_config.json',
                    {'tokenizer_class': name, 'extra_ids': getattr(tokenizer, 'extra_ids', 0), **special})
    tokenizer.save(directory)


class _Tensor(NamedTuple):
    """One tensor of an opened file: under which name it is there."""

    file: Any
    name: str

    @property
    def shape(self):
        return tuple(self.file.get_slice(self.name).get_shape())


def _where(files, family):
    """{name in the family's weight map: tensor} of opened files, buffers left out."""
    found = {}
    for file in files:
        for name in file.keys():
            if family.BUFFERS is None or not family.BUFFERS.fullmatch(name):
                found[name] = _Tensor(file, name)
    if family.PREFIX and not any(name.startswith(family.PREFIX) for name in found):
        found = {family.PREFIX + name: tensor for name, tensor in found.items()}
    return found


def _read_weights(directory, config, weights, where, dtype, watch):
    stored = {name: tensor.shape for name, tensor in where.items()}
    sources = {weight.name: next((name for name in (weight.name, *weight.duplicates) if name in where), None)
               for weight in weights}
    shapes = native.parameter_shapes(config)
    expected = {}
    for weight in weights:
        shape = _published_shape(weight, [shapes[path] for path in weight.paths])
        expected[sources[weight.name] or weight.name] = shape
        expected |= {name: shape for name in weight.duplicates if name in where}
    if problems := trees.differences(expected, stored):
        raise ValueError(f'{directory}: the weights do not match config.json: {problems}')
    params = {}
    for weight in watch(weights):
        source = sources[weight.name]
        array = _read(directory, where[source])
        for name in weight.duplicates:
            if name in where and name != source and not np.array_equal(_read(directory, where[name]), array, equal_nan=True):
                raise ValueError(f'{directory}: {name} and {source} differ; expected the same tensor twice')
        array = trees.cast(_as_ours(weight, array), dtype, f'{directory}: {source}')
        for path, part in zip(weight.paths, np.split(array, len(weight.paths), axis=-1)):
            node = params
            *parents, leaf = path.split('/')
            for name in parents:
                node = node.setdefault(name, {})
            node[leaf] = jnp.array(part)  # A copy: the file may go away.
    return params


def _published_shape(weight, shapes):
    """The shape of the published tensor of parameters of these shapes."""
    *outer, _ = shapes[0]
    shape = (*outer, sum(each[-1] for each in shapes))
    return (1, *shape) if weight.row else shape[::-1] if weight.transpose else shape


def _as_ours(weight, array):
    """The published tensor as its parameters have it, side by side."""
    return array[0] if weight.row else array.T if weight.transpose else array


def _as_published(weight, array):
    """Parameters side by side as the published tensor has them."""
    return array[None] if weight.row else array.T if weight.transpose else array


def _open(directory):
    """Opened safetensors files, one or all shards."""
    index = directory / _INDEX
    if index.is_file():
        shards = native.read_json(index).get('weight_map')
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f'{index}: holds no weight_map; the file is damaged, copy it again')
        names = sorted(set(shards.values()))
        absent = [name for name in names if not (directory / name).is_file()]
        if absent:
            raise FileNotFoundError(f'{directory}: {_INDEX} lists {len(names)} files, {len(absent)} of them are not there: '
                                    f'{", ".join(absent[:4])}; copy them again')
    elif (directory / _SINGLE).is_file():
        names = [_SINGLE]
    else:
        others = [path.name for path in sorted(directory.iterdir()) if path.suffix in ('.bin', '.msgpack', '.h5', '.pt')]
        found = f'found {", ".join(others)}, which only their own libraries read; save it again as safetensors' \
            if others else 'found no weights'
        raise FileNotFoundError(f'{directory}: {found}; expected {_SINGLE} or {_INDEX}')
    files = []
    for name in names:
        try:
            files.append(safetensors.safe_open(directory / name, framework='np'))
        except (OSError, safetensors.SafetensorError) as error:
            raise ValueError(f'{directory / name}: not a complete safetensors file ({error}); copy it again') from None
    return files


def _read(directory, tensor):
    """One tensor, as stored."""
    code = tensor.file.get_slice(tensor.name).get_dtype()
    if code not in _DTYPES:
        raise ValueError(f'{directory}: {tensor.name} is stored as {code}; expected one of {", ".join(_DTYPES)}')
    return tensor.file.get_tensor(tensor.name)


def _write_weights(path, weights, params, dtype, watch=iter):
    """Writes one safetensors file tensor by tensor; returns the name of the dtype of most of it.

    The format: eight bytes with the length of a JSON header, the header ({name: {dtype, shape, data_offsets}}, padded with
    spaces to a multiple of eight), the tensors in the order of their offsets, little-endian, row by row. The library can only
    write tensors that are all in memory at once.
    """
    leaves = {'/'.join(names): leaf for names, leaf in trees.flatten(params)}
    header, offset, sizes = {'__metadata__': {'format': 'pt'}}, 0, {}
    for weight in weights:
        parts = [leaves[path] for path in weight.paths]
        stored = jnp.dtype(dtype or parts[0].dtype)
        if stored.name not in _CODES:
            raise ValueError(f'{weight.path}: has dtype {stored.name}; expected one of {", ".join(_CODES)}')
        shape = list(_published_shape(weight, [part.shape for part in parts]))
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
            file.write(np.ascontiguousarray(_as_published(weight, array)).view(np.uint8).data)
    return max(sizes, key=sizes.get)


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + '\n')
