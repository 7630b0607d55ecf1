"""Trade-off figures draw the numbers of curve.json, compare only what is comparable, and mark what was chosen."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.colors import to_hex

from calm_jax.reporting import reader, tradeoffs
from calm_jax.reporting.figures import hues, styles
from calm_jax.reporting.palette import LIGHT


def panels(folder):
    run = reader.read(folder)
    return tradeoffs.panels(run.curves, hues(run.curves, []))


def scattered(figure):
    """Offsets of each series' points, and rings, in the order drawn."""
    return [collection for collection in figure.axes[0].collections if len(collection.get_offsets())]


def test_quality_and_consistency_are_drawn_against_layers_and_against_flops(example):
    (panel,) = panels(example)
    assert [drawing.name for drawing in panel.drawings] == [
        'tradeoff_quality_layers',
        'tradeoff_quality_flops',
        'tradeoff_consistency_layers',
        'tradeoff_consistency_flops',
    ]


@pytest.mark.parametrize(
    ('place', 'of', 'cost'),
    [(0, 'quality', 'layers'), (1, 'quality', 'flops'), (2, 'consistency', 'layers'), (3, 'consistency', 'flops')],
)
def test_the_points_drawn_are_the_points_of_the_file(place, of, cost, example):
    content = json.loads((example / 'softmax_gap' / 'curve.json').read_text(encoding='utf-8'))
    expected = [[point[cost], point[of]] for point in content['points']]
    (panel,) = panels(example)
    drawn = [collection.get_offsets() for collection in scattered(panel.drawings[place].draw())]
    assert any(np.shape(each) == np.shape(expected) and np.allclose(each, expected) for each in drawn)


def test_points_shown_valid_are_filled_and_the_chosen_one_is_ringed(some):
    folder = some('softmax_gap/curve.json')
    (curve,) = reader.read(folder).curves
    (panel,) = panels(folder)
    points, ring = scattered(panel.drawings[0].draw())
    style = styles({curve.label: curve}, {curve.label: 0})[curve.label]
    assert [to_hex(colour) for colour in points.get_facecolors()] == [
        style.colour if point.rejected else LIGHT.page for point in curve.points
    ]
    last = [point for point in curve.points if point.rejected][-1]
    assert tradeoffs.chosen(curve) == last
    assert np.allclose(ring.get_offsets(), [[last.layers, last.quality]])
    assert f'chosen: {last.quality:.3g} at {last.layers:.3g} layers' in panel.drawings[0].alt


def test_the_point_that_is_ringed_is_the_cheapest_valid_one_whatever_its_place(some):
    (curve,) = reader.read(some('softmax_gap/curve.json')).curves
    dear = [point if at != 1 else dataclasses.replace(point, flops=1.0) for at, point in enumerate(curve.points)]
    assert tradeoffs.chosen(dataclasses.replace(curve, points=tuple(dear))) == dear[1]
    unmeasured = tuple(dataclasses.replace(point, flops=None) for point in dear)
    assert tradeoffs.chosen(dataclasses.replace(curve, points=unmeasured)) == [each for each in unmeasured if each.rejected][-1]


def test_a_curve_without_valid_settings_has_no_ring(some):
    folder = some('state/curve.json')
    (panel,) = panels(folder)
    assert len(scattered(panel.drawings[0].draw())) == 1
    assert 'chosen' not in panel.drawings[0].alt


def test_the_full_model_is_a_reference_line_and_a_star(some):
    (panel,) = panels(some('static/curve.json'))
    lines = panel.drawings[0].draw().axes[0].get_lines()
    assert [line for line in lines if list(line.get_ydata()) == [0.612, 0.612] and list(line.get_xdata()) == [0, 1]]
    (star,) = [line for line in lines if line.get_marker() == '*']
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([8], [0.612])


def test_a_curve_without_flops_or_references_is_left_out_of_those_figures(some):
    assert [drawing.name for drawing in panels(some('oracle/curve.json'))[0].drawings] == [
        'tradeoff_quality_layers',
        'tradeoff_consistency_layers',
    ]

    def drop(content):
        for point in [*content['points'], content['full']]:
            point['quality'] = None

    (panel,) = panels(some('oracle/curve.json', change=drop))
    assert [drawing.name for drawing in panel.drawings] == ['tradeoff_consistency_layers']


@pytest.mark.parametrize('change', [{'metric': 'bleu'}, {'num_layers': 12}, {'n': 99}, {'full': {'layers': 8, 'quality': 0.4}}])
def test_curves_of_other_data_or_another_model_get_figures_of_their_own(change, some):
    some('softmax_gap/curve.json')
    folder = some('classifier/curve.json', change=lambda content: content | change)
    both = panels(folder)
    assert len(both) == 2
    names = [drawing.name for panel in both for drawing in panel.drawings]
    assert len(set(names)) == len(names) == 8


def test_the_table_holds_every_point_and_the_full_model(example):
    (panel,) = panels(example)
    files = [json.loads(path.read_text(encoding='utf-8')) for path in example.glob('*/curve.json')]
    assert len(panel.table.rows) == sum(len(content['points']) for content in files) + 1
    assert panel.table.rows[-1][0] == 'full model'


def test_several_tolerances_are_no_obstacle(some):
    folder = some('classifier/curve.json', change=lambda content: content | {'tolerance': {'rougeL': 0.1, 'bleu': 0.2}})
    (panel,) = panels(folder)
    assert 'at δ = rougeL 0.1, bleu 0.2, ε = 0.05' in panel.caption
