"""Whole files: what was there before stays until all of the new is, and what is no JSON object is one line."""

import json
import math

import pytest

from calm_jax.files import read_json, whole, write_json, write_text


def test_what_is_written_is_read_again_and_nothing_else_is_left(tmp_path):
    content = {'λ': 0.1 + 0.2, 'texts': ['é', '\u2028'], 'none': None}
    write_json(tmp_path / 'a.json', content)
    assert read_json(tmp_path / 'a.json') == content
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']
    assert 'λ' in (tmp_path / 'a.json').read_text(encoding='utf-8')


@pytest.mark.parametrize('there', [True, False])
@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_a_write_that_is_cut_short_leaves_what_was_there(tmp_path, there, error):
    if there:
        write_text(tmp_path / 'a.txt', 'old')
    with pytest.raises(type(error)), whole(tmp_path / 'a.txt') as file:
        file.write('ne')
        file.flush()
        raise error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({'a.txt': b'old'} if there else {})


def test_a_file_that_cannot_get_its_name_leaves_nothing(tmp_path):
    (tmp_path / 'a.txt').mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / 'a.txt', 'new')
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / 'a.txt.partial').write_text('half of a longer text')
    write_text(tmp_path / 'a.txt', 'new\n')
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {'a.txt': b'new\n'}


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
