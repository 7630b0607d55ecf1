"""Records and templates: the same records whatever the compression; every error names its file and line."""

import gzip
import hashlib
import json
import lzma
import re
import tempfile
import tracemalloc

import pytest

from calm_jax.data.jsonl import OPEN_FILES, Records, Template, fingerprint, stream

RECORDS = [{'en': f'sentence {i} – é\u2028x', 'fr': 'phrase\n' * (i % 3), 'n': i} for i in range(23)]
OPENERS = {'.jsonl': open, '.jsonl.gz': gzip.open, '.jsonl.xz': lzma.open}


def write(path, text):
    opener = OPENERS[''.join(path.suffixes)]
    with opener(path, 'wb') as stream_:
        stream_.write(text.encode() if isinstance(text, str) else text)
    return path


def lines(records, end='\n'):
    return ''.join(json.dumps(record, ensure_ascii=False) + end for record in records)


@pytest.fixture(params=OPENERS)
def suffix(request):
    return request.param


@pytest.mark.parametrize('ending', ['\n', '\r\n'])
@pytest.mark.parametrize('last_line_ends', [True, False])
def test_random_access_and_streaming_give_every_record(tmp_path, suffix, ending, last_line_ends):
    text = lines(RECORDS, ending)
    path = write(tmp_path / f'a{suffix}', text if last_line_ends else text[: -len(ending)])
    records = Records(path)
    assert len(records) == len(RECORDS)
    assert [records[i] for i in reversed(range(23))] == RECORDS[::-1]
    assert records[-1] == RECORDS[-1]
    assert list(records) == RECORDS
    assert [record for _, record in stream(path)] == RECORDS
    for index in (23, -24):
        with pytest.raises(IndexError):
            records[index]


def test_several_files_are_one_after_the_other_and_blank_lines_hold_no_record_but_count(tmp_path):
    first = write(tmp_path / 'a.jsonl', '\n' + lines(RECORDS[:2]) + '  \n' + lines(RECORDS[2:3]) + '\n')
    second = write(tmp_path / 'b.jsonl.xz', lines(RECORDS[3:]))
    records = Records([first, str(second)])
    assert list(records) == RECORDS
    expected = [f'{first}:{n}' for n in (2, 3, 5)] + [f'{second}:{n}' for n in range(1, 21)]
    assert [records.where(i) for i in range(23)] == expected
    assert [where for where, _ in stream([first, second])] == expected


def test_a_byte_order_mark_is_not_part_of_the_first_record(tmp_path):
    assert Records(write(tmp_path / 'a.jsonl', b'\xef\xbb\xbf{"a": 1}\n'))[0] == {'a': 1}


def test_a_file_is_not_held_in_memory(tmp_path, suffix):
    text = lines([{'text': 'x' * 20_000}] * 200)
    path = write(tmp_path / f'a{suffix}', text)
    tracemalloc.start()
    records = Records(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) == 200
    assert held < 200_000 < len(text)


def counted_opens(monkeypatch):
    """Counts the files that are opened from here on, by path, and keeps them."""
    opens, real = [], open

    def counting(path, *args, **kwargs):
        opens.append((str(path), real(path, *args, **kwargs)))
        return opens[-1][1]

    monkeypatch.setattr('builtins.open', counting)
    return opens


@pytest.mark.parametrize('count', [5, 500])
def test_records_of_a_file_are_read_without_opening_it_again(tmp_path, monkeypatch, count):
    records = Records(write(tmp_path / 'a.jsonl', lines({'n': i} for i in range(count))))
    opens = counted_opens(monkeypatch)
    order = [(7 * i) % count if count % 7 else i for i in range(count)]
    assert [records[i]['n'] for i in order] == order
    assert len(opens) == 1
    del records
    assert opens[0][1].closed


def test_of_many_files_only_the_latest_stay_open(tmp_path, monkeypatch):
    many = OPEN_FILES + 3
    records = Records([write(tmp_path / f'{i}.jsonl', lines([{'n': i}])) for i in range(many)])
    opens = counted_opens(monkeypatch)
    assert [records[i]['n'] for i in range(many)] == list(range(many))
    assert len(opens) == many and sum(not file.closed for _, file in opens) == OPEN_FILES
    assert records[0]['n'] == 0 and records[many - 1]['n'] == many - 1


def test_what_was_decompressed_goes_with_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    records = Records(write(tmp_path / 'a.jsonl.gz', lines(RECORDS)))
    assert list((tmp_path / 'temporary').rglob('*'))
    del records
    assert not list((tmp_path / 'temporary').rglob('*'))


def test_the_fingerprint_is_the_sha256_of_the_stored_bytes(tmp_path, suffix):
    first, second = write(tmp_path / f'a{suffix}', lines(RECORDS)), write(tmp_path / f'b{suffix}', lines(RECORDS[:3]))
    expected = hashlib.sha256(first.read_bytes() + second.read_bytes()).hexdigest()
    assert fingerprint([first, second]) == Records([first, second]).fingerprint() == expected
    assert fingerprint(first) != expected


BAD_LINES = {
    '{"en": "a",}': 'not JSON',
    '{"en": "a"} {"en": "b"}': 'not JSON',
    '["a"]': 'found a JSON array, expected an object',
    '"a"': 'found a JSON string, expected an object',
    'null': 'found a JSON null, expected an object',
    '3': 'found a JSON number, expected an object',
    b'{"en": "\xff"}': 'not JSON',
    '[' * 100_000: 'not JSON',
    '{"en": "a \\ud83d"}': 'holds half of a surrogate pair',
    '{"fr": ["a", {"\\udc00": 1}]}': 'holds half of a surrogate pair',
}


@pytest.mark.parametrize('bad', BAD_LINES, ids=lambda bad: repr(bad[:12]))
def test_a_line_that_is_no_object_is_named_by_file_and_line(tmp_path, suffix, bad):
    content = b'{"en": "x"}\n\n' + (bad if isinstance(bad, bytes) else bad.encode()) + b'\n{"en": "y"}\n'
    path = write(tmp_path / f'a{suffix}', content)
    expected = re.escape(f'{path}:3: {BAD_LINES[bad]}')
    records = Records(path)
    assert records[0] == {'en': 'x'} and records[2] == {'en': 'y'}
    with pytest.raises(ValueError, match=expected) as random_access:
        records[1]
    with pytest.raises(ValueError, match=expected) as streaming:
        list(stream(path))
    assert '\n' not in str(random_access.value) and str(random_access.value) == str(streaming.value)


@pytest.mark.parametrize('read', [Records, lambda path: list(stream(path))], ids=['Records', 'stream'])
def test_files_that_cannot_be_read_are_named(tmp_path, suffix, read):
    missing, empty = tmp_path / f'missing{suffix}', write(tmp_path / f'empty{suffix}', '\n \n')
    with pytest.raises(FileNotFoundError, match=re.escape(f'{missing} does not exist')):
        read(missing)
    with pytest.raises(ValueError, match=re.escape(f'{empty} holds no record')):
        read(empty)
    with pytest.raises(ValueError, match='is a folder'):
        read(tmp_path)
    with pytest.raises(ValueError, match='no input files'):
        read([])


@pytest.mark.parametrize('read', [Records, lambda path: list(stream(path))], ids=['Records', 'stream'])
@pytest.mark.parametrize('suffix', ['.jsonl.gz', '.jsonl.xz'])
def test_a_damaged_archive_is_named(tmp_path, suffix, read):
    whole = write(tmp_path / f'a{suffix}', lines(RECORDS)).read_bytes()
    for name, content in {'cut': whole[:-20], 'plain': lines(RECORDS).encode()}.items():
        path = tmp_path / f'{name}{suffix}'
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f'{path}: damaged')) as error:
            read(path)
        assert '\n' not in str(error.value)


def test_a_template_is_a_field_or_text_around_fields():
    record = {'en': 'a {b}', 'fr': 'ç', 'n': 3, 'x': 0.5, 'yes': True, 'a b': 'spaced', 'a.b': 'dotted'}
    assert Template('en')(record) == 'a {b}'
    assert Template('{en}')(record) == 'a {b}'
    assert Template('translate: {en} → {fr}{en}.')(record) == 'translate: a {b} → ça {b}.'
    assert Template('{{{n}}} {x} {yes}')(record) == '{3} 0.5 true'
    assert Template('a b')(record) == Template('{a b}')(record) == 'spaced'
    assert Template('{a.b}')(record) == 'dotted'
    assert Template('{fr} {en} {fr}').fields == ('fr', 'en')
    assert Template('en').fields == ('en',)


@pytest.mark.parametrize(
    'template, message',
    [
        ('', 'empty template'),
        ('{en', "'{en'"),
        ('en}', "'en}'"),
        ('{}', 'bare name of a field'),
        ('{en!r}', 'bare name of a field'),
        ('{en:>3}', 'bare name of a field'),
        ('{{en}}', 'names no field'),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused(template, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Template(template)


def test_a_missing_field_error_names_file_line_the_fields_found_and_the_nearest(tmp_path):
    records = Records(write(tmp_path / 'a.jsonl', lines([{'article': 'a', 'highlights': 'b'}])))
    with pytest.raises(ValueError) as error:
        Template('summarize: {artcle}')(records[0], records.where(0))
    expected = f"{tmp_path / 'a.jsonl'}:1: no field 'artcle'; found 'article', 'highlights'; did you mean article?"
    assert str(error.value) == expected
    with pytest.raises(ValueError, match="no field 'xyz'; found 'article', 'highlights'$"):
        Template('xyz')(records[0])


@pytest.mark.parametrize('value, kind', [(None, 'null'), (['a'], 'array'), ({'a': 1}, 'object')])
def test_a_field_that_is_no_text_is_refused(value, kind):
    with pytest.raises(ValueError, match=f"f.jsonl:7: field 'en' is a JSON {kind}, expected a string"):
        Template('{en}')({'en': value}, 'f.jsonl:7')


def test_a_whole_surrogate_pair_and_an_escaped_backslash_are_text(tmp_path):
    path = write(tmp_path / 'a.jsonl', '{"en": "\\ud83d\\ude42"}\n{"en": "\\\\ud83d"}\n')
    assert [record['en'] for record in Records(path)] == ['🙂', '\\ud83d']


def test_a_template_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match='not text'):
        Template('caf\udce9: {en}')
