"""Counts what a model says, for measures that look at its most frequent ids alone.

    calm generate --checkpoint DIR --input tune.jsonl --source_field en --output tune_full.jsonl
    calm count --checkpoint DIR --predictions tune_full.jsonl --output WITH_IDS
    calm calibrate --checkpoint WITH_IDS --measure softmax_gap --vocabulary frequent:1024 …

The output is the checkpoint with the list as its head `frequent_ids`. --data counts texts instead, such as the targets that the
model was trained on. The list is a part of the model: one that is put into a checkpoint, or counted anew, ends its earlier
certificates, and it must not be counted on the examples that a certificate is found with.
"""

import argparse

from calm_jax.checkpoints.published import megabytes
from calm_jax.counting import count_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `calm count`."""
    parser.add_argument('--checkpoint', required=True, metavar='DIR', help='native checkpoint to read')
    parser.add_argument('--predictions', metavar='FILE', help='records of `calm generate`, whose tokens are counted')
    parser.add_argument('--data', metavar='FILE', help='records of texts to count: JSONL (.gz, .xz), or seqio:TASK:SPLIT')
    parser.add_argument('--target_field', metavar='FIELD', help='of --data: a field or template, or a field with a list')
    parser.add_argument('--output', required=True, metavar='DIR', help='native checkpoint to write')
    parser.add_argument('--overwrite', action='store_true', help='replace a checkpoint at --output, which may be --checkpoint')
    parser.add_argument('--quiet', action='store_true', help='print nothing')


def run(args: argparse.Namespace) -> None:
    """Writes the checkpoint, prints two lines."""
    if (args.predictions is None) == (args.data is None):
        raise ValueError('--predictions and --data both say what to count; pass one')
    if (args.data is None) != (args.target_field is None):
        raise ValueError('--target_field is of --data: the texts to count; pass both, or --predictions alone')
    counted = count_file(args.checkpoint, args.output, args.predictions, args.data, args.target_field, overwrite=args.overwrite)
    if args.quiet:
        return
    sizes = [2**power for power in range(4, 20) if 2**power < len(counted.ids)]
    shares = ''.join(f', {counted.shares[size - 1]:.1%} among the first {size}' for size in sizes)
    print(f'{args.predictions or args.data}: tokens of {len(counted.ids)} ids{shares}')
    print(f'{args.output}: written, {megabytes(args.output)}; calibrate with it: --vocabulary frequent:K')
