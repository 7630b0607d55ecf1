"""What all figures share: their own settings, two themes from one drawing, labels taken as they are."""

import base64
import dataclasses
import re

import matplotlib

from calm_jax.reporting import depths, figures, reader, sensitivity, similarity, tradeoffs
from calm_jax.reporting.figures import hues
from calm_jax.reporting.palette import DARK, LIGHT


def drawing(example):
    return sensitivity.panels(reader.read(example).sensitivities)[0].drawings[0]


def colours(theme):
    return {*theme.series, *(getattr(theme, name) for name in theme._fields if name != 'series')}


def found(svg):
    return set(re.findall(r'#[0-9a-f]{6}\b', svg.decode()))


def test_a_users_settings_neither_change_a_figure_nor_are_changed(example):
    plain = figures.render(drawing(example))
    with matplotlib.rc_context({'font.size': 31, 'lines.linewidth': 9, 'axes.facecolor': 'red', 'savefig.dpi': 7}):
        before = dict(matplotlib.rcParams)
        assert figures.render(drawing(example)) == plain
        assert dict(matplotlib.rcParams) == before


def test_the_dark_version_is_the_light_one_in_other_colours(example):
    rendered = figures.render(drawing(example))
    assert found(rendered.light) <= colours(LIGHT) and len(found(rendered.light)) >= 4
    assert found(rendered.dark) <= colours(DARK)
    assert re.sub(rb'#[0-9a-f]{6}\b', b'', rendered.light) == re.sub(rb'#[0-9a-f]{6}\b', b'', rendered.dark)


def test_ranks_are_labelled_as_people_write_numbers(example):
    figure = depths.panels(reader.read(example).ranks, [])[0].drawings[0].draw()
    figure.canvas.draw()
    low, high = figure.axes[0].get_ylim()
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels() if low <= label.get_position()[1] <= high]
    assert shown == ['1', '2', '5', '10', '20', '50', '100', '200', '500']


def test_right_and_wrong_tokens_stand_in_the_table_where_the_file_tells_how_they_rank(example, some):
    (panel,) = depths.panels([], reader.read(example).confidences)
    assert panel.table.headings[3:] == ('unlike', 'right first', 'right first, over all ids')
    assert panel.table.rows[0][4:] == (0.61, 0.62) and panel.table.rows[-1][4:] == (None, None)

    def of_earlier(content):
        del content['auc'], content['auc_whole']
        return content

    (panel,) = depths.panels([], reader.read(some('confidence.json', change=of_earlier)).confidences)
    assert panel.table.headings[3:] == ('unlike',) and len(panel.table.rows[0]) == 4


def test_similarity_is_drawn_by_cost_and_by_layer_and_the_nearest_is_named(example):
    (panel,) = similarity.panels(reader.read(example).similarities)
    by_cost, by_layer = (drawing.draw() for drawing in panel.drawings)
    for axes, values in zip(by_cost.axes, ((0.55, 0.83, 1), None), strict=True):
        lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
        assert [list(line.get_xdata()) for line in lines] == [[2, 4, 8]] * 2
        assert values is None or tuple(lines[1].get_ydata()) == values
    assert [text.get_text() for text in by_cost.legends[0].get_texts()] == ['early exit', 'uniform', 'layers:1,5']
    assert 'layers' in by_cost.axes[-1].get_xlabel() and 'cosine' in by_cost.axes[0].get_title(loc='left')
    assert [len(axes.lines) for axes in by_layer.axes] == [3, 2]  # at 2 and 4 of 8 layers
    assert all(list(line.get_xdata()) == [*range(1, 9)] for axes in by_layer.axes for line in axes.lines)
    assert panel.notes[0] == 'Nearest in the final state: uniform at 2 of 2 costs.'
    assert panel.notes[1] == 'Nearest in the layers before: early exit at 2 of 2 costs.'
    assert panel.table.rows[3][:3] == ('uniform, 2 layers', 0.55, 0.006) and len(panel.table.rows) == 7


def test_layers_are_drawn_at_four_costs_evenly_spaced_and_at_those_of_chosen_layers(example):
    (read,) = reader.read(example).similarities
    runs = [dataclasses.replace(read.runs[0], cost=cost, by_layer=3 * read.runs[0].by_layer) for cost in range(1, 25)]
    many = dataclasses.replace(read, num_layers=24, runs=tuple(runs))
    assert len(similarity.panels([many])[0].drawings[1].draw().axes) == 4
    assert similarity.shown_costs(many) == [3, 9, 15, 21]
    chosen = dataclasses.replace(many, runs=(*runs, dataclasses.replace(runs[6], method='layers:1,2,3,4,5,6,7')))
    assert similarity.shown_costs(chosen) == [4, 7, 12, 20]
    whole = dataclasses.replace(many, runs=(runs[-1],))
    assert similarity.shown_costs(whole) == [24]


def test_a_theme_has_no_colour_twice_or_the_exchange_would_be_ambiguous():
    for theme in (LIGHT, DARK):
        assert len(colours(theme)) == len(theme.series) + len(theme._fields) - 1
    assert not colours(LIGHT) & colours(DARK)


def test_every_figure_of_a_run_keeps_to_the_palette(composed):
    # None may fall back on a colour of matplotlib's own: it would have no dark counterpart.
    for image in composed.page.all('img', 'light'):
        svg = base64.b64decode(image.attributes['src'].partition(',')[2])
        assert found(svg) <= colours(LIGHT)


def test_labels_are_shown_as_they_are_written(some):
    names = ['_hidden', 'a $x^2$ label']
    for folder, name in zip(('classifier', 'softmax_gap'), names):
        some(f'{folder}/curve.json', change=lambda content, name=name: content | {'label': name})
    run = reader.read(some())
    (panel,) = tradeoffs.panels(run.curves, hues(run.curves, []))
    figure = panel.drawings[0].draw()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*names, 'full model']
    figures.render(panel.drawings[0])  # a dollar sign starts no formula: this one would not parse


def test_a_measure_has_one_colour_all_over_the_page(example):
    run = reader.read(example)
    numbers = hues(run.curves, run.trials)
    of_curves = figures.styles({curve.label: curve for curve in run.curves}, numbers)
    of_trials = figures.styles({each.label: each for each in reversed(run.trials)}, numbers)
    for label, style in of_trials.items():
        assert of_curves[label] == style
    assert len({style.colour for style in of_curves.values()}) == 5
    assert len({style.marker for style in of_curves.values()}) == 5


def test_labels_that_repeat_are_told_apart(some):
    for folder, tolerance in (('classifier', 0.1), ('softmax_gap', 0.25)):
        some(
            f'{folder}/curve.json',
            change=lambda content, tolerance=tolerance: content | {'label': 'gap', 'tolerance': tolerance},
        )
    curves = reader.read(some()).curves
    assert figures.distinct_labels(curves) == ['gap textual δ=0.1', 'gap textual δ=0.25']
    assert figures.distinct_labels([curves[0], curves[0]]) == ['gap textual δ=0.1 (classifier)'] * 2
    assert figures.distinct_labels(curves[:1]) == ['gap']
