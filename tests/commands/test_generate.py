"""`calm generate`, as a user runs it: files, resuming, certificates, and every mistake."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from calm_jax.calibration import calibrate
from calm_jax.cli import main
from calm_jax.commands.generate import environment, model_fingerprints
from calm_jax.data import jsonl
from calm_jax.decoding.settings import Settings
from calm_jax.model import load


@pytest.fixture
def generate(checkpoint, data, tmp_path):
    """Runs the command with defaults for what a test does not say; returns (exit code, output path)."""

    def run(*flags, output='out.jsonl', source_field='en', source=data):
        path = tmp_path / output
        code = main(
            [
                'generate',
                '--checkpoint',
                checkpoint,
                '--input',
                source,
                '--source_field',
                source_field,
                '--output',
                str(path),
                '--batch_size',
                '8',
                '--quiet',
                *flags,
            ]
        )
        return code, path

    return run


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


EXITS = ('--measure', 'classifier', '--threshold', '0.6')


def test_one_record_a_line_in_input_order_with_depth_and_cost_of_every_token(generate, data):
    code, path = generate(*EXITS)
    rows = records(path)
    assert code == 0
    assert [row['id'] for row in rows] == [json.loads(line)['id'] for line in open(data)]
    for row in rows:
        assert len(row['tokens']) == len(row['pieces']) == len(row['exit_layers']) == len(row['confidence']) <= 8
        assert row['layers'] == pytest.approx(sum(row['exit_layers']) / len(row['exit_layers']))
        assert 1 <= min(row['exit_layers']) and max(row['exit_layers']) <= 3 and row['flops'] > 0
        assert row['layers'] <= row['executed'] + 2 and row['executed'] <= 3
    assert len({layer for row in rows for layer in row['exit_layers']}) > 1
    assert any(row['truncated'] for row in rows) and not all(row['truncated'] for row in rows)
    summary = json.loads(path.with_name('out.jsonl.summary.json').read_text())
    assert summary['examples'] == summary['timed_examples'] == 70
    assert summary['truncated'] == sum(row['truncated'] for row in rows)
    assert summary['seconds_per_example_mean'] == pytest.approx(summary['decode_seconds'] / 70)
    assert 0 < summary['seconds_per_example_median'] < summary['decode_seconds']
    header = json.loads(path.with_name('out.jsonl.config.json').read_text())
    assert header['settings']['threshold'] == 0.6 and header['settings']['max_new_tokens'] == 8
    assert not path.with_name('out.jsonl.partial').exists()


def test_full_depth_costs_more_than_exits_and_threshold_one_is_full_depth(generate):
    full, one, early = (
        records(generate(*flags, output=f'{i}.jsonl')[1])
        for i, flags in enumerate([(), ('--measure', 'classifier', '--threshold', '1'), EXITS])
    )
    assert [row['tokens'] for row in one] == [row['tokens'] for row in full]
    assert [row['flops'] for row in one] == [row['flops'] for row in full]
    shorter = [(a['flops'], b['flops']) for a, b in zip(early, full) if len(a['tokens']) == len(b['tokens'])]
    assert shorter and all(a < b for a, b in shorter)


def test_running_again_gives_the_same_bytes(generate):
    assert generate(*EXITS)[1].read_bytes() == generate(*EXITS, output='again.jsonl')[1].read_bytes()


@pytest.mark.parametrize('examples', [9, 70])
def test_a_file_is_opened_and_its_lines_are_parsed_as_often_whatever_the_number_of_records(
    generate, data, tmp_path, monkeypatch, examples
):
    source = tmp_path / 'some.jsonl'
    source.write_text(''.join(open(data).readlines()[:examples]))
    opens, parsed = [], []
    real_open, real_parse = open, jsonl._parse
    monkeypatch.setattr('builtins.open', lambda path, *args, **how: opens.append(path) or real_open(path, *args, **how))
    monkeypatch.setattr(jsonl, '_parse', lambda line, where: parsed.append(where) or real_parse(line, where))
    assert generate(*EXITS, source=str(source))[0] == 0
    # To index it, to check every line, to fingerprint it, and to decode it.
    assert [str(path) for path in opens].count(str(source)) == 4
    assert len(parsed) == 2 * examples  # once to check it before anything is decoded


def test_a_run_killed_anywhere_resumes_to_the_same_bytes(generate, monkeypatch):
    from calm_jax.commands import decode_flags

    whole = generate(*EXITS, '--batch_size', '1')[1].read_bytes()
    real = decode_flags.stream

    def dies(*args, **kwargs):
        for i, output in enumerate(real(*args, **kwargs)):
            if i == 67:  # in the second window of 64
                raise KeyboardInterrupt
            yield output

    monkeypatch.setattr(decode_flags, 'stream', dies)
    code, path = generate(*EXITS, '--batch_size', '1', output='torn.jsonl')
    partial = path.with_name('torn.jsonl.partial')
    assert code == 130 and not path.exists() and partial.exists()
    with open(partial, 'ab') as file:
        file.write(b'{"id": "row 67", "te')
    monkeypatch.setattr(decode_flags, 'stream', real)
    assert generate(*EXITS, '--batch_size', '1', output='torn.jsonl')[0] == 2  # neither resumed nor overwritten unasked
    other = ('--measure', 'state', '--threshold', '.6')
    assert generate(*other, '--resume', '--batch_size', '1', output='torn.jsonl')[0] == 2
    assert generate(*EXITS, '--batch_size', '1', '--resume', output='torn.jsonl') == (0, path)
    assert path.read_bytes() == whole
    summary = json.loads(path.with_name('torn.jsonl.summary.json').read_text())
    assert summary['examples'] == 70 and summary['timed_examples'] == 6  # the others' times died with their run
    assert generate(*EXITS, '--batch_size', '1', '--resume', output='torn.jsonl')[0] == 0  # nothing left to do
    assert path.read_bytes() == whole


def test_a_killed_process_resumes_to_the_same_bytes(generate, checkpoint, data, tmp_path):
    whole = generate(*EXITS, '--batch_size', '1')[1].read_bytes()
    path = tmp_path / 'killed.jsonl'
    command = [
        sys.executable,
        '-m',
        'calm_jax.cli',
        'generate',
        '--checkpoint',
        checkpoint,
        '--input',
        data,
        '--source_field',
        'en',
        '--output',
        str(path),
        '--quiet',
        *EXITS,
        '--batch_size',
        '1',
    ]
    process = subprocess.Popen(command)
    partial = pathlib.Path(f'{path}.partial')
    while process.poll() is None and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.02)
    process.kill()  # does nothing where it was quicker
    process.wait()
    if not path.exists():
        assert main([*command[3:], '--resume']) == 0
    assert path.read_bytes() == whole


def test_a_prompt_is_answered_on_standard_output(checkpoint, capsys):
    assert main(['generate', '--checkpoint', checkpoint, '--prompt', 'a cat']) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 1


def test_sampling_is_seeded_by_example_and_not_by_batch(generate):
    flags = ('--temperature', '1.5', '--top_k', '20', '--seed', '3')
    first = records(generate(*flags)[1])
    again = records(generate(*flags, output='again.jsonl')[1])
    other = records(generate(*flags[:-1], '4', output='other.jsonl')[1])
    assert [row['tokens'] for row in first] == [row['tokens'] for row in again]
    assert [row['tokens'] for row in first] != [row['tokens'] for row in other]


@pytest.mark.parametrize(
    'flags, message',
    [
        (('--measure', 'softmax_gapp', '--threshold', '.5'), 'did you mean softmax_gap?'),
        (('--measure', 'state', '--threshold', '1.5'), 'λ in [0, 1]'),
        (('--threshold', '.5'), 'without a measure'),
        (('--measure', 'state', '--threshold', '.5', '--min_exit_layer', '4'), 'the decoder has 3 layers'),
        (('--plan', 'uniform:9'), 'C from 1 to 3'),
        (('--propagation', 'lasy'), 'did you mean lazy?'),
        (('--threshold_form', 'decay'), 'decaying'),
        (('--temperature', '-1'), 'temperature'),
        (('--temperature', '1', '--top_p', '0'), 'top_p'),
        (('--batch_size', '0'), 'batch_size'),
        (('--max_new_tokens', 'x'), 'max_new_tokens'),
        (('--resume',), 'nothing to resume'),
        (('--resume', '--overwrite'), 'contradict'),
        (('--certificate', 'none.json'), 'none.json'),
        (('--nonsense',), 'nonsense'),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_writes_nothing(generate, capsys, flags, message):
    code, path = generate(*flags)
    error = capsys.readouterr().err
    assert code == 2 and message in error and len(error.splitlines()) == 1 and 'Traceback' not in error
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    'content, field, message',
    [
        ('{"en": "a"}\n{"en": \n', 'en', 'in.jsonl:2'),
        ('', 'en', 'no record'),
        ('{"en": "a"}\n[1]\n', 'en', 'in.jsonl:2'),
        ('{"english": "a"}\n', 'englsh', 'did you mean english'),
        ('{"en": "a"}\n{"fr": "a"}\n', 'en', 'in.jsonl:2'),
        ('{"en": 3}\n{"en": null}\n', 'en', 'null'),
        ('{"en": "a"}\n{"en": "a \\ud83d"}\n', 'en', 'in.jsonl:2: holds half of a surrogate pair'),
        ('{"en": "a"}\n{"en": "a", "id": "\\ud83d"}\n', 'en', 'in.jsonl:2: holds half of a surrogate pair'),
    ],
)
def test_bad_input_names_the_line(generate, capsys, tmp_path, content, field, message):
    source = tmp_path / 'in.jsonl'
    source.write_text(content)
    code, path = generate(source=str(source), source_field=field)
    assert code == 2 and message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


def test_missing_files_and_directories_that_are_no_checkpoint_are_named(generate, checkpoint, data, tmp_path, capsys):
    assert generate(source=str(tmp_path / 'none.jsonl'))[0] == 2
    assert 'none.jsonl' in capsys.readouterr().err
    for directory, word in ((tmp_path, 'not a checkpoint'), (tmp_path / 'none', 'does not exist')):
        assert main(['generate', '--checkpoint', str(directory), '--input', data, '--output', str(tmp_path / 'o')]) == 2
        assert word in capsys.readouterr().err
    assert main(['generate', '--checkpoint', checkpoint, '--input', data]) == 2
    assert '--output' in capsys.readouterr().err
    assert generate(output='no/such/folder.jsonl')[0] == 2
    assert 'no such folder' in capsys.readouterr().err


def test_an_output_that_exists_is_not_replaced_unasked(generate, capsys):
    _, path = generate()
    before = path.read_bytes()
    assert generate(*EXITS)[0] == 2 and '--overwrite' in capsys.readouterr().err
    assert path.read_bytes() == before
    assert generate(*EXITS, '--overwrite')[0] == 0 and path.read_bytes() != before


def test_gin_sets_what_flags_do_not(generate, capsys):
    by_gin = generate('--gin_file=depth/classifier.gin', '--threshold', '0.6', output='gin.jsonl')[1]
    by_flags = generate(*EXITS, '--threshold_form', 'decaying', output='flags.jsonl')[1]
    assert by_gin.read_bytes() == by_flags.read_bytes()
    bound = generate('--gin.Settings.max_new_tokens=3', output='bound.jsonl')[1]
    assert max(len(row['tokens']) for row in records(bound)) == 3
    assert generate('--gin.Settings.mesure=3', output='wrong.jsonl')[0] == 2
    assert 'did you mean measure' in capsys.readouterr().err


def test_an_interrupted_overwrite_resumes_what_it_was_writing_and_not_what_stood_there(generate, monkeypatch):
    from calm_jax.commands import decode_flags

    _, path = generate(*EXITS, '--batch_size', '1')
    whole, real = path.read_bytes(), decode_flags.stream

    def dies(*args, **kwargs):
        for i, output in enumerate(real(*args, **kwargs)):
            if i == 67:
                raise KeyboardInterrupt
            yield output

    monkeypatch.setattr(decode_flags, 'stream', dies)
    other = ('--measure', 'static', '--threshold', '0.5', '--batch_size', '1')
    assert generate(*other, '--overwrite')[0] == 130
    monkeypatch.setattr(decode_flags, 'stream', real)
    assert path.read_bytes() == whole  # what stood there is not lost until the new file is whole
    assert generate(*other, '--resume')[0] == 0
    assert path.read_bytes() == generate(*other, output='plain.jsonl')[1].read_bytes()
    assert json.loads(path.with_name('out.jsonl.summary.json').read_text())['examples'] == 70


def test_a_measure_without_a_threshold_is_asked_for_one(generate, capsys):
    assert generate('--measure', 'state')[0] == 2 and '--threshold' in capsys.readouterr().err


def test_another_configuration_around_the_same_parameters_is_not_resumed(generate, checkpoint, tmp_path, capsys):
    copy = tmp_path / 'copy'
    shutil.copytree(checkpoint, copy)
    assert generate('--checkpoint', str(copy))[0] == 0
    assert generate('--checkpoint', str(copy), '--resume')[0] == 0
    fields = json.loads((copy / 'config.json').read_text())
    (copy / 'config.json').write_text(json.dumps({**fields, 'norm_epsilon': 0.1}))
    capsys.readouterr()
    assert generate('--checkpoint', str(copy), '--resume')[0] == 2
    assert 'from other input or settings (config)' in capsys.readouterr().err


def test_a_certificate_does_not_cover_another_configuration(generate, checkpoint, tmp_path, capsys):
    model = load(checkpoint)
    settings = Settings(**model.generation, measure='state', threshold=0.9)
    recorded = {name: value for name, value in dataclasses.asdict(settings).items() if name != 'threshold'}
    provenance = {**model_fingerprints(model), 'settings': recorded, 'environment': environment(8)}
    calibrate(np.zeros((200, 1)), [0.9], 0.2, 0.05, provenance=provenance).save(tmp_path / 'c.json')
    flags = ('--certificate', str(tmp_path / 'c.json'))
    assert generate(*flags)[0] == 0
    copy = tmp_path / 'copy'
    shutil.copytree(checkpoint, copy)
    fields = json.loads((copy / 'config.json').read_text())
    (copy / 'config.json').write_text(json.dumps({**fields, 'mlp_activations': ['relu', 'linear']}))
    assert generate(*flags, '--checkpoint', str(copy), output='other.jsonl')[0] == 2
    error = capsys.readouterr().err
    assert 'does not cover this run: config is' in error and len(error.splitlines()) == 1


def test_a_prompt_that_is_no_text_is_one_line(checkpoint, capsys):
    for prompt in ('a \ud83d', os.fsdecode(b'caf\xe9')):
        assert main(['generate', '--checkpoint', checkpoint, '--prompt', prompt]) == 2
        error = capsys.readouterr().err
        assert '--prompt: not text' in error and len(error.splitlines()) == 1


def test_an_output_that_is_a_folder_is_refused_before_the_model_is_read(generate, tmp_path, capsys, monkeypatch):
    (tmp_path / 'folder').mkdir()
    monkeypatch.setattr('calm_jax.commands.generate.load', None)
    for flags in ((), ('--overwrite',), ('--resume',)):
        assert generate(*flags, output='folder')[0] == 2
        assert 'folder is a folder; expected the name of a file' in capsys.readouterr().err


def test_checking_the_input_and_decoding_show_how_far_they_are(checkpoint, data, tmp_path, monkeypatch):
    shown = []

    def watched(iterable, description, *, quiet, total=None, **_):
        shown.append((description, len(iterable) if total is None else total, quiet))
        yield from iterable

    monkeypatch.setattr('calm_jax.commands.generate.progress', watched)
    assert (
        main(
            [
                'generate',
                '--checkpoint',
                checkpoint,
                '--input',
                data,
                '--source_field',
                'en',
                '--batch_size',
                '8',
                '--output',
                str(tmp_path / 'out.jsonl'),
            ]
        )
        == 0
    )
    assert shown == [('checking', 70, False), ('decoding', 70, False)]


def test_a_run_killed_after_its_last_record_gets_its_summary_when_resumed(generate, tmp_path):
    _, path = generate()
    summary = path.with_name('out.jsonl.summary.json')
    before = json.loads(summary.read_text())
    summary.unlink()
    assert generate('--resume')[0] == 0
    after = json.loads(summary.read_text())
    assert after['tokens'] == before['tokens'] and after['timed_examples'] == 0
