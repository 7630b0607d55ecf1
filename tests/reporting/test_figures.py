"""What all figures share: their own settings, two themes from one drawing, labels taken as they are."""

import base64
import re

import matplotlib

from calm_jax.reporting import depths, figures, reader, sensitivity, tradeoffs
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
