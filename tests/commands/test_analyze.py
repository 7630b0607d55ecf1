"""`calm analyze`: sensitivity, ranks, confidence."""

import json

import jax
import numpy as np
import pytest

from calm_jax.cli import main
from calm_jax.depth.contrast import WeightedContrast
from calm_jax.model import load
from calm_jax.models.transformer import Transformer


@pytest.fixture
def analyze(checkpoint, data, tmp_path):
    """Runs one analysis on nine texts; gives its exit code and what it wrote."""

    def run(name, *flags):
        output = tmp_path / f'{name}.json'
        code = main(
            [
                'analyze',
                name,
                '--checkpoint',
                checkpoint,
                '--data',
                data,
                '--source_field',
                'en',
                '--examples',
                '9',
                '--batch_size',
                '8',
                '--output',
                str(output),
                '--overwrite',
                *flags,
            ]
        )
        return code, json.loads(output.read_text()) if output.exists() else None

    return run


@pytest.fixture
def by_definition(checkpoint, data):
    """(logits [L, V] of every layer after each prefix of the full model's outputs), a call a prefix."""
    model = load(checkpoint)
    texts = [json.loads(line)['en'] for line in open(data)][:9]
    call = jax.jit(lambda source, tokens: layer_logits(model, source, tokens))
    found = []
    for output, text in zip(model.generate(texts), texts):
        source = np.array([[*model.tokenizer.encode(text)[:15], model.config.eos_id]])
        source = np.pad(source, ((0, 0), (0, 16 - source.shape[1])))
        for count in range(len(output.tokens)):
            prefix = np.zeros((1, 8), np.int32)
            prefix[0, 1 : count + 1] = output.tokens[:count]
            found.append(np.asarray(call(source, prefix)[:, 0, count]))
    return found


def layer_logits(model, source, tokens):
    call = lambda *args, method: Transformer(model.config).apply({'params': model.params}, *args, method=method)  # noqa: E731
    states = call(call(source, method='encode'), call(source, method='source_mask'), tokens, method='decode')
    return jax.numpy.stack([call(state, method='unembed') for state in states])


def test_sensitivity_scores_what_a_wrong_token_costs(checkpoint, data, tmp_path, capsys, bars):
    output = tmp_path / 'new' / 'folder' / 'sensitivity.json'
    flags = [
        'analyze',
        'sensitivity',
        '--checkpoint',
        checkpoint,
        '--data',
        data,
        '--source_field',
        'en',
        '--metric',
        'chrf',
        '--examples',
        '9',
        '--batch_size',
        '8',
        '--output',
        str(output),
    ]
    assert main([*flags, '--positions', '0,6', '--quiet']) == 0
    found = json.loads(output.read_text())
    assert found['positions'] == [0, 6] and found['metric'] == 'chrf' and found['examples'][0] == 9
    # The last token spoils less than the first.
    assert found['sampling'][0] < found['sampling'][1] < 1
    assert bars == [('decoding', True), ('perturbing', True)]
    source = found['provenance']
    assert source['checkpoint'] == checkpoint and source['seed'] == 0 and source['settings']['max_new_tokens'] == 8
    assert source['data']['name'] == 'in.jsonl' and source['data']['examples'] == 9 and source['fingerprints']['parameters']
    assert source['command'].startswith('calm analyze sensitivity --checkpoint ') and '--positions 0,6' in source['command']
    assert main(flags) == 2 and '--overwrite' in capsys.readouterr().err
    assert main([*flags, '--overwrite', '--positions', '0,8']) == 2 and '0…7' in capsys.readouterr().err
    for wrong, said in ((tmp_path, 'is a folder'), (output / 'x.json', 'is a file')):
        assert main([*flags, '--overwrite', '--output', str(wrong), '--checkpoint', 'never read']) == 2
        assert said in capsys.readouterr().err


def test_ranks_are_places_in_the_sorted_logits(analyze, by_definition, capsys):
    code, found = analyze('ranks', '--label', 'tiny')
    assert code == 0 and 'layer 3: the final token is first for 100.0% of' in capsys.readouterr().out
    ranks = np.array(
        [
            [1 + np.flatnonzero(np.argsort(-layer, kind='stable') == np.argmax(logits[-1]))[0] for layer in logits]
            for logits in by_definition
        ]
    ).T
    assert found['tokens'] == ranks.shape[1] and found['label'] == 'tiny' and found['vocabulary'] == 259
    np.testing.assert_allclose(found['first'], (ranks == 1).mean(axis=1))
    np.testing.assert_allclose(found['quantiles'], np.quantile(ranks, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1).T)


def test_confidence_stands_beside_accuracy_and_what_pruning_changes(analyze, by_definition):
    code, found = analyze('confidence', '--measure', 'softmax_max', '--pruning', 'fixed', '--keep', '2', '--partition', 'full')
    assert code == 0 and found['measure'] == 'softmax_max, fixed pruning, 2 ids'
    probabilities = [np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) for logits in by_definition]
    np.testing.assert_allclose(found['confidence'][0], np.mean([each[0].max() for each in probabilities]), rtol=1e-4)
    np.testing.assert_allclose(found['confidence'][2], np.mean([each[2].max() for each in probabilities]), rtol=1e-4)
    kept = [np.argsort(-each[0])[:2] for each in by_definition]
    said = [ids[np.argmax(each[1][ids])] for ids, each in zip(kept, by_definition)]
    own, last = ([np.argmax(each[layer]) for each in by_definition] for layer in (1, 2))
    np.testing.assert_allclose(found['unlike_head'], [0, np.mean(np.array(said) != own), 0])
    np.testing.assert_allclose(found['accuracy'][1], np.mean(np.array(said) == last))
    assert found['unlike_head'][1] > 0 and 'unlike_scores' not in found


def test_a_contrast_says_how_often_its_scores_prefer_another_token(analyze, by_definition):
    code, found = analyze('confidence', '--measure', 'weighted_contrast', '--alpha', '0.9')
    assert code == 0 and found['unlike_head'] == [0, 0, 0]
    unlike = []
    for logits in by_definition:
        expert, amateur = (np.exp(logits[layer]) / np.exp(logits[layer]).sum() for layer in (1, 0))
        likely = expert >= 0.9 * expert.max()
        ratio = np.where(likely, expert / amateur, 0)
        scores = np.where(likely, ratio / ratio.sum() * expert[likely].sum(), expert)
        unlike.append(np.argmax(scores) != np.argmax(expert))
    np.testing.assert_allclose(found['unlike_scores'][:2], [0, np.mean(unlike)])
    assert 0 < np.mean(unlike) < 1 and WeightedContrast(alpha=0.9).amateurs(1) == [0]


@pytest.mark.parametrize(
    'name, flags, message',
    [
        ('confidence', (), '--measure is missing'),
        ('confidence', ('--measure', 'state', '--pruning', 'fixed'), 'looks at no vocabulary'),
        ('confidence', ('--measure', 'softmax_gap', '--keep', '3'), '--keep changes nothing without --pruning'),
        ('confidence', ('--measure', 'softmax_gap', '--pruning', 'fixed', '--keep', '999'), 'the vocabulary has 259'),
        ('confidence', ('--measure', 'softmax_gap', '--pruning', 'fixed', '--min_exit_layer', '4'), 'min_exit_layer is 4'),
        ('confidence', ('--measure', 'softmax_gap', '--alpha', '0.2'), '--alpha changes nothing without a contrast'),
        ('confidence', ('--measure', 'weighted_contrast', '--alpha', '2'), 'alpha is 2'),
        ('confidence', ('--measure', 'softmax_gap', '--pruning', 'decaying', '--keep', '3', '--keep_least', '4'), 'k* = 4 of'),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(analyze, capsys, name, flags, message):
    assert analyze(name, *flags) == (2, None)
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
