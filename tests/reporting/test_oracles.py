"""Oracles over plans: read as `calm analyze oracle` writes them, drawn, and told in words."""

import json
import re

import numpy as np
import pytest

from calm_jax.analysis.oracle import PredictionSets, study
from calm_jax.reporting import figures, oracles, page, reader
from calm_jax.reporting.palette import LIGHT
from tests.reporting.test_reader import broken

COSTS = (2.0, 4.0, 8.0)


@pytest.fixture(scope='module')
def content():
    rng = np.random.default_rng(0)
    scores = np.clip(rng.random((2, 60, 3)) * [0.6, 0.7, 0.8], 0, 1)
    layers, tokens = np.broadcast_to(COSTS, scores.shape), rng.integers(1, 200, scores.shape)
    sets = PredictionSets(('two', 'four', '_$all$'), scores, layers, tokens, tokens[0, :, 2])
    return {
        'analysis': 'oracle',
        'label': 'letters',
        'metric': 'rougeL',
        'lengths_of': 'output',
        **study(sets, 8, [3.0]),
        'provenance': {'command': 'calm analyze oracle', 'machine': 'm', 'date': '2026-01-01', 'seed': None},
    }


@pytest.fixture
def written(content, tmp_path):
    """A function that writes a content, this one if none is given, and reads it."""

    def write(value=content, name='oracle.json'):
        (tmp_path / name).write_text(json.dumps(value))
        return reader.read(tmp_path)

    return write


def test_figures_show_what_the_file_holds_in_the_palette(content, written):
    (panel,) = oracles.panels(written().oracles)
    assert [each.name for each in panel.drawings] == [f'oracle_{end}' for end in ('shares', 'advantages', 'lengths', 'tokens')]
    colours = {*LIGHT.series, *(getattr(LIGHT, name) for name in LIGHT._fields if name != 'series')}
    for drawing in panel.drawings:
        rendered = figures.render(drawing)  # names that look like formulas are none
        assert set(re.findall(r'#[0-9a-f]{6}\b', rendered.light.decode())) <= colours and rendered.png.startswith(b'\x89PNG')
        assert len(drawing.alt) > 60
    shares = panel.drawings[0].draw()
    lines = {line.get_label(): line for line in shares.axes[1].lines}
    curve, level, plans, star = (line.get_xydata() for line in lines.values())
    by_layers = content['by_layers']
    np.testing.assert_array_equal(curve, np.column_stack([by_layers['budgets'], by_layers['oracle']]))
    np.testing.assert_array_equal(plans, [[plan['layers'], plan['score']] for plan in content['plans']])
    assert star.tolist() == [[content['match']['budget'], content['plans'][-1]['score']]] and level[0][1] == star[0][1]
    assert [text.get_text() for text in shares.legends[0].get_texts()][:3] == ['two', 'four', '_$all$']
    areas = [each.get_paths()[0].vertices for each in shares.axes[0].collections]
    assert len(areas) == 3 and max(area[:, 1].max() for area in areas) == pytest.approx(1)
    rows = [axes.get_title(loc='left') for axes in panel.drawings[2].draw().axes]
    assert len(rows) == 3 and rows[0].startswith('texts by plan at ') and rows[-1].startswith('texts by plan at 8 layers, p = ')


def test_what_is_attainable_is_drawn_at_what_it_costs(content, written):
    (panel,) = oracles.panels(written().oracles)
    scores = panel.drawings[1].draw().axes[0]
    by_layers = content['by_layers']
    drawn = [line.get_xydata() for line in scores.lines]
    for name in ('attainable', 'informed'):
        wanted = np.column_stack([by_layers[f'{name}_layers'], by_layers[name]])
        assert any(each.shape == wanted.shape and (each == wanted).all() for each in drawn)
    assert 'luck is gone' in panel.caption and panel.table.headings[:7] == (
        'layers',
        'costliest plan',
        'mixed',
        'greedy',
        'oracle',
        'attainable',
        'informed',
    )


def test_the_table_has_the_budgets_with_a_name_and_the_match(content, written):
    (panel,) = oracles.panels(written().oracles)
    budgets = content['by_layers']['budgets']
    named = sorted({*content['by_layers']['named'], content['match']['budget']})
    assert len(panel.table.rows) == len(named) >= 4 and sum(row[0].endswith('(match)') for row in panel.table.rows) == 1
    for row, budget in zip(panel.table.rows, named):
        assert row[4] == content['by_layers']['oracle'][budgets.index(budget)]
    assert panel.notes[0].startswith('The oracle scores what _$all$ does (') and ' of 8 layers (' in panel.notes[0]


def test_one_decode_without_tokens_has_neither_attainable_curves_nor_a_figure_by_tokens(content, written):
    curves = {name: each for name, each in content['by_layers'].items() if not name.startswith(('attainable', 'informed'))}
    run = written({**{name: each for name, each in content.items() if name != 'by_tokens'}, 'by_layers': curves})
    (panel,) = oracles.panels(run.oracles)
    assert len(panel.drawings) == 3 and 'attainable' not in panel.table.headings and 'luck is gone' not in panel.caption
    panel.drawings[1].draw()


def test_the_page_has_a_section_whatever_the_files_name(written, undrawn, parse):
    run = written(name='letters.json')
    html, images = page.compose(run)
    document = parse(html)
    assert [node.attributes['id'] for node in document.all('section')] == ['oracles', 'files'] and len(images) == 4
    assert 'letters: rougeL, 60 texts, 8 decoder layers' in document.by_id('oracles').text()
    assert all(page._FIGURE_NAMES.fullmatch(f'{name}.png') for name in images)


@pytest.mark.parametrize(
    'place, value, message',
    [
        (['by_layers', 'oracle'], [0.5], r'by_layers\.oracle has 1 values: expected \d+, one for each budget'),
        (['by_layers', 'shares', 0], [0.5], r'by_layers\.shares is not of \d+ rows of 3 numbers'),
        (['plans', 1, 'score'], None, r'plans\[1\]\.score is null: expected a number'),
        (['plans'], [], 'plans has 0 elements: expected at least 2'),
        (['lengths', 0, 'counts', 2], [1], r'lengths\[0\]\.counts has rows that are not of 3 numbers'),
        (['lengths', 0, 'p_value'], 2, r'lengths\[0\]\.p_value is 2: expected a finite number from 0 to 1'),
        (['by_tokens', 'hull'], [0.5], r'by_tokens\.hull has 1 values'),
        (['by_tokens', 'plans'], [0.5], r'by_tokens\.plans has 1 values: expected 3'),
        (['match', 'budget'], 2.00001, r'match\.budget is 2.00001: expected one of the budgets'),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(content, written, place, value, message):
    with pytest.raises(ValueError, match=message) as error:
        written(broken(content, place, value))
    assert '\n' not in str(error.value)
