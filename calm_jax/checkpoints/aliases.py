"""Other names of folders, for what takes characters of a name for a pattern."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

_PATTERN = frozenset('[]*?\\')


@contextlib.contextmanager
def plain(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder, made where it is missing, under a name without brackets, stars, question marks and backslashes: its own, or
    that of a symbolic link for as long as the block lasts.

    Orbax looks for what it wrote by patterns of file names, finds nothing in a folder named `run [1]`, and says all is well.
    """
    if not _PATTERN & set(str(directory)):
        yield directory
        return
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='calm_jax_') as elsewhere:
        link = pathlib.Path(elsewhere, 'folder')
        link.symlink_to(directory, target_is_directory=True)
        yield link
