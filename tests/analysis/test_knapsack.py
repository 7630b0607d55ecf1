"""One plan for each text within a budget: against every assignment there is, against each other where those are too many."""

import numpy as np
import pytest

from calm_jax.analysis import knapsack
from calm_jax.analysis.knapsack import EveryBudget, Hull, frontier, optimum, unit_of


def all_assignments(scores, costs):
    """(mean score, mean cost) of each of K**n assignments."""
    count, plans = scores.shape
    items = np.indices((plans,) * count).reshape(count, -1).T
    rows = np.arange(count)
    return scores[rows, items].mean(axis=1), costs[rows, items].mean(axis=1)


def best_of(values, spent, budget):
    """The best score within a budget, and the least cost at which it is had."""
    within = spent <= budget + 1e-9
    score = values[within].max()
    return score, spent[within & (values >= score - 1e-9)].min()


def random_sets(seed, count, plans, unit=1.0, levels=None):
    """Costs that differ from text to text; scores of a few levels are often equal, within a text and in sum."""
    rng = np.random.default_rng(seed)
    costs = unit * rng.integers(1, 9, (count, plans))
    scores = rng.random((count, plans)) if levels is None else rng.integers(0, levels + 1, (count, plans)) / levels
    return scores, costs.astype(float)


def mean_of(values, choices):
    return np.take_along_axis(values, choices[:, None].astype(int), axis=1).mean()


@pytest.mark.parametrize('levels', [None, 4, 1])
@pytest.mark.parametrize('count, plans, unit', [(6, 4, 4.0), (9, 3, 1 / 3), (13, 2, 0.5), (1, 3, 1.0)])
def test_every_budget_has_the_best_of_all_assignments_and_the_cheapest_of_those(count, plans, unit, levels):
    scores, costs = random_sets(count + plans, count, plans, unit, levels)
    values, spent = all_assignments(scores, costs)
    exact = EveryBudget(scores, costs, unit)
    budgets = np.arange(spent.min(), costs.max() + unit, unit / count)  # every total there is, and beyond
    budgets = np.concatenate([budgets, budgets + 0.3 * unit / count])
    choices = exact.choices(budgets)
    for budget, score, chosen in zip(budgets, exact.score(budgets), choices):
        best, least = best_of(values, spent, budget)
        assert abs(score - best) < 1e-9 and abs(mean_of(scores, chosen) - best) < 1e-9
        assert abs(mean_of(costs, chosen) - least) < 1e-9
        assert (exact.choices([budget])[0] == chosen).all()  # whatever else is asked
    if count == 13 and levels is None:
        assert len(exact._rows) == 2  # the choices were put together of two parts


def test_a_hull_has_the_optimum_where_it_bends_and_bounds_it_elsewhere():
    rng = np.random.default_rng(5)
    for plans in (2, 3, 4):
        scores, costs = rng.random((6, plans)), rng.random((6, plans)) * 9
        values, spent = all_assignments(scores, costs)
        hull = Hull(scores, costs)
        assert (np.diff(hull.scores) > 0).all() and len(hull.budgets) > 2
        for budget, score, chosen in zip(hull.budgets, hull.scores, hull.choices(hull.budgets)):
            best, least = best_of(values, spent, budget)
            assert abs(score - best) < 1e-9 and abs(mean_of(scores, chosen) - best) < 1e-9
            assert abs(mean_of(costs, chosen) - budget) < 1e-9 and abs(least - budget) < 1e-9
        between = np.linspace(hull.budgets[0], hull.budgets[-1] + 1, 40)
        best = np.array([best_of(values, spent, budget)[0] for budget in between])
        assert (hull.score(between) <= best + 1e-9).all() and (best <= hull.upper(between) + 1e-9).all()
        assert (hull.upper(between) - hull.score(between) <= hull.gap + 1e-12).all()
        assert (hull.upper(between) > best + 1e-6).any()  # the relaxation is one


@pytest.mark.parametrize('levels', [None, 2])
def test_a_single_budget_is_settled_between_two_bends(levels):
    rng = np.random.default_rng(7)
    scores, _ = random_sets(1, 8, 3, levels=levels)
    costs = rng.random((8, 3)) * 9
    values, spent = all_assignments(scores, costs)
    hull = Hull(scores, costs)
    improved = 0
    for budget in np.linspace(hull.budgets[0], hull.budgets[-1], 20):
        settled, (best, _) = optimum(scores, costs, budget, hull), best_of(values, spent, budget)
        assert settled.bound == settled.score and abs(settled.score - best) < 1e-6
        assert mean_of(costs, settled.choices) <= budget + 1e-9
        assert abs(mean_of(scores, settled.choices) - settled.score) < 1e-9
        improved += settled.score > hull.score([budget])[0] + 1e-9
    assert improved > 2 or levels


def test_many_texts_lie_between_stair_and_hull_as_the_single_budgets_do():
    scores, _ = random_sets(2, 700, 4)
    costs = np.broadcast_to([4.0, 8.0, 12.0, 24.0], scores.shape)
    exact, hull = frontier(scores, costs), Hull(scores, costs)
    assert isinstance(exact, EveryBudget) and len(exact._rows) > 5
    budgets = np.linspace(4, 24, 30)
    stairs = exact.score(budgets)
    assert (hull.score(budgets) <= stairs).all() and (stairs <= hull.upper(budgets) + 1e-12).all()
    assert (hull.score(budgets) < stairs).any() and (np.diff(stairs) >= 0).all()
    for budget, chosen in zip(budgets, exact.choices(budgets)):
        assert mean_of(costs, chosen) <= budget + 1e-9 and abs(mean_of(scores, chosen) - exact.score([budget])[0]) < 1e-9
    assert abs(optimum(scores, costs, budgets[3], hull).score - stairs[3]) < 1e-9


def test_plans_that_are_alike_are_the_cheapest():
    scores, costs = np.full((5, 3), 0.5), np.broadcast_to([4.0, 2.0, 9.0], (5, 3))
    for each in (EveryBudget(scores, costs, 1.0), Hull(scores, costs)):
        assert each.choices([2, 9]).tolist() == [[1] * 5] * 2 and each.budgets.tolist() == [2.0]


def test_sums_in_another_order_are_the_same():
    """A tenth has no exact double: sums of it differ by their order, unless it is rounded first."""
    scores, costs = np.full((10, 2), 0.0), np.broadcast_to([1.0, 2.0], (10, 2))
    scores = scores + np.where(np.arange(2) == 1, 0.1, 0.0)
    exact = EveryBudget(scores, costs, 1.0)
    assert len(exact.budgets) == 11 and exact.scores[-1] == pytest.approx(0.1, abs=1e-9)


def test_the_unit_of_costs_is_the_largest_there_is():
    assert unit_of(np.array([[4.0, 8.0, 12.0, 24.0]])) == 4.0
    assert unit_of(np.array([[5.0, 8.0, 24.0], [4.0, 4.0, 6.0]])) == 1.0
    assert unit_of(np.array([[4 / 3, 6.0], [5 / 3, 6.0]])) == pytest.approx(1 / 3)
    assert unit_of(np.array([[3.5, 3.5]])) == 1.0
    assert unit_of(np.array([[1.0, 2.0**0.5]])) is None


def test_costs_without_a_unit_and_sums_without_end_have_a_hull(monkeypatch):
    scores, costs = random_sets(3, 20, 3)
    assert isinstance(frontier(scores, costs), EveryBudget)
    assert isinstance(frontier(scores, costs * np.pi), Hull)
    monkeypatch.setattr(knapsack, 'MOST_SUMS', 100)
    assert isinstance(frontier(scores, costs), Hull)


def test_a_budget_below_the_cheapest_choice_is_refused():
    scores, costs = random_sets(4, 5, 3)
    lowest = costs.min(axis=1).mean()
    for each in (EveryBudget(scores, costs, 1.0), Hull(scores, costs)):
        each.choices([lowest])
        for method in (each.score, each.choices, each.upper):
            with pytest.raises(ValueError, match=f'a budget of {lowest - 0.1:g} is below {lowest:g}'):
                method([lowest - 0.1])
