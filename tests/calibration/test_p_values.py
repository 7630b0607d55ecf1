"""A p-value is at most u with probability at most u where the loss exceeds the tolerance, and has the power it should.

Each law is a function of the p-value, and the well-known wrong versions, written below, fail the very same laws.
"""

import math

import numpy as np
import pytest
from scipy.special import bdtr
from scipy.stats import binom

from calm_jax.calibration import P_VALUES, betting, binomial, compute_p_values, hoeffding, hoeffding_bentkus, least_n
from calm_jax.calibration.draws import permutation, uniforms

CALIBRATIONS = 10_000
MOST_REJECTIONS = 0.0583  # of 10,000 at ε = .05: four standard deviations above it is .0587


# --- The laws. ---


def column(total: float, n: int) -> np.ndarray:
    """n losses with this sum: ones, one fraction, zeros."""
    ones = int(total)
    return np.array([1.0] * ones + ([total - ones] if total > ones else []) + [0.0] * (n - ones - (total > ones)))


def rejected_at_the_boundary(p_value, n: int, tolerance: float, epsilon: float) -> float:
    """P(p ≤ ε) where every loss is Bernoulli(δ), by enumeration of their sum."""
    counts = np.arange(n + 1)
    p = p_value((np.arange(n)[:, None] < counts).astype(float), tolerance)
    return binom.pmf(counts, n, tolerance)[p <= epsilon].sum()


def law_of_hoeffding_bentkus(p_value) -> None:
    assert p_value(column(220, 1000), 0.25) == pytest.approx(0.03995, abs=5e-6)
    assert p_value(column(5.4, 100), 0.1) == pytest.approx(0.24952, abs=5e-6)
    assert rejected_at_the_boundary(p_value, 1000, 0.25, 0.05) == pytest.approx(0.01773, abs=5e-6)
    for n, tolerance in ((1, 0.9), (3, 0.5), (1000, 0.25)):
        for total in (n * tolerance, (n * tolerance + n) / 2, n):
            assert p_value(column(total, n), tolerance) == 1
    for n in range(1, 76):  # 0/1 losses against the formula in integers and one rational tail
        for tolerance in (0.3, 0.6):
            expected, tail = [], 0.0
            for count in range(math.ceil(n * tolerance)):
                tail += math.comb(n, count) * tolerance**count * (1 - tolerance) ** (n - count)
                mean = count / n
                h = (1 - mean) * math.log((1 - mean) / (1 - tolerance))
                h += mean * math.log(mean / tolerance) if count else 0
                expected.append(min(1, math.exp(-n * h), math.e * tail))
            losses = (np.arange(n)[:, None] < np.arange(len(expected))).astype(float)
            np.testing.assert_allclose(p_value(losses, tolerance), expected, rtol=1e-9)


def beta_losses(seed: int, n: int, columns: int, mean: float) -> np.ndarray:
    """Zero-inflated Beta(1, 3) losses with this mean ≤ 1/4, by the inverse transform 1 − (1 − v)^(1/3)."""
    u, nonzero = uniforms(seed, n, columns), 4 * mean
    return np.where(u < nonzero, 1 - np.cbrt(1 - np.minimum(u / nonzero, 1)), 0.0)


def bernoulli_losses(seed: int, n: int, columns: int, mean: float) -> np.ndarray:
    return (uniforms(seed, n, columns) < mean).astype(float)


def law_of_validity(p_value) -> None:
    for draw, tolerance in ((beta_losses, 0.1), (beta_losses, 0.02), (bernoulli_losses, 0.25), (bernoulli_losses, 0.5)):
        losses = draw(11, 80, CALIBRATIONS, tolerance)
        for epsilon, most in ((0.05, MOST_REJECTIONS), (0.2, 0.2152)):
            assert np.mean(p_value(losses, tolerance) <= epsilon) <= most, (draw.__name__, tolerance, epsilon)


def law_of_sorted_files(p_value) -> None:
    """The validity of an ordered p-value on files sorted by difficulty, easy ones first; the seed varies as well."""
    losses = np.sort(beta_losses(13, 100, 2000, 0.1), axis=0)
    rejected = np.mean([p_value(losses[:, seed], 0.1, seed) <= 0.05 for seed in range(2000)])
    assert rejected <= 0.0695  # four standard deviations above .05


# --- The wrong versions. ---


def bentkus_variant(factor: float, rounded_sum) -> callable:
    def p_value(losses, tolerance):
        n, total = len(losses), losses.sum(axis=0)
        mean = np.minimum(total / n, tolerance)
        with np.errstate(divide='ignore', invalid='ignore'):
            h = (1 - mean) * np.log((1 - mean) / (1 - tolerance))
            h += np.where(mean > 0, mean * np.log(mean / tolerance), 0)
        p = np.minimum(np.exp(-n * h), factor * bdtr(np.minimum(rounded_sum(total, n), n), n, tolerance))
        return np.where(total / n >= tolerance, 1.0, np.minimum(1, p))

    return p_value


def ceiling(total, n):
    return np.ceil(total)


WRONG_HOEFFDING_BENTKUS = {
    'no factor e': bentkus_variant(1.0, ceiling),
    'floor for ceiling': bentkus_variant(math.e, lambda total, n: np.floor(total)),
    'ceiling of n times the mean': bentkus_variant(math.e, lambda total, n: np.ceil(n * (total / n))),
}


def betting_variant(losses, tolerance, seed=0, order=permutation, peek=False, cap=0.75, toward=1.0):
    losses = losses[order(seed, len(losses))]
    n = len(losses)
    i = np.arange(1, n + 1).reshape(-1, *[1] * (losses.ndim - 1))
    mean = (0.5 + np.cumsum(losses, axis=0)) / (i + 1)
    variance = (0.25 + np.cumsum((losses - mean) ** 2, axis=0)) / (i + 1)
    known = variance if peek else np.concatenate([np.full_like(variance[:1], 0.25), variance[:-1]])
    bets = np.minimum(np.sqrt(2 * np.log(20) / (n * known)), cap / (1 - tolerance))
    capital = np.cumprod(1 + bets * toward * (tolerance - losses), axis=0)
    return np.minimum(1, 1 / capital.max(axis=0))


def betting_without_permutation(losses, tolerance, seed=0):
    return betting_variant(losses, tolerance, seed, order=lambda seed, n: np.arange(n))


def betting_that_peeks(losses, tolerance, seed=0):
    return betting_variant(losses, tolerance, seed, peek=True)


def betting_on_the_best_of_two_orders(losses, tolerance, seed=0):
    return np.minimum(*(betting_variant(losses, tolerance, s) for s in (2 * seed, 2 * seed + 1)))


# --- What holds. ---


def test_hoeffding_is_its_formula():
    np.testing.assert_allclose(hoeffding(np.stack([column(50, 1000), column(400, 1000)], 1), 0.1), [math.exp(-5), 1.0])


def test_hoeffding_bentkus_is_the_papers():
    law_of_hoeffding_bentkus(hoeffding_bentkus)


@pytest.mark.parametrize('name', WRONG_HOEFFDING_BENTKUS)
def test_wrong_hoeffding_bentkus_fails_the_same_law(name):
    with pytest.raises(AssertionError):
        law_of_hoeffding_bentkus(WRONG_HOEFFDING_BENTKUS[name])


def test_the_variant_that_the_wrong_versions_change_is_right_itself():
    with pytest.raises(AssertionError):  # nothing but the exactness of the sum sets them apart
        law_of_hoeffding_bentkus(bentkus_variant(math.e, lambda total, n: np.ceil(total) + 1))
    law_of_hoeffding_bentkus(bentkus_variant(math.e, ceiling))
    losses = beta_losses(0, 100, 3, 0.1)
    np.testing.assert_allclose(betting_variant(losses, 0.2), betting(losses, 0.2), rtol=1e-9)


def test_binomial_is_the_exact_tail():
    for n, tolerance in ((30, 0.1), (1000, 0.25)):
        counts = np.arange(n + 1)
        p = binomial((np.arange(n)[:, None] < counts).astype(float), tolerance)
        np.testing.assert_allclose(p, binom.cdf(counts, n, tolerance), rtol=1e-9)
    assert rejected_at_the_boundary(binomial, 1000, 0.25, 0.05) == pytest.approx(0.04905, abs=5e-6)


def test_binomial_refuses_losses_between_0_and_1():
    losses = np.zeros((50, 3))
    losses[4, 2] = 0.5
    message = r"^losses: row 4, column 2 \(counted from 0\) is 0.5; p-value 'binomial' is for losses 0 or 1"
    with pytest.raises(ValueError, match=message):
        binomial(losses, 0.1)


@pytest.mark.parametrize('p_value', [hoeffding_bentkus, betting], ids=lambda f: f.__name__)
def test_at_the_boundary_few_are_rejected(p_value):
    law_of_validity(p_value)


@pytest.mark.parametrize('p_value', [hoeffding, hoeffding_bentkus, binomial], ids=lambda f: f.__name__)
def test_at_the_boundary_no_level_is_exceeded_by_enumeration(p_value):
    for n, tolerance in ((40, 0.1), (200, 0.5)):
        for epsilon in (0.01, 0.05, 0.3, 0.7):
            assert rejected_at_the_boundary(p_value, n, tolerance, epsilon) <= epsilon


@pytest.mark.parametrize('wrong', [betting_on_the_best_of_two_orders, betting_that_peeks], ids=lambda f: f.__name__)
def test_wrong_betting_fails_the_law_of_validity(wrong):
    with pytest.raises(AssertionError):
        law_of_validity(wrong)


def test_betting_holds_on_a_file_sorted_by_difficulty():
    law_of_sorted_files(betting)


def test_betting_without_permutation_certifies_a_sorted_file_falsely():
    with pytest.raises(AssertionError):
        law_of_sorted_files(betting_without_permutation)


def test_betting_is_its_formula_bet_by_bet():
    losses, tolerance, seed, n = beta_losses(3, 60, 1, 0.05)[:, 0].tolist(), 0.1, 9, 60
    reference = np.random.Generator(np.random.PCG64(seed)).random(n).tolist()
    capital, largest, seen, squares = 1.0, 1.0, [], 0.0
    for index in sorted(range(n), key=reference.__getitem__):
        variance = (1 / 4 + squares) / (len(seen) + 1)
        bet = min(math.sqrt(2 * math.log(20) / (n * variance)), 0.75 / (1 - tolerance))
        capital *= 1 + bet * (tolerance - losses[index])
        largest = max(largest, capital)
        seen.append(losses[index])
        squares += (losses[index] - (1 / 2 + sum(seen)) / (len(seen) + 1)) ** 2
    assert largest > 2
    assert betting(losses, tolerance, seed) == pytest.approx(1 / largest, rel=1e-9)


def test_the_order_of_betting_comes_from_the_seed_and_is_shared_by_columns():
    losses = beta_losses(4, 100, 1, 0.1)[:, 0]
    p = betting(np.stack([losses, losses], 1), 0.15, seed=1)
    assert p[0] == p[1] == betting(losses, 0.15, seed=1) != betting(losses, 0.15, seed=2)


@pytest.mark.parametrize('p_value', [hoeffding, hoeffding_bentkus], ids=lambda f: f.__name__)
def test_the_order_of_examples_changes_no_other_p_value(p_value):
    losses = beta_losses(5, 500, 1, 0.1)[:, 0]
    assert p_value(losses, 0.15) == p_value(np.sort(losses), 0.15) == p_value(losses[::-1], 0.15)


@pytest.mark.parametrize('p_value', P_VALUES)
def test_columns_are_tested_each_on_its_own(p_value):
    losses = bernoulli_losses(6, 120, 5, 0.1)
    together = compute_p_values(losses, 0.2, p_value)
    assert together.shape == (5,)
    np.testing.assert_allclose([compute_p_values(losses[:, j], 0.2, p_value) for j in range(5)], together, rtol=1e-12)


@pytest.mark.parametrize('p_value', P_VALUES)
def test_p_is_a_probability_and_rejects_what_is_far_below_the_tolerance(p_value):
    losses = bernoulli_losses(7, 300, 50, 0.4)
    p = compute_p_values(losses, 0.3, p_value)
    assert (p > 0).all() and (p <= 1).all()
    assert (compute_p_values(losses, 0.9, p_value) < 1e-6).all()


@pytest.mark.parametrize(
    ('p_value', 'expected'),
    [('hoeffding', [3745, 600, 150, 24]), ('hoeffding_bentkus', [149, 59, 29, 11]), ('binomial', [149, 59, 29, 11])],
)
def test_the_least_n_is_that_of_the_table(p_value, expected):
    assert [least_n(p_value, tolerance, 0.05) for tolerance in (0.02, 0.05, 0.1, 0.25)] == expected


@pytest.mark.parametrize('p_value', P_VALUES)
def test_the_least_n_rejects_zero_losses_and_one_fewer_does_not(p_value):
    for tolerance in (0.03, 0.1, 0.5, 0.9):
        for epsilon in (0.2, 0.05, 0.05 / 20, 0.25):
            n = least_n(p_value, tolerance, epsilon)
            assert compute_p_values(np.zeros(n), tolerance, p_value) <= epsilon
            assert n == 1 or compute_p_values(np.zeros(n - 1), tolerance, p_value) > epsilon


def test_a_tolerance_that_no_file_could_satisfy_is_refused():
    with pytest.raises(ValueError, match=r'^hoeffding at tolerance 1e-05 and epsilon 0.05 needs over'):
        least_n('hoeffding', 1e-5, 0.05)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (([0.1], 0.0), '^tolerance: expected a number between 0 and 1, found 0.0$'),
        (([0.1], 1), '^tolerance: expected a number between 0 and 1, found 1$'),
        (([0.1, float('nan')], 0.1), r'^losses: row 1 \(counted from 0\) is nan; expected a number in \[0, 1\]$'),
        (([0.1], 0.1, 'bentkus'), "^p_value: expected one of hoeffding, .*, found 'bentkus'$"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        compute_p_values(*arguments)
    with pytest.raises(ValueError, match='^epsilon: expected a number between 0 and 1, found 0$'):
        least_n('betting', 0.1, 0)
