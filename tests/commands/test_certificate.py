"""`calm certificate`: what a certificate promises, and that one which was edited promises nothing."""

import json

import numpy as np
import pytest

from calm_jax.calibration import calibrate
from calm_jax.cli import main
from calm_jax.commands.plain_table import plain_table

PROVENANCE = {'parameters': 'ab' * 32, 'data': {'name': 'cal.jsonl'}, 'environment': {'batch_size': 8}}


@pytest.fixture
def write(tmp_path):
    def write(losses, change=lambda text: text):
        grid = np.full((200, 2), losses)
        certificate = calibrate(grid, [0.9, 0.8], tolerance=0.1, epsilon=0.05, provenance=PROVENANCE)
        path = tmp_path / 'c.json'
        path.write_text(change(certificate.to_json()))
        return str(path), certificate

    return write


def test_it_prints_the_promise_and_what_it_is_of(write, capsys):
    path, certificate = write(0.001)
    assert main(['certificate', path]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(certificate.guarantee + '\n')
    rows = {tuple(line.split(maxsplit=1)) for line in printed.splitlines() if line.startswith('  ')}
    assert rows >= {('δ', '0.1'), ('ε', '0.05'), ('data.name', 'cal.jsonl'), ('batch_size', '8')}
    assert ('parameters', 'abababababab…') in rows  # what tells fingerprints apart, and fits a line
    assert ('settings', '2 of 2 tested, 2 valid') in rows
    assert ('reference', 'this checkpoint, all layers and the full plan') in rows
    assert max(map(len, printed.splitlines()[1:])) <= 80


def test_where_nothing_was_certified_it_says_so(write, capsys):
    path, _ = write(0.9)
    assert main(['certificate', path]) == 0
    assert '1 of 2 tested, 0 valid' in capsys.readouterr().out


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda text: text.replace('"epsilon": 0.05', '"epsilon": 0.01'),
            'changed since it was written, so it promises nothing',
        ),
        (lambda text: json.dumps({**json.loads(text), 'threshold': 0.1}), 'its p-values give 0.8; calibrate again'),
        (lambda text: text[:-9], 'not JSON'),
    ],
)
def test_a_certificate_that_was_edited_is_refused_in_a_line(write, capsys, change, message):
    path, _ = write(0.001, change)
    assert main(['certificate', path]) == 2
    captured = capsys.readouterr()
    assert captured.out == '' and captured.err.startswith(f'calm certificate: {path}: ')
    assert message in captured.err and captured.err.count('\n') == 1


def test_columns_stand_under_each_other_whatever_their_script():
    lines = plain_table([['name', '1', ''], ['日本', '10', 'e\u0301'], ['λ', '2.5', 'unit']], numbers=[1]).split('\n')
    assert lines == ['name    1', '日本   10  e\u0301', 'λ     2.5  unit']
