"""Settings: names become values, what is wrong is said, and only what decides the output is recorded."""

import dataclasses

import numpy as np
import pytest

from calm_jax.decoding.settings import MEASURES, Settings
from calm_jax.depth.confidence import Classifier, SoftmaxGap
from calm_jax.depth.contrast import WeightedContrast
from calm_jax.depth.thresholds import Constant, Decaying, ScaledDecaying
from calm_jax.depth.vocabulary import Pruned
from calm_jax.models.config import TransformerConfig

CONFIG = TransformerConfig(14, 16, 2, 6, 24, 2, 3)
HEADS = {'exit_classifier': {'kernel': np.ones((16, 1), np.float32), 'bias': np.zeros(1, np.float32)}}


def test_no_measure_decides_nothing():
    values = Settings().build(CONFIG)
    assert values.exit is None and values.plan is None


@pytest.mark.parametrize('form, kind', [('constant', Constant), ('decaying', Decaying), ('scaled_decaying', ScaledDecaying)])
def test_an_exit_is_built_with_its_numbers(form, kind):
    exit = (
        Settings(measure='softmax_gap', threshold=0.4, threshold_form=form, decay_temperature=3.0, min_exit_layer=2)
        .build(CONFIG)
        .exit
    )
    assert exit.measure == SoftmaxGap() and exit.threshold == 0.4 and exit.min_exit_layer == 2
    assert isinstance(exit.form, kind) and getattr(exit.form, 'temperature', 3.0) == 3.0


@pytest.mark.parametrize('name', MEASURES)
def test_every_measure_can_be_named(name):
    assert isinstance(Settings(measure=name, threshold=0.5).build(CONFIG, HEADS).exit.measure, MEASURES[name])


def test_pruning_and_contrast_become_parts_of_the_measure_and_of_the_record():
    plain = Settings(measure='softmax_gap', threshold=0.5)
    assert not {'pruning', 'keep', 'keep_least', 'partition', 'alpha', 'emits'} & set(plain.deciding())
    fixed = dataclasses.replace(plain, pruning='fixed', keep=3, min_exit_layer=2)
    assert fixed.build(CONFIG).exit.measure == SoftmaxGap(Pruned(keep=3, start=2))
    assert fixed.deciding()['keep'] == 3 and 'keep_least' not in fixed.deciding()
    contrast = Settings(
        measure='weighted_contrast', threshold=0.5, pruning='decaying', keep_least=2, partition='full', alpha=0.2, emits='dola'
    )
    assert contrast.build(CONFIG).exit.measure == WeightedContrast(0.2, 'dola', Pruned(0, 2, 1, 'full'))
    assert {'alpha', 'emits', 'keep_least'} <= set(contrast.deciding())
    assert not {'pruning', 'alpha'} & set(dataclasses.replace(contrast, threshold=1.0).deciding())


@pytest.mark.parametrize(
    'wrong, message',
    [
        ({'pruning': 'fixed', 'keep': 15}, 'the vocabulary has 14'),
        ({'pruning': 'fixed', 'min_exit_layer': 4}, 'exit_layer is 4'),
        ({'pruning': 'decaying', 'keep': 2, 'keep_least': 3}, 'expected k. ≤ k'),
        ({'pruning': 'fxied'}, 'did you mean fixed'),
        ({'measure': 'state', 'pruning': 'fixed', 'keep': 3}, 'looks at no vocabulary'),
        ({'measure': 'weighted_contrast', 'alpha': 1.0}, 'alpha is 1.0'),
        ({'partition': 'half', 'pruning': 'fixed'}, 'partition'),
    ],
)
def test_what_pruning_and_contrast_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**{'measure': 'softmax_gap', 'threshold': 0.5, **wrong}).build(CONFIG)


MINE = """
from calm_jax.depth.confidence import StaticDepth
from calm_jax.depth.plans import Uniform
from calm_jax.pytrees import pytree

@pytree
class Mine(StaticDepth):
    k: int = 2

def first_layer(config):
    return Uniform(1, config.num_decoder_layers, config.num_encoder_layers)
"""


def test_a_measure_or_plan_maker_of_ones_own_is_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / 'my_decisions.py').write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    settings = Settings(measure='my_decisions:Mine', threshold=0.5, plan='my_decisions:first_layer', measure_options='k=7')
    values = settings.build(CONFIG)
    assert type(values.exit.measure).__name__ == 'Mine' and values.exit.measure.k == 7
    assert settings.deciding()['measure_options'] == 'k=7' and settings.deciding()['measure'] == 'my_decisions:Mine'
    np.testing.assert_array_equal(values.plan(np.arange(2)).self_attention, [[True, False, False]] * 2)
    for wrong in 'my_decisions:Yours', 'nowhere:Mine', ':Mine':
        with pytest.raises(ValueError, match='cannot be imported'):
            Settings(measure=wrong, threshold=0.5)
    for wrong in 'os:getcwd', 'my_decisions:Uniform':
        with pytest.raises(ValueError, match='is no class of measures'):
            Settings(measure=wrong, threshold=0.5)
    with pytest.raises(ValueError, match="unexpected keyword argument 'alpha'"):
        dataclasses.replace(settings, measure_options='alpha=1').build(CONFIG)
    for wrong, message in (
        ('os:getcwd', 'takes no TransformerConfig'),
        ('os:nothing', 'cannot be imported'),
        ('builtins:id', 'expected a function of example ids'),
        ('uniform:4.5', 'C from 1 to'),
        ('uniform:-1', 'C from 1 to'),
    ):
        with pytest.raises(ValueError, match=message):
            Settings(plan=wrong).build(CONFIG)


def test_the_classifier_takes_the_checkpoints_head_and_needs_one():
    settings = Settings(measure='classifier', threshold=0.5)
    measure = settings.build(CONFIG, HEADS).exit.measure
    assert isinstance(measure, Classifier) and measure.kernel is HEADS['exit_classifier']['kernel']
    with pytest.raises(ValueError, match='no exit classifier'):
        settings.build(CONFIG, None)


def test_a_plan_is_made_for_the_models_layers():
    plan = Settings(plan='uniform:2').build(CONFIG).plan(np.arange(4))
    assert plan.self_attention.shape == (4, 3) and plan.self_attention.sum() == 8 and plan.encoder_attention.shape == (4, 2)


def test_what_decides_leaves_out_what_is_unused():
    greedy = Settings().deciding()
    assert 'seed' not in greedy and 'top_k' not in greedy and 'decay_temperature' not in greedy
    assert Settings(temperature=1.0).deciding()['seed'] == 0
    assert Settings(measure='state', threshold=0.5, threshold_form='decaying').deciding()['decay_temperature'] == 4.0
    # λ = 1 decodes alike whatever the exit rule would have been.
    full = Settings(measure='state', threshold=1.0)
    assert full.deciding() == dataclasses.replace(full, threshold_form='decaying', min_exit_layer=2).deciding()


@pytest.mark.parametrize(
    'wrong, message',
    [
        ({'measure': 'clasifier'}, 'did you mean classifier'),
        ({'threshold': 0.5}, 'without a measure'),
        ({'measure': 'state', 'threshold': float('nan')}, 'threshold'),
        ({'max_new_tokens': 0}, 'max_new_tokens'),
        ({'decay_temperature': -1.0}, 'decay_temperature'),
        ({'temperature': -0.1}, 'temperature'),
        ({'top_p': 7.0}, 'top_p'),
        ({'top_k': -1}, 'top_k'),
        ({'seed': -1}, 'seed'),
        ({'seed': 2**32}, 'seed'),
        ({'measure_options': 'k'}, 'NAME=NUMBER'),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)
