"""Published models of any format that is known: read, and made native checkpoints."""

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import jax

from calm_jax.checkpoints import hub, huggingface, native, t5x

Watch = Callable[[Iterable], Iterable]


def import_checkpoint(
    directory: str | os.PathLike,
    output: str | os.PathLike,
    *,
    dtype: str = 'float32',
    tokenizer: str | os.PathLike | None = None,
    ignored_attributes: Sequence[str] = (),
    overwrite: bool = False,
    watch: Watch = iter,
) -> native.Checkpoint:
    """Reads a published model and writes a native checkpoint, whole or not at all; returns what was written, its parameters
    still in their files.

    directory: of the published model; or its name, 'organisation/name', which huggingface_hub downloads. dtype: how parameters
    are stored: float32, bfloat16 or float16. tokenizer: the folder of the tokenizer, for checkpoints that hold none (t5x).
    ignored_attributes: of a config.json, to read over, and generation settings, with a notice; those that change what is
    computed cannot be. overwrite: replace a checkpoint at `output`. watch: passes the parameters on, as a progress bar does.

    Raises FileNotFoundError, FileExistsError or ValueError in one line, as `read` and `native.save`.
    """
    checkpoint = read(directory, dtype, tokenizer, ignored_attributes)
    native.save(output, *checkpoint, overwrite=overwrite, watch=watch)
    return checkpoint


def read(
    directory: str | os.PathLike, dtype: str, tokenizer: str | os.PathLike | None = None, ignored_attributes: Sequence[str] = ()
) -> native.Checkpoint:
    """The checkpoint in a published directory, or of a published name, whichever format it has; with the tokenizer of another
    folder if one is named. Its parameters stay in their files until they are used.

    Raises FileNotFoundError where there is no such directory or model; ValueError where it is native already, or its format is
    not known; and what the format's reader raises.
    """
    directory = hub.downloaded(os.fspath(directory)) if hub.is_name(directory) else pathlib.Path(directory)
    if not directory.is_dir():
        found = 'not a directory' if directory.exists() else 'no such directory'
        raise FileNotFoundError(f'{directory}: {found}; expected a published model')
    if huggingface.is_published(directory):
        return huggingface.read(directory, dtype, tokenizer, pending=True, ignored=ignored_attributes)
    if t5x.is_t5x(directory):
        return t5x.read(directory, tokenizer, dtype, pending=True)
    if native.is_native(directory):
        raise ValueError(f'{directory}: already a native checkpoint; use it as it is')
    names = sorted(path.name for path in directory.iterdir())
    raise ValueError(
        f'{directory}: format not recognised: found {", ".join(names[:6]) or "nothing"}; expected a published '
        'model with config.json ("model_type") and its weights, or a checkpoint of t5x'
    )


def describe(checkpoint: native.Checkpoint) -> str:
    """'8 + 8 layers, 76.9 M parameters (float32), vocabulary 32128'"""
    config, leaves = checkpoint.config, jax.tree.leaves(checkpoint.params)
    dtypes = ', '.join(sorted({leaf.dtype.name for leaf in leaves}))
    return (
        f'{config.num_encoder_layers} + {config.num_decoder_layers} layers, '
        f'{sum(leaf.size for leaf in leaves) / 1e6:.3g} M parameters ({dtypes}), vocabulary {config.vocab_size}'
    )


def megabytes(directory: str | os.PathLike) -> str:
    """'12.3 MB', of all files below."""
    return f'{sum(path.stat().st_size for path in pathlib.Path(directory).rglob("*") if path.is_file()) / 1e6:.3g} MB'
