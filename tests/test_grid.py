"""The grid of thresholds: quantiles, so that as many tokens lie between one λ and the next, whatever the measure's scale."""

import numpy as np
import pytest

from calm_jax.analysis.grid import quantile_grid


def test_as_many_confidences_lie_between_each_threshold_and_the_next():
    confidence = np.random.default_rng(0).beta(20, 1, size=21_000)
    grid = quantile_grid(confidence.reshape(3, 7_000))
    assert len(grid) == 20 and grid == sorted(grid, reverse=True)
    counts = np.histogram(confidence, [0, *grid[::-1], 1])[0]
    assert np.all(np.abs(counts - 1_000) <= 10)  # six decimals move a few across


def test_equal_thresholds_appear_once_and_0_and_1_are_none():
    assert quantile_grid(np.repeat([0.0, 0.5, 1.0], [120, 60, 120])) == [0.5]


@pytest.mark.parametrize(
    'confidence, message', [([], 'no token of the grid data'), ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], 'is 0 or 1')]
)
def test_data_that_give_no_threshold_are_refused(confidence, message):
    with pytest.raises(ValueError, match=message):
        quantile_grid(np.array(confidence), count=2)
