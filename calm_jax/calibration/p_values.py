"""P-values for H_j, 'the expected loss of point j exceeds the tolerance δ' (CALM Eq. 8).

Each function takes losses [n, m] in [0, 1], n independent examples by m points, and returns m numbers p with
P(p ≤ u) ≤ u for every u whenever E[L] ≥ δ. Losses [n] are of one point and give one number.

Which p-value is used is decided before seeing losses: `binomial` for a loss that can only be 0 or 1, `betting` for any
other. The smaller of two p-values is not a p-value, nor is a choice made by looking whether all losses are 0 or 1.

ValueError for losses outside [0, 1] or not a number (row and column named) and for δ outside (0, 1).
"""

import math

import numpy as np
from scipy.special import bdtr, rel_entr

from calm_jax.calibration.draws import permutation
from calm_jax.calibration.losses import check_binary, checked

P_VALUES = ('hoeffding', 'hoeffding_bentkus', 'betting', 'binomial')
BET_LEVEL = 0.05  # the level at which the bets aim; every other is as valid, and a little less sharp
BET_CAP = 0.75  # c < 1: the share of the capital that one loss may take
MOST_EXAMPLES = 10_000_000


def hoeffding(losses, tolerance: float) -> np.ndarray:
    """p = exp(−2n max(0, δ − R̂)²), R̂ the mean loss: CALM Eq. (9). [n, m] → [m]."""
    losses, n = _prepared(losses, tolerance)
    return np.exp(-2 * n * np.maximum(0, tolerance - _sums(losses) / n) ** 2)[()]


def hoeffding_bentkus(losses, tolerance: float) -> np.ndarray:
    """p = min( exp(−n h(min(R̂, δ), δ)), e · P[Bin(n, δ) ≤ ⌈ΣL⌉] ). [n, m] → [m].

    h(a, b) = a ln(a/b) + (1−a) ln((1−a)/(1−b)) is the exponent of Hoeffding's sharper form; the second term is
    Bentkus's. It is the sum that is rounded up: ⌈n R̂⌉ would round a mean that had been rounded before. Where R̂ ≥ δ the
    first term is 1 and the second above e/2, so p = 1. Angelopoulos et al. 2021 (Learn then Test), Proposition 1.
    """
    losses, n = _prepared(losses, tolerance)
    total = _sums(losses)
    mean = np.minimum(total / n, tolerance)
    hoeffding_term = np.exp(-n * (rel_entr(mean, tolerance) + rel_entr(1 - mean, 1 - tolerance)))
    bentkus_term = math.e * bdtr(np.ceil(total), n, tolerance)
    return np.minimum(hoeffding_term, bentkus_term)[()]


def binomial(losses, tolerance: float) -> np.ndarray:
    """p = P[Bin(n, δ) ≤ ΣL], exact for losses that are 0 or 1; ValueError for any other. [n, m] → [m]."""
    losses, n = _prepared(losses, tolerance)
    check_binary(losses)
    return bdtr(_sums(losses), n, tolerance)[()]


def betting(losses, tolerance: float, seed: int = 0) -> np.ndarray:
    """p = min(1, 1 / max_t K_t), K_t = Π_{i≤t} (1 + ν_i (δ − L_i)): bets against 'the loss exceeds δ'. [n, m] → [m].

    While E[L] ≥ δ no bet gains on average: K is a supermartingale and 1 / max K a p-value (Ville's inequality). The
    stakes are the predictable plug-in of Waudby-Smith & Ramdas (2024, Section 4) for a known number of examples, as in
    Bates et al. 2021, Section 3.1.3:

        ν_i = min( √(2 ln(1/.05) / (n σ̂²_{i−1})), c/(1−δ) ),   c = .75,
        μ̂_i = (1/2 + Σ_{j≤i} L_j) / (i+1),   σ̂²_i = (1/4 + Σ_{j≤i} (L_j − μ̂_j)²) / (i+1),

    made from earlier losses only and hedged by c, so that no loss ruins the bettor. Examples come in the order of
    `permutation(seed, n)`, the same for every column: files are often sorted, by length or difficulty, and a run of
    easy examples in front would win against any δ.
    """
    losses, n = _prepared(losses, tolerance)
    losses = losses[permutation(seed, n)]
    i = np.arange(1, n + 1).reshape(-1, *[1] * (losses.ndim - 1))
    mean = (1 / 2 + np.cumsum(losses, axis=0)) / (i + 1)
    variance = (1 / 4 + np.cumsum((losses - mean) ** 2, axis=0)) / (i + 1)
    earlier_variance = np.concatenate([np.full_like(variance[:1], 1 / 4), variance[:-1]])
    bets = np.minimum(np.sqrt(2 * math.log(1 / BET_LEVEL) / (n * earlier_variance)), BET_CAP / (1 - tolerance))
    log_capital = np.cumsum(np.log1p(bets * (tolerance - losses)), axis=0)
    return np.exp(-np.maximum(0, log_capital.max(axis=0)))[()]


def compute_p_values(losses, tolerance: float, p_value: str = 'betting', seed: int = 0) -> np.ndarray:
    """The p-values of the named kind, [n, m] → [m]. `seed` is the order of examples in `betting`; others have none."""
    if p_value == 'betting':
        return betting(losses, tolerance, seed)
    if p_value not in P_VALUES:
        raise ValueError(f'p_value: expected one of {", ".join(P_VALUES)}, found {p_value!r}')
    function = {'hoeffding': hoeffding, 'hoeffding_bentkus': hoeffding_bentkus, 'binomial': binomial}[p_value]
    return function(losses, tolerance)


def least_n(p_value: str, tolerance: float, epsilon: float) -> int:
    """The fewest examples with which anything can be rejected: the least n whose p-value of n zero losses is ≤ ε.

    Hoeffding: exp(−2nδ²) ≤ ε. Hoeffding–Bentkus and binomial: (1−δ)^n ≤ ε. Betting: found by bisection, since its bets
    depend on n. ValueError where that is more than ten million.
    """
    check_level(epsilon)
    compute_p_values(np.zeros(1), tolerance, p_value)  # refuses an unknown name and a tolerance outside (0, 1)

    def rejects(n: int) -> bool:
        return bool(compute_p_values(np.zeros(n), tolerance, p_value) <= epsilon)

    growth_per_example = {
        'hoeffding': 2 * tolerance**2,
        'betting': math.log1p(BET_CAP * tolerance / (1 - tolerance)),  # at the largest bet, so more may be needed
    }.get(p_value, -math.log1p(-tolerance))
    high = max(1, math.ceil(math.log(1 / epsilon) / growth_per_example))
    if high > MOST_EXAMPLES:
        raise ValueError(f'{p_value} at tolerance {tolerance:g} and epsilon {epsilon:g} needs over {high:,} examples')
    low = max(0, high - 2)  # where rounding lifted the quotient over an integer, one fewer is enough
    while not rejects(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rejects(middle) else (middle, high)
    return high


def check_level(epsilon: float) -> None:
    """ValueError unless 0 < ε < 1."""
    if not 0 < epsilon < 1:
        raise ValueError(f'epsilon: expected a number between 0 and 1, found {epsilon}')


def _prepared(losses, tolerance: float) -> tuple[np.ndarray, int]:
    if not 0 < tolerance < 1:
        raise ValueError(f'tolerance: expected a number between 0 and 1, found {tolerance}')
    losses = checked(losses)
    return losses, len(losses)


def _sums(losses: np.ndarray) -> np.ndarray:
    """Column sums [n, m] → [m], correctly rounded: the same in any order of examples, as ⌈ΣL⌉ needs them."""
    columns = losses.reshape(len(losses), -1).T
    return np.array([math.fsum(column.tolist()) for column in columns]).reshape(losses.shape[1:])
