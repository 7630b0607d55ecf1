"""Published models by name, from a cache as the hub's own library keeps it; no network is used."""

import shutil
import sys

import pytest

import calm_jax as calm
from calm_jax.checkpoints import hub


@pytest.fixture
def cached(published, tmp_path, monkeypatch):
    """A model in the cache under the name some/model, and nothing else to be had."""
    constants = pytest.importorskip('huggingface_hub.constants')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    folder = tmp_path / 'cache' / 'models--some--model'
    shutil.copytree(published / 'plain_relu', folder / 'snapshots' / '0123456789')
    (folder / 'refs').mkdir()
    (folder / 'refs' / 'main').write_text('0123456789')


def test_a_name_is_imported_from_what_was_downloaded(cached, published, tmp_path):
    calm.import_checkpoint('some/model', tmp_path / 'by_name')
    calm.import_checkpoint(published / 'plain_relu', tmp_path / 'by_folder')
    by_name, by_folder = calm.load(tmp_path / 'by_name'), calm.load(tmp_path / 'by_folder')
    assert by_name.fingerprints == by_folder.fingerprints


def test_a_name_that_cannot_be_had_is_one_line(cached, tmp_path):
    with pytest.raises(FileNotFoundError, match='^some/other: no such directory, and it could not be downloaded') as error:
        calm.import_checkpoint('some/other', tmp_path / 'native')
    assert '\n' not in str(error.value)


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(FileNotFoundError, match='some/model: no such directory; .* pip install huggingface_hub'):
        calm.import_checkpoint('some/model', tmp_path / 'native')


def test_paths_are_no_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs').mkdir()
    assert hub.is_name('google/flan-t5-small')
    assert not any(hub.is_name(path) for path in ('runs/gone', './a/b', '/a/b', 'model', 'a/b/c', '../a', tmp_path))
