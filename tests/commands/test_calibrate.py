"""`calm calibrate`, as a user runs it, and what its certificate then allows."""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from calm_jax.decoding.settings import Settings

from calm_jax import calibration
from calm_jax.analysis import confidences
from calm_jax.cli import main
from calm_jax.commands import calibrate as command
from calm_jax.metrics import quality
from calm_jax.model import load
from calm_jax.reporting import reader
from calm_jax.sweep import Sweep
from calm_jax.types import Plan


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('calibrate')


@pytest.fixture(scope='module')
def calibrate(checkpoint, data, folder):
    """Runs the command; flags given later win."""

    def run(*flags, output='c.json', model=True):
        decoding = ['--checkpoint', checkpoint, '--source_field', 'en', '--batch_size', '8'] if model else []
        return main(
            [
                'calibrate',
                *decoding,
                '--data',
                data,
                '--metric',
                'chrf',
                '--tolerance',
                '0.7',
                '--output',
                str(folder / output),
                '--quiet',
                *flags,
            ]
        )

    return run


DECODING = ('--measure', 'classifier', '--grid', '.99,.9,.8,.6,.5')


@pytest.fixture(scope='module')
def certified(calibrate, folder):
    """A certificate, with the records it was made from."""
    assert calibrate(*DECODING, '--records', str(folder / 'records')) == 0
    return folder / 'c.json'


@pytest.fixture(scope='module')
def other_model(checkpoint, tmp_path_factory):
    """The model with one of its scales changed a little."""
    import calm_jax

    model = calm_jax.load(checkpoint)
    model.params['decoder']['decoder_norm']['scale'] = model.params['decoder']['decoder_norm']['scale'] * 1.001
    path = tmp_path_factory.mktemp('model') / 'other'
    model.save(path)
    return path


def rows(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def test_the_certificate_is_what_the_records_say(certified, folder):
    certificate = calibration.Certificate.load(certified)
    full = [row['text'] for row in rows(folder / 'records' / 'full.jsonl')]
    tested = [point for point in certificate.grid if point.p_value is not None]
    for point in tested:
        early = [row['text'] for row in rows(folder / 'records' / f'lambda_{point.threshold}.jsonl')]
        losses = [0.0 if a == b else 1 - quality.chrf([a], [[b]])[0] for a, b in zip(early, full)]
        assert point.mean_loss == pytest.approx(np.mean(losses))
        assert point.p_value == pytest.approx(float(calibration.betting(np.array(losses), 0.7)))
        assert point.rejected == (point.p_value <= 0.05)
    assert certificate.found and certificate.n == 70
    assert certificate.provenance['settings']['measure'] == 'classifier'
    # Nothing below the first failure was decoded.
    assert len(list((folder / 'records').glob('lambda_*.jsonl'))) == len(tested)


def test_the_same_comes_out_without_a_model(certified, calibrate, folder):
    again = ('--records', str(folder / 'records'), *DECODING[2:])
    assert calibrate(*again, output='again.json', model=False) == 0
    assert (folder / 'again.json').read_bytes() == certified.read_bytes()
    assert calibrate('--records', str(folder / 'records'), '--grid', '.99,.2', output='more.json', model=False) == 2


def test_the_curve_holds_every_setting_that_was_decoded(certified, folder):
    curve = json.loads((folder / 'records' / 'curve.json').read_text())
    assert curve['num_layers'] == 3 and curve['full']['layers'] == 3 and curve['label'] == 'classifier'
    assert len(curve['points']) > 1
    assert all(point['layers'] < 3 and point['flops'] < curve['full']['flops'] for point in curve['points'][1:])


def test_the_examples_are_the_records_token_by_token_and_the_report_colours_them(certified, calibrate, folder, tmp_path):
    records = copied(certified, folder, tmp_path)
    certificate = calibration.Certificate.load(certified)
    full, early = (rows(records / name) for name in ('full.jsonl', f'lambda_{certificate.threshold}.jsonl'))

    def content(*flags):
        """What examples.json holds after this calibration from the records."""
        (records / 'examples.json').unlink()
        assert (
            calibrate(
                '--records', str(records), *flags, '--overwrite', '--output', str(records / 'certificate.json'), model=False
            )
            == 0
        )
        return json.loads((records / 'examples.json').read_text())

    found = json.loads((records / 'examples.json').read_text())  # as it was written with the model
    assert found['num_layers'] == 3 and len(found['examples']) == 12
    for i, example in enumerate(found['examples']):
        assert example['reference'] is None
        assert {name: example['full'][name] for name in ('pieces', 'exit_layers')} == {
            name: full[i][name] for name in ('pieces', 'exit_layers')
        }
        [only] = example['early']
        assert only == {
            'label': 'classifier, δ = 0.7',
            **{name: early[i][name] for name in ('pieces', 'exit_layers', 'confidence')},
        }
    assert content() == found
    referenced = content('--target_field', 'fr')['examples']
    assert [each['reference'] for each in referenced[:4]] == ['a', 'bb', 'cat', 'horse']
    assert referenced[1]['input'] == 'horse a'
    run = reader.read(records)
    assert len(run.certificates) == 1 and len(run.examples[0].examples) == 12
    # Nothing certified: the full model alone.
    lowest = min(point.threshold for point in certificate.grid if point.p_value is not None)
    fallen = content('--grid', str(lowest), '--tolerance', '0.07', '--metric', 'accuracy')
    assert calibration.Certificate.load(records / 'certificate.json').threshold == 1
    assert all(each['early'] == [] and each['full']['pieces'] for each in fallen['examples'])
    assert reader.read(records).examples[0].examples[0].early == ()


def test_curve_and_trials_say_what_they_are_of(certified, calibrate, folder, tmp_path):
    records = copied(certified, folder, tmp_path)
    assert calibrate(*DECODING, '--records', str(records), output='said.json') == 0
    source = json.loads((records / 'curve.json').read_text())['provenance']
    assert source['command'].startswith('calm calibrate --checkpoint ') and ' --measure classifier' in source['command']
    assert source['settings']['measure'] == 'classifier' and source['settings']['max_new_tokens'] == 8
    assert source['data']['examples'] == 70 and source['seed'] == 0 and source['machine'] and source['date']
    assert source['fingerprints']['parameters'] == calibration.Certificate.load(certified).provenance['parameters']


def test_thresholds_that_differ_at_all_have_records_of_their_own(tmp_path):
    sweep = Sweep(tmp_path, None)
    names = [sweep.path(threshold).name for threshold in (0.95, 0.99999991, 0.99999992, np.float64(0.1), 1e-7, 0.0, 1.0)]
    assert names[0] == 'lambda_0.95.jsonl' and names[3] == 'lambda_0.1.jsonl' and names[-1] == 'full.jsonl'
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    'flags, message',
    [
        (('--batch_size', '8'), '--batch_size 8'),
        (('--dtype', 'float32'), '--dtype float32'),
        (('--source_field', 'fr'), '--source_field fr'),
        (('--gin.Settings.threshold=0.9',), 'Settings.threshold'),
        (('--trials', '5', '--groups', 'topic'), '--trials and --groups'),
        (('--trials', '5', '--joint', '2'), '--trials and --joint'),
    ],
)
def test_what_would_be_ignored_without_a_model_is_refused(certified, calibrate, folder, capsys, flags, message):
    assert calibrate('--records', str(folder / 'records'), *flags, output='ignored.json', model=False) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not (folder / 'ignored.json').exists()


def test_generate_decodes_with_the_certificates_threshold_and_refuses_what_it_does_not_cover(
    certified, checkpoint, data, tmp_path, capsys, folder
):
    base = [
        'generate',
        '--checkpoint',
        checkpoint,
        '--input',
        data,
        '--source_field',
        'en',
        '--certificate',
        str(certified),
        '--quiet',
    ]
    out = tmp_path / 'out.jsonl'
    assert main([*base, '--output', str(out), '--batch_size', '8']) == 0
    assert capsys.readouterr().err == ''
    threshold = calibration.Certificate.load(certified).threshold
    assert out.read_bytes() == (folder / 'records' / f'lambda_{threshold}.jsonl').read_bytes()
    assert main([*base, '--output', str(tmp_path / 'other.jsonl'), '--batch_size', '4']) == 0
    assert 'batch_size' in capsys.readouterr().err  # a warning
    assert main([*base, '--output', str(tmp_path / 'made.jsonl'), '--batch_size', '8', '--source_field', 'say {en}']) == 0
    assert 'say {en}' in capsys.readouterr().err  # another
    for flags in (('--threshold', '0.1'), ('--measure', 'state'), ('--max_new_tokens', '5'), ('--temperature', '1')):
        assert main([*base, '--output', str(tmp_path / 'refused.jsonl'), *flags]) == 2
        assert flags[0] in capsys.readouterr().err and not (tmp_path / 'refused.jsonl').exists()


def test_a_certificate_does_not_cover_another_model(certified, other_model, data, tmp_path, capsys):
    assert (
        main(
            [
                'generate',
                '--checkpoint',
                str(other_model),
                '--input',
                data,
                '--source_field',
                'en',
                '--output',
                str(tmp_path / 'o.jsonl'),
                '--certificate',
                str(certified),
            ]
        )
        == 2
    )
    assert 'parameters' in capsys.readouterr().err


def test_a_refused_run_leaves_the_records_of_the_first_model_and_their_certificate(
    certified, calibrate, folder, other_model, capsys
):
    records = folder / 'records'
    before = (records / 'records.json').read_bytes()
    for name, flags in (('parameters', ('--checkpoint', str(other_model))), ('min_exit_layer', ('--min_exit_layer', '2'))):
        assert calibrate(*DECODING, '--records', str(records), *flags, output='refused.json') == 2
        error = capsys.readouterr().err
        assert name in error and len(error.splitlines()) == 1 and not (folder / 'refused.json').exists()
        assert (records / 'records.json').read_bytes() == before
    assert calibrate('--records', str(records), *DECODING[2:], output='first.json', model=False) == 0
    assert (folder / 'first.json').read_bytes() == certified.read_bytes()


def copied(certified, folder, tmp_path):
    """The records again, to be changed."""
    return pathlib.Path(shutil.copytree(folder / 'records', tmp_path / 'records'))


def test_records_of_which_one_was_decoded_otherwise_are_refused_without_a_model(certified, calibrate, folder, tmp_path, capsys):
    records = copied(certified, folder, tmp_path)
    path = records / 'lambda_0.99.jsonl.config.json'
    good = json.loads(path.read_text())
    for name, bad in (
        ('parameters', {**good, 'parameters': 'x'}),
        ('config', {**good, 'config': 'x'}),
        ('source_field', {**good, 'source_field': 'fr'}),
        ('threshold', {**good, 'settings': {**good['settings'], 'threshold': 0.5}}),
        ('missing', []),
    ):
        path.write_text(json.dumps(bad))
        assert calibrate('--records', str(records), output='mixed.json', model=False) == 2
        error = capsys.readouterr().err
        assert name in error and 'lambda_0.99.jsonl' in error and len(error.splitlines()) == 1
    assert not (folder / 'mixed.json').exists()


@pytest.mark.parametrize('content', ['{}', '[]', '{"fingerprints": {"para', '{"settings": {"measure": 3}}'])
def test_damaged_records_are_named_in_one_line(certified, calibrate, folder, tmp_path, capsys, content):
    records = copied(certified, folder, tmp_path)
    (records / 'records.json').write_text(content)
    for model in (False, True):
        assert calibrate('--records', str(records), *(DECODING if model else ()), output='damaged.json', model=model) == 2
        error = capsys.readouterr().err
        assert str(records / 'records.json') in error and len(error.splitlines()) == 1


def test_overwrite_decodes_again_only_what_does_not_fit(certified, calibrate, folder, tmp_path):
    records = copied(certified, folder, tmp_path)
    first, second = (records / f'lambda_{threshold}.jsonl' for threshold in (0.99, 0.9))
    header = second.with_name(second.name + '.config.json')
    header.write_text(header.read_text().replace('"parameters": "', '"parameters": "other '))
    for path in (records / 'full.jsonl', first, second):
        os.utime(path, (0, 0))
    assert calibrate(*DECODING, '--records', str(records), '--overwrite', output='over.json') == 0
    assert (records / 'full.jsonl').stat().st_mtime == first.stat().st_mtime == 0 < second.stat().st_mtime
    assert (folder / 'over.json').read_bytes() == certified.read_bytes()
    assert second.read_bytes() == (folder / 'records' / second.name).read_bytes()


def test_a_later_promise_keeps_the_points_of_the_curve(certified, calibrate, folder, tmp_path):
    records = copied(certified, folder, tmp_path)
    before = json.loads((records / 'curve.json').read_text())['points']
    assert len(before) > 1
    assert calibrate('--records', str(records), '--grid', '.99', output='short.json', model=False) == 0
    after = json.loads((records / 'curve.json').read_text())['points']
    assert [point['threshold'] for point in after] == [point['threshold'] for point in before]
    assert after[0] == before[0] and all(point['p_value'] is None and not point['rejected'] for point in after[1:])


def test_risk_groups_clusters_several_metrics_and_hoeffding_bentkus(calibrate, folder, certified):
    reuse = ('--records', str(folder / 'records'), '--grid', '.99,.9', '--target_field', 'fr')
    assert calibrate(*reuse, '--objective', 'risk', '--p_value', 'hoeffding_bentkus', output='risk.json', model=False) == 0
    assert calibrate(*reuse, '--objective', 'risk', '--signed', output='signed.json', model=False) == 0
    assert (
        calibrate(
            *reuse,
            '--groups',
            'topic',
            '--group_by',
            'page',
            '--tolerance',
            '0.8',
            '--metric',
            'token_f1',
            '--tolerance',
            '0.9',
            output='groups.json',
            model=False,
        )
        == 2
    )  # three tolerances for two metrics
    assert calibrate(*reuse, '--groups', 'topic', '--metric', 'rouge1', output='groups.json', model=False) == 0
    groups = calibration.Certificate.load(folder / 'groups.json')
    assert groups.groups == {'even': 35, 'odd': 35} and len(groups.grid[0].parts) == 4
    assert calibrate(*reuse, '--group_by', 'page', output='clusters.json', model=False) == 0
    assert calibration.Certificate.load(folder / 'clusters.json').n == 35


def test_trials_are_reported_with_what_they_prove(certified, calibrate, folder):
    assert (
        calibrate(
            '--records', str(folder / 'records'), *DECODING, '--trials', '5', '--trial_tolerances', '.6,.7', output='t.json'
        )
        == 0
    )
    trials = json.loads((folder / 'records' / 'trials.json').read_text())
    assert [row['tolerance'] for row in trials['tolerances']] == [0.6, 0.7] and trials['n_calibration'] == 56
    assert 'prove nothing' in trials['note'] and trials['provenance']['settings']['measure'] == 'classifier'


def test_trials_go_on_until_every_tolerance_has_stopped():
    """As if all trials and tolerances were run at once, and no further."""
    losses = {0.9: [0.0] * 80, 0.8: [0.2, 0.0] * 40, 0.7: [0.6] * 80, 0.6: [0.7] * 80}
    decoded = []

    class Recorded:
        def texts(self, threshold):
            decoded.append(threshold)
            return threshold

        def layers(self, threshold):
            return np.full(80, threshold)

    given = {
        'trial_tolerances': '.15,.3',
        'tolerance': [0.2],
        'epsilon': 0.05,
        'p_value': 'betting',
        'trials': 4,
        'permutation_seed': 0,
        'group_by': None,
        'signed': False,
        'objective': 'textual',
        'metric': ['chrf'],
        'quiet': True,
    }
    result = command.run_trials(
        argparse.Namespace(**given),
        argparse.Namespace(column=lambda field: None),
        argparse.Namespace(losses=lambda early, full: np.array(losses[early])),
        Recorded(),
        list(losses),
        {'num_layers': 3, 'settings': {'measure': 'state'}},
    )
    assert decoded == [1.0, 0.9, 0.8, 0.7]
    columns = np.stack([losses[each] for each in decoded[1:]], axis=1)
    assert result == calibration.run_trials(
        columns,
        np.stack([np.full(80, each) for each in decoded[1:]], axis=1),
        list(losses),
        [0.15, 0.3],
        3,
        trials=4,
        label='state',
        objective='textual',
        metric='chrf',
    )


@pytest.mark.parametrize('flags', [('--quiet',), ()])
def test_trials_and_power_show_bars_unless_quiet(certified, folder, data, flags, bars):
    assert (
        main(
            [
                'calibrate',
                '--records',
                str(folder / 'records'),
                '--data',
                data,
                '--metric',
                'chrf',
                '--tolerance',
                '.7',
                '--trials',
                '2',
                *flags,
            ]
        )
        == 0
    )
    assert main(['calibrate', '--power', '--tolerance', '.3', '--expected_loss', '.03', '--p_value', 'binomial', *flags]) == 0
    assert {'trials at λ = 0.99', 'trials', 'simulating calibrations'} <= {description for description, _ in bars}
    assert all(quiet == bool(flags) for _, quiet in bars)


def test_the_grid_can_come_from_confidences_on_other_data(calibrate, folder, tmp_path, data, capsys, bars):
    other = tmp_path / 'tune.jsonl'
    other.write_text(''.join(json.dumps({'en': f'horse {i}'}) + '\n' for i in range(12)))
    assert calibrate('--measure', 'classifier', '--grid_data', str(other), output='q.json') == 0
    assert bars == [('decoding', True), ('confidences', True)]
    grid = [point.threshold for point in calibration.Certificate.load(folder / 'q.json').grid]
    assert len(grid) > 10 and grid == sorted(grid, reverse=True) and all(0 < each < 1 for each in grid)
    assert calibrate('--measure', 'classifier', '--grid_data', str(other), '--min_exit_layer', '3', output='q3.json') == 2
    assert '--min_exit_layer' in capsys.readouterr().err
    assert calibrate('--measure', 'classifier', '--grid_data', data, output='overlap.json') == 2
    assert 'overlap' in capsys.readouterr().err


def test_confidences_are_those_of_the_plan_at_layers_where_a_token_may_leave(checkpoint):
    model, texts = load(checkpoint), [f'horse {i}' for i in range(5)]
    options = {'max_new_tokens': 8, 'max_source_length': 16, 'batch_size': 8}
    exit_ = Settings(measure='classifier', threshold=0.5).build(model.config, model.heads).exit
    plan = Settings(plan='uniform:2').build(model.config).plan
    runs = np.asarray(plan(np.arange(8)).self_attention)[0]
    full = confidences.layer_confidences(model, texts, exit_.measure, **options)
    assert full.leaves.all(axis=1).tolist() == [True, True, False] and full.agrees[-1].all()
    late = confidences.layer_confidences(model, texts, exit_.measure, min_exit_layer=2, **options)
    assert late.leaves.all(axis=1).tolist() == [False, True, False]
    np.testing.assert_array_equal(late.confidence, full.confidence)

    planned = confidences.layer_confidences(model, texts, exit_.measure, plan=plan, **options)
    last = np.flatnonzero(runs)[-1]
    assert planned.leaves.all(axis=1).tolist() == [bool(run) and layer < last for layer, run in enumerate(runs)]
    # λ = 0 leaves after the first layer that runs, with the confidence that was seen there; a row's first token
    # has no earlier one that could have left elsewhere.
    first = dataclasses.replace(exit_, threshold=0.0)
    outputs = list(model.stream(texts, exit=first, plan=plan, **options))
    starts = np.cumsum([0, *(len(each.tokens) for each in model.stream(texts, plan=plan, **options))])[:-1]
    layer = int(np.flatnonzero(runs)[0])
    np.testing.assert_allclose(planned.confidence[layer, starts], [each.confidence[0] for each in outputs], rtol=1e-5)
    everywhere = Plan(*(np.ones((8, 3), bool),) * 3, *(np.ones((8, 1), bool),) * 2)
    same = confidences.layer_confidences(model, texts, exit_.measure, plan=lambda rows: everywhere, **options)
    np.testing.assert_allclose(same.confidence, full.confidence, rtol=1e-5)
    assert (same.leaves == full.leaves).all()


def test_a_certificate_covers_the_pruning_and_the_contrast_it_was_found_with(calibrate, folder, checkpoint, data, capsys):
    made = ('--measure', 'weighted_contrast', '--alpha', '0.2', '--pruning', 'fixed', '--keep', '9', '--grid', '.9,.5')
    assert calibrate(*made, output='pruned.json') == 0
    flags = [
        'generate',
        '--checkpoint',
        checkpoint,
        '--certificate',
        str(folder / 'pruned.json'),
        '--prompt',
        'horse',
        '--batch_size',
        '8',
    ]
    assert main(flags) == 0
    for *other, said in ('--keep', '8', 'covers 9'), ('--alpha', '0.1', 'covers 0.2'), ('--pruning', 'none', 'covers fixed'):
        assert main([*flags, *other]) == 2 and said in capsys.readouterr().err
    settings = calibration.Certificate.load(folder / 'pruned.json').provenance['settings']
    assert (settings['pruning'], settings['keep'], settings['alpha'], settings['partition']) == ('fixed', 9, 0.2, 'kept')


def test_power_prints_how_many_examples_it_takes(capsys):
    assert main(['calibrate', '--power', '--tolerance', '.1', '--expected_loss', '.03']) == 0
    printed = capsys.readouterr().out
    assert '90% power' in printed and 'δ = 0.1' in printed


@pytest.mark.parametrize(
    'flags, message',
    [
        ((), '--measure is missing'),
        (('--measure', 'classifier', '--epsilon', '0'), 'epsilon'),
        (('--measure', 'classifier', '--epsilon', '1'), 'epsilon'),
        (('--measure', 'classifier', '--metric', 'rogueL'), 'rougeL'),
        (('--measure', 'classifier', '--metric', 'bleu'), 'bleu'),
        (('--measure', 'classifier', '--p_value', 'hofding'), 'p_value'),
        (('--measure', 'classifier', '--objective', 'risk'), '--target_field'),
        (('--measure', 'classifier', '--objective', 'risk', '--target_field', 'french'), 'french'),
        (('--measure', 'classifier', '--signed'), 'sign'),
        (('--measure', 'classifier', '--grid', '.9,1.2'), '1.2'),
        (('--measure', 'classifier', '--grid', 'a'), '--grid'),
        (('--measure', 'classifier', '--groups', 'nothing'), 'nothing'),
        (('--measure', 'classifier', '--trials', '5'), '--records'),
        (('--measure', 'classifier', '--trials', '0'), '--trials 0'),
        (('--measure', 'classifier', '--trials', '5', '--metric', 'rouge1', '--records', 'never'), 'one --metric'),
        (('--measure', 'classifier', '--trials', '5', '--trial_tolerances', '.1,2', '--records', 'never'), 'found 2'),
        (('--measure', 'classifier', '--trials', '5', '--trial_tolerances', 'a', '--records', 'never'), '--trial_tolerances'),
        (('--measure', 'classifier', '--trial_tolerances', '.1'), '--trials K'),
        (('--measure', 'classifier', '--whole_grid'), '--whole_grid needs --records'),
        (('--gin_file=depth/classifier.gin', '--gin.Settings.threshold=0.9'), 'Settings.threshold'),
        (('--measure', 'classifier', '--output', '/', '--overwrite'), 'is a folder'),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_writes_nothing(calibrate, folder, capsys, flags, message):
    assert calibrate(*flags, output='wrong.json') == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and 'Traceback' not in error
    assert not (folder / 'wrong.json').exists() and not pathlib.Path('never').exists()


def test_too_few_examples_say_how_many_it_takes(checkpoint, data, tmp_path, capsys):
    for tolerance in ('0', '1', '0.02'):
        assert (
            main(
                [
                    'calibrate',
                    '--checkpoint',
                    checkpoint,
                    '--data',
                    data,
                    '--source_field',
                    'en',
                    '--metric',
                    'chrf',
                    '--measure',
                    'state',
                    '--tolerance',
                    tolerance,
                    '--output',
                    str(tmp_path / 'c.json'),
                    '--quiet',
                    '--p_value',
                    'hoeffding_bentkus',
                    '--records',
                    str(tmp_path / 'records'),
                ]
            )
            == 2
        )
        assert ('149' if tolerance == '0.02' else 'tolerance') in capsys.readouterr().err
    assert not (tmp_path / 'records').exists() and not list(tmp_path.iterdir())  # nothing was decoded


def test_grid_data_without_a_model_to_look_at_it_is_refused(certified, calibrate, folder, capsys, data):
    assert calibrate('--records', str(folder / 'records'), '--grid_data', data, output='g.json', model=False) == 2
    assert '--grid_data needs a model' in capsys.readouterr().err


def test_gin_path_names_the_folder_of_the_gin_files(capsys):
    assert main(['gin_path']) == 0
    folder = pathlib.Path(capsys.readouterr().out.strip())
    assert (folder / 'runs' / 'train.gin').is_file() and not (folder / '__init__.py').exists()
