"""Files as this and every earlier version of their formats wrote them are read for ever: a new field whose default means "as
before" changes nothing of what they say. `scripts/make_specimens.py formats` wrote them; they are never written again."""

import json
import pathlib
import shutil

import pytest

import calm_jax as calm
from calm_jax import recorded
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
def copy(specimen, tmp_path):
    """The specimen, where it may be written to."""
    return pathlib.Path(shutil.copytree(specimen, tmp_path / 'specimen'))


def test_records_give_the_certificate_that_they_gave(copy):
    certificate = calm.Certificate.load(copy / 'certificate.json')
    again = calm.calibrate_model(None, copy / 'cal.jsonl', metric='accuracy', tolerance=0.99, records=copy / 'records')
    assert again == certificate


def test_the_checkpoint_under_the_certificate_says_what_it_said(specimen):
    model = calm.load(specimen / 'model', dtype='float32')
    inputs = [json.loads(line) for line in open(specimen / 'cal.jsonl')]
    outputs = model.generate(inputs, certificate=specimen / 'certificate.json')
    records = specimen / 'records'
    path = records / recorded.read(records).file(calm.Certificate.load(specimen / 'certificate.json').decoding)
    assert [each.tokens for each in outputs] == [json.loads(line)['tokens'] for line in open(path)]


def test_a_run_that_was_complete_is_complete(copy):
    model, records = calm.load(copy / 'model', dtype='float32'), copy / 'records'
    written = recorded.read(records)
    path = records / written.file(written.full)
    before = path.read_bytes()
    decoding = model.resolve(calm.Decoding(limits=calm.Limits(**written.full['limits'])))
    run = decode_file(model, decoding, copy / 'cal.jsonl', 'en', path, batch_size=8, resume=True)
    assert run.decoded == 0 and run.summary['examples'] == 12 and path.read_bytes() == before


def test_a_report_reads_them(specimen):
    run = reader.read(specimen)
    assert len(run.certificates) == len(run.curves) == len(run.examples) == 1
    assert run.certificates[0].measure is None and run.curves[0].label.startswith('classifier, decaying threshold')
