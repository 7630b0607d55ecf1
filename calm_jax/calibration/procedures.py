"""Procedures that keep the probability of any false rejection, over all points tested, at or below ε.

Learn then Test (Angelopoulos et al. 2021); CALM Proposition 1.
"""

from collections.abc import Iterable


def fixed_sequence(p_values: Iterable[float], epsilon: float) -> int | None:
    """Fixed sequence testing (CALM Section 4.3): reject while p ≤ ε, stop at the first p > ε, return the last rejected.

    Returns its index, or None if the first is not rejected (then only full depth is safe). The p-values come in
    an order fixed without seeing the losses (λ descending) and are never sorted. Nothing is asked of `p_values` past
    the first failure, so it may be a generator that decodes a point when its turn comes.

    Why ε is not shared out: to err at all, the first false point of the sequence must be rejected, which has P ≤ ε.
    """
    last_rejected = None
    for index, p in enumerate(p_values):
        if not p <= epsilon:
            break
        last_rejected = index
    return last_rejected


def bonferroni(p_values: Iterable[float], epsilon: float) -> list[int]:
    """The indices of all p ≤ ε/m, m the number of points: for a grid without an order, given whole."""
    p_values = list(p_values)
    return [index for index, p in enumerate(p_values) if p <= epsilon / len(p_values)]
