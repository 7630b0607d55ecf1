"""Trials: the paper's random splits of one pool into calibration and test examples (CALM Sections 5 and 6.1).

They replicate a figure and prove nothing: the pool is one finite sample and the trials share its examples.
"""

from collections.abc import Sequence

import numpy as np

from calm_jax.calibration.certificate import Point
from calm_jax.calibration.draws import permutation
from calm_jax.calibration.losses import checked, cluster_means, signed_risk
from calm_jax.calibration.p_values import check_level, compute_p_values
from calm_jax.calibration.procedures import fixed_sequence

NOTE = (
    'Random splits of one finite pool: the trials share examples and are not independent. They replicate the figure of '
    'the paper and prove nothing; the guarantee is that of a certificate, for new examples from the same distribution.'
)


def trials_running(
    losses,
    tolerances: Sequence[float],
    epsilon: float = 0.05,
    p_value: str = 'betting',
    trials: int = 50,
    calibration_share: float = 0.8,
    seed: int = 0,
    group_by: Sequence | None = None,
    signed: bool = False,
) -> int:
    """How many trials have certified every point so far, and so need another column: 0 when the grid is long enough.

    losses [n, k] are those of the first k points. Over all tolerances, a trial for each counts.
    """
    losses = _pool(losses, group_by, signed)
    return sum(
        stop == losses.shape[1]
        for tolerance in tolerances
        for stop in _stops(losses, tolerance, epsilon, p_value, trials, calibration_share, seed, signed)
    )


def run_trials(
    losses,
    layers,
    points: Sequence[float | Point],
    tolerances: Sequence[float],
    num_layers: int,
    epsilon: float = 0.05,
    p_value: str = 'betting',
    trials: int = 50,
    calibration_share: float = 0.8,
    seed: int = 0,
    group_by: Sequence | None = None,
    signed: bool = False,
    label: str = '',
    objective: str = '',
    metric: str = '',
) -> dict:
    """What trials.json holds: for each tolerance, what fixed sequence testing chose in each trial and what it gave.

    losses and layers [n, k] belong to the first k of m `points` (numbers λ or Points), in test order; k < m is enough if
    every trial has stopped (`trials_running`). layers are mean layers per token, of `num_layers`. A trial calibrates on a
    random share of the pool and takes the valid point with the fewest layers there, the earlier tested of equals;
    test_risk and layers are means over the rest, pool_risk over all. `point` counts from 0, `threshold` is its λ if it
    has one. A trial that certifies nothing runs at full depth: point and threshold None, risk 0, all layers. Standard
    deviations are those of the trials at hand (divisor T).
    """
    losses, layers = _pool(losses, group_by, signed), np.asarray(layers, dtype=np.float64)
    layers = layers if group_by is None else cluster_means(layers, group_by)
    n, k = losses.shape
    if layers.shape != losses.shape:
        raise ValueError(f'layers: expected the shape of the losses, {[n, k]}, found {list(layers.shape)}')
    if k > len(points):
        raise ValueError(f'points: expected one for each of {k} columns, found {len(points)}')
    thresholds = [point.threshold if isinstance(point, Point) else float(point) for point in points]
    n_calibration = _calibration_size(n, calibration_share)
    rows = []
    for tolerance in tolerances:
        stops = _stops(losses, tolerance, epsilon, p_value, trials, calibration_share, seed, signed)
        if k < len(points) and k in stops:
            raise ValueError(
                f'{stops.count(k)} of {trials} trials at tolerance {tolerance:g} certify all {k} columns and go on: '
                f'expected the losses of the next point too'
            )
        per_trial = []
        for trial, stop in enumerate(stops):
            order = permutation((seed, trial), n)
            calibration, test = order[:n_calibration], order[n_calibration:]
            point = int(np.argmin(layers[calibration, :stop].mean(axis=0))) if stop else None
            per_trial.append(
                {
                    'point': point,
                    'threshold': None if point is None else thresholds[point],
                    'test_risk': float(losses[test, point].mean()) if stop else 0.0,
                    'pool_risk': float(losses[:, point].mean()) if stop else 0.0,
                    'layers': float(layers[test, point].mean()) if stop else float(num_layers),
                }
            )
        risks, pool_risks, depths = (
            np.array([trial[key] for trial in per_trial]) for key in ('test_risk', 'pool_risk', 'layers')
        )
        rows.append(
            {
                'tolerance': float(tolerance),
                'share_test_above': float(np.mean(risks > tolerance)),
                'share_pool_above': float(np.mean(pool_risks > tolerance)),
                'risk_mean': float(risks.mean()),
                'risk_std': float(risks.std()),
                'layers_mean': float(depths.mean()),
                'layers_std': float(depths.std()),
                'per_trial': per_trial,
            }
        )
    return {
        'label': label,
        'objective': objective,
        'metric': metric,
        'epsilon': float(epsilon),
        'trials': trials,
        'n_calibration': n_calibration,
        'n_test': n - n_calibration,
        'tolerances': rows,
        'note': NOTE,
    }


def _stops(
    losses: np.ndarray,
    tolerance: float,
    epsilon: float,
    p_value: str,
    trials: int,
    calibration_share: float,
    seed: int,
    signed: bool,
) -> list[int]:
    """For each trial, how many points it certifies before the first failure; all of them if there is none."""
    check_level(epsilon)
    if trials < 1:
        raise ValueError(f'trials: expected 1 or more, found {trials}')
    n = len(losses)
    n_calibration = _calibration_size(n, calibration_share)
    units, unit_tolerance = signed_risk(losses, tolerance) if signed else (losses, tolerance)
    stops = []
    for trial in range(trials):
        calibration = units[permutation((seed, trial), n)[:n_calibration]]
        last_rejected = fixed_sequence(compute_p_values(calibration, unit_tolerance, p_value, seed), epsilon)
        stops.append(0 if last_rejected is None else last_rejected + 1)
    return stops


def _pool(losses, group_by: Sequence | None, signed: bool) -> np.ndarray:
    losses = checked(losses, lowest=-1.0 if signed else 0.0)
    if losses.ndim != 2:
        raise ValueError(f'losses: expected examples by points, shape [n, k], found {list(losses.shape)}')
    return losses if group_by is None else cluster_means(losses, group_by)


def _calibration_size(n: int, share: float) -> int:
    size = int(share * n + 0.5)
    if not 0 < size < n:
        raise ValueError(f'calibration_share: {share} of {n} examples leaves none to calibrate or none to test')
    return size
