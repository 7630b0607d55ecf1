"""A procedure certifies a false point with probability at most ε, however strong the true ones beside it."""

import numpy as np
import pytest
from scipy.stats import binom

from calm_jax.calibration import Point, binomial, bonferroni, fixed_sequence
from calm_jax.calibration.certificate import choose
from calm_jax.calibration.draws import uniforms

N, TOLERANCE, EPSILON = 1000, 0.25, 0.05
MEANS = (0.05, 0.15, 0.25, 0.25, 0.25)  # two strong alternatives, then nulls at the boundary
CALIBRATIONS = 10_000


@pytest.fixture(scope='module')
def p_values() -> np.ndarray:
    """Binomial p-values [10,000, 5] of simulated calibrations; sums by inverse transform, p by a table of all sums."""
    table = binomial((np.arange(N)[:, None] < np.arange(N + 1)).astype(float), TOLERANCE)
    sums = np.stack([binom.ppf(uniforms((17, j), CALIBRATIONS), N, mean) for j, mean in enumerate(MEANS)], axis=1)
    return table[sums.astype(int)]


def law_of_certification(procedure, p_values) -> None:
    """False certifications at most ε (5.83% of 10,000 is 3.8 standard deviations above), and both true ones found."""
    certified = [procedure(row, EPSILON) for row in p_values]
    false = np.mean([index is not None and MEANS[index] >= TOLERANCE for index in certified])
    assert false <= 0.0583
    assert np.mean([index is not None and index >= 1 for index in certified]) > 0.999


def two_ended(p_values, epsilon):
    """Also starts from the low end, with the whole of ε again."""
    from_the_top = fixed_sequence(p_values, epsilon)
    from_below = fixed_sequence(p_values[::-1], epsilon)
    return from_the_top if from_below is None else len(p_values) - 1


def first_unrejected(p_values, epsilon):
    """Returns the point at which it stopped."""
    last = fixed_sequence(p_values, epsilon)
    return min(0 if last is None else last + 1, len(p_values) - 1)


def sorted_columns(p_values, epsilon):
    """Orders the points by what the data say of them."""
    order = np.argsort(p_values, kind='stable')
    last = fixed_sequence(p_values[order], epsilon)
    return None if last is None else max(order[: last + 1])


def never_stops(p_values, epsilon):
    """Returns the lowest point with p ≤ ε, past failures."""
    return max(np.flatnonzero(p_values <= epsilon), default=None)


def never_certifies(p_values, epsilon):
    return None


def smallest_of_bonferroni(p_values, epsilon):
    return max(bonferroni(p_values, epsilon), default=None)


def choice(p_values, epsilon, procedure) -> int | None:
    """The chosen point where the false ones are the cheapest."""
    costs = (9, 8, 1, 2, 3)
    return choose([Point({}, cost=cost, p_value=p) for cost, p in zip(costs, p_values)], procedure, epsilon)[1]


def cheapest_of_fixed_sequence(p_values, epsilon):
    return choice(p_values, epsilon, 'fixed_sequence')


def cheapest_of_bonferroni(p_values, epsilon):
    return choice(p_values, epsilon, 'bonferroni')


def cheapest_that_rejects_alone(p_values, epsilon):
    """Takes the cheapest with p ≤ ε, each tested as if it were the only one."""
    return min(np.flatnonzero(p_values <= epsilon), key=(9, 8, 1, 2, 3).__getitem__, default=None)


RIGHT = [fixed_sequence, smallest_of_bonferroni, cheapest_of_fixed_sequence, cheapest_of_bonferroni]


@pytest.mark.parametrize('procedure', RIGHT, ids=lambda f: f.__name__)
def test_true_nulls_behind_strong_alternatives_are_seldom_certified(procedure, p_values):
    law_of_certification(procedure, p_values)


WRONG = [two_ended, first_unrejected, sorted_columns, never_stops, never_certifies, cheapest_that_rejects_alone]


@pytest.mark.parametrize('wrong', WRONG, ids=lambda f: f.__name__)
def test_wrong_procedures_fail_the_same_law(wrong, p_values):
    with pytest.raises(AssertionError):
        law_of_certification(wrong, p_values)


@pytest.mark.parametrize(
    ('p_values', 'last_rejected'),
    [
        ([0.01, 0.02, 0.03], 2),
        ([0.01, 0.2, 0.001], 0),  # nothing behind a failure is reached
        ([0.04, 0.001, 0.03, 0.9], 2),  # the order is as given
        ([0.2, 0.001], None),
        ([0.05, 0.0500001], 0),  # p = ε rejects
        ([float('nan'), 0.01], None),
        ([], None),
    ],
)
def test_fixed_sequence_stops_at_the_first_failure_and_returns_the_last_rejected(p_values, last_rejected):
    assert fixed_sequence(p_values, 0.05) == last_rejected


def test_fixed_sequence_asks_for_nothing_beyond_the_first_failure():
    asked = []
    assert fixed_sequence((asked.append(p) or p for p in (0.01, 0.02, 0.3, 0.01)), 0.05) == 1
    assert asked == [0.01, 0.02, 0.3]


def test_bonferroni_shares_epsilon_over_the_whole_grid_in_any_order():
    assert bonferroni([0.2, 0.0125, 0.0126, 0.0], 0.05) == [1, 3]
    assert bonferroni(iter([0.05]), 0.05) == [0]
    assert bonferroni([0.03, 0.9], 0.05) == []
