"""Decoded files: one JSON record a line, resumable, byte-identical however often it was interrupted.

    OUT               records in input order, once complete; OUT.partial until then
    OUT.config.json   the header: fingerprints of input and model, the resolved decoding; OUT.partial.config.json until then
    OUT.summary.json  counts and times of the run

Times stand in the summary alone, and are of the examples that the last run decoded (`timed_examples`): an example's time is
its batch's over the batch's rows, with what was compiled for it. A file of times beside the records could not be the same
again after an interruption, whose times are lost.

A process killed at any moment leaves one of these, and each goes on with `resume`: an unfinished file without a whole
record, whatever header is there (it is begun anew); an unfinished file with its header; the file itself with its header,
with or without the summary.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from calm_jax import formats
from calm_jax.files import read_json, write_json

HEADER = '.config.json'  # follows the name of a decoded file, whole or not, in that of its header


class Decoded:
    """A decoded file being written, or continued.

    path: the file in the end. header: as `header` makes it.
    window: records written and synced together; a continued run starts at a multiple of it.

    Raises FileExistsError where the file, or an unfinished one, is there and neither `resume` nor `overwrite` says
    what to do; ValueError where an unfinished file was made from other input or with other settings; as `check_path`.
    """

    def __init__(self, path: str | os.PathLike, header: dict, window: int, resume: bool = False, overwrite: bool = False):
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + '.partial')
        self.header, self.window = header, window
        self.finished = 0  # records that an earlier run left behind
        check_path(path)
        self.complete = False  # whether an earlier run left nothing to do
        if overwrite:
            return
        if self.partial.exists():  # whatever stands at the path itself is older
            if not resume:
                raise FileExistsError(f'{self.partial} is an unfinished run; pass --resume to go on, or --overwrite')
            finished = _whole_records(self.partial)
            if finished and (names := header_differences(self.partial, header)):
                raise ValueError(
                    f'{self.partial} was made from other input or settings than these ({", ".join(names)}); '
                    'repeat the command it was started with, or pass --overwrite'
                )
            self.finished = finished // window * window
        elif self.path.exists():
            if not resume:
                raise FileExistsError(f'{self.path} exists; pass --overwrite to replace it')
            if names := header_differences(self.path, header):
                raise FileExistsError(
                    f'{self.path} is complete, from other input or settings ({", ".join(names)}); '
                    'pass --overwrite to replace it'
                )
            self.finished, self.complete = _whole_records(self.path), True
        elif resume:
            raise FileNotFoundError(f'{self.partial}: nothing to resume; run without --resume')

    @property
    def summarized(self) -> bool:
        """Whether OUT.summary.json is there."""
        return self._summary.exists()

    def finished_records(self) -> Iterator[dict]:
        """What the earlier run left behind."""
        if self.finished:
            with open(self.path if self.complete else self.partial, 'rb') as file:
                for _ in range(self.finished):
                    yield json.loads(file.readline())

    def write(self, records: Iterable[dict]) -> Iterator[dict]:
        """Writes the records after the finished ones, yielding each; the file gets its name when they end."""
        if not self.finished:
            # Emptied before it gets its header: no record of another run may ever stand under it.
            self.partial.write_bytes(b'')
            write_json(header_path(self.partial), self.header)
        with open(self.partial, 'r+b') as file:
            file.seek(_end_of_record(self.partial, self.finished))
            file.truncate()
            waiting, written = 0, self.finished
            try:
                for each in records:
                    file.write((json.dumps(each, ensure_ascii=False) + '\n').encode())
                    waiting, written = waiting + 1, written + 1
                    if waiting == self.window:
                        _sync(file)
                        waiting = 0
                    yield each
            except BaseException:
                if not written:  # nothing to go on from, and nothing that should stand in the way of the next attempt
                    self.partial.unlink()
                    header_path(self.partial).unlink()
                raise
            _sync(file)
        # The unfinished file keeps its header until it has the file's name, so that it can be continued until then.
        self._summary.unlink(missing_ok=True)
        write_json(header_path(self.path), self.header)
        self.partial.replace(self.path)

    def summarize(self, summary: dict) -> None:
        """Writes OUT.summary.json, the last thing of a run, and leaves nothing else beside file and header."""
        header_path(self.partial).unlink(missing_ok=True)
        write_json(self._summary, summary)

    @property
    def _summary(self) -> Path:
        return summary_path(self.path)


def header(
    input_fingerprint: str,
    source_field: str,
    decoding: dict,
    batch_size: int,
    fingerprints: dict,
    threshold_field: str | None = None,
) -> dict:
    """What an interrupted run must share with the one that continues it: all that decides the records.

    source_field: what inputs are made of; threshold_field: what holds their own λ, if anything. decoding: the document.
    fingerprints: of the model.
    """
    return {
        **formats.stamp('records'),
        'input': input_fingerprint,
        'source_field': source_field,
        **({} if threshold_field is None else {'threshold_field': threshold_field}),
        'decoding': decoding,
        'batch_size': batch_size,
        **fingerprints,
    }


def header_path(path: Path) -> Path:
    """Where the header of a decoded file stands."""
    return path.with_name(path.name + HEADER)


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


def _whole_records(path):
    """Lines that end: a run killed while writing leaves a torn one."""
    with open(path, 'rb') as file:
        return sum(line.endswith(b'\n') for line in file)


def _end_of_record(path, count):
    """Where in the file its first `count` lines end."""
    with open(path, 'rb') as file:
        return sum(len(file.readline()) for _ in range(count))


def _sync(file):
    file.flush()
    os.fsync(file.fileno())
