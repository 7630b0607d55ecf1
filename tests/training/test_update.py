"""An update of several batches is that of all their rows together."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import SingleDeviceSharding

from calm_jax.data.batching import evaluation_batches
from calm_jax.training.classifier import classifier_stage
from calm_jax.training.estimators import self_critical
from calm_jax.training.multi_exit import multi_exit_stage
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.policy import policy_stage
from calm_jax.training.train_state import TrainState, initial_state
from calm_jax.training.update import Update, batch_gradients
from tests.training.conftest import LENGTHS, toy_stage

OPTIMIZER = Optimizer('adamw', 0.01, 0, clip_norm=0.0)


def updated(stage, batches, seed=0):
    """The state after one update of all the batches, and its metrics."""
    here = SingleDeviceSharding(jax.devices()[0])
    state = initial_state(stage, stage.params, OPTIMIZER)
    return Update(stage, OPTIMIZER, seed, len(batches), here, here)(state, stage.frozen, batches)


def alike(draws):
    """The paper's estimator where every row draws with the same numbers, whichever batch it stands in."""
    key, rows = jax.random.key(2), jnp.arange(len(draws.logits.tokens))
    keys = lambda number: jax.vmap(lambda _: jax.random.fold_in(key, number))(rows)  # noqa: E731
    return self_critical(draws._replace(keys=keys))


def classifier(config, params, tokenizer):
    head = {'kernel': np.full((config.emb_dim, 1), 0.1, np.float32), 'bias': np.zeros(1, np.float32)}
    return classifier_stage(config, params, tokenizer, heads={'exit_classifier': head})


def policy(config, params, tokenizer):
    # One decoder layer decides as two do, in half the program.
    config = dataclasses.replace(config, num_decoder_layers=1)
    params = {**params, 'decoder': {name: each for name, each in params['decoder'].items() if name != 'layers_1'}}
    return policy_stage(config, params, tokenizer, estimator=alike, backbone=OPTIMIZER, entropy_floor=0.6)


@pytest.mark.parametrize('make', (multi_exit_stage, classifier, policy))
def test_what_a_stage_makes_of_batches_adds_up_to_what_it_makes_of_their_rows_in_one(make, config, params, tokenizer, examples):
    stage = make(dataclasses.replace(config, dropout_rate=0.0), params, tokenizer)
    # Two batches of two rows, one of which only fills its batch up, and one batch of three.
    parts, (union,) = (list(evaluation_batches(examples[:3], rows, **LENGTHS)) for rows in (2, 3))
    state = TrainState(jnp.int32(0), stage.params, None, jnp.float32(0), jnp.int32(0))
    gradients = jax.jit(functools.partial(batch_gradients, stage, 0))
    made = gradients(state, stage.frozen, union, 0)
    each = [gradients(state, stage.frozen, batch, index) for index, batch in enumerate(parts)]
    assert len({float(sums['weight']) for sums, _ in each}) == 2
    for whole, summed in zip(jax.tree.leaves(made), jax.tree.leaves(jax.tree.map(jnp.add, *each)), strict=True):
        np.testing.assert_allclose(summed, whole, rtol=1e-4, atol=1e-5 * np.abs(whole).max())
    for part, tree in made[1].items():
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree)) > 1e-3, part


@pytest.mark.parametrize('lengths', (LENGTHS, {**LENGTHS, 'length_multiple': 4}), ids=('one shape', 'several shapes'))
def test_batches_that_are_accumulated_give_the_update_of_one_batch_of_all_their_rows(lengths, examples):
    stage = toy_stage(noise=0.0)
    rows = sorted(examples[:11], key=lambda example: len(example.source))
    parts, (union,) = (list(evaluation_batches(rows, count, **lengths)) for count in (4, 12))
    assert len({batch['decoder_loss_weights'].shape for batch in parts}) == 1 + ('length_multiple' in lengths)
    means = [updated(stage, [batch])[1]['loss'] for batch in parts]
    (one, metrics), (several, summed) = updated(stage, [union]), updated(stage, parts)
    assert int(several.step) == 1 and metrics.keys() == summed.keys()
    for name in metrics:
        np.testing.assert_allclose(metrics[name], summed[name], rtol=1e-6)
    assert abs(np.mean(means) - metrics['loss']) > 1e-4 * metrics['loss']  # a mean of the batches' means would not do
    # Adam's first step is the sign of a gradient; its first moment is the gradient.
    moments = [optax.tree.get(state.optimizer, 'mu')['w'] for state in (one, several)]
    np.testing.assert_allclose(*moments, rtol=1e-5, atol=1e-9)


def test_every_batch_of_an_update_has_draws_of_its_own_and_so_has_every_seed(batches):
    batch = batches[0]
    losses = [float(updated(toy_stage(), [batch] * count, seed)[1]['loss']) for count, seed in ((1, 0), (2, 0), (1, 1))]
    assert len(set(losses)) == 3
