"""One plan for each text, the mean score as high as a budget on the mean cost allows: the multiple-choice knapsack, for all
budgets at once.

Groups are texts, items are plans (Glavas et al. 2024, A.5). Where costs are whole multiples of a unit, a dynamic program over
the total cost is exact for every budget (`EveryBudget`). For any costs there is the Lagrangian relaxation, whose hull no choice
exceeds, and which is reached where it bends (`Hull`); between two bends a mixed-integer program settles a single budget
(`optimum`). On the host, in NumPy and SciPy. Of choices that score the same it is the cheapest.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, sparse

GRAIN = 2.0**-32  # scores are rounded to multiples of it: sums of a million of them are exact, and ties are ties
MOST_PARTS = 24  # of a layer, whose whole multiples costs may be
MOST_SUMS = 2**33  # that the dynamic program may add: some ten seconds
SECONDS = 30  # that a mixed-integer program may take


class Frontier:
    """The best mean score by budget, a stair: of `scores[j]` from the mean cost `budgets[j]` on, float64 [J], both rising."""

    def __init__(self, budgets: np.ndarray, scores: np.ndarray):
        self.budgets, self.scores = budgets, scores

    def score(self, budgets: Sequence[float] | np.ndarray) -> np.ndarray:
        """Mean score of what `choices` gives, float64 [M]. Raises ValueError for a budget below the cheapest choice."""
        return self.scores[self._stairs(budgets)]

    def upper(self, budgets: Sequence[float] | np.ndarray) -> np.ndarray:
        """Mean score that no choice within the budget exceeds, float64 [M]. Raises as `score`."""
        raise NotImplementedError

    def choices(self, budgets: Sequence[float] | np.ndarray) -> np.ndarray:
        """The item of each group, uint8 [M, n], the mean of their costs within the budget. Raises as `score`."""
        raise NotImplementedError

    def _stairs(self, budgets: Sequence[float] | np.ndarray) -> np.ndarray:
        """The last stair that each budget reaches, int [M]; what a budget lacks by rounding alone it reaches."""
        asked = np.asarray(budgets, np.float64)
        stairs = np.searchsorted(self.budgets, asked + 1e-11 * np.maximum(1, np.abs(asked)), side='right') - 1
        if (stairs < 0).any():
            raise ValueError(
                f'a budget of {asked[stairs < 0].min():g} is below {self.budgets[0]:.6g}, what the cheapest plan of each text '
                'comes to on average'
            )
        return stairs


class _Group(NamedTuple):
    """A text whose best item is not its cheapest. items: those that no other beats, by rising cost; steps: what each costs
    beyond the cheapest, in units; gains: what it scores beyond it."""

    index: int
    items: np.ndarray
    steps: np.ndarray
    gains: np.ndarray


class EveryBudget(Frontier):
    """The optimum of every budget, by a dynamic program over the total cost.

    Sums are of float64, exact. Rows of sums are remembered at every √(8n)-th group, and what was chosen is computed again from
    there: memory is of √n rows of a number for each total, where all that was chosen would be n.
    """

    def __init__(self, scores: np.ndarray, costs: np.ndarray, unit: float):
        """scores, costs: [n, K], costs differing by whole multiples of the unit within each group."""
        scores = _exact(scores)
        self._groups, self._cheapest = _groups(scores, costs, unit)
        self._stride = max(1, int(np.sqrt(8 * len(self._groups))))
        self._rows: list[np.ndarray] = []
        sums = np.zeros(1)
        for place, group in enumerate(self._groups):
            if place % self._stride == 0:
                self._rows.append(sums)
            sums = _with_group(sums, group)
        before = np.concatenate([[-np.inf], np.maximum.accumulate(sums)[:-1]])
        self._totals = np.flatnonzero(sums > before)
        count, first = len(scores), self._cheapest[:, None]
        cost, score = (np.take_along_axis(each, first, axis=1).sum() for each in (costs, scores))
        super().__init__((cost + self._totals * unit) / count, (score + sums[self._totals]) / count)

    def upper(self, budgets: Sequence[float] | np.ndarray) -> np.ndarray:
        return self.score(budgets)

    def choices(self, budgets: Sequence[float] | np.ndarray) -> np.ndarray:
        left = self._totals[self._stairs(budgets)].copy()
        chosen = np.repeat(self._cheapest[None].astype(np.uint8), len(left), axis=0)
        for part in reversed(range(len(self._rows))):
            groups = self._groups[part * self._stride : (part + 1) * self._stride]
            room = int(left.max(initial=0)) + 1
            sums, rows = self._rows[part][:room], []
            for group in groups:
                rows.append(np.zeros(len(sums) + group.steps[-1], np.uint8))
                sums = _with_group(sums, group, rows[-1])[:room]
            for group, row in zip(reversed(groups), reversed(rows)):
                place = row[left]
                chosen[:, group.index] = group.items[place]
                left -= group.steps[place]
        return chosen


class Hull(Frontier):
    """Lagrangian relaxation: the items that are best at some price of cost. At the bends, which are its stairs, their choice is
    the optimum; between two of them the optimum lies below the straight line (`upper`), and here is what the last bend has."""

    def __init__(self, scores: np.ndarray, costs: np.ndarray):
        """scores, costs: [n, K]."""
        scores, costs = _exact(scores), np.asarray(costs, np.float64)
        rows, at = np.arange(len(scores)), _by_cost(scores, costs)[:, 0]
        self._cheapest = at.astype(np.uint8)
        cost, score = costs[rows, at].sum(), scores[rows, at].sum()
        steps = []
        for _ in range(scores.shape[1] - 1):
            more, gain = costs - costs[rows, at][:, None], scores - scores[rows, at][:, None]
            slopes = np.where((more > 0) & (gain > 0), gain / np.where(more > 0, more, 1), 0)
            best = slopes.max(axis=1)
            # The farthest of those in line: nothing is gained by stopping between.
            after = np.argmax(np.where(slopes == best[:, None], more, -np.inf), axis=1)
            risen = np.flatnonzero(best > 0)
            steps.append((best[risen], risen, after[risen], more[risen, after[risen]], gain[risen, after[risen]]))
            at = np.where(best > 0, after, at)
        slopes, self._risen, self._after, more, gain = (
            np.concatenate([step[part] for step in steps]) if steps else np.zeros(0, int) for part in range(5)
        )
        order = np.argsort(-slopes, kind='stable')
        self._slopes, self._risen, self._after = slopes[order], self._risen[order], self._after[order]
        ends = (cost, more), (score, gain)
        budgets, scores = (start + np.concatenate([[0], np.cumsum(each[order])]) for start, each in ends)
        super().__init__(budgets / len(rows), scores / len(rows))

    def upper(self, budgets: Sequence[float] | np.ndarray) -> np.ndarray:
        self._stairs(budgets)
        return np.atleast_1d(np.interp(budgets, self.budgets, self.scores))

    def choices(self, budgets: Sequence[float] | np.ndarray) -> np.ndarray:
        stairs = self._stairs(budgets)
        chosen, done, current = np.empty((len(stairs), len(self._cheapest)), np.uint8), 0, self._cheapest.copy()
        for place in np.argsort(stairs, kind='stable'):
            for step in range(done, stairs[place]):
                current[self._risen[step]] = self._after[step]
            done = max(done, stairs[place])
            chosen[place] = current
        return chosen

    @property
    def gap(self) -> float:
        """How far an optimum may lie below the hull, or above the stair, at most, as a mean score: the highest step."""
        return float(np.diff(self.scores).max(initial=0))

    def price(self, budget: float) -> float:
        """Score for cost: the slope of the hull above the budget; 0 behind its end."""
        stair = int(self._stairs([budget])[0])
        return float(self._slopes[stair]) if stair < len(self._slopes) else 0.0


class Optimum(NamedTuple):
    """Of one budget. choices: the item of each group, int [n]; score: their mean score; bound: a mean score that no choice
    within the budget exceeds, but for the solver's 1e-6 / n: `score` itself where the optimum is proven."""

    choices: np.ndarray
    score: float
    bound: float


def frontier(scores: np.ndarray, costs: np.ndarray) -> EveryBudget | Hull:
    """The optimum of every budget where costs have a common unit and there are not too many sums; else the hull."""
    unit = unit_of(costs)
    if unit is not None and _sums(*_groups(_exact(scores), costs, unit)[:1]) <= MOST_SUMS:
        return EveryBudget(scores, costs, unit)
    return Hull(scores, costs)


def unit_of(costs: np.ndarray) -> float | None:
    """The largest number whose whole multiples the costs of each group, float64 [n, K], differ by; None where it would be
    none of a layer's 1st to 24th part or a multiple of one."""
    beyond = costs - costs.min(axis=1, keepdims=True)
    for parts in range(1, MOST_PARTS + 1):
        whole = np.rint(beyond * parts)
        if np.abs(beyond * parts - whole).max() < 1e-6:
            return float(np.gcd.reduce(np.unique(whole.astype(np.int64))) or parts) / parts
    return None


def optimum(scores: np.ndarray, costs: np.ndarray, budget: float, hull: Hull | None = None) -> Optimum:
    """The optimum of one budget, by HiGHS: of costs that have no unit, or of too many totals.

    Items whose loss at the hull's price exceeds the gap between hull and stair are in no optimum, and are left out first, so
    that few groups are left to choose for. hull: of the same scores and costs. Raises ValueError for a budget below the
    cheapest choice.
    """
    hull = Hull(scores, costs) if hull is None else hull
    scores, costs = _exact(scores), np.asarray(costs, np.float64)
    rows = np.arange(len(scores))
    high = float(hull.upper([budget])[0])
    chosen = _filled(scores, costs, budget, hull)
    low = float(scores[rows, chosen].mean())
    reduced = scores - hull.price(budget) * costs
    open_items = reduced.max(axis=1, keepdims=True) - reduced <= (high - low) * len(rows) + 1e-9
    open_items[rows, chosen] = False
    group, item = np.nonzero(open_items)
    if high <= low or not len(group):
        return Optimum(chosen, low, low)
    # Of changes to that choice, one a group at most, and numbers near 1, where the solver's tolerances are small.
    gains, more = scores[group, item] - scores[group, chosen[group]], costs[group, item] - costs[group, chosen[group]]
    scale, unit = np.abs(gains).max(), np.abs(more).max()
    room = budget * len(rows) - costs[rows, chosen].sum()
    once = sparse.csr_array((np.ones(len(group)), (np.unique(group, return_inverse=True)[1], np.arange(len(group)))))
    with _unprinted():
        solution = optimize.milp(
            -gains / scale,
            integrality=np.ones(len(group)),
            bounds=optimize.Bounds(0, 1),
            constraints=[
                optimize.LinearConstraint(once, -np.inf, 1),
                optimize.LinearConstraint(more[None] / unit, -np.inf, room / unit),
            ],
            options={'mip_rel_gap': 0, 'time_limit': SECONDS},
        )
    base, proven = low, False
    if solution.x is not None:
        changes, other = np.flatnonzero(solution.x > 0.5), chosen.copy()
        other[group[changes]] = item[changes]
        # The solver keeps the budget but for a tolerance of its own.
        keeps = costs[rows, other].mean() <= budget * (1 + 1e-12)
        proven = keeps and solution.success
        if keeps and scores[rows, other].mean() > low:
            chosen, low = other, float(scores[rows, other].mean())
    if not proven and solution.mip_dual_bound is not None:
        high = min(high, base - float(solution.mip_dual_bound) * scale / len(rows))
    return Optimum(chosen, low, low if proven else max(low, high))


@contextlib.contextmanager
def _unprinted() -> Iterator[None]:
    """HiGHS says that it repairs a solution past its own switch and past Python's streams: nothing is printed within."""
    flush = getattr(ctypes.CDLL(None), 'fflush', None) if os.name == 'posix' else None
    if flush is None or sys.stdout is None:
        yield
        return
    sys.stdout.flush()
    flush(None)
    before = os.dup(1)
    with open(os.devnull, 'wb') as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(before, 1)
        os.close(before)


def _filled(scores: np.ndarray, costs: np.ndarray, budget: float, hull: Hull) -> np.ndarray:
    """A choice near the optimum, int [n]: what the hull's last bend within the budget has, and then, as long as one group's
    other item fits, the one that adds most."""
    rows, chosen = np.arange(len(scores)), hull.choices([budget])[0].astype(int)
    while True:
        room = budget * len(rows) - costs[rows, chosen].sum()
        gains = scores - scores[rows, chosen][:, None]
        gains[costs - costs[rows, chosen][:, None] > room] = 0
        group, item = np.unravel_index(np.argmax(gains), gains.shape)
        if gains[group, item] <= 0:
            return chosen
        chosen[group] = item


def _exact(scores: np.ndarray) -> np.ndarray:
    return np.rint(np.asarray(scores, np.float64) / GRAIN) * GRAIN


def _by_cost(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The items of each group by rising cost, of equally cheap ones the best first, int [n, K]."""
    order = np.argsort(-scores, axis=1, kind='stable')
    return np.take_along_axis(order, np.argsort(np.take_along_axis(costs, order, axis=1), axis=1, kind='stable'), axis=1)


def _groups(scores: np.ndarray, costs: np.ndarray, unit: float) -> tuple[list[_Group], np.ndarray]:
    """The groups whose best item is not their cheapest, those of few totals first; and the cheapest item of every group, of
    equally cheap ones the best, int [n]."""
    order = _by_cost(scores, costs)
    scores, costs = (np.take_along_axis(each, order, axis=1) for each in (scores, costs))
    better = scores[:, 1:] > np.maximum.accumulate(scores, axis=1)[:, :-1]
    beyond = np.rint((costs - costs[:, :1]) / unit).astype(np.int64)
    groups = []
    for index in np.flatnonzero(better.any(axis=1)):
        places = np.concatenate([[0], 1 + np.flatnonzero(better[index])])
        gains = scores[index, places] - scores[index, 0]
        groups.append(_Group(int(index), order[index, places], beyond[index, places], gains))
    return sorted(groups, key=lambda group: group.steps[-1]), order[:, 0]


def _sums(groups: Sequence[_Group]) -> int:
    """How many sums the dynamic program adds."""
    widths = np.concatenate([[1], 1 + np.cumsum([group.steps[-1] for group in groups])[:-1]]) if groups else np.zeros(0)
    return int(sum(width * (len(group.items) - 1) for width, group in zip(widths, groups)))


def _with_group(sums: np.ndarray, group: _Group, chosen: np.ndarray | None = None) -> np.ndarray:
    """The best sums of gains by total cost, −inf where no choice costs that, with one more group.

    chosen: of zeros, as long as the result; filled with the place of the item that each total takes, the cheaper of equals.
    """
    width = len(sums)
    after = np.full(width + group.steps[-1], -np.inf)
    after[:width] = sums
    for place in range(1, len(group.steps)):
        there = slice(group.steps[place], group.steps[place] + width)
        reached = sums + group.gains[place]
        if chosen is not None:
            np.copyto(chosen[there], place, where=reached > after[there])
        np.maximum(after[there], reached, out=after[there])
    return after
