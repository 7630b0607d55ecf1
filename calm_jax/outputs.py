"""Where a command may write: never over what it reads."""

import os
from collections.abc import Iterable
from pathlib import Path


def check_file(path: str | os.PathLike, overwrite: bool, inputs: Iterable = ()) -> None:
    """Raises, before anything takes time, for a file that cannot be written, is not to be replaced, or is one of the inputs.

    inputs: paths that the command reads; None, and what is no path of this machine, is passed over.
    Raises IsADirectoryError, NotADirectoryError (a file in the place of a folder), FileExistsError or ValueError, in one line.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder; --output names the file to write')
    if path.exists() and not path.is_file():
        raise FileExistsError(f'{path} is no regular file; --output names the file to write')
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f'{folder} is a file; {path} would need it to be a folder')
    if path.exists() and not overwrite:
        raise FileExistsError(f'{path} exists; pass --overwrite to replace it')
    check_apart(path, inputs)


def check_apart(output: str | os.PathLike, inputs: Iterable) -> None:
    """Raises ValueError where a file or folder to be written is, or holds, one of the inputs."""
    place = Path(output).resolve()
    for each in inputs:
        if each is not None and Path(each).exists() and (place == (other := Path(each).resolve()) or place in other.parents):
            raise ValueError(f'{output} would replace {each}, which is read; name another output')
