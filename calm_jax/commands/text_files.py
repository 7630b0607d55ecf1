"""What a command reads and writes by name: JSONL, plain text, and `-`, the standard streams."""

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from calm_jax.data.jsonl import Records, Template
from calm_jax.data.sources import open_records

STANDARD, NAME = '-', 'standard input'
FORMATS = ('jsonl', 'text')
_COMPRESSED = ('.gz', '.xz')


def is_text(name: str, form: str | None = None) -> bool:
    """Whether a file holds plain text, one a line, and not JSONL: as `form` says, else by name. The standard streams do, and
    what ends in .txt, compressed or not."""
    if form is not None:
        return form == 'text'
    path = Path(name)
    return name == STANDARD or (path.with_suffix('') if path.suffix in _COMPRESSED else path).suffix == '.txt'


@contextlib.contextmanager
def opened(args: argparse.Namespace, source_field: str) -> Iterator[Records | None]:
    """The records of --input, read to its end where it is standard input; a line of text is the field of the template. None
    where there is no --input.

    Raises ValueError for text and a template of several fields, and what `open_records` raises.
    """
    if args.input is None:
        yield None
        return
    field = None
    if is_text(args.input, args.input_format):
        field, *others = Template(source_field).fields
        if others:
            raise ValueError(f'--source_field {source_field!r} names {1 + len(others)} fields; a line of plain text is one')
    if args.input != STANDARD:
        yield open_records(args.input, field)
        return
    if sys.stdin.isatty() and not args.quiet:
        print('reading standard input to its end (Ctrl-D)', file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix='calm_jax_') as folder:
        path = Path(folder, 'input')
        with open(path, 'wb') as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield open_records(str(path), field, NAME)
