"""Files that are written whole or not at all, and JSON objects read with errors of one line."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def whole(path: str | os.PathLike, make_folders: bool = False) -> Iterator[TextIO]:
    """A UTF-8 file to write, which appears whole or not at all: it gets its name when the block ends without an exception.

    Until then it is PATH.partial, which a process killed outright may leave; the next write replaces it. make_folders: makes
    the folders it lacks. Raises OSError where it cannot be written; what the file held before is then still there.
    """
    path = Path(path)
    if make_folders:
        path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    try:
        with open(partial, 'w', encoding='utf-8', newline='\n') as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str, make_folders: bool = False) -> None:
    """Writes a file as `whole` does."""
    with whole(path, make_folders) as file:
        file.write(text)


def write_json(path: str | os.PathLike, content: Mapping, make_folders: bool = False, sort_keys: bool = False) -> None:
    """Writes a JSON object as `whole` does, indented by 2.

    Raises ValueError, and writes nothing, for a number that JSON has no name for: NaN or an infinity.
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=sort_keys)
    except ValueError as error:
        raise ValueError(f'{path}: not written, as JSON holds finite numbers only ({error})') from None
    write_text(path, text + '\n', make_folders)


def read_json(path: str | os.PathLike) -> dict:
    """The JSON object in a UTF-8 file.

    Raises ValueError, naming the file, where it holds anything else; OSError where it cannot be read.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except RecursionError:
        raise ValueError(f'{path}: not valid JSON (nested too deep)') from None
    except ValueError as error:
        raise ValueError(f'{path}: not valid JSON ({error})') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path}: expected a JSON object, found {json.dumps(content)[:40]}')
    return content
