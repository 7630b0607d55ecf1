"""`calm calibrate` with several measures, vocabularies, forms and plans at once: what is tested, and the one certificate."""

import argparse
import dataclasses
import json
import logging
import pathlib
import shutil

import numpy as np
import pytest

import calm_jax as calm
from calm_jax import certified, recorded, speed, tuning
from calm_jax.calibration import Certificate, pareto_path
from calm_jax.cli import main
from calm_jax.commands import decode_flags
from calm_jax.decoding.codec import describe, to_json
from calm_jax.decoding.layout import at
from calm_jax.decoding.packing import Packing
from calm_jax.metrics import quality
from calm_jax.model import load
from calm_jax.reporting import reader
from calm_jax.reporting.promises import promise
from calm_jax.speed import Timed, sample

MEASURES = ('--measure', 'classifier', '--measure', 'state', '--grid', '.99,.9,.8', '--grid', '.9,.2')
PROMISE = ('--metric', 'chrf', '--tolerance', '0.7')


@pytest.fixture(scope='module')
def model(checkpoint):
    return load(checkpoint)


@pytest.fixture
def documents(model):
    """The candidates of flags, in a few words."""

    def run(*flags):
        parser = argparse.ArgumentParser(prog='calm', exit_on_error=False)
        decode_flags.add_decoding(parser, threshold=False, several=True)
        candidates = decode_flags.candidates_of(parser.parse_args([*flags]), model)
        return [(describe(to_json(each.decoding)), each.measure) for each in candidates]

    return run


def test_the_values_of_flags_are_crossed_and_options_are_of_all_that_own_them(documents):
    flags = ('--measure', 'softmax_gap', '--measure', 'state', '--vocabulary', 'whole', '--vocabulary', 'fixed', '--keep', '9')
    assert documents(*flags) == [('softmax_gap', 0), ('softmax_gap, fixed vocabulary of 9', 0), ('state', 1)]
    forms = ('--measure', 'state', '--threshold_form', 'constant', '--threshold_form', 'decaying', '--decay_temperature', '3')
    assert [name for name, _ in documents(*forms, '--min_exit_layer', '2')] == [
        'state, min_exit_layer 2',
        'state, decaying threshold (temperature 3.0), min_exit_layer 2',
    ]
    assert [
        name for name, _ in documents('--measure', 'softmax_gap', '--vocabulary', 'fixed', '--keep', '8', '--keep', '9')
    ] == ['softmax_gap, fixed vocabulary of 8', 'softmax_gap, fixed vocabulary of 9']


def test_none_stands_for_no_measure_or_plan_and_full_depth_is_no_candidate(documents):
    assert documents('--measure', 'state', '--measure', 'none', '--plan', 'none', '--plan', 'uniform:2') == [
        ('state', 0),
        (f'state, uniform plan (share {2 / 3})', 0),
        (f'uniform plan (share {2 / 3})', None),
    ]
    assert documents('--plan', 'uniform:2', '--plan', 'uniform:1', '--plan', 'uniform:3') == [
        (f'uniform plan (share {2 / 3})', None),
        (f'uniform plan (share {1 / 3})', None),
    ]
    assert documents('--measure', 'state', '--measure', 'none', '--measure', 'classifier') == [('state', 0), ('classifier', 1)]
    assert documents('--measure', 'state', '--measure', 'state') == [('state', 0)] and documents('--measure', 'none') == []


def test_of_what_decodes_alike_there_is_one_candidate(documents):
    plan = f'uniform plan (share {2 / 3})'
    assert documents('--measure', 'state', '--plan', 'none', '--plan', 'uniform:3') == [('state', 0)]
    assert len(documents('--measure', 'state', '--plan', 'uniform:3', '--plan', 'none')) == 1
    assert documents('--plan', 'uniform:2', '--plan', 'uniform:3', '--plan', 'uniform:2') == [(plan, None)]
    assert documents('--measure', 'state', '--threshold_form', 'constant', '--plan', 'none', '--plan', 'uniform:2') == [
        ('state', 0),
        (f'state, {plan}', 0),
    ]


def test_several_classes_of_ones_own_bring_their_options(documents, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'own_candidates.py').write_text(OWN)
    flags = [word for name in ('First', 'Second') for word in ('--measure', f'own_candidates:{name}')]
    assert [name for name, _ in documents(*flags, '--measure', 'state', '--first', '3', '--second', '4')] == [
        'First (first 3.0)',
        'Second (second 4.0)',
        'state',
    ]


OWN = """
from calm_jax import Measure, option, pytree


@pytree
class First(Measure):
    first: float = option('one', default=1.0)


@pytree
class Second(Measure):
    second: float = option('two', default=1.0)
"""


def test_gin_is_of_all_candidates_and_flags_win(documents):
    gap, pruned = '--gin.Exit.measure=@SoftmaxGap()', '--gin.FixedPruning.keep=9'
    assert documents(gap, pruned, '--vocabulary', 'whole', '--vocabulary', 'fixed') == [
        ('softmax_gap', None),
        ('softmax_gap, fixed vocabulary of 9', None),
    ]
    plan = f'uniform plan (share {2 / 3})'
    assert documents(gap, '--measure', 'none', '--measure', 'state', '--plan', 'uniform:2') == [
        (plan, None),
        (f'state, {plan}', 0),
    ]
    assert documents(gap, '--measure', 'none', '--plan', 'uniform:2') == [(plan, None)]


@pytest.mark.parametrize(
    'flags, message',
    [
        (('--measure', 'state', '--measure', 'softmax_gap', '--gin.FixedPruning.keep=9'), 'which gin binds, changes nothing'),
        (('--measure', 'state', '--measure', 'classifier', '--keep', '9'), '--keep 9 changes nothing: it belongs to fixed'),
        (('--measure', 'state', '--measure', 'none', '--vocabulary', 'fixed'), '--vocabulary fixed changes nothing'),
        (('--plan', 'uniform:1', '--plan', 'uniform:2', '--min_exit_layer', '2'), '--min_exit_layer 2 changes nothing'),
        (('--plan', 'uniform:1', '--plan', 'uniform:2', '--propagation', 'eager'), '--propagation eager changes nothing'),
        (('--measure', 'state', '--measure', 'classifier', '--min_exit_layer', '9'), 'the decoder has 3 layers'),
        (('--measure', 'state', '--plan', 'uniform:7', '--plan', 'none'), 'expected uniform:C'),
    ],
)
def test_what_no_candidate_has_a_use_for_is_refused(documents, flags, message):
    with pytest.raises(ValueError, match=message) as error:
        documents(*flags)
    assert '\n' not in str(error.value)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('candidates')


@pytest.fixture(scope='module')
def tune(folder):
    """Tuning examples, unlike those of the calibration."""
    path = folder / 'tune.jsonl'
    words = ['ox', 'dog', 'a horse', 'cats']
    lines = [{'en': f'{words[i % 4]} {words[i % 3]} {i}', 'fr': words[i % 4]} for i in range(24)]
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return str(path)


@pytest.fixture(scope='module')
def calibrated(checkpoint, data, folder):
    """Runs the command, all texts in one batch; the exit code and the path of the certificate."""

    def run(*flags, name, model=True, quiet=True):
        decoding = ('--checkpoint', checkpoint, '--source_field', 'en', '--batch_size', '70') if model else ()
        path = folder / f'{name}.json'
        silent = ('--quiet',) if quiet else ()
        return main(['calibrate', *decoding, '--data', data, *PROMISE, '--output', str(path), *silent, *flags]), path

    return run


@pytest.fixture(scope='module')
def starts(calibrated, folder):
    """A certificate of two measures, each a path at half of ε, and its records."""
    code, path = calibrated(*MEASURES, '--records', str(folder / 'records'), name='starts')
    assert code == 0
    return path


@pytest.fixture(scope='module')
def tuned(calibrated, folder, tune):
    """A certificate of a path that tuning data chose, and its records."""
    code, path = calibrated(*MEASURES, '--tuning_data', tune, '--records', str(folder / 'tuned'), name='tuned')
    assert code == 0
    return path


def test_each_combination_is_a_sequence_and_the_cheapest_valid_of_all_is_certified(starts, folder):
    certificate = Certificate.load(starts)
    assert [(point.path, point.threshold) for point in certificate.grid] == [
        (0, 0.99), (0, 0.9), (0, 0.8), (1, 0.9), (1, 0.2),
    ]  # fmt: skip
    valid = [point for point in certificate.grid if point.rejected]
    assert {point.path for point in valid} == {0, 1} and certificate.cost == min(point.cost for point in valid)
    for path in (0, 1):
        points = [point for point in certificate.grid if point.path == path and point.p_value is not None]
        assert all(point.rejected == (point.p_value <= 0.025) for point in points)
    assert [point.path for point in recorded.read(folder / 'records').points] == [0, 0, 0, 1, 1]


def test_the_same_comes_out_without_a_model_and_from_python(starts, calibrated, folder, model, data, tmp_path):
    code, again = calibrated('--records', str(folder / 'records'), name='again', model=False)
    assert code == 0 and again.read_bytes() == starts.read_bytes()
    exits = calm.Exit(calm.Classifier(**model.heads['exit_classifier'])), calm.Exit(calm.StateSimilarity())
    grids = [0.99, 0.9, 0.8], [0.9, 0.2]
    paths = [calm.points_of(calm.Decoding(exit=exit), grid) for exit, grid in zip(exits, grids)]
    options = {'metric': 'chrf', 'tolerance': 0.7, 'source_field': 'en', 'batch_size': 70, 'records': tmp_path / 'r'}
    assert calm.calibrate_model(model, data, paths, **options) == Certificate.load(starts)


def test_every_measure_has_its_curve_and_the_report_knows_which_is_the_certificates(starts, folder, tmp_path):
    certificate = Certificate.load(starts)
    copy = pathlib.Path(shutil.copytree(folder / 'records', tmp_path / 'run'))
    shutil.copy(starts, copy / 'certificate.json')
    run = reader.read(copy)
    assert {curve.label for curve in run.curves} == {'classifier', 'state'} and not (copy / 'curve.json').exists()
    measure = certificate.decoding['exit']['measure']['class']
    shown = promise(run.certificates[0], run.curves)
    curve = next(curve for curve in run.curves if curve.label == measure)
    assert shown.label == measure
    assert shown.layers == next(point.layers for point in curve.points if point.decoding == certificate.decoding)


def test_a_model_decodes_within_it(starts, model, data, folder):
    certificate = Certificate.load(starts)
    lines = (folder / 'records' / recorded.read(folder / 'records').file(certificate.decoding)).read_text().splitlines()
    outputs = model.generate([json.loads(line) for line in open(data)], certificate=starts)
    assert [each.tokens for each in outputs] == [json.loads(line)['tokens'] for line in lines]


def test_the_path_is_what_the_records_of_the_tuning_data_say(tuned, folder, tune):
    certificate, records = Certificate.load(tuned), folder / 'tuned'
    candidates, rows = recorded.read(records / 'tuning').points, {}
    for document in [recorded.read(records).full, *(point.decoding for point in candidates)]:
        path = records / 'tuning' / recorded.read(records).file(document)
        if path.exists():
            rows[path.name] = [json.loads(line) for line in path.read_text().splitlines()]
    full = [row['text'] for row in rows['full.jsonl']]
    assert len(full) == 24

    def of(row):
        return sum(each['flops'] for each in row) / sum(len(each['tokens']) for each in row)

    decoded = [point for point in candidates if recorded.read(records).file(point.decoding) in rows]
    costs, unsafe = [], []
    for point in decoded:
        early = rows[recorded.read(records).file(point.decoding)]
        losses = [0.0 if a['text'] == b else 1 - quality.chrf([a['text']], [[b]])[0] for a, b in zip(early, full)]
        costs.append(of(early))
        unsafe.append(np.mean(losses))
    path = pareto_path(costs, unsafe, below=of(rows['full.jsonl']))
    assert [point.decoding for point in certificate.grid] == [decoded[index].decoding for index in path]
    assert {point.path for point in certificate.grid} == {0}
    written = certificate.provenance['tuning']
    assert written['candidates'] == 5 and written['data']['examples'] == 24 and certificate.cost_unit == 'FLOPs per token'
    assert certificate.cost < written['cost_full']


def test_the_path_is_found_again_from_the_records_alone(tuned, calibrated, folder, tune, capsys):
    flags = ('--records', str(folder / 'tuned'), '--tuning_data', tune)
    code, again = calibrated(*flags, name='tuned_again', model=False)
    assert code == 0 and again.read_bytes() == tuned.read_bytes()
    code, without = calibrated('--records', str(folder / 'tuned'), name='untuned', model=False)  # then all are tested
    assert code == 2 and 'not decoded yet' in one_line(capsys) and not without.exists()


def test_a_model_decodes_within_a_certificate_whatever_it_was_tuned_on(tuned, model):
    certificate = Certificate.load(tuned)
    outputs = model.generate(['horse', 'cat'], certificate=certificate)
    assert len(outputs[0].tokens) and certificate.decoding == to_json(certified.decoding_of(certificate, model.heads))


def test_trials_are_of_the_path_that_was_tuned(tuned, calibrated, folder, tune):
    flags = ('--tuning_data', tune, '--records', str(folder / 'tuned'), '--trials', '3', *MEASURES)
    assert calibrated(*flags, name='trials')[0] == 0
    trials = json.loads((folder / 'tuned' / 'trials.json').read_text())
    assert trials['trials'] == 3 and trials['label'].startswith('state') and trials['n_calibration'] == 56


def test_plans_are_one_sequence_in_the_order_of_their_flags(calibrated, capsys):
    plans = ('--plan', 'uniform:2', '--plan', 'uniform:1')
    code, path = calibrated(*plans, '--measure', 'none', '--measure', 'state', '--grid', '.9', name='plans', quiet=False)
    printed = capsys.readouterr().out
    assert code == 0 and 'settings of 3 sequences tested, at ε/3 each' in printed
    grid = Certificate.load(path).grid
    assert [(point.path, point.threshold, point.decoding['plan'].get('share')) for point in grid] == [
        (0, 0.9, pytest.approx(2 / 3)),
        (1, 0.9, pytest.approx(1 / 3)),
        (2, None, pytest.approx(2 / 3)),
        (2, None, pytest.approx(1 / 3)),
    ]


def test_grids_are_of_measures_and_none_has_no_grid(calibrated):
    flags = ('--measure', 'state', '--measure', 'none', '--measure', 'classifier', '--grid', '.9', '--grid', '.8')
    code, path = calibrated(*flags, '--plan', 'uniform:2', name='grids')
    assert code == 0
    points = [(at(point.decoding, ('exit', 'measure')).get('class'), point.threshold) for point in Certificate.load(path).grid]
    assert points == [('state', 0.9), ('classifier', 0.8), (None, None)]


@pytest.fixture
def clock(monkeypatch):
    """What a decoding takes: a second at full depth, else what `seconds` says of its measure."""

    def run(seconds):
        def time_decodings(model, decodings, texts, batch_size, rounds=3, quiet=True, pack='auto'):
            taken = [1.0 if each.exit is None else seconds[type(each.exit.measure).__name__] for each in decodings]
            return Timed(np.outer([0.9, 1.0, 1.2], taken) * len(texts), np.full(len(decodings), 5 * len(texts)), [])

        for module in (speed, tuning):
            monkeypatch.setattr(module, 'time_decodings', time_decodings)

    return run


def test_seconds_on_tuning_data_decide_where_they_are_asked_for(tuned, calibrated, folder, tune, clock):
    records = str(folder / 'tuned')
    for cheap, dear in (('Classifier', 'StateSimilarity'), ('StateSimilarity', 'Classifier')):
        clock({cheap: 0.5, dear: 1.5})
        flags = (*MEASURES, '--tuning_data', tune, '--cost', 'seconds', '--records', records)
        code, path = calibrated(*flags, name=f'seconds_{cheap}')
        assert code == 0
        certificate = Certificate.load(path)
        classes = {point.decoding['exit']['measure']['class'] for point in certificate.grid}
        assert classes == {'classifier' if cheap == 'Classifier' else 'state'}
        assert certificate.cost == 0.5 and certificate.cost_unit.startswith('seconds per text (')
        assert certificate.provenance['tuning']['cost_full'] == 1.0
        assert certificate.speed['speed_up'] == 2 and certificate.speed['batch_size'] == 32  # the rows of 24 texts
        assert Certificate.from_json(certificate.to_json()) == certificate
    again = ('--tuning_data', tune, '--cost', 'seconds', '--records', records)
    code, path = calibrated(*again, name='seconds_again', model=False)
    assert code == 0 and [point.decoding for point in Certificate.load(path).grid] == [
        point.decoding for point in certificate.grid
    ]


def test_where_nothing_is_cheaper_there_is_nothing_to_certify(tuned, calibrated, folder, tune, clock, capsys):
    clock({'Classifier': 1.5, 'StateSimilarity': 1.0})
    flags = (*MEASURES, '--tuning_data', tune, '--cost', 'seconds', '--records', str(folder / 'tuned'))
    code, path = calibrated(*flags, name='nothing')
    assert code == 2 and not path.exists()
    assert 'none of 5 candidates is cheaper than full depth' in one_line(capsys)


def one_line(capsys):
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and 'Traceback' not in error
    return error


@pytest.mark.parametrize(
    'flags, message',
    [
        ((*MEASURES, '--trials', '3', '--records', 'never'), '--trials replicates a figure of one sequence'),
        ((*MEASURES, '--grid', '.5'), '3 grids for 2 measures'),
        ((*MEASURES, '--cost', 'seconds'), 'measured on tuning data'),
        ((*MEASURES, '--tuning_data', 'calibration'), 'must not overlap'),
        ((*MEASURES, '--tuning_data', 'missing.jsonl'), 'missing.jsonl'),
        ((*MEASURES, '--keep', '9'), '--keep 9 changes nothing'),
        (('--measure', 'state', '--grid', '.9,.8', '--grid', '.9'), '2 grids for 1 measures'),
        (('--measure', 'none', '--plan', 'none'), '--measure is missing'),
        (
            ('--measure', 'state', '--measure', 'state', '--grid', '.9', '--grid', '.8'),
            '--measure state is given more than once',
        ),
        ((*MEASURES, '--epsilon', '4e-37', '--p_value', 'hoeffding_bentkus'), '70 examples are too few: at tolerance 0.7 and'),
        (('--measure', 'state', '--measure', 'stat'), "unknown 'stat'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(calibrated, folder, data, capsys, flags, message):
    flags = [data if flag == 'calibration' else flag for flag in flags]
    code, path = calibrated(*flags, name='wrong')
    assert code == 2 and message in one_line(capsys) and not path.exists() and not pathlib.Path('never').exists()


@pytest.mark.parametrize(
    'flags, message',
    [
        (('--measure_speed',), '--measure_speed needs a model'),
        (('--cost', 'seconds'), 'measured on tuning data'),
        (('--measure', 'state', '--measure', 'classifier'), '--measure is given 2 times'),
        (('--grid', '.9'), '2 points at λ = 0.9'),
    ],
)
def test_without_a_model_what_cannot_be_is_one_line(starts, calibrated, folder, capsys, flags, message):
    code, path = calibrated('--records', str(folder / 'records'), *flags, name='wrong', model=False)
    assert code == 2 and message in one_line(capsys) and not path.exists()


def test_losses_from_outside_are_not_tuned(starts, checkpoint, folder, data, tune, capsys):
    flags = ('--data', data, '--records', str(folder / 'records'), '--tolerance', '.2', '--output', str(folder / 'wrong.json'))
    assert main(['calibrate', *flags, '--losses', 'l.jsonl', '--tuning_data', tune]) == 2
    assert 'losses from outside' in one_line(capsys)


@pytest.fixture
def generate(checkpoint, data, tmp_path):
    """Decodes within a certificate; the exit code."""

    def run(certificate, *flags, output='out.jsonl'):
        files = ('--input', data, '--output', str(tmp_path / output), '--certificate', str(certificate))
        return main(['generate', '--checkpoint', checkpoint, *files, '--batch_size', '8', *flags])

    return run


@pytest.fixture
def measured(starts, tmp_path):
    """The certificate with a speed that was measured here, changed."""

    def write(**changes):
        certificate = Certificate.load(starts)
        here = {'speed_up': 1.25, 'speed_up_least': 1.2, 'speed_up_greatest': 1.3, **certified.speed_conditions(8, 'refill')}
        path = tmp_path / 'measured.json'
        dataclasses.replace(certificate, speed={**here, **changes}).save(path)
        return path

    return write


def test_generate_warns_where_the_certificate_was_measured_to_be_slower_here(generate, measured, capsys):
    assert generate(measured(speed_up=0.8), '--quiet') == 0
    said = capsys.readouterr().err
    assert 'warning' in said and 'slower here than full depth' in said and '0.80 times' in said


def test_generate_says_what_was_measured_or_that_nothing_was_here(generate, measured, starts, capsys):
    certified._warned.clear()
    assert generate(measured()) == 0
    said = capsys.readouterr()
    assert 'measured when it was calibrated: 1.25 × full depth' in said.out and 'slower' not in said.err
    for number, change in enumerate([None, {'device': 'an abacus'}, {'batch_size': 9}, {'pack': '1:2'}, {'pack': 'none'}]):
        path = starts if change is None else measured(speed_up=0.5, **change)
        assert generate(path, output=f'{number}.jsonl') == 0
        said = capsys.readouterr()
        assert 'not measured here (batch size 8, pack refill' in said.out and 'slower' not in said.err


def test_python_warns_of_it_too(measured, model, caplog):
    certified._warned.clear()
    with caplog.at_level(logging.WARNING, 'calm_jax'):
        model.generate(['horse'] * 9, certificate=measured(speed_up=0.8), batch_size=8)
    assert any('slower here than full depth' in record.message for record in caplog.records)
    caplog.clear()
    certified._warned.clear()
    for count, pack in ((8, 'auto'), (9, 'none')):  # a batch alone, and batch by batch: measured was neither
        model.generate(['horse'] * count, certificate=measured(speed_up=0.8), batch_size=8, pack=pack)
    assert not any('slower' in record.message for record in caplog.records)


def test_generate_measures_where_it_is_asked_to(generate, starts, tmp_path, clock, capsys):
    clock({'Classifier': 2.0, 'StateSimilarity': 2.0})
    assert generate(starts, '--measure_speed') == 0
    assert 'measured: slower than full depth: 0.50 × full depth (0.50–0.50), batch size 8' in capsys.readouterr().out
    summary = json.loads((tmp_path / 'out.jsonl.summary.json').read_text())
    assert summary['speed']['speed_up'] == 0.5 and summary['speed']['texts'] == 32 and summary['speed']['rounds'] == 3


def test_generate_measures_what_is_decoded_already(generate, starts, tmp_path, clock, capsys):
    assert generate(starts) == 0
    path = tmp_path / 'out.jsonl.summary.json'
    before, records = json.loads(path.read_text()), (tmp_path / 'out.jsonl').read_bytes()
    clock({'Classifier': 2.0, 'StateSimilarity': 2.0})
    capsys.readouterr()
    assert generate(starts, '--resume', '--measure_speed') == 0
    printed, after = capsys.readouterr().out, json.loads(path.read_text())
    assert 'out.jsonl is complete' in printed and 'measured: slower than full depth' in printed
    assert after.pop('speed')['speed_up'] == 0.5 and after == before
    assert (tmp_path / 'out.jsonl').read_bytes() == records


@pytest.mark.parametrize(
    'flags, message',
    [
        (('--source_field', 'en', '--input', 'in', '--output', 'o.jsonl'), 'this decodes at full depth'),
        (('--prompt', 'horse'), '--measure_speed times batches'),
        (('--prompt', 'horse', '--source_field', 'en'), '--source_field belongs to --input'),
        (
            ('--source_field', 'en', '--input', 'in', '--output', 'o.jsonl', '--measure', 'state', '--threshold_field', 'page'),
            '--threshold_field out',
        ),
    ],
)
def test_there_must_be_something_to_measure(checkpoint, data, tmp_path, capsys, flags, message):
    flags = [data if each == 'in' else str(tmp_path / each) if each == 'o.jsonl' else each for each in flags]
    assert main(['generate', '--checkpoint', checkpoint, *flags, '--measure_speed']) == 2
    assert message in one_line(capsys) and not (tmp_path / 'o.jsonl').exists()


def test_rounds_are_interleaved_and_the_first_is_dropped(model, monkeypatch):
    times, order, packs = iter(range(1000)), [], []
    monkeypatch.setattr(speed, 'perf_counter', lambda: next(times) ** 2)

    class Streamed:
        def stream(self, texts, decoding, batch_size, pack, watch):
            order.append(decoding)
            packs.append(pack)
            watch(len(order))
            return [calm.Output('', [1, 2], [], [], [], [], 0, 0, 0, 0, False, 0)] * len(texts)

    timed = speed.time_decodings(Streamed(), ['full', 'early'], ['a', 'b'], 4, rounds=2, pack='1:2')
    assert order == ['early', 'full', 'full', 'early', 'early', 'full'] and packs == ['1:2'] * 6
    # Clock readings k² − (k − 1)² with k = 5, 7, 9, 11, in the order above.
    np.testing.assert_array_equal(timed.seconds, [[9, 13], [21, 17]])
    assert timed.tokens.tolist() == [4, 4] and timed.reports == [[6], [5]]
    with pytest.raises(ValueError, match='texts: expected one or more'):
        speed.time_decodings(Streamed(), ['full'], [], 4)


def test_a_sample_is_evenly_spaced():
    assert sample(list('abcdefgh'), 4) == list('aceg') and sample('ab', 4) == ['a', 'b'] and sample(range(5), 2) == [0, 2]


def test_a_measurement_says_what_it_was_measured_with(model):
    decoding = calm.Decoding(exit=calm.Exit(calm.StateSimilarity(), 0.5))
    result = speed.measure_speed(model, decoding, ['horse', 'cat'], 2, rounds=1)
    assert result['speed_up'] > 0 and result['texts'] == 2 and result['rounds'] == 1
    assert result['speed_up_least'] == result['speed_up'] == result['speed_up_greatest']
    conditions = certified.speed_conditions(2, 'none')  # of one batch, whose rows have nobody to make room for
    assert {name: result[name] for name in conditions} == conditions


def test_a_few_batches_are_timed_packed_as_the_whole_input_is(model, generate, starts, tmp_path, monkeypatch):
    """As if for this model a packing had been measured best, from 16 batches on: 70 records are 9 batches of 8, 18 of 4."""
    timed = []

    def time_decodings(model, decodings, texts, batch_size, rounds=3, quiet=True, pack='auto'):
        timed.append((len(texts), pack if isinstance(pack, str) else str(pack)))
        return Timed(np.ones((rounds, len(decodings))), np.ones(len(decodings), int), [])

    monkeypatch.setattr('calm_jax.model.measured', lambda sizes, rows, backend: Packing((1,), (rows // 2,)))
    monkeypatch.setattr(speed, 'time_decodings', time_decodings)
    assert generate(starts, '--measure_speed') == 0
    for number, flags in enumerate([('--batch_size', '4'), ('--pack', '1:4'), ('--pack', 'none'), ('--pack', 'refill')]):
        assert generate(starts, '--measure_speed', *flags, output=f'{number}.jsonl') == 0
    summaries = [json.loads((tmp_path / f'{name}.jsonl.summary.json').read_text()) for name in ('out', 0, 1, 2, 3)]
    packs = ['refill', '1:2', '1:4', 'none', 'refill']
    assert [each['speed']['pack'] for each in summaries] == packs == [pack for _, pack in timed]
    assert [count for count, _ in timed] == [32] * 5
    decoding = calm.Decoding(exit=calm.Exit(calm.StateSimilarity(), 0.5))
    assert speed.measure_speed(model, decoding, ['horse'] * 64, 4)['pack'] == '1:2'
    with pytest.raises(ValueError, match='after layer 9; the decoder has 3 layers'):
        speed.measure_speed(model, decoding, ['horse'], 4, pack='9:2')
