"""Writes a native checkpoint as a Hugging Face directory, which transformers loads and generates from.

The weights keep their bits unless --dtype says otherwise; importing the result gives the same parameters. The head of a task
goes along; exit classifiers, adapters and other heads have no place in that format: they stand beside it, in a file that
transformers passes over and `calm import` reads.
"""

import functools
import pathlib

from calm_jax.checkpoints import huggingface, native
from calm_jax.checkpoints.published import describe, megabytes
from calm_jax.models.config import DEVICE_DTYPES
from calm_jax.outputs import check_apart
from calm_jax.progress import progress


def add_arguments(parser):
    parser.add_argument('directory', metavar='DIR', help='the native checkpoint')
    parser.add_argument('--output', required=True, metavar='DIR', help='the directory to write')
    parser.add_argument('--dtype', choices=DEVICE_DTYPES, help='how weights are stored (default: as they are)')
    parser.add_argument('--overwrite', action='store_true', help='replace a checkpoint at --output')
    parser.add_argument('--quiet', action='store_true', help='print nothing')


def run(args):
    """Converts args.directory, prints two lines."""
    source, output = pathlib.Path(args.directory), pathlib.Path(args.output)
    check_apart(output, [source])
    checkpoint = native.load(source, dtype=None)
    watch = functools.partial(progress, description='writing', quiet=args.quiet, unit='tensors')
    huggingface.write(output, checkpoint, dtype=args.dtype, overwrite=args.overwrite, watch=watch)
    if not args.quiet:
        beside = sorted(set(checkpoint.heads or {}) - {'task'})
        left = f'; its heads beside it ({", ".join(beside)})' if beside else ''
        print(f'{source}: {describe(checkpoint)}')
        print(f'{output}: written, {megabytes(output)}{left}')
