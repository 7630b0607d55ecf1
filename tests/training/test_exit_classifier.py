import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.checkpoints import native
from calm_jax.training import classifier
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_loop import LoopOptions, fit


def logit(p):
    return np.log(p) - np.log1p(-np.asarray(p))


PROBABILITIES = np.array([0.2, 0.6, 0.9])[:, None, None]


def test_independent_objective_by_hand():
    agrees = jnp.array([False, True, True])[:, None, None]
    expected = -(np.log(1 - 0.2) + np.log(0.6) + np.log(0.9)) / 3
    np.testing.assert_allclose(classifier.independent(jnp.asarray(logit(PROBABILITIES)), agrees), [[expected]], rtol=1e-5)


@pytest.mark.parametrize(
    'agrees, expected',
    [
        ([True, False, True], -np.log(0.2)),
        ([False, True, False], -(np.log(0.8) + np.log(0.6))),
        ([False, False, True], -(np.log(0.8) + np.log(0.4) + np.log(0.9))),
        # No layer below the last agrees: the last exits with certainty.
        ([False, False, False], -(np.log(0.8) + np.log(0.4) + np.log(0.1))),
    ],
)
def test_geometric_objective_by_hand(agrees, expected):
    found = classifier.geometric(jnp.asarray(logit(PROBABILITIES)), jnp.array(agrees)[:, None, None])
    np.testing.assert_allclose(found, [[expected]], rtol=1e-5)


def test_geometric_ignores_layers_after_the_first_agreement():
    logits = jnp.asarray(logit(PROBABILITIES))
    agrees = jnp.array([False, True, False])[:, None, None]
    changed = logits.at[2].set(-5.0)
    np.testing.assert_array_equal(classifier.geometric(logits, agrees), classifier.geometric(changed, agrees))
    assert not np.allclose(classifier.independent(logits, agrees), classifier.independent(changed, agrees))


def test_agreement_compares_every_layer_with_the_last():
    states = [jnp.asarray(state)[None] for state in ([[5.0, 1], [0, 9]], [[1.0, 2], [0, 1]], [[3.0, 4], [8, 7]])]
    np.testing.assert_array_equal(classifier.agreement(lambda state: state, states), [[[False, False]], [[True, False]]])


def test_dont_exit_f1_by_hand():
    # 3 of 4 predicted are right, 3 of 6 found: precision .75, recall .5, F1 .6.
    f1 = classifier.dont_exit_f1(np.array([3.0, 0.0]), np.array([4.0, 0.0]), np.array([6.0, 0.0]))
    np.testing.assert_allclose(f1, [0.6, 0.0])


def test_the_head_reads_the_raw_state_of_all_layers_but_the_last():
    head = {'kernel': jnp.array([[1.0], [-2.0]]), 'bias': jnp.array([0.5])}
    states = [jnp.array([[[1.0, 2.0]]]), jnp.array([[[3.0, 0.0]]]), jnp.array([[[100.0, 0.0]]])]
    np.testing.assert_allclose(classifier.exit_logits(head, states), [[[-2.5]], [[3.5]]])


def test_the_backbone_is_bit_identical_and_the_objective_falls(tmp_path, config, params, tokenizer, batches, eval_batches):
    native.save(tmp_path / 'start', config, params, tokenizer)
    start = native.load(tmp_path / 'start')
    stage = classifier.classifier_stage(config, start.params, tokenizer)
    measure = jax.jit(stage.measure)
    before = stage.report(jax.device_get(measure(stage.params, stage.frozen, eval_batches[0])))
    options = LoopOptions(steps=30, eval_every=10, save_every=0, log_every=10)
    fit(stage, Optimizer('adamw', 0.03, 0), batches, eval_batches, tmp_path / 'model', options, quiet=True)
    for name in ('best', 'last'):
        found = native.load(tmp_path / 'model' / name)
        jax.tree.map(np.testing.assert_array_equal, found.params, start.params)
        assert native.fingerprint(found.params) == native.fingerprint(start.params)
        assert found.heads['exit_classifier']['kernel'].shape == (config.emb_dim, 1)
        assert np.any(np.asarray(found.heads['exit_classifier']['kernel']) != 0)
    after = stage.report(jax.device_get(measure(found.heads['exit_classifier'], stage.frozen, eval_batches[0])))
    assert after['loss'] < before['loss']
    assert len(after['dont_exit_f1_by_layer']) == config.num_decoder_layers - 1


def test_other_heads_of_the_checkpoint_are_kept(tmp_path, config, params, tokenizer):
    kept = {'kernel': np.ones((config.emb_dim, 1), np.float32), 'bias': np.ones((1,), np.float32)}
    stage = classifier.classifier_stage(config, params, tokenizer, heads={'exit_classifier': kept})
    np.testing.assert_array_equal(stage.params['kernel'], kept['kernel'])


def test_a_single_layer_has_nothing_to_classify(config, params, tokenizer):
    with pytest.raises(ValueError, match='decoder has 1 layer'):
        classifier.classifier_stage(dataclasses.replace(config, num_decoder_layers=1), params, tokenizer)
