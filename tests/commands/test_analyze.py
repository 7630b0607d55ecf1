"""`calm analyze`: sensitivity, ranks, confidence, similarity."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.analysis.confidences import layer_confidences
from calm_jax.analysis.forcing import teacher_forced
from calm_jax.checkpoints import native
from calm_jax.cli import main
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.depth.confidence import SoftmaxMax
from calm_jax.depth.contrast import WeightedContrast
from calm_jax.depth.plans import PlanMaker, full
from calm_jax.model import load
from calm_jax.models.transformer import Transformer
from calm_jax.pytrees import pytree
from tests.parameters import random_params


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
                '16',
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
    call = jax.jit(lambda source, mask, tokens: layer_logits(model, source, mask, tokens))
    found = []
    for output, text in zip(model.generate(texts), texts):
        source = np.array([[*model.tokenizer.encode(text)[:15], model.config.eos_id]])
        mask = np.arange(16)[None] < source.shape[1]
        source = np.pad(source, ((0, 0), (0, 16 - source.shape[1])))
        for count in range(len(output.tokens)):
            prefix = np.zeros((1, 8), np.int32)
            prefix[0, 1 : count + 1] = output.tokens[:count]
            found.append(np.asarray(call(source, mask, prefix)[:, 0, count]))
    return found


def layer_logits(model, source, mask, tokens):
    call = lambda *args, method: Transformer(model.config).apply({'params': model.params}, *args, method=method)  # noqa: E731
    states = call(call(source, mask, method='encode'), mask, tokens, method='decode')
    return jnp.stack([call(state, method='unembed') for state in states])


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
        '16',
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
    assert (
        source['checkpoint'] == checkpoint
        and source['seed'] == 0
        and source['settings']['limits'] == {'max_source_length': 16, 'max_new_tokens': 8}
    )
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
    code, found = analyze(
        'confidence', '--measure', 'softmax_max', '--vocabulary', 'fixed', '--keep', '2', '--partition', 'full'
    )
    assert code == 0 and found['measure'] == 'softmax_max, fixed vocabulary of 2 (partition full)'
    probabilities = [np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) for logits in by_definition]
    np.testing.assert_allclose(found['confidence'][0], np.mean([each[0].max() for each in probabilities]), rtol=1e-4)
    np.testing.assert_allclose(found['confidence'][2], np.mean([each[2].max() for each in probabilities]), rtol=1e-4)
    kept = [np.argsort(-each[0])[:2] for each in by_definition]
    said = [ids[np.argmax(each[1][ids])] for ids, each in zip(kept, by_definition)]
    own, last = ([np.argmax(each[layer]) for each in by_definition] for layer in (1, 2))
    np.testing.assert_allclose(found['unlike_head'], [0, np.mean(np.array(said) != own), 0])
    np.testing.assert_allclose(found['accuracy'][1], np.mean(np.array(said) == last))
    assert found['unlike_head'][1] > 0 and 'unlike_scores' not in found


@pytest.mark.parametrize('list_of', [40, 259])
def test_a_list_of_ids_stands_beside_all_ids_by_how_well_it_ranks(
    analyze, by_definition, checkpoint, data, tmp_path, capsys, list_of
):
    # The ids that the texts, which are not asked about, hold most often, and others behind them.
    ids = np.random.default_rng(2).permutation(259).astype(np.int32)
    before = native.load(checkpoint)
    native.save(tmp_path / 'model', *before._replace(heads={'frequent_ids': {'ids': ids}}))
    flags = ['--checkpoint', str(tmp_path / 'model'), '--measure', 'softmax_gap', '--vocabulary', f'frequent:{list_of}']
    code, found = analyze('confidence', *flags)
    assert code == 0 and found['measure'] == f'softmax_gap, frequent vocabulary of {list_of}'
    assert found['unlike_head'] == [0, 0, 0] and 'unlike_scores' not in found

    def gaps(layer, ids):
        probabilities = [np.sort(np.exp(logits[layer][ids]) / np.exp(logits[layer][ids]).sum()) for logits in by_definition]
        return np.array([each[-1] - each[-2] for each in probabilities])

    for layer in (0, 1):
        right = np.array([np.argmax(logits[layer]) == np.argmax(logits[2]) for logits in by_definition])
        listed, whole = gaps(layer, ids[:list_of]), gaps(layer, np.arange(259))
        np.testing.assert_allclose(found['confidence'][layer], listed.mean(), rtol=1e-4)
        for name, confidence in (('auc', listed), ('auc_whole', whole)):
            pairs = np.sign(np.round(confidence[right][:, None] - confidence[~right], 6)) / 2 + 0.5
            assert pairs.size
            np.testing.assert_allclose(found[name][layer], pairs.mean(), atol=0.01)
        ranks = [np.argsort(np.argsort(each)) for each in (listed, whole)]
        np.testing.assert_allclose(found['rank_correlation'][layer], np.corrcoef(*ranks)[0, 1], atol=0.01)
    assert found['auc'][2] is found['auc_whole'][2] is None  # the last layer is right of itself
    if list_of == 259:
        np.testing.assert_allclose(found['auc'][:2], found['auc_whole'][:2], atol=1e-3)
        np.testing.assert_allclose(found['rank_correlation'], 1, atol=1e-3)
    else:
        assert max(found['rank_correlation']) < 0.999
    printed = capsys.readouterr().out.splitlines()
    assert f'right above wrong in {found["auc"][0]:.3f} of pairs ({found["auc_whole"][0]:.3f} over all ids' in printed[0]
    assert 'right above wrong' not in printed[2]


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


def test_confidences_are_of_the_texts_that_the_model_generates_by_its_own_defaults(checkpoint, data):
    """A checkpoint with rules is looked at under them: its outputs are those that a calibration decodes."""
    model = dataclasses.replace(load(checkpoint), generation={'rules': {'min_new_tokens': 6}, 'limits': {'max_new_tokens': 8}})
    texts = [json.loads(line)['en'] for line in open(data)][:5]
    forced = teacher_forced(model, texts, model.decoding.full(), batch_size=4)
    assert [batch.present.shape for batch in forced] == [(4, 8), (1, 8)] and all(each.plan is None for each in forced)
    said = sorted(row[there].tolist() for batch in forced for row, there in zip(batch.tokens, batch.present))
    assert said == sorted(output.tokens for output in model.generate(texts)) and min(map(len, said)) >= 6


@pytest.mark.parametrize('family', ['encoder', 'decoder-only'])
def test_the_last_layers_prediction_is_the_token_that_was_said_within_a_plan(checkpoint, data, family):
    model = load(checkpoint)
    if family == 'decoder-only':
        config = dataclasses.replace(model.config, num_encoder_layers=0, pad_id=-1, positions='rotary', max_positions=64)
        model = dataclasses.replace(model, config=config, params=random_params(config, 3), generation={})
    texts = [json.loads(line)['en'] for line in open(data)][:6]
    limits = Limits(max_source_length=16, max_new_tokens=8)
    whole, within = (model.resolve(Decoding(limits=limits, plan=plan)) for plan in (None, ByExample()))
    seen = layer_confidences(model, texts, SoftmaxMax(), within, batch_size=4)
    [batch, last] = teacher_forced(model, texts, within, 4)
    said = np.concatenate([each.tokens[each.present] for each in (batch, last)])
    np.testing.assert_array_equal(seen.likeliest[-1], said)
    ran = np.concatenate([np.repeat(each.plan.feed_forward, each.present.sum(axis=1), axis=0) for each in (batch, last)])
    np.testing.assert_array_equal(seen.leaves, [ran[:, 0], ran[:, 1], np.zeros(len(said), bool)])
    assert ran[:, 1].any() and not ran[:, 1].all()
    assert seen.likeliest.tolist() != layer_confidences(model, texts, SoftmaxMax(), whole, batch_size=4).likeliest.tolist()


@pytree
class ByExample(PlanMaker):
    """The middle layer for some texts."""

    def __call__(self, context):
        everything = full(context.example_ids.shape[0], context.sizes)
        middle = jnp.arange(context.sizes.layers) == 1
        runs = ~middle | (context.example_ids % 3 == 0)[:, None]
        return everything._replace(self_attention=runs, cross_attention=runs, feed_forward=runs)


def test_similarity_sets_methods_and_costs_beside_the_full_model(analyze, capsys, checkpoint, data, tmp_path):
    flags = ('--costs', '3,2', '--method', 'layers:2', '--method', 'exit', '--method', 'random_all', '--label', 'tiny')
    code, found = analyze('similarity', *flags)
    assert code == 0 and found['analysis'] == 'similarity' and found['label'] == 'tiny' and found['prompt'] == 'all layers'
    assert found['layers'] == 3 and found['texts'] == 9 and found['tokens'] > 9
    costs = {method['method']: [point['cost'] for point in method['points']] for method in found['methods']}
    assert costs == {'layers:2': [1], 'exit': [2, 3], 'random_all': [2, 3]}
    by_cost = {point['cost']: point for point in found['methods'][1]['points']}
    assert by_cost[2]['final']['mean'] < 0.99 and by_cost[2]['final'] == by_cost[2]['by_layer'][-1]
    # An early exit has the full model's states as far as it goes, and keeps the last of them.
    np.testing.assert_allclose([by_cost[2]['by_layer'][layer]['mean'] for layer in (0, 1)], 1, atol=1e-6)
    np.testing.assert_allclose(by_cost[3]['final']['mean'], 1, atol=1e-6)
    printed = capsys.readouterr().out.splitlines()
    final = by_cost[2]['final']
    assert printed[0].startswith('1 of 3 layers: cosine of the final state layers:2 0.')
    assert f'exit {final["mean"]:.3f} ± {final["margin"]:.3f}, random_all ' in printed[2] and len(printed) == 6
    assert found['provenance']['seed'] == 0 and '--method random_all' in found['provenance']['command']
    drawn = [point['final']['mean'] for point in found['methods'][2]['points']]
    code, again = analyze('similarity', *flags, '--seed', '1')
    assert code == 0 and again['provenance']['seed'] == 1 and again['methods'][:2] == found['methods'][:2]
    assert [point['final']['mean'] for point in again['methods'][2]['points']][0] != drawn[0]


@pytest.mark.parametrize(
    'name, flags, message',
    [
        ('similarity', ('--costs', '0,2'), '--costs: 0 is outside 1…3'),
        ('similarity', ('--costs', '4'), '--costs: 4 is outside 1…3'),
        ('similarity', ('--costs', 'half'), "--costs 'half': expected whole numbers"),
        (
            'similarity',
            ('--method', 'unifrom'),
            "unknown --method 'unifrom'; expected one of exit, uniform, random, random_all",
        ),
        ('similarity', ('--method', 'exit', '--method', 'exit'), '--method exit is given twice'),
        ('similarity', ('--method', 'layers:1,4'), 'expected decoder layers from 1 to 3, each once'),
        ('similarity', ('--method', 'layers:'), 'expected decoder layers from 1 to 3, each once'),
        ('similarity', ('--method', 'layers:1', '--costs', '2'), '--costs changes nothing'),
        ('similarity', ('--method', 'exit', '--seed', '2'), '--seed changes nothing'),
        ('similarity', ('--plan_prompt', 'plan'), '--plan_prompt plan changes nothing'),
        ('similarity', ('--seed', '-1'), 'seed is -1'),
        ('ranks', ('--chat',), 'has no chat template'),
        ('confidence', (), '--measure is missing'),
        ('confidence', ('--measure', 'state', '--vocabulary', 'fixed'), '--vocabulary belongs to'),
        ('confidence', ('--measure', 'softmax_gap', '--keep', '3'), '--keep belongs to'),
        ('confidence', ('--measure', 'softmax_gap', '--vocabulary', 'fixed', '--keep', '999'), 'the vocabulary has 259'),
        ('confidence', ('--measure', 'softmax_gap', '--vocabulary', 'fixed', '--min_exit_layer', '4'), 'min_exit_layer is 4'),
        (
            'confidence',
            ('--measure', 'softmax_gap', '--alpha', '0.2'),
            '--alpha belongs to weighted_contrast, divergent_contrast; --measure is softmax_gap',
        ),
        ('confidence', ('--measure', 'weighted_contrast', '--alpha', '2'), 'alpha is 2'),
        (
            'confidence',
            ('--measure', 'softmax_gap', '--vocabulary', 'decaying', '--keep_first', '3', '--keep_least', '4'),
            'at least 4 of 3 ids',
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(analyze, capsys, name, flags, message):
    assert analyze(name, *flags) == (2, None)
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
