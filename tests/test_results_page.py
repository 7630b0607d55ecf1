"""The page of results says what the files of a run hold."""

import itertools
import json
import pathlib
import sys

import pytest

from calm_jax.formats import stamp

SCRIPTS = pathlib.Path(__file__).parents[1] / 'scripts'
COMBINATIONS = [['softmax_gap', 'none'], ['softmax_gap', 'fixed'], ['state', 'none']]


@pytest.fixture
def section(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import vocabulary_section

    yield vocabulary_section.section
    for name in ('vocabulary_section', 'page'):
        sys.modules.pop(name)


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.syspath_prepend(str(SCRIPTS / 'benchmarks'))
    import results_page

    yield results_page
    for name in ('results_page', 'vocabulary_section', 'page', 'tables'):
        sys.modules.pop(name, None)


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def run(directory, speed_up):
    """The files of a run in which a combination, tuned at batch 1 and 32, has these speed-ups, and certified twice those."""
    full = {'batch_size': 1, 'setting': 'full depth', 'seconds': 10.0, 'speed_up': None}
    for stage, factor in (('tuned', 1), ('certified', 2)):
        rows = [{**full, 'batch_size': size} for size in (1, 32)]
        for (name, tolerance), size in itertools.product(itertools.product(COMBINATIONS, (0.05, 0.02)), (1, 32)):
            path = directory / stage / '_'.join(name) / f'certificate_{tolerance}.json'
            write(path, {**stamp('certificate'), 'threshold': 0.625, 'grid': [{'rejected': True}]})
            ratio = factor * speed_up['_'.join(name)][size]
            rows.append(
                {
                    'batch_size': size,
                    'setting': f'certificate {path}',
                    'seconds': 10 / ratio,
                    'speed_up': ratio,
                    'speed_up_least': ratio - 0.1,
                    'speed_up_greatest': ratio + 0.1,
                }
            )
            write(
                directory / 'test' / stage / '_'.join([*name, str(tolerance)]) / 'results.json',
                {'rows': [{'layers': 3.0, 'flops': 50.0, 'bleu': 31.0, 'chrf': 0.5}]},
            )
        write(directory / stage / 'time.json', {'rows': rows, 'provenance': {'data': {'examples': 100}}})
    write(directory / 'test' / 'full' / 'results.json', {'rows': [{'layers': 6.0, 'flops': 100.0, 'bleu': 32.0, 'chrf': 0.6}]})
    write(directory / 'unlike' / 'softmax_gap_fixed.json', {'measure': 'softmax_gap, fixed', 'unlike_head': [0.0, 0.25]})
    return {
        'machine': 'M',
        'date': 'D',
        'metric': 'chrf',
        'report': 'bleu',
        'keep': 256,
        'tuned': 0.02,
        'timed': 100,
        'epsilon': 0.05,
        'combinations': COMBINATIONS,
        'certified': COMBINATIONS,
        'chosen': COMBINATIONS[1],
        'tolerances': [0.05, 0.02],
        'commands': {'a': 'calm demo'},
    }


def test_a_gain_is_recommended_and_a_loss_is_not(section, tmp_path):
    speed_up = {
        'softmax_gap_none': {1: 1.5, 32: 0.6},
        'softmax_gap_fixed': {1: 2.0, 32: 0.75},
        'state_none': {1: 1.25, 32: 0.8},
    }
    text = section(tmp_path, run(tmp_path, speed_up), [pathlib.Path('figures/x/ranks.png')], ['calm train'])
    assert 'at batch 1 **`softmax_gap` with fixed pruning** is the fastest (×2.00)' in text
    assert 'at batch 32 none is faster than full depth, `state` comes closest (×0.80)' in text
    assert 'δ = 0.05: ×4.00 at batch 1, ×1.50 at 32' in text and '`state` at δ = 0.05, batch 32 (×1.60)' in text
    # 100 examples; half the FLOPs; a quarter of layer 2's tokens.
    assert (
        '| softmax_gap | fixed | 0.625 | 3 | ×2.00 | 5.00 | 20.0 | ×2.00 (1.90–2.10) | 13.33 | 7.5 | ×0.75 (0.65–0.85) | '
        '31 | 0.5 |'
    ) in text
    assert '| softmax_gap, fixed | whole head | 0.00% | 25.00% |' in text
    assert 'Right from wrong' not in text  # of no analysis that says so
    assert 'calm train\ncalm demo' in text and '![ranks](figures/x/ranks.png)' in text


def test_a_list_stands_beside_all_ids_by_how_well_it_ranks(section, tmp_path):
    facts = {**run(tmp_path, {'_'.join(each): {1: 1.0, 32: 1.0} for each in COMBINATIONS}), 'frequent': 512}
    ranking = {'auc': [0.75, None], 'auc_whole': [0.875, None], 'rank_correlation': [0.9375, 1.0]}
    measure = 'softmax_gap, frequent vocabulary of 512'
    write(tmp_path / 'unlike' / 'softmax_gap_frequent.json', {'measure': measure, 'unlike_head': [0.0, 0.0], **ranking})
    text = section(tmp_path, facts, [], [])
    assert 'The list of frequent ids has 512.' in text
    for words in ('its ids | 0.750 | –', 'all ids | 0.875 | –', 'correlation | 0.938 | 1.000'):
        assert f'| {measure} | {words} |' in text


def test_where_nothing_was_certified_the_table_says_full_depth(section, tmp_path):
    speed_up = {'_'.join(each): {1: 1.0, 32: 1.0} for each in COMBINATIONS}
    facts = run(tmp_path, speed_up)
    path = tmp_path / 'tuned' / 'state_none' / 'certificate_0.02.json'
    write(path, {**stamp('certificate'), 'threshold': None, 'grid': [{'rejected': False}]})
    text = section(tmp_path, facts, [], [])
    assert '| state | none | full depth | 3 |' in text and text.count('full depth | 3 |') == 1


def test_a_certificate_of_0_1_0_is_refused(section, tmp_path):
    facts = run(tmp_path, {'_'.join(each): {1: 1.0, 32: 1.0} for each in COMBINATIONS})
    write(tmp_path / 'tuned' / 'state_none' / 'certificate_0.02.json', {'format': 'calm_jax certificate 1', 'threshold': 1.0})
    with pytest.raises(ValueError, match='written by calm_jax 0.1.0, .*: calibrate again'):
        section(tmp_path, facts, [], [])


def test_the_certified_point_of_a_curve_is_found_by_its_decoding(page):
    full, exit = {'limits': {'max_new_tokens': 8}}, {'exit': {'threshold': 0.5}}
    planned = {**exit, 'plan': {'class': 'uniform'}}
    points = [{'decoding': each, 'threshold': 0.5, 'layers': i} for i, each in enumerate((exit, planned))]
    curve = {'points': points, 'full': {'decoding': full, 'layers': 8}}
    layers = [page.point_of('curve.json', curve, {'decoding': each})['layers'] for each in (exit, planned, full)]
    assert layers == [0, 1, 8]
    with pytest.raises(ValueError, match='curve.json: no point is decoded as was certified'):
        page.point_of('curve.json', curve, {'decoding': {}})


def test_engines_on_real_texts_are_compared_round_by_round_and_an_absent_one_says_why(page):
    def row(engine, seconds, **more):
        compiled = {'first_seconds': 9.0}
        return {'engine': engine, 'batch_size': 8, 'compiled': compiled, 'count': 120, 'rounds': seconds, **more}

    rows = [
        row('calm_jax', [{'seconds': each} for each in (1.0, 2.0, 4.0)], texts_equal=1.0),
        row('other', [{'seconds': each} for each in (3.0, 4.0, 2.0)], texts_equal=0.75),
    ]
    result = {
        'title': 'T',
        'texts': 4,
        'settings': {'repeats': 3},
        'engines': {'calm_jax': {'versions': {'jax': '1'}}},
        'rows': rows,
        'left_out': [{'engine': 'third', 'batch_size': None, 'why': 'no compiler'}],
        'provenance': {'command': 'c', 'machine': 'm', 'date': 'd', 'python': '3'},
    }
    text = page.markdown(result)
    assert '| 8 | calm_jax | 2.00 (1.00–4.00) | 120 | 60 (30–120) | 9.0 |  | 100.0% |' in text
    # Of 3 ÷ 1, 4 ÷ 2 and 2 ÷ 4 the median; of the medians it would be 1.5.
    assert '| 8 | other | 3.00 (2.00–4.00) | 120 | 40 (30–60) | 9.0 | 2.00 (0.50–3.00)× | 75.0% |' in text
    assert text.startswith('### T\n') and 'third was left out: no compiler' in text and 'jax 1' in text
