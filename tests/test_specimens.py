"""Files as this and every earlier version of their formats wrote them are read for ever: a new field whose default means "as
before" changes nothing of what they say. `scripts/make_specimens.py formats` wrote them; they are never written again. What
they say of decodes is read under their own semantics."""

import dataclasses
import json
import pathlib
import shutil

import pytest

import calm_jax as calm
from calm_jax import formats, recorded
from calm_jax.checkpoints import native
from calm_jax.formats import OLDEST, VERSIONS
from calm_jax.reporting import reader
from calm_jax.runs import decode_file

SPECIMENS = pathlib.Path(__file__).parent / 'specimens'
FOLDERS = sorted(SPECIMENS.glob('version_*'))


@pytest.fixture(params=FOLDERS, ids=[folder.name for folder in FOLDERS])
def specimen(request):
    return request.param


def test_there_is_a_specimen_of_every_version_that_is_read():
    assert {folder.name for folder in FOLDERS} == {
        f'version_{version}' for version in range(OLDEST, max(VERSIONS.values()) + 1)
    }


@pytest.fixture
def semantics(specimen, monkeypatch):
    """That of the specimen, under which it is read."""
    number = json.loads((specimen / 'certificate.json').read_text())['semantics']
    monkeypatch.setattr(formats, 'SEMANTICS', number)
    return number


@pytest.fixture
def copy(specimen, tmp_path):
    """The specimen, where it may be written to."""
    return pathlib.Path(shutil.copytree(specimen, tmp_path / 'specimen'))


def test_records_give_the_certificate_that_they_gave(copy, semantics):
    certificate = calm.Certificate.load(copy / 'certificate.json')
    again = calm.calibrate_model(None, copy / 'cal.jsonl', metric='accuracy', tolerance=0.99, records=copy / 'records')
    assert dataclasses.replace(again, semantics=semantics) == certificate


def test_the_checkpoint_under_the_certificate_says_what_it_said(specimen, semantics):
    model = calm.load(specimen / 'model', dtype='float32')
    inputs = [json.loads(line) for line in open(specimen / 'cal.jsonl')]
    outputs = model.generate(inputs, certificate=specimen / 'certificate.json')
    records = specimen / 'records'
    path = records / recorded.read(records).file(calm.Certificate.load(specimen / 'certificate.json').decoding)
    assert [each.tokens for each in outputs] == [json.loads(line)['tokens'] for line in open(path)]


def test_a_run_that_was_complete_is_complete(copy, semantics):
    model, records = calm.load(copy / 'model', dtype='float32'), copy / 'records'
    written = recorded.read(records)
    path = records / written.file(written.full)
    before = path.read_bytes()
    decoding = model.resolve(calm.Decoding(limits=calm.Limits(**written.full['limits'])))
    run = decode_file(model, decoding, copy / 'cal.jsonl', 'en', path, batch_size=8, resume=True)
    assert run.decoded == 0 and run.summary['examples'] == 12 and path.read_bytes() == before


def test_under_another_semantics_decodes_are_refused_and_the_checkpoint_is_read(specimen, monkeypatch):
    monkeypatch.setattr(formats, 'SEMANTICS', 1 + formats.SEMANTICS)
    with pytest.raises(ValueError, match='made under decoding semantics .* its tokens may differ: calibrate again'):
        calm.Certificate.load(specimen / 'certificate.json')
    with pytest.raises(ValueError, match='made under decoding semantics .* its tokens may differ: decode again'):
        recorded.read(specimen / 'records')
    assert native.read_config(specimen / 'model').num_decoder_layers == 3


def test_a_report_reads_them(specimen):
    run = reader.read(specimen)
    assert len(run.certificates) == len(run.curves) == len(run.examples) == 1
    assert run.certificates[0].measure is None and run.curves[0].label.startswith('classifier, decaying threshold')
