"""Exit adapters: learned towards what the full model says, and nothing else is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.training.adapters import adapters_of, adapters_stage, drawn_positions, identities
from calm_jax.training.losses import divergence
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_loop import LoopOptions, fit


@pytest.mark.parametrize('rank', (0, 4), ids=('full', 'of rank 4'))
def test_adapters_begin_as_identities_and_come_nearer_to_the_full_model(
    rank, config, params, tokenizer, batches, eval_batches, tmp_path
):
    config = dataclasses.replace(config, dropout_rate=0.0)
    stage = adapters_stage(config, params, tokenizer, rank=rank, exits=1, positions=16)
    evaluated = jax.jit(stage.measure)

    def told(trained):
        sums = [jax.device_get(evaluated(trained, stage.frozen, batch)) for batch in eval_batches]
        return stage.report(jax.tree.map(lambda *each: np.sum(each, axis=0), *sums))

    before = told(stage.params)
    assert before['agreement_by_layer'] == before['raw_agreement_by_layer']
    options = LoopOptions(steps=60, eval_every=0, save_every=0)
    state = fit(stage, Optimizer('adamw', 1e-2, warmup_steps=0), batches, eval_batches, tmp_path, options, quiet=True)
    after = told(state.params)
    assert after['loss'] < 0.8 * before['loss'] and after['agreement'] >= before['agreement']
    assert after['raw_agreement_by_layer'] == before['raw_agreement_by_layer']


def test_the_loss_of_a_step_is_on_average_that_of_all_exits_and_positions(config, params, tokenizer, eval_batches):
    config = dataclasses.replace(config, dropout_rate=0.0)
    stage = adapters_stage(config, params, tokenizer, exits=1, positions=4)
    batch = eval_batches[0]

    @jax.jit
    def drawn(key):
        sums, _ = stage.gradients(stage.params, stage.frozen, batch, key)
        return sums['loss'] / sums['weight']

    draws = np.asarray(jax.lax.map(drawn, jax.random.split(jax.random.key(0), 600)))
    sums = jax.device_get(stage.measure(stage.params, stage.frozen, batch))
    assert abs(draws.mean() - stage.report(sums)['loss']) < 4 * draws.std() / np.sqrt(len(draws))


def test_positions_are_drawn_once_each_and_of_those_that_count():
    weights = jnp.array([[0.0, 1, 1, 0], [1, 0, 1, 1]])
    for seed in range(20):
        places, counted = drawn_positions(weights, 3, jax.random.key(seed))
        assert len(set(places.tolist())) == 3 and counted.tolist() == [1, 1, 1]
    places, counted = drawn_positions(weights, 7, jax.random.key(0))
    assert len(set(places.tolist())) == 7 and counted.sum() == 5


def test_the_divergence_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    full, made = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    p, q = (np.exp(each) / np.exp(each).sum(-1, keepdims=True) for each in (full, made))
    np.testing.assert_allclose(divergence(jnp.asarray(full), jnp.asarray(made)), (p * np.log(p / q)).sum(-1), rtol=1e-5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'rank': 17}, r'rank is 17, exits 2, positions 256; expected a rank from 0 \(full\) to 16'),
        ({'exits': 0}, 'exits 0'),
        ({'positions': 0}, 'positions 0'),
    ],
)
def test_settings_that_adapters_cannot_have_are_refused(options, message, config, params, tokenizer):
    with pytest.raises(ValueError, match=message):
        adapters_stage(config, params, tokenizer, **options)


def test_adapters_of_another_model_and_of_one_layer_are_refused(config, params, tokenizer):
    deep = dataclasses.replace(config, num_decoder_layers=5)
    with pytest.raises(ValueError, match=r'exit adapters are \[1, 16\], of another model; expected \[4, 16\]'):
        adapters_of(identities(config, 0, 0)).check(deep.sizes)
    with pytest.raises(ValueError, match='the decoder has 1 layer'):
        adapters_stage(dataclasses.replace(config, num_decoder_layers=1), params, tokenizer)
