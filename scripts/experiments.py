"""Every number that docs/results.md reports of one trained model, each by a command that can be typed.

    python scripts/experiments.py --checkpoint runs/multi30k/classifier/best --heldout runs/multi30k/heldout.jsonl \\
        --calibration val.jsonl.gz --test flickr_2016=test_2016.jsonl.gz --test flickr_2017=test_2017.jsonl.gz \\
        --source_field en --target_field fr --metric chrf --output runs/multi30k/results

What is chosen (threshold form and its τ, grid) is chosen on the held-out examples: half of them give the confidence
quantiles of the grid, others (`--tuned`) compare the forms. The calibration data are looked at by calibration alone, the test
data by nothing before the end. A step that is done is not done again, and decoding goes on where it was interrupted.
`scripts/results_page.py` writes the page.
"""

import argparse
import datetime
import itertools
import json
import shlex
from pathlib import Path

from calm_jax.cli import main as calm
from calm_jax.data.jsonl import Records
from calm_jax.files import write_json
from calm_jax.machine import processor

MEASURES = ('softmax_gap', 'state', 'classifier')
FORMS = (('constant', None), ('decaying', 4.0))  # with τ: those of the paper
PROMISES = (('textual', 0.1), ('textual', 0.25), ('risk', 0.02), ('risk', 0.05))
P_VALUES = ('hoeffding_bentkus', 'betting')
EPSILON = 0.05
KEPT = 0.9  # consistency at which the forms are compared


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkpoint', required=True)
    parser.add_argument('--heldout', required=True, help='JSONL, neither trained nor calibrated on')
    parser.add_argument('--calibration', required=True)
    parser.add_argument('--test', required=True, action='append', metavar='NAME=FILE', help='repeatable')
    parser.add_argument('--source_field', default='en')
    parser.add_argument('--target_field', default='fr')
    parser.add_argument('--test_field', help='references of the test data, where they have another name')
    parser.add_argument('--metric', default='chrf', help='that is calibrated (default chrf)')
    parser.add_argument('--report', default='bleu', help='that is reported beside it (default bleu)')
    parser.add_argument('--title', default='Translation on Multi30k', help='of the section on the page')
    parser.add_argument('--batch_size', default='32')
    parser.add_argument('--measure', action='append', choices=MEASURES, help='repeatable (default all)')
    parser.add_argument(
        '--only_calibrate',
        action='store_true',
        help='end there: runs of different measures may go side by side, before one of all that does the rest',
    )
    parser.add_argument('--tuned', type=int, default=500, help='held-out examples to compare threshold forms on (default 500)')
    parser.add_argument('--timed', type=int, default=200, help='test examples timed at batch 1 (the paper: 200)')
    parser.add_argument('--output', required=True, type=Path)
    args = parser.parse_args()
    args.measure, args.test_field = args.measure or list(MEASURES), args.test_field or args.target_field
    args.output.mkdir(parents=True, exist_ok=True)
    steps = Steps(args)
    tests = dict(each.split('=', 1) for each in args.test)
    grid, tune = halves(args)
    forms = {measure: choose_form(steps, args, measure, grid, tune) for measure in args.measure}
    for measure in forms:
        calibrate(steps, args, measure, forms[measure], grid)
    if args.only_calibrate:
        return
    for name, path in tests.items():
        decode_tests(steps, args, name, path)
    bounds(steps, args, next(iter(tests.values())))
    time_them(steps, args, next(iter(tests.values())))
    facts = {
        'title': args.title,
        'date': str(datetime.date.today()),
        'machine': processor(),
        'forms': forms,
        'commands': steps.commands,
        'measures': args.measure,
        'promises': PROMISES,
        'tests': tests,
        'test_field': args.test_field,
        'metric': args.metric,
        'report': args.report,
        'epsilon': EPSILON,
    }
    write_json(args.output / 'experiments.json', facts, make_folders=True)


class Steps:
    """Runs commands, skips those whose output is there, and remembers them all as they would be typed."""

    def __init__(self, args):
        self.commands = {}
        self.model = ('--checkpoint', args.checkpoint)
        self.fields = ('--source_field', args.source_field)

    def run(self, output: Path, *command):
        """Runs `calm command` unless `output` is there; a failing command ends the run."""
        command = [str(each) for each in command]
        self.commands[str(output)] = 'calm ' + shlex.join(command)
        if output.exists():
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        print(f'[{datetime.datetime.now():%H:%M:%S}] {self.commands[str(output)]}', flush=True)
        interrupted = command[0] == 'generate' and output.with_name(output.name + '.partial').exists()
        if code := calm([*command, '--quiet', *(['--resume'] if interrupted else [])]):
            raise SystemExit(code)


def halves(args):
    """The held-out examples in two files: for the grid, and to compare on."""
    records = Records(args.heldout)
    paths = args.output / 'grid.jsonl', args.output / 'tune.jsonl'
    for half, path in enumerate(paths):
        rows = range(half * len(records) // 2, (half + 1) * len(records) // 2)[: args.tuned if half else None]
        path.write_text(''.join(json.dumps(records[i], ensure_ascii=False) + '\n' for i in rows), encoding='utf-8')
    return paths


def choose_form(steps, args, measure, grid, tune):
    """The threshold form, with its τ, of the fewest layers at consistency KEPT on the held-out examples."""
    layers = {}
    for form in FORMS:
        folder = args.output / 'tune' / measure / '_'.join(str(each) for each in form if each)
        steps.run(
            folder / 'certificate.json',
            'calibrate',
            *steps.model,
            '--data',
            tune,
            *steps.fields,
            '--measure',
            measure,
            *form_flags(form),
            '--grid_data',
            grid,
            '--whole_grid',
            '--metric',
            args.metric,
            '--tolerance',
            0.1,
            '--batch_size',
            args.batch_size,
            '--records',
            folder,
            '--output',
            folder / 'certificate.json',
        )
        layers[form] = layers_at(json.loads((folder / 'curve.json').read_text(encoding='utf-8')), KEPT)
    return min(FORMS, key=layers.get)


def form_flags(form):
    name, temperature = form
    return '--threshold_form', name, *(() if temperature is None else ('--decay_temperature', temperature))


def layers_at(curve, consistency):
    """Layers per token where the curve falls to this consistency, between its points."""
    above = curve['num_layers'], 1.0
    for point in curve['points']:
        if point['consistency'] < consistency:
            share = (above[1] - consistency) / (above[1] - point['consistency'])
            return above[0] + share * (point['layers'] - above[0])
        above = point['layers'], point['consistency']
    return above[0]


def calibrate(steps, args, measure, form, grid):
    """All promises of one measure: the first decodes the whole grid, the others are tested from its records."""
    folder = args.output / 'calibrated' / measure
    common = (
        '--data',
        args.calibration,
        *steps.fields,
        '--target_field',
        args.target_field,
        '--metric',
        args.metric,
        '--epsilon',
        EPSILON,
        '--records',
        folder,
    )
    decoding = (
        *steps.model,
        '--measure',
        measure,
        *form_flags(form),
        '--grid_data',
        grid,
        '--whole_grid',
        '--batch_size',
        args.batch_size,
    )
    for number, ((objective, tolerance), p_value) in enumerate(itertools.product(PROMISES, P_VALUES)):
        output = folder / f'certificate_{objective}_{tolerance}_{p_value}.json'
        steps.run(
            output,
            'calibrate',
            *(() if number else decoding),
            *common,
            '--objective',
            objective,
            '--tolerance',
            tolerance,
            '--p_value',
            p_value,
            '--output',
            output,
        )
    for objective, tolerances in (('textual', '.05,.1,.15,.2,.25,.3'), ('risk', '.01,.02,.03,.05,.075,.1')):
        kept = args.output / 'trials' / measure / objective / 'trials.json'
        steps.run(
            kept,
            'calibrate',
            *common,
            '--objective',
            objective,
            '--tolerance',
            tolerances.split(',')[1],
            '--p_value',
            'hoeffding_bentkus',
            '--trials',
            50,
            '--trial_tolerances',
            tolerances,
        )
        if not kept.exists():
            (folder / 'trials.json').rename(kept)


def decode_tests(steps, args, name, path):
    """The full model and every certificate on one test set, and their scores."""
    folder = args.output / 'test' / name
    decode(steps, args, folder / 'full', path)
    for measure, (objective, tolerance) in itertools.product(args.measure, PROMISES):
        decode(
            steps,
            args,
            folder / f'{measure}_{objective}_{tolerance}_betting',
            path,
            '--certificate',
            certificate(args, measure, (objective, tolerance)),
        )


def bounds(steps, args, path):
    """The oracle, and every static depth."""
    decode(steps, args, args.output / 'bounds' / 'oracle', path, '--measure', 'oracle', '--threshold', 0.5)
    layers = json.loads((Path(args.checkpoint) / 'config.json').read_text())['num_decoder_layers']
    for depth in range(1, layers):
        folder = args.output / 'bounds' / f'static_{depth}'
        decode(steps, args, folder, path, '--measure', 'static', '--threshold', depth / layers)


def decode(steps, args, folder, path, *flags):
    steps.run(
        folder / 'out.jsonl',
        'generate',
        *steps.model,
        '--input',
        path,
        *steps.fields,
        '--output',
        folder / 'out.jsonl',
        '--batch_size',
        args.batch_size,
        *flags,
    )
    steps.run(
        folder / 'results.json',
        'evaluate',
        '--predictions',
        folder / 'out.jsonl',
        '--references',
        path,
        '--reference_field',
        args.test_field,
        '--metric',
        args.report,
        '--metric',
        args.metric,
        '--output',
        folder / 'results.json',
    )


def time_them(steps, args, path):
    """Seconds of every certificate against full depth, all interleaved, at batch 1 and 32."""
    compare_times(
        steps,
        args,
        args.output / 'time.json',
        path,
        [certificate(args, *each) for each in itertools.product(args.measure, PROMISES)],
    )


def compare_times(steps, args, output, path, certificates):
    """Seconds under each of these certificates against full depth, all interleaved, at batch 1 and 32."""
    steps.run(
        output,
        'benchmark',
        *steps.model,
        '--input',
        path,
        *steps.fields,
        '--examples',
        args.timed,
        '--repeats',
        3,
        *itertools.chain(*(('--certificate', each) for each in certificates)),
        '--batch_size',
        1,
        '--batch_size',
        32,
        '--output',
        output,
    )


def certificate(args, measure, promise):
    """Where `calibrate` wrote the certificate of a promise, by betting."""
    objective, tolerance = promise
    return args.output / 'calibrated' / measure / f'certificate_{objective}_{tolerance}_betting.json'


if __name__ == '__main__':
    main()
