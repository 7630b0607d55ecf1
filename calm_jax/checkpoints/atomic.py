"""Directories that appear whole or not at all."""

import contextlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def new_directory(path: str | os.PathLike, overwrite: bool = False, marker: str = 'config.json') -> Iterator[pathlib.Path]:
    """Yields a temporary sibling of `path`, and renames it to `path` when the block ends without an exception.

    Whatever happens inside the block, `path` holds either what it held before or everything that was written: a
    rename within one folder is atomic. An existing empty directory counts as nothing. With `overwrite` the old
    directory is deleted after the new one is complete, but only when it holds a file named `marker`: a slip of the
    finger in `--output` must not delete somebody's home. A process killed outright leaves its temporary sibling, whose
    hidden name ends in .tmp; killed at the very moment of a replacement, it leaves the old directory as a sibling in .old.

    Raises FileExistsError where `path` exists and `overwrite` is false, or it exists and is not a checkpoint.
    """
    path = pathlib.Path(os.path.abspath(path))
    if path.exists() or path.is_symlink():
        if not path.is_dir():
            raise FileExistsError(f'{path}: exists and is not a directory; choose another output')
        if any(path.iterdir()):
            if not overwrite:
                raise FileExistsError(f'{path}: exists and is not empty; choose another output or pass --overwrite')
            if not (path / marker).is_file():
                raise FileExistsError(
                    f'{path}: holds no {marker}, so it is not a checkpoint and will not be '
                    'overwritten; remove it yourself or choose another output'
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
    temporary.mkdir()  # Not tempfile.mkdtemp: that one hides the directory from everybody but its owner.
    try:
        yield temporary
        _replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary, path):
    """Renames `temporary` to `path`; what `path` held before is moved aside first and deleted last."""
    if not path.exists():
        os.rename(temporary, path)
        return
    target = path.resolve()  # A symbolic link stays one; the directory it points at is replaced.
    aside = target.with_name(f'.{target.name}.{secrets.token_hex(4)}.old')
    os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
