"""What is the user's own and named on the command line by where it stands: package.module:name."""

import contextlib
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def blamed(classes: Sequence[type]) -> Iterator[None]:
    """What the code of the user's classes raises in a `with` block is one line: a ValueError that names where it was raised,
    and has it as its cause. Everything else stays what it is."""
    try:
        yield
    except Exception as error:
        frames, files = (
            [frame for frame, _ in traceback.walk_tb(error.__traceback__)],
            {inspect.getfile(kind) for kind in classes},
        )
        own = next((frame for frame in reversed(frames) if frame.f_code.co_filename in files), None)
        one = frames[-1].f_locals.get('self')
        if isinstance(error, NotImplementedError) and isinstance(one, tuple(classes)):
            raise ValueError(f'{type(one).__module__}:{type(one).__qualname__} lacks {frames[-1].f_code.co_name}') from error
        if own is None:
            raise
        where = f'{own.f_globals["__name__"]}:{own.f_code.co_qualname}, line {own.f_lineno}'
        first = next(iter(str(error).strip().splitlines()), '')
        raise ValueError(f'{where}, raised {type(error).__name__}: {first}') from error


def imported(flag: str, text: str, noun: str = 'Class') -> Any:
    """What a flag names, from a module on PYTHONPATH. Raises ValueError, in one line, where it cannot be imported."""
    module, _, name = text.partition(':')
    try:
        value: Any = importlib.import_module(module)
        for part in name.split('.'):
            value = getattr(value, part)
    except Exception as error:  # importing a module runs it
        known = isinstance(error, ImportError | ValueError | AttributeError | SyntaxError)
        reason = error if known else f'{type(error).__name__}: {error}'
        raise ValueError(
            f'{flag} {text!r} cannot be imported ({reason}); expected package.module:{noun} of a module on PYTHONPATH'
        ) from None
    return value


def metric(text: str) -> str | Callable:
    """The metric that --metric names: one that comes along by its name, one of the user's as the function itself.

    Raises ValueError where it cannot be imported, or cannot be called.
    """
    if ':' not in text:
        return text
    function = imported('metric', text, 'function')
    if not callable(function):
        raise ValueError(f'metric {text!r} is no function; expected one of (predictions, references)')
    return function
