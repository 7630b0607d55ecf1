"""Times this package, Hugging Face transformers and CTranslate2 on real texts with a trained model, in one run.

    python scripts/benchmarks/texts.py --checkpoint runs/multi30k/model/best --data multi30k/test_2016_flickr.jsonl.gz \\
        --source_field en --output texts.json                           # batch 1, 8, 32; 512 texts
    python scripts/benchmarks/texts.py --checkpoint adapted --data test.jsonl --source_field instruction --batch_size 1 \\
        --exit '{"measure": {"class": "softmax_gap"}, "threshold": 0.3, "min_exit_layer": 12, "verify": 4}' --early_exit 12
    python scripts/benchmarks/texts.py --render texts.json              # the table of an earlier run

What counts is how long texts of unlike length take together: each ends by itself, in every engine, and tokens can be compared.
All decode the whole set at full depth, greedily, with the same weights and limits, each with what it does best: this package in
flight, as `calm generate` runs by default, timed from texts to texts; CTranslate2 with all texts at once, which it sorts and
drops from the batch as they end, and with as many batches side by side as there are threads; transformers in batches sorted by
length, plain, and with a static cache and compiled steps. With --exit, drafts that are verified (`--verify`), and with
--early_exit those of transformers (`assistant_early_exit`, at batch 1: a second cache, and early layers computed again), stand
beside them: the same tokens as full depth's. Workers and rounds as in `peers.py`.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
import tempfile
from pathlib import Path

from peers import PEERS, start, time_batch
from tables import markdown

from calm_jax.data.jsonl import Template
from calm_jax.data.sources import SOURCE_FIELD, open_records
from calm_jax.machine import processor

ENGINES = ('calm_jax', *PEERS)
EXACT = {'exit': 'calm_jax exact', 'early_exit': 'transformers early exit'}  # by the flag that says how they draft
SIDE_BY_SIDE = ('ctranslate2 float32 side by side', 'ctranslate2 int8 side by side')


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkpoint', metavar='DIR', help='native checkpoint of a trained model')
    parser.add_argument('--data', metavar='FILE', help='JSONL, plain, .gz or .xz')
    parser.add_argument('--source_field', default=SOURCE_FIELD, metavar='FIELD', help='field or template of the input text')
    parser.add_argument('--texts', type=int, default=512, metavar='N', help='the first of the file (default 512)')
    parser.add_argument('--batch_size', type=int, action='append', metavar='B', help='repeatable (default 1, 8, 32)')
    parser.add_argument('--engine', action='append', choices=(*ENGINES, *SIDE_BY_SIDE), help='repeatable (default all)')
    parser.add_argument('--exit', type=json.loads, metavar='JSON', help='also this package with such an exit, which verifies')
    parser.add_argument('--early_exit', type=int, metavar='K', help='also transformers with drafts of its first K layers')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--output', metavar='FILE', help='raw numbers as JSON; the table goes beside it as .md')
    parser.add_argument('--render', metavar='FILE', help='only print the table of this JSON file')
    args = parser.parse_args(argv)
    if args.render:
        print(markdown(json.loads(Path(args.render).read_text())))
        return
    if args.checkpoint is None or args.data is None:
        parser.error('--checkpoint and --data are required, or --render')
    args.batch_size = args.batch_size or [1, 8, 32]
    if args.exit is not None and not args.exit.get('verify'):
        parser.error('--exit has no verify: it would say other tokens than full depth')
    args.engine = args.engine or [*ENGINES, *(SIDE_BY_SIDE if args.threads > 1 else ())]
    args.engine += [name for flag, name in EXACT.items() if getattr(args, flag) is not None]
    result = run(args)
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1) + '\n')
        Path(args.output).with_suffix('.md').write_text(markdown(result))
    print(markdown(result))


def run(args):
    """All timings of one run, with what is needed to repeat it."""
    records, template = open_records(args.data), Template(args.source_field)
    texts = [template(records[index], records.where(index)) for index in range(min(args.texts, len(records)))]
    with tempfile.TemporaryDirectory() as temporary:
        load = {'do': 'load', 'checkpoint': str(Path(args.checkpoint).resolve()), 'texts': texts, 'threads': args.threads}
        load |= {'directory': f'{temporary}/model', 'exit': args.exit, 'early_exit': args.early_exit}
        workers, described, left_out = start(load, args.engine, args.threads, 'text_engines.py', others=())
        rows = []
        try:
            for batch_size in args.batch_size:
                case = {'setting': 'full depth', 'batch_size': batch_size}
                rows += agree(time_batch(workers, [(name, case) for name in args.engine], args.repeats, left_out))
        finally:
            for worker in workers.values():
                worker.close()
    return {
        'title': f'{Path(args.data).name.partition(".")[0]}: {len(texts)} texts, {args.threads} threads, greedy, full depth',
        'texts': len(texts),
        'settings': {name: getattr(args, name) for name in ('batch_size', 'engine', 'repeats', 'threads', *EXACT)},
        'engines': described,
        'rows': rows,
        'left_out': left_out,
        'provenance': {
            'command': shlex.join(['python', *sys.argv]),
            'machine': processor(),
            'load_at_end': os.getloadavg()[0],
            'date': datetime.date.today().isoformat(),
            'python': platform.python_version(),
        },
    }


def agree(rows):
    """Rows with what their tokens say in place of the tokens: how many there are, the longest text's, and the share of texts
    that are this package's, token for token."""
    ours = next((row['tokens'] for row in rows if row['engine'] == 'calm_jax'), None)
    for row in rows:
        tokens = row.pop('tokens')
        row['count'], row['longest'] = sum(map(len, tokens)), max(map(len, tokens))
        if ours is not None:
            row['texts_equal'] = sum(mine == theirs for mine, theirs in zip(ours, tokens, strict=True)) / len(ours)
    return rows


if __name__ == '__main__':
    main()
