"""Times texts in flight against texts in batches, on the same random weights and with the lengths of real references.

    python scripts/benchmarks/flight.py --data alpaca.jsonl.xz --source '{instruction} {input}' --target output --output a.json
    python scripts/benchmarks/flight.py --data … --shape t5_base --dtype bfloat16 --batch_size 32 --batch_size 128

Sources have as many tokens as the texts have words, and every row generates as many as its reference has words, at most
--new_tokens: what counts is how rows of unlike length stand together, not what they say. Tokens leave where a script says: at
`full depth` never, else after --depth layers on average (a geometric draw by row and step), computed and paid for as the
measure is. Settings are interleaved, every other round in reverse; the first round is a warm-up and dropped. Prefills are timed
apart, by running them alone; how long texts take from insertion to last token is measured (`latency.py`). Medians with the
least and the greatest.
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
import jax.numpy as jnp
import numpy as np
import shapes
from engines import scripted
from latency import Landed, latencies

from calm_jax.arrivals import groups_of
from calm_jax.data.jsonl import Records, Template
from calm_jax.data.windows import WINDOW, decode_windows
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import begin, capacity_of
from calm_jax.decoding.packing import NEVER, Packing
from calm_jax.decoding.rows import Rows
from calm_jax.depth.exits import MEASURES, Exit
from calm_jax.flight import decode_batches, fly_window
from calm_jax.machine import processor
from calm_jax.models import transformer
from calm_jax.models.joined import join

FULL = 'full depth'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True, help='JSONL, plain, .gz or .xz')
    parser.add_argument('--source', required=True, help="template of the input, such as '{dialogue}'")
    parser.add_argument('--target', required=True, help='field of the reference')
    parser.add_argument('--shape', choices=shapes.SHAPES, default='t5_1_1')
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--rows', type=int, default=512, help='the first of the file (default 512)')
    parser.add_argument('--batch_size', type=int, action='append', metavar='B', help='repeatable (default 32)')
    parser.add_argument('--new_tokens', type=int, default=128)
    parser.add_argument('--source_length', type=int, default=256)
    parser.add_argument(
        '--length_multiple', type=int, metavar='M', help='widths of sources are multiples of it (default: as ever)'
    )
    parser.add_argument('--measure', action='append', choices=tuple(MEASURES), default=[], help='repeatable')
    parser.add_argument('--depth', type=float, action='append', metavar='D', help='mean layers of an exit; repeatable')
    parser.add_argument('--way', choices=('batches', 'in flight'), action='append', help='repeatable (default both)')
    parser.add_argument(
        '--packing',
        type=Packing.parse,
        action='append',
        default=[],
        metavar='LAYERS:WIDTHS',
        help='repeatable, such as 1,3:8,16',
    )
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', metavar='FILE', help='JSON to write')
    args = parser.parse_args()
    args.batch_size = args.batch_size or [32]
    shape = shapes.SHAPES[args.shape]()
    # No end-of-sequence: every row runs to its own limit.
    config = dataclasses.replace(shape.config, eos_id=-2, dtype=args.dtype)
    params = transformer.init_params(shape.config, jax.random.key(args.seed))
    params = join(jax.tree.map(lambda leaf: leaf.astype(args.dtype), params), config)
    sources, limits = lengths(args, config.vocab_size)
    rows = []
    for batch_size in args.batch_size:
        rows += time_batch(args, config, params, sources, limits, batch_size)
    device = jax.devices()[0]
    result = {
        'title': f'{Path(args.data).name.partition(".")[0]}: {shape.name}, {len(sources)} texts',
        'rows': rows,
        'provenance': {
            'command': shlex.join(['python', *sys.argv]),
            'machine': processor(),
            'device': f'{jax.default_backend()} ({device.device_kind})',
            'date': datetime.date.today().isoformat(),
            'seed': args.seed,
            'python': platform.python_version(),
            'jax': jax.__version__,
            'repeats': args.repeats,
        },
    }
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1) + '\n')
    print(json.dumps(result['provenance']))


def lengths(args, vocabulary):
    """Sources of random ids, a list of lists, and how many tokens each row generates, int32 [n]."""
    records, template, rng = Records(args.data), Template(args.source), np.random.default_rng(args.seed)
    sources, limits = [], []
    for index in range(min(args.rows, len(records))):
        words = len(template(records[index], records.where(index)).split())
        sources.append(rng.integers(3, vocabulary, max(1, min(words, args.source_length - 1))).tolist())
        limits.append(min(args.new_tokens, 1 + len(str(records[index][args.target]).split())))
    return sources, np.array(limits, np.int32)


def time_batch(args, config, params, sources, limits, batch_size):
    """One row of results per way and setting."""
    padding = {'pad_id': config.pad_id, 'eos_id': None if config.decoder_only else 1, 'left': config.decoder_only}
    padding |= {'max_source_length': args.source_length, 'length_multiple': args.length_multiple}
    windows = list(decode_windows(sources, batch_size, window=WINDOW, **padding))
    settings = {FULL: None}
    for measure in args.measure:
        for depth in args.depth or [config.num_decoder_layers / 4]:
            settings[f'{measure}, {depth:g} layers'] = exit_of(config, measure, depth, args.seed)
    ways = dict.fromkeys(args.way or ['batches', 'in flight'], NEVER)
    ways |= {f'packed {packing}': packing for packing in args.packing}
    cases = [(way, name) for way in ways for name in settings if name != FULL or not ways[way]] + [('prefill', FULL)]
    timed = {case: [] for case in cases}
    for number in range(1 + args.repeats):
        for case in cases if number % 2 else reversed(cases):
            way, name = case
            decoding = Decoding(limits=Limits(max_new_tokens=args.new_tokens), exit=settings[name])
            packing = ways.get(way, NEVER)
            timed[case].append(run(way, config, params, windows, limits, decoding, batch_size, packing))
        print(f'batch {batch_size}: round {number} of {args.repeats}', file=sys.stderr)
    prefill = statistics.median(seconds for seconds, *_ in timed['prefill', FULL][1:])
    rows = []
    for way, name in cases[:-1]:
        seconds = [seconds for seconds, *_ in timed[way, name][1:]]
        base = [seconds for seconds, *_ in timed[cases[0]][1:]]
        waits = [waited for *_, waited in timed[way, name][1:]]
        counts = timed[way, name][1][1]
        ratios = [(one - prefill) / (mine - prefill) for one, mine in zip(base, seconds)]
        step = (statistics.median(seconds) - prefill) / (counts['places'] / batch_size)
        row = {
            'batch_size': batch_size,
            'way': way,
            'setting': name,
            **counts,
            'used': counts['tokens'] / counts['places'],
            'seconds': seconds,
            'prefill_seconds': prefill,
            'compile_and_first_seconds': timed[way, name][0][0],
            'step_ms': 1e3 * step,
            **{
                f'{part}_p{percent}': statistics.median(float(np.percentile(each[place], percent)) for each in waits)
                for place, part in enumerate(('latency', 'landed'))
                for percent in (50, 95)
            },
            'decode_speed': statistics.median(ratios),
            'decode_speed_least': min(ratios),
            'decode_speed_greatest': max(ratios),
            'whole_speed': statistics.median(one / mine for one, mine in zip(base, seconds)),
        }
        rows.append(row)
        print(
            f'batch {batch_size:3d} {way:16s} {name:24s} used {row["used"]:.2f} whole {statistics.median(seconds):7.2f} s '
            f'({min(seconds):.2f}–{max(seconds):.2f}) prefill {prefill:.2f} s, first {row["compile_and_first_seconds"]:.1f} s, '
            f'decode × {row["decode_speed"]:.2f} ({min(ratios):.2f}–{max(ratios):.2f}), whole × {row["whole_speed"]:.2f}, '
            f'step {row["step_ms"]:.2f} ms, in the decode {row["latency_p50"]:.2f} s (p95 {row["latency_p95"]:.2f}), '
            f'layers {row["layers"]:.2f}, run {row["executed"]:.2f}',
            flush=True,
        )
    return rows


def run(way, config, params, windows, limits, decoding, batch_size, packing):
    """(seconds, counts, of each text seconds from insertion to last token and until the host has it) of one pass."""

    def example_ids(rows):
        return np.maximum(rows, 0).astype(np.int32)

    def settings(rows):
        return Rows(limit=limits[np.maximum(rows, 0)])

    start, tokens, places, needed, executed = time.perf_counter(), 0, 0, 0, 0
    waits = []
    for window in windows:
        if way == 'prefill':
            for group in groups_of(window, batch_size):
                own = {'example_ids': example_ids(group.rows), 'rows': settings(group.rows), 'cursor': np.int32(0)}
                capacity = capacity_of(decoding.limits.max_new_tokens)
                state = begin(config, params, group.tokens, group.mask, decoding, capacity=capacity, **own)
                jax.block_until_ready(state)
            continue
        wanted = {row for batch in window for row in batch.rows.tolist() if row >= 0}
        options = {'example_ids': example_ids, 'settings': settings, 'wanted': wanted, 'packing': packing}
        if way == 'batches':
            landings = decode_batches(config, params, window, decoding, **options)
        else:
            landings = fly_window(config, params, window, decoding, batch_size, **options)
        landed = []
        for landing in landings:
            steps = landing.places // (batch_size if way != 'batches' else len(window[len(landed)].rows))
            landed.append(Landed(dict(zip(landing.rows.tolist(), landing.trace.lengths.tolist())), landing.seconds, steps))
            report = landing.report(1)
            tokens, places = tokens + report.tokens, places + report.places
            needed, executed = needed + report.needed, executed + report.executed
        if way == 'batches':
            waits += [latencies(list(each.lengths), [each], len(each.lengths)) for each in landed]
        else:
            order = [row for group in groups_of(window, batch_size, wanted) for row in group.rows.tolist() if row >= 0]
            waits.append(latencies(order, landed, batch_size))
    seconds = time.perf_counter() - start
    layer = 2 if config.decoder_only else 3
    layers, ran = needed / layer / max(1, tokens), executed / layer / max(1, places)
    waited = [np.concatenate(each) for each in zip(*waits)]
    return seconds, {'tokens': tokens, 'places': places, 'layers': layers, 'executed': ran}, waited


def exit_of(config, measure, depth, seed):
    """An exit after geometrically many layers, `depth` on average, by row and step."""
    layers = np.arange(1, config.num_decoder_layers + 1)

    def mean(p):
        weights = (1 - p) ** (layers - 1) * p
        weights[-1] = (1 - p) ** (layers[-1] - 1)
        return float(layers @ weights), weights

    low, high = 1e-6, 1.0
    for _ in range(60):
        low, high = ((low + high) / 2, high) if mean((low + high) / 2)[0] > depth else (low, (low + high) / 2)
    drawn = np.random.default_rng(seed).choice(layers, 4096, p=mean(high)[1]).astype(np.int32)
    kernel = {'kernel': np.full((config.emb_dim, 1), 0.01, np.float32), 'bias': np.zeros(1, np.float32)}
    kind = MEASURES[measure]
    return Exit(scripted(kind)(kind(**(kernel if measure == 'classifier' else {})), jnp.asarray(drawn)), 0.5)


if __name__ == '__main__':
    main()
