"""Exit adapters: learned towards what the full model says, and nothing else is."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.checkpoints import huggingface, native
from calm_jax.depth.adapters import adapters_of
from calm_jax.training.adapters import adapters_stage, drawn_positions, identities
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


@pytest.mark.parametrize('rank', (0, 4), ids=('full', 'of rank 4'))
def test_what_is_written_is_the_model_bit_for_bit_with_adapters_in_it(rank, config, params, tokenizer, tmp_path):
    stage = adapters_stage(config, params, tokenizer, rank=rank, heads={'frequent_ids': {'ids': np.arange(3)}})
    stage.export(stage.params, tmp_path / 'made')
    made = native.load(tmp_path / 'made')
    assert native.fingerprint(made.params) == native.fingerprint(params)
    assert set(made.heads) == {'frequent_ids', 'exit_adapters'}
    assert native.fingerprint(made.heads['exit_adapters']) == native.fingerprint(stage.params)
    assert native.fingerprint(made.heads) != native.fingerprint({'frequent_ids': made.heads['frequent_ids']})
    huggingface.write(tmp_path / 'published', made)
    assert native.fingerprint(huggingface.read(tmp_path / 'published').heads) == native.fingerprint(made.heads)


def test_adapters_that_are_trained_on_keep_their_rank(config, params, tokenizer):
    heads = {'exit_adapters': identities(config, 4, 0)}
    assert adapters_stage(config, params, tokenizer, rank=4, heads=heads).params is heads['exit_adapters']
    with pytest.raises(ValueError, match=r'rank is 0, and the checkpoint has adapters of rank 4 \(0: full\)'):
        adapters_stage(config, params, tokenizer, heads=heads)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'bias': np.zeros(16)}, "the exit adapters' bias is [16]; expected [1, 16]"),
        ({'kernel': np.zeros((1, 16, 4))}, "the exit adapters' kernel is [1, 16, 4]; expected [1, 16, 16]"),
        ({'kernel': None, 'down': np.zeros((1, 16, 4)), 'up': np.zeros((1, 3, 16))}, 'up is [1, 3, 16]; expected [1, 4, 16]'),
        ({'kernel': None}, 'the exit adapters have other maps than a kernel, or down and up'),
        ({'down': np.zeros((1, 16, 4))}, 'the exit adapters have other maps than a kernel, or down and up'),
        ({'shift': np.zeros((1, 16))}, 'the exit adapters hold bias, kernel, scale, shift; expected scale and bias'),
        ({'scale': np.zeros((2, 16))}, 'the exit adapters are [2, 16], of another model; expected [1, 16]'),
    ],
)
def test_no_checkpoint_holds_adapters_of_another_form(change, message, config):
    head = {name: value for name, value in {**identities(config, 0, 0), **change}.items() if value is not None}
    with pytest.raises(ValueError, match='model: ' + '.*' * message.startswith('up') + re.escape(message)):
        native.check_heads('model', config, {'exit_adapters': head})
