"""Compiled programs kept between processes."""

import os
from pathlib import Path

import jax


def use_compilation_cache(path: str | os.PathLike | None = None) -> Path:
    """Keeps compiled programs in a folder from now on, so that the next process need not compile them; returns the folder.

    path: the folder, made when the first program is kept; None: $JAX_COMPILATION_CACHE_DIR, or else `calm_jax` in the user's
    cache folder. It holds for all of JAX in this process. Programs are kept that took JAX's least time to compile or more
    (`jax_persistent_cache_min_compile_time_secs`, 1 second).
    """
    if path is None:
        path = os.environ.get('JAX_COMPILATION_CACHE_DIR') or _cache_folder() / 'calm_jax'
    folder = Path(path).absolute()
    jax.config.update('jax_compilation_cache_dir', str(folder))
    return folder


def _cache_folder() -> Path:
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
