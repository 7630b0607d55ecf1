"""gin's state, which is global, put aside and back: the library's bindings and the host program's never meet."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import gin
from gin import config as gin_config

from calm_jax import gin_registry


class Bindings(NamedTuple):
    """What gin holds once files and bindings are parsed.

    values: {(scope, configurable): {parameter: value}}, macros among them.
    imports: the import statements of the files.
    """

    values: dict[tuple[str, str], dict]
    imports: frozenset


def current() -> Bindings:
    """What gin holds now."""
    return Bindings({key: dict(values) for key, values in gin_config._CONFIG.items()}, frozenset(gin_config._IMPORTS))


@contextlib.contextmanager
def apart(bindings: Bindings = Bindings({}, frozenset()), folders: Sequence[str] = ()) -> Iterator[None]:
    """gin with these bindings alone, the library's names, and files searched for in `folders` after the current one.

    At the end of the `with` block gin is as the host program left it: configuration, macros, operative configuration,
    singletons, lock, scope, file readers, search paths and the meaning of names. gin is one for all threads of a process:
    no other may use it inside.
    """
    host, locked = current(), gin.config_is_locked()
    operative, singletons = dict(gin_config._OPERATIVE_CONFIG), dict(gin_config._SINGLETONS)
    readers, prefixes = list(gin_config._FILE_READERS), list(gin_config._LOCATION_PREFIXES)
    gin_config._set_config_is_locked(False)
    try:
        with gin_registry.registered(), gin.config_scope(None):
            _hold(bindings, {}, {})
            gin_config._FILE_READERS[:] = [(reader, _forgiving(exists)) for reader, exists in readers]
            gin_config._LOCATION_PREFIXES[:] = ['', *folders]
            yield
    finally:
        _hold(host, operative, singletons)
        gin_config._FILE_READERS[:] = readers
        gin_config._LOCATION_PREFIXES[:] = prefixes
        gin_config._set_config_is_locked(locked)


def _hold(bindings: Bindings, operative: dict, singletons: dict) -> None:
    """Replaces what gin holds; its own dicts stay, since gin's functions refer to them."""
    held = (
        (gin_config._CONFIG, {key: dict(values) for key, values in bindings.values.items()}),
        (gin_config._IMPORTS, bindings.imports),
        (gin_config._OPERATIVE_CONFIG, operative),
        (gin_config._SINGLETONS, singletons),
    )
    for container, content in held:
        container.clear()
        container.update(content)


def _forgiving(exists: Callable[..., bool]) -> Callable[..., bool]:
    """gin's check for a file inside a package, which falls over a folder of the same name that is on sys.path."""

    def check(path: str) -> bool:
        try:
            return exists(path)
        except TypeError:
            return False

    return check
