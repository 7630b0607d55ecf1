import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from calm_jax.training.optimizer import Optimizer


@pytest.mark.parametrize(
    'decay, expected',
    [
        # Peak 1, 4 steps of warm-up, 12 in all: rates of steps 0, 1, 3, 7, 11, 15.
        ('constant', [0.25, 0.5, 1.0, 1.0, 1.0, 1.0]),
        ('linear', [0.25, 0.5, 1.0, 0.5, 0.0, 0.0]),
        ('cosine', [0.25, 0.5, 1.0, 0.5, 0.0, 0.0]),
        ('inverse_square_root', [0.25, 0.5, 1.0, np.sqrt(4 / 8), np.sqrt(4 / 12), 0.5]),
    ],
)
def test_rates_by_hand(decay, expected):
    optimizer = Optimizer('adamw', 1.0, 4, decay, 12)
    found = [float(optimizer.rate(step)) for step in (0, 1, 3, 7, 11, 15)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_cosine_is_not_linear_a_quarter_of_the_way():
    np.testing.assert_allclose(Optimizer('adamw', 1.0, 4, 'cosine', 12).rate(5), 0.5 * (1 + np.cos(np.pi / 4)), rtol=1e-6)


def test_no_warm_up_starts_at_the_peak():
    assert float(Optimizer('adamw', 0.5, 0, 'inverse_square_root').rate(0)) == 0.5


@pytest.mark.parametrize('decay', ['constant', 'linear', 'cosine', 'inverse_square_root'])
def test_a_warm_up_bends_to_a_run_that_is_short(decay):
    optimizer = Optimizer('adamw', 1.0, 1000, decay).of(6)
    rates = [float(optimizer.rate(step)) for step in range(6)]
    assert rates[:2] == [0.5, 1.0] and max(rates) == 1.0
    assert Optimizer('adamw', 1.0, 2, decay, 40).of(6).total_steps == 40  # what is said stays


def test_a_decay_to_nothing_needs_an_end():
    with pytest.raises(ValueError, match='linear decay needs total_steps'):
        Optimizer(decay='linear').rate(3)


@pytest.mark.parametrize('name', ['adafactor', 'adamw'])
def test_both_optimizers_descend_a_bowl(name):
    optimizer = Optimizer(name, 0.1, 0).build()

    @jax.jit
    def descend(params):
        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(params, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 60, step, (params, optimizer.init(params)))[0]

    params = descend({'kernel': jnp.full((3, 3), 2.0)})
    assert float(jnp.max(jnp.abs(params['kernel']))) < 0.5


def test_clipping_bounds_the_global_norm_over_all_leaves():
    gradients = {'a': jnp.array([3.0]), 'b': jnp.array([4.0])}
    clip = Optimizer('adamw', 1.0, 0, clip_norm=1.0).build()
    state = jax.jit(lambda gradients: clip.update(gradients, clip.init(gradients), gradients)[1])(gradients)
    # The first moment after one step is (1 − b1) times the clipped gradient (0.6, 0.8).
    moments = list(optax.tree.get(state, 'mu').values())
    np.testing.assert_allclose(np.ravel(moments), [0.06, 0.08], rtol=1e-5)


def test_weight_decay_spares_vectors():
    params = {'kernel': jnp.ones((2, 2)), 'scale': jnp.ones((2,))}
    optimizer = Optimizer('adamw', 0.1, 0, weight_decay=0.5).build()
    zeros = {'kernel': jnp.zeros((2, 2)), 'scale': jnp.zeros((2,))}
    updates = jax.jit(lambda params: optimizer.update(zeros, optimizer.init(params), params)[0])(params)
    np.testing.assert_allclose(updates['kernel'], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates['scale'], 0.0)


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'name': 'sgd'}, "Optimizer.name is 'sgd'; expected 'adafactor' or 'adamw'"),
        ({'decay': 'step'}, "Optimizer.decay is 'step'; expected 'constant' or 'linear' or 'cosine' or 'inverse_square_root'"),
        ({'learning_rate': 0.0}, 'learning_rate is 0.0'),
        ({'learning_rate': float('nan')}, 'learning_rate is nan; it must be positive'),
        ({'learning_rate': float('inf')}, 'learning_rate is inf; it must be positive'),
        ({'weight_decay': -0.1}, 'weight_decay is -0.1; it must be 0 .off. or more'),
        ({'clip_norm': -1.0}, 'clip_norm is -1.0; it must be 0 .off. or more'),
        ({'clip_norm': float('nan')}, 'clip_norm is nan'),
        ({'b1': 1.0}, 'b1 is 1.0; it must be at least 0 and less than 1'),
        ({'b2': -0.5}, 'b2 is -0.5; it must be at least 0 and less than 1'),
        ({'b1': '0.9'}, "Optimizer.b1 is '0.9'; expected a number"),
        ({'warmup_steps': -1}, 'warmup_steps is -1'),
        ({'total_steps': 0}, 'total_steps is 0'),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Optimizer(**settings)
