"""A metric of one's own is called with texts and checked at each call."""

import numpy as np
import pytest

from calm_jax.metrics import quality
from calm_jax.metrics.objective import Objective
from calm_jax.metrics.own import OwnMetric
from calm_jax.metrics.scores import score, unit

TEXTS, REFERENCES = ['a', 'bb'], [['a', 'c'], ['b']]


def exact(predictions, references):
    assert isinstance(predictions, list) and all(isinstance(each, list) for each in references)
    return [text in others for text, others in zip(predictions, references)]


def test_it_is_a_metric_among_the_others():
    np.testing.assert_array_equal(quality.metric(exact)(tuple(TEXTS), REFERENCES), [1.0, 0.0])
    assert quality.metric_name(exact) == f'{__name__}:exact' and quality.metric_name('chrf') == 'chrf'
    assert score(exact, TEXTS, REFERENCES) == 0.5 and unit(exact) == 'mean of examples, 0–1'
    objective = Objective('textual', [exact, 'chrf'])
    assert objective.names == (f'{__name__}:exact', 'chrf') and set(objective.versions()) == set(objective.names)
    np.testing.assert_array_equal(objective.losses(['a', 'b'], ['a', 'c'])[f'{__name__}:exact'], [0.0, 1.0])


def test_it_is_not_asked_about_no_texts_and_what_it_raises_is_one_line_that_names_it():
    def mean(predictions, references):
        return {}[predictions[0]]

    assert OwnMetric(mean)([], []).shape == (0,)
    with pytest.raises(ValueError, match=r"^metric .*test_own:.*mean raised KeyError: 'a'$") as error:
        OwnMetric(mean)(TEXTS, REFERENCES)
    assert isinstance(error.value.__cause__, KeyError)


def test_one_function_twice_is_refused():
    with pytest.raises(ValueError, match='several different ones'):
        Objective('textual', [exact, exact])


def test_whether_its_losses_are_0_or_1_is_left_to_the_losses():
    assert Objective('textual', [exact]).binary and not Objective('textual', [exact, 'chrf']).binary


@pytest.mark.parametrize(
    'values, message',
    [
        ([0.5], r'the shape \[1\] for 2 examples'),
        ([[0.5], [0.5]], r'the shape \[2, 1\]'),
        ([0.5, 1.01], 'for example 1'),
        ([-0.1, 1], r'-0.1 for example 0'),
        ([0.5, float('nan')], 'nan for example 1'),
        ([None, 0.5], 'for example 0'),
        ([0.5, 'x'], 'no list of numbers'),
        ([[0.5], []], 'no list of numbers'),
    ],
)
def test_values_that_are_none_are_one_line(values, message):
    def wrong(predictions, references):
        return values

    with pytest.raises(ValueError, match=message) as error:
        OwnMetric(wrong)(TEXTS, REFERENCES)
    assert len(str(error.value).splitlines()) == 1 and 'wrong' in str(error.value)


@pytest.mark.parametrize('metric', [3, None, object()])
def test_what_cannot_be_called_is_no_metric(metric):
    with pytest.raises(TypeError, match='expected a name, or a function'):
        quality.metric(metric)


def test_a_function_whose_source_cannot_be_told_is_no_metric():
    namespace = {}
    exec('def typed(predictions, references):\n    return [1.0] * len(predictions)', namespace)
    with pytest.raises(ValueError, match='defined in no file'):
        OwnMetric(namespace['typed'])
    with pytest.raises(ValueError, match='a function is handed in itself'):
        quality.metric('package.module:function')
