"""`calm calibrate`, as a user runs it, and what its certificate then allows."""

import json
import pathlib

import numpy as np
import pytest

from calm_jax import calibration
from calm_jax.cli import main
from calm_jax.metrics import quality


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('calibrate')


@pytest.fixture(scope='module')
def calibrate(checkpoint, data, folder):
    """Runs the command; flags given later win."""

    def run(*flags, output='c.json', model=True):
        return main(['calibrate', *(['--checkpoint', checkpoint] if model else []), '--data', data, '--source_field', 'en',
                     '--metric', 'chrf', '--tolerance', '0.7', '--output', str(folder / output), '--batch_size', '8',
                     '--quiet', *flags])

    return run


DECODING = ('--measure', 'classifier', '--grid', '.99,.9,.8,.6,.5')


@pytest.fixture(scope='module')
def certified(calibrate, folder):
    """A certificate, with the records it was made from."""
    assert calibrate(*DECODING, '--records', str(folder / 'records')) == 0
    return folder / 'c.json'


def rows(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def test_the_certificate_is_what_the_records_say(certified, folder):
    certificate = calibration.Certificate.load(certified)
    full = [row['text'] for row in rows(folder / 'records' / 'full.jsonl')]
    tested = [point for point in certificate.grid if point.p_value is not None]
    for point in tested:
        early = [row['text'] for row in rows(folder / 'records' / f'lambda_{point.threshold:.6f}.jsonl')]
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
    assert all(point['layers'] < 3 and point['flops'] < curve['full']['flops'] for point in curve['points'][1:])


def test_generate_decodes_with_the_certificates_threshold_and_refuses_what_it_does_not_cover(
        certified, checkpoint, data, tmp_path, capsys, folder):
    base = ['generate', '--checkpoint', checkpoint, '--input', data, '--source_field', 'en', '--certificate', str(certified),
            '--quiet']
    out = tmp_path / 'out.jsonl'
    assert main([*base, '--output', str(out), '--batch_size', '8']) == 0
    assert capsys.readouterr().err == ''
    threshold = calibration.Certificate.load(certified).threshold
    assert out.read_bytes() == (folder / 'records' / f'lambda_{threshold:.6f}.jsonl').read_bytes()
    assert main([*base, '--output', str(tmp_path / 'other.jsonl'), '--batch_size', '4']) == 0
    assert 'batch_size' in capsys.readouterr().err  # a warning
    for flags in (('--threshold', '0.1'), ('--measure', 'state'), ('--max_new_tokens', '5'), ('--temperature', '1')):
        assert main([*base, '--output', str(tmp_path / 'refused.jsonl'), *flags]) == 2
        assert flags[0] in capsys.readouterr().err and not (tmp_path / 'refused.jsonl').exists()


def test_a_certificate_does_not_cover_another_model(certified, checkpoint, data, tmp_path, capsys):
    import calm_jax

    model = calm_jax.load(checkpoint)
    model.params['decoder']['decoder_norm']['scale'] = model.params['decoder']['decoder_norm']['scale'] * 1.001
    model.save(tmp_path / 'other')
    assert main(['generate', '--checkpoint', str(tmp_path / 'other'), '--input', data, '--source_field', 'en',
                 '--output', str(tmp_path / 'o.jsonl'), '--certificate', str(certified)]) == 2
    assert 'parameters' in capsys.readouterr().err


def test_risk_groups_clusters_several_metrics_and_hoeffding_bentkus(calibrate, folder, certified):
    reuse = ('--records', str(folder / 'records'), '--grid', '.99,.9', '--target_field', 'fr')
    assert calibrate(*reuse, '--objective', 'risk', '--p_value', 'hoeffding_bentkus', output='risk.json', model=False) == 0
    assert calibrate(*reuse, '--objective', 'risk', '--signed', output='signed.json', model=False) == 0
    assert calibrate(*reuse, '--groups', 'topic', '--group_by', 'page', '--tolerance', '0.8', '--metric', 'token_f1',
                     '--tolerance', '0.9', output='groups.json', model=False) == 2  # three tolerances for two metrics
    assert calibrate(*reuse, '--groups', 'topic', '--metric', 'rouge1', output='groups.json', model=False) == 0
    groups = calibration.Certificate.load(folder / 'groups.json')
    assert groups.groups == {'even': 35, 'odd': 35} and len(groups.grid[0].parts) == 4
    assert calibrate(*reuse, '--group_by', 'page', output='clusters.json', model=False) == 0
    assert calibration.Certificate.load(folder / 'clusters.json').n == 35


def test_trials_are_reported_with_what_they_prove(certified, calibrate, folder):
    assert calibrate('--records', str(folder / 'records'), *DECODING, '--trials', '5', '--trial_tolerances', '.6,.7',
                     output='t.json') == 0
    trials = json.loads((folder / 'records' / 'trials.json').read_text())
    assert [row['tolerance'] for row in trials['tolerances']] == [0.6, 0.7] and trials['n_calibration'] == 56
    assert 'prove nothing' in trials['note']


def test_the_grid_can_come_from_confidences_on_other_data(calibrate, folder, tmp_path, data, capsys):
    other = tmp_path / 'tune.jsonl'
    other.write_text(''.join(json.dumps({'en': f'horse {i}'}) + '\n' for i in range(12)))
    assert calibrate('--measure', 'classifier', '--grid_data', str(other), output='q.json') == 0
    grid = [point.threshold for point in calibration.Certificate.load(folder / 'q.json').grid]
    assert len(grid) > 10 and grid == sorted(grid, reverse=True) and all(0 < each < 1 for each in grid)
    assert calibrate('--measure', 'classifier', '--grid_data', data, output='overlap.json') == 2
    assert 'overlap' in capsys.readouterr().err


def test_power_prints_how_many_examples_it_takes(capsys):
    assert main(['calibrate', '--power', '--tolerance', '.1', '--expected_loss', '.03']) == 0
    printed = capsys.readouterr().out
    assert '90% power' in printed and 'δ = 0.1' in printed


@pytest.mark.parametrize('flags, message', [
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
])
def test_a_mistake_is_one_line_and_exit_code_2_and_writes_nothing(calibrate, folder, capsys, flags, message):
    assert calibrate(*flags, output='wrong.json') == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and 'Traceback' not in error
    assert not (folder / 'wrong.json').exists()


def test_too_few_examples_say_how_many_it_takes(checkpoint, data, tmp_path, capsys):
    for tolerance in ('0', '1', '0.02'):
        assert main(['calibrate', '--checkpoint', checkpoint, '--data', data, '--source_field', 'en', '--metric', 'chrf',
                     '--measure', 'state', '--tolerance', tolerance, '--output', str(tmp_path / 'c.json'), '--quiet',
                     '--p_value', 'hoeffding_bentkus']) == 2
        assert ('149' if tolerance == '0.02' else 'tolerance') in capsys.readouterr().err


def test_sensitivity_scores_what_a_wrong_token_costs(checkpoint, data, tmp_path, capsys):
    output = tmp_path / 'sensitivity.json'
    flags = ['analyze', 'sensitivity', '--checkpoint', checkpoint, '--data', data, '--source_field', 'en', '--metric', 'chrf',
             '--examples', '9', '--batch_size', '8', '--output', str(output)]
    assert main([*flags, '--positions', '0,6', '--quiet']) == 0
    found = json.loads(output.read_text())
    assert found['positions'] == [0, 6] and found['metric'] == 'chrf' and found['examples'][0] == 9
    # The last token spoils less than the first.
    assert found['sampling'][0] < found['sampling'][1] < 1
    assert main(flags) == 2 and '--overwrite' in capsys.readouterr().err
    assert main([*flags, '--overwrite', '--positions', '0,8']) == 2 and '0…7' in capsys.readouterr().err


def test_gin_path_names_the_folder_of_the_gin_files(capsys):
    assert main(['gin_path']) == 0
    folder = pathlib.Path(capsys.readouterr().out.strip())
    assert (folder / 'runs' / 'train.gin').is_file() and not (folder / '__init__.py').exists()
