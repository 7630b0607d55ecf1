import dataclasses
import io
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.checkpoints import native
from calm_jax.data.batching import TrainingBatches
from calm_jax.training import losses
from calm_jax.training.multi_exit import multi_exit_stage
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_loop import LoopOptions, fit
from tests.training.conftest import LENGTHS

OPTIMIZER = Optimizer('adamw', 0.01, 2)
OPTIONS = LoopOptions(steps=6, eval_every=3, save_every=2, log_every=1)


def records(model_dir):
    return [json.loads(line) for line in (model_dir / 'metrics.jsonl').read_text().splitlines()]


class BreaksAt:
    """Batches that cannot be read from some step on: a run that dies."""

    def __init__(self, batches, step):
        self.batches, self.step, self.row_counts = batches, step, batches.row_counts

    def __getitem__(self, step):
        if step >= self.step:
            raise RuntimeError(f'no step {step}')
        return self.batches[step]


class SameBatch:
    """One batch, whatever its number."""

    def __init__(self, batches):
        self.batch, self.row_counts = batches[0], batches.row_counts

    def __getitem__(self, number):
        return self.batch


class PoisonedFrom:
    """Batches whose weights are not numbers from some step on."""

    def __init__(self, batches, step):
        self.batches, self.step, self.row_counts = batches, step, batches.row_counts

    def __getitem__(self, step):
        batch = self.batches[step]
        poison = np.nan if step >= self.step else 1.0
        return {**batch, 'decoder_loss_weights': batch['decoder_loss_weights'] * np.float32(poison)}


def scripted(toy, *losses):
    """The toy whose evaluations say these losses."""
    said = iter(losses)
    return toy._replace(report=lambda sums: {'loss': next(said)})


def test_a_killed_and_resumed_run_ends_bit_identical(tmp_path, toy, batches, eval_batches):
    whole = fit(toy, OPTIMIZER, batches, eval_batches, tmp_path / 'whole', OPTIONS, quiet=True)
    with pytest.raises(Exception, match='no step 5'):
        fit(toy, OPTIMIZER, BreaksAt(batches, 5), eval_batches, tmp_path / 'parts', OPTIONS, quiet=True)
    assert not (tmp_path / 'parts' / 'last').exists()
    # The last line was being written when the run died.
    with open(tmp_path / 'parts' / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 6, "lo')
    resumed = fit(toy, OPTIMIZER, batches, eval_batches, tmp_path / 'parts', OPTIONS, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    for name in ('best', 'last'):
        np.testing.assert_array_equal(*[np.load(tmp_path / run / name / 'w.npy') for run in ('whole', 'parts')])
    # Nothing is logged twice, and nothing is missing.
    steps = [
        [(record['step'], 'eval' in record, record.get('loss')) for record in records(tmp_path / run)]
        for run in ('whole', 'parts')
    ]
    assert steps[0] == steps[1]
    assert [step for step, evaluated, _ in steps[0] if not evaluated] == [1, 2, 3, 4, 5, 6]
    assert [step for step, evaluated, _ in steps[0] if evaluated] == [3, 6]


def test_a_run_of_batches_of_tokens_that_are_accumulated_resumes_bit_identical(tmp_path, toy, examples, eval_batches):
    batches = TrainingBatches(examples, batch_tokens=32, length_multiple=4, **LENGTHS)
    assert len(batches.row_counts) == 2
    options = dataclasses.replace(OPTIONS, accumulate=3)
    whole = fit(toy, OPTIMIZER, batches, eval_batches, tmp_path / 'whole', options, quiet=True)
    with pytest.raises(Exception, match='no step 13'):
        fit(toy, OPTIMIZER, BreaksAt(batches, 13), eval_batches, tmp_path / 'parts', options, quiet=True)
    resumed = fit(toy, OPTIMIZER, batches, eval_batches, tmp_path / 'parts', options, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    assert int(whole.step) == 6 and [record['step'] for record in records(tmp_path / 'whole')] == [1, 2, 3, 3, 4, 5, 6, 6]
    single = fit(toy, OPTIMIZER, batches, [], tmp_path / 'single', dataclasses.replace(OPTIONS, steps=18), quiet=True)
    assert np.any(single.params['w'] != whole.params['w'])


def test_the_end_depends_on_the_seed_and_on_every_step_s_draw(tmp_path, toy, batches):
    ends = [
        fit(toy, OPTIMIZER, batches, [], tmp_path / str(seed), dataclasses.replace(OPTIONS, seed=seed), quiet=True)
        for seed in (0, 1)
    ]
    assert np.any(ends[0].params['w'] != ends[1].params['w'])
    # Nothing is learned at this rate, so that of one batch only draws make the loss another at every step.
    one = fit(toy, Optimizer('adamw', 1e-12, 0), SameBatch(batches), [], tmp_path / 'same', OPTIONS, quiet=True)
    assert int(one.step) == 6 and len({record['loss'] for record in records(tmp_path / 'same')}) == 6


def test_a_transformer_learns_and_its_best_checkpoint_is_the_best(tmp_path, config, params, tokenizer, batches, eval_batches):
    stage = multi_exit_stage(config, params, tokenizer, losses.uniform, 0.1)
    options = LoopOptions(steps=40, eval_every=20, save_every=0, log_every=20, best_metric='nll')
    state = fit(stage, Optimizer('adamw', 0.01, 5), batches, eval_batches, tmp_path, options, quiet=True)
    reports = [record['eval'] for record in records(tmp_path) if 'eval' in record]
    assert reports[-1]['nll_by_layer'] < reports[0]['nll_by_layer']
    assert reports[-1]['nll'] == reports[-1]['nll_by_layer'][-1]
    assert len(reports[-1]['accuracy_by_layer']) == 2
    assert float(state.best) == np.float32(min(report['nll'] for report in reports))
    best = native.load(tmp_path / 'best')
    jax.tree.map(np.testing.assert_array_equal, best.params, jax.device_get(state.params))


def test_the_best_checkpoint_stays_when_evaluations_get_worse(tmp_path, toy, batches, eval_batches):
    # Ever larger steps overshoot; the report is scripted so that the second of three is best.
    stage = scripted(toy, 3.0, 1.0, 2.0)
    options = LoopOptions(steps=3, eval_every=1, save_every=1, log_every=1)
    state = fit(stage, OPTIMIZER, batches, eval_batches, tmp_path, options, quiet=True)
    assert float(state.best) == 1.0
    best, last = (np.load(tmp_path / name / 'w.npy') for name in ('best', 'last'))
    assert np.any(best != last)


def test_a_higher_metric_can_be_the_better_one(tmp_path, toy, batches, eval_batches):
    stage = scripted(toy, 3.0, 5.0, 4.0)
    options = LoopOptions(steps=3, eval_every=1, log_every=1, best_is_higher=True)
    assert float(fit(stage, OPTIMIZER, batches, eval_batches, tmp_path, options, quiet=True).best) == 5.0


def test_a_run_ends_when_patience_is_lost_and_goes_on_with_more_of_it(tmp_path, toy, batches, eval_batches, capsys):
    options = LoopOptions(steps=9, eval_every=1, save_every=5, log_every=1, patience=2)
    state = fit(scripted(toy, 3.0, 1.0, 1.0, 2.0), OPTIMIZER, batches, eval_batches, tmp_path, options)
    assert (int(state.step), float(state.best), int(state.waited)) == (4, 1.0, 2)
    assert records(tmp_path)[-1] == {'step': 4, 'patience': 2, 'best': 1.0}
    assert 'step 4: ends, loss was not better than 1.0000 in 2 evaluations (patience)\n' in capsys.readouterr().err
    assert (tmp_path / 'last' / 'w.npy').exists() and (tmp_path / 'state' / '4').exists()
    log = (tmp_path / 'metrics.jsonl').read_text()
    again = fit(scripted(toy), OPTIMIZER, batches, eval_batches, tmp_path, options, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, state, again)
    assert (tmp_path / 'metrics.jsonl').read_text() == log
    # A better evaluation is waited for anew.
    more = dataclasses.replace(options, patience=3)
    losses = scripted(toy, 0.5, 0.7, 0.6, 0.5)
    longer = fit(losses, OPTIMIZER, batches, eval_batches, tmp_path, more, quiet=True)
    assert (int(longer.step), float(longer.best), int(longer.waited)) == (8, 0.5, 3)


def test_patience_is_lost_at_the_same_step_however_often_a_run_ended_before(tmp_path, toy, batches, eval_batches):
    options = LoopOptions(steps=3, eval_every=2, save_every=9, log_every=1, patience=2)
    first = fit(scripted(toy, 1.0, 2.0), OPTIMIZER, batches, eval_batches, tmp_path, options, quiet=True)
    assert (int(first.step), int(first.waited)) == (3, 0)
    more = dataclasses.replace(options, steps=9)
    longer = fit(scripted(toy, 2.0, 2.0), OPTIMIZER, batches, eval_batches, tmp_path, more, quiet=True)
    assert (int(longer.step), int(longer.waited)) == (6, 2)


def test_how_long_a_better_evaluation_is_waited_for_survives_a_resumption(tmp_path, toy, batches, eval_batches):
    options = LoopOptions(steps=9, eval_every=1, save_every=1, log_every=1, patience=2, best_is_higher=True)
    with pytest.raises(Exception, match='no step 2'):
        fit(scripted(toy, 5.0, 4.0), OPTIMIZER, BreaksAt(batches, 2), eval_batches, tmp_path, options, quiet=True)
    resumed = fit(scripted(toy, 4.5), OPTIMIZER, batches, eval_batches, tmp_path, options, quiet=True)
    assert (int(resumed.step), float(resumed.best)) == (3, 5.0)


def test_evaluation_counts_every_example_once(tmp_path, toy, batches, eval_batches, examples):
    fit(toy, Optimizer('adamw', 1e-12, 0), batches, eval_batches, tmp_path, LoopOptions(steps=1, log_every=1), quiet=True)
    tokens = np.concatenate([[*example.target, 1] for example in examples[:6]])
    np.testing.assert_allclose(records(tmp_path)[-1]['eval']['loss'], np.mean((tokens / 100) ** 2), rtol=1e-5)


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(tmp_path, toy, batches):
    # Even where nothing is logged in between, the checkpoint of step 4 must not be written.
    options = dataclasses.replace(OPTIONS, log_every=100)
    with pytest.raises(ValueError, match=r'loss is nan at step 4; the last good checkpoint is .*state/2; ') as error:
        fit(toy, OPTIMIZER, PoisonedFrom(batches, 3), [], tmp_path, options, quiet=True)
    assert '\n' not in str(error.value)
    assert [path.name for path in (tmp_path / 'state').iterdir() if path.name.isdigit()] == ['2']
    assert not (tmp_path / 'last').exists()
    # It is a good checkpoint: training goes on from it once the data are repaired.
    repaired = fit(toy, OPTIMIZER, batches, [], tmp_path, OPTIONS, quiet=True)
    whole = fit(toy, OPTIMIZER, batches, [], tmp_path / 'whole', OPTIONS, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, repaired, whole)


def test_a_gradient_that_is_no_number_stops_even_when_the_loss_is_one(tmp_path, toy, batches):
    def gradients(params, frozen, batch, key):
        sums, grads = toy.gradients(params, frozen, batch, key)
        return sums, jax.tree.map(lambda grad: grad * jnp.nan, grads)

    with pytest.raises(ValueError, match='grad_norm is nan at step 1; nothing was saved yet'):
        fit(toy._replace(gradients=gradients), OPTIMIZER, batches, [], tmp_path, OPTIONS, quiet=True)


def test_the_time_limit_ends_cleanly_and_can_be_resumed(tmp_path, toy, batches, eval_batches):
    short = dataclasses.replace(OPTIONS, max_minutes=1e-9)
    assert int(fit(toy, OPTIMIZER, batches, eval_batches, tmp_path, short, quiet=True).step) == 1
    assert (tmp_path / 'last' / 'w.npy').exists() and (tmp_path / 'best' / 'w.npy').exists()
    resumed = fit(toy, OPTIMIZER, batches, eval_batches, tmp_path, OPTIONS, quiet=True)
    whole = fit(toy, OPTIMIZER, batches, eval_batches, tmp_path / 'whole', OPTIONS, quiet=True)
    np.testing.assert_array_equal(resumed.params['w'], whole.params['w'])


def test_a_finished_run_resumed_changes_nothing(tmp_path, toy, batches):
    first = fit(toy, OPTIMIZER, batches, [], tmp_path, OPTIONS, quiet=True)
    log = (tmp_path / 'metrics.jsonl').read_text()
    again = fit(toy, OPTIMIZER, batches, [], tmp_path, OPTIONS, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (tmp_path / 'metrics.jsonl').read_text() == log


def test_a_log_file_gets_lines_and_quiet_says_nothing(tmp_path, toy, batches, eval_batches, capsys):
    fit(toy, OPTIMIZER, batches, eval_batches, tmp_path / 'a', OPTIONS, quiet=True)
    assert capsys.readouterr().err == ''
    fit(toy, OPTIMIZER, batches, eval_batches, tmp_path / 'b', OPTIONS)
    said = capsys.readouterr().err
    assert 'step 6/6: loss ' in said and 'min left' in said and 'step 3: evaluation loss ' in said


def test_a_terminal_gets_bars_of_training_and_of_evaluations_one_at_a_time(tmp_path, toy, batches, eval_batches, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, 'stderr', terminal)
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('NO_COLOR', '1')
    monkeypatch.setenv('COLUMNS', '120')
    fit(toy, OPTIMIZER, batches, eval_batches, tmp_path, dataclasses.replace(OPTIONS, log_every=6))
    shown = re.findall(r'(training|evaluating) +\S+ +(\d/\d)', re.sub(r'\x1b\[[\d;?]*[a-zA-Z]', '', terminal.getvalue()))
    last_of_each_bar = [bar for bar, after in itertools.pairwise([*shown, ('', '')]) if bar[0] != after[0]]
    assert last_of_each_bar == [('training', '3/6'), ('evaluating', '2/2'), ('training', '6/6'), ('evaluating', '2/2')]


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'steps': 0}, 'steps is 0'),
        ({'steps': 1, 'log_every': 0}, 'log_every is 0'),
        ({'steps': 1, 'eval_every': -1}, 'eval_every is -1'),
        ({'steps': 1, 'accumulate': 0}, 'accumulate is 0'),
        ({'steps': 1, 'patience': -1}, 'patience is -1'),
        ({'steps': 1, 'patience': 1, 'eval_every': 0}, 'patience is 1 and eval_every is 0; expected evaluations before'),
    ],
)
def test_wrong_options_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LoopOptions(**settings)


def test_patience_without_evaluations_is_refused(tmp_path, toy, batches):
    with pytest.raises(ValueError, match='patience is 2; expected evaluation data to lose it with'):
        fit(toy, OPTIMIZER, batches, [], tmp_path, dataclasses.replace(OPTIONS, patience=2), quiet=True)


def test_an_unknown_best_metric_is_refused_before_training(tmp_path, toy, batches, eval_batches):
    with pytest.raises(ValueError, match="best_metric 'bleu' is not evaluated; choose from loss"):
        fit(toy, OPTIMIZER, batches, eval_batches, tmp_path, dataclasses.replace(OPTIONS, best_metric='bleu'), quiet=True)
    assert not (tmp_path / 'metrics.jsonl').exists()


TWO_DEVICES = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import jax, numpy as np
from conftest import toy_stage
from calm_jax.data.batching import Example, TrainingBatches
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_loop import LoopOptions, fit
assert jax.device_count() == int(sys.argv[2])
examples = [Example(*pair) for pair in np.random.RandomState(0).randint(3, 99, size=(12, 2, 5)).astype(np.int32)]
batches = TrainingBatches(examples, batch_tokens=32, row_multiple=2, max_source_length=8, max_target_length=8)
assert batches.row_counts == (4,)
options = LoopOptions(steps=4, accumulate=2, log_every=1)
fit(toy_stage(noise=0.0), Optimizer('adamw', 0.01, 2), batches, [], pathlib.Path(sys.argv[3]), options, quiet=True)
if jax.device_count() > 1:
    odd = TrainingBatches(examples, 3, max_source_length=8, max_target_length=8)
    try:
        fit(toy_stage(), Optimizer(), odd, [], pathlib.Path(sys.argv[3]), options, quiet=True)
    except ValueError as error:
        assert str(error) == 'batch size 3 cannot be split over 2 devices; use a multiple of 2', error
    else:
        sys.exit('three rows were split over two devices')
"""


def test_two_devices_train_as_one_does_and_refuse_a_batch_that_they_cannot_share(tmp_path):
    runs = []
    for devices in (1, 2):
        environment = {**os.environ, 'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}', 'JAX_PLATFORMS': 'cpu'}
        runs.append(
            subprocess.Popen(
                [sys.executable, '-c', TWO_DEVICES, pathlib.Path(__file__).parent, str(devices), tmp_path / str(devices)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for run in runs:
        said = run.communicate()[1]
        assert run.returncode == 0, said
    for one, two in zip(records(tmp_path / '1'), records(tmp_path / '2'), strict=True):
        np.testing.assert_allclose(one['loss'], two['loss'], rtol=1e-5)
    np.testing.assert_allclose(*[np.load(tmp_path / run / 'last' / 'w.npy') for run in '12'], rtol=1e-5, atol=1e-7)
