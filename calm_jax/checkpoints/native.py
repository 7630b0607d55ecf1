"""The native checkpoint directory.

config.json        TransformerConfig fields, and the stamp of `calm_jax.formats`
spiece.model       (or other tokenizer files) as `calm_jax.data.tokenizers` writes them
params/            orbax, in parts, with checksums
heads/             the same; optional: {'exit_classifier': {'kernel': [D, 1], 'bias': [1]}, 'frequent_ids': {'ids': [N]}, ...}
generation.json    defaults for decoding, a document of `calm_jax.decoding.codec` with limits, choice and rules; {} is fine
task.json          optional: what is asked in place of a next token, see `calm_jax.tasks`; its head is heads/task
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from calm_jax import formats, tasks
from calm_jax.checkpoints import atomic, trees
from calm_jax.checkpoints.trees import fingerprint
from calm_jax.data import tokenizers
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.depth.adapters import adapters_of
from calm_jax.files import read_json, write_json
from calm_jax.models import transformer
from calm_jax.models.config import TransformerConfig
from calm_jax.models.task_head import check_task_head
from calm_jax.tasks import Task

__all__ = ['Checkpoint', 'check', 'config_fingerprint', 'fingerprint', 'is_native', 'load', 'read_config', 'save']

KIND = 'checkpoint'  # of `calm_jax.formats`
TASK = 'task.json'


class Checkpoint(NamedTuple):
    """Everything that decoding needs: the model, its tokenizer, trained heads or None, decoding defaults; the task, None where
    a text goes on."""

    config: TransformerConfig
    params: dict
    tokenizer: Tokenizer
    heads: dict | None = None
    generation: dict | None = None
    task: Task | None = None


def save(
    directory: str | os.PathLike,
    config: TransformerConfig,
    params: Mapping,
    tokenizer: Tokenizer,
    heads: Mapping | None = None,
    generation: Mapping | None = None,
    task: Task | None = None,
    *,
    dtype: npt.DTypeLike | None = None,
    overwrite: bool = False,
    watch: Callable[[list], Iterable] = iter,
) -> None:
    """Writes a native checkpoint: complete in a temporary sibling first, then renamed to `directory`.

    directory: must not exist or be empty, unless `overwrite` (and then it must hold a checkpoint).
    config: TransformerConfig; `params` and `tokenizer` are checked against it.
    params: nested dict of arrays, or of what an array is made of one at a time.
    tokenizer: `calm_jax.data.tokenizers.Tokenizer`.
    heads: nested dict of arrays, or None. generation: document of decoding defaults, or None. task: whose head is among them.
    dtype: stores the floating-point parameters as this type, e.g. 'float16'; heads keep their own.
    watch: passes the parameters on, as a progress bar does.

    Raises FileExistsError where `directory` is taken; ValueError where params, heads or tokenizer do not match config, or a
    number does not fit `dtype`.
    """
    check(str(directory), config, params, tokenizer, heads, task)
    with atomic.new_directory(directory, overwrite) as temporary:
        write_json(temporary / 'config.json', {**formats.stamp(KIND), **dataclasses.asdict(config)})
        write_json(temporary / 'generation.json', generation or {})
        tokenizer.save(temporary)
        trees.write(temporary / 'params', params, dtype, watch)
        if heads:
            trees.write(temporary / 'heads', heads)
        if task is not None:
            write_json(temporary / TASK, tasks.to_json(task))


def load(directory: str | os.PathLike, dtype: npt.DTypeLike | None = 'float32') -> Checkpoint:
    """Reads a native checkpoint; floating-point parameters become `dtype` (None keeps what is stored).

    Heads stay as stored: they are tiny, and confidence is float32.

    Raises FileNotFoundError where `directory` is no native checkpoint or lacks a part; ValueError where a part is damaged, or
    the parts do not belong together.
    """
    directory = pathlib.Path(directory).absolute()
    config = read_config(directory)
    for part in ('generation.json', 'params'):
        if not (directory / part).exists():
            raise FileNotFoundError(f'{directory}: the checkpoint lacks {part}; it is incomplete, copy it again')
    generation = read_json(directory / 'generation.json')
    tokenizer = tokenizers.load_tokenizer(directory)
    params = trees.read(directory / 'params', dtype)
    heads = trees.read(directory / 'heads') if (directory / 'heads').exists() else None
    path = directory / TASK
    task = tasks.from_json(read_json(path), str(path)) if path.exists() else None
    check(str(directory), config, params, tokenizer, heads, task)
    return Checkpoint(config, params, tokenizer, heads, generation, task)


def is_native(directory: str | os.PathLike) -> bool:
    """Whether `directory` says that it is a native checkpoint of this format (nothing else of it is checked)."""
    try:
        formats.check(read_json(pathlib.Path(directory) / 'config.json'), KIND, str(directory))
    except (OSError, ValueError):
        return False
    return True


def read_config(directory: str | os.PathLike) -> TransformerConfig:
    """The TransformerConfig of a native checkpoint."""
    directory = pathlib.Path(directory).absolute()
    path = directory / 'config.json'
    if not directory.is_dir():
        found = 'is a file' if directory.exists() else 'does not exist'
        raise FileNotFoundError(f'{directory}: {found}; expected a calm_jax checkpoint directory')
    if not path.is_file():
        names = sorted(entry.name for entry in directory.iterdir())
        found = ', '.join(names[:6]) + (', …' if len(names) > 6 else '') if names else 'nothing'
        raise FileNotFoundError(f'{directory}: not a checkpoint: found {found}; expected config.json, params/ and a tokenizer')
    fields = read_json(path)
    if 'model_type' in fields:
        raise ValueError(f'{path}: a published {fields["model_type"]} model; run `calm import` on it first')
    formats.check(fields, KIND, str(path))
    for name in formats.stamp(KIND):
        del fields[name]
    known = {field.name for field in dataclasses.fields(TransformerConfig)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f'{path}: unknown fields {", ".join(unknown)}; written by a newer version of calm_jax?')
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    try:
        return TransformerConfig(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{path}: {str(error).splitlines()[0]}') from None


# Fields that came after the first certificates, which stand: left out of fingerprints where they say what was so before.
_ADDED = {'relative_attention_per_layer': False}


def config_fingerprint(config: TransformerConfig) -> str:
    """sha256 (hex) over every field of a TransformerConfig but dtype, which is how the model is run and not what it is."""
    fields = dataclasses.asdict(config)
    del fields['dtype']
    fields = {name: value for name, value in fields.items() if name not in _ADDED or value != _ADDED[name]}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def check(
    name: str,
    config: TransformerConfig,
    params: Mapping,
    tokenizer: Tokenizer,
    heads: Mapping | None = None,
    task: Task | None = None,
) -> None:
    """Raises ValueError unless params, tokenizer, heads and task belong to `config`; `name` starts the message."""
    check_shapes(name, config, params)
    check_heads(name, config, heads)
    _check_task(name, config, heads, task)
    if tokenizer.base_size > config.vocab_size:
        raise ValueError(
            f'{name}: the tokenizer has {tokenizer.base_size} tokens but the model embeds only '
            f'{config.vocab_size}; they do not belong together'
        )
    # A published tokenizer may name another end than its model has, whose own is what ends a text.
    if not isinstance(tokenizer, tokenizers.PublishedTokenizer) and tokenizer.eos_id not in config.eos_ids:
        raise ValueError(
            f'{name}: the tokenizer has eos_id {tokenizer.eos_id}, the model {config.eos_id}; they do not belong together'
        )


def check_shapes(name: str, config: TransformerConfig, params: Mapping) -> None:
    """Raises ValueError naming the parameters that are missing, unexpected or mis-shaped for `config`."""
    found = {'/'.join(path): tuple(leaf.shape) for path, leaf in trees.flatten(params)}
    if problems := trees.differences(parameter_shapes(config), found):
        raise ValueError(f'{name}: the parameters do not match the configuration: {problems}')


def check_heads(name: str, config: TransformerConfig, heads: Mapping | None) -> None:
    """Raises ValueError unless the exit classifier, where there is one, reads states of `config`'s width, exit adapters are of
    its layers, and frequent ids are a list of its."""
    if heads and 'exit_classifier' in heads:
        classifier = heads['exit_classifier']
        found = {key: tuple(leaf.shape) for key, leaf in classifier.items()}
        expected = {'kernel': (config.emb_dim, 1), 'bias': (1,)}
        if found != expected:
            raise ValueError(f'{name}: the exit classifier has {found}, expected {expected}')
    if heads and 'exit_adapters' in heads:
        try:
            adapters_of(heads['exit_adapters']).check(config.sizes)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from None
    if heads and 'frequent_ids' in heads:
        ids = np.asarray(heads['frequent_ids'].get('ids'))
        listed = ids.ndim == 1 and ids.size and ids.dtype.kind in 'iu' and len(np.unique(ids)) == ids.size
        if not (listed and 0 <= ids.min() and ids.max() < config.vocab_size):
            raise ValueError(
                f'{name}: the frequent ids are no list of distinct ids below {config.vocab_size}; count them again'
            )


def _check_task(name: str, config: TransformerConfig, heads: Mapping | None, task: Task | None) -> None:
    head = (heads or {}).get('task')
    if (head is None) != (task is None):
        there, missing = ('a head of a task', TASK) if task is None else (TASK, 'the head of the task')
        raise ValueError(f'{name}: there is {there}, and not {missing}; the checkpoint is incomplete')
    if head is not None and task is not None:
        try:
            check_task_head(head, config, task.outputs)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from None


@functools.lru_cache(maxsize=8)
def parameter_shapes(config: TransformerConfig) -> Mapping[str, tuple[int, ...]]:
    """{'encoder/layers_0/mlp/wo/kernel': shape, ...}: the parameters of a model with `config`, none of them allocated."""
    abstract = jax.eval_shape(lambda key: transformer.init_params(config, key), jax.random.key(0))
    return types.MappingProxyType({'/'.join(path): tuple(leaf.shape) for path, leaf in trees.flatten(abstract)})
