"""`calm generate`, as a user runs it: files, resuming, certificates, and every mistake."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from calm_jax.calibration import Certificate, Point, calibrate
from calm_jax.certified import environment, kept_together
from calm_jax.checkpoints import huggingface, native
from calm_jax.cli import main
from calm_jax.data import jsonl
from calm_jax.decoding import codec
from calm_jax.decoding.choice import Sampled
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.packing import Packing
from calm_jax.depth.confidence import Classifier, StateSimilarity
from calm_jax.depth.exits import Exit
from calm_jax.depth.plans import Uniform
from calm_jax.model import Model, load


@pytest.fixture(autouse=True)
def unwarned(monkeypatch):
    """A process that has warned of nothing yet."""
    monkeypatch.setattr('calm_jax.certified._warned', set())


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


HEAD = {name: {'head': 'exit_classifier'} for name in ('kernel', 'bias')}
EXITS = ('--measure', 'classifier', '--threshold', '0.6')
TOGETHER = ('--batch_size', '70')  # one batch: one program, where it is no matter what is in flight


def test_one_record_a_line_in_input_order_with_depth_and_cost_of_every_token(generate, data):
    code, path = generate(*EXITS)
    rows = records(path)
    assert code == 0
    assert [row['id'] for row in rows] == [json.loads(line)['id'] for line in open(data)]
    for row in rows:
        assert len(row['tokens']) == len(row['pieces']) == len(row['exit_layers']) == len(row['confidence']) <= 8
        assert row['layers'] == pytest.approx(sum(row['exit_layers']) / len(row['exit_layers']))
        assert 1 <= min(row['exit_layers']) and max(row['exit_layers']) <= 3 and row['flops'] > 0
        assert row['sub_layers'] == [3 * layer for layer in row['exit_layers']]
    assert len({layer for row in rows for layer in row['exit_layers']}) > 1
    assert any(row['truncated'] for row in rows) and not all(row['truncated'] for row in rows)
    summary = json.loads(path.with_name('out.jsonl.summary.json').read_text())
    assert summary['examples'] == summary['timed_examples'] == 70
    assert summary['truncated'] == sum(row['truncated'] for row in rows)
    assert summary['seconds_per_example_mean'] == pytest.approx(summary['decode_seconds'] / 70)
    assert 0 < summary['seconds_per_example_median'] < summary['decode_seconds']
    assert summary['places_needed'] == sum(sum(row['sub_layers']) for row in rows) < summary['places_executed']
    assert summary['layers_per_token'] == pytest.approx(sum(sum(row['exit_layers']) for row in rows) / summary['tokens'])
    header = json.loads(path.with_name('out.jsonl.config.json').read_text())
    assert header['decoding']['exit'] == {'measure': {'class': 'classifier', **HEAD}, 'threshold': 0.6}
    assert header['decoding']['limits'] == {'max_source_length': 16, 'max_new_tokens': 8}
    assert header['dtype'] == 'float32' and header['format'] == 'calm_jax records'
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


@pytest.mark.parametrize('pack', ['refill', '1:2,4', 'none'])
def test_however_rows_are_kept_together_the_records_are_the_same_and_what_was_used_is_counted(generate, several_widths, pack):
    usual, other = records(generate(*EXITS)[1]), generate(*EXITS, '--pack', pack, output='other.jsonl')[1]
    assert [row['id'] for row in records(other)] == [row['id'] for row in usual]
    same = [one['tokens'] == two['tokens'] for one, two in zip(usual, records(other))]
    assert sum(same) >= 68  # float32 of other shapes: but for close calls
    summary = json.loads(other.with_name('other.jsonl.summary.json').read_text())
    assert summary['places_used'] == summary['tokens'] <= summary['places']
    assert summary['widths'] == [8, 16]


def test_records_may_stand_in_the_order_in_which_they_end_and_are_the_same(generate):
    usual = records(generate(*EXITS)[1])
    ended = records(generate(*EXITS, '--finish_order', output='ended.jsonl')[1])
    assert [row['id'] for row in ended] != [row['id'] for row in usual]
    assert sorted(ended, key=lambda row: str(row['id'])) == sorted(usual, key=lambda row: str(row['id']))


def test_what_an_interrupted_run_has_journalled_is_not_decoded_again(generate, monkeypatch, capsys):
    whole, real, decoded = records(generate(*EXITS)[1]), Model.stream, []

    def dies(*args, **kwargs):
        for i, output in enumerate(real(*args, **kwargs)):
            if i == 30:
                raise KeyboardInterrupt
            yield output

    def counts(*args, **kwargs):
        for output in real(*args, **kwargs):
            decoded.append(output.text_index)
            yield output

    monkeypatch.setattr(Model, 'stream', dies)
    capsys.readouterr()
    assert generate(*EXITS, '--resume', output='torn.jsonl')[0] == 130  # a first run too
    assert '30 of 70 are kept: the same command with --resume goes on' in capsys.readouterr().err
    monkeypatch.setattr(Model, 'stream', counts)
    code, path = generate(*EXITS, '--resume', output='torn.jsonl')
    assert code == 0 and len(decoded) == 40
    assert [row['tokens'] for row in records(path)] == [row['tokens'] for row in whole]


@pytest.mark.parametrize(
    'pack, message',
    [
        ('fast', "expected 'auto', 'refill', 'none' or LAYERS:WIDTHS"),
        ('1:3', 'pack 1:3 packs into 3 rows, which do not divide a batch of 8'),
        ('1:8', 'which do not divide a batch of 8'),
        ('3:2', 'packs after layer 3; the decoder has 3 layers'),
        ('2,1:2', 'ascending'),
        ('1:', "packing '1:': expected LAYERS:WIDTHS"),
        ('1:2,sub_layers', "packing '1:2,sub_layers': expected LAYERS:WIDTHS"),
        ('sub_layers:3,8', 'pack sub_layers:3,8 packs into 8 rows, no fewer than a batch of 8'),
        ('sub_layers', 'pack sub_layers changes nothing'),
    ],
)
def test_a_packing_that_cannot_be_is_refused_in_a_line(generate, capsys, pack, message):
    assert generate(*EXITS, '--pack', pack)[0] == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_packing_that_changes_nothing_is_refused(generate, checkpoint, capsys):
    for flags in ((), (*EXITS, '--propagation', 'eager'), ('--num_beams', '2')):
        assert generate(*flags, '--pack', '1:2')[0] == 2
        assert 'pack 1:2 changes nothing' in capsys.readouterr().err
    assert main(['generate', '--checkpoint', checkpoint, '--prompt', 'a', '--pack', 'none']) == 2
    assert '--pack belongs to --input' in capsys.readouterr().err


def test_more_rows_than_memory_holds_are_refused_before_anything_is_compiled(generate, capsys, monkeypatch):
    monkeypatch.setattr('calm_jax.model.fly_window', None)
    monkeypatch.setattr('calm_jax.model.decode_batches', None)
    for free, flags, advice in (
        (100_000, (), 'pass a batch size of at most '),
        (100_000, ('--num_beams', '3'), 'pass a batch size of at most '),
        (10, (), 'lower the limits: not even one row fits'),
    ):
        monkeypatch.setattr('calm_jax.memory.free_bytes', lambda free=free: free)
        code, path = generate(*flags)
        error = capsys.readouterr().err
        assert code == 2 and re.search(
            rf'rows need [\d.]+ MiB of memory for .*, and {free / 2**20:.2f} MiB are free; {advice}', error
        )
        assert len(error.splitlines()) == 1 and not list(path.parent.glob('out.jsonl*'))
        if 'most' in advice:
            assert int(error.split()[-1]) < (8 if not flags else 3)


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
    whole = generate(*EXITS, '--batch_size', '1')[1].read_bytes()  # nobody beside it, so nothing to refill
    real = Model.stream

    def dies(*args, **kwargs):
        for i, output in enumerate(real(*args, **kwargs)):
            if i == 67:  # in the second window of 64
                raise KeyboardInterrupt
            yield output

    monkeypatch.setattr(Model, 'stream', dies)
    code, path = generate(*EXITS, '--batch_size', '1', output='torn.jsonl')
    partial = path.with_name('torn.jsonl.partial')
    assert code == 130 and not path.exists() and partial.exists()
    with open(partial, 'ab') as file:
        file.write(b'{"id": "row 67", "te')
    monkeypatch.setattr(Model, 'stream', real)
    assert generate(*EXITS, '--batch_size', '1', output='torn.jsonl')[0] == 2  # neither resumed nor overwritten unasked
    other = ('--measure', 'state', '--threshold', '.6')
    assert generate(*other, '--resume', '--batch_size', '1', output='torn.jsonl')[0] == 2
    assert generate(*EXITS, '--batch_size', '1', '--resume', output='torn.jsonl') == (0, path)
    assert path.read_bytes() == whole
    summary = json.loads(path.with_name('torn.jsonl.summary.json').read_text())
    assert summary['examples'] == 70 and summary['timed_examples'] == 3  # the others' times died with their run
    assert generate(*EXITS, '--batch_size', '1', '--resume', output='torn.jsonl')[0] == 0  # nothing left to do
    assert path.read_bytes() == whole


def test_a_killed_process_resumes_to_the_same_bytes(generate, several_widths, checkpoint, data, tmp_path):
    # Ten windows of 64, so that most of the work is still ahead once the first is on disk.
    texts = [json.loads(line)['en'] for line in pathlib.Path(data).read_text().splitlines()] * 10
    source, path = tmp_path / 'long.jsonl', tmp_path / 'killed.jsonl'
    source.write_text(''.join(json.dumps({'id': number, 'en': text}) + '\n' for number, text in enumerate(texts)))
    whole = generate(*EXITS, '--pack', 'none', source=str(source))[1].read_bytes()
    flags = ['--checkpoint', checkpoint, '--input', str(source), '--source_field', 'en', '--output', str(path)]
    command = ['generate', *flags, '--quiet', '--batch_size', '8', '--pack', 'none', *EXITS]
    partial = pathlib.Path(f'{path}.partial')
    for _ in range(5):  # a machine that looks away for long enough sees it end
        process = subprocess.Popen([sys.executable, '-m', 'calm_jax.cli', *command])
        while process.poll() is None and not (partial.exists() and partial.stat().st_size):
            time.sleep(0.001)
        process.kill()
        if process.wait() == -signal.SIGKILL:
            break
        for file in path.parent.glob('killed.jsonl*'):
            file.unlink()
    assert process.returncode == -signal.SIGKILL and partial.exists() and not path.exists()
    assert main([*command, '--resume']) == 0
    assert path.read_bytes() == whole


def test_a_prompt_is_answered_on_standard_output(checkpoint, capsys):
    assert main(['generate', '--checkpoint', checkpoint, '--prompt', 'a cat']) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 1


def test_sampling_is_seeded_by_example_and_not_by_batch(generate):
    flags = (*TOGETHER, '--temperature', '1.5', '--top_k', '20', '--seed', '3')
    first = records(generate(*flags)[1])
    again = records(generate(*flags, output='again.jsonl')[1])
    other = records(generate(*flags[:-1], '4', output='other.jsonl')[1])
    assert [row['tokens'] for row in first] == [row['tokens'] for row in again]
    assert [row['tokens'] for row in first] != [row['tokens'] for row in other]


DRAFTS = ('--measure', 'softmax_gap', '--threshold', '.5', '--verify')


@pytest.mark.parametrize(
    'flags, message',
    [
        (('--measure', 'softmax_gapp', '--threshold', '.5'), 'did you mean softmax_gap?'),
        (('--measure', 'state', '--threshold', '1.5'), 'λ in [0, 1]'),
        (('--threshold', '.5'), 'without a measure'),
        (('--measure', 'state', '--threshold', '.5', '--min_exit_layer', '4'), 'the decoder has 3 layers'),
        (('--plan', 'uniform:9'), 'C from 1 to 3'),
        (('--propagation', 'lasy'), 'did you mean lazy?'),
        ((*DRAFTS, '-1'), 'verify is -1; expected 1 or more drafts, or 0 for none'),
        ((*DRAFTS, '9'), 'verify is 9, and no text has more than 8 tokens'),
        ((*DRAFTS, '2', '--num_beams', '2'), 'beam search with an exit that verifies'),
        ((*DRAFTS, '2', '--plan', 'uniform:2'), 'verify with a plan'),
        ((*DRAFTS, '2', '--propagation', 'eager'), 'verify with propagation Eager'),
        ((*DRAFTS, '2', '--adapters', 'trained'), 'train some (`calm train --gin_file=runs/adapters.gin`)'),
        (('--verify', '2'), '--verify changes nothing without --measure'),
        (('--threshold_form', 'decay'), 'decaying'),
        (('--temperature', '-1'), 'temperature'),
        (('--temperature', '1', '--top_p', '0'), 'top_p'),
        (('--batch_size', '0'), 'batch_size'),
        (('--max_new_tokens', 'x'), 'max_new_tokens'),
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


def test_drafts_that_are_verified_change_no_token_and_are_counted(generate):
    (_, full), (_, exact) = (
        generate(output='full.jsonl'),
        generate('--measure', 'classifier', '--threshold', '0', '--verify', '2'),
    )
    assert [each['tokens'] for each in records(exact)] == [each['tokens'] for each in records(full)]
    drafts = json.loads(pathlib.Path(f'{exact}.summary.json').read_text())['drafts']
    assert drafts['rounds'] > 0 and len(drafts['drafted']) == 2
    assert all(0 <= accepted <= drafted for accepted, drafted in zip(drafts['accepted'], drafts['drafted']))
    assert drafts['drafted'][0] > 0 and 'drafts' not in json.loads(pathlib.Path(f'{full}.summary.json').read_text())


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
    by_gin = generate('--gin_file=depth/classifier.gin', '--threshold', '0.6', *TOGETHER, output='gin.jsonl')[1]
    by_flags = generate(*EXITS, '--threshold_form', 'decaying', *TOGETHER, output='flags.jsonl')[1]
    assert by_gin.read_bytes() == by_flags.read_bytes()
    bound = generate('--gin.Limits.max_new_tokens=3', output='bound.jsonl')[1]
    assert max(len(row['tokens']) for row in records(bound)) == 3
    assert generate('--gin.Exit.mesure=3', output='wrong.jsonl')[0] == 2
    assert 'did you mean measure' in capsys.readouterr().err


def test_an_interrupted_overwrite_resumes_what_it_was_writing_and_not_what_stood_there(generate, monkeypatch):
    _, path = generate(*EXITS, '--batch_size', '1')
    whole, real = path.read_bytes(), Model.stream

    def dies(*args, **kwargs):
        for i, output in enumerate(real(*args, **kwargs)):
            if i == 67:
                raise KeyboardInterrupt
            yield output

    monkeypatch.setattr(Model, 'stream', dies)
    other = ('--measure', 'static', '--threshold', '0.5', '--batch_size', '1')
    assert generate(*other, '--overwrite')[0] == 130
    monkeypatch.setattr(Model, 'stream', real)
    assert path.read_bytes() == whole  # what stood there is not lost until the new file is whole
    assert generate(*other, '--resume')[0] == 0
    assert path.read_bytes() == generate(*other, output='plain.jsonl')[1].read_bytes()
    assert json.loads(path.with_name('out.jsonl.summary.json').read_text())['examples'] == 70


def test_an_overwrite_that_is_interrupted_at_once_counts_no_journal_but_its_own(generate, monkeypatch, capsys):
    real = Model.stream

    def dies(*args, **kwargs):
        for i, output in enumerate(real(*args, **kwargs)):
            if i == 30:
                raise KeyboardInterrupt
            yield output

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Model, 'stream', dies)
        assert generate(*EXITS)[0] == 130
        monkeypatch.setattr('calm_jax.runs.check_records', interrupted)
        capsys.readouterr()
        for flag, hint in (
            ('--overwrite', 'nothing was decoded yet'),
            ('--resume', '30 of 70 are kept: the same command with --resume goes on after them'),
        ):
            assert generate(*EXITS, flag)[0] == 130
            assert capsys.readouterr().err == f'calm generate: interrupted; {hint}\n'


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


@pytest.fixture
def certificate(checkpoint, tmp_path):
    """Writes a certificate of an exit by state, as `calm calibrate` does; returns its path."""

    def write(
        decoding=Decoding(exit=Exit(StateSimilarity(), 0.9)), certified=True, source_field='en', batch_size=8, pack='refill'
    ):
        model = load(checkpoint)
        decoding = model.resolve(decoding)
        document = codec.to_json(decoding)
        losses = np.zeros((200, 1)) if certified else np.ones((200, 1))
        provenance = {
            **model.fingerprints,
            'data': {'name': 'cal.jsonl', 'source_field': source_field},
            'environment': environment(batch_size, pack),
        }
        made = calibrate(losses, [Point(document, 0.9)], 0.2, 0.05, provenance=provenance, full=codec.to_json(decoding.full()))
        made.save(tmp_path / 'c.json')
        return str(tmp_path / 'c.json')

    return write


def test_a_certificate_does_not_cover_another_configuration(generate, checkpoint, certificate, tmp_path, capsys):
    flags = ('--certificate', certificate())
    assert generate(*flags)[0] == 0
    copy = tmp_path / 'copy'
    shutil.copytree(checkpoint, copy)
    fields = json.loads((copy / 'config.json').read_text())
    (copy / 'config.json').write_text(json.dumps({**fields, 'mlp_activations': ['relu', 'linear']}))
    assert generate(*flags, '--checkpoint', str(copy), output='other.jsonl')[0] == 2
    error = capsys.readouterr().err
    assert 'does not cover this run: config is' in error and len(error.splitlines()) == 1
    with pytest.raises(ValueError, match='does not cover this run: config is'):
        load(copy).generate('a cat', certificate=flags[1])
    with pytest.raises(ValueError, match='does not cover this run: dtype is "bfloat16"'):
        load(checkpoint, dtype='bfloat16').generate('a cat', certificate=flags[1])


def test_a_certificate_of_another_model_says_so_before_it_says_what_that_model_lacks(checkpoint, certificate, tmp_path):
    model = load(checkpoint)
    dataclasses.replace(model, heads=None).save(tmp_path / 'bare')
    path = certificate(Decoding(exit=Exit(Classifier(**model.heads['exit_classifier']), 0.9)))
    with pytest.raises(ValueError, match='does not cover this run: heads is'):
        load(tmp_path / 'bare').generate('a cat', certificate=path)


def test_a_certificate_says_how_to_decode_in_the_command_and_in_python(generate, checkpoint, data, certificate, capsys):
    path = certificate()
    code, out = generate('--certificate', path, '--quiet')
    assert code == 0 and capsys.readouterr().err == ''
    rows = records(out)
    assert min(layer for row in rows for layer in row['exit_layers']) < 3
    model, inputs = load(checkpoint), [json.loads(line) for line in open(data)]
    assert tokens_of(model.generate(inputs, certificate=path)) == [row['tokens'] for row in rows]  # its template and batch size
    texts = [each['en'] for each in inputs]
    assert tokens_of(model.generate(texts, certificate=Certificate.load(path))) == [row['tokens'] for row in rows]
    exit = Exit(StateSimilarity(), 0.9)
    assert tokens_of(model.generate(texts, exit=exit, batch_size=8)) == [row['tokens'] for row in rows]


def test_where_nothing_was_certified_full_depth_is_decoded(generate, certificate):
    rows = records(generate('--certificate', certificate(certified=False))[1])
    assert {layer for row in rows for layer in row['exit_layers']} == {3}
    assert [row['tokens'] for row in rows] == [row['tokens'] for row in records(generate(output='full.jsonl')[1])]


def test_the_source_field_and_the_batch_size_of_a_certificate_are_defaults(checkpoint, data, certificate, tmp_path, capsys):
    path = certificate(batch_size=70, pack='none')

    def run(output, *flags):
        files = ('--input', data, '--output', str(tmp_path / output))
        assert main(['generate', '--checkpoint', checkpoint, '--certificate', path, '--quiet', *files, *flags]) == 0
        return json.loads((tmp_path / f'{output}.config.json').read_text()), capsys.readouterr().err

    header, error = run('a.jsonl')
    assert (header['source_field'], header['batch_size'], error) == ('en', 70, '')
    header, error = run('b.jsonl', '--source_field', 'fr', '--batch_size', '128')
    assert (header['source_field'], header['batch_size']) == ('fr', 128)
    assert "source_field is 'fr' here, 'en' in the certificate" in error and 'batch_size is 128 here, 70' in error


@pytest.mark.parametrize('more', [(), ('--batch_size', '8')])
def test_a_prompt_is_a_batch_of_one_row_and_is_compared_as_that(checkpoint, certificate, capsys, more):
    flags = ['generate', '--checkpoint', checkpoint, '--prompt', 'a cat']
    assert main([*flags, '--certificate', certificate(batch_size=1, pack='none')]) == 0
    assert capsys.readouterr().err == ''
    assert main([*flags, '--certificate', certificate(batch_size=8), *more]) == 0
    assert 'calm generate: warning: batch_size is 1 here, 8 in the certificate' in capsys.readouterr().err


@pytest.mark.parametrize(
    'flags, message',
    [
        (('--threshold', '0.5'), '--threshold 0.5: the certificate covers 0.9'),
        (('--measure', 'classifier'), '--measure classifier: the certificate covers state'),
        (('--max_new_tokens', '4'), '--max_new_tokens 4: the certificate covers 8'),
        (('--threshold_field', 'page'), 'both say λ'),
    ],
)
def test_what_a_flag_says_otherwise_than_the_certificate_is_refused(generate, certificate, capsys, flags, message):
    assert generate('--certificate', certificate(), *flags)[0] == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert generate('--certificate', certificate(), '--threshold', '0.9', '--measure', 'state')[0] == 0


MINE = """
from calm_jax.depth.confidence import StaticDepth
from calm_jax.pytrees import pytree

@pytree
class Mine(StaticDepth):
    pass
"""


def test_a_class_of_ones_own_is_handed_in_and_must_not_have_changed(
    generate, checkpoint, certificate, tmp_path, monkeypatch, capsys
):
    (tmp_path / 'my_measure.py').write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'my_measure', raising=False)
    from my_measure import Mine

    model = load(checkpoint)
    path = certificate(Decoding(exit=Exit(Mine(), 0.5)))
    with pytest.raises(ValueError, match='hand the class in'):
        model.generate('a cat', certificate=path)
    assert set(model.generate('a cat', certificate=path, classes=[Mine]).exit_layers) == {2}
    assert generate('--certificate', path)[0] == 2 and '--measure my_measure:Mine' in capsys.readouterr().err
    assert generate('--certificate', path, '--measure', 'my_measure:Mine', *TOGETHER, output='own.jsonl')[0] == 0
    (tmp_path / 'my_measure.py').write_text(MINE + '# changed\n')
    with pytest.raises(ValueError, match='is not what the document was made with'):
        model.generate('a cat', certificate=path, classes=[Mine])
    capsys.readouterr()
    assert generate('--certificate', path, '--measure', 'my_measure:Mine', output='changed.jsonl')[0] == 2
    assert 'is not what the document was made with' in capsys.readouterr().err


def test_python_warns_of_another_environment_once_in_a_process(checkpoint, certificate, caplog):
    model, path = load(checkpoint), certificate(batch_size=8, pack='none')
    for _ in range(2):
        model.generate(['a cat'] * 8, certificate=path)
    assert caplog.records == []
    for _ in range(2):
        model.generate(['a cat'] * 3, certificate=path)
    (warning,) = caplog.records
    assert 'batch_size is 4 here, 8 in the certificate' in warning.getMessage() and warning.name == 'calm_jax'


BROKEN = """
from calm_jax import Measure, pytree

@pytree
class Broken(Measure):
    def observe(self, memory, evidence):
        return memory, self.sure(evidence.hidden[:, 0]), None

    def sure(self, value):
        return value if value[0] > 0 else 1 - value

@pytree
class Lost(Broken):
    def sure(self, value):
        raise {}['kernel']

@pytree
class Empty(Measure):
    pass
"""


@pytest.mark.parametrize(
    'name, line',
    [
        ('Empty', 'own_broken:Empty lacks observe'),
        ('Broken', 'own_broken:Broken.sure, line 10, raised TracerBoolConversionError: Attempted boolean conversion'),
        ('Lost', "own_broken:Lost.sure, line 15, raised KeyError: 'kernel'"),
    ],
)
def test_what_a_measure_of_ones_own_raises_is_one_line_that_names_it(checkpoint, tmp_path, monkeypatch, capsys, name, line):
    (tmp_path / 'own_broken.py').write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    flags = ('--prompt', 'a', '--measure', f'own_broken:{name}', '--threshold', '0.5')
    assert main(['generate', '--checkpoint', checkpoint, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'calm generate: {line}') and len(error.splitlines()) == 1
    (tmp_path / 'own_hasty.py').write_text('1 / 0')
    assert main(['generate', '--checkpoint', checkpoint, *flags, '--measure', 'own_hasty:Mine']) == 2
    assert 'cannot be imported (ZeroDivisionError: division by zero)' in capsys.readouterr().err


def test_how_rows_are_kept_together_is_warned_of_where_it_may_change_a_token(
    generate, checkpoint, certificate, monkeypatch, capsys, caplog
):
    """As if for this model a packing had been measured best, from 16 batches on."""
    code, out = generate('--certificate', certificate(pack='refill'), '--pack', 'none')
    assert code == 0 and 'pack is "none" here, "refill" in the certificate; rounding' in capsys.readouterr().err
    assert json.loads((out.parent / f'{out.name}.summary.json').read_text())['pack'] == 'none'
    monkeypatch.setattr('calm_jax.model.measured', lambda sizes, rows, backend: Packing((1,), (rows // 2,)))
    model, plan = load(checkpoint), Decoding(plan=Uniform(share=0.67))  # rows of a plan are never packed: they are refilled
    for decoding in (Decoding(exit=Exit(StateSimilarity(), 0.9)), plan):
        made = Certificate.load(certificate(decoding, batch_size=4, pack='1:2'))
        for count, pack, here in ((64, 'auto', '1:2'), (60, 'auto', 'refill'), (None, 'refill', 'refill'), (4, 'auto', 'none')):
            monkeypatch.setattr('calm_jax.certified._warned', set())
            caplog.clear()
            model.certified(made, 4, count, pack=pack)
            differs = here == 'none' or (decoding is not plan and here != '1:2')
            assert [f'pack is "{here}" here, "1:2"' in record.message for record in caplog.records] == [True] * differs


def test_a_decoding_is_packed_as_far_as_it_has_a_use_for_that(checkpoint):
    exits, plan = Decoding(exit=Exit(StateSimilarity(), 0.9)), Decoding(plan=Uniform(share=0.67))
    both, off = Decoding(exit=exits.exit, plan=plan.plan), Decoding(exit=Exit(StateSimilarity(), 1.0), plan=Uniform(share=1.0))
    expected = {
        '1:2': ('1:2', 'refill', '1:2', 'refill'),
        'sub_layers:2,4': ('refill', 'sub_layers:2,4', 'sub_layers:2,4', 'refill'),
        'sub_layers,1:2': ('1:2', 'sub_layers:2', 'sub_layers,1:2', 'refill'),
        'sub_layers': ('refill', 'sub_layers', 'sub_layers', 'refill'),
    }
    model = load(checkpoint)
    for pack, ways in expected.items():
        assert str(model.packing(8, 1, pack)) == pack
        for decoding, way in zip((exits, plan, both, off), ways):
            assert kept_together(decoding, pack) == kept_together(decoding, Packing.parse(pack)) == way
            if way == 'refill':
                with pytest.raises(ValueError, match='changes nothing'):
                    model.check(decoding, batch_size=8, pack=pack)
            else:
                model.check(decoding, batch_size=8, pack=pack)


def test_records_have_their_own_threshold(generate, data, tmp_path, capsys):
    inputs = [{**json.loads(line), 'own': (0.6, 1, 0.2)[i % 3]} for i, line in enumerate(open(data))]
    source = tmp_path / 'own.jsonl'
    source.write_text(''.join(json.dumps(each) + '\n' for each in inputs))
    rows = records(generate('--measure', 'classifier', '--threshold_field', 'own', source=str(source))[1])
    for k, threshold in enumerate(('0.6', '1', '0.2')):
        flags = ('--measure', 'classifier', '--threshold', threshold)
        alike = records(generate(*flags, source=str(source), output=f'{k}.jsonl')[1])
        assert [row['exit_layers'] for row in rows[k::3]] == [row['exit_layers'] for row in alike[k::3]]
    assert generate('--threshold_field', 'own', source=str(source), output='x.jsonl')[0] == 2
    assert '--threshold_field changes nothing without --measure' in capsys.readouterr().err
    both = ('--measure', 'state', '--threshold', '0.5', '--threshold_field', 'own')
    assert generate(*both, source=str(source), output='x.jsonl')[0] == 2
    assert 'both say λ' in capsys.readouterr().err
    for value, message in (('2', 'own is 2; expected λ'), ('"a"', "own is 'a'; expected λ"), ('true', 'own is True')):
        source.write_text('{"en": "a", "own": 0.5}\n{"en": "a", "own": ' + value + '}\n')
        assert generate('--measure', 'state', '--threshold_field', 'own', source=str(source), output='x.jsonl')[0] == 2
        error = capsys.readouterr().err
        assert 'own.jsonl:2' in error and message in error and len(error.splitlines()) == 1


def test_draws_of_a_resumed_run_are_those_of_the_whole_one_and_of_python(generate, checkpoint, data, monkeypatch):
    flags = ('--temperature', '1.5', '--batch_size', '1')
    whole, real = generate(*flags)[1], Model.stream

    def dies(*args, **kwargs):
        for i, output in enumerate(real(*args, **kwargs)):
            if i == 67:
                raise KeyboardInterrupt
            yield output

    with monkeypatch.context() as patch:
        patch.setattr(Model, 'stream', dies)
        assert generate(*flags, output='torn.jsonl')[0] == 130
    assert generate(*flags, '--resume', output='torn.jsonl')[1].read_bytes() == whole.read_bytes()
    texts = [json.loads(line)['en'] for line in open(data)]
    assert len(set(texts)) < len(texts)  # copies, whose draws are their own
    outputs = load(checkpoint).generate(texts, choice=Sampled(1.5), batch_size=70)
    assert tokens_of(outputs) == [row['tokens'] for row in records(whole)]


FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'
SHORT = {'limits': {'max_source_length': 16, 'max_new_tokens': 4}}
LIMITS = {'limits': {'max_source_length': 7, 'max_new_tokens': 7}}
BEAM = {**SHORT, 'choice': {'class': 'beam', 'size': 2}, 'rules': {'no_repeat_ngram_size': 1}}
SAMPLED = {**SHORT, 'choice': {'class': 'sampled', 'temperature': 1.5}}


@pytest.mark.parametrize(
    ('name', 'defaults'),
    [('bart', LIMITS), ('llama_1', LIMITS), ('t5_1_0', BEAM), ('llama_1', BEAM), ('bart', SAMPLED), ('gpt2', SAMPLED)],
)
def test_python_and_the_command_decode_by_the_defaults_of_the_checkpoint(name, defaults, tmp_path, capsys):
    checkpoint = huggingface.read(FIXTURES / name, 'float32')
    native.save(tmp_path / 'model', *checkpoint._replace(generation=defaults))
    model, text = load(tmp_path / 'model'), 'the quick brown fox'
    output = model.generate(text)
    assert output.tokens == model.generate(text, codec.from_json(defaults)).tokens
    assert main(['generate', '--checkpoint', str(tmp_path / 'model'), '--prompt', text]) == 0
    assert capsys.readouterr().out == output.text + '\n'


def tokens_of(outputs):
    return [each.tokens for each in outputs]


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

    monkeypatch.setattr('calm_jax.runs.progress', watched)
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
