"""The validity figure draws the numbers of trials.json against the diagonal, and its sentence counts the splits."""

import json

import numpy as np

from calm_jax.reporting import reader, validity
from calm_jax.reporting.figures import hues


def panel_of(folder):
    run = reader.read(folder)
    (panel,) = validity.panels(run.trials, hues([], run.trials))
    return panel


def test_means_and_standard_deviations_are_those_of_the_file(some):
    folder = some('softmax_gap/trials.json')
    content = json.loads((folder / 'softmax_gap' / 'trials.json').read_text())['tolerances']
    risk, layers = panel_of(folder).drawings[0].draw().axes
    for axes, what in ((risk, 'risk'), (layers, 'layers')):
        mean, caps, (bars,) = axes.containers[0]
        assert np.allclose(mean.get_xdata(), [each['tolerance'] for each in content])
        assert np.allclose(mean.get_ydata(), [each[f'{what}_mean'] for each in content])
        spans = [segment[:, 1] for segment in bars.get_segments()]
        assert np.allclose([high - low for low, high in spans], [2 * each[f'{what}_std'] for each in content])


def test_the_diagonal_is_where_risk_equals_tolerance_and_the_region_above_is_shaded(some):
    risk = panel_of(some('softmax_gap/trials.json')).drawings[0].draw().axes[0]
    diagonal = risk.get_lines()[0]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    shade = risk.collections[0].get_paths()[0]
    assert shade.contains_point((0.05, 0.2)) and not shade.contains_point((0.2, 0.05))


def test_every_split_is_a_dot(some):
    folder = some('softmax_gap/trials.json')
    content = json.loads((folder / 'softmax_gap' / 'trials.json').read_text())['tolerances']
    risk = panel_of(folder).drawings[0].draw().axes[0]
    dots = next(collection for collection in risk.collections if len(collection.get_offsets()) > 1)
    expected = [trial['test_risk'] for each in content for trial in each['per_trial']]
    assert np.allclose(dots.get_offsets()[:, 1], expected)


def test_the_sentence_counts_splits_above_the_tolerance(some):
    def exceed(content):
        content['tolerances'][2]['share_pool_above'] = 0.08

    note = panel_of(some('softmax_gap/trials.json', change=exceed)).notes[0]
    assert note == (
        'softmax_gap: 12 random splits (811 examples to calibrate, 203 to test). The risk of the setting chosen, '
        'over all the data, lay above δ in up to 8% of them, the most at δ = 0.15; ε is 5%.'
    )


def test_measures_of_which_the_same_holds_share_a_sentence_and_a_note_is_printed_once(example):
    panel = panel_of(example)
    assert len(panel.notes) == 2
    assert panel.notes[0].startswith('classifier, softmax_gap: 12 random splits')
    assert 'in none of them' in panel.notes[0]
    assert panel.notes[1].startswith('All splits are drawn from one pool')


def test_objectives_have_figures_of_their_own(some):
    some('softmax_gap/trials.json')
    folder = some('classifier/trials.json', change=lambda content: content | {'objective': 'risk'})
    run = reader.read(folder)
    panels = validity.panels(run.trials, hues([], run.trials))
    assert [panel.title for panel in panels] == ['Risk consistency, rougeL, ε = 0.05', 'Textual consistency, rougeL, ε = 0.05']
    assert [panel.drawings[0].name for panel in panels] == ['validity_1', 'validity_2']


def test_signed_risks_and_negative_tolerances_fit_into_the_figure(some):
    def shift(content):
        for each in content['tolerances']:
            each['tolerance'] = round(each['tolerance'] - 0.15, 3)
            each['risk_mean'] -= 0.15
            each['per_trial'] = []

    risk = panel_of(some('softmax_gap/trials.json', change=shift)).drawings[0].draw().axes[0]
    (left, right), (low, high) = risk.get_xlim(), risk.get_ylim()
    assert left < -0.1 and right > 0.1 and low < -0.1 and high > 0.1
