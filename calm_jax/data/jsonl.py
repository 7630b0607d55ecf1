"""Records: JSON objects, one a line, in .jsonl files that may be compressed (.gz, .xz), or the lines of plain text in their
place; and texts made of them."""

import gzip
import hashlib
import json
import lzma
import os
import shutil
import string
import tempfile
import weakref
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from calm_jax.data.conversation import Conversation, is_messages
from calm_jax.data.passage import Passage
from calm_jax.nearest import did_you_mean

Paths = str | os.PathLike | Sequence[str | os.PathLike]

_OPENERS = {'.gz': gzip.open, '.xz': lzma.open}
OPEN_FILES = 64  # far below what a process may have open
_DAMAGED = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error)


class Records(Sequence):
    """Random access to the records of one or several files, in the order given; blank lines hold no record.

    field: None, or the files are plain text (UTF-8), and every line of them, an empty one too, is the value of this field.
    name: what messages call the files in place of their own names, such as 'standard input'.

    The text stays on disk: 16 bytes of memory a record (where its line starts, and its number). A compressed file cannot
    be entered in the middle, so it is decompressed into a temporary one, which goes with this object. Lines are parsed
    when asked for, and files stay open from the first record that is asked for on, the latest OPEN_FILES of them. Not to be
    shared by threads.

    Raises FileNotFoundError for a file that is not there and ValueError for a file without records or a damaged
    archive; reading a record raises ValueError naming `file:line` where the line is not a JSON object, or holds half of a
    surrogate pair, which is no text.
    """

    def __init__(self, paths: Paths, field: str | None = None, name: str | None = None):
        self.paths, self.field, self.name = _existing(paths), field, name
        self._unpacked = tempfile.TemporaryDirectory(prefix='calm_jax_')
        self._open: dict[int, BinaryIO] = {}
        weakref.finalize(self, _close, self._open)
        self._texts: list[Path] = []
        self._starts: list[array] = []
        self._lines: list[array] = []
        self._firsts: list[int] = []
        self._length = 0
        for path in self.paths:
            text = path
            if path.suffix in _OPENERS:
                text = Path(self._unpacked.name, str(len(self._texts)))
                _decompress(path, text)
            starts, lines = _scan(text, blank=field is not None)
            if not starts:
                raise ValueError(_no_records(name or path, 'JSON object' if field is None else 'text'))
            self._texts.append(text)
            self._starts.append(starts)
            self._lines.append(lines)
            self._firsts.append(self._length)
            self._length += len(starts)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        file, row = self._find(index)
        text = self._opened(file)
        text.seek(self._starts[file][row])
        line = text.readline()
        return self._record(line, self._place(file, row))

    def __iter__(self) -> Iterator[dict]:
        """In order, each file opened once."""
        for file, (text, starts) in enumerate(zip(self._texts, self._starts)):
            with open(text, 'rb') as source:
                for row, start in enumerate(starts):
                    source.seek(start)
                    yield self._record(source.readline(), self._place(file, row))

    def where(self, index: int) -> str:
        """`file:line` of a record, or `name, line N`, for messages."""
        return self._place(*self._find(index))

    def fingerprint(self) -> str:
        """As `fingerprint(paths)`; of plain text it says so, as the same bytes make other records."""
        return fingerprint(self.paths) if self.field is None else f'text {fingerprint(self.paths)}'

    def _place(self, file: int, row: int) -> str:
        line = self._lines[file][row]
        return f'{self.paths[file]}:{line}' if self.name is None else f'{self.name}, line {line}'

    def _record(self, line: bytes, where: str) -> dict:
        return _parse(line, where) if self.field is None else {self.field: _plain(line, where)}

    def _opened(self, file: int) -> BinaryIO:
        if file not in self._open:
            if len(self._open) == OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[file] = open(self._texts[file], 'rb')
        return self._open[file]

    def _find(self, index: int) -> tuple[int, int]:
        if not -self._length <= index < self._length:
            raise IndexError(f'record {index} of {self._length}')
        index = index % self._length
        file = len(self._firsts) - 1
        while self._firsts[file] > index:
            file -= 1
        return file, index - self._firsts[file]


class Template:
    """A text made of a record: the name of one field (`'en'`), or text around fields (`'summarize: {article}'`).

    A text without braces is a field's name. Doubled braces stand for themselves. Strings are taken as they are,
    numbers and booleans as JSON writes them; null, lists and objects are refused. A field alone may hold messages, a list of
    objects: they are a `Conversation`. A text of more than one field knows where the last of them stands (`Passage`).

    chat: whether any other text is what a user says in one.

    Raises ValueError for an unbalanced brace, an empty or decorated field (`{}`, `{a!r}`, `{a:>3}`), and for what is no
    Unicode text.
    """

    def __init__(self, template: str, chat: bool = False):
        self.template = template
        self.chat = chat
        if not is_unicode(template):
            raise ValueError(f'template {template!r}: not text; it holds bytes that are not UTF-8')
        if not template.strip():
            raise ValueError("empty template: expected a field's name, or text with fields in braces such as '{en}'")
        if '{' not in template and '}' not in template:
            self._parts = [('', template)]
            return
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f'template {template!r}: {error}; write {{{{ or }}}} for a brace itself') from None
        for _, field, form, conversion in parsed:
            if field == '' or form or conversion:
                raise ValueError(f'template {template!r}: expected the bare name of a field between the braces')
        if all(field is None for _, field, _, _ in parsed):
            raise ValueError(f"template {template!r} names no field: expected fields in braces such as '{{en}}'")
        self._parts = [(literal, field) for literal, field, _, _ in parsed]

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields it reads, in order of appearance."""
        return tuple(dict.fromkeys(field for _, field in self._parts if field is not None))

    def __call__(self, record: dict, where: str = 'record') -> str:
        """The text for one record; `where` (`file:line`) names the record in the ValueError of a field it lacks."""
        text, last = '', (0, 0)
        for literal, field in self._parts:
            text += literal
            if field is not None:
                value = value_of(record, field, where)
                if self._parts == [('', field)] and is_messages(value):
                    return Conversation(value, f'{where}: {field}')
                begin, text = len(text), text + _as_text(value, field, where)
                last = begin, len(text)
        if self.chat:
            return Conversation.of_user(text)
        return text if last == (0, len(text)) else Passage(text, *last)

    def __repr__(self) -> str:
        return f'Template({self.template!r})'


def value_of(record: dict, field: str, where: str = 'record') -> object:
    """`record[field]`; the ValueError of a field that is not there lists those that are and names the nearest."""
    if field in record:
        return record[field]
    found = ', '.join(repr(name) for name in record) or 'none'
    raise ValueError(f'{where}: no field {field!r}; found {found}{did_you_mean(field, record)}')


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair, as `"\\ud83d"` in JSON and bytes that are
    not UTF-8 on a command line leave one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def stream(paths: Paths) -> Iterator[tuple[str, dict]]:
    """(`file:line`, record) in order, holding one line at a time, however many there are. Raises as Records does."""
    for path in _existing(paths):
        empty = True
        opener = _OPENERS.get(path.suffix, open)
        with opener(path, 'rb') as lines:
            numbered = enumerate(lines, start=1)
            while True:
                try:
                    number, line = next(numbered)
                except StopIteration:
                    break
                except _DAMAGED as error:
                    raise ValueError(f'{path}: damaged or not {path.suffix}: {error}') from None
                if line.strip():
                    empty = False
                    yield f'{path}:{number}', _parse(line, f'{path}:{number}')
        if empty:
            raise ValueError(_no_records(path))


def fingerprint(paths: Paths) -> str:
    """SHA-256 (hex) of the bytes of the files as stored, one after the other: what `cat FILES | sha256sum` prints."""
    digest = hashlib.sha256()
    for path in _existing(paths):
        with open(path, 'rb') as stream_:
            while block := stream_.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _existing(paths: Paths) -> list[Path]:
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    paths = [Path(path) for path in paths]
    if not paths:
        raise ValueError('no input files: expected at least one .jsonl, .jsonl.gz or .jsonl.xz')
    for path in paths:
        if path.is_dir():
            raise ValueError(f'{path} is a folder: expected a .jsonl, .jsonl.gz or .jsonl.xz file')
        if not path.exists():
            raise FileNotFoundError(f'{path} does not exist: expected a .jsonl, .jsonl.gz or .jsonl.xz file')
    return paths


def _close(files: dict[int, BinaryIO]) -> None:
    for each in files.values():
        each.close()


def _decompress(path: Path, text: Path) -> None:
    try:
        with _OPENERS[path.suffix](path, 'rb') as packed, open(text, 'wb') as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except _DAMAGED as error:
        raise ValueError(f'{path}: damaged or not {path.suffix}: {error}') from None


def _scan(text: Path, blank: bool) -> tuple[array, array]:
    """Byte offsets and line numbers of the lines of `text` that hold records, `blank` ones among them or not."""
    starts, lines, position = array('q'), array('q'), 0
    with open(text, 'rb') as source:
        for number, line in enumerate(source, start=1):
            if blank or line.strip():
                starts.append(position)
                lines.append(number)
            position += len(line)
    return starts, lines


def _parse(line: bytes, where: str) -> dict:
    try:
        record = json.loads(line.decode('utf-8-sig'))
        # Only an escape can leave half of a surrogate pair: decoding refuses one in bytes.
        whole = b'\\u' not in line or is_unicode(json.dumps(record, ensure_ascii=False))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{where}: not JSON: {error}; expected one JSON object a line') from None
    if not isinstance(record, dict):
        raise ValueError(f'{where}: found a JSON {_kind(record)}, expected an object such as {{"text": "..."}}')
    if not whole:
        raise ValueError(f'{where}: holds half of a surrogate pair (an escape such as \\ud83d alone); expected Unicode text')
    return record


def _plain(line: bytes, where: str) -> str:
    try:
        return line.decode('utf-8-sig').rstrip('\r\n')
    except UnicodeDecodeError as error:
        raise ValueError(f'{where}: not text in UTF-8: {error.reason} at byte {error.start + 1}') from None


def _as_text(value: object, field: str, where: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, list | dict):
        raise ValueError(f'{where}: field {field!r} is a JSON {_kind(value)}, expected a string')
    return json.dumps(value)


def _kind(value: object) -> str:
    if value is None:
        return 'null'
    return {dict: 'object', list: 'array', str: 'string', bool: 'boolean'}.get(type(value), 'number')


def _no_records(name: str | Path, kind: str = 'JSON object') -> str:
    return f'{name} holds no record: expected one {kind} a line'
