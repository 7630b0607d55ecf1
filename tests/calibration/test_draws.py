"""Draws are explicit: they depend on the seed alone, and not on a library's idea of a shuffle."""

import numpy as np
import pytest

from calm_jax.calibration.draws import permutation, uniforms


def test_uniforms_are_the_top_bits_of_the_generator_and_never_0_or_1():
    drawn = uniforms(7, 100, 50)
    assert drawn.shape == (100, 50) and drawn.min() > 0 and drawn.max() < 1
    reference = np.random.Generator(np.random.PCG64(7)).random((100, 50))
    np.testing.assert_allclose(drawn, reference, rtol=0, atol=2.0**-52)


def test_a_permutation_is_the_rank_order_of_the_uniforms():
    for n in (1, 2, 257):
        reference = np.random.Generator(np.random.PCG64(3)).random(n).tolist()
        assert permutation(3, n).tolist() == sorted(range(n), key=reference.__getitem__)


def test_a_recorded_seed_means_the_same_order_for_good():
    # Frozen on purpose: certificates record only the seed, so these may never change.
    assert permutation(0, 10).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert permutation(2022, 10).tolist() == [7, 3, 1, 6, 0, 8, 2, 4, 5, 9]


def test_every_order_of_three_is_as_likely_as_any_other():
    counts = {}
    for trial in range(1200):
        order = tuple(permutation((1, trial), 3).tolist())
        counts[order] = counts.get(order, 0) + 1
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert len(counts) == 6 and chi_squared < 20.5  # 5 degrees of freedom, P = .001


@pytest.mark.parametrize('seed', [-1, 0.5, 'seed', None])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match=r'^seed: expected a non-negative integer, found'):
        uniforms(seed, 3)
