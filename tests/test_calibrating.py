"""A model is calibrated from Python: points of any kind, records, own metrics; and what cannot be calibrated is one line."""

import dataclasses
import json
import re

import numpy as np
import pytest

import calm_jax as calm
from calm_jax import recorded
from calm_jax.calibrating import CalibrationData, Promise, certify, sweep_trials
from calm_jax.calibration import run_trials
from calm_jax.cli import main
from calm_jax.decoding import codec
from calm_jax.recorded import Recorded
from calm_jax.sweep import Decodes, Sweep
from calm_jax.tuning import tuned_path
from calm_jax.types import Sizes

LIMITS = calm.Limits(16, 8)
COMMON = {'source_field': 'en', 'batch_size': 8, 'tolerance': 0.7}


@pytest.fixture(scope='module')
def model(checkpoint):
    return calm.load(checkpoint)


@pytest.fixture(scope='module')
def exit(model):
    return calm.Exit(calm.Classifier(**model.heads['exit_classifier']))


@pytest.fixture(scope='module')
def points(exit):
    return calm.points_of(calm.Decoding(exit=exit), [0.99, 0.9, 0.8])


@pytest.fixture(scope='module')
def folder(model, points, data, tmp_path_factory):
    """Records of the points, whose certificate is beside them."""
    path = tmp_path_factory.mktemp('calibrating') / 'records'
    calm.calibrate_model(model, data, points, metric='chrf', records=path, **COMMON).save(path / 'c.json')
    return path


def test_python_and_the_command_write_the_same_certificate(folder, checkpoint, data, tmp_path):
    flags = ('--source_field', 'en', '--batch_size', '8', '--measure', 'classifier', '--grid', '.99,.9,.8', '--quiet')
    promise = ('--metric', 'chrf', '--tolerance', '.7', '--output', str(tmp_path / 'c.json'))
    assert main(['calibrate', '--checkpoint', checkpoint, '--data', data, *flags, *promise]) == 0
    assert (tmp_path / 'c.json').read_bytes() == (folder / 'c.json').read_bytes()


def test_a_certificate_is_found_again_from_the_records_alone(folder, data):
    again = calm.calibrate_model(None, data, metric='chrf', tolerance=0.7, records=folder)
    assert again.to_json() == (folder / 'c.json').read_text()
    first = calm.calibrate_model(None, data, [0.99], metric='chrf', tolerance=0.7, records=folder)
    assert [point.threshold for point in first.grid] == [0.99]


def test_a_model_decodes_within_the_certificate_what_was_decoded_for_it(model, folder, data):
    certificate = calm.Certificate.load(folder / 'c.json')
    inputs = [json.loads(line) for line in open(data)]
    decoded = [json.loads(line) for line in open(folder / recorded.read(folder).file(certificate.decoding))]
    outputs = model.generate(inputs, certificate=certificate)
    assert [each.tokens for each in outputs] == [each['tokens'] for each in decoded]


def test_points_of_one_threshold_and_other_plans_have_records_of_their_own(model, exit, data, tmp_path):
    """A path of composed decisions: what is tested is the whole decoding."""
    at = dataclasses.replace(exit, threshold=0.9)
    points = [calm.Decoding(exit=at), calm.Decoding(exit=at, plan=calm.Uniform(0.6)), calm.Decoding(plan=calm.Uniform(0.3))]
    certificate = calm.calibrate_model(
        model, data, points, metric='chrf', records=tmp_path / 'r', **{**COMMON, 'tolerance': 0.99}
    )
    written = recorded.read(tmp_path / 'r')
    assert [point.threshold for point in certificate.grid] == [0.9, 0.9, None]
    assert len({written.file(point.decoding) for point in written.points}) == 3
    assert certificate.threshold is None and certificate.decoding['plan']['share'] == pytest.approx(0.3)
    costs = [point.cost for point in certificate.grid]
    assert certificate.cost == min(costs) < max(costs)
    curve = json.loads((tmp_path / 'r' / 'curve.json').read_text())
    assert [point['decoding'] for point in curve['points']] == [point.decoding for point in certificate.grid]
    assert curve['points'][2]['layers'] <= 1 < curve['points'][2]['exit_layers']
    assert curve['label'].startswith('classifier') and 'uniform plan' in curve['label']
    again = calm.calibrate_model(None, data, metric='chrf', records=tmp_path / 'r', tolerance=0.99)
    assert again == certificate


def test_a_metric_of_ones_own_is_a_function(folder, data):
    certificate = calm.calibrate_model(None, data, metric=same_length, tolerance=0.9, records=folder)
    name = f'{__name__}:same_length'
    assert certificate.metric == name and re.fullmatch(rf'{name}, source [0-9a-f]{{64}}', certificate.metric_version)
    several = calm.calibrate_model(None, data, metric=[same_length, 'accuracy'], tolerance=0.9, records=folder)
    assert several.metric == [name, 'accuracy'] and set(several.tolerance) == {name, 'accuracy'}


def same_length(predictions, references):
    return [float(len(text) == len(others[0])) for text, others in zip(predictions, references)]


def test_losses_from_outside_need_records_and_are_found_by_id(model, points, folder, data, tmp_path):
    path = tmp_path / 'human.jsonl'
    path.write_text(''.join(json.dumps({'id': f'row {i}', 'losses': {'0.99': 0, '0.9': 1}}) + '\n' for i in range(70)))
    certificate = calm.calibrate_model(None, data, losses=path, tolerance=0.2, records=folder)
    assert certificate.threshold == 0.99 and [point.mean_loss for point in certificate.grid] == [0, 1, None]
    with pytest.raises(ValueError, match='losses need records'):
        calm.calibrate_model(model, data, points, losses=path, tolerance=0.2, source_field='en')


@pytest.mark.parametrize(
    'options, error, message',
    [
        ({'model': None, 'records': None}, ValueError, 'without a model, records must name'),
        ({'points': None}, ValueError, 'points is None'),
        ({'points': []}, ValueError, 'points'),
        ({'metric': None}, ValueError, 'metric is missing'),
        ({'metric': 'rogueL'}, ValueError, 'rougeL'),
        ({'metric': 3}, TypeError, 'expected a name, or a function'),
        ({'tolerance': 2}, ValueError, 'tolerance'),
        ({'source_field': 'fx'}, ValueError, "no field 'fx'"),
        ({'objective': 'risk'}, ValueError, 'references'),
        ({'p_value': 'binomial'}, ValueError, 'losses of 0 and 1'),
        ({'losses': 'l.jsonl'}, ValueError, 'a metric and losses'),
        ({'points': 'seeds'}, ValueError, 'one full depth'),
        ({'points': [0.9]}, TypeError, 'expected a Decoding'),
        ({'points': [[]]}, ValueError, 'points'),
        ({'cost': 'seconds'}, ValueError, 'measured on tuning data'),
        ({'cost': 'euros'}, ValueError, "cost is 'euros'; expected one of flops, seconds"),
        ({'tuning_data': 'none.jsonl'}, FileNotFoundError, 'none.jsonl'),
        ({'model': None, 'speed': True}, ValueError, 'speed needs a model'),
    ],
)
def test_what_cannot_be_calibrated_is_said_in_one_line_before_anything_is_decoded(
    model, points, data, tmp_path, options, error, message
):
    if options.get('points') == 'seeds':
        options = {'points': [points[0], dataclasses.replace(points[1], limits=calm.Limits(max_new_tokens=3))]}
    given = {'model': model, 'points': points, 'metric': 'chrf', 'records': tmp_path / 'r', **COMMON, **options}
    with pytest.raises(error, match=message) as raised:
        calm.calibrate_model(given.pop('model'), data, given.pop('points'), **given)
    assert len(str(raised.value).splitlines()) == 1 and not (tmp_path / 'r').exists()


def test_points_of_a_decoding_without_an_exit_are_none():
    with pytest.raises(ValueError, match='no exit whose threshold'):
        calm.points_of(calm.Decoding(), [0.9])
    with pytest.raises(ValueError, match='threshold is 1.5'):
        calm.points_of(calm.Decoding(exit=calm.Exit(calm.SoftmaxGap())), [1.5])


class Measured:
    """Losses by λ."""

    names, objective = ('chrf',), 'textual'

    def __init__(self, losses):
        self._losses = losses

    def losses(self, sweep, point):
        sweep.at(point.decoding)
        return np.array(self._losses[point.threshold])

    def versions(self):
        return '1'


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep of 80 examples at these λ whose costs are given; what was decoded, in order."""

    def make(costs):
        documents = {threshold: {'exit': {'measure': {'class': 'state'}, 'threshold': threshold}} for threshold in costs}
        points = tuple(calm.Point(document, threshold) for threshold, document in documents.items())
        content = Recorded(
            full={},
            points=points,
            sizes=Sizes(3, 8, 8, 8),
            fingerprints={},
            data={'fingerprint': 'x', 'source_field': 'en'},
            environment={'batch_size': 8},
        )
        made, asked = Sweep(tmp_path, content, lambda document, path: None), []
        full = Decodes(list(range(80)), ['a'] * 80, *[np.ones(80)] * 5)

        def at(document):
            if document not in asked:
                asked.append(document)
            dial = document.get('exit', {}).get('threshold', document.get('plan', {}).get('share'))
            number = np.full(80, costs.get(dial, 9.0))
            return full._replace(layers=number, flops=number)

        monkeypatch.setattr(made, 'at', at)
        return made, asked

    return make


@pytest.fixture
def examples(tmp_path):
    path = tmp_path / 'cal.jsonl'
    path.write_text(''.join(json.dumps({'source': f'{i}'}) + '\n' for i in range(80)))
    return CalibrationData(path)


def test_the_cheapest_valid_point_is_certified_and_nothing_behind_the_first_failure_is_decoded(sweep, examples):
    made, asked = sweep({0.9: 3.0, 0.8: 1.0, 0.7: 2.0, 0.6: 0.5, 0.5: 0.1})
    losses = {0.9: [0.0] * 80, 0.8: [0.0] * 80, 0.7: [0.0] * 80, 0.6: [1.0] * 80, 0.5: [0.0] * 80}
    certificate = certify(made, made.recorded.points, Promise(0.2), examples, Measured(losses))
    assert (certificate.threshold, certificate.cost) == (0.8, 1.0)
    assert [document['exit']['threshold'] for document in asked] == [0.9, 0.8, 0.7, 0.6]


def test_a_path_is_tuned_by_cost_and_loss_and_what_is_hopeless_there_is_not_decoded(sweep, examples):
    """Two candidates, each at three λ; full depth costs 9."""
    made, asked = sweep({0.9: 5.0, 0.8: 1.0, 0.7: 0.5, 0.6: 4.0, 0.5: 12.0, 0.4: 3.0})
    losses = {0.9: [0.0] * 80, 0.8: [1.0] * 80, 0.6: [0.05] * 80, 0.5: [0.1] * 80, 0.4: [0.2] * 80}
    points = [dataclasses.replace(point, path=int(index > 2)) for index, point in enumerate(made.recorded.points)]
    calibration = Promise(0.2).calibration(points, examples)
    tuned = tuned_path(None, made, points, calibration, Measured(losses), examples.sources)
    assert 0.7 not in [document.get('exit', {}).get('threshold') for document in asked]
    assert [point.threshold for point in tuned.points] == [0.9, 0.6, 0.4, 0.8]
    assert {point.path for point in tuned.points} == {0} and {point.cost for point in tuned.points} == {None}
    assert (tuned.provenance['candidates'], tuned.provenance['decoded'], tuned.provenance['cost_full']) == (6, 5, 9.0)
    certificate = certify(made, tuned.points, Promise(0.2), examples, Measured(losses), tuned)
    assert (certificate.threshold, certificate.cost) == (0.6, 4.0) and certificate.provenance['tuning'] == tuned.provenance
    assert Promise(0.2).calibration(points, examples).point == points[0]  # nothing was tested by it


def test_points_without_a_threshold_stand_in_any_order_and_none_is_hopeless_for_another(sweep, examples):
    made, _ = sweep({0.2: 1.0, 0.8: 5.0})
    losses = {0.2: [1.0] * 80, 0.8: [0.0] * 80}
    points = [calm.Point({'plan': {'class': 'uniform', 'share': share}}) for share in losses]

    class OfShares(Measured):
        def losses(self, sweep, point):
            return np.array(self._losses[point.decoding['plan']['share']])

    calibration = Promise(0.2).calibration(points, examples)
    tuned = tuned_path(None, made, points, calibration, OfShares(losses), examples.sources)
    assert [point.decoding['plan']['share'] for point in tuned.points] == [0.8, 0.2]


@pytest.mark.parametrize(
    'content', ['{}', '{"unit": "s", "seconds": {"full.jsonl": "1"}}', '{"unit": "s", "seconds": {}}', None]
)
def test_seconds_that_are_not_there_are_asked_for_in_one_line(sweep, examples, content):
    made, _ = sweep({0.9: 5.0})
    if content is not None:
        (made.directory / 'seconds.json').write_text(content)
    points, losses = made.recorded.points, Measured({0.9: [0.0] * 80})
    with pytest.raises((ValueError, FileNotFoundError), match='seconds.json.* pass --checkpoint to measure') as error:
        tuned_path(None, made, points, Promise(0.2).calibration(points, examples), losses, examples.sources, 'seconds')
    assert len(str(error.value).splitlines()) == 1


def test_trials_go_on_until_every_tolerance_has_stopped(sweep, examples):
    """As if all trials and tolerances were run at once, and no further."""
    losses = {0.9: [0.0] * 80, 0.8: [0.2, 0.0] * 40, 0.7: [0.6] * 80, 0.6: [0.7] * 80}
    made, asked = sweep({threshold: threshold for threshold in losses})
    points = made.recorded.points
    result = sweep_trials(made, points, Promise(0.2), examples, Measured(losses), [0.15, 0.3], 4)
    assert [document['exit']['threshold'] for document in asked] == [0.9, 0.8, 0.7]
    columns = np.stack([losses[each] for each in (0.9, 0.8, 0.7)], axis=1)
    layers = np.stack([np.full(80, each) for each in (0.9, 0.8, 0.7)], axis=1)
    named = {'label': 'state', 'objective': 'textual', 'metric': 'chrf'}
    assert result == run_trials(columns, layers, points, [0.15, 0.3], 3, trials=4, **named)


def test_points_that_differ_at_all_have_records_of_their_own(sweep):
    thresholds = (0.95, 0.99999991, 0.99999992, 0.1, 1e-7, 0.0)
    made, _ = sweep(dict.fromkeys(thresholds, 1.0))
    names = [made.path(point.decoding).name for point in made.recorded.points]
    assert len({*names, made.path({}).name}) == len(thresholds) + 1 and made.path({}).name == 'full.jsonl'
    assert names[0] == f'point_{codec.digest(made.recorded.points[0].decoding)[:12]}.jsonl'
