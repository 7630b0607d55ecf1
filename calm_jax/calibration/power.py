"""Power: how many calibration examples it takes, asked before any are collected.

The losses are imagined as a zero-inflated Beta with mean μ, the shape that text metrics give to early exits: most
outputs are unchanged, and the more is lost on average, the more a changed output loses.

    L = 0 with probability 1 − √μ, else L ~ Beta(4√μ, 4(1 − √μ)), so that P(L > 0) = E[L | L > 0] = √μ.

For the p-value `binomial` they are Bernoulli(μ). Losses of another shape need more or fewer: a plan, not a guarantee.
"""

import numpy as np
from scipy.special import betaincinv

from calm_jax.calibration.draws import uniforms
from calm_jax.calibration.p_values import check_level, compute_p_values, least_n

CONCENTRATION = 4
QUANTILES = 4096  # of the Beta part, at the midpoints of as many equal shares: its inverse transform, tabulated
NUMBERS_PER_ESTIMATE = 1_000_000  # simulated losses: 1,000 calibrations, or fewer if of over 1,000 examples
MOST_EXAMPLES = 100_000


def rejection_probability(
    n: int,
    tolerance: float,
    expected_loss: float,
    epsilon: float = 0.05,
    p_value: str = 'betting',
    seed: int = 0,
    simulations: int = 1000,
) -> float:
    """The share of simulated calibrations on n examples with mean loss `expected_loss` whose p-value is ≤ ε."""
    check_level(epsilon)
    if not 0 <= expected_loss <= 1:
        raise ValueError(f'expected_loss: expected a number in [0, 1], found {expected_loss}')
    quantile = _bernoulli if p_value == 'binomial' else _zero_inflated_beta
    losses = quantile(uniforms(seed, n, simulations), expected_loss)
    return float(np.mean(compute_p_values(losses, tolerance, p_value, seed) <= epsilon))


def examples_needed(
    tolerance: float, expected_loss: float, epsilon: float = 0.05, p_value: str = 'betting', power: float = 0.9, seed: int = 0
) -> int:
    """The least n with which a point of mean loss `expected_loss` is certified with probability `power`.

    Simulated, and bisected to about 1% of n on the premise that power grows with n; the estimate itself is good to a
    few percent. ValueError if the mean is not below δ (no n suffices) or more than 100,000 examples are needed.
    """
    if not 0 < power < 1:
        raise ValueError(f'power: expected a number between 0 and 1, found {power}')
    least = least_n(p_value, tolerance, epsilon)
    if not 0 <= expected_loss < tolerance:
        raise ValueError(f'expected_loss: expected 0 or more and less than δ = {tolerance:g}, found {expected_loss}')

    def enough(n: int) -> bool:
        simulations = min(1000, max(100, NUMBERS_PER_ESTIMATE // n))
        return rejection_probability(n, tolerance, expected_loss, epsilon, p_value, seed, simulations) >= power

    low, high = least - 1, least
    while high > MOST_EXAMPLES or not enough(high):
        if high >= MOST_EXAMPLES:
            raise ValueError(
                f'more than {MOST_EXAMPLES:,} examples are needed for power {power:g} with {p_value} at tolerance '
                f'{tolerance:g} and expected loss {expected_loss:g}; raise the tolerance'
            )
        low, high = high, min(2 * high, MOST_EXAMPLES)
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _bernoulli(u: np.ndarray, mean: float) -> np.ndarray:
    """1 with probability `mean`, else 0: the inverse transform of uniform numbers."""
    return (u > 1 - mean).astype(np.float64)


def _zero_inflated_beta(u: np.ndarray, mean: float) -> np.ndarray:
    """The losses above, by the inverse transform of uniform numbers."""
    root = np.sqrt(mean)
    if root in (0, 1):
        return np.full_like(u, mean)
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    quantiles = betaincinv(CONCENTRATION * root, CONCENTRATION * (1 - root), shares)
    losses = np.zeros_like(u)
    nonzero = u > 1 - root
    losses[nonzero] = quantiles[((u[nonzero] - (1 - root)) / root * QUANTILES).astype(np.int64).clip(0, QUANTILES - 1)]
    return losses
