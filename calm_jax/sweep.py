"""One data set decoded at full depth and at one λ after another, every run kept as a file of records, and the trade-off
curve they draw. With the files at hand everything recomputes without a model."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from calm_jax.data import jsonl
from calm_jax.data.record_schema import checked
from calm_jax.metrics.objective import Objective
from calm_jax.schemas import Point


class Sweep:
    """The records of a directory.

    provide: (λ, path) → None, sees to it that the file holds the records at this λ (1.0: full depth); raises where it
    cannot, as FileNotFoundError for a λ that is not there and cannot be decoded.
    """

    def __init__(self, directory: str | os.PathLike, provide: Callable[[float, Path], None]):
        self.directory, self._provide = Path(directory), provide
        self._read: dict[float, list[dict]] = {}

    def at(self, threshold: float) -> list[dict]:
        """The records at λ, in input order; λ = 1 is the full model."""
        if threshold not in self._read:
            path = self.path(threshold)
            self._provide(threshold, path)
            # Pieces are for the eye; a sweep holds twenty runs of them.
            self._read[threshold] = [
                {name: value for name, value in checked(record, where).items() if name != 'pieces'}
                for where, record in jsonl.stream(path)
            ]
            self._check_order(threshold, path)
        return self._read[threshold]

    def _check_order(self, threshold, path):
        """Losses compare record by record: those at λ must be of the same examples as the full model's."""
        if threshold >= 1:
            return
        full, early = ([record['id'] for record in self.at(each)] for each in (1.0, threshold))
        if full != early:
            where = next((i for i, (one, other) in enumerate(zip(full, early)) if one != other), min(len(full), len(early)))
            raise ValueError(
                f'{path}: record {where + 1} is not of the same example as in {self.path(1.0)} ({len(early)} and '
                f'{len(full)} records); decode again with --checkpoint and --overwrite'
            )

    def first(self, threshold: float, count: int) -> list[dict]:
        """The first records at λ, pieces and all."""
        self.at(threshold)
        return [record for _, (_, record) in zip(range(count), jsonl.stream(self.path(threshold)))]

    def path(self, threshold: float) -> Path:
        """Where the records at λ are kept: every λ has a file of its own, named by its shortest exact decimal."""
        return self.directory / ('full.jsonl' if threshold >= 1 else f'lambda_{float(threshold)!r}.jsonl')

    @property
    def asked(self) -> list[float]:
        """The λ below 1 that have been asked for, descending."""
        return sorted((threshold for threshold in self._read if threshold < 1), reverse=True)

    def texts(self, threshold: float) -> list[str]:
        return [record['text'] for record in self.at(threshold)]

    def layers(self, threshold: float) -> np.ndarray:
        """Mean layers per token of each example, [n]."""
        return np.array([record['layers'] for record in self.at(threshold)])


def curve(sweep: Sweep, objective: Objective, num_layers: int, label: str, kind: str, certificate=None) -> dict:
    """What curve.json holds: depth, cost and quality at every λ that was asked for, and of the full model.

    Those that the certificate tested have their p-value. layers and FLOPs are per token, over all tokens; quality and
    losses are means over examples.
    """
    full = sweep.texts(1.0)
    tested = {point.threshold: point for point in certificate.grid} if certificate else {}
    points = []
    for threshold in sweep.asked:
        early = sweep.texts(threshold)
        losses = objective.losses(early, full)
        point = tested.get(threshold)
        points.append(
            Point(
                threshold=threshold,
                **_cost(sweep.at(threshold)),
                quality=_mean(objective.quality(early)),
                consistency=_mean(objective.consistency(early, full)),
                loss=_mean(max(losses.values(), key=np.mean) if isinstance(losses, dict) else losses),
                p_value=point.p_value if point else None,
                rejected=bool(point and point.rejected),
            )
        )
    return {
        'label': label,
        'kind': kind,
        'num_layers': num_layers,
        'metric': objective.names[0],
        'objective': objective.kind,
        'tolerance': certificate.tolerance if certificate else None,
        'epsilon': certificate.epsilon if certificate else None,
        'n': len(full),
        'points': [dataclasses.asdict(point) for point in points],
        'full': dataclasses.asdict(Point(**_cost(sweep.at(1.0)), quality=_mean(objective.quality(full)))),
    }


def _cost(records: Sequence[dict]) -> dict:
    tokens = max(1, sum(len(record['tokens']) for record in records))
    return {
        'layers': sum(sum(record['exit_layers']) for record in records) / tokens,
        'flops': sum(record['flops'] for record in records) / tokens,
        'flops_elbayad': sum(record['flops_elbayad'] for record in records) / tokens,
    }


def _mean(values):
    return None if values is None else float(np.mean(values))
