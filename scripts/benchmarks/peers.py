"""Times this package, Hugging Face transformers and CTranslate2 on the same random weights, in one run.

    python scripts/benchmarks/peers.py --output peers.json              # batch 1, 8, 32; about half an hour on two cores
    python scripts/benchmarks/peers.py --quick --output peers.json      # one repeat of a few settings
    python scripts/benchmarks/peers.py --render peers.json              # the table of an earlier run

Every engine runs in a process of its own on the same processors, and repeats are interleaved: each round asks every engine for
every setting once, in turn and then in reverse, so that whatever else the machine does falls on all alike. Idle engines wait
on a pipe. Reported is the median of the rounds with the least and the greatest. Writes raw numbers as JSON beside a Markdown
table; needs `pip install calm_jax[bench]`. An engine that is not installed or does not run is left out, and the table says why.
`transformers compiled` has a static cache and steps compiled by torch, which needs a C++ compiler. `texts.py` compares the same
engines on real texts, which end by themselves.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import shapes
from tables import markdown

from calm_jax.machine import processor

PEERS = ('transformers', 'transformers compiled', 'ctranslate2 float32', 'ctranslate2 int8')
MEASURES = ('classifier', 'softmax_gap', 'state')
# What a vocabulary of part of the ids and contrasts cost; asked for by name.
PRUNED = (
    'softmax_gap, frequent 1024',
    'softmax_gap, fixed 256',
    'softmax_gap, decaying 256',
    'weighted_contrast',
    'divergent_contrast',
    'weighted_contrast, fixed 256',
    'divergent_contrast, fixed 256',
)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shape', choices=shapes.SHAPES, default='t5_1_1')
    parser.add_argument('--batch_size', type=int, action='append', metavar='B', help='repeatable (default 1, 8, 32)')
    parser.add_argument(
        '--cache_length',
        type=int,
        action='append',
        metavar='T',
        help='of this package, repeatable (default 64, 512); peers grow theirs',
    )
    parser.add_argument('--source_length', type=int, default=128)
    parser.add_argument('--new_tokens', type=int, default=64)
    parser.add_argument('--measure', action='append', choices=(*MEASURES, *PRUNED), help='repeatable (default the first three)')
    parser.add_argument('--engine', action='append', choices=('calm_jax', *PEERS), help='repeatable (default all)')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--quick', action='store_true', help='batch 1, cache 64, classifier only, one repeat, 16 tokens')
    parser.add_argument('--output', metavar='FILE', help='raw numbers as JSON; the table goes beside it as .md')
    parser.add_argument('--render', metavar='FILE', help='only print the table of this JSON file')
    args = parser.parse_args(argv)
    if args.render:
        print(markdown(json.loads(Path(args.render).read_text())))
        return
    if args.quick:
        args.repeats, args.new_tokens = 1, min(args.new_tokens, 16)
    args.batch_size = args.batch_size or ([1] if args.quick else [1, 8, 32])
    args.cache_length = args.cache_length or ([64] if args.quick else [64, 512])
    args.measure = args.measure or (['classifier'] if args.quick else list(MEASURES))
    args.engine = args.engine or ['calm_jax', *PEERS]
    if max(args.cache_length) < args.new_tokens or args.new_tokens < 2:
        parser.error(f'--new_tokens {args.new_tokens} must be 2 or more and fit every --cache_length')
    result = run(args)
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1) + '\n')
        Path(args.output).with_suffix('.md').write_text(markdown(result))
    print(markdown(result))


def run(args):
    """All timings of one run, with what is needed to repeat it."""
    shape = shapes.SHAPES[args.shape]()
    with tempfile.TemporaryDirectory() as temporary:
        load = {
            'do': 'load',
            'shape': args.shape,
            'architecture': shape.architecture,
            'seed': args.seed,
            'vocab_size': shape.config.vocab_size,
            'decoder_only': shape.config.decoder_only,
            'threads': args.threads,
            'directory': f'{temporary}/model',
        }
        workers, described, left_out = start(load, args.engine, args.threads)
        try:
            rows = []
            for batch_size in args.batch_size:
                rows += agree(time_batch(workers, batch_cases(args, shape, batch_size), args.repeats, left_out))
        finally:
            for worker in workers.values():
                worker.close()
        memory = peak_memory(args, load, shape, described, left_out)
    return {
        'title': f'Decoding {args.new_tokens} tokens, {shape.name}, source {args.source_length}, '
        f'{args.threads} threads, greedy',
        'shape': {
            'name': shape.name,
            'weights_per_layer': shape.layer_weights(),
            'weights_of_head': shape.head_weights(),
            'layers': shape.config.num_decoder_layers,
        },
        'settings': {
            name: getattr(args, name)
            for name in ('batch_size', 'cache_length', 'source_length', 'new_tokens', 'measure', 'repeats', 'threads', 'seed')
        },
        'engines': described,
        'rows': rows,
        'left_out': left_out,
        'memory': memory,
        'provenance': {
            'command': shlex.join(['python', *sys.argv]),
            'machine': processor(),
            'load_at_end': os.getloadavg()[0],
            'date': datetime.date.today().isoformat(),
            'seed': args.seed,
            'python': platform.python_version(),
        },
    }


def start(load, engines, threads, script='engines.py', others=('machine',)):
    """(workers by engine name, what each said of itself, those left out and why). The first writes the weights that the others
    read; others: what is measured beside the engines."""
    workers, described, left_out = {}, {}, []
    for name in dict.fromkeys(['calm_jax', *engines, *others]):
        worker = Worker(name, threads, script)
        export = name == 'calm_jax' and any(engine in PEERS for engine in engines)
        answer = worker.ask({**load, **engine_request(name), 'export': export})
        if 'error' in answer:
            leave_out(left_out, name, None, answer['error'])
            worker.close()
            continue
        if name in engines or name in others:
            workers[name], described[name] = worker, answer
        else:
            worker.close()
    return workers, described, left_out


def leave_out(left_out, engine, batch_size, why):
    """Notes that an engine does not run, at a batch size or, None, at any, and why."""
    left_out.append({'engine': engine, 'batch_size': batch_size, 'why': why})
    print(f'{engine}, batch {batch_size or "of any size"}, is left out: {why}', file=sys.stderr)


def batch_cases(args, shape, batch_size):
    """(engine, case) in the order of one round: everything that is compared at this batch size."""
    layers = shape.config.num_decoder_layers
    exits = sorted({k for k in (1, 2, 4, layers) if k <= layers})
    common = {'batch_size': batch_size, 'source_length': args.source_length, 'new_tokens': args.new_tokens, 'seed': args.seed}
    cases = [('machine', {**common, 'setting': 'read bandwidth', 'exit_layer': None, 'cache_length': None})]
    for engine in args.engine:
        if engine in PEERS:
            cases.append((engine, {**common, 'setting': 'full depth', 'exit_layer': None, 'cache_length': None}))
            continue
        for cache_length in args.cache_length:
            ours = {**common, 'cache_length': cache_length}
            cases.append((engine, {**ours, 'setting': 'full depth', 'measure': None, 'exit_layer': None}))
            for measure in args.measure:
                for k in exits:
                    cases.append((engine, {**ours, 'setting': measure, 'measure': measure, 'exit_layer': k}))
    return cases


def time_batch(workers, cases, repeats, left_out):
    """One row per case: what was measured in each round; the cases that do not run are added to left_out."""
    rows = []
    for engine, case in cases:
        if engine not in workers:
            continue
        answer = workers[engine].ask({'do': 'prepare', 'case': case})
        if 'error' in answer:
            leave_out(left_out, f'{engine}, {case["setting"]}', case['batch_size'], answer['error'])
            continue
        rows.append({'engine': engine, **case, 'compiled': answer, 'rounds': []})
    for repeat in range(repeats):
        for row in rows if repeat % 2 == 0 else reversed(rows):
            time.sleep(0.3)  # until the last engine's threads have stopped spinning
            case = {key: value for key, value in row.items() if key not in ('engine', 'compiled', 'rounds', 'tokens')}
            answer = workers[row['engine']].ask({'do': 'measure', 'case': case})
            if 'error' in answer:
                raise RuntimeError(f'{row["engine"]}, {row["setting"]}: {answer["error"]}')
            row['tokens'] = answer.pop('tokens', None)
            row['rounds'].append(answer)
        print(f'batch {rows[0]["batch_size"]}: round {repeat + 1} of {repeats}', file=sys.stderr)
    return rows


def agree(rows):
    """Rows with the share of tokens that are this package's own at full depth, in place of the tokens."""
    ours = next((row['tokens'] for row in rows if row['engine'] == 'calm_jax' and row['setting'] == 'full depth'), None)
    for row in rows:
        tokens = row.pop('tokens')
        if tokens is not None and any(len(line) != row['new_tokens'] for line in tokens):
            raise RuntimeError(
                f'{row["engine"]} gave {sorted({len(line) for line in tokens})} tokens a row; '
                f'{row["new_tokens"]} were asked for'
            )
        if tokens is not None and ours is not None:
            pairs = [a == b for mine, theirs in zip(ours, tokens) for a, b in zip(mine, theirs)]
            row['tokens_equal'] = sum(pairs) / len(pairs)
    return rows


def peak_memory(args, load, shape, described, left_out):
    """Peak resident set in bytes of a fresh process per engine and batch size that loads, and decodes one batch in full."""
    rows = []
    for batch_size in args.batch_size:
        for engine, case in batch_cases(args, shape, batch_size):
            absent = any((each['engine'], each['batch_size']) == (f'{engine}, full depth', batch_size) for each in left_out)
            if case['setting'] != 'full depth' or engine not in described or absent:
                continue
            worker = Worker(engine, args.threads)
            requests = [{**load, **engine_request(engine), 'export': False}, {'do': 'prepare', 'case': case}, {'do': 'memory'}]
            answer = [worker.ask(request) for request in requests][-1]
            worker.close()
            rows.append({'engine': engine, 'batch_size': batch_size, 'cache_length': case['cache_length'], **answer})
    return rows


def engine_request(name):
    """What loading an engine by this name asks for beyond the common."""
    if name.startswith('ctranslate2'):
        return {'compute_type': name.split()[1], 'side_by_side': name.endswith('side by side')}
    return {'compiled': name == 'transformers compiled', 'drafts': name in ('calm_jax exact', 'transformers early exit')}


class Worker:
    """An engine in its own process; script: what serves it."""

    def __init__(self, name, threads, script='engines.py'):
        environment = {
            **os.environ,
            'OMP_NUM_THREADS': str(threads),
            'MKL_NUM_THREADS': str(threads),
            # The probe of the machine brings its own threads.
            'OPENBLAS_NUM_THREADS': '1',
            'TOKENIZERS_PARALLELISM': 'false',
            'HF_HUB_OFFLINE': '1',
            'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
        }
        engine = name.split()[0]
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), engine, '--threads', str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, request):
        """The engine's answer; {'error': …} when it cannot, or is no longer there."""
        try:
            self.process.stdin.write(json.dumps(request) + '\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            return {'error': f'the process ended with code {self.process.wait()}'}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {'error': f'the process ended with code {self.process.wait()}'}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


if __name__ == '__main__':
    main()
