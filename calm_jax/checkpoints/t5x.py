"""Checkpoints of t5x: the format of the public T5 models (msgpack, with large arrays as zarr beside it), and orbax.

Parameters have the same names there and here. What a checkpoint does not hold is read off its shapes: dimensions, depth,
whether the head is the embedding (T5 1.0, which scales what it reads by 1/√D). Activations are those of the published models:
ReLU, and GELU where the feed-forward is gated.
"""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from flax import serialization

from calm_jax.checkpoints import native, trees
from calm_jax.checkpoints.weights import assemble, loaded
from calm_jax.data.tokenizers import load_tokenizer
from calm_jax.models.config import TransformerConfig
from calm_jax.models.families.weights import Weight

_LEGACY, _ORBAX = 'checkpoint', 'state'


def is_t5x(directory: str | os.PathLike) -> bool:
    """Whether `directory` looks like a checkpoint that t5x wrote (nothing in it is checked)."""
    directory = pathlib.Path(directory)
    state = directory / _ORBAX
    return (directory / _LEGACY).is_file() or any((state / name).exists() for name in ('_METADATA', 'manifest.ocdbt'))


def read(
    directory: str | os.PathLike,
    tokenizer: str | os.PathLike | None,
    dtype: npt.DTypeLike | None = 'float32',
    pending: bool = False,
) -> native.Checkpoint:
    """Reads a checkpoint of t5x as a `native.Checkpoint`; parameters become `dtype` (None keeps what is stored).

    tokenizer: a folder that holds one, since t5x keeps it elsewhere. pending: leave the parameters in their files, each to be
    read when it is used. The optimizer's state is left alone.

    Raises FileNotFoundError where a part of the checkpoint or the tokenizer is not there; ValueError where the checkpoint is
    damaged, or holds parameters that are not understood.
    """
    directory = pathlib.Path(directory).absolute()
    if tokenizer is None:
        raise ValueError(f'{directory}: checkpoints of t5x hold no tokenizer; name its folder with --tokenizer')
    tokens = load_tokenizer(tokenizer)
    where = _legacy(directory) if (directory / _LEGACY).is_file() else _orbax(directory / _ORBAX)
    config = _config(directory, {name: tensor.shape for name, tensor in where.items()}, tokens)
    weights = [Weight(path, path) for path in native.parameter_shapes(config)]
    params = assemble(directory, config, weights, where, dtype)
    native.check(str(directory), config, params, tokens)
    return native.Checkpoint(config, params if pending else loaded(params), tokens, None, {})


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
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(directory).item_metadata.tree
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


def _config(directory, shapes, tokenizer):
    """The configuration that the shapes of T5's parameters imply."""

    def shape(name):
        if name not in shapes:
            raise ValueError(f'{directory}: holds no {name}; expected a T5 of t5x, with layers apart (scan_layers off)')
        return shapes[name]

    vocab, width = shape('token_embedder/embedding')
    heads, buckets = shape('decoder/relpos_bias/rel_embedding')
    gated = 'decoder/layers_0/mlp/wi_0/kernel' in shapes
    inner = shape(f'decoder/layers_0/mlp/{"wi_0" if gated else "wi"}/kernel')[1]
    tied = 'decoder/logits_dense/kernel' not in shapes
    depth = {
        stack: len({name.split('/')[1] for name in shapes if name.startswith(f'{stack}/layers_')})
        for stack in ('encoder', 'decoder')
    }
    return TransformerConfig(
        vocab_size=vocab,
        emb_dim=width,
        num_heads=heads,
        mlp_dim=inner,
        head_dim=shape('decoder/layers_0/self_attention/query/kernel')[1] // heads,
        num_encoder_layers=depth['encoder'],
        num_decoder_layers=depth['decoder'],
        mlp_activations=('gelu', 'linear') if gated else ('relu',),
        relative_attention_num_buckets=buckets,
        tied_head=tied,
        head_scale=width**-0.5 if tied else 1.0,
        dropout_rate=0.1,
        pad_id=max(tokenizer.pad_id, 0),
        eos_id=tokenizer.eos_id,
        decoder_start_id=max(tokenizer.pad_id, 0),
    )
