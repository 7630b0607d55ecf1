"""Find the threshold that keeps a promise: E[loss] ≤ δ with probability 1 − ε over the calibration data.

    calm calibrate --checkpoint DIR --data cal.jsonl --source_field en --measure softmax_gap --metric rougeL \\
        --objective textual --tolerance 0.1 --epsilon 0.05 --output c.json
    calm calibrate --power --tolerance 0.02 --expected_loss 0.006
    calm calibrate --records DIR --data cal.jsonl --metric rougeL --tolerance 0.2 --output c2.json    # no model needed

Thresholds are decoded from the top and the first failed test stops the search (fixed-sequence testing). The certificate
records all that the guarantee depends on; `calm generate --certificate` decodes within it.
"""

import dataclasses
import sys
import tempfile
from functools import partial
from pathlib import Path

from calm_jax import calibration
from calm_jax.analysis.confidences import layer_confidences
from calm_jax.analysis.grid import quantile_grid
from calm_jax.commands import decode_flags
from calm_jax.commands.flag_types import numbers
from calm_jax.commands.provenance import provenance
from calm_jax.commands.records import RECORDS, kept, open_sweep, recorded_source_field
from calm_jax.commands.trials import check_trials, run_trials
from calm_jax.compilation import use_compilation_cache
from calm_jax.curve import curve
from calm_jax.data import jsonl
from calm_jax.data.references import references
from calm_jax.data.sources import open_records
from calm_jax.examples import COUNT, examples
from calm_jax.files import write_json
from calm_jax.metrics import quality
from calm_jax.metrics.objective import KINDS, Objective
from calm_jax.outputs import check_file
from calm_jax.progress import progress

PAPER_GRID = [round(1 - 0.05 * step, 2) for step in range(1, 20)]
BATCH_SIZE = 32


def add_arguments(parser):
    decode_flags.add_model(parser, required=False)
    parser.set_defaults(batch_size=None)  # whether it was said matters: without a model it decides nothing
    data = parser.add_argument_group('data')
    data.add_argument('--data', metavar='FILE', help='calibration examples, JSONL: draws of what the guarantee is to cover')
    data.add_argument(
        '--source_field', metavar='FIELD', help="input: a field or template (default source; without a model the records' own)"
    )
    data.add_argument('--target_field', metavar='FIELD', help='reference text, or a list of them; needed by objective risk')
    data.add_argument('--group_by', metavar='FIELD', help="average losses within clusters (one paragraph's questions) first")
    data.add_argument('--groups', metavar='FIELD', help='hold in each group of this field: the largest of their p-values')
    promise = parser.add_argument_group('promise')
    promise.add_argument(
        '--objective',
        choices=KINDS,
        default='textual',
        help="loss against the full model's text, or increase of risk against references (default textual)",
    )
    promise.add_argument(
        '--metric',
        action='append',
        metavar='NAME',
        help=f'quality in [0, 1] per example; repeat for several risks at once: {", ".join(quality.METRICS)}',
    )
    promise.add_argument(
        '--tolerance', type=float, action='append', metavar='δ', help='largest expected loss, in (0, 1); one, or one per metric'
    )
    promise.add_argument('--epsilon', type=float, default=0.05, metavar='ε', help='chance that the guarantee fails (.05)')
    promise.add_argument(
        '--p_value',
        default='betting',
        metavar='NAME',
        help=f'{", ".join(calibration.P_VALUES)} (default betting; binomial for losses of 0 and 1)',
    )
    promise.add_argument('--signed', action='store_true', help='risk as signed difference, not clamped at 0')
    promise.add_argument('--joint', type=int, default=1, metavar='M', help='share ε among M certificates to choose from')
    promise.add_argument('--permutation_seed', type=int, default=0, help='of the order in which betting meets examples')
    grid = parser.add_argument_group('grid')
    grid.add_argument('--grid', metavar='λ,λ,…', help='thresholds in test order (default .95, .90, … .05, or of the records)')
    grid.add_argument('--grid_data', metavar='FILE', help='20 confidence quantiles of this data, which --data must not share')
    grid.add_argument('--whole_grid', action='store_true', help='decode the whole grid, for the trade-off curve')
    output = parser.add_argument_group('output')
    output.add_argument('--output', metavar='FILE', help='certificate to write')
    output.add_argument(
        '--records', metavar='DIR', help='keep what was decoded, with curve.json and examples.json; recompute from it'
    )
    output.add_argument(
        '--overwrite',
        action='store_true',
        help='replace the certificate, and records made otherwise; records that fit are kept and continued',
    )
    output.add_argument('--trials', type=int, metavar='K', help="also the paper's K random 80/20 trials, to trials.json")
    output.add_argument('--trial_tolerances', metavar='δ,δ,…', help='of the trials (default: --tolerance)')
    power = parser.add_argument_group('power')
    power.add_argument('--power', action='store_true', help='print how many examples give 90%% power, and stop')
    power.add_argument('--expected_loss', type=float, metavar='X', help='the mean loss that --power supposes')
    decode_flags.add_settings(parser, threshold=False)


def run(args):
    if args.power:
        print_power(args)
        return
    if args.expected_loss is not None:
        raise ValueError('--expected_loss changes nothing without --power')
    for name in ('data', 'metric', 'tolerance'):
        if not getattr(args, name):
            raise ValueError(f'--{name} is missing; see calm calibrate --help')
    check_trials(args)
    if not args.output and args.trials is None:
        raise ValueError('--output is missing: the certificate to write')
    if args.output:
        check_file(args.output, args.overwrite, [args.data, args.grid_data])
    check_ignored(args)
    if args.checkpoint:
        args.source_field, args.batch_size = args.source_field or 'source', args.batch_size or BATCH_SIZE
    else:
        args.source_field = recorded_source_field(args)
    data = CalibrationData(args)
    objective = Objective(args.objective, args.metric, data.references, args.signed)
    thresholds = grid(args, data)
    # What is wrong with the promise, or too little for it, is said before anything is decoded.
    calibration_of(args, data, thresholds or [0.5]).check_enough(len(data.rows))
    if args.p_value == 'binomial' and not objective.binary:
        raise ValueError('--p_value binomial is for losses of 0 and 1: metric accuracy or exact_match, unsigned; use betting')
    if not args.quiet and (distinct := len(set(data.sources))) < len(data.sources):
        print(
            f'calm calibrate: warning: {len(data.sources):,} examples, {distinct:,} of them distinct: the guarantee takes '
            'them for independent draws, which copies of one draw are not',
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory() as temporary:
        calibrate_in(args, data, objective, thresholds, Path(args.records or temporary))


def check_ignored(args):
    """ValueError for what is said and would decide nothing."""
    if args.whole_grid and not args.records:
        raise ValueError('--whole_grid needs --records, the folder where the curve goes')
    if 'threshold' in decode_flags.given(args):
        raise ValueError('Settings.threshold is set by gin, and calibration is what finds it; leave the binding out')
    if args.checkpoint:
        return
    if args.grid_data:
        raise ValueError(
            '--grid_data needs a model to look at it: pass --checkpoint, or leave the flag out to test the grid of the records'
        )
    for name in ('batch_size', 'dtype'):
        if (value := getattr(args, name)) is not None:
            raise ValueError(f'--{name} {value} is of decoding, and without --checkpoint nothing is decoded; leave it out')


def calibration_of(args, data, thresholds):
    """The calibration that the flags describe, nothing tested yet."""
    return calibration.Calibration(
        thresholds,
        tolerances(args),
        args.epsilon,
        args.p_value,
        seed=args.permutation_seed,
        group_by=data.column(args.group_by),
        groups=data.column(args.groups),
        joint=args.joint,
        signed=args.signed,
    )


def calibrate_in(args, data, objective, thresholds, directory):
    """Decodes, tests, and writes everything the flags ask for."""
    use_compilation_cache()
    run_, sweep, model = open_sweep(args, data, directory)
    if model is None and not args.grid:
        thresholds = run_['thresholds']
    elif thresholds is None:
        thresholds = confidence_grid(args, model)
    calibration_ = calibration_of(args, data, thresholds)
    full = sweep.texts(1.0)
    if model is not None:
        run_['thresholds'] = thresholds
        write_json(directory / RECORDS, run_)  # only now: the records there are of this model
    while calibration_.threshold is not None:
        calibration_.observe(objective.losses(sweep.texts(calibration_.threshold), full))
    certificate = calibration_.certificate(
        args.objective,
        args.metric if len(args.metric) > 1 else args.metric[0],
        objective.versions(),
        {**run_['fingerprints'], 'settings': run_['settings'], 'data': run_['data'], 'environment': run_['environment']},
    )
    source = provenance(
        'calibrate',
        args,
        seed=args.permutation_seed,
        settings=run_['settings'],
        fingerprints=run_['fingerprints'],
        data=run_['data'],
    )
    trials = run_trials(args, data, objective, sweep, thresholds, run_) if args.trials else None
    if args.whole_grid:
        for threshold in thresholds:
            sweep.at(threshold)
    for threshold in kept(directory, run_):
        sweep.at(threshold)
    label = run_['settings']['measure']
    kind = label if label in ('oracle', 'static') else 'measure'
    line = curve(sweep, objective, run_['num_layers'], label, kind, certificate)
    if args.records:
        write_json(directory / 'curve.json', {**line, 'provenance': source})
        write_json(directory / 'examples.json', shown(data, sweep, certificate, label, run_['num_layers']))
        if trials:
            write_json(directory / 'trials.json', {**trials, 'provenance': source})
    if args.output:
        certificate.save(args.output)
    if not args.quiet:
        describe(certificate, line, trials)


def shown(data, sweep, certificate, label, num_layers):
    """What examples.json holds: the full model's outputs, and those at the certified λ if there is one below 1."""
    early = {}
    if certificate.threshold < 1:
        tolerance = certificate.tolerance
        promised = tolerance.items() if isinstance(tolerance, dict) else [('', tolerance)]
        words = ', '.join(f'{value:g} {risk}'.strip() for risk, value in promised)
        early[f'{label}, δ = {words}'] = sweep.first(certificate.threshold, COUNT)
    shown_references = [None if data.references is None else data.references[i][0] for i in range(len(data.rows))]
    return examples(data.sources[:COUNT], shown_references, sweep.first(1.0, COUNT), early, num_layers)


class CalibrationData:
    """The examples, their references and labels, read once."""

    def __init__(self, args):
        self.path = args.data
        self.records = open_records(args.data)
        rows = range(len(self.records))
        self.rows = [(self.records[i], self.records.where(i)) for i in rows]
        template = jsonl.Template(args.source_field)
        self.sources = [template(*row) for row in self.rows]
        self.references = None
        if args.target_field is not None:
            target = jsonl.Template(args.target_field)
            self.references = [references([target], *row) for row in self.rows]

    def column(self, field):
        """A field's values as labels, or None where no field is named."""
        return None if field is None else [str(jsonl.value_of(record, field, where)) for record, where in self.rows]


def tolerances(args):
    """δ, or {metric: δ}."""
    if len(args.tolerance) not in (1, len(args.metric)):
        raise ValueError(f'{len(args.tolerance)} tolerances for {len(args.metric)} metrics; expected one, or one for each')
    if len(args.metric) == 1:
        return args.tolerance[0]
    each = args.tolerance * len(args.metric) if len(args.tolerance) == 1 else args.tolerance
    return dict(zip(args.metric, each))


def grid(args, data):
    """The thresholds that are known before any decoding; None where --grid_data is to give them."""
    if args.grid and args.grid_data:
        raise ValueError('--grid and --grid_data both say what to test; pass one')
    if args.grid_data:
        template = jsonl.Template(args.source_field)
        others = open_records(args.grid_data)
        own = set(data.sources)
        for i in range(len(others)):
            if template(others[i], others.where(i)) in own:
                raise ValueError(f'{others.where(i)}: also in {data.path}; grid data and calibration data must not overlap')
        return None
    if not args.grid:
        return PAPER_GRID
    thresholds = numbers(args.grid, '--grid')
    for threshold in thresholds:
        if not 0 <= threshold < 1:
            raise ValueError(f'--grid: {threshold} is no threshold; expected numbers in [0, 1)')
    return thresholds


def confidence_grid(args, model):
    """Thresholds from the confidences on data that is not calibrated on."""
    settings = decode_flags.settings(args, model)
    records, template = open_records(args.grid_data), jsonl.Template(args.source_field)
    texts = [template(records[i], records.where(i)) for i in range(len(records))]
    values = dataclasses.replace(settings, threshold=0.5).build(model.config, model.heads)
    confidences = layer_confidences(
        model,
        texts,
        values.exit.measure,
        max_new_tokens=settings.max_new_tokens,
        max_source_length=settings.max_source_length,
        plan=values.plan,
        min_exit_layer=settings.min_exit_layer,
        batch_size=args.batch_size,
        progress=partial(progress, quiet=args.quiet),
    )
    return quantile_grid(confidences.confidence[confidences.leaves])


def print_power(args):
    """How many examples give 90% power."""
    for name in ('checkpoint', 'data', 'records', 'output', 'trials'):
        if getattr(args, name) is not None:
            raise ValueError(f'--{name} changes nothing with --power, which decodes and writes nothing')
    if not args.tolerance or args.expected_loss is None:
        raise ValueError('--power needs --tolerance and --expected_loss')
    needed = [
        calibration.examples_needed(tolerance, args.expected_loss, args.epsilon, args.p_value)
        for tolerance in progress(args.tolerance, 'simulating calibrations', quiet=args.quiet, unit='δ')
    ]
    for tolerance, count in zip(args.tolerance, needed):
        least = calibration.least_n(args.p_value, tolerance, args.epsilon)
        print(
            f'δ = {tolerance:g}, ε = {args.epsilon:g}, {args.p_value}, expected loss {args.expected_loss:g}: '
            f'{count} examples give 90% power; below {least} nothing can be certified'
        )


def describe(certificate, line, trials):
    """The result in words."""
    print(certificate.guarantee)
    chosen = next((point for point in line['points'] if point['threshold'] == certificate.threshold), None)
    layers = chosen['layers'] if chosen else line['full']['layers']
    print(f'λ = {certificate.threshold:g}: {layers:.2f} of {line["num_layers"]} layers per token')
    for row in trials['tolerances'] if trials else []:
        print(
            f'{trials["trials"]} trials, δ = {row["tolerance"]:g}: risk {row["risk_mean"]:.4f} ± {row["risk_std"]:.4f}, '
            f'layers {row["layers_mean"]:.2f} ± {row["layers_std"]:.2f}, test mean above δ in '
            f'{row["share_test_above"]:.0%}, pool mean above δ in {row["share_pool_above"]:.0%}'
        )
    if trials:
        print(trials['note'])
