"""Losses are checked, rescaled and averaged before any statistic sees them."""

import numpy as np
import pytest

from calm_jax.calibration import betting, cluster_means, hoeffding_bentkus, signed_risk
from calm_jax.calibration.draws import uniforms
from calm_jax.calibration.losses import checked


@pytest.mark.parametrize('value', [float('nan'), 1.0000001, -1e-9, float('inf'), -float('inf')])
def test_a_loss_outside_the_unit_interval_is_refused_with_row_and_column(value):
    losses = np.zeros((20, 4))
    losses[17, 3] = value
    with pytest.raises(ValueError, match=r'^losses: row 17, column 3 \(counted from 0\) is .+; expected a number in'):
        checked(losses)
    with pytest.raises(ValueError, match=r'^losses: row 17 \(counted from 0\)'):
        checked(losses[:, 3])


@pytest.mark.parametrize('losses', [[], np.zeros((0, 3)), np.zeros((3, 0)), np.zeros((2, 2, 2)), 1, 'a', [[1], [1, 0]]])
def test_what_is_no_table_of_numbers_is_refused_in_one_line(losses):
    with pytest.raises(ValueError, match='^losses: expected ') as error:
        checked(losses)
    assert '\n' not in str(error.value)


def test_booleans_and_integers_are_losses():
    np.testing.assert_array_equal(checked([[True, False], [0, 1]]), [[1.0, 0.0], [0.0, 1.0]])


def test_a_signed_difference_moves_to_the_unit_interval_with_its_tolerance():
    losses, tolerance = signed_risk([-1.0, 0.0, 0.5, 1.0], 0.02)
    np.testing.assert_allclose(losses, [0, 0.5, 0.75, 1])
    assert tolerance == pytest.approx(0.51)


def test_the_signed_mean_is_within_tolerance_exactly_when_the_rescaled_mean_is():
    for seed in range(20):
        differences = 2 * uniforms(seed, 50) - 1
        for tolerance in (differences.mean() - 1e-9, differences.mean() + 1e-9):
            losses, rescaled = signed_risk(differences, tolerance)
            assert (losses.mean() <= rescaled) == (differences.mean() <= tolerance)


def test_only_betting_has_power_for_signed_differences():
    u = uniforms(5, 1000, 2)
    changed = np.where(u[:, 0] < 0.2, np.where(u[:, 1] < 0.5, 0.05, -0.05), 0.0)  # a fifth, harmless on average
    losses, tolerance = signed_risk(changed, 0.02)
    assert betting(losses, tolerance) < 0.001 and hoeffding_bentkus(losses, tolerance) > 0.5


def test_a_difference_or_tolerance_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r'^differences: row 1 \(counted from 0\) is -1.5; expected .* in \[-1, 1\]$'):
        signed_risk([0.0, -1.5], 0.1)
    with pytest.raises(ValueError, match='^tolerance of a signed difference: expected a number between -1 and 1'):
        signed_risk([0.0], 1)


def test_clusters_are_averaged_in_order_of_first_appearance():
    values = np.array([[0.0, 1.0], [0.4, 0.0], [0.2, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(cluster_means(values, ['b', 'a', 'b', 'c']), [[0.1, 0.5], [0.4, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(cluster_means(values[:, 0], [5, 5, 5, 5]), [0.4])


def test_a_cluster_of_equal_losses_keeps_them_to_the_bit():
    for loss in (0.1, 1.0, 1 / 3):
        assert cluster_means([loss] * 7, ['x'] * 7).tolist() == [loss]


def test_labels_that_do_not_match_the_rows_are_refused():
    with pytest.raises(ValueError, match=r'^group_by: expected 3 labels, one per example, found the shape \[2\]$'):
        cluster_means([0.1, 0.2, 0.3], ['a', 'b'])
