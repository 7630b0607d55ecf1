"""What the values of flags are parsed by; a wrong one is named in one line."""

import argparse
import datetime
from collections.abc import Callable


def positive(text: str) -> int:
    """An argparse type: a whole number of 1 or more."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}; expected a whole number of 1 or more')
    return int(text)


def moment(text: str) -> datetime.datetime:
    """An argparse type: a date, or a date and a time, as ISO 8601 has them."""
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r}; expected a date such as 2026-01-31, or 2026-01-31T09:30:00') from None


def numbers(text: str, flag: str, kind: Callable[[str], float] = float) -> list:
    """Comma-separated numbers, whole ones where `kind` is int. Not an argparse type, so that the flag can be repeated as it was
    typed."""
    try:
        return [kind(each) for each in text.split(',')]
    except ValueError:
        words = 'whole numbers' if kind is int else 'numbers'
        raise ValueError(f'{flag} {text!r}: expected {words} with commas between them') from None
