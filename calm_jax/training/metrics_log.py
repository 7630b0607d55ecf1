"""metrics.jsonl: one JSON object a line, appended while a run trains."""

import json
import math
import os
import pathlib


class MetricsLog:
    """Appends records {"step": …, …}; a resumed run first drops what lies after the step it resumes from.

    path: of the file, created when missing.
    through_step: records of later steps, and a torn last line, are removed.
    """

    def __init__(self, path: str | os.PathLike, through_step: int):
        self._path = pathlib.Path(path)
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if _step(line) <= through_step]
        self._path.write_text(''.join(line + '\n' for line in kept))

    def write(self, record: dict) -> None:
        """Appends one record; it is on disk when this returns."""
        with open(self._path, 'a') as file:
            file.write(json.dumps(record) + '\n')


def _step(line: str) -> float:
    """The step of a line; infinite for a torn one, so that it is dropped."""
    try:
        return json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
        return math.inf
