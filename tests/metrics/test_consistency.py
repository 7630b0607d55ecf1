"""Losses of an early-exiting output (Schuster et al. 2022, Eq. 10, 11)."""

import numpy as np
import pytest

from calm_jax.metrics import quality
from calm_jax.metrics.consistency import risk_difference, risk_loss, textual_loss


def test_textual_loss_is_one_minus_the_metric_against_the_full_output():
    early = ['police kill the gunman', 'the gunman kill police', 'x']
    full = ['police killed the gunman'] * 3
    np.testing.assert_allclose(textual_loss(quality.rougeL, early, full), [1 / 4, 2 / 4, 1])


@pytest.mark.parametrize('name', [name for name in quality.METRICS if name != 'bleurt'])
def test_an_output_loses_nothing_against_itself_even_where_the_metric_has_nothing_to_match(name):
    texts = ['', '!', 'word', 'две кошки', 'two words']
    np.testing.assert_array_equal(textual_loss(quality.metric(name), texts, list(texts)), 0)


def test_textual_loss_refuses_unequal_numbers_of_texts():
    with pytest.raises(ValueError, match='1 early and 2 full outputs'):
        textual_loss(quality.rougeL, ['a'], ['a', 'b'])


def test_risk_loss_is_the_clamped_rise_of_the_risk():
    early, full = [0.5, 0.9, 0.2, 0.0], [0.7, 0.4, 0.2, 1.0]
    np.testing.assert_allclose(risk_difference(early, full), [0.2, -0.5, 0, 1])
    np.testing.assert_allclose(risk_loss(early, full), [0.2, 0, 0, 1])


def test_risk_loss_takes_a_table_of_settings_against_one_full_column():
    early = np.random.default_rng(0).random((5, 3))
    full = np.random.default_rng(1).random((5, 1))
    losses = risk_loss(early, full)
    assert losses.shape == (5, 3)
    np.testing.assert_allclose(losses, np.maximum(0, (1 - early) - (1 - full)), atol=1e-15)


def test_the_clamped_loss_is_never_below_the_signed_difference():
    rng = np.random.default_rng(2)
    early, full = rng.random(50), rng.random(50)
    assert (risk_loss(early, full) >= risk_difference(early, full)).all()
    assert risk_loss(early, full).mean() > risk_difference(early, full).mean()


def test_a_quality_in_percent_or_not_a_number_is_refused():
    for wrong in (38.2, -0.1, np.nan):
        with pytest.raises(ValueError, match=r'full quality .* is outside \[0, 1\]'):
            risk_loss([0.5, 0.5], [0.5, wrong])
