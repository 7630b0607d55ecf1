"""`calm analyze oracle`: from decoded files to oracle.json, without a model."""

import json

import numpy as np
import pytest

from calm_jax import prediction_sets
from calm_jax.analysis.oracle import study
from calm_jax.cli import main
from calm_jax.data.decoded import header_path
from calm_jax.metrics.quality import rougeL

TEXTS = {
    'full': ['a b c d', 'e f g', 'h i j', 'k l m', 'n o p q'],
    'half': ['a b c', 'e f g', 'h x j', 'y', 'n o p'],
    'quarter': ['a b', 'e f g', 'x', 'k l m', 'z'],
}
LAYERS = {'full': 8, 'half': 4, 'quarter': 2}


@pytest.fixture
def folder(tmp_path):
    """Outputs of three plans for five inputs, and their references."""
    references = [{'fr': text, 'more': f'{text} {text}'} for text in TEXTS['full'][:3] + ['k l', 'n o p q']]
    (tmp_path / 'ref.jsonl').write_text(''.join(f'{json.dumps(each)}\n' for each in references))
    for name in TEXTS:
        write(tmp_path / f'{name}.jsonl', name)
    return tmp_path


def write(path, name, texts=None, layers=None, header=None, ids=None):
    texts = TEXTS[name] if texts is None else texts
    lines = []
    for row, text in enumerate(texts):
        tokens = len(text.split()) + 1
        record = {'id': row if ids is None else ids[row], 'text': text, 'tokens': [5] * tokens}
        depth = LAYERS[name] if layers is None else layers
        lines.append({**record, 'layers': depth, 'exit_layers': [max(1, int(depth))] * tokens})
    path.write_text(''.join(f'{json.dumps(each)}\n' for each in lines))
    if header:
        header_path(path).write_text(json.dumps({'format': 'calm_jax records', 'version': 2, 'semantics': 2, **header}))


@pytest.fixture
def oracle(folder):
    """Runs the analysis; gives its exit code and what it wrote."""

    def run(*flags, plans=('full', 'quarter', 'half')):
        output = folder / 'new' / 'oracle.json'
        predictions = [flag for name in plans for flag in ('--predictions', f'{name}={folder / name}.jsonl')]
        references = ['--references', str(folder / 'ref.jsonl'), '--reference_field', 'fr']
        code = main(['analyze', 'oracle', *predictions, *references, '--output', str(output), '--overwrite', *flags])
        return code, json.loads(output.read_text()) if output.exists() else None

    return run


def test_scores_and_costs_of_records_are_what_the_study_is_of(oracle, folder, capsys):
    code, content = oracle('--budgets', '3.2', '--label', 'letters')
    assert code == 0 and content['label'] == 'letters' and content['num_layers'] == 8 and content['decodes'] == 1
    assert [plan['name'] for plan in content['plans']] == ['quarter', 'half', 'full']
    assert [plan['layers'] for plan in content['plans']] == [2, 4, 8]
    wanted = [[text] for text in TEXTS['full'][:3] + ['k l', 'n o p q']]
    scores = np.stack([rougeL(TEXTS[name], wanted) for name in ('quarter', 'half', 'full')], axis=1)
    np.testing.assert_allclose([plan['score'] for plan in content['plans']], scores.mean(axis=0))
    best = scores.max(axis=1).mean()
    assert content['by_layers']['oracle'][-1] == pytest.approx(best) and 3.2 in content['by_layers']['named']
    # Of equally good outputs the cheapest: the second and the fourth text go to the quarter.
    np.testing.assert_allclose(content['by_layers']['shares'][-1], [0.4, 0, 0.6])
    assert content['by_tokens']['plans'] == pytest.approx([2 * 3.0, 4 * 3.6, 8 * 4.4])
    assert content['provenance']['command'].startswith('calm analyze oracle --predictions full=')
    assert content['provenance']['versions']['rougeL'].startswith('rouge-score')
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ['layers', 'costliest', 'plan', 'mixing', 'greedy', 'oracle'] + [
        word for name in ('quarter', 'half', 'full') for word in (name, '%')
    ]
    assert f'the oracle scores what full does ({scores[:, 2].mean():.4f}) with' in printed and 'layers × tokens' in printed


def test_two_decodes_of_each_plan_have_an_attainable_oracle(oracle, folder):
    again = {'full': ['a b c d', 'e', 'h i j', 'k l', 'n'], 'half': ['a', 'e f', 'h x j', 'k', 'n o']}
    for name, texts in again.items():
        write(folder / f'{name}_2.jsonl', name, texts)
    second = [flag for name in again for flag in ('--predictions', f'{name}={folder / name}_2.jsonl')]
    code, content = oracle(*second, '--quiet', plans=('full', 'half'))
    assert code == 0 and content['decodes'] == 2
    assert max(content['by_layers']['attainable']) <= content['by_layers']['oracle'][-1]
    wanted = [[text] for text in TEXTS['full'][:3] + ['k l', 'n o p q']]
    scores = np.array([[rougeL(texts[name], wanted) for name in ('half', 'full')] for texts in (TEXTS, again)])
    chosen = [np.where(one[1] > one[0], 1, 0) for one in scores]  # at the largest budget, the cheaper of equals
    crossed = [np.where(chosen[0], scores[1][1], scores[1][0]), np.where(chosen[1], scores[0][1], scores[0][0])]
    assert content['by_layers']['attainable'][-1] == pytest.approx(np.mean(crossed))


def test_costs_that_are_given_take_the_place_of_those_recorded(oracle):
    code, content = oracle('--cost', 'half=5.5', '--num_layers', '12', '--quiet')
    assert code == 0 and [plan['layers'] for plan in content['plans']] == [2, 5.5, 8] and content['num_layers'] == 12


def test_lengths_are_of_the_costliest_plans_output_or_of_the_reference(folder):
    files = {name: [str(folder / f'{name}.jsonl')] for name in TEXTS}
    of = {
        lengths: prediction_sets.read(files, str(folder / 'ref.jsonl'), ['more', 'fr'], 'rougeL', lengths=lengths)
        for lengths in prediction_sets.LENGTHS
    }
    sets, depth = of['output']
    assert depth == 8 and sets.lengths.tolist() == [5, 4, 4, 4, 5] and sets.tokens.shape == sets.scores.shape == (1, 5, 3)
    assert of['reference'][0].lengths.tolist() == [8, 6, 6, 4, 8]
    assert study(sets, depth)['texts'] == 5


MISTAKES = {
    'one plan': (('full',), None, (), 'one plan leaves nothing to choose'),
    'fewer records': (('full', 'half'), {'texts': TEXTS['half'][:4]}, (), 'half.jsonl 4: expected outputs of the same inputs'),
    'other ids': (('full', 'half'), {'ids': [0, 1, 3, 2, 4]}, (), 'record 3 has id 2 in'),
    'other inputs': (('full', 'half'), {'header': {'input': 'b'}}, (), 'their headers differ in input'),
    'too deep': (('full', 'half'), None, ('--num_layers', '6'), 'full.jsonl: 8 layers; expected 1…6'),
    'too shallow': (('full', 'half'), {'layers': 0.6}, (), 'half.jsonl: 0.6 layers; expected 1…8'),
    'cost outside': (('full', 'half'), None, ('--cost', 'half=9'), '--cost half: 9 layers; expected 1…8'),
    'cost of nobody': (
        ('full', 'half'),
        None,
        ('--cost', 'halv=3'),
        '--cost halv: no predictions of that name; there are full, half',
    ),
    'cost is no number': (('full', 'half'), None, ('--cost', 'half=x'), "--cost 'half=x': expected NAME=LAYERS"),
    'no layers': (('full', 'half'), {'layers': 'many'}, (), 'do not all say their layers; pass --cost half=LAYERS'),
    'low budget': (('full', 'half'), None, ('--budgets', '3.5'), 'a budget of 3.5 is below 4'),
    'low budget of tokens': (('full', 'half'), None, ('--token_budgets', '2'), 'a budget of 2 is below'),
    'no name': (('full', 'half'), None, ('--predictions', 'x.jsonl'), "--predictions 'x.jsonl': expected NAME=FILE"),
    'two of one alone': (('full', 'half', 'half'), None, (), "not 1 of 'full' and 2 of 'half'"),
    'corpus metric': (('full', 'half'), None, ('--metric', 'bleu'), 'one number for a whole corpus'),
    'the same draws': (('full', 'full', 'half', 'half'), None, (), 'hold the same texts: two decodes of'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name, oracle, folder, capsys):
    plans, change, flags, message = MISTAKES[name]
    write(folder / 'full.jsonl', 'full', header={'input': 'a', 'source_field': 'en'})
    if change is not None:
        if change.get('layers') == 'many':
            (folder / 'half.jsonl').write_text(''.join(f'{json.dumps({"id": row, "text": "a"})}\n' for row in range(5)))
        else:
            write(folder / 'half.jsonl', 'half', **change)
    assert oracle(*flags, plans=plans) == (2, None)
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
