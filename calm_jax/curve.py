"""The trade-off curve of a sweep: what curve.json holds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax.metrics.objective import Objective
from calm_jax.schemas import Point
from calm_jax.sweep import Sweep


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
