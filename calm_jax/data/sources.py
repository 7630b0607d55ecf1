"""Where texts come from, as a user names it: JSONL files, or a split of a seqio Task."""

import datetime
import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from calm_jax.data.conversation import Conversation
from calm_jax.data.jsonl import Paths, Records

PREFIX = 'seqio:'
SOURCE_FIELD = 'source'  # holds the input text where nothing else is said


def open_records(source: Paths, field: str | None = None, name: str | None = None) -> Records:
    """Records of .jsonl, .jsonl.gz or .jsonl.xz files, or of 'seqio:TASK:SPLIT' (fields source, target, …); of plain text, each
    line the value of `field`, where one is named. name: what a file without a name of its own is called.

    A Task's texts are written once to the cache folder ($XDG_CACHE_HOME/calm_jax/tasks) and read from there, as long as its
    source and the preprocessors of its texts stay what they are; delete the file to read the Task again.
    Raises FileNotFoundError or ValueError in one line: a file, Task or split that is not there, a malformed line, seqio
    not installed.
    """
    if not isinstance(source, str) or not source.startswith(PREFIX):
        return Records(list(source) if isinstance(source, Sequence) and not isinstance(source, str) else source, field, name)
    task, _, split = source.removeprefix(PREFIX).partition(':')
    if not task or not split:
        raise ValueError(f'{source!r}: expected seqio:TASK:SPLIT, such as seqio:xsum:validation')
    if importlib.util.find_spec('seqio') is None:
        raise ValueError(f"{source}: seqio is not installed; pip install 'calm_jax[seqio]'")
    from calm_jax.data import seqio_tasks

    path = _cache() / f'{task}-{split}-{seqio_tasks.fingerprint(task)[:16]}.jsonl'
    return Records(path) if path.is_file() else seqio_tasks.task_records(task, split, path)


def data_of(records: Records, source_field: str, texts: Iterable[str], date: datetime.datetime | None = None) -> dict:
    """What results say of the examples: their file, its fingerprint, how many were used, and how inputs were made of them.

    texts: the inputs. date: what the chat template was told, where it asked; it and the conversations are named where there are
    such.
    """
    conversations = [isinstance(text, Conversation) for text in texts]
    return {
        'name': ', '.join(path.name for path in records.paths),
        'fingerprint': records.fingerprint(),
        'examples': len(conversations),
        'source_field': source_field,
        **({'conversations': sum(conversations)} if any(conversations) else {}),
        **({} if date is None else {'date': date.isoformat()}),
    }


def _cache() -> Path:
    base = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    return base / 'calm_jax' / 'tasks'
