"""The guarantee says in one sentence what holds, how surely, and for which examples."""

import numpy as np
import pytest

from calm_jax.calibration import Point, calibrate
from calm_jax.calibration.draws import uniforms

LOSSES = (uniforms(1, 1200, 1) < np.array([0.01, 0.5])).astype(float)


def guarantee(losses=LOSSES, tolerance=0.1, points=(0.8, 0.4), **arguments) -> str:
    certificate = calibrate(losses, points, tolerance, 0.05, **arguments)
    text = certificate.guarantee
    assert text.endswith('.') and '. ' not in text and '\n' not in text
    return text


def test_the_guarantee_names_probability_threshold_tolerance_and_the_distribution_it_covers():
    text = guarantee(objective='textual', metric='rougeL', provenance={'data': {'name': 'news, validation'}})
    assert text == (
        'With probability at least 0.95 over the draw of 1,200 calibration examples (news, validation), when decoding '
        "with threshold 0.8 the expected dissimilarity to the full model's output (rougeL) is at most 0.1 on new "
        'examples drawn independently from the same distribution as the calibration data, provided that the grid and '
        'every other choice recorded here was made without looking at that data.'
    )


@pytest.mark.parametrize(
    ('arguments', 'part'),
    [
        ({'objective': 'risk'}, "the expected loss above the full model's is at most 0.1 on"),
        ({}, 'the expected loss is at most 0.1 on new examples drawn'),
        ({'signed': True}, 'the expected signed difference in loss from the full model (gains count against losses)'),
        ({'group_by': np.arange(1200) // 4}, 'on new clusters (averaged within each) drawn'),
        ({'group_by': np.arange(1200) // 4}, 'the draw of 300 calibration clusters'),
        ({'groups': ['a'] * 600 + ['b'] * 600}, 'on new examples in each group (a, b) drawn'),
        ({'joint': 3}, '0.95, jointly over 3 certificates, over the draw'),
        ({'points': [Point({'k': 1}, 0.8), 0.4]}, 'when decoding as recorded here, with threshold 0.8, the expected loss'),
        ({'points': [Point({'k': 1}), 0.4]}, 'when decoding as recorded here the expected loss'),
        ({'losses': {'x': LOSSES, 'y': LOSSES}}, 'is at most 0.1 for x and at most 0.1 for y on'),
        ({'losses': {'x': LOSSES}, 'tolerance': {'x': 0.2}}, 'is at most 0.2 for x on'),
    ],
)
def test_whatever_else_it_depends_on_is_said(arguments, part):
    assert part in guarantee(**arguments)


def test_without_a_valid_setting_it_says_to_decode_at_full_depth():
    assert guarantee(tolerance=0.01) == (
        'No setting could be certified at epsilon 0.05 on 1,200 calibration examples: decode at full depth, '
        "which is the full model's own output."
    )


@pytest.mark.parametrize('name', ['sampled', 'Sampled', 'calm_jax.decoding.choice:Sampled'])
def test_where_tokens_are_drawn_the_guarantee_is_over_their_noise_too(name):
    sampled = {'choice': {'class': name, 'temperature': 0.7}, 'seed': 3}
    clause = 'over the draw of 1,200 calibration examples and of the noise that seed and id give to each, when decoding'
    assert clause in guarantee(points=[Point(sampled, 0.8), Point(sampled, 0.4)])
    for choice in ({}, {'choice': {'class': 'beam', 'size': 4}}, {'choice': {}}, {'seed': 3, 'rules': 'sampled'}):
        assert 'noise' not in guarantee(points=[Point(choice, 0.8), Point(choice, 0.4)])
