"""How many examples are enough, asked before collecting them."""

import numpy as np
import pytest
from scipy.stats import binom

from calm_jax.calibration import examples_needed, least_n, rejection_probability
from calm_jax.calibration.draws import uniforms
from calm_jax.calibration.power import _zero_inflated_beta


@pytest.mark.parametrize('mean', [0.0, 0.006, 0.05, 0.2, 0.7, 1.0])
def test_the_imagined_losses_have_the_mean_they_are_asked_for(mean):
    losses = _zero_inflated_beta((np.arange(200_000) + 0.5) / 200_000, mean)
    assert losses.min() >= 0 and losses.max() <= 1
    assert losses.mean() == pytest.approx(mean, abs=2e-4)
    assert (losses > 0).mean() == pytest.approx(np.sqrt(mean), abs=1e-4)
    if 0 < mean < 1:
        spread = losses[losses > 0].var()  # Beta(4m, 4(1−m)) has variance m(1−m)/5
        assert spread == pytest.approx(np.sqrt(mean) * (1 - np.sqrt(mean)) / 5, rel=0.02)


# Percent of calibrations that reject at n = 1,014, ε = .05 and δ = .02, .05, .1, simulated elsewhere with such losses.
TABLE = {
    ('hoeffding', 0.3): (0, 5, 100),
    ('hoeffding', 0.5): (0, 0, 100),
    ('hoeffding_bentkus', 0.3): (100, 100, 100),
    ('hoeffding_bentkus', 0.5): (69, 100, 100),
    ('hoeffding_bentkus', 0.7): (6, 56, None),
    ('betting', 0.3): (100, 100, 100),
    ('betting', 0.5): (99, 100, 100),
    ('betting', 0.7): (62, 98, None),
}


@pytest.mark.parametrize(('p_value', 'share'), TABLE)
def test_power_at_a_thousand_examples_is_about_that_of_the_table(p_value, share):
    for tolerance, expected in zip((0.02, 0.05, 0.1), TABLE[p_value, share]):
        if expected is not None:
            power = rejection_probability(1014, tolerance, share * tolerance, 0.05, p_value, simulations=200)
            assert power == pytest.approx(expected / 100, abs=0.12), tolerance


@pytest.mark.parametrize('p_value', ['hoeffding', 'hoeffding_bentkus', 'betting', 'binomial'])
def test_the_examples_needed_give_the_power_and_far_fewer_do_not(p_value):
    n = examples_needed(0.2, 0.1, 0.05, p_value)
    assert n >= least_n(p_value, 0.2, 0.05)
    assert rejection_probability(n, 0.2, 0.1, 0.05, p_value, seed=99) == pytest.approx(0.9, abs=0.06)
    assert rejection_probability(int(0.7 * n), 0.2, 0.1, 0.05, p_value, seed=99) < 0.87


def test_the_examples_needed_grow_with_the_demand():
    base = examples_needed(0.2, 0.1)
    assert base == examples_needed(0.2, 0.1)  # seeded
    assert examples_needed(0.2, 0.05) < base < examples_needed(0.2, 0.12)
    assert examples_needed(0.2, 0.1, epsilon=0.2) < base < examples_needed(0.2, 0.1, power=0.99)


def test_zero_losses_need_the_least_n():
    for p_value in ('betting', 'hoeffding_bentkus', 'binomial'):
        assert examples_needed(0.1, 0.0, p_value=p_value) == least_n(p_value, 0.1, 0.05)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((0.1, 0.1), r'^expected_loss: expected 0 or more and less than δ = 0.1, found 0.1$'),
        ((0.1, -0.1), '^expected_loss: expected 0 or more'),
        ((0.0, 0.0), '^tolerance: expected a number between 0 and 1, found 0.0$'),
        ((0.1, 0.05, 0.0), '^epsilon: expected a number between 0 and 1, found 0.0$'),
        ((0.1, 0.05, 0.05, 'bentkus'), '^p_value: expected one of '),
        ((0.1, 0.05, 0.05, 'betting', 1.0), '^power: expected a number between 0 and 1, found 1.0$'),
        ((0.003, 0.001, 0.05, 'hoeffding'), '^more than 100,000 examples are needed for power 0.9 with hoeffding at '),
    ],
)
def test_what_cannot_be_answered_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        examples_needed(*arguments)


def test_bernoulli_losses_are_imagined_for_the_binomial_p_value():
    n, tolerance, mean = 100, 0.3, 0.15
    reference = (uniforms(0, n, 400) > 1 - mean).astype(float)
    expected = np.mean(binom.cdf(reference.sum(axis=0), n, tolerance) <= 0.05)
    assert rejection_probability(n, tolerance, mean, 0.05, 'binomial', simulations=400) == pytest.approx(expected)
