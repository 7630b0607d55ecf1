"""A certificate survives its file to the bit, refuses what contradicts it, and covers only what it was made for."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from calm_jax import formats
from calm_jax.calibration import Certificate, Point, calibrate
from calm_jax.calibration.draws import uniforms

PROVENANCE = {
    'parameters': 'sha256:0a1b',
    'tokenizer': 'sha256:2c3d',
    'data': {'name': 'news, validation', 'sha256': '4e5f'},
    'source': {'field': 'en'},
    'environment': {'backend': 'cpu', 'jax': '0.10.2', 'calm_jax': '0.2.0', 'batch_size': 8},
}


def document(threshold: float) -> dict:
    """A decoding with this λ."""
    form = {'class': 'decaying', 'tau': 4.0}
    exit = {'measure': {'class': 'softmax_gap'}, 'threshold': threshold, 'form': form, 'layers': [1, 2]}
    return {'limits': {'max_new_tokens': 64}, 'exit': exit, 'ngram': None, 'early': True}


@pytest.fixture(scope='module')
def certificate() -> Certificate:
    losses = uniforms(1, 300, 1) * np.array([1 / 30, 0.1 + 0.2, 2 / 3])
    points = [Point(document(λ), λ, cost) for λ, cost in ((float(np.float32(0.95)), 2 / 3), (0.1 + 0.2, 0.1), (1e-300, 0))]
    return calibrate(losses, points, 0.2, 0.05, objective='textual', metric='rougeL – ß', provenance=PROVENANCE)


def changed(certificate, **changes) -> str:
    content = json.loads(certificate.to_json())
    for name, value in changes.items():
        content = {k: v for k, v in content.items() if k != name} if value is KeyError else {**content, name: value}
    return json.dumps(content)


def sealed(content: dict) -> str:
    """A certificate of this content, with the digest that belongs to it."""
    content = {name: value for name, value in content.items() if name != 'digest'}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, 'digest': digest})


def test_json_and_back_is_the_same_certificate_to_the_bit(certificate):
    text = certificate.to_json()
    again = Certificate.from_json(text)
    assert again == certificate and again.to_json() == text
    assert again.threshold.hex() == (0.1 + 0.2).hex() and again.decoding == document(0.1 + 0.2) and again.cost == 0.1
    for before, after in zip(certificate.grid, again.grid):
        assert dataclasses.astuple(before) == dataclasses.astuple(after)


def test_a_file_and_back_is_the_same_certificate(certificate, tmp_path):
    path = tmp_path / 'c.json'
    certificate.save(path)
    certificate.save(str(path))
    assert Certificate.load(path) == Certificate.load(str(path)) == certificate
    assert path.read_text(encoding='utf-8') == certificate.to_json()
    assert [file.name for file in tmp_path.iterdir()] == ['c.json']


def test_a_certificate_cannot_be_changed_in_place(certificate):
    with pytest.raises(dataclasses.FrozenInstanceError):
        certificate.threshold = 0.1


def test_a_file_that_is_no_certificate_is_refused_in_one_line(certificate, tmp_path):
    with pytest.raises(FileNotFoundError, match='none.json: no such file; expected a certificate'):
        Certificate.load(tmp_path / 'none.json')
    path = tmp_path / 'c.json'
    for content, message in (
        (b'\xff\xfe', 'c.json: not text'),
        (b'', 'c.json: not JSON '),
        (certificate.to_json().encode()[:-30], 'c.json: not JSON '),
        (b'[]', 'c.json: not a certificate file; expected a JSON object with "format": "calm_jax certificate"$'),
        (b'{"threshold": 0.5}', 'c.json: not a certificate file'),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            Certificate.load(path)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'epsilon': KeyError}, '^certificate: lacks "epsilon"'),
        ({'grid': [{'threshold': 0.5}]}, '^certificate: grid point 0: lacks "decoding"'),
        ({'grid': [{'decoding': 'static'}]}, '^certificate: grid point 0: expected an object as "decoding", found "static"'),
        ({'grid': [{'decoding': {}, 'colour': 'red'}]}, '^certificate: grid point 0: unknown field "colour"'),
        ({'decoding': 'static'}, '^certificate: expected an object as "decoding", found "static"$'),
        ({'grid': []}, '^certificate: expected a list of points as "grid"$'),
        ({'grid': [0.5]}, '^certificate: grid point 0: expected an object with decoding, threshold, '),
        ({'colour': 'red'}, '^certificate: unknown field "colour"'),
        ({'format': 'calm_jax records'}, '^certificate: not a certificate file'),
        ({'format': 'calm_jax certificate 1'}, '^certificate: written by calm_jax 0.1.0, .*: calibrate again$'),
        ({'version': 3}, '^certificate: certificate format version 3, .*: upgrade calm_jax$'),
        ({'semantics': 1}, '^certificate: made under decoding semantics 1, .* its tokens may differ: calibrate again$'),
        ({'decoding': {}}, '^certificate: decoding is {}, its p-values give {"limits": '),
        ({'cost': 0.2}, '^certificate: cost is 0.2, its p-values give 0.1; calibrate again$'),
        ({'guarantee': 'All is well.'}, '^certificate: changed since it was written, so it promises nothing'),
        ({'threshold': 0.2}, '^certificate: threshold is 0.2, its p-values give 0.30000000000000004; calibrate again$'),
        ({'epsilon': 1e-99}, '^certificate: its p-values do not reject the points it marks as rejected'),
        ({'joint': 0}, '^certificate: expected numbers as epsilon'),
        ({'speed': 1.2}, '^certificate: expected an object as "speed", found 1.2$'),
        ({'epsilon': 'small'}, '^certificate: expected numbers as epsilon'),
        ({'procedure': 'sorted'}, '^certificate: expected as procedure one of fixed_sequence, bonferroni'),
        ({'provenance': 'mine'}, "^certificate: provenance: expected a mapping, found 'mine'$"),
        ({'provenance': {'decoding': {}}}, '^certificate: provenance holds "decoding", which is of the points$'),
    ],
)
def test_a_changed_certificate_is_refused_with_its_first_fault(certificate, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        Certificate.from_json(changed(certificate, **changes))
    assert '\n' not in str(error.value)


def test_the_file_says_format_version_and_semantics(certificate):
    content = json.loads(certificate.to_json())
    assert {name: content[name] for name in ('format', 'version', 'semantics')} == formats.stamp('certificate')
    assert certificate.semantics == formats.SEMANTICS


def test_a_field_that_is_absent_is_read_as_its_default():
    certificate = calibrate(np.zeros((100, 2)), [0.9, 0.8], 0.2, 0.05)
    content = json.loads(certificate.to_json())
    del content['speed']
    for point in content['grid']:
        for name in ('cost', 'parts', 'path'):
            del point[name]
    assert Certificate.from_json(sealed(content)) == certificate
    with pytest.raises(ValueError, match='changed since it was written'):
        Certificate.from_json(json.dumps(content))


def test_the_point_chosen_on_load_is_the_cheapest_valid_one():
    points = [Point(document(λ), λ, cost) for λ, cost in ((0.9, 3), (0.8, 1), (0.7, 2))]
    for procedure in ('fixed_sequence', 'bonferroni'):
        certificate = calibrate(np.zeros((100, 3)), points, 0.2, 0.05, procedure=procedure)
        assert Certificate.from_json(certificate.to_json()).threshold == 0.8
        content = json.loads(certificate.to_json())
        content['grid'][2]['cost'] = 0.5
        with pytest.raises(ValueError, match='^certificate: decoding is .*, its p-values give '):
            Certificate.from_json(sealed(content))
        content |= {'decoding': document(0.7), 'threshold': 0.7, 'cost': 0.5}
        assert Certificate.from_json(sealed(content)).threshold == 0.7
        content['grid'][2]['cost'] = 'low'
        with pytest.raises(ValueError, match='^certificate: expected numbers as epsilon, joint, thresholds, costs and '):
            Certificate.from_json(sealed(content))


def test_a_certificate_of_full_depth_survives_its_file():
    certificate = calibrate(np.ones((100, 1)), [Point(document(0.9), 0.9, 2)], 0.2, 0.05, full={'choice': {'class': 'beam'}})
    again = Certificate.from_json(certificate.to_json())
    assert again == certificate and not again.found and again.decoding == {'choice': {'class': 'beam'}}
    assert again.covers({'decoding': {'choice': {'class': 'beam'}}}) == []
    with pytest.raises(ValueError, match='run: decoding.exit.threshold is 0.9 here, absent in the certificate'):
        again.covers({'decoding': {'choice': {'class': 'beam'}, 'exit': {'threshold': 0.9}}})
    for part, value in (('threshold', 0.9), ('cost', 2.0)):
        content = json.loads(certificate.to_json()) | {part: value}
        with pytest.raises(ValueError, match=f'^certificate: {part} is {value}, its p-values give null; calibrate again$'):
            Certificate.from_json(sealed(content))


def run_like(certificate, **changes) -> dict:
    """A run as certified, but for dotted changes; a change to KeyError leaves the entry out."""
    run = json.loads(json.dumps({k: v for k, v in PROVENANCE.items() if k not in ('data', 'source')}))
    run['decoding'] = json.loads(json.dumps(certificate.decoding))
    for name, value in changes.items():
        *parents, last = name.split('__')
        inner = run
        for parent in parents:
            inner = inner[parent]
        if value is KeyError:
            del inner[last]
        else:
            inner[last] = value
    return run


def test_a_run_as_certified_is_covered_without_a_word(certificate):
    assert certificate.covers(run_like(certificate)) == []
    assert Certificate.from_json(certificate.to_json()).covers(run_like(certificate)) == []
    assert certificate.covers(run_like(certificate, threshold=certificate.threshold)) == []
    assert certificate.covers(run_like(certificate, data={'name': 'new documents'}, source={'field': 'text'})) == []


@pytest.mark.parametrize(
    ('change', 'difference'),
    [
        ({'parameters': 'sha256:ffff'}, 'parameters is "sha256:ffff" here, "sha256:0a1b" in the certificate'),
        ({'tokenizer': KeyError}, 'tokenizer is absent here, "sha256:2c3d" in the certificate'),
        ({'dtype': 'bfloat16'}, 'dtype is "bfloat16" here, absent in the certificate'),
        ({'heads': 'sha256:77'}, 'heads is "sha256:77" here, absent in the certificate'),
        ({'parameters': 'x', 'tokenizer': 'y'}, 'parameters is "x" here'),
        ({'threshold': 0.29}, 'threshold is 0.29 here, 0.30000000000000004 in the certificate'),
        ({'decoding__limits__max_new_tokens': 65}, 'decoding.limits.max_new_tokens is 65 here, 64 in the certificate'),
        ({'decoding__exit__threshold': 0.29}, 'decoding.exit.threshold is 0.29 here, 0.30000000000000004 in the'),
        ({'decoding__exit__form__tau': KeyError}, 'decoding.exit.form.tau is absent here, 4.0 in the certificate'),
        ({'decoding__exit__form': 'constant'}, 'decoding.exit.form is "constant" here, '),
        ({'decoding__exit__layers': [1, 3]}, 'decoding.exit.layers[1] is 3 here, 2 in the certificate'),
        ({'decoding__exit__layers': [1]}, 'decoding.exit.layers is [1] here, [1, 2] in the certificate'),
        ({'decoding__exit': {}}, 'decoding.exit.measure.class is absent here, "softmax_gap" in the certificate'),
        ({'decoding__exit': KeyError}, 'decoding.exit.measure.class is absent here, "softmax_gap" in the certificate'),
        ({'decoding': {}}, 'decoding.limits.max_new_tokens is absent here, 64 in the certificate'),
        ({'decoding': KeyError}, 'decoding.limits.max_new_tokens is absent here, 64 in the certificate'),
        ({'decoding__choice': {'class': 'beam'}}, 'decoding.choice.class is "beam" here, absent in the certificate'),
        ({'decoding__choice': {}}, 'decoding.choice is {} here, absent in the certificate'),
        ({'decoding__seed': None}, 'decoding.seed is null here, absent in the certificate'),
        ({'decoding__ngram': KeyError}, 'decoding.ngram is absent here, null in the certificate'),
        ({'decoding__early': 1}, 'decoding.early is 1 here, true in the certificate'),
    ],
)
def test_the_first_difference_that_is_not_covered_is_named(certificate, change, difference):
    with pytest.raises(ValueError, match='^the certificate does not cover this run: ') as error:
        certificate.covers(run_like(certificate, **change))
    assert f'run: {difference}' in str(error.value) and '\n' not in str(error.value) and len(str(error.value)) < 240


def test_another_backend_version_or_batch_size_only_warns(certificate):
    environment = {'backend': 'gpu', 'jax': '0.11.0', 'calm_jax': '0.3.0', 'batch_size': 8, 'device': 'x'}
    warnings = certificate.covers(run_like(certificate, environment=environment))
    assert [warning.split(' is ')[0] for warning in warnings] == ['backend', 'jax', 'calm_jax', 'device']
    assert warnings[0].startswith('backend is "gpu" here, "cpu" in the certificate') and '\n' not in ''.join(warnings)


def test_before_environments_said_so_rows_stayed_in_their_batches(certificate):
    environment = PROVENANCE['environment']
    assert certificate.covers(run_like(certificate, environment={**environment, 'pack': 'none'})) == []
    (warning,) = certificate.covers(run_like(certificate, environment={**environment, 'pack': 'refill'}))
    assert warning == 'pack is "refill" here, "none" in the certificate; rounding there may change a few tokens'


def test_the_document_of_the_chosen_point_is_expected_of_the_run():
    losses = (uniforms(2, 300, 1) < np.array([0.01, 0.03, 0.5])).astype(float)
    points = [Point({'k': 1, 'vocabulary': size}, λ) for size, λ in ((512, 0.9), (256, 0.8), (64, 0.8))]
    certificate = calibrate(losses, points, 0.1, 0.05)
    assert certificate.covers({'decoding': {'k': 1, 'vocabulary': 256}}) == []
    with pytest.raises(ValueError, match='decoding.vocabulary is 512 here, 256 in the certificate'):
        certificate.covers({'decoding': {'k': 1, 'vocabulary': 512}})


def test_a_threshold_without_a_document_is_compared_itself():
    certificate = calibrate(np.zeros((100, 2)), [0.9, 0.8], 0.2, 0.05)
    assert certificate.covers({'threshold': 0.8}) == certificate.covers({'threshold': 0.8, 'decoding': {}}) == []
    for run, words in (({'threshold': 0.9}, '0.9'), ({}, 'absent'), ({'decoding': {}}, 'absent')):
        with pytest.raises(ValueError, match=f'run: threshold is {words} here, 0.8 in the certificate'):
            certificate.covers(run)


def test_a_run_is_described_by_mappings(certificate):
    with pytest.raises(ValueError, match='^current: expected a mapping'):
        certificate.covers('as before')
    for part in ('environment', 'decoding'):
        with pytest.raises(ValueError, match=f'^current: expected a mapping as "{part}", found \'cpu\'$'):
            certificate.covers(run_like(certificate, **{part: 'cpu'}))
