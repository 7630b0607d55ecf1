"""`calm benchmark`, as a user runs it. Nothing here asserts a time: only what was decoded, and how it is reported."""

import json

import numpy as np
import pytest

from calm_jax import calibration
from calm_jax.cli import main
from calm_jax.commands.benchmark import whole_batches
from calm_jax.report import reader


@pytest.fixture
def benchmark(checkpoint, tmp_path):
    """Runs the command with few repeats; returns (exit code, rows of the result)."""

    def run(*flags):
        path = tmp_path / 'results.json'
        code = main(['benchmark', '--checkpoint', checkpoint, '--repeats', '2', '--quiet', '--output', str(path), *flags])
        return code, json.loads(path.read_text())['rows'] if path.exists() else None

    return run


def test_without_texts_every_depth_is_timed_on_rows_that_never_end(benchmark, tmp_path):
    code, rows = benchmark('--examples', '4', '--batch_size', '2', '--max_source_length', '8', '--max_new_tokens', '3')
    assert code == 0
    assert [row['setting'] for row in rows] == ['full depth', '1 of 3 layers', '2 of 3 layers', 'conditionals, no exit']
    assert [row['layers'] for row in rows] == [row['executed'] for row in rows] == [3, 1, 2, 3]
    assert all(row['tokens'] == 4 * 3 for row in rows)
    for row in rows:
        assert len(row['rounds']) == 2 and row['seconds_least'] <= row['seconds'] <= row['seconds_greatest']
        assert (row['speed_up'] is None) == (row['setting'] == 'full depth')
    [results] = reader.read(tmp_path).results
    assert len(results.rows) == 4


def test_inputs_are_decoded_as_generate_decodes_them_at_every_batch_size(benchmark, checkpoint, data, tmp_path):
    early = ('--measure', 'classifier', '--source_field', 'en', '--input', data, '--max_source_length', '8')
    code, rows = benchmark(*early, '--threshold', '0.6', '--threshold', '1', '--examples', '9', '--batch_size', '1',
                           '--batch_size', '4')
    assert code == 0
    assert [(row['batch_size'], row['setting']) for row in rows] == [
        (size, name) for size in (1, 4) for name in ('full depth', 'classifier λ=0.6', 'classifier λ=1')]
    out = tmp_path / 'out.jsonl'
    assert main(['generate', '--checkpoint', checkpoint, '--quiet', *early, '--threshold', '0.6', '--output', str(out)]) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    for first, row in ((9, rows[1]), (8, rows[4])):  # 9 inputs make two whole batches of 4
        layers = [layer for record in records[:first] for layer in record['exit_layers']]
        assert row['tokens'] == len(layers) and row['layers'] == pytest.approx(np.mean(layers))
    for size in (0, 3):
        assert rows[size]['layers'] == rows[size + 2]['layers'] == 3 and rows[size]['tokens'] == rows[size + 2]['tokens']
        # λ is a number of one compiled program.
        assert rows[size + 1]['compile_seconds'] > 0 and rows[size + 2]['compile_seconds'] == 0


def test_a_certificate_brings_its_settings(benchmark, data, tmp_path):
    settings = {'measure': 'static', 'max_new_tokens': 5, 'max_source_length': 8}
    path = tmp_path / 'c.json'
    calibration.calibrate(np.zeros((200, 1)), [0.6], 0.1, 0.05, provenance={'settings': settings}).save(path)
    _, rows = benchmark('--input', data, '--source_field', 'en', '--certificate', str(path), '--examples', '2')
    assert [row['setting'] for row in rows] == ['full depth', f'certificate {path}']
    assert [row['layers'] for row in rows] == [3, 2]  # 2/3 is the first share of the layers to reach 0.6
    assert all(row['tokens'] <= 2 * 5 for row in rows)


@pytest.mark.parametrize('flags, said', [
    (('--threshold', '0.5'), '--threshold needs --measure'),
    (('--measure', 'classifier'), '--measure classifier needs --threshold'),
    (('--measure', 'clasifier', '--threshold', '0.5'), 'did you mean classifier'),
    (('--measure', 'state', '--threshold', '1.5'), 'threshold is 1.5'),
    (('--certificate', 'c.json', '--measure', 'state'), '--measure: a certificate fixes'),
    (('--certificate', 'c.json', '--threshold', '0.5'), '--threshold: a certificate fixes'),
    (('--certificate', 'nowhere.json'), 'nowhere.json'),
    (('--input', 'nowhere.jsonl'), 'nowhere.jsonl'),
    (('--batch_size', '0'), 'number of 1 or more'),
    (('--checkpoint', 'nowhere'), 'nowhere: does not exist'),
])
def test_every_mistake_is_one_line(benchmark, capsys, flags, said):
    code, rows = benchmark(*flags)
    error = capsys.readouterr().err
    assert code == 2 and rows is None
    assert said in error and error.count('\n') == 1


def test_batches_are_whole():
    for count, size in ((10, 1), (10, 4), (3, 8), (8, 8)):
        taken = whole_batches(list(range(count)), size)
        assert len(taken) % size == 0 and len(taken) == max(size, count // size * size)
        assert taken[:count] == list(range(count))[:len(taken)]
