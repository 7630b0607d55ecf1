"""Times a batch whose rows run sub-layers of plans of their own: packed by sub-layer, unpacked, and at full depth.

    python scripts/benchmarks/sub_layers.py --pack sub_layers:8,16 --pack sub_layers:8,16,24 --output sub_layers.json

Random weights; every row draws which sub-layers it runs, each with --share, and generates --new_tokens. Ways are interleaved,
every other round in reverse; the first round is a warm-up and dropped. Prefill and steps are timed apart, and reported are the
medians of the ratios to full depth within each round, with the least and the greatest.
"""

import argparse
import dataclasses
import datetime
import json
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
import shapes

from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import decide, finish, prefill
from calm_jax.decoding.packing import NEVER, Packing
from calm_jax.depth.plans import GivenPlan
from calm_jax.machine import processor
from calm_jax.metrics import cost
from calm_jax.models import transformer
from calm_jax.models.joined import join
from calm_jax.types import Plan

FULL = 'full depth'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shape', choices=shapes.SHAPES, default='t5_1_1')
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--batch_size', type=int, default=32)
    parser.add_argument('--share', type=float, action='append', metavar='P', help='repeatable (default .5)')
    parser.add_argument(
        '--pack', type=Packing.parse, action='append', default=[], metavar='sub_layers:WIDTHS', help='repeatable'
    )
    parser.add_argument('--new_tokens', type=int, default=32)
    parser.add_argument('--source_length', type=int, default=64)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', metavar='FILE', help='JSON to write')
    args = parser.parse_args()
    shape = shapes.SHAPES[args.shape]()
    # No end-of-sequence: every row runs to its limit.
    config = dataclasses.replace(shape.config, eos_id=-2, dtype=args.dtype)
    params = transformer.init_params(shape.config, jax.random.key(args.seed))
    params = join(jax.tree.map(lambda leaf: leaf.astype(args.dtype), params), config)
    rows = [row for share in args.share or [0.5] for row in time_share(args, config, params, share)]
    device = jax.devices()[0]
    provenance = {
        'command': shlex.join(['python', *sys.argv]),
        'machine': processor(),
        'device': f'{jax.default_backend()} ({device.device_kind})',
        'date': datetime.date.today().isoformat(),
        'seed': args.seed,
        'python': platform.python_version(),
        'jax': jax.__version__,
        'repeats': args.repeats,
    }
    if args.output:
        result = {
            'title': f'{shape.name}, {args.batch_size} rows of plans of their own',
            'rows': rows,
            'provenance': provenance,
        }
        Path(args.output).write_text(json.dumps(result, indent=1) + '\n')
    print(json.dumps(provenance))


def time_share(args, config, params, share):
    """A row of results for each way of decoding the rows."""
    rng, count = np.random.default_rng(args.seed), args.batch_size
    layers = (config.num_decoder_layers,) * 3 + (config.num_encoder_layers,) * 2
    plan = GivenPlan(Plan(*(rng.random((count, each)) < share for each in layers)))
    tokens = rng.integers(3, config.vocab_size, (count, args.source_length)).astype(np.int32)
    limits = Limits(max_new_tokens=args.new_tokens)
    full, planned = Decoding(limits=limits), Decoding(limits=limits, plan=plan, plan_prompt='plan')
    ways = {FULL: (full, NEVER), 'unpacked': (planned, NEVER), **{str(each): (planned, each) for each in args.pack}}
    timed = {name: [] for name in ways}
    for number in range(1 + args.repeats):
        for name in ways if number % 2 else reversed(ways):
            timed[name].append(run(config, params, tokens, *ways[name]))
        print(f'share {share:g}: round {number} of {args.repeats}', file=sys.stderr)
    rows = []
    for name in ways:
        row = {'share': share, 'way': name, 'first_seconds': sum(timed[name][0][:2])}
        for index, part in enumerate(('prefill', 'step')):
            mine, base = ([each[index] for each in timed[way][1:]] for way in (name, FULL))
            ratios = [one / other for one, other in zip(mine, base)]
            row |= {f'{part}_ms': 1e3 * statistics.median(mine), f'{part}_of_full': statistics.median(ratios)}
            row |= {f'{part}_least': min(ratios), f'{part}_greatest': max(ratios)}
        row['executed'] = timed[name][1][2] / args.new_tokens / count / cost.sub_layers(config)
        rows.append(row)
        print(
            f'share {share:g} {name:24s} prefill {row["prefill_ms"]:8.1f} ms, × {row["prefill_of_full"]:.2f} '
            f'({row["prefill_least"]:.2f}–{row["prefill_greatest"]:.2f}) step {row["step_ms"]:6.2f} ms, × '
            f'{row["step_of_full"]:.2f} ({row["step_least"]:.2f}–{row["step_greatest"]:.2f}), layers {row["executed"]:.2f}, '
            f'first {row["first_seconds"]:.1f} s',
            flush=True,
        )
    return rows


def run(config, params, tokens, decoding, packing):
    """(seconds of a prefill, seconds of a step, places that the batch ran)."""
    options = {'packing': packing, 'outermost': True}
    decided = jax.block_until_ready(decide(config, params, tokens, None, decoding, outermost=True))
    began = time.perf_counter()
    state = jax.block_until_ready(prefill(config, params, decided, decoding, **options))
    prefilled = time.perf_counter()
    trace = jax.block_until_ready(finish(config, params, state, decoding, **options))
    steps = int(trace.lengths.max())
    return prefilled - began, (time.perf_counter() - prefilled) / steps, int(trace.executed.sum())


if __name__ == '__main__':
    main()
