"""Decoded files: one JSON record a line, resumable, byte-identical however often it was interrupted.

    OUT               records in input order, once complete; OUT.partial until then
    OUT.config.json   the header: fingerprints of input and model, resolved settings; OUT.partial.config.json until then
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
import time
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np


def record(example_id, output) -> dict:
    """What a line holds of a `calm_jax.model.Output`: all that is a function of input and settings, so no times."""
    return {
        'id': example_id,
        'text': output.text,
        'tokens': output.tokens,
        'pieces': output.pieces,
        'exit_layers': output.exit_layers,
        'layers_run': output.layers_run,
        'confidence': [round(value, 6) for value in output.confidence],
        'layers': output.layers,
        'executed': output.executed,
        'flops': output.flops,
        'flops_elbayad': output.flops_elbayad,
        'source_tokens': output.source_tokens,
        'truncated': output.truncated,
    }


class Decoded:
    """A decoded file being written, or continued.

    path: the file in the end. header: what an interrupted run must share with the one that continues it.
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
            if finished and (difference := self._difference(_config_of(self.partial))):
                raise ValueError(
                    f'{self.partial} was made from other input or settings than these ({difference}); '
                    'repeat the command it was started with, or pass --overwrite'
                )
            self.finished = finished // window * window
        elif self.path.exists():
            if not resume:
                raise FileExistsError(f'{self.path} exists; pass --overwrite to replace it')
            if difference := self._difference(_config_of(self.path)):
                raise FileExistsError(
                    f'{self.path} is complete, from other input or settings ({difference}); pass --overwrite to replace it'
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
            _write_json(_config_of(self.partial), self.header)
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
                    _config_of(self.partial).unlink()
                raise
            _sync(file)
        # The unfinished file keeps its header until it has the file's name, so that it can be continued until then.
        self._summary.unlink(missing_ok=True)
        _write_json(_config_of(self.path), self.header)
        self.partial.replace(self.path)

    def summarize(self, summary: dict) -> None:
        """Writes OUT.summary.json, the last thing of a run, and leaves nothing else beside file and header."""
        _config_of(self.partial).unlink(missing_ok=True)
        _write_json(self._summary, summary)

    @property
    def _summary(self):
        return self.path.with_name(self.path.name + '.summary.json')

    def _difference(self, config_path):
        """In what the header there differs from this one, in words; '' where in nothing."""
        try:
            before = json.loads(config_path.read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return f'{config_path.name} is missing or damaged'
        if not isinstance(before, dict):
            return f'{config_path.name} is damaged'
        now = json.loads(json.dumps(self.header))
        return ', '.join(name for name in sorted(before | now) if before.get(name) != now.get(name))


class Summary:
    """Counts and times of a run, gathered while outputs pass by."""

    def __init__(self):
        self._began = time.perf_counter()
        self._rows = self._tokens = self._truncated = self._layers = self._timed_tokens = 0
        self._flops = 0.0
        self._seconds = array('d')  # of each example that this run decoded

    def passing(self, outputs: Iterable) -> Iterator:
        """The outputs, counted and timed."""
        for output in outputs:
            self._count(output.tokens, output.exit_layers, output.truncated, output.flops)
            self._timed_tokens += len(output.tokens)
            self._seconds.append(output.batch_seconds)
            yield output

    def include(self, records: Iterable[dict]) -> None:
        """Counts records of an earlier run, which took other time."""
        for each in records:
            self._count(each['tokens'], each['exit_layers'], each['truncated'], each['flops'])

    def _count(self, tokens, exit_layers, truncated, flops):
        self._rows += 1
        self._tokens += len(tokens)
        self._layers += sum(exit_layers)
        self._truncated += truncated
        self._flops += flops

    def as_dict(self) -> dict:
        """Counts of all examples: examples, tokens, truncated inputs, layers and FLOPs per token. Times of this run:
        seconds of all it did, and of decoding `timed_examples`: their sum, tokens per second, mean and median of an
        example (None where there is none)."""
        tokens = max(1, self._tokens)
        decoding = sum(self._seconds)
        return {
            'examples': self._rows,
            'tokens': self._tokens,
            'truncated': self._truncated,
            'layers_per_token': self._layers / tokens,
            'flops_per_token': self._flops / tokens,
            'seconds': time.perf_counter() - self._began,
            'timed_examples': len(self._seconds),
            'decode_seconds': decoding,
            'tokens_per_second': self._timed_tokens / decoding if decoding else 0.0,
            'seconds_per_example_mean': decoding / len(self._seconds) if self._seconds else None,
            'seconds_per_example_median': float(np.median(self._seconds)) if self._seconds else None,
        }


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


def _config_of(path):
    """Where the header of a decoded file stands."""
    return path.with_name(path.name + '.config.json')


def _write_json(path, content):
    """Whole or not at all."""
    torn = path.with_name(path.name + '.torn')
    torn.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    torn.replace(path)


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
