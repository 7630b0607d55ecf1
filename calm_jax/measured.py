"""What is measured of every point of a sweep: losses of texts by a metric, or losses from outside."""

import json
import math
import os
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from calm_jax.calibration import Point
from calm_jax.data import jsonl
from calm_jax.decoding.codec import digest
from calm_jax.metrics.objective import Objective
from calm_jax.recorded import DIGITS
from calm_jax.sweep import Decodes, Sweep

Losses = np.ndarray | dict[str, np.ndarray]


class Measured(Protocol):
    """Losses of a sweep's points, and what a certificate says of them.

    names: of the metrics. objective: 'textual', 'risk', or None of losses from outside.
    """

    names: tuple[str, ...]
    objective: str | None

    def losses(self, sweep: Sweep, point: Point) -> Losses | None:
        """Of each example, float64 [n]; {metric: [n]} where there are several; None where they are not known."""
        ...

    def quality(self, decodes: Decodes) -> np.ndarray | None:
        """Of each example against its references, [n], where that is known."""
        ...

    def consistency(self, early: Decodes, full: Decodes) -> np.ndarray | None:
        """Of each example with the full model's text, [n], where that is known."""
        ...

    def versions(self) -> dict | str:
        """What computed the losses, for the certificate."""
        ...


class TextLosses:
    """Losses of an objective, which compares texts."""

    def __init__(self, objective: Objective):
        self._objective = objective
        self.names: tuple[str, ...] = objective.names
        self.objective: str | None = objective.kind

    def losses(self, sweep: Sweep, point: Point) -> Losses:
        """Of the texts at a point against those of full depth."""
        return self._objective.losses(sweep.at(point.decoding).texts, sweep.full.texts)

    def quality(self, decodes: Decodes) -> np.ndarray | None:
        """By the first metric; None without references."""
        return self._objective.quality(decodes.texts)

    def consistency(self, early: Decodes, full: Decodes) -> np.ndarray:
        """By the first metric."""
        return self._objective.consistency(early.texts, full.texts)

    def versions(self) -> dict | str:
        """Of the metrics."""
        return self._objective.versions()


class OutsideLosses:
    """Losses from outside: JSONL with a line for each example.

        {"id": "row 3", "losses": {"0.9": 0.12, "0f3c1a2b4d5e": 0.4}}

    id: of the example's record. losses: by point, which its λ names, or its decoding's digest, of which the first 12 digits are
    enough: those of the name of its file. Lines stand in any order, and need not know points that are not tested.
    Raises FileNotFoundError; ValueError, naming the line, where it is not so, or not of the examples and points of the sweep.
    """

    objective: str | None = None

    def __init__(self, path: str | os.PathLike, sweep: Sweep):
        self.path = os.fspath(path)
        self.names: tuple[str, ...] = (os.path.basename(self.path),)
        ids = _distinct_ids(sweep)
        files, where_of = _files_by_name(sweep), {}
        self._losses: dict[str, dict[str, float]] = {}  # {file: {example: loss}}
        for where, line in jsonl.stream(path):
            example = json.dumps(jsonl.value_of(line, 'id', where))
            if example not in ids:
                raise ValueError(f'{where}: id {example} is of no record in {sweep.directory}')
            if where_of.setdefault(example, where) != where:
                raise ValueError(f'{where}: id {example} again, as in {where_of[example]}; expected a line for each example')
            for name, value in _losses_of(line, where).items():
                if (file := _file(name, files)) is None:
                    raise ValueError(
                        f'{where}: {name!r} names no point of {sweep.directory}; expected λ, or {DIGITS} digits of its digest'
                    )
                losses = self._losses.setdefault(file, {})
                if example in losses:
                    raise ValueError(f'{where}: two losses of one point, the second at {name!r}')
                losses[example] = value
        if missing := [example for example in ids if example not in where_of]:
            raise ValueError(f'{self.path}: no losses of the example with id {missing[0]}, a record in {sweep.directory}')
        self._ids, self._where = ids, where_of

    def losses(self, sweep: Sweep, point: Point) -> np.ndarray | None:
        """Those at a point, in the order of the records; None where no line has any."""
        losses = self._losses.get(sweep.recorded.file(point.decoding))
        if losses is None:
            return None
        if missing := [example for example in self._ids if example not in losses]:
            raise ValueError(f'{self._where[missing[0]]}: no loss at {label(point)}, where other lines have one')
        return np.array([losses[example] for example in self._ids], np.float64)

    def quality(self, decodes: Decodes) -> None:
        """Not known."""

    def consistency(self, early: Decodes, full: Decodes) -> None:
        """Not known."""

    def versions(self) -> str:
        """The file's name and fingerprint."""
        return f'losses of {self.names[0]}, sha256 {jsonl.fingerprint(self.path)}'


def label(point: Point) -> str:
    """A point in words: its λ, if it has one, and the digits that its file is named by."""
    words = [] if point.threshold is None else [f'λ = {point.threshold:g}']
    return ', '.join([*words, f'point {digest(point.decoding)[:DIGITS]}'])


def _distinct_ids(sweep: Sweep) -> dict[str, None]:
    """The ids of the records, in their order, as JSON."""
    ids = [json.dumps(each) for each in sweep.full.ids]
    distinct = dict.fromkeys(ids)
    if len(distinct) < len(ids):
        again = next(each for each in distinct if ids.count(each) > 1)
        raise ValueError(
            f'{sweep.directory}: id {again} is of several records, and losses are matched by id; give each example its own'
        )
    return distinct


def _losses_of(line: dict, where: str) -> dict[str, float]:
    """The losses of a line, by the name of their point."""
    losses = jsonl.value_of(line, 'losses', where)
    if not isinstance(losses, dict):
        raise ValueError(f'{where}: losses is {json.dumps(losses)[:40]}; expected an object of numbers by point')
    for name, value in losses.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f'{where}: the loss at {name!r} is {json.dumps(value)[:40]}; expected a number')
    return losses


def _files_by_name(sweep: Sweep) -> dict[str | float, str]:
    """{digest or λ: file} of the points, without a λ that several have."""
    points = sweep.recorded.points
    thresholds = [point.threshold for point in points]
    files: dict[str | float, str] = {digest(point.decoding): sweep.recorded.file(point.decoding) for point in points}
    for point in points:
        if point.threshold is not None and thresholds.count(point.threshold) == 1:
            files[float(point.threshold)] = sweep.recorded.file(point.decoding)
    return files


def _file(name: str, files: Mapping[str | float, str]) -> str | None:
    """The file of the point that a name is of: its digest, at least the first digits of it, or its λ."""
    if len(name) >= DIGITS:
        for each, file in files.items():
            if isinstance(each, str) and each.startswith(name):
                return file
    try:
        return files.get(float(name))
    except ValueError:
        return None
