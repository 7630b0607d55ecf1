"""Reads a published model directory and writes a native checkpoint that every other command takes.

Reads Hugging Face directories (config.json, weights as safetensors or as torch saved them, the tokenizer) and checkpoints of
t5x, in its own format or orbax's. What stands in place of a directory and has the form of a name, ORGANISATION/NAME, is
downloaded from the Hugging Face hub where huggingface_hub is installed. Every tensor must be understood, and nothing is
converted but the number format. The output appears whole or not at all.
"""

import functools

from calm_jax.checkpoints.published import describe, import_checkpoint, megabytes
from calm_jax.models.config import DEVICE_DTYPES
from calm_jax.outputs import check_apart
from calm_jax.progress import progress


def add_arguments(parser):
    parser.add_argument('directory', metavar='DIR', help='the published model, or its name')
    parser.add_argument('--output', required=True, metavar='DIR', help='the native checkpoint to write')
    parser.add_argument(
        '--dtype', default='float32', choices=DEVICE_DTYPES, help='how parameters are stored (default: float32)'
    )
    parser.add_argument('--tokenizer', metavar='DIR', help='folder of the tokenizer, for checkpoints that hold none (t5x)')
    parser.add_argument(
        '--ignore_attributes',
        default='',
        metavar='NAMES',
        help='attributes of config.json to read over, as a,b: where you know that they change nothing; and generation settings '
        'to decode without',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace a checkpoint at --output')
    parser.add_argument('--quiet', action='store_true', help='print nothing')


def run(args):
    """Detects the format of args.directory, converts, prints two lines."""
    check_apart(args.output, [args.directory, args.tokenizer])
    checkpoint = import_checkpoint(
        args.directory,
        args.output,
        dtype=args.dtype,
        tokenizer=args.tokenizer,
        ignored_attributes=[name for name in args.ignore_attributes.split(',') if name],
        overwrite=args.overwrite,
        watch=functools.partial(progress, description='converting', quiet=args.quiet, unit='tensors'),
    )
    if not args.quiet:
        print(f'{args.directory}: {describe(checkpoint)}')
        print(f'{args.output}: written, {megabytes(args.output)}; decode with `calm generate --checkpoint {args.output}`')
