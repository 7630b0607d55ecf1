"""What the values of flags are parsed by; a wrong one is named in one line."""

import argparse
from collections.abc import Callable


def positive(text: str) -> int:
    """An argparse type: a whole number of 1 or more."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}; expected a whole number of 1 or more')
    return int(text)


def numbers(text: str, flag: str, kind: Callable[[str], float] = float) -> list:
    """Comma-separated numbers, whole ones where `kind` is int. Not an argparse type, so that the flag can be repeated as it was
    typed."""
    try:
        return [kind(each) for each in text.split(',')]
    except ValueError:
        words = 'whole numbers' if kind is int else 'numbers'
        raise ValueError(f'{flag} {text!r}: expected {words} with commas between them') from None
