"""Reads a published model directory and writes a native checkpoint that every other command takes.

Reads Hugging Face directories (config.json, weights as safetensors or as torch saved them, the tokenizer) and checkpoints of
t5x, in its own format or orbax's. Every tensor must be understood, and nothing is converted but the number format. The output
appears whole or not at all.
"""

import functools
import pathlib

import jax

from calm_jax.checkpoints import huggingface, native, t5x
from calm_jax.models.config import DEVICE_DTYPES
from calm_jax.outputs import check_apart
from calm_jax.progress import progress


def add_arguments(parser):
    parser.add_argument('directory', metavar='DIR', help='the published model')
    parser.add_argument('--output', required=True, metavar='DIR', help='the native checkpoint to write')
    parser.add_argument(
        '--dtype', default='float32', choices=DEVICE_DTYPES, help='how parameters are stored (default: float32)'
    )
    parser.add_argument('--tokenizer', metavar='DIR', help='folder of the tokenizer, for checkpoints that hold none (t5x)')
    parser.add_argument('--overwrite', action='store_true', help='replace a checkpoint at --output')
    parser.add_argument('--quiet', action='store_true', help='print nothing')


def run(args):
    """Detects the format of args.directory, converts, prints two lines."""
    source, output = pathlib.Path(args.directory), pathlib.Path(args.output)
    check_apart(output, [source, args.tokenizer])
    checkpoint = read(source, args.dtype, args.tokenizer)
    native.save(output, *checkpoint, overwrite=args.overwrite, watch=watched('converting', args.quiet))
    if not args.quiet:
        print(f'{source}: {description(checkpoint)}')
        print(f'{output}: written, {megabytes(output)}; decode with `calm generate --checkpoint {output}`')


def watched(description, quiet):
    """Weights → the same weights, with a progress bar."""
    return functools.partial(progress, description=description, quiet=quiet, unit='tensors')


def read(directory, dtype, tokenizer=None):
    """The checkpoint in a published directory, whichever format it has; with the tokenizer of another folder if one is named.
    Its parameters stay in their files until they are used.

    Raises:
      FileNotFoundError: there is no such directory.
      ValueError: it is native already, or its format is not known; and what the format's reader raises.
    """
    if not directory.is_dir():
        found = 'not a directory' if directory.exists() else 'no such directory'
        raise FileNotFoundError(f'{directory}: {found}; expected a published model')
    if huggingface.is_published(directory):
        return huggingface.read(directory, dtype, tokenizer, pending=True)
    if t5x.is_t5x(directory):
        return t5x.read(directory, tokenizer, dtype, pending=True)
    if native.is_native(directory):
        raise ValueError(f'{directory}: already a native checkpoint; use it as it is')
    names = sorted(path.name for path in directory.iterdir())
    raise ValueError(
        f'{directory}: format not recognised: found {", ".join(names[:6]) or "nothing"}; expected a published '
        'model with config.json ("model_type") and its weights, or a checkpoint of t5x'
    )


def description(checkpoint):
    """'8 + 8 layers, 76.9 M parameters (float32), vocabulary 32128'"""
    config, leaves = checkpoint.config, jax.tree.leaves(checkpoint.params)
    dtypes = ', '.join(sorted({leaf.dtype.name for leaf in leaves}))
    return (
        f'{config.num_encoder_layers} + {config.num_decoder_layers} layers, '
        f'{sum(leaf.size for leaf in leaves) / 1e6:.3g} M parameters ({dtypes}), vocabulary {config.vocab_size}'
    )


def megabytes(directory):
    """'12.3 MB', of all files below."""
    return f'{sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6:.3g} MB'
