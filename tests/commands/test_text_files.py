"""Plain text and the standard streams, in and out of `calm generate`."""

import io
import json

import pytest

from calm_jax.cli import main
from calm_jax.commands.text_files import is_text
from calm_jax.data.decoded import Decoded, journalled, plain_line
from calm_jax.data.decoded import header as header_of

TEXTS = ['a bb', '', 'cat horse a']


@pytest.fixture
def generate(checkpoint, tmp_path, monkeypatch):
    """Runs the command on files of a folder; returns its exit code."""

    def run(*flags, given=''):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(given if isinstance(given, bytes) else given.encode())))
        return main(['generate', '--checkpoint', checkpoint, '--batch_size', '8', '--quiet', *flags])

    return run


def test_a_text_a_line_goes_through_files_and_streams_alike(generate, tmp_path, capsys):
    text = '\n'.join(TEXTS)  # the last line without an end is one too
    (tmp_path / 'in.jsonl').write_text(''.join(json.dumps({'source': each}) + '\n' for each in TEXTS))
    (tmp_path / 'in.txt').write_text(text, newline='\n')
    assert generate('--input', 'in.jsonl', '--output', 'out.jsonl') == 0
    wanted = [plain_line(json.loads(line)) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
    assert generate('--input', 'in.txt', '--output', 'out.txt') == 0
    assert (tmp_path / 'out.txt').read_text().split('\n') == [*wanted, '']
    assert generate('--input', 'in.txt', '--output', 'out.txt', '--resume') == 0  # complete
    (tmp_path / 'out.txt.summary.json').unlink()
    assert generate('--input', 'in.txt', '--output', 'out.txt', '--resume') == 2  # and texts alone have nothing to count
    capsys.readouterr()
    assert generate('--input', '-', '--output', '-', given=text) == 0
    assert capsys.readouterr().out.split('\n') == [*wanted, '']
    # A template of one field, and the other format where one is named.
    flags = ['--input_format', 'jsonl', '--output_format', 'jsonl', '--source_field', '{en}']
    assert generate('--input', '-', '--output', '-', *flags, given=json.dumps({'en': TEXTS[0], 'id': 'x'})) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed['id'], plain_line(printed)) == ('x', wanted[0]) and printed['exit_layers']
    assert generate('--input', 'in.txt', '--output', '-', '--source_field', '{en}') == 0
    assert capsys.readouterr().out.split('\n') == [*wanted, '']


def test_inputs_that_are_cut_on_their_way_to_standard_output_are_counted(generate, capsys):
    assert generate('--input', '-', '--output', '-', given='cat horse a\n' + 2 * f'{"a bb " * 9}\n') == 0
    written = capsys.readouterr()
    assert written.err == 'calm generate: warning: 2 inputs were cut at 16 tokens; --max_source_length allows more\n'
    assert len(written.out.splitlines()) == 3


@pytest.mark.parametrize(
    'name, form, text',
    [('-', None, True), ('a.txt', None, True), ('a.txt.gz', None, True), ('a.jsonl', None, False), ('a.gz', None, False)]
    + [('-', 'jsonl', False), ('a.out', 'text', True), ('seqio:a:b', None, False)],
)
def test_names_say_what_is_plain_text_where_nothing_else_does(name, form, text):
    assert is_text(name, form) is text


@pytest.mark.parametrize(
    'flags, message',
    [
        (('--input', '-', '--output', '-', '--resume'), '--resume belongs to a file'),
        (('--input', '-', '--output', '-', '--measure_speed'), '--measure_speed belongs to a file'),
        (('--input', '-', '--output', '-', '--source_field', '{a}{b}'), 'names 2 fields; a line of plain text is one'),
        (('--input', '-', '--output', '-'), 'standard input holds no record: expected one text a line'),
        (('--input', 'none.txt', '--output', '-'), 'none.txt does not exist'),
    ],
)
def test_a_mistake_is_one_line(generate, capsys, flags, message):
    assert generate(*flags) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_bytes_that_are_no_text_are_named_by_their_line(generate, tmp_path, capsys):
    (tmp_path / 'in.txt').write_bytes(b'a\ncaf\xe9\n')
    assert generate('--input', 'in.txt', '--output', '-') == 2
    assert 'in.txt:2: not text in UTF-8: ' in capsys.readouterr().err


@pytest.mark.parametrize(
    'form, given, message',
    [
        ('text', b'a\ncaf\xe9\n', 'standard input, line 2: not text in UTF-8'),
        ('jsonl', b'{"source": "a"}\n\n{"source": \n', 'standard input, line 3: not JSON'),
        ('jsonl', b'{"source": "a"}\n{"other": "a"}\n', "standard input, line 2: no field 'source'"),
        ('jsonl', b'\n', 'standard input holds no record: expected one JSON object a line'),
    ],
)
def test_what_is_wrong_with_standard_input_is_named_by_its_line(generate, capsys, form, given, message):
    assert generate('--input', '-', '--output', '-', '--input_format', form, given=given) == 2
    error = capsys.readouterr().err
    assert f'calm generate: {message}' in error and len(error.splitlines()) == 1


def test_an_unfinished_file_of_texts_resumes_and_ends_as_one(tmp_path):
    header, rows = header_of('x', 'en', {}, 8, {}, plain=True), [(0, {'text': 'one\ntwo'}), (1, {'text': 'three'})]
    path = tmp_path / 'out.txt'
    writing = Decoded(path, header).write(rows[::-1])
    next(writing)
    next(writing)
    writing.close()
    assert journalled(path) == 2 and not path.exists()
    decoded = Decoded(path, header, resume=True)
    assert list(decoded.write([])) == [] and [each['text'] for each in decoded.finished_records()] == ['three', 'one\ntwo']
    assert path.read_text() == 'one two\nthree\n'
    decoded.summarize({})
    assert journalled(path) == 0 and sorted(each.name for each in tmp_path.iterdir()) == [
        'out.txt',
        'out.txt.config.json',
        'out.txt.summary.json',
    ]
