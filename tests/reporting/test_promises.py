"""A certificate finds its curve by the numbers both hold, and its cost stays unknown where they do not settle it."""

import dataclasses
import json

import numpy as np
import pytest

from calm_jax.calibration import calibrate
from calm_jax.reporting import reader
from calm_jax.reporting.numerals import NOTHING
from calm_jax.reporting.promises import beside_sentence, promise, summary


@pytest.fixture
def run(example):
    return reader.read(example)


def test_the_layers_are_those_of_the_curve_at_the_certified_threshold(run):
    certificate, none = run.certificates
    found = promise(certificate, run.curves)
    curve = next(curve for curve in run.curves if curve.label == 'softmax_gap')
    expected = next(point.layers for point in curve.points if point.threshold == certificate.threshold)
    assert (found.label, found.layers, found.num_layers) == ('softmax_gap', expected, 8)
    assert promise(none, run.curves)[1:] == ('state_similarity', 8, 8)


def test_beside_the_sentence_of_a_guarantee_stands_what_it_does_not_say(run):
    certificate, none = run.certificates
    values = dict(beside_sentence(promise(certificate, run.curves)))
    assert values == {'p-value': certificate.p_value, 'share of δ used': '47%', 'mean layers on calibration data': '4.03 of 8'}
    assert not any(value in certificate.guarantee for value in values.values())
    assert dict(beside_sentence(promise(none, [])))['p-value'] == none.p_value


def test_points_with_one_threshold_are_told_apart_by_their_documents(run):
    certificate = run.certificates[0]
    curve = next(curve for curve in run.curves if curve.label == 'softmax_gap')
    other = {**certificate.decoding, 'plan': {'class': 'uniform', 'share': 0.5}}
    twins = [
        dataclasses.replace(point, decoding={**point.decoding, 'plan': other['plan']}, layers=1.0) for point in curve.points
    ]
    both = dataclasses.replace(curve, points=(*twins, *curve.points))
    assert promise(certificate, [both]).layers == pytest.approx(4.03)
    tested = tuple(dataclasses.replace(each, decoding={**each.decoding, 'plan': other['plan']}) for each in certificate.tested)
    assert promise(dataclasses.replace(certificate, decoding=other, tested=tested), [both]).layers == 1.0


def test_a_certified_point_without_a_threshold_is_shown_without_one(run):
    bare = dataclasses.replace(run.certificates[0], threshold=None)
    grid = summary([promise(bare, run.curves), promise(run.certificates[1], run.curves)])
    cells = [dict(zip([heading.name for heading in grid.headings], row)) for row in grid.rows]
    assert [each['λ'] for each in cells] == [NOTHING, 'none valid']


@pytest.mark.parametrize('what', ['loss', 'p_value'])
def test_either_losses_or_p_values_settle_which_curve_is_meant(run, what):
    certificate = run.certificates[0]
    other = tuple(dataclasses.replace(tested, **{what: 0.777}) for tested in certificate.tested)
    assert promise(dataclasses.replace(certificate, tested=other), run.curves).layers == pytest.approx(4.03)


def test_a_certificate_without_its_curve_is_shown_without_layers(run):
    certificate = run.certificates[0]
    tested = tuple(dataclasses.replace(each, loss=0.777, p_value=0.777) for each in certificate.tested)
    found = promise(dataclasses.replace(certificate, tested=tested), run.curves)
    assert (found.label, found.layers, found.num_layers) == ('softmax_gap', None, None)
    assert 'mean layers' not in [heading.name for heading in summary([found]).headings]


def test_where_several_curves_agree_the_name_and_then_the_folder_settles_it(run):
    certificate = run.certificates[0]
    curve = next(curve for curve in run.curves if curve.label == 'softmax_gap')
    twin = dataclasses.replace(
        curve,
        label='other',
        path=run.directory / 'elsewhere' / 'curve.json',
        points=tuple(dataclasses.replace(point, layers=1.0) for point in curve.points),
    )
    assert promise(certificate, [twin, curve]).label == 'softmax_gap'
    unnamed = dataclasses.replace(certificate, measure=None)
    assert promise(unnamed, [twin, curve]).label == 'softmax_gap'
    third = dataclasses.replace(twin, label='third')
    assert promise(dataclasses.replace(unnamed, path=third.path), [twin, third]).layers is None


def test_a_certificate_as_calibration_writes_it_is_read(tmp_path):
    losses = np.random.default_rng(0).uniform(0, [0.02, 0.04, 0.5], size=(400, 3))
    certificate = calibrate(
        losses, [0.9, 0.8, 0.7], 0.1, 0.05, objective='textual', metric='rougeL', provenance={'data': {'name': 'cal.jsonl'}}
    )
    assert certificate.threshold == 0.8
    certificate.save(tmp_path / 'certificate_gap.json')
    points = [
        {
            'threshold': point.threshold,
            'layers': 2 + point.threshold,
            'loss': point.mean_loss,
            'p_value': point.p_value,
            'rejected': point.rejected,
        }
        for point in certificate.grid
    ]
    (tmp_path / 'curve.json').write_text(
        json.dumps({'label': 'softmax_gap', 'kind': 'measure', 'num_layers': 4, 'metric': 'rougeL', 'points': points})
    )
    run = reader.read(tmp_path)
    grid = summary([promise(run.certificates[0], run.curves)])
    cells = dict(zip([heading.name for heading in grid.headings], grid.rows[0]))
    assert cells['λ'] == '0.8' and cells['n'] == '400' and cells['mean layers'] == '2.8 of 4'
    assert cells['share of δ used'] == f'{100 * losses[:, 1].mean() / 0.1:.0f}%'
    assert run.certificates[0].guarantee == certificate.guarantee


def test_a_certificate_of_several_risks_lists_their_tolerances(tmp_path):
    losses = np.random.default_rng(0).uniform(0, 0.05, size=(200, 1))
    calibrate({'a': losses, 'b': losses}, [0.5], {'a': 0.1, 'b': 0.2}, 0.05).save(tmp_path / 'certificate.json')
    (certificate,) = reader.read(tmp_path).certificates
    assert certificate.tolerances == (('a', 0.1), ('b', 0.2))
    grid = summary([promise(certificate, [])])
    assert dict(zip([heading.name for heading in grid.headings], grid.rows[0]))['δ'] == 'a 0.1, b 0.2'


def test_a_certificate_of_nothing_means_full_depth(tmp_path):
    calibrate(np.full((200, 1), 0.5), [0.5], 0.1, 0.05).save(tmp_path / 'certificate.json')
    (certificate,) = reader.read(tmp_path).certificates
    assert certificate.full_depth
    assert 'none valid' in summary([promise(certificate, [])]).rows[0]
