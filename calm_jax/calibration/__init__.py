"""Learn-then-Test calibration of early exits: losses in, certificate out. NumPy and SciPy only; no model in sight."""

from calm_jax.calibration.calibration import Calibration, calibrate
from calm_jax.calibration.certificate import Certificate, Point
from calm_jax.calibration.losses import cluster_means, signed_risk
from calm_jax.calibration.p_values import P_VALUES, betting, binomial, compute_p_values, hoeffding, hoeffding_bentkus, least_n
from calm_jax.calibration.pareto import pareto_path
from calm_jax.calibration.power import examples_needed, rejection_probability
from calm_jax.calibration.procedures import bonferroni, fixed_sequence, fixed_sequences
from calm_jax.calibration.trials import run_trials, trials_running

__all__ = [
    'P_VALUES',
    'Calibration',
    'Certificate',
    'Point',
    'betting',
    'binomial',
    'bonferroni',
    'calibrate',
    'cluster_means',
    'compute_p_values',
    'examples_needed',
    'fixed_sequence',
    'fixed_sequences',
    'hoeffding',
    'hoeffding_bentkus',
    'least_n',
    'pareto_path',
    'rejection_probability',
    'run_trials',
    'signed_risk',
    'trials_running',
]
