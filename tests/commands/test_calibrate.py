"""`calm calibrate`, as a user runs it, and what its certificate then allows."""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from calm_jax import calibration, formats
from calm_jax.analysis import confidences
from calm_jax.calibration import Certificate
from calm_jax.cli import main
from calm_jax.decoding import codec
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.depth.confidence import Classifier
from calm_jax.depth.exits import Exit
from calm_jax.depth.plans import PlanMaker, Uniform
from calm_jax.examples import telling
from calm_jax.metrics import quality
from calm_jax.model import load
from calm_jax.pytrees import pytree
from calm_jax.reporting import reader
from calm_jax.types import Plan

DECODING = ('--measure', 'classifier', '--grid', '.99,.9,.8,.6,.5')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('calibrate')


@pytest.fixture(scope='module')
def calibrate(checkpoint, data, folder):
    """Runs the command, all texts in one batch; flags given later win."""

    def run(*flags, output='c.json', model=True, promise=('--metric', 'chrf', '--tolerance', '0.7')):
        decoding = ('--checkpoint', checkpoint, '--source_field', 'en', '--batch_size', '70') if model else ()
        written = ('--output', str(folder / output)) if output else ()
        return main(['calibrate', *decoding, '--data', data, *promise, *written, '--quiet', *flags])

    return run


@pytest.fixture(scope='module')
def certified(calibrate, folder):
    """A certificate, with the records it was made from."""
    assert calibrate(*DECODING, '--records', str(folder / 'records')) == 0
    return folder / 'c.json'


@pytest.fixture
def records(certified, folder, tmp_path):
    """The records again, to be changed."""
    return pathlib.Path(shutil.copytree(folder / 'records', tmp_path / 'records'))


@pytest.fixture(scope='module')
def other_model(checkpoint, tmp_path_factory):
    """The model with one of its scales changed a little."""
    model = load(checkpoint)
    model.params['decoder']['decoder_norm']['scale'] = model.params['decoder']['decoder_norm']['scale'] * 1.001
    path = tmp_path_factory.mktemp('model') / 'other'
    model.save(path)
    return path


@pytest.fixture
def generate(checkpoint, data, certified, tmp_path):
    """Decodes within the certificate; (exit code, output)."""

    def run(*flags, output='out.jsonl'):
        path = tmp_path / output
        files = ('--input', data, '--output', str(path), '--certificate', str(certified))
        return main(['generate', '--checkpoint', checkpoint, *files, '--quiet', *flags]), path

    return run


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user's own; returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(source, name='own_metrics'):
        (tmp_path / f'{name}.py').write_text(source)
        monkeypatch.delitem(__import__('sys').modules, name, raising=False)
        return name

    return write


def rows(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def path_of(records, threshold):
    """The file of the records at λ."""
    points = json.loads((records / 'records.json').read_text())['points']
    return records / next(point['file'] for point in points if point['threshold'] == threshold)


def one_line(capsys):
    """The error, which is one line."""
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and 'Traceback' not in error
    return error


def test_the_certificate_is_what_the_records_say(certified, folder):
    certificate = Certificate.load(certified)
    records = folder / 'records'
    full = [row['text'] for row in rows(records / 'full.jsonl')]
    tested = [point for point in certificate.grid if point.p_value is not None]
    for point in tested:
        early = rows(path_of(records, point.threshold))
        losses = [0.0 if a['text'] == b else 1 - quality.chrf([a['text']], [[b]])[0] for a, b in zip(early, full)]
        assert point.mean_loss == pytest.approx(np.mean(losses))
        assert point.p_value == pytest.approx(float(calibration.betting(np.array(losses), 0.7)))
        assert point.rejected == (point.p_value <= 0.05)
        assert point.cost == pytest.approx(sum(row['flops'] for row in early) / sum(len(row['tokens']) for row in early))
    assert certificate.found and certificate.n == 70 and certificate.cost_unit == 'FLOPs per token'
    assert certificate.cost == min(point.cost for point in certificate.grid if point.rejected)
    assert certificate.decoding['exit']['measure']['class'] == 'classifier'
    assert certificate.provenance['dtype'] == 'float32'
    # Nothing below the first failure was decoded.
    assert len(list(records.glob('point_*.jsonl'))) == len(tested)


def test_records_are_named_by_the_digest_of_their_decoding_which_their_header_holds(certified, folder):
    certificate = Certificate.load(certified)
    for point in certificate.grid:
        path = folder / 'records' / f'point_{codec.digest(point.decoding)[:12]}.jsonl'
        assert path == path_of(folder / 'records', point.threshold)
        if point.p_value is not None:
            header = json.loads(path.with_name(path.name + '.config.json').read_text())
            assert header['decoding'] == point.decoding and point.decoding['exit']['threshold'] == point.threshold
            assert {name: header[name] for name in ('format', 'version', 'semantics')} == formats.stamp('records')


def test_the_same_comes_out_without_a_model(certified, calibrate, records, folder):
    again = ('--records', str(records), *DECODING[2:])
    assert calibrate(*again, output='again.json', model=False) == 0
    assert calibrate('--records', str(records), output='all.json', model=False) == 0
    for name in ('again.json', 'all.json'):
        assert (folder / name).read_bytes() == certified.read_bytes()


def test_a_threshold_that_was_not_decoded_needs_a_model(certified, calibrate, records, capsys):
    assert calibrate('--records', str(records), '--grid', '.99,.2', output='more.json', model=False) == 2
    assert 'no point at λ = 0.2' in one_line(capsys)
    path_of(records, 0.99).unlink()
    assert calibrate('--records', str(records), output='more.json', model=False) == 2
    assert 'not decoded yet; pass --checkpoint' in one_line(capsys)


def test_the_curve_holds_every_point_that_was_decoded(certified, folder):
    curve = json.loads((folder / 'records' / 'curve.json').read_text())
    grid = Certificate.load(certified).grid
    tested = [point for point in grid if point.p_value is not None]
    assert curve['num_layers'] == 3 and curve['full']['layers'] == 3 and curve['label'] == 'classifier'
    assert [point['decoding'] for point in curve['points']] == [point.decoding for point in tested]
    assert len(tested) > 1
    for point, other in zip(curve['points'], tested):
        early = rows(path_of(folder / 'records', point['threshold']))
        tokens = sum(len(row['tokens']) for row in early)
        assert point['flops'] == other.cost and point['p_value'] == other.p_value
        assert point['layers'] == pytest.approx(sum(sum(row['sub_layers']) for row in early) / tokens / 3)
        assert point['exit_layers'] == pytest.approx(sum(sum(row['exit_layers']) for row in early) / tokens)
    assert all(point['flops'] < curve['full']['flops'] for point in curve['points'] if point['layers'] < 3)
    assert min(point['layers'] for point in curve['points']) < 3


def test_layers_of_a_sweep_within_a_plan_are_those_that_ran(calibrate, folder):
    records = folder / 'planned'
    flags = ('--measure', 'classifier', '--plan', 'uniform:2', '--grid', '.9', '--records', str(records))
    assert calibrate(*flags, output='planned.json') == 0
    curve = json.loads((records / 'curve.json').read_text())
    [point] = curve['points']
    assert point['layers'] <= 2 < point['exit_layers'] <= 3 and curve['full']['layers'] == 3
    assert all(set(row['exit_layers']) == {3} for row in rows(records / 'full.jsonl'))
    assert Certificate.load(folder / 'planned.json').grid[0].decoding['plan']['class'] == 'uniform'


@pytest.fixture
def content(records, calibrate):
    """What examples.json holds after a calibration from the records, whose certificate goes beside it."""

    def run(*flags):
        (records / 'examples.json').unlink()
        output = ('--overwrite', '--output', str(records / 'certificate.json'))
        assert calibrate('--records', str(records), *flags, *output, model=False) == 0
        return json.loads((records / 'examples.json').read_text())

    return run


def test_the_examples_are_the_records_token_by_token(certified, records):
    found = json.loads((records / 'examples.json').read_text())
    full, early = rows(records / 'full.jsonl'), rows(path_of(records, Certificate.load(certified).threshold))
    assert found['num_layers'] == 3 and len(found['examples']) == 12 and found['data'] == 'in.jsonl'
    shown = telling([row['text'] for row in full], [row['text'] for row in early])
    for i, example in zip(shown, found['examples'], strict=True):
        assert example['reference'] is None
        for name in ('pieces', 'exit_layers'):
            assert example['full'][name] == full[i][name]
        parts = {name: early[i][name] for name in ('pieces', 'exit_layers', 'confidence')}
        assert example['early'] == [{'label': 'classifier, δ = 0.7', **parts}]


def test_the_examples_are_the_same_without_a_model_and_have_references_where_a_field_is_named(records, content, data):
    before = json.loads((records / 'examples.json').read_text())
    assert content() == before
    referenced = content('--target_field', 'fr')['examples']
    made = {row['en']: row['fr'] for row in rows(data)}
    assert [each['reference'] for each in referenced] == [made[each['input']] for each in referenced]
    run = reader.read(records)
    assert len(run.certificates) == 1 and len(run.examples[0].examples) == 12


def test_where_nothing_is_certified_the_examples_are_of_full_depth_alone(certified, records, content):
    lowest = min(point.threshold for point in Certificate.load(certified).grid if point.p_value is not None)
    fallen = content('--grid', str(lowest), '--tolerance', '0.07', '--metric', 'accuracy')
    certificate = Certificate.load(records / 'certificate.json')
    assert not certificate.found and certificate.threshold is None and 'exit' not in certificate.decoding
    assert all(each['early'] == [] and each['full']['pieces'] for each in fallen['examples'])
    [read] = reader.read(records).certificates
    assert read.full_depth and read.threshold is None


def test_curve_and_trials_say_what_they_are_of(certified, calibrate, records):
    assert calibrate(*DECODING, '--records', str(records), output='said.json') == 0
    source = json.loads((records / 'curve.json').read_text())['provenance']
    assert source['command'].startswith('calm calibrate --checkpoint ') and ' --measure classifier' in source['command']
    assert source['settings']['exit']['measure']['class'] == 'classifier'
    assert source['data']['examples'] == 70 and source['seed'] == 0 and source['machine'] and source['date']
    assert source['fingerprints']['parameters'] == Certificate.load(certified).provenance['parameters']


@pytest.mark.parametrize(
    'flags, message',
    [
        (('--batch_size', '8'), '--batch_size 8'),
        (('--dtype', 'float32'), '--dtype float32'),
        (('--source_field', 'fr'), '--source_field fr'),
        (('--min_exit_layer', '2'), '--min_exit_layer 2: the records'),
        (('--measure', 'state'), '--measure state: the records'),
        (('--gin.Exit.threshold=0.9',), 'Exit.threshold'),
        (('--trials', '5', '--groups', 'topic'), '--trials and --groups'),
        (('--trials', '5', '--joint', '2'), '--trials and --joint'),
        (('--grid_data', 'tune.jsonl'), '--grid_data needs a model'),
    ],
)
def test_what_would_be_ignored_without_a_model_is_refused(certified, calibrate, folder, capsys, flags, message):
    assert calibrate('--records', str(folder / 'records'), *flags, output='ignored.json', model=False) == 2
    assert message in one_line(capsys) and not (folder / 'ignored.json').exists()


def test_generate_decodes_at_the_certified_point(certified, generate, folder, capsys):
    code, out = generate('--batch_size', '70')
    assert code == 0 and capsys.readouterr().err == ''
    assert out.read_bytes() == path_of(folder / 'records', Certificate.load(certified).threshold).read_bytes()


def test_generate_warns_of_what_may_change_a_few_tokens_and_of_other_inputs(generate, capsys):
    assert generate('--batch_size', '128')[0] == 0
    assert 'batch_size' in capsys.readouterr().err
    assert generate('--batch_size', '70', '--source_field', 'say {en}', output='made.jsonl')[0] == 0
    assert 'say {en}' in capsys.readouterr().err


@pytest.mark.parametrize(
    'flags', [('--threshold', '0.1'), ('--measure', 'state'), ('--max_new_tokens', '5'), ('--temperature', '1')]
)
def test_generate_refuses_what_the_certificate_does_not_cover(generate, capsys, flags):
    code, out = generate(*flags)
    assert code == 2 and flags[0] in one_line(capsys) and not out.exists()


def test_a_certificate_does_not_cover_another_model(generate, other_model, capsys):
    assert generate('--checkpoint', str(other_model))[0] == 2
    assert 'parameters' in one_line(capsys)


@pytest.mark.parametrize('name', ['parameters', 'min_exit_layer', 'max_new_tokens'])
def test_a_refused_run_leaves_the_records_and_their_certificate(
    certified, calibrate, records, folder, other_model, capsys, name
):
    flags = ('--checkpoint', str(other_model)) if name == 'parameters' else (f'--{name}', '2')
    before = {path.name: path.read_bytes() for path in records.iterdir()}
    assert calibrate(*DECODING, '--records', str(records), *flags, output='refused.json') == 2
    assert name in one_line(capsys) and not (folder / 'refused.json').exists()
    assert {path.name: path.read_bytes() for path in records.iterdir()} == before


@pytest.mark.parametrize('name', ['parameters', 'config', 'dtype', 'source_field', 'threshold', 'missing'])
def test_records_of_which_one_was_decoded_otherwise_are_refused_without_a_model(calibrate, records, folder, capsys, name):
    file = path_of(records, 0.99)
    path = file.with_name(file.name + '.config.json')
    header = json.loads(path.read_text())
    if name == 'threshold':
        header['decoding']['exit']['threshold'] = 0.5
    changed = [] if name == 'missing' else header if name == 'threshold' else {**header, name: 'x'}
    path.write_text(json.dumps(changed))
    assert calibrate('--records', str(records), output='mixed.json', model=False) == 2
    error = one_line(capsys)
    assert name in error and file.name in error and not (folder / 'mixed.json').exists()


@pytest.mark.parametrize('content', ['{}', '[]', '{"fingerprints": {"para', 'points', 'sizes'])
@pytest.mark.parametrize('model', [False, True])
def test_damaged_records_are_named_in_one_line(calibrate, records, capsys, content, model):
    path = records / 'records.json'
    if content in ('points', 'sizes'):
        content = json.dumps({**json.loads(path.read_text()), content: [3]})
    path.write_text(content)
    assert calibrate('--records', str(records), *(DECODING if model else ()), output='damaged.json', model=model) == 2
    assert str(path) in one_line(capsys)


@pytest.mark.parametrize('model', [False, True])
def test_records_of_0_1_0_say_what_to_do(calibrate, records, capsys, model):
    (records / 'records.json').write_text('{"fingerprints": {}, "settings": {"measure": "state"}, "thresholds": [0.9]}')
    assert calibrate('--records', str(records), *(DECODING if model else ()), output='old.json', model=model) == 2
    assert 'written by calm_jax 0.1.0' in (error := one_line(capsys)) and 'decode again' in error


def test_overwrite_decodes_again_only_what_does_not_fit(certified, calibrate, records, folder):
    first, second = (path_of(records, threshold) for threshold in (0.99, 0.9))
    header = second.with_name(second.name + '.config.json')
    header.write_text(header.read_text().replace('"parameters": "', '"parameters": "other '))
    for path in (records / 'full.jsonl', first, second):
        os.utime(path, (0, 0))
    assert calibrate(*DECODING, '--records', str(records), '--overwrite', output='over.json') == 0
    assert (records / 'full.jsonl').stat().st_mtime == first.stat().st_mtime == 0 < second.stat().st_mtime
    assert (folder / 'over.json').read_bytes() == certified.read_bytes()
    assert second.read_bytes() == (folder / 'records' / second.name).read_bytes()


def test_a_later_promise_keeps_the_points_of_the_curve(calibrate, records):
    before = json.loads((records / 'curve.json').read_text())['points']
    assert len(before) > 1
    assert calibrate('--records', str(records), '--grid', '.99', output='short.json', model=False) == 0
    after = json.loads((records / 'curve.json').read_text())['points']
    assert [point['decoding'] for point in after] == [point['decoding'] for point in before]
    assert after[0] == before[0] and all(point['p_value'] is None and not point['rejected'] for point in after[1:])


@pytest.fixture
def recalibrated(certified, calibrate, folder):
    """The certificate of another promise, from the records."""

    def run(*flags, output):
        reuse = ('--records', str(folder / 'records'), '--grid', '.99,.9', '--target_field', 'fr')
        assert calibrate(*reuse, *flags, output=output, model=False) == 0
        return Certificate.load(folder / output)

    return run


def test_risks_are_of_references(recalibrated):
    clamped = recalibrated('--objective', 'risk', '--p_value', 'hoeffding_bentkus', output='risk.json')
    signed = recalibrated('--objective', 'risk', '--signed', output='signed.json')
    assert (clamped.objective, clamped.p_value, signed.signed) == ('risk', 'hoeffding_bentkus', True)
    assert signed.grid[0].mean_loss <= clamped.grid[0].mean_loss


def test_groups_of_several_metrics_and_clusters(recalibrated):
    groups = recalibrated('--groups', 'topic', '--metric', 'rouge1', output='groups.json')
    assert groups.groups == {'even': 35, 'odd': 35} and len(groups.grid[0].parts) == 4
    assert recalibrated('--group_by', 'page', output='clusters.json').n == 35


def test_tolerances_are_one_or_one_for_each_metric(certified, calibrate, folder, capsys):
    flags = ('--tolerance', '0.8', '--metric', 'token_f1', '--tolerance', '0.9')
    assert calibrate('--records', str(folder / 'records'), *flags, output='three.json', model=False) == 2
    assert '3 tolerances for 2 metrics' in one_line(capsys)


METRIC = """
import numpy as np


def same_length(predictions, references):
    return np.array([float(len(text) == len(others[0])) for text, others in zip(predictions, references)])


def total(predictions, references):
    return 1.0


def percent(predictions, references):
    return [100.0] * len(predictions)


def unknown(predictions, references):
    return [float('nan')] * len(predictions)


def words(predictions, references):
    return ['good'] * len(predictions)


def broken(predictions, references):
    return {}[predictions[0]]


number = 3
"""


def test_a_metric_of_ones_own_is_certified_with_its_source(certified, calibrate, module, folder, capsys):
    name = module(METRIC)
    flags = ('--records', str(folder / 'records'), '--grid', '.99,.9', '--tolerance', '.7')
    promise = ('--metric', f'{name}:same_length')
    assert calibrate(*flags, output='own.json', model=False, promise=promise) == 0
    certificate = Certificate.load(folder / 'own.json')
    full, early = (rows(path) for path in (folder / 'records' / 'full.jsonl', path_of(folder / 'records', 0.9)))
    losses = [float(len(a['text']) != len(b['text'])) for a, b in zip(early, full)]
    assert certificate.metric == 'own_metrics:same_length' and certificate.grid[1].mean_loss == pytest.approx(np.mean(losses))
    module(METRIC + '\n')
    assert calibrate(*flags, output='own2.json', model=False, promise=promise) == 0
    other = Certificate.load(folder / 'own2.json')
    assert other.metric_version != certificate.metric_version and other.grid == certificate.grid


@pytest.mark.parametrize(
    'name, message',
    [
        ('total', 'the shape []'),
        ('percent', '100.0 for example 0'),
        ('unknown', 'nan for example 0'),
        ('words', 'no list of numbers'),
        ('broken', 'metric own_metrics:broken raised KeyError'),
        ('number', 'is no function'),
        ('missing', 'cannot be imported'),
    ],
)
def test_a_metric_that_gives_no_values_in_0_1_is_one_line(certified, calibrate, module, folder, capsys, name, message):
    flags = ('--records', str(folder / 'records'), '--tolerance', '.7')
    promise = ('--metric', f'{module(METRIC)}:{name}')
    assert calibrate(*flags, output='bad.json', model=False, promise=promise) == 2
    assert message in one_line(capsys) and not (folder / 'bad.json').exists()


@pytest.fixture
def losses(records, tmp_path):
    """Writes losses of the records at points, by name; returns the file."""

    def write(by_point, change=lambda lines: lines):
        ids = [row['id'] for row in rows(records / 'full.jsonl')]
        lines = [
            {'id': each, 'losses': {point: float(values[i]) for point, values in by_point.items()}}
            for i, each in enumerate(ids)
        ]
        path = tmp_path / 'losses.jsonl'
        path.write_text(''.join(json.dumps(line) + '\n' for line in change(lines)))
        return str(path)

    return write


OUTSIDE = ('--tolerance', '0.2')


def test_losses_from_outside_are_certified_by_point_and_can_be_enforced(
    checkpoint, data, calibrate, records, losses, folder, generate
):
    first, second = np.tile([0.0, 0.1], 35), np.full(70, 0.05)
    digest = path_of(records, 0.9).stem.removeprefix('point_')
    path = losses({'0.99': first, digest: second}, change=lambda lines: lines[::-1])
    flags = ('--records', str(records), '--grid', '.99,.9', '--losses', path)
    assert calibrate(*flags, output='outside.json', model=False, promise=OUTSIDE) == 0
    certificate = Certificate.load(folder / 'outside.json')
    assert [point.mean_loss for point in certificate.grid] == pytest.approx([0.05, 0.05])
    assert certificate.objective is None and certificate.metric == 'losses.jsonl' and 'sha256' in certificate.metric_version
    assert certificate.threshold == 0.9
    code, out = generate('--certificate', str(folder / 'outside.json'))
    assert code == 0 and out.read_bytes() == path_of(records, 0.9).read_bytes()
    assert reader.read(records).curves[0].metric == 'losses.jsonl'


def test_losses_are_needed_of_points_that_are_tested_alone(calibrate, records, losses, folder, capsys):
    flags = ('--records', str(records), '--losses', losses({'0.99': np.full(70, 0.9)}))
    assert calibrate(*flags, output='failing.json', model=False, promise=OUTSIDE) == 0
    assert not Certificate.load(folder / 'failing.json').found
    flags = ('--records', str(records), '--losses', losses({'0.99': np.zeros(70)}))
    assert calibrate(*flags, output='lacking.json', model=False, promise=OUTSIDE) == 2
    assert 'no losses at λ = 0.9, point ' in one_line(capsys)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda lines: lines[1:], 'no losses of the example with id "row 0"'),
        (lambda lines: [*lines, lines[0]], 'id "row 0" again'),
        (lambda lines: [*lines, {**lines[0], 'id': 'row 70'}], 'losses.jsonl:71: id "row 70" is of no record'),
        (lambda lines: [{**lines[0], 'losses': {'0.95': 0.1}}, *lines[1:]], "'0.95' names no point"),
        (lambda lines: [{**lines[0], 'losses': {'0.99': 0.1, '.99': 0.1}}, *lines[1:]], 'two losses of one point'),
        (lambda lines: [{**lines[0], 'losses': {'0.99': '0.1'}}, *lines[1:]], 'expected a number'),
        (lambda lines: [{**lines[0], 'losses': 0.1}, *lines[1:]], 'expected an object'),
        (lambda lines: [{**lines[0], 'losses': {}}, *lines[1:]], 'losses.jsonl:1: no loss at λ = 0.99'),
        (lambda lines: [{'id': 'row 0'}, *lines[1:]], "no field 'losses'"),
        (lambda lines: [{**lines[0], 'losses': {'0.99': 1.5}}, *lines[1:]], '1.5'),
    ],
)
def test_losses_that_are_not_of_the_records_are_one_line(calibrate, records, losses, folder, capsys, change, message):
    path = losses({'0.99': np.zeros(70)}, change)
    assert calibrate('--records', str(records), '--losses', path, output='unlike.json', model=False, promise=OUTSIDE) == 2
    assert message in one_line(capsys) and not (folder / 'unlike.json').exists()


@pytest.mark.parametrize('flags', [('--metric', 'chrf'), ('--objective', 'risk')])
def test_losses_from_outside_are_of_no_metric(calibrate, records, losses, capsys, flags):
    path = losses({'0.99': np.zeros(70)})
    assert calibrate('--records', str(records), '--losses', path, *flags, output='both.json', model=False, promise=OUTSIDE) == 2
    assert f'--losses and {flags[0]}' in one_line(capsys)


def test_a_grid_is_decoded_without_a_promise(calibrate, certified, records, tmp_path):
    flags = ('--measure', 'classifier', '--grid', '.99,.9', '--records', str(tmp_path / 'new'), '--whole_grid')
    assert calibrate(*flags, output=None, promise=()) == 0
    assert {path.name for path in (tmp_path / 'new').glob('*.jsonl')} == {
        'full.jsonl',
        path_of(records, 0.99).name,
        path_of(records, 0.9).name,
    }
    assert (tmp_path / 'new' / 'full.jsonl').read_bytes() == (records / 'full.jsonl').read_bytes()


def test_records_are_kept_by_the_fingerprint_of_the_data_unless_told_otherwise(calibrate, certified, folder):
    """In folders of their own, where the settings differ in more than λ; the same settings find theirs again."""
    same, other = ('--grid', '.99,.9'), ('--grid', '.99,.8', '--max_new_tokens', '3')
    for flags in (same, ('--grid', '.99,.8'), other, (*same, '--records', 'none')):
        output = ('--output', str(folder / 'kept' / 'c.json'), '--overwrite')
        assert calibrate('--measure', 'classifier', *flags, *output) == 0
    kept = list(folder.glob('kept/calm_records/*'))
    fingerprint = Certificate.load(certified).provenance['data']['fingerprint']
    assert len(kept) == 2 and all(path.name.startswith(fingerprint[:12]) for path in kept)
    assert all((path / 'curve.json').is_file() and list(path.glob('point_*.jsonl')) for path in kept)
    assert {path.name for path in folder.glob('kept/*')} == {'c.json', 'calm_records'}


def test_trials_are_reported_with_what_they_prove(calibrate, records):
    flags = (*DECODING, '--trials', '5', '--trial_tolerances', '.6,.7')
    assert calibrate('--records', str(records), *flags, output='t.json') == 0
    trials = json.loads((records / 'trials.json').read_text())
    assert [row['tolerance'] for row in trials['tolerances']] == [0.6, 0.7] and trials['n_calibration'] == 56
    assert 'prove nothing' in trials['note'] and trials['provenance']['settings']['exit']


@pytest.mark.parametrize('flags', [('--quiet',), ()])
def test_trials_and_power_show_bars_unless_quiet(certified, folder, data, flags, bars):
    common = ('--data', data, '--metric', 'chrf', '--tolerance', '.7', '--trials', '2')
    assert main(['calibrate', '--records', str(folder / 'records'), *common, *flags]) == 0
    assert main(['calibrate', '--power', '--tolerance', '.3', '--expected_loss', '.03', '--p_value', 'binomial', *flags]) == 0
    shown = {description for description, _ in bars}
    assert {'trials', 'simulating calibrations'} <= shown and any(each.startswith('trials at λ = 0.99') for each in shown)
    assert all(quiet == bool(flags) for _, quiet in bars)


def test_the_grid_can_come_from_confidences_on_other_data(calibrate, folder, tmp_path, data, capsys, bars):
    other = tmp_path / 'tune.jsonl'
    other.write_text(''.join(json.dumps({'en': f'horse {i}'}) + '\n' for i in range(12)))
    assert calibrate('--measure', 'classifier', '--grid_data', str(other), output='q.json') == 0
    assert {'confidences'} <= {description for description, _ in bars}
    grid = [point.threshold for point in Certificate.load(folder / 'q.json').grid]
    assert len(grid) > 10 and grid == sorted(grid, reverse=True) and all(0 < each < 1 for each in grid)
    capsys.readouterr()
    assert calibrate('--measure', 'classifier', '--grid_data', str(other), '--min_exit_layer', '3', output='q3.json') == 2
    assert '--min_exit_layer' in one_line(capsys)
    assert calibrate('--measure', 'classifier', '--grid_data', data, output='overlap.json') == 2
    assert 'overlap' in one_line(capsys)


@pytree
class Everything(PlanMaker):
    """All sub-layers of all rows."""

    def __call__(self, context):
        rows = len(context.example_ids)
        return Plan(*(np.ones((rows, 3), bool),) * 3, *(np.ones((rows, 1), bool),) * 2)


@pytest.fixture(scope='module')
def observed(checkpoint):
    """Confidences of the classifier at every layer, of texts decoded within a plan."""
    model, texts = load(checkpoint), [f'horse {i}' for i in range(5)]
    measure = Classifier(**model.heads['exit_classifier'])

    def run(plan=None, min_exit_layer=1):
        decoding = Decoding(limits=Limits(16, 8), exit=Exit(measure, 0.0, min_exit_layer=min_exit_layer), plan=plan)
        outputs = list(model.generate(texts, decoding, batch_size=8))
        seen = confidences.layer_confidences(model, texts, measure, decoding, min_exit_layer=min_exit_layer, batch_size=8)
        lengths = [len(each.tokens) for each in model.generate(texts, dataclasses.replace(decoding, exit=None), batch_size=8)]
        return seen, outputs, np.cumsum([0, *lengths])[:-1]

    return run


def test_confidences_are_of_layers_where_a_token_may_leave(observed):
    full, late = observed()[0], observed(min_exit_layer=2)[0]
    assert full.leaves.all(axis=1).tolist() == [True, True, False] and full.agrees[-1].all()
    assert late.leaves.all(axis=1).tolist() == [False, True, False]
    np.testing.assert_array_equal(late.confidence, full.confidence)


def test_confidences_within_a_plan_are_those_at_the_layers_that_run(observed):
    # λ = 0 leaves after the first layer that runs, with the confidence that was seen there; a row's first token has no earlier
    # one that could have left elsewhere.
    seen, outputs, starts = observed(Uniform(0.6))
    runs = seen.leaves.any(axis=1)
    first = int(np.flatnonzero(runs)[0])
    assert runs.sum() == 1 and not runs[-1]
    np.testing.assert_allclose(seen.confidence[first, starts], [each.confidence[0] for each in outputs], rtol=1e-5)
    full, everything = observed()[0], observed(Everything())[0]
    np.testing.assert_allclose(everything.confidence, full.confidence, rtol=1e-5)
    assert (everything.leaves == full.leaves).all()


def test_a_certificate_covers_the_pruning_and_the_contrast_it_was_found_with(calibrate, folder, checkpoint, capsys):
    made = ('--measure', 'weighted_contrast', '--alpha', '0.2', '--vocabulary', 'fixed', '--keep', '9', '--grid', '.9,.5')
    assert calibrate(*made, output='pruned.json') == 0
    flags = ['generate', '--checkpoint', checkpoint, '--certificate', str(folder / 'pruned.json'), '--prompt', 'horse']
    assert main([*flags, '--batch_size', '8']) == 0
    capsys.readouterr()
    for *other, said in (
        ('--keep', '8', 'covers 9'),
        ('--alpha', '0.1', 'covers 0.2'),
        ('--vocabulary', 'whole', 'covers fixed'),
    ):
        assert main([*flags, *other]) == 2 and said in one_line(capsys)
    measure = Certificate.load(folder / 'pruned.json').grid[0].decoding['exit']['measure']
    assert measure == {'class': 'weighted_contrast', 'alpha': 0.2, 'vocabulary': {'class': 'fixed', 'keep': 9}}


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
        (('--measure', 'classifier', '--grid', '.9,.9'), 'twice'),
        (('--measure', 'classifier', '--grid', 'a'), '--grid'),
        (('--measure', 'classifier', '--groups', 'nothing'), 'nothing'),
        (('--measure', 'classifier', '--trials', '5', '--records', 'none'), '--trials needs records'),
        (('--measure', 'classifier', '--trials', '0'), '--trials 0'),
        (('--measure', 'classifier', '--trials', '5', '--metric', 'rouge1', '--records', 'never'), 'one --metric'),
        (('--measure', 'classifier', '--trials', '5', '--trial_tolerances', '.1,2', '--records', 'never'), 'found 2'),
        (('--measure', 'classifier', '--trials', '5', '--trial_tolerances', 'a', '--records', 'never'), '--trial_tolerances'),
        (('--measure', 'classifier', '--trial_tolerances', '.1'), '--trials K'),
        (('--measure', 'classifier', '--whole_grid', '--records', 'none'), '--whole_grid needs records'),
        (('--gin_file=depth/classifier.gin', '--gin.Exit.threshold=0.9'), 'Exit.threshold'),
        (('--measure', 'classifier', '--output', '/', '--overwrite'), 'is a folder'),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_writes_nothing(calibrate, folder, capsys, flags, message):
    assert calibrate(*flags, output='wrong.json') == 2
    assert message in one_line(capsys)
    assert not (folder / 'wrong.json').exists() and not pathlib.Path('never').exists()


@pytest.mark.parametrize('tolerance, message', [('0', 'tolerance'), ('1', 'tolerance'), ('0.02', '149')])
def test_too_few_examples_say_how_many_it_takes(calibrate, tmp_path, capsys, tolerance, message):
    flags = ('--measure', 'state', '--p_value', 'hoeffding_bentkus', '--records', str(tmp_path / 'records'))
    assert calibrate(*flags, '--output', str(tmp_path / 'c.json'), promise=('--metric', 'chrf', '--tolerance', tolerance)) == 2
    assert message in one_line(capsys)
    assert not list(tmp_path.iterdir())  # nothing was decoded


def test_gin_path_names_the_folder_of_the_gin_files(capsys):
    assert main(['gin_path']) == 0
    folder = pathlib.Path(capsys.readouterr().out.strip())
    assert (folder / 'runs' / 'train.gin').is_file() and not (folder / '__init__.py').exists()
