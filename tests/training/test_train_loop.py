import dataclasses
import functools
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.checkpoints import native
from calm_jax.data.batching import Example, TrainingBatches
from calm_jax.training import losses, train_state
from calm_jax.training.multi_exit import multi_exit_stage
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_loop import LoopOptions, fit

OPTIMIZER = Optimizer('adamw', 0.01, 2)
OPTIONS = LoopOptions(steps=6, eval_every=3, save_every=2, log_every=1)


@pytest.fixture(scope='module')
def stage(config, params, tokenizer):
    return multi_exit_stage(config, params, tokenizer, label_smoothing=0.1)


def records(model_dir):
    return [json.loads(line) for line in (model_dir / 'metrics.jsonl').read_text().splitlines()]


class Interrupted(Exception):
    pass


class BreaksAt:
    """Batches that cannot be read from some step on: a run that dies."""

    def __init__(self, batches, step):
        self.batches, self.step, self.batch_size = batches, step, batches.batch_size

    def __getitem__(self, step):
        if step >= self.step:
            raise Interrupted(f'no step {step}')
        return self.batches[step]


def test_a_killed_and_resumed_run_ends_bit_identical(tmp_path, stage, batches, eval_batches):
    whole = fit(stage, OPTIMIZER, batches, eval_batches, tmp_path / 'whole', OPTIONS, quiet=True)
    with pytest.raises(Exception, match='no step 5'):
        fit(stage, OPTIMIZER, BreaksAt(batches, 5), eval_batches, tmp_path / 'parts', OPTIONS, quiet=True)
    assert max(int(step.name) for step in (tmp_path / 'parts' / 'state').iterdir() if step.name.isdigit()) < 6
    resumed = fit(stage, OPTIMIZER, batches, eval_batches, tmp_path / 'parts', OPTIONS, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    for name in ('best', 'last'):
        found = [native.load(tmp_path / run / name).params for run in ('whole', 'parts')]
        jax.tree.map(np.testing.assert_array_equal, *found)
    # Nothing is logged twice, and nothing is missing.
    steps = [[(record['step'], 'eval' in record, record.get('loss')) for record in records(tmp_path / run)]
             for run in ('whole', 'parts')]
    assert steps[0] == steps[1]
    assert [step for step, evaluated, _ in steps[0] if not evaluated] == [1, 2, 3, 4, 5, 6]
    assert [step for step, evaluated, _ in steps[0] if evaluated] == [3, 6]


def test_dropout_follows_the_seed_and_the_step(stage, batches):
    state = train_state.initial_state(stage.params, OPTIMIZER)
    of_seed = [jax.jit(functools.partial(train_state.update, stage, OPTIMIZER, 1, seed)) for seed in (0, 1)]

    def loss(seed, step):
        return float(of_seed[seed](state._replace(step=jnp.int32(step)), {}, batches[0])[1]['loss'])

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(1, 0), loss(0, 1)}) == 3


def test_micro_batches_give_the_large_batch_s_update(config, params, tokenizer, batches):
    # Rows of one batch differ in length, so a mean of micro-batch means would not do. No dropout: its draws differ.
    stage = multi_exit_stage(dataclasses.replace(config, dropout_rate=0.0), params, tokenizer)
    state = train_state.initial_state(params, OPTIMIZER)
    batch = batches[0]
    # What split rows must not do: each part averaged by itself.
    assert len(set(batch['decoder_loss_weights'].sum(1))) > 1
    found = {
        parts: jax.jit(functools.partial(train_state.update, stage, OPTIMIZER, parts, 0))(state, {}, batch)
        for parts in (1, 2, 4)}
    for parts in (2, 4):
        np.testing.assert_allclose(found[parts][1]['loss'], found[1][1]['loss'], rtol=1e-5)
        np.testing.assert_allclose(found[parts][1]['grad_norm'], found[1][1]['grad_norm'], rtol=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found[parts][0].params, found[1][0].params)


def test_the_loss_falls_and_the_best_checkpoint_is_the_best(tmp_path, stage, batches, eval_batches):
    options = LoopOptions(steps=60, eval_every=20, save_every=0, log_every=20)
    state = fit(stage, Optimizer('adamw', 0.01, 5), batches, eval_batches, tmp_path, options, quiet=True)
    reports = [record['eval'] for record in records(tmp_path) if 'eval' in record]
    assert reports[-1]['nll'] < reports[0]['nll']
    assert reports[-1]['nll'] == reports[-1]['nll_by_layer'][-1]
    assert len(reports[-1]['accuracy_by_layer']) == 2
    assert float(state.best) == np.float32(min(report['nll'] for report in reports))
    best = native.load(tmp_path / 'best')
    assert best.tokenizer.vocab_size == best.config.vocab_size


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(tmp_path, stage, batches):
    def loss(params, frozen, batch, key):
        objective, weight = stage.loss(params, frozen, batch, key)
        # The poison is in the data: from step 4 on a source of zeros only marks it.
        return jnp.where(batch['poison'][0] > 0, jnp.nan, objective), weight

    class Poisoned(BreaksAt):
        def __getitem__(self, step):
            poison = np.full(self.batch_size, float(step >= self.step), np.float32)
            return {**self.batches[step], 'poison': poison}

    poisoned = stage._replace(loss=loss)
    with pytest.raises(ValueError, match=r'loss is nan at step 4; the last good checkpoint is .*state.2; ') as error:
        fit(poisoned, OPTIMIZER, Poisoned(batches, 3), [], tmp_path, OPTIONS, quiet=True)
    assert '\n' not in str(error.value)
    saved = sorted(path.name for path in (tmp_path / 'state').iterdir() if path.name.isdigit())
    assert saved == ['2']
    # It is a good checkpoint: training goes on from it once the data are repaired.
    state = fit(stage, OPTIMIZER, batches, [], tmp_path, OPTIONS, quiet=True)
    assert int(state.step) == 6 and all(math.isfinite(float(jnp.sum(leaf))) for leaf in jax.tree.leaves(state.params))


def test_the_time_limit_ends_cleanly_and_can_be_resumed(tmp_path, stage, batches, eval_batches):
    short = dataclasses.replace(OPTIONS, max_minutes=1e-9)
    state = fit(stage, OPTIMIZER, batches, eval_batches, tmp_path, short, quiet=True)
    assert int(state.step) == 1
    assert (tmp_path / 'last' / 'config.json').exists() and (tmp_path / 'best' / 'config.json').exists()
    state = fit(stage, OPTIMIZER, batches, eval_batches, tmp_path, OPTIONS, quiet=True)
    assert int(state.step) == 6


def test_a_finished_run_resumed_changes_nothing(tmp_path, stage, batches):
    first = fit(stage, OPTIMIZER, batches, [], tmp_path, OPTIONS, quiet=True)
    log = (tmp_path / 'metrics.jsonl').read_text()
    again = fit(stage, OPTIMIZER, batches, [], tmp_path, OPTIONS, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (tmp_path / 'metrics.jsonl').read_text() == log


def test_sampled_exits_train_too(tmp_path, config, params, tokenizer, batches):
    stage = multi_exit_stage(config, params, tokenizer, losses.uniform, sampled_exits=True)
    fit(stage, OPTIMIZER, batches, [], tmp_path, LoopOptions(steps=40, log_every=20), quiet=True)
    found = [record['loss'] for record in records(tmp_path)]
    assert found[-1] < found[0]


@pytest.mark.parametrize('settings, message', [
    ({'steps': 0}, 'steps is 0'),
    ({'steps': 1, 'log_every': 0}, 'log_every is 0'),
    ({'steps': 1, 'eval_every': -1}, 'eval_every is -1'),
])
def test_wrong_options_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LoopOptions(**settings)


def test_a_batch_that_cannot_be_split_is_refused(tmp_path, stage, batches):
    with pytest.raises(ValueError, match='batch size 4 cannot be split over .* use a multiple of'):
        fit(stage, OPTIMIZER, batches, [], tmp_path, dataclasses.replace(OPTIONS, micro_batches=3), quiet=True)


def test_an_unknown_best_metric_is_refused(tmp_path, stage, batches, eval_batches):
    with pytest.raises(ValueError, match="best_metric 'bleu' is not evaluated; choose from loss, nll, accuracy"):
        fit(stage, OPTIMIZER, batches, eval_batches, tmp_path, dataclasses.replace(OPTIONS, best_metric='bleu'), quiet=True)


TWO_DEVICES = '''
import sys, jax, numpy as np
from calm_jax.checkpoints import native
from calm_jax.data.batching import Example, TrainingBatches
from calm_jax.training.multi_exit import multi_exit_stage
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_loop import LoopOptions, fit
assert jax.device_count() == 2
start = native.load(sys.argv[1])
examples = [Example(*pair) for pair in np.load(sys.argv[2])]
batches = TrainingBatches(examples, 4, max_source_length=8, max_target_length=8)
stage = multi_exit_stage(start.config, start.params, start.tokenizer)
options = LoopOptions(steps=2, micro_batches=2, log_every=1)
fit(stage, Optimizer('adamw', 0.01, 2), batches, [], sys.argv[3], options, quiet=True)
'''


def test_two_devices_train_as_one_does(tmp_path, config, params, tokenizer):
    config = dataclasses.replace(config, dropout_rate=0.0)
    pairs = np.random.RandomState(0).randint(3, 99, size=(12, 2, 5)).astype(np.int32)
    np.save(tmp_path / 'pairs.npy', pairs)
    native.save(tmp_path / 'start', config, params, tokenizer)
    batches = TrainingBatches([Example(*pair) for pair in pairs], 4, max_source_length=8, max_target_length=8)
    fit(multi_exit_stage(config, params, tokenizer), OPTIMIZER, batches, [], tmp_path / 'one',
        LoopOptions(steps=2, log_every=1), quiet=True)
    environment = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=2', 'JAX_PLATFORMS': 'cpu'}
    subprocess.run(
        [sys.executable, '-c', TWO_DEVICES, tmp_path / 'start', tmp_path / 'pairs.npy', tmp_path / 'two'],
        env=environment, check=True, capture_output=True)
    for one, two in zip(records(tmp_path / 'one'), records(tmp_path / 'two'), strict=True):
        np.testing.assert_allclose(one['loss'], two['loss'], rtol=1e-4)
