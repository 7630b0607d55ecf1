"""`calm benchmark`, as a user runs it. Nothing here asserts a time: only what was decoded, and how it is reported."""

import argparse
import io
import json

import numpy as np
import pytest
from rich.console import Console

from calm_jax import calibration
from calm_jax.calibration import Point
from calm_jax.cli import main
from calm_jax.commands import benchmark as command
from calm_jax.commands.benchmark import whole_batches
from calm_jax.decoding.packing import Packing
from calm_jax.depth.confidence import Classifier
from calm_jax.depth.thresholds import Decaying
from calm_jax.model import load
from calm_jax.output import DecodeReport
from calm_jax.reporting import reader
from calm_jax.speed import Timed


def _rows(path):
    """The rows of a result; [] of the empty list that stands for something else."""
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    return content['rows'] if content else []


@pytest.fixture
def benchmark(checkpoint, tmp_path):
    """Runs the command with few repeats; returns (exit code, rows of the result)."""

    def run(*flags):
        path = tmp_path / 'results.json'
        code = main(['benchmark', '--checkpoint', checkpoint, '--repeats', '2', '--quiet', '--output', str(path), *flags])
        return code, _rows(path)

    return run


def test_without_texts_every_depth_is_timed_on_rows_that_never_end(benchmark, tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(command, 'progress', lambda each, description, quiet, unit: bars.append((description, quiet)) or each)
    code, rows = benchmark('--examples', '4', '--batch_size', '2', '--max_source_length', '8', '--max_new_tokens', '3')
    assert code == 0 and bars == [('batch 2, compiling', True), ('batch 2', True)]
    assert [row['setting'] for row in rows] == ['full depth', '1 of 3 layers', '2 of 3 layers', 'conditionals, no exit']
    assert [row['layers'] for row in rows] == [row['executed'] for row in rows] == [3, 1, 2, 3]
    assert all(row['tokens'] == 4 * 3 for row in rows)
    for row in rows:
        assert row['lower_seconds'] >= 0 and row['memory_mib'] > 0
        assert len(row['rounds']) == 2 and row['seconds_least'] <= row['seconds'] <= row['seconds_greatest']
        assert (row['speed_up'] is None) == (row['setting'] == 'full depth')
    [results] = reader.read(tmp_path).results
    assert len(results.rows) == 4
    source = json.loads((tmp_path / 'results.json').read_text())['provenance']
    assert source['command'].startswith('calm benchmark --checkpoint ') and source['repeats'] == 2 and source['data'] is None
    exits = [source['settings'][row['setting']].get('exit') for row in rows]
    assert exits == [None, *({'measure': {'class': 'static'}, 'threshold': share} for share in (1 / 3, 2 / 3, 1 - 1 / 6))]
    assert source['fingerprints']['parameters'] and source['seed'] == 0
    assert json.loads((tmp_path / 'results.json').read_text())['step_reading'] is None  # of a step at batch 1


def test_a_step_stands_beside_the_reading_of_its_weights():
    reading = {'step_ms': 8.0, 'read_ms': 4.0, 'share': 0.5, 'weight_bytes': 32_000_000}
    assert command.in_words(reading) == 'batch 1, full depth: step = 8.00 ms, weights read in 4.00 ms, share 0.50'


@pytest.mark.parametrize('step_ms', [-0.001, 0.4])
def test_a_step_that_seems_quicker_than_the_reading_of_its_weights_is_not_printed(step_ms):
    reading = {'step_ms': step_ms, 'read_ms': 4.0, 'share': 4 / step_ms, 'weight_bytes': 32_000}
    words = command.in_words(reading)
    assert 'reading its 0.032 MB of weights' in words and 'ms' not in words


def test_inputs_are_decoded_as_generate_decodes_them_at_every_batch_size(benchmark, checkpoint, data, tmp_path):
    early = ('--measure', 'classifier', '--source_field', 'en', '--input', data, '--max_source_length', '8')
    code, rows = benchmark(
        *early,
        *(flag for threshold in ('0.6', '1') for flag in ('--threshold', threshold)),
        *('--examples', '9', '--batch_size', '1', '--batch_size', '4'),
    )
    assert code == 0
    assert [(row['batch_size'], row['setting']) for row in rows] == [
        (size, name) for size in (1, 4) for name in ('full depth', 'classifier, λ=0.6', 'classifier, λ=1')
    ]
    out = tmp_path / 'out.jsonl'
    run = ['generate', '--checkpoint', checkpoint, '--quiet', *early, '--threshold', '0.6', '--batch_size', '4']
    assert main([*run, '--output', str(out)]) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    layers = [layer for record in records[:9] for layer in record['exit_layers']]
    for size in (0, 3):
        full, early, off = rows[size : size + 3]
        assert early['tokens'] == len(layers) and early['layers'] == pytest.approx(np.mean(layers))
        assert full['layers'] == off['layers'] == full['executed'] == 3 and full['tokens'] == off['tokens']
        assert full['pack'] == early['pack'] == ('refill' if size else 'none') and full['compile_seconds'] is None
        assert early['layers'] <= early['executed'] <= 3
    assert rows[1]['layers'] == pytest.approx(rows[1]['executed'])  # alone in its batch a token runs what it needs


def test_texts_are_packed_as_generate_packs_them(benchmark, data, monkeypatch, capsys):
    """--pack reaches what is timed, for those decodings that are ever packed; what cannot be is refused."""
    packs = []

    def time_decodings(model, decodings, texts, batch_size, rounds, quiet, pack):
        packs.append((len(texts), batch_size, pack))
        report = DecodeReport(1.0, 2, places=10, tokens=8, executed=90, needed=72, widths=frozenset([8]))
        return Timed(np.full((rounds, len(decodings)), 0.5), np.full(len(decodings), 8), [[report]] * len(decodings))

    monkeypatch.setattr(command, 'time_decodings', time_decodings)
    texts = ('--input', data, '--source_field', 'en', '--batch_size', '4', '--examples', '9')
    early = (*texts, '--measure', 'state', '--threshold', '0.9')
    for pack in ('none', 'refill', '1:2'):
        code, rows = benchmark(*early, '--pack', pack, '--overwrite')
        assert code == 0 and [row['pack'] for row in rows] == ['refill' if pack == '1:2' else pack, pack]
    assert packs == [(9, 4, 'none'), (9, 4, 'refill'), (9, 4, Packing((1,), (2,)))]
    # Of 10 places 8 are used; a layer is 3 sub-layers; 10 places are 2.5 steps of 4 slots.
    assert [rows[1][name] for name in ('tokens', 'layers', 'executed', 'step_ms')] == [8, 3, 3, 200]
    for flags, words in (
        ((*early, '--pack', '1:3'), 'do not divide'),
        ((*early, '--pack', '7:2'), 'the decoder has 3 layers'),
        ((*texts, '--plan', 'uniform:2', '--pack', '1:2'), 'changes nothing'),
        (('--pack', 'none'), 'pass --input'),
    ):
        assert benchmark(*flags, '--overwrite')[0] == 2
        error = capsys.readouterr().err
        assert words in error and error.count('\n') == 1


def test_a_terminal_of_80_columns_shows_every_number():
    row = {'batch_size': 128, 'setting': 'certificate runs/multi30k/results/certificate_textual_0.1.json', 'layers': 12.34}
    row |= {'executed': 12.34, 'step_ms': 1234.56, 'tokens_per_second': 123456.0}
    row |= {'speed_up': 12.34, 'speed_up_least': 11.23, 'speed_up_greatest': 13.45}
    result = {'title': 'a title', 'rows': [row], 'provenance': {'repeats': 5}}
    console = Console(width=80, file=io.StringIO())
    console.print(command.table(result))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for shown in ('128', '12.34', '1234.56', '123456', '×12.34 (11.23–13.45)'):
        assert any(shown in line for line in lines)
    start = next(line.index('setting') for line in lines if 'setting' in line)
    assert row['setting'].replace(' ', '') in ''.join(line[start : start + 10] for line in lines).replace(' ', '')


def test_beam_search_is_timed_against_greedy_decoding(benchmark, checkpoint, data, tmp_path):
    flags = (
        '--source_field',
        'en',
        '--input',
        data,
        '--num_beams',
        '3',
        '--length_penalty',
        '2',
        '--no_repeat_ngram_size',
        '2',
    )
    code, rows = benchmark(*flags, '--plan', 'uniform:2', '--examples', '4', '--batch_size', '4')
    assert code == 0
    search = 'beam (size 3, length_penalty 2.0)'
    names = ['full depth', f'full depth, {search}', f'uniform plan (share {2 / 3!r}), {search}']
    assert [row['setting'] for row in rows] == names and [row['executed'] for row in rows] == [3, 3, 2]
    # The work of a row is that of its three sequences, as long as any might become the best.
    assert rows[0]['layers'] == 3 and rows[1]['layers'] >= 9 and rows[2]['layers'] >= 6
    out = tmp_path / 'out.jsonl'
    assert main(['generate', '--checkpoint', checkpoint, '--quiet', *flags, '--output', str(out)]) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()][:4]
    assert rows[1]['tokens'] == sum(len(record['tokens']) for record in records)


@pytest.fixture
def compared(checkpoint):
    """What would be timed with these flags: nothing is."""
    model = load(checkpoint)

    def run(*flags):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        return command.compared_decodings(parser.parse_args(['--checkpoint', checkpoint, *flags]), model)

    return run


def test_gin_names_the_measure_or_threshold_as_flags_do(compared):
    for flags, threshold in (
        (('--threshold', '0.9'), 0.9),
        (('--gin.Exit.threshold=0.8',), 0.8),
        (('--gin.Exit.threshold=0.8', '--threshold', '0.7'), 0.7),
    ):
        full, early = compared('--gin_file=depth/classifier.gin', *flags).values()
        assert full == early.full() and full.exit is None
        assert isinstance(early.exit.measure, Classifier) and early.exit.form == Decaying(4.0)
        assert early.exit.threshold == threshold
    with pytest.raises(ValueError, match='needs --measure'):
        compared('--gin.Exit.threshold=0.8')


def test_an_output_that_exists_is_refused_before_anything_is_timed(benchmark, tmp_path, capsys):
    (tmp_path / 'results.json').write_text('[]')
    for flags, said in (
        ((), '--overwrite'),
        (('--overwrite', '--output', str(tmp_path)), 'is a folder'),
        (('--overwrite', '--checkpoint', 'nowhere'), 'nowhere: does not exist'),
    ):
        assert benchmark('--checkpoint', 'nowhere', *flags) == (2, [])
        error = capsys.readouterr().err
        assert said in error and error.count('\n') == 1


def certificate_of(folder):
    exit = {'measure': {'class': 'static'}, 'threshold': 0.6}
    point = Point({'exit': exit, 'limits': {'max_new_tokens': 5, 'max_source_length': 8}}, 0.6)
    path = folder / 'c.json'
    calibration.calibrate(np.zeros((200, 1)), [point], 0.1, 0.05).save(path)
    return path


def test_a_certificate_fixes_what_flags_and_gin_say(compared, tmp_path):
    path = str(certificate_of(tmp_path))
    assert list(compared('--certificate', path, '--measure', 'static')) == ['full depth', f'certificate {path}']
    for flags, said in (
        (('--measure', 'state'), f'--measure state: the certificate {path} says static'),
        (('--threshold', '0.5'), '--threshold: a certificate fixes'),
        (('--max_new_tokens', '4'), 'says 5'),
        (('--gin.Limits.max_new_tokens=4',), 'says 5'),
    ):
        with pytest.raises(ValueError, match=said):
            compared('--certificate', path, *flags)


def test_a_certificate_brings_its_decoding(benchmark, data, tmp_path):
    path = certificate_of(tmp_path)
    _, rows = benchmark('--input', data, '--source_field', 'en', '--certificate', str(path), '--examples', '2')
    assert [row['setting'] for row in rows] == ['full depth', f'certificate {path}']
    assert [row['layers'] for row in rows] == [3, 2]  # 2/3 is the first share of the layers to reach 0.6
    assert all(row['tokens'] <= 2 * 5 for row in rows)


@pytest.mark.parametrize(
    'flags, said',
    [
        (('--threshold', '0.5'), '--threshold needs --measure'),
        (('--measure', 'classifier'), '--measure needs --threshold'),
        (('--measure', 'clasifier', '--threshold', '0.5'), 'did you mean classifier'),
        (('--measure', 'state', '--threshold', '1.5'), 'threshold is 1.5'),
        (('--certificate', 'nowhere.json'), 'nowhere.json'),
        (('--input', 'nowhere.jsonl'), 'nowhere.jsonl'),
        (('--batch_size', '0'), 'number of 1 or more'),
        (('--checkpoint', 'nowhere'), 'nowhere: does not exist'),
    ],
)
def test_every_mistake_is_one_line(benchmark, capsys, flags, said):
    code, rows = benchmark(*flags)
    error = capsys.readouterr().err
    assert code == 2 and rows is None
    assert said in error and error.count('\n') == 1


def test_batches_are_whole():
    for count, size in ((10, 1), (10, 4), (3, 8), (8, 8)):
        taken = whole_batches(list(range(count)), size)
        assert len(taken) % size == 0 and len(taken) == max(size, count // size * size)
        assert taken[:count] == list(range(count))[: len(taken)]
