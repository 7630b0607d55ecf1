"""The best plan that is the same for every input, searched on tuning data: greedily, or with a beam of plans.

A search begins with everything run. Each step drops one thing: that which raises the loss least for each unit of cost that it
saves and that was still to be saved, until the cost is at most what it may be. Of plans it knows what it is told: what may be
dropped next, what a plan costs, and what it loses, whether that is measured on batches or on decoded texts.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

Plan = Hashable


class Step(NamedTuple):
    """A plan on a route. dropped: the name of what the plan before it has and it has not, '' of the first. loss: measured, or
    where evaluations had run out as the one before and what dropping the same thing cost when it was last measured."""

    dropped: str
    plan: Any
    cost: float
    loss: float
    measured: bool


class Route(NamedTuple):
    """From the first plan to the one that was searched for, one thing less at each step. evaluations: plans whose loss was
    measured, those too that are not on it."""

    steps: tuple[Step, ...]
    evaluations: int


def search(
    first: Plan,
    droppable: Callable[[Any], Mapping[str, Plan]],
    cost_of: Callable[[Any], float],
    loss_of: Callable[[Any], float],
    target: float,
    *,
    beam: int = 1,
    max_evaluations: int = 10_000,
    watch: Callable[[Step], None] = lambda step: None,
) -> Route:
    """The route to the plan of least loss that costs at most `target`, of those that the search meets.

    first: the plan that drops nothing. droppable: a plan → {name of a thing: the plan without it}; that everything can be
    dropped, in any order, is taken for granted. loss_of: asked once for each plan. beam: plans that each step goes on from; 1
    is greedy. Each proposes its best next ones, of which those stay that raised the loss least for each unit of cost saved
    since the first; of those alike, what `droppable` names first. max_evaluations: of `loss_of`; where a step's plans are more
    than are left, it is taken by what dropping each thing cost when it was last measured, and the plans taken are measured as
    long as there are any, the one at the end always. watch: told the best plan of each step.

    Raises ValueError as `check` does, and where a loss is no number.
    """
    check(first, droppable, cost_of, target, beam, max_evaluations)
    losses, rises = _Losses(loss_of, max_evaluations), {}
    start = Step('', first, cost_of(first), losses.measure(first), True)
    live, done = [(start,)], []
    if start.cost <= target:
        live, done = [], live
    while live:
        grown = [_grown(path, droppable, cost_of) for path in live]
        measured = losses.afford([step.plan for steps in grown for step in steps])
        best = []
        for path, steps in zip(live, grown):
            steps = [_scored(path[-1], step, losses, rises, measured) for step in steps]
            steps.sort(key=lambda step: _price(path[-1], step, target))
            best += [(*path, step) for step in steps[: beam - len(done)]]
        best.sort(key=lambda path: _price(start, path[-1], target))
        best = _apart(best)[: beam - len(done)]
        if losses.afford([path[-1].plan for path in best]):
            best = [(*path, _measured(step, losses)) for *path, step in best]
        done += [path for path in best if path[-1].cost <= target]
        live = [path for path in best if path[-1].cost > target]
        if best:
            watch(best[0][-1])
    *before, last = min(done, key=lambda path: path[-1].loss)
    return Route((*before, _measured(last, losses)), losses.count)


def check(
    first: Plan,
    droppable: Callable[[Any], Mapping[str, Plan]],
    cost_of: Callable[[Any], float],
    target: float,
    beam: int,
    max_evaluations: int,
) -> None:
    """Raises ValueError for a target that cannot be reached, fewer evaluations than the first step and the end need, and a beam
    of none."""
    if beam < 1:
        raise ValueError(f'beam is {beam}; expected 1 or more')
    least = _least(first, droppable, cost_of)
    if not target >= least:
        raise ValueError(f'a cost of {target:g} cannot be reached: with all dropped that can be it is {least:.4g}')
    needed = len(droppable(first)) + 2
    if max_evaluations < needed:
        raise ValueError(f'max_evaluations is {max_evaluations}; expected {needed} or more, one for each thing and two plans')


class _Losses:
    """Losses of plans, each measured once, of which one evaluation is kept back for the plan at the end."""

    def __init__(self, loss_of: Callable[[Any], float], most: int):
        self._loss_of, self._most = loss_of, most
        self._losses: dict[Plan, float] = {}

    @property
    def count(self) -> int:
        """Evaluations so far."""
        return len(self._losses)

    def measure(self, plan: Plan) -> float:
        """The loss of a plan. Raises ValueError for one that is no number."""
        if plan not in self._losses:
            loss = float(self._loss_of(plan))
            if math.isnan(loss):
                raise ValueError(f'the loss of a plan is {loss}: look at the data and the model')
            self._losses[plan] = loss
        return self._losses[plan]

    def afford(self, plans: Sequence[Plan]) -> bool:
        """Whether all of these may be measured, and one more."""
        return self.count + len({plan for plan in plans if plan not in self._losses}) < self._most


def _least(plan: Plan, droppable: Callable[[Any], Mapping[str, Plan]], cost_of: Callable[[Any], float]) -> float:
    """The cost where everything is dropped."""
    while left := droppable(plan):
        plan = [*left.values()][-1]
    return cost_of(plan)


def _grown(path: tuple[Step, ...], droppable: Callable[[Any], Mapping[str, Plan]], cost_of: Callable[[Any], float]) -> list:
    """Steps from the end of a path, their losses unknown: those that save anything."""
    steps = [Step(name, plan, cost_of(plan), math.nan, False) for name, plan in droppable(path[-1].plan).items()]
    return [step for step in steps if step.cost < path[-1].cost]


def _scored(before: Step, step: Step, losses: _Losses, rises: dict[str, float], measured: bool) -> Step:
    """The step with its loss; `rises`: what dropping each thing cost when it was last measured."""
    if measured:
        rises[step.dropped] = losses.measure(step.plan) - before.loss
        return _measured(step, losses)
    return step._replace(loss=before.loss + rises.get(step.dropped, math.inf))


def _measured(step: Step, losses: _Losses) -> Step:
    return step._replace(loss=losses.measure(step.plan), measured=True)


def _price(before: Step, step: Step, target: float) -> float:
    """What the loss rises by for each unit of cost that is saved, as far as it was still to be saved."""
    return (step.loss - before.loss) / (before.cost - max(step.cost, target))


def _apart(paths: Sequence[tuple[Step, ...]]) -> list[tuple[Step, ...]]:
    """The first path to each plan."""
    first: dict[Plan, tuple[Step, ...]] = {}
    for path in paths:
        first.setdefault(path[-1].plan, path)
    return [*first.values()]
