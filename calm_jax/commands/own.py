"""What is the user's own and named on the command line by where it stands: package.module:name."""

import importlib
from collections.abc import Callable
from typing import Any


def imported(flag: str, text: str, noun: str = 'Class') -> Any:
    """What a flag names, from a module on PYTHONPATH. Raises ValueError, in one line, where it cannot be imported."""
    module, _, name = text.partition(':')
    try:
        value: Any = importlib.import_module(module)
        for part in name.split('.'):
            value = getattr(value, part)
    except (ImportError, ValueError, AttributeError, SyntaxError) as error:
        raise ValueError(
            f'{flag} {text!r} cannot be imported ({error}); expected package.module:{noun} of a module on PYTHONPATH'
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
