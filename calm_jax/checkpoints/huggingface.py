"""Hugging Face directories: config.json, weights as safetensors, the tokenizer, generation_config.json.

Weights are read and written tensor by tensor; they may also stay in their files until each is used (`tensor_files.py` finds
them); writing makes one file.
"""

import json
import logging
import os
import pathlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from calm_jax.checkpoints import atomic, native, published_heads, trees
from calm_jax.checkpoints.tensor_files import DTYPES, SINGLE, tensors_of
from calm_jax.checkpoints.weights import as_ours, as_published, assemble, loaded, published_shape
from calm_jax.data import tokenizers
from calm_jax.decoding import codec
from calm_jax.files import read_json, write_json
from calm_jax.models import families
from calm_jax.models.families import generation, task_heads
from calm_jax.tasks import Task

_LOGGER = logging.getLogger('calm_jax')
# Families whose configurations need not say that they encode.
_ENCODE = ('t5', 'mt5', 'longt5', 'umt5', 'bart', 'mbart', 'pegasus')
_CODES = {name: code for code, name in DTYPES.items()}


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
    ignored: Sequence[str] = (),
) -> native.Checkpoint:
    """Reads a published model as a `native.Checkpoint`; floating-point weights become `dtype` (None keeps what is stored).

    Every tensor in the files must be known, and every known tensor must be there with its shape; what a family stores twice
    must be equal.

    tokenizer: a folder that holds it, where it is not the model's own. pending: leave the parameters in their files, each
    to be read when it is used (`weights.Pending`). ignored: attributes of config.json to read over, where the family knows
    none of that name, and generation settings.

    Raises FileNotFoundError where config.json, the weights or the tokenizer are not there; ValueError where the model is not
    understood, or its files are damaged or do not belong together.
    """
    directory = pathlib.Path(directory).absolute()
    path = directory / 'config.json'
    if not path.is_file():
        raise FileNotFoundError(f'{directory}: holds no config.json; expected a published model directory')
    published = read_json(path)
    defaults = _read_generation(directory / 'generation_config.json', published, ignored)
    try:
        family = families.family_of(published)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    tensors = tensors_of(directory)
    try:
        task = task_heads.task_of(published)
        where = families.renamed(family, tensors if task is None else task_heads.without_head(task, tensors, family.PREFIX))
        # Whoever answers with a label or a span has no head over the vocabulary: the embedding stands for one.
        config = families.config_from_published(
            published if task is None else {**published, 'tie_word_embeddings': True}, where, ignored
        )
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    if tokenizer is None:
        text_tokenizer = tokenizers.read_published(directory, family.TOKENIZER, encodes=not config.decoder_only)
    else:
        text_tokenizer = tokenizers.load_tokenizer(tokenizer)
    params = assemble(directory, config, family.weight_map(config), where, dtype)
    heads = published_heads.read(directory)
    if task is not None:
        heads['task'] = _task_head(directory, task, not config.decoder_only, tensors)
    native.check(str(directory), config, params, text_tokenizer, heads, task)
    return native.Checkpoint(config, params if pending else loaded(params), text_tokenizer, heads or None, defaults, task)


def _task_head(directory: pathlib.Path, task: Task, encodes: bool, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The head of a task, float32."""
    weights = task_heads.weights_of(task, encodes)
    if missing := [weight.name for weight in weights.values() if weight.name not in tensors]:
        raise ValueError(f'{directory}: the weights do not match the configuration: missing {", ".join(missing)}')
    return {name: as_ours(weight, np.asarray(tensors[weight.name].read(), np.float32)) for name, weight in weights.items()}


def write(
    directory: str | os.PathLike,
    checkpoint: native.Checkpoint,
    *,
    dtype: npt.DTypeLike | None = None,
    overwrite: bool = False,
    watch: Callable[[list], Iterable] = iter,
) -> None:
    """Writes a published model directory, whole or not at all; reading it back gives the same bits.

    `dtype` converts the weights; None keeps theirs. Heads but a task's have no place in the published format: they stand in a
    file of their own beside it (`published_heads.py`).
    `watch` passes the weights on, as a progress bar does.

    Raises FileExistsError where `directory` is taken; ValueError where no published family has such a configuration, or a
    number does not fit `dtype`.
    """
    config, task, params = checkpoint.config, checkpoint.task, checkpoint.params
    native.check(str(directory), config, params, checkpoint.tokenizer, checkpoint.heads, task)
    try:
        family = families.family_for(config)
        published, weights = family.published_from_config(config), list(family.weight_map(config))
        if task is not None:
            head = (checkpoint.heads or {})['task']
            weights = task_heads.published_weights(task, head, published['architectures'][0], family.PREFIX, weights)
            published |= task_heads.published_task(task, published['architectures'][0])
            params = {**params, 'task': head}
    except ValueError as error:
        raise ValueError(f'{directory}: {error}') from None
    with atomic.new_directory(directory, overwrite) as temporary:
        stored = _write_weights(temporary / SINGLE, weights, params, dtype, watch)
        start = 'bos_token_id' if config.decoder_only else 'decoder_start_token_id'
        ids = {
            start: config.decoder_start_id,
            'eos_token_id': list(config.eos_ids) if config.other_eos_ids else config.eos_id,
            **({} if config.pad_id < 0 else {'pad_token_id': config.pad_id}),
        }
        defaults = generation.published_of(checkpoint.generation or {})
        write_json(temporary / 'config.json', {**published, 'torch_dtype': stored}, sort_keys=True)
        write_json(temporary / 'generation_config.json', {**ids, **defaults}, sort_keys=True)
        published_heads.write(temporary, {name: head for name, head in (checkpoint.heads or {}).items() if name != 'task'})
        checkpoint.tokenizer.publish(temporary)


def _read_generation(path, published, ignored):
    """Our decoding defaults, a document that is checked; puts the token ids that generation_config.json gives in their place in
    `published`, and logs what is worth knowing.

    The reference implementation prefers them to those of config.json when it generates; old directories have no such file, and
    keep all of it in config.json. ignored: settings to read over. Raises ValueError for what nothing here decodes.
    """
    path = path if path.is_file() else path.with_name('config.json')
    settings = read_json(path)
    if path.name == 'config.json':
        settings = generation.settings_of_config(settings)
    for name in generation.IDS:
        if settings.get(name) is not None:
            published[name] = settings[name]
    try:
        document, notices = generation.document_of(settings, _encodes(published), ignored)
        codec.from_json(document)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    for notice in notices:
        _LOGGER.warning('%s: %s', path, notice)
    return document


def _encodes(published):
    return published.get('is_encoder_decoder', published.get('model_type') in _ENCODE)


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
