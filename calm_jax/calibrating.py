"""Calibration of a model: examples decoded at one point after another, their losses tested, until the first failure."""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from calm_jax import calibration
from calm_jax.calibration import Calibration, Certificate, Point
from calm_jax.curve import curve
from calm_jax.data.jsonl import Template, value_of
from calm_jax.data.references import references
from calm_jax.data.sources import SOURCE_FIELD, open_records
from calm_jax.decoding.codec import describe
from calm_jax.examples import examples, telling
from calm_jax.files import write_json
from calm_jax.measured import Losses, Measured, OutsideLosses, TextLosses, label
from calm_jax.metrics.objective import Objective
from calm_jax.metrics.quality import Metric, several
from calm_jax.model import Model
from calm_jax.progress import progress
from calm_jax.recorded import COST_UNIT, read, without_threshold
from calm_jax.request import BATCH_SIZE
from calm_jax.speed import measure_speed
from calm_jax.sweep import Paths, Sweep, dated_like, decoding_sweep, recorded_sweep
from calm_jax.tuning import FLOPS, SECONDS, TUNING, Tuned, check_cost, tuned_path


class CalibrationData:
    """Examples to calibrate on: their inputs, references and labels, read once.

    path: as `open_records` takes it. source_field: the field or template that makes the input of an example; target_field: that
    makes its reference text, or a list of them. Raises ValueError, naming the line, for an example that they make no text of.
    """

    def __init__(self, path: str | os.PathLike, source_field: str = SOURCE_FIELD, target_field: str | None = None):
        self.path, self.source_field = path, source_field
        self.records = open_records(path)
        self.rows = [(record, self.records.where(index)) for index, record in enumerate(self.records)]
        source = Template(source_field)
        self.sources = [source(*row) for row in self.rows]
        self.references = None
        if target_field is not None:
            target = Template(target_field)
            self.references = [references([target], *row) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def check_apart(self, other: 'CalibrationData') -> None:
        """Raises ValueError, naming the line, for an example whose input the other data have too."""
        known = set(other.sources)
        for source, (_, where) in zip(self.sources, self.rows):
            if source in known:
                raise ValueError(f'{where}: also in {other.path}; tuning data and calibration data must not overlap')

    def column(self, field: str | None) -> list[str] | None:
        """A field's values as labels; None where no field is named."""
        return None if field is None else [str(value_of(record, field, where)) for record, where in self.rows]


@dataclasses.dataclass(frozen=True)
class Promise:
    """What is to hold: E[loss] ≤ tolerance with probability 1 − ε over the calibration data; see `Calibration`.

    group_by, groups: fields of the examples.
    """

    tolerance: float | Mapping[str, float]
    epsilon: float = 0.05
    p_value: str = 'betting'
    procedure: str = 'fixed_sequence'
    seed: int = 0
    group_by: str | None = None
    groups: str | None = None
    joint: int = 1
    signed: bool = False

    def calibration(self, points: Sequence[float | Point], data: CalibrationData) -> Calibration:
        """The calibration of these points, nothing tested yet. Raises ValueError for anything out of place."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        options |= {'group_by': data.column(self.group_by), 'groups': data.column(self.groups)}
        return Calibration(points, **options)


def calibrate_model(
    model: Model | None,
    data: str | os.PathLike,
    points: Paths | Sequence[float] | None = None,
    *,
    tolerance: float | Mapping[str, float],
    metric: str | Metric | Sequence[str | Metric] | None = None,
    objective: str = 'textual',
    losses: str | os.PathLike | None = None,
    epsilon: float = 0.05,
    p_value: str = 'betting',
    procedure: str = 'fixed_sequence',
    seed: int = 0,
    group_by: str | None = None,
    groups: str | None = None,
    joint: int = 1,
    signed: bool = False,
    source_field: str | None = None,
    target_field: str | None = None,
    tuning_data: str | os.PathLike | None = None,
    cost: str = FLOPS,
    speed: bool = False,
    batch_size: int = BATCH_SIZE,
    records: str | os.PathLike | None = None,
    overwrite: bool = False,
    quiet: bool = True,
) -> Certificate:
    """The certificate of a model on calibration data; `generate(…, certificate=…)` decodes within it.

        points = calm.points_of(calm.Decoding(exit=calm.Exit(calm.SoftmaxGap())), [0.9, 0.8, 0.7])
        certificate = calm.calibrate_model(model, 'cal.jsonl', points, metric='rougeL', tolerance=0.1)

    model: None recomputes from `records`. data: JSONL of examples, draws of what the guarantee is to cover. points: ways to
    decode, in test order, chosen without looking at `data`; without a model the λ of those of the records to test (None: all).
    Several paths of points, each in its own order, share ε evenly, and the cheapest valid point of them all is certified. With
    tuning_data, other examples, one path is chosen among all points: those that nothing undercuts there in cost and loss, from
    the safest to the cheapest, at the whole of ε.
    cost: 'flops' per token; or with tuning_data 'seconds' per text, measured there at this batch size. Either may decide among
    valid points, which hold at once. speed: also measure how fast the certified point is, for the certificate; with seconds it
    always is.
    tolerance, epsilon, p_value, procedure, seed, joint, signed: the promise, as `Calibration` takes it; {metric: δ} for several
    metrics. metric: in [0, 1] per example, by name or a function (predictions, references) → [B] of one's own, which decides
    the losses with objective: 'textual' against the full model's text, 'risk' against references. losses: a file of losses from
    outside in their place (`OutsideLosses`), which needs records.
    source_field, target_field, group_by, groups: fields of the examples ('source' where the records say nothing else).
    records: a folder to keep what was decoded, with curve.json and examples.json; records there that fit are kept, others
    replaced with overwrite. quiet: no progress bars.

    Raises ValueError or OSError, in one line, before anything is decoded where that can be known, for whatever is out of place.
    """
    metrics = [] if metric is None else several(metric)
    if model is None:
        if records is None:
            raise ValueError('without a model, records must name the folder of an earlier calibration')
        source_field = source_field or read(records).data['source_field']
    check_cost(cost, tuning_data is not None, losses is not None)
    if speed and model is None:
        raise ValueError('speed needs a model, which is what is timed')
    examples_ = CalibrationData(data, source_field or SOURCE_FIELD, target_field)
    tuning = None if tuning_data is None else CalibrationData(tuning_data, examples_.source_field, target_field)
    promise = Promise(tolerance, epsilon, p_value, procedure, seed, group_by, groups, joint, signed)
    text_losses = check(promise, examples_, metrics, objective, losses, records)
    if tuning is not None:
        tuning.check_apart(examples_)
    with folder(records) as directory:
        if model is None:
            sweep = recorded_sweep(directory, examples_.records)
            chosen = sweep.recorded.points if points is None else sweep.recorded.at(_thresholds(points), str(directory))
        else:
            if points is None:
                raise ValueError('points is None; expected ways to decode, in test order: see points_of')
            model = dated_like(model, directory, examples_.sources)
            sweep = sweep_of(model, cast(Paths, points), examples_, directory, batch_size, overwrite, quiet)
            chosen = sweep.recorded.points
        tuned = None
        if tuning is not None:
            tuning_losses = check(promise, tuning, metrics, objective, None, records, enough=False)
            assert tuning_losses is not None  # checked
            tuned = tune(model, cast(Paths, points), sweep, chosen, promise, tuning, tuning_losses, cost, overwrite, quiet)
            chosen = tuned.points
        measured = text_losses
        if measured is None:
            assert losses is not None  # checked
            measured = OutsideLosses(losses, sweep)
        certificate = certify(sweep, chosen, promise, examples_, measured, tuned)
        if (speed or cost == SECONDS) and model is not None and certificate.found:
            certificate = with_speed(certificate, model, sweep, tuning or examples_, quiet)
        if records is not None:
            write_results(sweep, examples_, measured, certificate)
    return certificate


def _thresholds(points: Paths | Sequence[float]) -> list[float]:
    """The λ of points of records. Raises TypeError for a Decoding."""
    for point in points:
        if not isinstance(point, int | float):
            raise TypeError(f'points are of records, without a model, and one is {type(point).__name__}; expected its λ')
    return [float(point) for point in points if isinstance(point, int | float)]


def check(
    promise: Promise,
    data: CalibrationData,
    metrics: Sequence[str | Metric],
    objective: str,
    losses: str | os.PathLike | None,
    records: str | os.PathLike | None,
    enough: bool = True,
) -> TextLosses | None:
    """The losses of texts that are promised; None where they come from outside.

    Raises ValueError for a promise that contradicts itself or, if there must be enough, that so few examples cannot give,
    before anything is decoded.
    """
    if losses is not None and metrics:
        raise ValueError('a metric and losses: losses from outside need no metric; leave one of the two out')
    if losses is not None and records is None:
        raise ValueError('losses need records: the folder of what was decoded, which they are of')
    if losses is None and not metrics:
        raise ValueError('metric is missing: quality in [0, 1] per example, of which losses are made')
    if enough:
        promise.calibration([0.5], data).check_enough(len(data))
    if losses is not None:
        return None
    compared = Objective(objective, metrics, data.references, promise.signed)
    if promise.p_value == 'binomial' and not compared.binary:
        raise ValueError("p_value 'binomial' is for losses of 0 and 1: metric accuracy or exact_match, unsigned; use 'betting'")
    return TextLosses(compared)


@contextlib.contextmanager
def folder(records: str | os.PathLike | None) -> Iterator[Path]:
    """The folder of records; one that is gone afterwards where none is named."""
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(records or temporary)


def sweep_of(
    model: Model,
    points: Paths,
    data: CalibrationData,
    directory: str | os.PathLike,
    batch_size: int,
    overwrite: bool = False,
    quiet: bool = True,
) -> Sweep:
    """The sweep of data at points, decoded by a model into a folder when they are asked for."""
    return decoding_sweep(
        model, points, data.records, data.source_field, directory, batch_size=batch_size, overwrite=overwrite, quiet=quiet
    )


def tune(
    model: Model | None,
    paths: Paths,
    sweep: Sweep,
    points: Sequence[Point],
    promise: Promise,
    data: CalibrationData,
    measured: Measured,
    cost: str = FLOPS,
    overwrite: bool = False,
    quiet: bool = True,
) -> Tuned:
    """The path through points of a sweep that tuning data choose, whose records go to a folder inside the sweep's.

    model: None where those records are there, in which case paths are not read. Raises ValueError where nothing is cheaper
    there than full depth.
    """
    directory, batch_size = sweep.directory / TUNING, sweep.recorded.environment['batch_size']
    if model is None:
        tuning = recorded_sweep(directory, data.records)
    else:
        tuning = sweep_of(model, paths, data, directory, batch_size, overwrite, quiet)
    return tuned_path(model, tuning, points, promise.calibration(points, data), measured, data.sources, cost, quiet)


def certify(
    sweep: Sweep,
    points: Sequence[Point],
    promise: Promise,
    data: CalibrationData,
    measured: Measured,
    tuned: Tuned | None = None,
) -> Certificate:
    """The certificate of points of a sweep. Nothing behind the first failure of a path is decoded.

    tuned: what chose the points, whose cost stays where it is of seconds.
    """
    test = promise.calibration(points, data)
    test.check_enough(len(data))  # for the share of ε that a path has, before anything is decoded
    while (point := test.point) is not None:
        cost = sweep.cost(point.decoding) if tuned is None or tuned.cost_unit == COST_UNIT else None
        test.observe(known_losses(measured, sweep, point), cost)
    name, *others = measured.names
    return test.certificate(
        measured.objective,
        [name, *others] if others else name,
        measured.versions(),
        provenance={**sweep.recorded.provenance, **({} if tuned is None else {'tuning': tuned.provenance})},
        full=sweep.recorded.full,
        cost_unit=COST_UNIT if tuned is None else tuned.cost_unit,
    )


def with_speed(certificate: Certificate, model: Model, sweep: Sweep, data: CalibrationData, quiet: bool = True) -> Certificate:
    """The certificate with the speed of its point against full depth, measured on texts of the data."""
    decoding, batch_size = sweep.decoding(certificate.decoding), sweep.recorded.environment['batch_size']
    return dataclasses.replace(certificate, speed=measure_speed(model, decoding, data.sources, batch_size, quiet=quiet))


def known_losses(measured: Measured, sweep: Sweep, point: Point) -> Losses:
    """The losses at a point that is tested. Raises ValueError where they are not known."""
    losses = measured.losses(sweep, point)
    if losses is None:
        raise ValueError(f'no losses at {label(point)}, which is tested next')
    return losses


def decode_points(sweep: Sweep) -> None:
    """Decodes all points of a sweep, with nothing tested."""
    for point in sweep.recorded.points:
        sweep.at(point.decoding)


def write_results(
    sweep: Sweep, data: CalibrationData, measured: Measured, certificate: Certificate, provenance: Mapping | None = None
) -> dict:
    """Writes curve.json, of all points whose records are there and fit, and examples.json beside the records; the curve.

    Of several paths each has its own, curves/NAME/curve.json, and that of the certified point is returned, or of the first.
    provenance: of the curves, as `calm report` prints it.
    """
    for point in sweep.fitting():
        sweep.at(point.decoding)
    names, requested, lines = names_of(sweep.recorded.points), sweep.requested_points(), {}
    folders = _folders(names)
    for stale in [sweep.directory / 'curve.json', *sweep.directory.glob('curves/*/curve.json')]:
        stale.unlink(missing_ok=True)  # of other paths through the same records
    for path, name in names.items():
        if points := [point for point in requested if point.path == path]:
            lines[path] = curve(sweep, measured, name, kind_of(name), certificate, points)
            content = {**lines[path], **({} if provenance is None else {'provenance': provenance})}
            write_json(sweep.directory / folders[path] / 'curve.json', content, make_folders=True)
    chosen = next((point.path for point in requested if point.decoding == certificate.decoding), next(iter(lines)))
    write_json(sweep.directory / 'examples.json', shown_examples(sweep, data, certificate, names[chosen]))
    return lines[chosen]


def names_of(points: Sequence[Point]) -> dict[int, str]:
    """What each path of points is called in curves and trials: its measure, where it has one that no other path has, else what
    is decoded."""
    paths: dict[int, list[dict]] = {}
    for point in points:
        paths.setdefault(point.path, []).append(point.decoding)
    measures = {path: _measure(documents) for path, documents in paths.items()}
    names = {}
    for path, documents in paths.items():
        ends = [documents[0], documents[-1]]
        if len(paths) > 1 and measures[path]:
            ends = [without_threshold(document) for document in ends]
        alone = list(measures.values()).count(measures[path]) == 1
        named = ' … '.join(dict.fromkeys(describe(document) for document in ends))
        names[path] = measures[path] if measures[path] and alone else named
    return names


def _measure(documents: Sequence[dict]) -> str:
    """The measure that all have; '' where there is none."""
    names = {document.get('exit', {}).get('measure', {}).get('class', '') for document in documents}
    return names.pop() if len(names) == 1 else ''


def _folders(names: Mapping[int, str]) -> dict[int, Path]:
    """Where the curve of each path stands in the folder of records: by its name, where there are several."""
    if len(names) == 1:
        return dict.fromkeys(names, Path())
    words = {path: re.sub(r'[^\w.]+', '_', name).strip('_')[:100] for path, name in names.items()}
    unique = {path: word if list(words.values()).count(word) == 1 else f'{word}_{path}' for path, word in words.items()}
    return {path: Path('curves', word) for path, word in unique.items()}


def kind_of(name: str) -> str:
    """What curve.json says its points are: of a measure that can be decoded by, of static depth, of an oracle."""
    return name if name in ('oracle', 'static') else 'measure'


def shown_examples(sweep: Sweep, data: CalibrationData, certificate: Certificate, name: str) -> dict:
    """What examples.json holds: the full model's outputs, and those at the certified point, if there is one."""
    early, full = {}, sweep.full.texts
    rows = telling(full, sweep.at(certificate.decoding).texts if certificate.found else full)
    if certificate.found:
        tolerance = certificate.tolerance
        promised = tolerance.items() if isinstance(tolerance, dict) else [('', tolerance)]
        words = ', '.join(f'{value:g} {risk}'.strip() for risk, value in promised)
        early[f'{name}, δ = {words}'] = sweep.records(certificate.decoding, rows)
    return examples(
        [data.sources[row] for row in rows],
        [None if data.references is None else data.references[row][0] for row in rows],
        sweep.records(sweep.recorded.full, rows),
        early,
        sweep.recorded.sizes.layers,
        sweep.recorded.data['name'],
    )


def sweep_trials(
    sweep: Sweep,
    points: Sequence[Point],
    promise: Promise,
    data: CalibrationData,
    measured: Measured,
    tolerances: Sequence[float],
    trials: int,
    quiet: bool = True,
) -> dict:
    """What trials.json holds: the paper's random 80/20 trials; points are decoded until every trial has stopped."""
    options = {
        'epsilon': promise.epsilon,
        'p_value': promise.p_value,
        'trials': trials,
        'seed': promise.seed,
        'group_by': data.column(promise.group_by),
        'signed': promise.signed,
    }
    columns, layers, running = [], [], list(tolerances)
    for point in points:
        columns.append(known_losses(measured, sweep, point))
        layers.append(sweep.at(point.decoding).layers)
        losses = np.stack(columns, axis=1)
        running = [
            tolerance
            for tolerance in progress(running, f'trials at {label(point)}', quiet=quiet, unit='δ')
            if calibration.trials_running(losses, tolerances=[tolerance], **options)
        ]
        if not running:
            break
    each = [
        calibration.run_trials(
            losses,
            np.stack(layers, axis=1),
            points,
            tolerances=[tolerance],
            num_layers=sweep.recorded.sizes.layers,
            label=' … '.join(dict.fromkeys(names_of(points).values())),
            objective=measured.objective or '',
            metric=measured.names[0],
            **options,
        )
        for tolerance in progress(tolerances, 'trials', quiet=quiet, unit='δ')
    ]
    return {**each[0], 'tolerances': [row for trials in each for row in trials['tolerances']]}
