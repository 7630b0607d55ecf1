"""Checkpoints of t5x: T5 as its `examples/t5` and `examples/scalable_t5` write it, and runs with several of them.

A run's folder (MODEL_DIR) holds `checkpoint_N` for every step N that was saved, and `config.gin`, which says how the model was
made. What no such file says is read off the shapes of the parameters: dimensions, depth, whether layers have position biases of
their own (those of `scalable_t5`), whether the head is the embedding (T5 1.0, which scales what it reads by 1/√D). Activations
are then those of the published models: ReLU, and GELU where the feed-forward is gated.
"""

import os
import pathlib
import re

import numpy.typing as npt

from calm_jax.checkpoints import native
from calm_jax.checkpoints.t5x_gin import RunConfiguration, read_run
from calm_jax.checkpoints.t5x_layers import are_stacked, layers_apart
from calm_jax.checkpoints.t5x_tensors import holds_tensors, tensors_of
from calm_jax.checkpoints.weights import assemble, loaded
from calm_jax.data.tokenizers import Tokenizer, load_tokenizer
from calm_jax.models.config import TransformerConfig
from calm_jax.models.families.weights import Weight

_STEP = re.compile(r'checkpoint_(\d+)')
# The decoder's position bias, of all layers or of the first.
_BIASES = ('decoder/relpos_bias/rel_embedding', 'decoder/layers_0/relpos_bias/rel_embedding')


def is_t5x(directory: str | os.PathLike) -> bool:
    """Whether `directory` looks like a checkpoint that t5x wrote, or a run's folder (nothing in it is checked)."""
    return holds_tensors(directory) or bool(steps(directory))


def steps(directory: str | os.PathLike) -> dict[int, pathlib.Path]:
    """{step: folder} of the checkpoints that a run has saved."""
    folders = {path: _STEP.fullmatch(path.name) for path in pathlib.Path(directory).iterdir() if path.is_dir()}
    return {int(match[1]): path for path, match in folders.items() if match}


def read(
    directory: str | os.PathLike,
    tokenizer: str | os.PathLike | None,
    dtype: npt.DTypeLike | None = 'float32',
    pending: bool = False,
    step: int | None = None,
) -> native.Checkpoint:
    """Reads a checkpoint of t5x as a `native.Checkpoint`; parameters become `dtype` (None keeps what is stored).

    directory: of the checkpoint, or of a run, whose newest checkpoint is read. tokenizer: a folder that holds one, since t5x
    keeps it elsewhere; None where the run's gin file names one that is here. pending: leave the parameters in their files, each
    to be read when it is used. step: which of a run's checkpoints. The optimizer's state is left alone.

    Raises FileNotFoundError where a part of the checkpoint, or the tokenizer is not there; ValueError where the checkpoint is
    damaged, holds parameters that are not understood, or is not what the run's gin file says.
    """
    directory = _checkpoint(pathlib.Path(directory).absolute(), step)
    run = read_run(directory.parent if _STEP.fullmatch(directory.name) else directory)
    tokens = _tokenizer(directory, tokenizer, run)
    tensors = tensors_of(directory)
    where = layers_apart(directory, tensors, run and run.scan_axis)
    shapes = {name: tensor.shape for name, tensor in where.items()}
    fields = _fields(directory, shapes)
    if run is not None:
        fields |= run.fields({**fields, 'scan_layers': are_stacked(tensors)})
    config = _config(run.path if run else directory, fields, shapes, tokens)
    weights = [Weight(path, path) for path in native.parameter_shapes(config)]
    params = assemble(directory, config, weights, where, dtype)
    native.check(str(directory), config, params, tokens)
    return native.Checkpoint(config, params if pending else loaded(params), tokens, None, {})


def _checkpoint(directory, step):
    """The folder of one checkpoint: of a run, that of the step, or the newest."""
    if step is None and holds_tensors(directory):
        return directory
    folders = steps(directory)
    if step is not None and step not in folders:
        choice = f'steps {", ".join(map(str, sorted(folders)))}' if folders else 'no folder checkpoint_N to choose from'
        raise ValueError(f'{directory}: holds no step {step}; found {choice}')
    folder = folders[max(folders) if step is None else step]
    if not holds_tensors(folder):
        raise FileNotFoundError(f'{folder}: holds no checkpoint of t5x; copy it again, or choose another with --step')
    return folder


def _tokenizer(directory: pathlib.Path, tokenizer: str | os.PathLike | None, run: RunConfiguration | None) -> Tokenizer:
    if tokenizer is None:
        if run is None:
            raise ValueError(f'{directory}: checkpoints of t5x hold no tokenizer; name its folder with --tokenizer')
        return run.tokenizer()
    tokens = load_tokenizer(tokenizer)
    if run is not None:
        run.check_tokenizer(tokens, tokenizer)
    return tokens


def _fields(directory, shapes):
    """{field of t5x's T5Config: value} that the shapes of the parameters imply."""

    def shape(*names):
        """Of the first that is there."""
        name = next((name for name in names if name in shapes), names[0])
        if name not in shapes:
            raise ValueError(f'{directory}: holds no {name}; expected a T5 of t5x')
        if len(shapes[name]) != 2:
            raise ValueError(f'{directory}: {name} is {list(shapes[name])}; expected two axes')
        return shapes[name]

    first = 'decoder/layers_0'
    vocab, width = shape('token_embedder/embedding')
    heads, _ = shape(*_BIASES)
    return {
        'vocab_size': vocab,
        'emb_dim': width,
        'num_heads': heads,
        'head_dim': shape(f'{first}/self_attention/query/kernel')[1] // heads,
        'mlp_dim': shape(f'{first}/mlp/wi/kernel', f'{first}/mlp/wi_0/kernel')[1],
        'num_encoder_layers': _depth(shapes, 'encoder'),
        'num_decoder_layers': _depth(shapes, 'decoder'),
        'mlp_activations': ('gelu', 'linear') if f'{first}/mlp/wi_0/kernel' in shapes else ('relu',),
        'logits_via_embedding': 'decoder/logits_dense/kernel' not in shapes,
        'dropout_rate': 0.1,
    }


def _config(source, fields, shapes, tokenizer):
    """The configuration of fields of T5Config; `source` starts messages."""
    shared, own = _BIASES
    tied = fields.pop('logits_via_embedding')
    try:
        return TransformerConfig(
            **fields,
            relative_attention_num_buckets=shapes[shared if shared in shapes else own][1],
            relative_attention_per_layer=shared not in shapes,
            tied_head=tied,
            head_scale=fields['emb_dim'] ** -0.5 if tied else 1.0,
            pad_id=max(tokenizer.pad_id, 0),
            eos_id=tokenizer.eos_id,
            decoder_start_id=max(tokenizer.pad_id, 0),
        )
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from None


def _depth(shapes, stack):
    """How many layers a stack has."""
    return len({name.split('/')[1] for name in shapes if name.startswith(f'{stack}/layers_')})
