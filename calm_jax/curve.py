"""The trade-off curve of a sweep: what curve.json holds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax.calibration import Certificate
from calm_jax.calibration import Point as Tested
from calm_jax.measured import Measured
from calm_jax.schemas import Point
from calm_jax.sweep import Decodes, Sweep


def curve(
    sweep: Sweep,
    measured: Measured,
    label: str,
    kind: str,
    certificate: Certificate | None = None,
    shown: Sequence[Tested] | None = None,
) -> dict:
    """What curve.json holds: depth, cost and quality at points, in test order, and of the full model. shown: the points; None:
    every one that was asked for.

    Those that the certificate tested have their p-value. layers and FLOPs are per token, over all tokens; quality and
    losses are means over examples.
    """
    tested = list(certificate.grid) if certificate else []
    points = []
    for point in sweep.requested_points() if shown is None else shown:
        losses = measured.losses(sweep, point)
        tested_point = next((each for each in tested if each.decoding == point.decoding), None)
        points.append(
            Point(
                decoding=point.decoding,
                threshold=point.threshold,
                **_cost(sweep.at(point.decoding)),
                quality=_mean(measured.quality(sweep.at(point.decoding))),
                consistency=_mean(measured.consistency(sweep.at(point.decoding), sweep.full)),
                loss=_mean(max(losses.values(), key=np.mean) if isinstance(losses, dict) else losses),
                p_value=tested_point.p_value if tested_point else None,
                rejected=bool(tested_point and tested_point.rejected),
            )
        )
    return {
        'label': label,
        'kind': kind,
        'num_layers': sweep.recorded.sizes.layers,
        'metric': measured.names[0],
        'objective': measured.objective,
        'tolerance': certificate.tolerance if certificate else None,
        'epsilon': certificate.epsilon if certificate else None,
        'n': len(sweep.full.ids),
        'points': [dataclasses.asdict(point) for point in points],
        'full': dataclasses.asdict(
            Point(decoding=sweep.recorded.full, **_cost(sweep.full), quality=_mean(measured.quality(sweep.full)))
        ),
    }


def _cost(decodes: Decodes) -> dict:
    return {name: decodes.per_token(name) for name in ('layers', 'exit_layers', 'flops', 'flops_elbayad')}


def _mean(values):
    return None if values is None else float(np.mean(values))
