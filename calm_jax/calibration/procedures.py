"""Procedures that keep the probability of any false rejection, over all points tested, at or below ε.

Learn then Test (Angelopoulos et al. 2021); CALM Proposition 1.
"""

from collections.abc import Hashable, Iterable, Sequence


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


def fixed_sequences(p_values: Sequence[float], paths: Sequence[Hashable], epsilon: float) -> list[int]:
    """The indices of all p-values that are rejected where each of m paths is a fixed sequence of its own at ε/m.

    paths: the path of each p-value; along a path the order is as given. They are Bonferroni's hypotheses (Angelopoulos et al.
    2021, fixed sequence testing from several starts): one path is `fixed_sequence`, a path for each point `bonferroni`.
    """
    members: dict[Hashable, list[int]] = {}
    for index, path in enumerate(paths):
        members.setdefault(path, []).append(index)
    rejected: list[int] = []
    for indices in members.values():
        last = fixed_sequence((p_values[index] for index in indices), epsilon / len(members))
        rejected += [] if last is None else indices[: last + 1]
    return sorted(rejected)


def bonferroni(p_values: Iterable[float], epsilon: float) -> list[int]:
    """The indices of all p ≤ ε/m, m the number of points: for a grid without an order, given whole."""
    p_values = list(p_values)
    return [index for index, p in enumerate(p_values) if p <= epsilon / len(p_values)]
