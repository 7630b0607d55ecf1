"""Whole files: what was there before stays until all of the new is, and what is no JSON object is one line."""

import json
import math
import pathlib

import pytest

from calm_jax.files import read_json, write_json, write_text


def test_what_is_written_is_read_again_and_nothing_else_is_left(tmp_path):
    content = {'λ': 0.1 + 0.2, 'texts': ['é', '\u2028'], 'none': None}
    write_json(tmp_path / 'a.json', content)
    assert read_json(tmp_path / 'a.json') == content
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']
    assert 'λ' in (tmp_path / 'a.json').read_text(encoding='utf-8')


@pytest.mark.parametrize('step', ['write_text', 'replace'])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, step):
    write_text(tmp_path / 'a.txt', 'old')
    real = getattr(pathlib.Path, step)

    def full(self, *args, **kwargs):
        if step == 'write_text':
            real(self, 'ne', encoding='utf-8')  # as far as the disk goes
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pathlib.Path, step, full)
    with pytest.raises(OSError, match='No space left'):
        write_text(tmp_path / 'a.txt', 'new')
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {'a.txt': b'old'}


@pytest.mark.parametrize('value', [math.nan, -math.inf])
def test_a_number_that_json_has_no_name_for_is_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(ValueError, match=r'^.*a\.json: not written, as JSON holds finite numbers only'):
        write_json(tmp_path / 'a.json', {'risk': [value]})
    assert not list(tmp_path.iterdir())


def test_folders_are_made_only_when_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_json(tmp_path / 'in' / 'a.json', {})
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / 'in' / 'a.json', {}, make_folders=True)
    assert read_json(tmp_path / 'in' / 'a.json') == {}


def test_keys_are_sorted_only_when_asked_for(tmp_path):
    write_json(tmp_path / 'a.json', {'b': 1, 'a': 2})
    write_json(tmp_path / 'b.json', {'b': 1, 'a': 2}, sort_keys=True)
    assert [list(json.loads((tmp_path / name).read_text())) for name in ('a.json', 'b.json')] == [['b', 'a'], ['a', 'b']]


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'not valid JSON'),
        (b'{"a": 1', 'not valid JSON'),
        (b'{"a": "\xff"}', 'not valid JSON'),
        (b'[' * 100_000, r'not valid JSON \(nested too deep\)'),
        (b'[1]', r'expected a JSON object, found \[1\]'),
    ],
)
def test_a_file_that_holds_no_json_object_is_named_in_one_line(tmp_path, content, message):
    (tmp_path / 'a.json').write_bytes(content)
    with pytest.raises(ValueError, match=rf'^{tmp_path / "a.json"}: {message}') as caught:
        read_json(tmp_path / 'a.json')
    assert '\n' not in str(caught.value)
