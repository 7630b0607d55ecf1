"""Choices: what may be drawn, how often, and with whose keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.decoding.choice import Greedy, Sampled, example_keys, nucleus, position_keys

PROBABILITIES = np.array([0.5, 0.25, 0.15, 0.1])
LOGITS = jnp.log(PROBABILITIES)


def draws(sampling, count=20_000):
    keys = jax.random.split(jax.random.key(3), count)
    return np.bincount(sampling(jnp.broadcast_to(LOGITS, (count, 4)), keys), minlength=4) / count


def test_greedy_takes_the_most_likely_and_looks_at_no_key():
    assert Greedy()(jnp.array([[0.1, 3.0, 2.0]]), None).tolist() == [1]


def test_plain_sampling_draws_from_the_distribution():
    np.testing.assert_allclose(draws(Sampled()), PROBABILITIES, atol=0.015)


def test_temperature_sharpens_by_powers():
    expected = PROBABILITIES**2 / np.sum(PROBABILITIES**2)
    np.testing.assert_allclose(draws(Sampled(temperature=0.5)), expected, atol=0.015)


def test_top_k_renormalises_the_k_likeliest():
    np.testing.assert_allclose(draws(Sampled(top_k=2)), [2 / 3, 1 / 3, 0, 0], atol=0.015)


@pytest.mark.parametrize('top_p, kept', [(0.4, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.8, 3), (0.95, 4)])
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p, kept):
    assert int(jnp.sum(nucleus(LOGITS[None], top_p))) == kept


def test_top_p_renormalises_the_nucleus():
    np.testing.assert_allclose(draws(Sampled(top_p=0.7)), [2 / 3, 1 / 3, 0, 0], atol=0.015)


def test_keys_belong_to_the_example_and_the_position():
    key = jax.random.key(0)
    together = example_keys(key, jnp.array([4, 7, 9]))
    alone = example_keys(key, jnp.array([7]))
    assert jnp.array_equal(jax.random.key_data(together)[1], jax.random.key_data(alone)[0])
    first = position_keys(together, jnp.array([0, 0, 0]))
    second = position_keys(together, jnp.array([1, 1, 1]))
    data = np.concatenate([jax.random.key_data(first), jax.random.key_data(second)])
    assert len({tuple(row) for row in data.tolist()}) == 6


@pytest.mark.parametrize(
    'settings, message',
    [({'temperature': 0.0}, 'positive'), ({'top_k': -1}, 'top_k'), ({'top_p': 0.0}, 'top_p'), ({'top_p': 1.5}, 'top_p')],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampled(**settings)
