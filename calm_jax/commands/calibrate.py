"""Find the point that keeps a promise: E[loss] ≤ δ with probability 1 − ε over the calibration data.

    calm calibrate --checkpoint DIR --data cal.jsonl --source_field en --measure softmax_gap --metric rougeL \\
        --objective textual --tolerance 0.1 --epsilon 0.05 --output c.json
    calm calibrate --power --tolerance 0.02 --expected_loss 0.006
    calm calibrate --records DIR --data cal.jsonl --metric rougeL --tolerance 0.2 --output c2.json    # no model needed

Thresholds are decoded from the top and the first failed test stops the search (fixed-sequence testing); of those that passed,
the one with the fewest FLOPs per token is certified. The certificate records all that the guarantee depends on; `calm generate
--certificate` decodes within it.

Several measures, vocabularies, threshold forms and plans, and their options, are given by repeating flags, and one certificate
is found for all combinations; `none` stands for no measure or no plan:

    calm calibrate … --measure softmax_gap --measure state --vocabulary whole --vocabulary fixed --plan none --plan uniform:8
    calm calibrate … --measure softmax_gap --measure state --grid .99,.95,.9 --grid .98,.97,.96    # a grid for each measure
    calm calibrate … --measure softmax_gap --measure state --tuning_data tune.jsonl --cost seconds --measure_speed

An option is of all combinations that have a use for it. Each combination is a sequence of its own, and they share ε evenly.
With --tuning_data, examples that --data must not share, one sequence through all of them is chosen and has the whole of ε: what
nothing undercuts there in cost and loss, and is cheaper than full depth, from the safest to the cheapest (Pareto testing).

A metric of one's own is --metric package.module:function, a function of predictions (B texts) and references (for each a list
of texts) that returns B numbers in [0, 1].

Losses from outside, as of people or of a service, take two steps. The first decodes every point into a folder:

    calm calibrate --checkpoint DIR --data cal.jsonl --measure softmax_gap --records RECORDS --whole_grid
    calm calibrate --records RECORDS --data cal.jsonl --losses losses.jsonl --tolerance 0.1 --output c.json

The texts to score are in full.jsonl and in the point_*.jsonl files that records.json lists. FILE then holds a line for each
example, with the id of its record and its loss in [0, 1] by point, named by λ or by the digits in the name of the point's file:

    {"id": "row 3", "losses": {"0.9": 0.12, "0f3c1a2b4d5e": 0.4}}
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from calm_jax import calibration, recorded
from calm_jax.analysis.confidences import layer_confidences
from calm_jax.analysis.grid import quantile_grid
from calm_jax.calibrating import (
    CalibrationData,
    Promise,
    certify,
    check,
    decode_points,
    folder,
    sweep_of,
    sweep_trials,
    tune,
    with_speed,
    write_results,
)
from calm_jax.calibration import Certificate, Point
from calm_jax.commands import decode_flags, own
from calm_jax.commands.flag_types import numbers
from calm_jax.commands.option_flags import NONE
from calm_jax.commands.provenance import provenance
from calm_jax.commands.trials import check_trials, check_trials_of, trial_tolerances
from calm_jax.compilation import use_compilation_cache
from calm_jax.data.jsonl import Template
from calm_jax.data.sources import SOURCE_FIELD, open_records
from calm_jax.decoding.codec import describe as decoded_as
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.layout import at
from calm_jax.depth.exits import Exit
from calm_jax.files import write_json
from calm_jax.measured import OutsideLosses
from calm_jax.metrics import quality
from calm_jax.metrics.objective import KINDS
from calm_jax.model import Model, load
from calm_jax.outputs import check_file
from calm_jax.progress import progress
from calm_jax.request import BATCH_SIZE
from calm_jax.speed import in_words
from calm_jax.sweep import Sweep, dated_like, folder_name, points_of, recorded_sweep
from calm_jax.tuning import COSTS, FLOPS, SECONDS, check_cost

RECORDS_FOLDER = 'calm_records'  # holds what is kept where nothing else is said
PAPER_GRID = [round(1 - 0.05 * step, 2) for step in range(1, 20)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `calm calibrate`."""
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
        help="loss against the full model's text, or increase of risk against references (default textual)",
    )
    promise.add_argument(
        '--metric',
        action='append',
        metavar='NAME',
        help='quality in [0, 1] per example; repeat for several risks at once: '
        f'{", ".join(quality.METRICS)}, or package.module:function',
    )
    promise.add_argument('--losses', metavar='FILE', help='losses from outside instead of a metric, JSONL (see above)')
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
    grid.add_argument(
        '--grid',
        action='append',
        metavar='λ,λ,…',
        help='thresholds in test order; one for all measures, or one for each (default .95, .90, … .05, or of the records)',
    )
    grid.add_argument(
        '--grid_data',
        metavar='FILE',
        help='20 confidence quantiles of this data, which --data must not share (default: of --tuning_data)',
    )
    grid.add_argument(
        '--tuning_data', metavar='FILE', help='choose what is tested, and in which order, on this data, not shared with --data'
    )
    grid.add_argument(
        '--cost',
        choices=COSTS,
        default=FLOPS,
        help='what is to be small: flops per token, or seconds per text on --tuning_data at --batch_size (default flops)',
    )
    grid.add_argument(
        '--whole_grid', action='store_true', help='decode the whole grid, for the trade-off curve or for --losses'
    )
    output = parser.add_argument_group('output')
    output.add_argument('--output', metavar='FILE', help='certificate to write')
    output.add_argument(
        '--records',
        metavar='DIR',
        help='keep what was decoded here, with curve.json and examples.json, and recompute from it (default: a folder named by '
        f"the data's fingerprint in {RECORDS_FOLDER}, beside --output; {NONE}: keep nothing)",
    )
    output.add_argument(
        '--overwrite',
        action='store_true',
        help='replace the certificate, and records made otherwise; records that fit are kept and continued',
    )
    output.add_argument(
        '--measure_speed',
        action='store_true',
        help='time what was certified against full depth, at --batch_size, and keep it in the certificate',
    )
    output.add_argument('--trials', type=int, metavar='K', help="also the paper's K random 80/20 trials, to trials.json")
    output.add_argument('--trial_tolerances', metavar='δ,δ,…', help='of the trials (default: --tolerance)')
    power = parser.add_argument_group('power')
    power.add_argument('--power', action='store_true', help='print how many examples give 90%% power, and stop')
    power.add_argument('--expected_loss', type=float, metavar='X', help='the mean loss that --power supposes')
    decode_flags.add_decoding(parser, threshold=False, several=True)


def run(args: argparse.Namespace) -> None:
    """Decodes, tests, and writes everything the flags ask for."""
    if args.power:
        print_power(args)
        return
    check_flags(args)
    metrics = [own.metric(each) for each in args.metric or ()]
    source_field = args.source_field or SOURCE_FIELD if args.checkpoint else recorded_source_field(args)
    data = CalibrationData(args.data, source_field, args.target_field)
    thresholds = grid(args, data)
    if only_decodes(args):
        text_losses = promise = None
    else:
        # What is wrong with the promise, or too little for it, is said before anything is decoded.
        promise = promise_of(args, [quality.metric_name(each) for each in metrics])
        text_losses = check(promise, data, metrics, args.objective or 'textual', args.losses, args.records)
    tuning = None
    if args.tuning_data and promise is not None:
        tuning = CalibrationData(args.tuning_data, source_field, args.target_field)
        tuning.check_apart(data)
        tuning_losses = check(promise, tuning, metrics, args.objective or 'textual', None, args.records, enough=False)
    warn_of_copies(args, data)
    use_compilation_cache()
    model = load(args.checkpoint, args.dtype).at(args.date) if args.checkpoint else None
    if model is not None:
        decode_flags.check_date(args, model, data.sources)
    paths = [] if model is None else candidates(args, model, thresholds)
    kept = records_folder(args, model, paths, data, tuning)
    with folder(kept) as directory, resumable(kept):
        check_trials_of(args, len(paths))
        model = model and dated_like(model, directory, data.sources)
        sweep, points = opened(args, model, paths, data, thresholds, directory)
        check_trials_of(args, len({point.path for point in points}))
        if promise is None:
            decode_points(sweep)
            if not args.quiet:
                print(f'{directory}: full depth and {len(points)} points; {recorded.RECORDS} lists their files')
            return
        tuned = None
        if tuning is not None:
            assert tuning_losses is not None  # of texts, as losses from outside are refused
            tuned = tune(model, paths, sweep, points, promise, tuning, tuning_losses, args.cost, args.overwrite, args.quiet)
        tested = points if tuned is None else tuned.points
        measured = text_losses or OutsideLosses(args.losses, sweep)
        certificate = certify(sweep, tested, promise, data, measured, tuned)
        if (args.measure_speed or args.cost == SECONDS) and model is not None and certificate.found:
            certificate = with_speed(certificate, model, sweep, tuning or data, args.quiet)
        trials = None
        if args.trials:
            trials = sweep_trials(sweep, tested, promise, data, measured, trial_tolerances(args), args.trials, args.quiet)
        if args.whole_grid:
            for point in points:
                sweep.at(point.decoding)
        source = provenance(
            'calibrate',
            args,
            seed=args.permutation_seed,
            settings=points[0].decoding,
            fingerprints=sweep.recorded.fingerprints,
            data=sweep.recorded.data,
        )
        line = write_results(sweep, data, measured, certificate, source)
        if trials:
            write_json(directory / 'trials.json', {**trials, 'provenance': source})
    if args.output:
        certificate.save(args.output)
    if not args.quiet:
        describe(certificate, line, trials)
        if args.records != NONE:
            print(f'{directory}: what was decoded; calm report draws it, and --records recomputes from it without a model')


def records_folder(
    args: argparse.Namespace,
    model: Model | None,
    paths: list[list[Decoding]],
    data: CalibrationData,
    tuning: CalibrationData | None,
) -> Path | None:
    """Where what is decoded is kept; None: nowhere. Where nothing is said, other data or settings have another folder."""
    if args.records == NONE:
        return None
    if args.records is not None:
        return Path(args.records)
    assert model is not None  # without one, the flags were refused
    name = folder_name(model, paths, data.records, data.source_field, args.batch_size or BATCH_SIZE)
    if tuning is not None:
        name += f'_{tuning.records.fingerprint()[: recorded.DIGITS]}'
    return Path(args.output or '').parent / RECORDS_FOLDER / name


@contextlib.contextmanager
def resumable(directory: Path | None) -> Iterator[None]:
    """Says how to go on, where what was decoded is kept, when a `with` block is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if directory is None or not directory.is_dir():
            raise
        raise KeyboardInterrupt(f'what was decoded is kept in {directory}: the same command goes on after it') from None


def only_decodes(args: argparse.Namespace) -> bool:
    """Whether the grid is decoded and no promise made: the first step of losses from outside."""
    promises = (args.metric, args.losses, args.tolerance, args.output, args.trials, args.tuning_data, args.measure_speed)
    return bool(args.whole_grid and args.checkpoint) and not any(promises)


def check_flags(args: argparse.Namespace) -> None:
    """Raises ValueError or OSError for what is missing, would decide nothing, or cannot be written."""
    if args.expected_loss is not None:
        raise ValueError('--expected_loss changes nothing without --power')
    if not args.data:
        raise ValueError('--data is missing; see calm calibrate --help')
    if args.whole_grid and args.records == NONE:
        raise ValueError(f'--whole_grid needs records, and --records {NONE} keeps none; leave one of the two out')
    if not only_decodes(args):
        for name in ('metric', 'tolerance'):
            if not getattr(args, name) and not (name == 'metric' and args.losses):
                raise ValueError(f'--{name} is missing; see calm calibrate --help')
        check_trials(args)
        if not args.output and args.trials is None:
            raise ValueError('--output is missing: the certificate to write')
    if args.losses:
        for name, value in (('metric', args.metric), ('objective', args.objective)):
            if value is not None:
                raise ValueError(
                    f'--losses and --{name}: losses from outside are of neither metric nor objective; leave one out'
                )
        if args.records in (None, NONE):
            raise ValueError('--losses needs --records, the folder of what was decoded, which they are of')
    check_cost(args.cost, args.tuning_data is not None, args.losses is not None)
    if args.output:
        check_file(args.output, args.overwrite, [args.data, args.grid_data, args.tuning_data, args.losses])
    if 'threshold' in at(args.decode_flags.bound, ('exit',)):
        raise ValueError('Exit.threshold is set by gin, and calibration is what finds it; leave the binding out')
    if args.checkpoint:
        return
    if args.grid_data:
        raise ValueError(
            '--grid_data needs a model to look at it: pass --checkpoint, or leave the flag out to test the grid of the records'
        )
    if args.measure_speed:
        raise ValueError('--measure_speed needs a model, which is what is timed: pass --checkpoint')
    for name in ('batch_size', 'dtype', 'date'):
        if (value := getattr(args, name)) is not None:
            raise ValueError(f'--{name} {value} is of decoding, and without --checkpoint nothing is decoded; leave it out')


def recorded_source_field(args: argparse.Namespace) -> str:
    """What inputs were made of when the records were decoded. ValueError where there are none, or a flag says otherwise."""
    if args.records in (None, NONE) or not (Path(args.records) / recorded.RECORDS).is_file():
        raise ValueError('--checkpoint is missing; without a model, --records must name the records of an earlier run')
    source_field = recorded.read(args.records).data['source_field']
    if args.source_field not in (None, source_field):
        raise ValueError(f'--source_field {args.source_field}: the records in {args.records} were decoded with {source_field}')
    return source_field


def promise_of(args: argparse.Namespace, names: Sequence[str]) -> Promise:
    """What the flags promise of metrics of these names."""
    return Promise(
        tolerances(args.tolerance, names),
        args.epsilon,
        args.p_value,
        seed=args.permutation_seed,
        group_by=args.group_by,
        groups=args.groups,
        joint=args.joint,
        signed=args.signed,
    )


def tolerances(given: Sequence[float], names: Sequence[str]) -> float | dict[str, float]:
    """δ, or {metric: δ}."""
    if len(given) not in (1, len(names)):
        raise ValueError(f'{len(given)} tolerances for {len(names) or 1} metrics; expected one, or one for each')
    if len(names) <= 1:
        return given[0]
    return dict(zip(names, list(given) * len(names) if len(given) == 1 else given))


def warn_of_copies(args: argparse.Namespace, data: CalibrationData) -> None:
    """Says on standard error that examples are no independent draws where some are the same."""
    if not args.quiet and (distinct := len(set(data.sources))) < len(data):
        print(
            f'calm calibrate: warning: {len(data):,} examples, {distinct:,} of them distinct: the guarantee takes '
            'them for independent draws, which copies of one draw are not',
            file=sys.stderr,
        )


def grid(args: argparse.Namespace, data: CalibrationData) -> list[list[float]] | None:
    """The thresholds that are known before any decoding, for all measures or for each; None where --grid_data, --tuning_data or
    the records are to give them."""
    if args.grid and args.grid_data:
        raise ValueError('--grid and --grid_data both say what to test; pass one')
    if args.grid_data:
        template = Template(args.source_field or SOURCE_FIELD)
        others = open_records(args.grid_data)
        known = set(data.sources)
        for i, other in enumerate(others):
            if template(other, others.where(i)) in known:
                raise ValueError(f'{others.where(i)}: also in {data.path}; grid data and calibration data must not overlap')
        return None
    if not args.grid:
        return [PAPER_GRID] if args.checkpoint and not args.tuning_data else None
    grids = [numbers(each, '--grid') for each in args.grid]
    for threshold in itertools.chain(*grids):
        if not 0 <= threshold < 1:
            raise ValueError(f'--grid: {threshold} is no threshold; expected numbers in [0, 1)')
    measures = [each for each in getattr(args, 'measure', ()) if each != NONE]
    if len(grids) not in (1, len(measures)):
        raise ValueError(f'{len(grids)} grids for {len(measures) or 1} measures; expected one, or one for each')
    if len(grids) > 1 and len(set(measures)) < len(measures):
        twice = next(each for each in measures if measures.count(each) > 1)
        raise ValueError(f'--measure {twice} is given more than once, and each has a grid of its own; name it once')
    return grids


def candidates(args: argparse.Namespace, model: Model, grids: list[list[float]] | None) -> list[list[Decoding]]:
    """The paths of points that the flags make of a model: each combination with a measure at its λ, in test order, and those
    without one together, in the order of the flags."""
    paths, others = [], []
    for decoding, measure in decode_flags.candidates_of(args, model):
        if decoding.exit is None:
            others.append(decoding)
            continue
        if grids is None:
            thresholds = confidence_grid(args, model, decoding, decoding.exit)
        else:
            thresholds = grids[measure or 0] if len(grids) > 1 else grids[0]
        paths.append(points_of(decoding, thresholds))
    if not paths and not others:
        raise ValueError('--measure is missing: the confidence whose threshold is to be calibrated')
    if args.grid and not paths:
        raise ValueError(
            '--grid changes nothing without --measure; a plan is named at each of its dials, as in --plan policy:.9'
        )
    return [*paths, others] if others else paths


def opened(
    args: argparse.Namespace,
    model: Model | None,
    paths: list[list[Decoding]],
    data: CalibrationData,
    grids: list[list[float]] | None,
    directory: Path,
) -> tuple[Sweep, Sequence[Point]]:
    """The sweep of the flags, by a model at paths or of records alone, and those of its points that are to be tested.

    Raises ValueError for flags of decoding that say otherwise than the records.
    """
    if model is not None:
        batch_size = args.batch_size or BATCH_SIZE
        sweep = sweep_of(model, paths, data, directory, batch_size, args.overwrite, args.quiet)
        return sweep, sweep.recorded.points
    sweep = recorded_sweep(directory, data.records)
    points = sweep.recorded.points if grids is None else sweep.recorded.at(grids[0], str(directory))
    for name, value, has in decode_flags.otherwise(args, points[0].decoding, sweep.recorded.sizes):
        raise ValueError(f'--{name} {value}: the records in {directory} were decoded with {has}')
    return sweep, points


def confidence_grid(args: argparse.Namespace, model: Model, decoding: Decoding, exit: Exit) -> list[float]:
    """Thresholds of an exit from the confidences on data that is not calibrated on."""
    records, template = open_records(args.grid_data or args.tuning_data), Template(args.source_field or SOURCE_FIELD)
    confidences = layer_confidences(
        model,
        [template(record, records.where(i)) for i, record in enumerate(records)],
        exit.measure,
        decoding,
        min_exit_layer=exit.min_exit_layer,
        adapters=exit.adapters,
        batch_size=args.batch_size or BATCH_SIZE,
        progress=partial(progress, quiet=args.quiet),
    )
    return quantile_grid(confidences.confidence[confidences.leaves])


def print_power(args: argparse.Namespace) -> None:
    """How many examples give 90% power."""
    for name in ('checkpoint', 'data', 'records', 'losses', 'output', 'trials'):
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


def describe(certificate: Certificate, line: dict, trials: dict | None) -> None:
    """The result in words."""
    print(certificate.guarantee)
    chosen = next((point for point in line['points'] if point['decoding'] == certificate.decoding), line['full'])
    words = decoded_as(certificate.decoding)
    share = chosen['flops'] / line['full']['flops']
    flops = f', {share:.2f} × the FLOPs of full depth' if certificate.found else ''
    print(f'{words}: {chosen["layers"]:.2f} of {line["num_layers"]} layers per token{flops}')
    tested = sum(point.p_value is not None for point in certificate.grid)
    if (paths := len({point.path for point in certificate.grid})) > 1:
        print(f'{tested} of {len(certificate.grid)} settings of {paths} sequences tested, at ε/{paths} each')
    elif tuning := certificate.provenance.get('tuning'):
        print(f'{tested} of {len(certificate.grid)} settings tested that tuning data chose among {tuning["candidates"]}')
    if certificate.speed is not None:
        print(f'measured: {in_words(certificate.speed)}')
    elif certificate.found:
        print('its speed was not measured: --measure_speed does')
    if not trials:
        return
    for row in trials['tolerances']:
        print(
            f'{trials["trials"]} trials, δ = {row["tolerance"]:g}: risk {row["risk_mean"]:.4f} ± {row["risk_std"]:.4f}, '
            f'layers {row["layers_mean"]:.2f} ± {row["layers_std"]:.2f}, test mean above δ in '
            f'{row["share_test_above"]:.0%}, pool mean above δ in {row["share_pool_above"]:.0%}'
        )
    print(trials['note'])
