"""Compiled programs kept between processes, and the time that making them takes."""

import functools
import os
from pathlib import Path

import jax

_COMPILING = '/jax/core/compile/'  # begins the names of JAX's events of tracing, lowering and compiling


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


def compile_seconds() -> float:
    """Seconds that this process has spent on tracing, lowering and compiling, or on reading programs that are kept, since this
    was first called; 0 then. The difference of two calls is what lay between them.
    """
    return _clock().seconds


class _CompileClock:
    """The length of all time spans in which anything was compiled. They lie inside each other, as one program is traced while
    another is, and end in order."""

    def __init__(self):
        self._spans: list[tuple[float, float]] = []
        self.seconds = 0.0

    def add(self, event: str, start_time: float, end_time: float, **_) -> None:
        """Takes a span; those inside it go with it."""
        if not event.startswith(_COMPILING):
            return
        while self._spans and self._spans[-1][0] >= start_time:
            start, end = self._spans.pop()
            self.seconds -= end - start
        start = max(start_time, self._spans[-1][1]) if self._spans else start_time
        end = max(start, end_time)
        self._spans.append((start, end))
        self.seconds += end - start


@functools.cache
def _clock() -> _CompileClock:
    clock = _CompileClock()
    jax.monitoring.register_event_time_span_listener(clock.add)
    return clock


def _cache_folder() -> Path:
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
