"""Plans of decoded files: read as records hold them, counted, sorted by likeness, drawn to scale, shown in their sources."""

import dataclasses
import itertools
import json
import types

import numpy as np
import pytest
from matplotlib.patches import PathPatch

from calm_jax.data.record_schema import record
from calm_jax.output import SequencePlan
from calm_jax.reporting import cells, page, plans, reader
from calm_jax.reporting.run import CutSource
from calm_jax.reporting.sources import printed
from tests.data.test_record_schema import OUTPUT

ALL, NONE, FIRST = [True, True], [False, False], [True, False]
PLAN = SequencePlan(ALL, FIRST, ALL, [True], [False], [1], [' a', ' b', '</s>'], 'last 30%')


@pytest.fixture
def written(some):
    """A function that puts records with plans in place of the example's, and reads them."""

    def write(*made):
        folder = some('planned.jsonl')
        lines = [
            json.dumps(record(at, types.SimpleNamespace(**{**vars(OUTPUT), 'plan': each}))) for at, each in enumerate(made)
        ]
        (folder / 'planned.jsonl').write_text(''.join(f'{line}\n' for line in lines))
        return reader.read(folder).plans[0]

    return write


def test_what_records_hold_of_plans_is_what_the_report_counts(written):
    full = SequencePlan(ALL, ALL, ALL, [True], [True], choice='none')
    read = written(full, PLAN, None, full)
    assert (read.path.name, read.label) == ('planned.jsonl', 'policy, level 0.4')
    kinds = ['encoder attention', 'encoder feed-forward', 'decoder self-attention', 'decoder cross-attention']
    assert read.sub_layers == (*zip(kinds, (1, 1, 2, 2)), ('decoder feed-forward', 2))
    assert read.counts == ((('1', '1', '11', '11', '11'), 2), (('1', '0', '11', '10', '11'), 1))
    assert {name: count for name, count in read.choices.items() if count} == {'none': 2, 'last 30%': 1}
    assert read.cut == (CutSource('1', (' a', ' b', '</s>'), frozenset({1}), 'last 30%', 'a b'),)


def test_attentions_that_go_together_are_one_and_a_decoder_alone_has_no_other(written):
    together = dataclasses.replace(PLAN, cross_attention=ALL)
    assert [name for name, _ in written(together).sub_layers][2:] == ['decoder attention', 'decoder feed-forward']
    alone = written(SequencePlan(FIRST, [], NONE, [], []), SequencePlan(ALL, [], NONE, [], []))
    assert alone.sub_layers == (('decoder attention', 2), ('decoder feed-forward', 2)) and alone.choices == {}
    assert plans.skip_rates(alone) == {'decoder attention': [0.0, 0.5], 'decoder feed-forward': [1.0, 1.0]}
    (panel,) = plans.panels([alone])
    assert panel.table.rows == (('1', '0%', '100%'), ('2', '50%', '100%'))


@pytest.mark.parametrize(
    'change, message',
    (
        ({'self_attention': '12'}, r"line 2\.plan\.self_attention is '12': expected a 0 or a 1 for each layer"),
        ({'self_attention': '110'}, 'line 2.plan is of other layers than those before it'),
        ({'dropped': [3]}, r'line 2\.plan\.dropped\[0\] is 3: .* from 0 to 2'),
    ),
)
def test_a_plan_that_is_none_is_named_with_its_line(some, change, message):
    folder, plan = some('planned.jsonl'), record(0, types.SimpleNamespace(**{**vars(OUTPUT), 'plan': PLAN}))
    lines = plan, {**plan, 'plan': {**plan['plan'], **change}}
    (folder / 'planned.jsonl').write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
    with pytest.raises(ValueError, match=rf'planned\.jsonl: {message}'):
        reader.read(folder)


def test_what_a_calibration_keeps_and_what_holds_no_plans_is_not_drawn(some):
    folder = some('planned.jsonl', 'metrics.jsonl')
    assert len(reader.read(folder).plans) == 1
    lines = [json.loads(line) for line in (folder / 'planned.jsonl').read_text().splitlines()]
    before = (folder / 'planned.jsonl').read_text()
    (folder / 'planned.jsonl').write_text(''.join(f'{json.dumps({**line, "plan": None})}\n' for line in lines))
    assert reader.read(folder).plans == []
    (folder / 'planned.jsonl').write_text(before)
    (folder / 'records.json').write_text('{}')
    assert reader.read(folder).plans == []


def test_like_plans_are_neighbours_and_those_that_run_more_come_first():
    rng = np.random.default_rng(0)
    families = [np.array([group, *(group ^ (np.arange(24) == bit) for bit in rng.choice(24, 4, replace=False))]) for group in (
        np.ones(24, bool), np.arange(24) % 2 == 0, np.arange(24) < 3
    )]  # fmt: skip
    runs, of = np.concatenate(families), np.repeat(np.arange(3), 5)
    mixed = rng.permutation(15)
    order = plans.by_likeness(runs[mixed])
    assert sorted(order) == list(range(15))
    assert [family for family, _ in itertools.groupby(of[mixed][order])] == [0, 1, 2]


def test_as_much_is_filled_as_runs():
    rng = np.random.default_rng(1)
    shares, heights = rng.integers(0, 21, (5, 4)) / 20, [1, 3, 2, 5, 1]
    _, (axes,) = cells.draw([cells.Block('some kind', shares)], heights, 3)
    grey, *filled = [patch for patch in axes.patches if isinstance(patch, PathPatch)]

    def area(patch):
        corners = patch.get_path().vertices.reshape(-1, 5, 2)
        return sum(np.ptp(each[:, 0]) * np.ptp(each[:, 1]) for each in corners)

    column = area(grey) / 4 / sum(heights)
    np.testing.assert_allclose(
        sum(each.get_alpha() * area(each) for each in filled), column * (np.array(heights) @ shares).sum()
    )


def test_more_plans_than_are_drawn_are_thinned_and_said(written):
    many = [SequencePlan([bit == '1' for bit in f'{number:09b}'], [], [True] * 9, [], []) for number in range(plans.MOST + 20)]
    (panel,) = plans.panels([written(*many)])
    assert panel.notes[0] == '320 texts, 320 different plans, of which 300 are drawn.'
    figure = panel.drawings[1].draw()
    assert figure.axes[0].get_ylim() == (300, 0)


def test_a_source_is_printed_whole_with_what_was_dropped_struck(some, parse, undrawn):
    text, _ = page.compose(reader.read(some('planned.jsonl')))
    articles = parse(text).by_id('plans').all('article', 'example')
    assert [each.all('dt')[0].text() for each in articles] == [
        'Text b 8 of 9 tokens kept, last 20% dropped',
        'Text c 6 of 9 tokens kept, evenly 33% dropped',
    ]
    for article, dropped in zip(articles, (['.'], ['the', 'were', 'again'])):
        assert article.all('p')[0].text() == 'Trains to the coast were late again.</s>'
        assert [each.text() for each in article.all('del')] == dropped
        assert article.all('p')[1].text() == 'Late trains <again>'


@pytest.mark.parametrize('period', (1, 3, 10**6))
def test_of_a_long_source_it_is_said_how_much_is_left_out(period):
    pieces = tuple(f' {at}' for at in range(3000))
    dropped = frozenset(range(2000, 3000)) if period > 3000 else frozenset(range(0, 3000, period + 1))
    stretches = printed(CutSource('x', pieces, dropped, None, '')).stretches
    words = [each.text.split() for each in stretches]
    left_out = sum(int(each[1].replace(',', '')) for each, stretch in zip(words, stretches) if stretch.kind == 'between')
    shown = [int(word) for each, stretch in zip(words, stretches) if stretch.kind != 'between' for word in each]
    assert len(shown) < 500 and len(shown) + left_out == 3000
    for stretch, each in zip(stretches, words):
        if stretch.kind != 'between':
            assert {int(word) in dropped for word in each} == {stretch.kind == 'dropped'}
