"""What docs/results.md reports of reduced vocabularies and contrasts on one trained model, each by a command that can be typed.

    python scripts/vocabularies.py --checkpoint runs/multi30k/exits/best --before runs/multi30k/last_only/best \\
        --heldout runs/multi30k/heldout.jsonl --calibration val.jsonl.gz --test test_2016.jsonl.gz \\
        --output runs/multi30k/vocabularies

Every measure that reads logits, with every reduction of the vocabulary, is given the threshold that keeps the risk on tuning
data within δ more likely than not, and is timed there; the fastest is chosen. It and two that need no choice are certified on
the calibration data and decoded on the test data. `scripts/results_page.py --vocabularies` writes the page.
"""

import argparse
import datetime
import itertools
import json
from pathlib import Path

from experiments import Steps, compare_times, decode

from calm_jax.data.jsonl import Records
from calm_jax.files import write_json
from calm_jax.machine import processor

MEASURES = ('softmax_gap', 'weighted_contrast', 'divergent_contrast')
REDUCTIONS = ('none', 'frequent', 'fixed', 'decaying')
COMBINATIONS = (*itertools.product(MEASURES, REDUCTIONS), ('state', 'none'))
REFERENCES = (('softmax_gap', 'none'), ('state', 'none'))  # certified beside the one that is chosen
TOLERANCES = (0.05, 0.02)
TUNED = 0.02  # δ of the choice: deep enough that reductions differ
EPSILON = 0.05


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkpoint', required=True)
    parser.add_argument('--before', help='the model before it was trained with exits, for the figures')
    parser.add_argument('--heldout', required=True, help='JSONL, neither trained nor calibrated on')
    parser.add_argument('--calibration', required=True)
    parser.add_argument('--test', required=True)
    parser.add_argument('--source_field', default='en')
    parser.add_argument('--target_field', default='fr')
    parser.add_argument('--test_field', help='references of the test data, where they have another name')
    parser.add_argument('--metric', default='chrf', help='that is calibrated (default chrf)')
    parser.add_argument('--report', default='bleu', help='that is reported beside it (default bleu)')
    parser.add_argument('--title', default='Reduced vocabularies and contrasts on Multi30k', help='of the section on the page')
    parser.add_argument('--keep', type=int, default=256, help='ids that fixed pruning keeps and decaying ends with')
    parser.add_argument('--frequent', type=int, default=512, help='ids of the list of frequent ones (default 512)')
    parser.add_argument('--counted', help='JSONL whose targets they are counted in (default: held-out examples of the grid)')
    parser.add_argument('--batch_size', default='32')
    parser.add_argument('--tuned', type=int, default=200, help='held-out examples for the grid, and as many to choose on')
    parser.add_argument('--timed', type=int, default=100, help='examples timed at batch 1 and 32')
    parser.add_argument(
        '--stage',
        choices=('untimed', 'all'),
        default='all',
        help='untimed: end before anything is timed; runs on other data may go beside it',
    )
    parser.add_argument('--output', required=True, type=Path)
    args = parser.parse_args()
    args.test_field = args.test_field or args.target_field
    args.output.mkdir(parents=True, exist_ok=True)
    steps, (grid, tune) = Steps(args), halves(args)
    count(steps, args, args.counted or grid)
    for combination in COMBINATIONS:
        certify(steps, args, 'tuned', combination, grid, tune, epsilon=0.5)
    look_inside(steps, args, tune)
    decode_test(steps, args, 'full')
    for combination in COMBINATIONS:
        decode_test(steps, args, 'tuned', combination, TUNED)
    certify_and_decode(steps, args, REFERENCES, grid)
    if args.stage == 'untimed':
        return
    compare_times(
        steps,
        args,
        args.output / 'tuned' / 'time.json',
        tune,
        [certificate(args, 'tuned', each, TUNED) for each in COMBINATIONS],
    )
    chosen = fastest(args)
    certified = list(dict.fromkeys((chosen, *REFERENCES)))
    certify_and_decode(steps, args, certified, grid)
    compare_times(
        steps,
        args,
        args.output / 'certified' / 'time.json',
        args.test,
        [certificate(args, 'certified', *each) for each in itertools.product(certified, TOLERANCES)],
    )
    facts = {
        'title': args.title,
        'date': str(datetime.date.today()),
        'machine': processor(),
        'commands': steps.commands,
        'combinations': COMBINATIONS,
        'chosen': chosen,
        'certified': certified,
        'tolerances': TOLERANCES,
        'tuned': TUNED,
        'epsilon': EPSILON,
        'keep': args.keep,
        'frequent': args.frequent,
        'metric': args.metric,
        'report': args.report,
        'timed': args.timed,
    }
    write_json(args.output / 'vocabularies.json', facts, make_folders=True)


def halves(args):
    """Held-out examples in two files: for the grid, and to choose on."""
    records = Records(args.heldout)
    paths = args.output / 'grid.jsonl', args.output / 'tune.jsonl'
    for half, path in enumerate(paths):
        rows = range(half * len(records) // 2, (half + 1) * len(records) // 2)[: args.tuned]
        path.write_text(''.join(json.dumps(records[i], ensure_ascii=False) + '\n' for i in rows), encoding='utf-8')
    return paths


def flags(args, combination):
    """How `calm` is told a measure and a reduction."""
    measure, reduction = combination
    sizes = {
        'none': (),
        'frequent': ('--frequent_count', args.frequent),
        'fixed': ('--keep', args.keep),
        'decaying': ('--keep_least', args.keep),
    }
    return '--measure', measure, *(() if reduction == 'none' else ('--vocabulary', reduction)), *sizes[reduction]


def count(steps, args, data):
    """The model from here on: the checkpoint with the list of ids that are frequent in the targets of these examples."""
    output = args.output / 'model'
    steps.run(output, 'count', *steps.model, '--data', data, '--target_field', args.target_field, '--output', output)
    steps.model = '--checkpoint', output


def certificate(args, stage, combination, tolerance):
    """Where `certify` writes the certificate of a combination."""
    return args.output / stage / '_'.join(combination) / f'certificate_{tolerance}.json'


def certify(steps, args, stage, combination, grid, data, epsilon):
    """A certificate for each δ of risk: the first decodes, the second is tested from its records."""
    for number, tolerance in enumerate(TOLERANCES):
        output = certificate(args, stage, combination, tolerance)
        decoding = (
            *steps.model,
            *flags(args, combination),
            '--grid_data',
            grid,
            '--whole_grid',
            '--batch_size',
            args.batch_size,
        )
        steps.run(
            output,
            'calibrate',
            *(() if number else decoding),
            '--data',
            data,
            *steps.fields,
            '--target_field',
            args.target_field,
            '--metric',
            args.metric,
            '--objective',
            'risk',
            '--tolerance',
            tolerance,
            '--epsilon',
            epsilon,
            '--records',
            output.parent,
            '--output',
            output,
        )


def certify_and_decode(steps, args, combinations, grid):
    """Certificates on the calibration data, and the test data within them."""
    for combination in combinations:
        certify(steps, args, 'certified', combination, grid, args.calibration, EPSILON)
        for tolerance in TOLERANCES:
            decode_test(steps, args, 'certified', combination, tolerance)


def look_inside(steps, args, data):
    """Ranks and confidence by layer, before and after training with exits, and of every reduction and contrast."""
    folder = args.output / 'inside'
    models = {'after': steps.model, **({'before': ('--checkpoint', args.before)} if args.before else {})}
    for name, model in models.items():
        common = (*model, '--data', data, *steps.fields, '--label', f'{name} training with exits')
        steps.run(folder / f'ranks_{name}.json', 'analyze', 'ranks', *common, '--output', folder / f'ranks_{name}.json')
        output = folder / f'confidence_{name}.json'
        steps.run(output, 'analyze', 'confidence', *common, *flags(args, ('softmax_gap', 'none')), '--output', output)
    page = args.output / 'inside.html'
    steps.run(page, 'report', folder, '--output', page)
    for combination in COMBINATIONS[1:-1]:
        output = args.output / 'unlike' / f'{"_".join(combination)}.json'
        steps.run(
            output,
            'analyze',
            'confidence',
            *steps.model,
            '--data',
            data,
            *steps.fields,
            *flags(args, combination),
            '--output',
            output,
        )


def decode_test(steps, args, stage, combination=None, tolerance=None):
    """The test data at full depth, or under a certificate, and their scores."""
    if combination is None:
        decode(steps, args, args.output / 'test' / stage, args.test)
        return
    folder = args.output / 'test' / stage / '_'.join((*combination, str(tolerance)))
    decode(steps, args, folder, args.test, '--certificate', certificate(args, stage, combination, tolerance))


def fastest(args):
    """The combination with the greatest speed-up on the tuning data, one example at a time."""
    rows = json.loads((args.output / 'tuned' / 'time.json').read_text(encoding='utf-8'))['rows']
    speed_up = {row['setting']: row['speed_up'] for row in rows if row['batch_size'] == 1}
    return max(COMBINATIONS, key=lambda each: speed_up[f'certificate {certificate(args, "tuned", each, TUNED)}'])


if __name__ == '__main__':
    main()
