"""A certificate survives its file to the bit, refuses what contradicts it, and covers only what it was made for."""

import dataclasses
import json

import numpy as np
import pytest

from calm_jax.calibration import Certificate, calibrate
from calm_jax.calibration.draws import uniforms

PROVENANCE = {
    'parameters': 'sha256:0a1b',
    'tokenizer': 'sha256:2c3d',
    'settings': {'measure': 'softmax_gap', 'max_new_tokens': 64, 'form': {'kind': 'decaying', 'tau': 4.0}},
    'data': {'name': 'news, validation', 'sha256': '4e5f'},
    'environment': {'backend': 'cpu', 'jax': '0.10.2', 'batch_size': 8},
}


@pytest.fixture(scope='module')
def certificate() -> Certificate:
    losses = uniforms(1, 300, 1) * np.array([1 / 30, 0.1 + 0.2, 2 / 3])
    grid = [float(np.float32(0.95)), 0.1 + 0.2, 1e-300]
    return calibrate(losses, grid, 0.2, 0.05, objective='textual', metric='rougeL – ß', provenance=PROVENANCE)


def changed(certificate, **changes) -> str:
    content = json.loads(certificate.to_json())
    for name, value in changes.items():
        content = {k: v for k, v in content.items() if k != name} if value is KeyError else {**content, name: value}
    return json.dumps(content)


def test_json_and_back_is_the_same_certificate_to_the_bit(certificate):
    text = certificate.to_json()
    again = Certificate.from_json(text)
    assert again == certificate and again.to_json() == text
    assert again.threshold.hex() == (0.1 + 0.2).hex()
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
        (b'[]', 'c.json: not a certificate; expected a JSON object with "format": "calm_jax certificate 1"$'),
        (b'{"threshold": 0.5}', 'c.json: not a certificate'),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            Certificate.load(path)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'epsilon': KeyError}, '^certificate: lacks "epsilon"'),
        ({'grid': [{'threshold': 0.5}]}, '^certificate: grid point 0: lacks "setting"'),
        ({'grid': []}, '^certificate: expected a list of points as "grid"$'),
        ({'grid': [0.5]}, '^certificate: grid point 0: expected an object with threshold, '),
        ({'colour': 'red'}, '^certificate: unknown field "colour"'),
        ({'format': 'calm_jax certificate 2'}, '^certificate: not a certificate'),
        ({'threshold': 0.2}, '^certificate: threshold is 0.2, its p-values give 0.30000000000000004; calibrate again$'),
        ({'epsilon': 1e-99}, '^certificate: its p-values do not reject the points it marks as rejected'),
        ({'joint': 0}, '^certificate: expected numbers as epsilon'),
        ({'epsilon': 'small'}, '^certificate: expected numbers as epsilon'),
        ({'procedure': 'sorted'}, '^certificate: expected as procedure one of fixed_sequence, bonferroni'),
        ({'provenance': 'mine'}, "^certificate: provenance: expected a mapping, found 'mine'$"),
    ],
)
def test_a_changed_certificate_is_refused_with_its_first_fault(certificate, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        Certificate.from_json(changed(certificate, **changes))
    assert '\n' not in str(error.value)


def run_like(certificate, **changes) -> dict:
    """A run as certified, but for dotted changes; a change to KeyError leaves the entry out."""
    run = json.loads(json.dumps({k: v for k, v in PROVENANCE.items() if k != 'data'}))
    run['settings']['threshold'] = certificate.threshold
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
    assert certificate.covers(run_like(certificate, settings__threshold=KeyError)) == []
    assert certificate.covers(run_like(certificate, data={'name': 'new documents'})) == []


@pytest.mark.parametrize(
    ('change', 'difference'),
    [
        ({'parameters': 'sha256:ffff'}, 'parameters is "sha256:ffff" here, "sha256:0a1b" in the certificate'),
        ({'tokenizer': KeyError}, 'tokenizer is absent here, "sha256:2c3d" in the certificate'),
        ({'settings__max_new_tokens': 65}, 'settings.max_new_tokens is 65 here, 64 in the certificate'),
        ({'settings__form__tau': 0.0}, 'settings.form.tau is 0.0 here, 4.0 in the certificate'),
        ({'settings__form': 'constant'}, 'settings.form is "constant" here, '),
        ({'settings__contrast': 'jsd'}, 'settings.contrast is "jsd" here, absent in the certificate'),
        ({'settings__threshold': 0.29}, 'settings.threshold is 0.29 here, 0.30000000000000004 in the certificate'),
        ({'heads': 'sha256:77'}, 'heads is "sha256:77" here, absent in the certificate'),
        ({'settings': {}}, 'settings.measure is absent here, "softmax_gap" in the certificate'),
        ({'parameters': 'x', 'tokenizer': 'y'}, 'parameters is "x" here'),
    ],
)
def test_the_first_difference_that_is_not_covered_is_named(certificate, change, difference):
    with pytest.raises(ValueError, match='^the certificate does not cover this run: ') as error:
        certificate.covers(run_like(certificate, **change))
    assert f'run: {difference}' in str(error.value) and '\n' not in str(error.value) and len(str(error.value)) < 240


def test_another_backend_version_or_batch_size_only_warns(certificate):
    warnings = certificate.covers(
        run_like(certificate, environment={'backend': 'gpu', 'jax': '0.11.0', 'batch_size': 8, 'device': 'x'})
    )
    assert [warning.split(' is ')[0] for warning in warnings] == ['backend', 'jax', 'device']
    assert warnings[0].startswith('backend is "gpu" here, "cpu" in the certificate') and '\n' not in ''.join(warnings)


def test_what_the_chosen_point_sets_is_expected_of_the_run():
    losses = (uniforms(2, 300, 1) < np.array([0.01, 0.03, 0.5])).astype(float)
    settings = [{'vocabulary': 512}, {'vocabulary': 256}, {'vocabulary': 64}]
    certificate = calibrate(losses, [0.9, 0.8, 0.8], 0.1, 0.05, settings=settings, provenance={'settings': {'k': 1}})
    assert certificate.covers({'settings': {'k': 1, 'vocabulary': 256, 'threshold': 0.8}}) == []
    with pytest.raises(ValueError, match='settings.vocabulary is 512 here, 256 in the certificate'):
        certificate.covers({'settings': {'k': 1, 'vocabulary': 512}})


def test_a_run_is_described_by_mappings(certificate):
    with pytest.raises(ValueError, match='^current: expected a mapping'):
        certificate.covers('as before')
    with pytest.raises(ValueError, match='^current: expected a mapping as "environment"'):
        certificate.covers(run_like(certificate, environment='cpu'))
