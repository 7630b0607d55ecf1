"""A path through many candidates, chosen on tuning data: the cheapest that lose little there, from the safest on."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from calm_jax.calibration import Calibration, Point, pareto_path
from calm_jax.certified import speed_conditions
from calm_jax.files import read_json, write_json
from calm_jax.measured import Measured, label
from calm_jax.model import Model
from calm_jax.recorded import COST_UNIT
from calm_jax.speed import few, time_decodings
from calm_jax.sweep import Sweep

TUNING = 'tuning'  # the folder of its records, inside that of the calibration's
SECONDS_FILE = 'seconds.json'
FLOPS, SECONDS = 'flops', 'seconds'
COSTS = (FLOPS, SECONDS)


class Tuned(NamedTuple):
    """points: one path, in test order. cost_unit: of their costs. provenance: of the path: the data, how many candidates they
    were, and what full depth costs there."""

    points: list[Point]
    cost_unit: str
    provenance: dict[str, Any]


class Seconds(NamedTuple):
    """seconds: of a text, by the name of a point's file. unit: in words, with what they were measured on."""

    seconds: dict[str, float]
    unit: str


def check_cost(cost: str, tuned: bool, outside: bool) -> None:
    """Raises ValueError for an unknown cost, for seconds without tuning data, and for tuning with losses from outside."""
    if cost not in COSTS:
        raise ValueError(f'cost is {cost!r}; expected one of {", ".join(COSTS)}')
    if cost == SECONDS and not tuned:
        raise ValueError('cost is seconds, which are measured on tuning data; name those too, or let FLOPs decide')
    if tuned and outside:
        raise ValueError('losses from outside are of the calibration data alone; leave them or the tuning data out')


def tuned_path(
    model: Model | None,
    sweep: Sweep,
    points: Sequence[Point],
    calibration: Calibration,
    measured: Measured,
    texts: Sequence[str],
    cost: str = FLOPS,
    quiet: bool = True,
) -> Tuned:
    """One path through points, by what they cost and lose on the tuning data that a sweep is of.

    calibration: of these data, which tests nothing. A path of thresholds is decoded until the tuning losses alone reject that
    it keeps its promise: what lies behind is bolder. Points without a threshold stand in any order, and are decoded all of
    them. Points that cost no less than full depth, which needs no test, are left out.
    Raises ValueError where that leaves none.
    """
    candidates, unsafe, hopeless = [], [], set()
    for point in points:
        if point.path in hopeless:
            continue
        losses = measured.losses(sweep, point)
        if losses is None:
            raise ValueError(f'no losses of the tuning data at {label(point)}')
        danger, beyond = calibration.foreseen(losses, point)
        candidates.append(point)
        unsafe.append(danger)
        if beyond and point.threshold is not None:
            hopeless.add(point.path)
    seconds, full = None, sweep.cost(sweep.recorded.full)
    costs = [sweep.cost(point.decoding) for point in candidates]
    if cost == SECONDS:
        seconds = _recorded_seconds(sweep) if model is None else _measured_seconds(model, sweep, candidates, texts, quiet)
        full = _of(sweep.recorded.full, sweep, seconds)
        costs = [_of(point.decoding, sweep, seconds) for point in candidates]
    unit = COST_UNIT if seconds is None else seconds.unit
    path = pareto_path(costs, unsafe, below=full)
    if not path:
        raise ValueError(
            f'none of {len(points)} candidates is cheaper than full depth on the tuning data ({full:.4g} {unit}): there is '
            'nothing to certify; decode at full depth, or try other measures'
        )
    provenance = {
        'data': sweep.recorded.data,
        'candidates': len(points),
        'decoded': len(candidates),
        'cost_unit': unit,
        'cost_full': full,
    }
    tested = [dataclasses.replace(candidates[index], path=0, cost=None if seconds is None else costs[index]) for index in path]
    return Tuned(tested, unit, provenance)


def _measured_seconds(model: Model, sweep: Sweep, points: Sequence[Point], texts: Sequence[str], quiet: bool) -> Seconds:
    """Medians of interleaved rounds, at full depth and at every point; they are kept beside the records."""
    documents = [sweep.recorded.full, *(point.decoding for point in points)]
    batch_size = sweep.recorded.environment['batch_size']
    pack = model.pack_of(len(texts), batch_size)
    texts = few(texts, batch_size)
    timed = time_decodings(model, [sweep.decoding(each) for each in documents], texts, batch_size, quiet=quiet, pack=pack)
    medians = np.median(timed.seconds, axis=0) / len(texts)
    conditions = speed_conditions(batch_size, pack)
    unit = f'seconds per text ({conditions["device"]}, batch size {batch_size}, pack {pack})'
    seconds = {sweep.recorded.file(each): float(value) for each, value in zip(documents, medians)}
    write_json(sweep.directory / SECONDS_FILE, {'unit': unit, 'seconds': seconds})
    return Seconds(seconds, unit)


def _recorded_seconds(sweep: Sweep) -> Seconds:
    """Those that were measured before. Raises FileNotFoundError where none were, ValueError where the file is damaged."""
    path = sweep.directory / SECONDS_FILE
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no seconds were measured; pass --checkpoint to measure them, or let FLOPs decide')
    content = read_json(path)
    seconds, unit = content.get('seconds'), content.get('unit')
    if not isinstance(seconds, dict) or not isinstance(unit, str) or any(type(each) is not float for each in seconds.values()):
        raise ValueError(f'{path} is damaged; pass --checkpoint to measure again')
    return Seconds(seconds, unit)


def _of(document: dict, sweep: Sweep, seconds: Seconds) -> float:
    name = sweep.recorded.file(document)
    if name not in seconds.seconds:
        raise ValueError(f'{sweep.directory / SECONDS_FILE}: no seconds of {name}; pass --checkpoint to measure them')
    return seconds.seconds[name]
