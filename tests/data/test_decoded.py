"""Decoded files: killed before any step that changes the disk, a run goes on to the same bytes."""

import json
import os
import pathlib

import pytest

from calm_jax import formats
from calm_jax.data.decoded import Decoded, differences, header, header_differences

RECORDS = [{'id': i, 'text': 'é' * i} for i in range(7)]
OTHER = [{'id': i, 'text': 'other'} for i in range(9)]
HEADER, OTHER_HEADER = (
    header('x', 'en', {'exit': {'threshold': threshold}}, 8, {'parameters': 'p'}) for threshold in (0.5, 0.9)
)


def shuffled(count):
    """Rows in an order of their own, in which they end."""
    return sorted(range(count), key=lambda row: row * 5 % 7)


class Killed(BaseException):
    """Ends a run where a signal would: nothing that the run could do comes after it."""


def decode(path, records=RECORDS, header=HEADER, **how):
    """What `decode_file` does with a decoded file."""
    decoded = Decoded(path, header, **how)
    if not decoded.complete:
        list(decoded.write((row, records[row]) for row in shuffled(len(records)) if row not in decoded.finished))
    if not decoded.complete or not decoded.summarized:
        decoded.summarize({'examples': len(records)})


def killed_at(step, monkeypatch, path, **how):
    """Decodes with a kill before the `step`-th change of the disk; returns whether the run came that far."""
    count = 0

    def counting(real):
        def change(*args, **kwargs):
            nonlocal count
            if count == step:
                raise Killed
            count += 1
            return real(*args, **kwargs)

        return change

    def opened(real):
        def change(*args, **kwargs):
            return (counting(real) if 'r' not in (args[1] if len(args) > 1 else 'r') else real)(*args, **kwargs)

        return change

    with monkeypatch.context() as patch:
        for name in ('replace', 'unlink', 'write_text', 'write_bytes'):
            patch.setattr(pathlib.Path, name, counting(getattr(pathlib.Path, name)))
        patch.setattr('builtins.open', opened(open))
        patch.setattr(os, 'fsync', counting(os.fsync))
        try:
            decode(path, **how)
        except Killed:
            return True
    return False


def state(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('before', ['nothing', 'a whole file', 'an unfinished file', 'both'])
def test_killed_before_any_change_of_the_disk_a_run_resumes_to_the_same_files(tmp_path, monkeypatch, before):
    wanted = tmp_path / 'wanted'
    wanted.mkdir()
    decode(wanted / 'out')
    for step in range(100):
        folder = tmp_path / f'{step}'
        folder.mkdir()
        if before in ('a whole file', 'both'):
            decode(folder / 'out', OTHER, OTHER_HEADER)
        if before in ('an unfinished file', 'both'):
            next(stopped := Decoded(folder / 'out', OTHER_HEADER, overwrite=True).write(enumerate(OTHER)))
            next(stopped)
            stopped.close()
        start = state(folder)
        cut = killed_at(step, monkeypatch, folder / 'out', overwrite=True)
        if state(folder) == start:  # not begun: as if the command had never been given
            decode(folder / 'out', overwrite=True)
        else:
            decode(folder / 'out', resume=True)
        assert state(folder) == state(wanted)
        if not cut:
            break
    assert 8 < step < 100


def test_killed_twice_a_run_resumes_to_the_same_files(tmp_path, monkeypatch):
    wanted = tmp_path / 'wanted'
    wanted.mkdir()
    decode(wanted / 'out')
    for first in range(1, 12):
        for second in range(12):
            folder = tmp_path / f'{first} {second}'
            folder.mkdir()
            killed_at(first, monkeypatch, folder / 'out')
            killed_at(second, monkeypatch, folder / 'out', resume=True)
            decode(folder / 'out', resume=True)
            assert state(folder) == state(wanted)


def test_records_of_another_run_are_not_continued(tmp_path):
    writing = Decoded(tmp_path / 'out', OTHER_HEADER).write(enumerate(OTHER))
    for _ in range(5):
        next(writing)
    writing.close()
    with pytest.raises(ValueError, match=r'other input or settings than these \(decoding.exit.threshold\)'):
        Decoded(tmp_path / 'out', HEADER, resume=True)
    header = tmp_path / 'out.partial.config.json'
    header.write_text('[]')
    with pytest.raises(ValueError, match='out.partial.config.json is missing or damaged'):
        Decoded(tmp_path / 'out', HEADER, resume=True)


def test_the_header_stands_beside_the_file(tmp_path):
    decode(tmp_path / 'out')
    assert json.loads((tmp_path / 'out.config.json').read_text()) == HEADER
    assert [json.loads(line) for line in (tmp_path / 'out').read_text().splitlines()] == RECORDS
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out', 'out.config.json', 'out.summary.json']


def test_two_headers_differ_by_what_decides_the_records_by_dotted_names(tmp_path):
    fingerprints = {'parameters': 'p', 'config': 'c'}
    first = header('x', 'en', {'exit': {'threshold': 0.5}, 'eos': (1, 2)}, 8, fingerprints)
    assert differences(first, json.loads(json.dumps(first))) == []  # as read from its file
    second = header('y', 'en', {'exit': {'threshold': 0.4, 'measure': 'state'}}, 4, {**fingerprints, 'config': 'd'}, 'lambda')
    assert sorted(differences(first, second)) == [
        'batch_size',
        'config',
        'decoding.eos',
        'decoding.exit.measure',
        'decoding.exit.threshold',
        'input',
        'threshold_field',
    ]
    assert 'decoding' in differences({**first, 'decoding': 'damaged'}, first)
    assert header_differences(tmp_path / 'out', first) == ['out.config.json is missing or damaged']


def test_the_header_of_a_whole_file_is_compared_with_what_is_to_be_decoded(tmp_path):
    decode(tmp_path / 'out')
    assert header_differences(tmp_path / 'out', HEADER) == []
    assert header_differences(tmp_path / 'out', OTHER_HEADER) == ['decoding.exit.threshold']


def test_a_header_of_another_version_says_what_to_do(tmp_path):
    decode(tmp_path / 'out')
    path = tmp_path / 'out.config.json'
    for content, message in (
        ({'input': 'x', 'settings': {}}, 'written by calm_jax 0.1.0, .* decode again'),
        ({**HEADER, 'semantics': formats.SEMANTICS + 1}, 'its tokens may differ: decode again'),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(FileExistsError, match=message):
            Decoded(tmp_path / 'out', HEADER, resume=True)
