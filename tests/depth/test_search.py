"""The search for the best static plan, against every plan there is."""

import itertools
import math
from functools import partial

import numpy as np
import pytest

from calm_jax.depth.search import search

THINGS = 6
EVERYTHING = tuple(range(THINGS))


def droppable(plan):
    return {str(thing): tuple(each for each in plan if each != thing) for thing in plan}


def count(plan):
    return float(len(plan))


def run(losses, target, first=EVERYTHING, cost_of=count, **options):
    """(route, plans whose loss was asked for)."""
    asked = []

    def loss_of(plan):
        asked.append(plan)
        return losses(plan)

    route = search(first, droppable, cost_of, loss_of, float(target), **options)
    assert len(asked) == route.evaluations == len(set(asked))
    for before, step in itertools.pairwise(route.steps):
        assert step.plan == droppable(before.plan)[step.dropped] and step.cost == cost_of(step.plan)
        assert not step.measured or step.loss == losses(step.plan)
    assert route.steps[-1].measured
    return route, asked


def subsets(count):
    return itertools.combinations(range(THINGS), count)


def additive(plan, rises=(0.5, 0.1, 0.3, 0.2, 0.6, 0.4)):
    return 1 + sum(rises[thing] for thing in range(THINGS) if thing not in plan)


@pytest.mark.parametrize('target', range(THINGS + 1))
def test_where_things_cost_alike_and_losses_add_up_greedy_is_the_best_of_all(target):
    route, _ = run(additive, target)
    assert route.steps[-1].plan == min(subsets(target), key=additive)
    assert len(route.steps) == THINGS - target + 1


@pytest.mark.parametrize('seed', range(4))
def test_a_beam_as_wide_as_there_are_plans_is_the_best_of_all_and_greedy_need_not_be(seed):
    pairs = np.abs(np.random.default_rng(seed).normal(size=(THINGS, THINGS))) ** 3

    def losses(plan):
        gone = [thing for thing in range(THINGS) if thing not in plan]
        return additive(plan) + float(pairs[np.ix_(gone, gone)].sum())

    best = min(map(losses, subsets(3)))
    by_beam = [run(losses, 3, beam=beam)[0].steps[-1].loss for beam in (1, 3, 100)]
    assert by_beam[2] == best <= by_beam[1] and best <= by_beam[0]


def test_a_beam_finds_what_greedy_passes_by():
    table = {(): 1.0, (0,): 0.1, (1,): 0.3, (2,): 0.3, (0, 1): 1.0, (0, 2): 1.0, (1, 2): 0.4, (0, 1, 2): 2.0}

    def losses(plan):
        return table[tuple(thing for thing in range(3) if thing not in plan)]

    greedy, beam = (run(losses, 1, first=(0, 1, 2), beam=beam)[0] for beam in (1, 2))
    assert [step.dropped for step in greedy.steps] == ['', '0', '1'] and greedy.steps[-1].loss == 1.0
    assert beam.steps[-1].plan == (0,) and beam.steps[-1].loss == 0.4


def test_a_saving_is_worth_what_was_still_to_be_saved():
    costs, rises = (10, 4, 2), (1.0, 0.42, 0.3)

    def losses(plan):
        return sum(rises[thing] for thing in range(3) if thing not in plan)

    def dropped(target):
        route, _ = run(losses, target, first=(0, 1, 2), cost_of=lambda plan: float(sum(costs[thing] for thing in plan)))
        return [step.dropped for step in route.steps[1:]]

    assert dropped(6) == ['0']  # .1, .105 and .15 a unit
    assert dropped(12) == ['1'] and dropped(14) == ['2'] and dropped(15) == ['2']  # of which 4, 2 and 1 are of use
    assert dropped(16) == []


def test_what_evaluations_do_not_reach_goes_by_what_it_cost_before():
    whole, _ = run(additive, 1)
    assert whole.evaluations == 1 + 6 + 5 + 4 + 3 + 2
    for most in (8, 9, 13, 19):
        route, asked = run(additive, 1, max_evaluations=most)
        assert [step.dropped for step in route.steps] == [step.dropped for step in whole.steps]
        np.testing.assert_allclose([step.loss for step in route.steps], [step.loss for step in whole.steps])
        assert len(asked) <= most and route.steps[-1].loss == additive(route.steps[-1].plan)
    measured = [step.measured for step in run(additive, 1, max_evaluations=8)[0].steps]
    assert measured == [True, True, False, False, False, True]


def test_the_best_of_each_step_is_told():
    told = []
    route, _ = run(additive, 3, watch=told.append)
    assert tuple(told) == route.steps[1:]


@pytest.mark.parametrize(
    'options, message',
    (
        ({'target': -1.0}, 'a cost of -1 cannot be reached: with all dropped that can be it is 0'),
        ({'target': math.nan}, 'a cost of nan cannot be reached'),
        ({'beam': 0}, 'beam is 0; expected 1 or more'),
        ({'max_evaluations': 7}, 'max_evaluations is 7; expected 8 or more, one for each thing and two plans'),
        ({'loss_of': lambda plan: math.nan}, 'the loss of a plan is nan: look at the data and the model'),
    ),
)
def test_what_cannot_be_searched_for_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        partial(search, EVERYTHING, droppable, count, **{'loss_of': additive, 'target': 3.0, **options})()
