"""Decoded files: one JSON record a line, or its text alone, in input order; resumable, whatever the order in which records are
done.

    OUT               the records, once complete
    OUT.config.json   the header: fingerprints of input and model, the resolved decoding
    OUT.summary.json  counts and times of the run
    OUT.partial       until then the journal: {"row": 7, "record": {…}} a line, in the order in which they are done
    OUT.partial.config.json   its header

Times stand in the summary alone, and are of the examples that the last run decoded (`timed_examples`). A file of times beside
the records could not be the same again after an interruption, whose times are lost.

A process killed at any moment leaves one of these, and each goes on with `resume`: a journal without a whole line, whatever
header is there (it is begun anew); a journal with its header, also beside the file itself until the summary is there; the file
with header and summary.
"""

import datetime
import json
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from calm_jax import formats
from calm_jax.files import read_json, write_json

PLAIN = 'plain'  # true in the header of a file that holds texts alone
HEADER = '.config.json'  # follows the name of a decoded file, whole or not, in that of its header
PARTIAL = '.partial'  # that of its journal
SYNCED = 64  # lines of the journal that may be lost with the machine; none are with the process
_BEFORE, _BETWEEN, _AFTER = b'{"row": ', b', "record": ', b'}\n'


class Decoded:
    """A decoded file being written, or continued.

    path: the file in the end. header: as `header` makes it, which says whether it holds texts alone. finished: the rows that an
    earlier run left behind, of a file that is whole only how many there are. complete: whether it left nothing to do.

    With `resume` a run goes on, or begins where there is none. Raises FileExistsError where the file, or an unfinished one, is
    there and neither `resume` nor `overwrite` says what to do; ValueError where an unfinished file was made from other input or
    with other settings, or is damaged; as `check_path`.
    """

    def __init__(self, path: str | os.PathLike, header: dict, resume: bool = False, overwrite: bool = False):
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + PARTIAL)
        self.header = header
        self.finished: frozenset[int] | range = frozenset()
        check_path(path)
        self.complete = False
        if overwrite:
            return
        if self.partial.exists():  # whatever stands at the path itself is older
            if not resume:
                raise FileExistsError(f'{self.partial} is an unfinished run; pass --resume to go on, or --overwrite')
            if _whole_lines(self.partial) and (names := header_differences(self.partial, header)):
                raise ValueError(
                    f'{self.partial} was made from other input or settings than these ({", ".join(names)}); '
                    'repeat the command it was started with, or pass --overwrite'
                )
            self.finished = frozenset(row for row, _ in _journal(self.partial))
        elif self.path.exists():
            if not resume:
                raise FileExistsError(f'{self.path} exists; pass --overwrite to replace it')
            if names := header_differences(self.path, header):
                raise FileExistsError(
                    f'{self.path} is complete, from other input or settings ({", ".join(names)}); '
                    'pass --overwrite to replace it'
                )
            self.finished, self.complete = range(_whole_lines(self.path)), True
            if self.summarized:
                self._remove_journal()  # what a run that was killed at the very end left of it

    @property
    def summarized(self) -> bool:
        """Whether OUT.summary.json is there."""
        return self._summary.exists()

    def finished_records(self) -> Iterator[dict]:
        """What the earlier run left behind. Raises FileNotFoundError where it left texts alone."""
        if self.complete and self.header.get(PLAIN):
            raise FileNotFoundError(f'{self._summary} is missing, and {self.path} holds texts alone; pass --overwrite')
        if self.complete:
            with open(self.path, 'rb') as file:
                yield from map(json.loads, file)
        elif self.finished:
            yield from (record for _, record in _journal(self.partial))

    def write(self, records: Iterable[tuple[int, dict]], in_order: bool = True) -> Iterator[dict]:
        """Writes (row of the input, record) down as they come, yielding each record; the file gets its name when they end.

        in_order: the file is in the order of the input; otherwise in that of the journal.
        """
        if not self.finished:
            # Emptied before it gets its header: no record of another run may ever stand under it.
            self.partial.write_bytes(b'')
            write_json(header_path(self.partial), self.header)
        with open(self.partial, 'r+b') as file:
            file.seek(_whole_length(self.partial))
            file.truncate()
            written = 0
            try:
                for row, each in records:
                    content = json.dumps(each, ensure_ascii=False).encode()
                    file.write(_BEFORE + str(row).encode() + _BETWEEN + content + _AFTER)
                    written += 1
                    _sync(file) if written % SYNCED == 0 else file.flush()
                    yield each
            except BaseException:
                if not written and not self.finished:  # nothing to go on from, nor to stand in the way of the next attempt
                    for path in (self.partial, header_path(self.partial), self._whole):
                        path.unlink(missing_ok=True)
                raise
            _sync(file)
        _unwrap(self.partial, self._whole, in_order, bool(self.header.get(PLAIN)))
        self._summary.unlink(missing_ok=True)
        write_json(header_path(self.path), self.header)
        self._whole.replace(self.path)

    def summarize(self, summary: dict) -> None:
        """Writes OUT.summary.json, and leaves nothing else beside file and header."""
        write_json(self._summary, summary)
        self._remove_journal()

    def _remove_journal(self) -> None:
        """Its header last: a journal without one could not be continued."""
        self.partial.unlink(missing_ok=True)
        header_path(self.partial).unlink(missing_ok=True)

    @property
    def _summary(self) -> Path:
        return summary_path(self.path)

    @property
    def _whole(self) -> Path:
        """The file until it has its name."""
        return self.partial.with_name(self.partial.name + '.whole')


def header(
    input_fingerprint: str,
    source_field: str,
    decoding: dict,
    batch_size: int,
    fingerprints: dict,
    threshold_field: str | None = None,
    plain: bool = False,
    chat: bool = False,
    date: str | None = None,
) -> dict:
    """What an interrupted run must share with the one that continues it: all that decides the records.

    source_field: what inputs are made of; threshold_field: what holds their own λ, if anything. decoding: the document.
    fingerprints: of the model. plain: whether the file is to hold texts alone. chat: whether each text is what a user says.
    date: what the chat template was told, as ISO 8601 has it, where it asks.
    """
    return {
        **formats.stamp('records'),
        **({PLAIN: True} if plain else {}),
        'input': input_fingerprint,
        'source_field': source_field,
        **({} if threshold_field is None else {'threshold_field': threshold_field}),
        'decoding': decoding,
        'batch_size': batch_size,
        **fingerprints,
        **({'chat': True} if chat else {}),
        **({} if date is None else {'date': date}),
    }


def header_path(path: Path) -> Path:
    """Where the header of a decoded file stands."""
    return path.with_name(path.name + HEADER)


def recorded_header(path: Path) -> dict | None:
    """What stands beside a decoded file; None where there is nothing."""
    beside = header_path(path)
    return read_json(beside) if beside.is_file() else None


def recorded_date(path: str | os.PathLike) -> datetime.datetime | None:
    """The date in the header that an unfinished run has left, or else the file itself; None where there is none to read."""
    path = Path(path)
    partial = path.with_name(path.name + PARTIAL)
    try:
        return datetime.datetime.fromisoformat(read_json(header_path(partial if partial.exists() else path))['date'])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def header_differences(path: Path, header: dict) -> list[str]:
    """As `differences`, of the header that stands beside a decoded file; or why there is none to read."""
    beside = header_path(path)
    try:
        before = read_json(beside)
    except (OSError, ValueError):
        return [f'{beside.name} is missing or damaged']
    try:
        formats.check(before, 'records', beside.name)
    except ValueError as error:
        return [str(error)]
    return differences(before, header)


def differences(before: dict, now: dict) -> list[str]:
    """The dotted names under which two headers differ."""
    flat = [dict(_leaves(json.loads(json.dumps(each)))) for each in (before, now)]
    return [name for name in {**flat[1], **flat[0]} if flat[0].get(name) != flat[1].get(name)]


def read_summary(path: str | os.PathLike) -> dict:
    """The summary beside a decoded file. Raises OSError or ValueError where there is none to read."""
    return read_json(summary_path(Path(path)))


def summary_path(path: Path) -> Path:
    """Where the summary of a decoded file stands."""
    return path.with_name(path.name + '.summary.json')


def check_path(path: str | os.PathLike) -> None:
    """Raises FileNotFoundError where the folder of the file to be is not there, IsADirectoryError where it is one itself, and
    FileExistsError where something else than a file stands there."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder; expected the name of a file to write')
    if path.exists() and not path.is_file():
        raise FileExistsError(f'{path} is no regular file; expected the name of a file to write')
    if not path.parent.is_dir():
        raise FileNotFoundError(f'{path.parent}: no such folder; make it, or write elsewhere')


def _leaves(content: dict, path: str = '') -> Iterator[tuple[str, object]]:
    """What a JSON object holds that is no object, by dotted path."""
    for name, value in content.items():
        inner = f'{path}.{name}' if path else name
        if isinstance(value, dict) and value:
            yield from _leaves(value, inner)
        else:
            yield inner, value


def _whole_lines(path: Path) -> int:
    """Lines that end: a run killed while writing leaves a torn one."""
    with open(path, 'rb') as file:
        return sum(line.endswith(b'\n') for line in file)


def _whole_length(path: Path) -> int:
    """Bytes of the lines that end."""
    with open(path, 'rb') as file:
        return sum(len(line) for line in file if line.endswith(b'\n'))


def _journal(path: Path) -> Iterator[tuple[int, dict]]:
    """The rows and records of a journal. Raises ValueError, naming the line, for one that is none."""
    with open(path, 'rb') as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b'\n'):
                return
            try:
                content = json.loads(line)
                yield int(content['row']), dict(content['record'])
            except (ValueError, TypeError, KeyError):
                raise ValueError(f'{path}:{number}: no line of an unfinished run; pass --overwrite to begin anew') from None


def plain_line(record: dict) -> str:
    """The text of a record as one line, without its end; what would end a line inside is a space."""
    return ' '.join(record['text'].splitlines())


def journalled(path: str | os.PathLike) -> int:
    """How many records an unfinished run has left behind, that would write this file; 0 where there is none."""
    partial = Path(path).with_name(Path(path).name + PARTIAL)
    return _whole_lines(partial) if partial.exists() else 0


def _unwrap(journal: Path, path: Path, in_order: bool, plain: bool) -> None:
    """Writes the records of a journal alone, or `plain`, their texts, in the order of their rows or as they stand."""
    rows, starts, start = array('q'), array('q'), 0
    with open(journal, 'rb') as source, open(path, 'wb') as file:
        for line in source:
            rows.append(int(line[len(_BEFORE) : line.index(_BETWEEN)]))
            starts.append(start)
            start += len(line)
        for index in sorted(range(len(rows)), key=rows.__getitem__) if in_order else range(len(rows)):
            source.seek(starts[index])
            line = source.readline()
            content = line[line.index(_BETWEEN) + len(_BETWEEN) : -len(_AFTER)]
            file.write((plain_line(json.loads(content)).encode() if plain else content) + b'\n')
        _sync(file)


def _sync(file):
    file.flush()
    os.fsync(file.fileno())
