"""Each measure and threshold against its formula, worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.depth.confidence import Classifier, Oracle, SoftmaxGap, SoftmaxMax, StateSimilarity, StaticDepth, softmax_gap
from calm_jax.depth.exits import Exit
from calm_jax.depth.thresholds import Constant, Decaying, ScaledDecaying
from calm_jax.types import Evidence, Sizes


def evidence(layer=1, logits=None, hidden=None, previous=None, oracle=None):
    rows = 2
    blank = jnp.zeros((rows, 2))
    return Evidence(
        layer=layer,
        num_layers=4,
        position=jnp.zeros(rows, jnp.int32),
        hidden=blank if hidden is None else hidden,
        previous=blank if previous is None else previous,
        ran=jnp.ones(rows, bool),
        oracle=oracle,
        logits=lambda: logits,
        head_rows=None,
        choose=lambda logits, ids: jnp.argmax(logits, axis=-1),
    )


# softmax(log 6, log 3, log 1) = .6, .3, .1
LOGITS = jnp.log(jnp.array([[6.0, 3.0, 1.0], [1.0, 1.0, 2.0]]))


def test_the_softmax_gap_is_the_difference_of_the_two_largest_probabilities():
    _, confidence, token = SoftmaxGap().observe({}, evidence(logits=LOGITS))
    np.testing.assert_allclose(confidence, [0.3, 0.25], rtol=1e-6)
    assert token.tolist() == [0, 2]


def test_the_softmax_gap_of_a_tie_is_zero_and_of_huge_logits_finite():
    np.testing.assert_allclose(softmax_gap(jnp.array([[2.0, 2.0, -5.0], [1e30, 0.0, -1e30]])), [0, 1], atol=1e-7)


def test_the_softmax_maximum_is_the_largest_probability():
    _, confidence, token = SoftmaxMax().observe({}, evidence(logits=LOGITS))
    np.testing.assert_allclose(confidence, [0.6, 0.5], rtol=1e-6)
    assert token.tolist() == [0, 2]


def test_state_similarity_is_the_cosine_clipped_at_zero():
    hidden, previous = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[4.0, 3.0], [-1.0, 0.0]])
    _, confidence, token = StateSimilarity().observe(None, evidence(hidden=hidden, previous=previous))
    np.testing.assert_allclose(confidence, [0.96, 0.0], rtol=1e-6)
    assert token is None


def test_no_state_is_saturated_after_the_first_layer():
    same = jnp.ones((2, 2))
    _, confidence, _ = StateSimilarity().observe(None, evidence(layer=0, hidden=same, previous=same))
    assert confidence.tolist() == [0, 0]


def test_a_state_of_zeros_is_similar_to_nothing():
    _, confidence, _ = StateSimilarity().observe(None, evidence())
    assert confidence.tolist() == [0, 0]


def test_the_classifier_is_a_logistic_regression_on_the_state():
    classifier = Classifier(jnp.array([[1.0], [-2.0]]), jnp.array([0.5]))
    _, confidence, token = classifier.observe(None, evidence(hidden=jnp.array([[1.0, 0.5], [0.0, 0.25]])))
    np.testing.assert_allclose(confidence, [1 / (1 + np.exp(-0.5)), 0.5], rtol=1e-6)
    assert token is None


def test_the_oracle_is_sure_where_it_agrees_with_the_full_model():
    _, confidence, token = Oracle().observe({}, evidence(logits=LOGITS, oracle=jnp.array([0, 1])))
    assert confidence.tolist() == [1, 0] and token.tolist() == [0, 2]


def test_static_depth_is_the_share_of_layers_visited():
    _, confidence, _ = StaticDepth().observe(None, evidence(layer=2))
    assert confidence.tolist() == [0.75, 0.75]


@pytest.mark.parametrize(
    'form, expected',
    [
        (Constant(), [0.8, 0.8, 0.8]),
        # 0.72 + 0.1 e^0, 0.72 + 0.1 e^-2, 0.72 + 0.1 e^-4
        (Decaying(4.0), [0.82, 0.7335335283, 0.7218315639]),
        (ScaledDecaying(4.0), [0.8, 0.7308268227, 0.7214652511]),
        (Decaying(0.0), [0.82, 0.82, 0.82]),
        (ScaledDecaying(0.0), [0.8, 0.8, 0.8]),
    ],
)
def test_thresholds_decay_as_published(form, expected):
    np.testing.assert_allclose(form(0.8, jnp.array([0, 5, 10]), 10), expected, rtol=1e-6)


def test_a_decaying_threshold_stays_within_the_unit_interval():
    at = Decaying(4.0)(jnp.float32(1.0), jnp.arange(11), 10)
    assert at.max() <= 1 and at.min() >= 0.9


def test_a_confidence_equal_to_the_threshold_leaves_and_none_does_below_the_minimum_layer():
    exit = Exit(SoftmaxGap(), 0.5, min_exit_layer=2)
    confidence, position, length = jnp.array([0.5, 0.4999]), jnp.zeros(2, jnp.int32), jnp.full(2, 10)
    assert exit.leaves(1, confidence, 0.5, position, length).tolist() == [True, False]
    assert exit.leaves(0, confidence, 0.5, position, length).tolist() == [False, False]
    assert exit.observes(1) and not exit.observes(0)


@pytest.mark.parametrize(
    'measure, layer, expected',
    [
        (SoftmaxGap(), 0, 0),
        (StateSimilarity(), 1, 6 * 512),
        (StateSimilarity(), 0, 0),
        (Classifier(jnp.zeros((512, 1)), jnp.zeros(1)), 3, 1024),
        (StaticDepth(), 3, 0),
    ],
)
def test_observations_cost_what_their_products_cost_besides_the_head(measure, layer, expected):
    assert measure.flops(layer, Sizes(8, 512, 32128, 512)) == expected


@pytest.mark.parametrize('measure, looks', [(SoftmaxGap(), [1, 5]), (SoftmaxMax(), [1, 5]), (StateSimilarity(), [0, 0])])
def test_a_measure_of_the_whole_vocabulary_applies_the_head_once_a_layer(counted, measure, looks):
    assert counted(measure) == [looks] * 4 and counted(measure, decides=False) == [[0, 0]] * 4
