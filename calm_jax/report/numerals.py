"""Numbers as people read them: significant digits, thousands, prefixes for FLOPs, a true minus sign, '–' for none."""

import math
from collections.abc import Sequence

NOTHING = '–'
_PREFIXES = ((1e18, 'E'), (1e15, 'P'), (1e12, 'T'), (1e9, 'G'), (1e6, 'M'))
_SUPERSCRIPTS = str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹')


def number(value: float | None, digits: int = 3) -> str:
    """One number to `digits` significant digits, without trailing zeros: 0.05, 3.21, 1,014, 1.23 G, 4.1 × 10⁻⁶."""
    if value is None:
        return NOTHING
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if size >= 1e6:
        factor, prefix = next((factor, prefix) for factor, prefix in _PREFIXES if size >= factor)
        return f'{_signed(f"{value / factor:.{digits}g}")} {prefix}' if size < 1e21 else _scientific(value, digits)
    if 0 < size < 1e-3:
        return _scientific(value, digits)
    return _signed(_trimmed(f'{value:,.{_decimals(value, digits)}f}'))


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage: 62%, 0.5%."""
    return NOTHING if share is None else f'{number(100 * share, 2 if share < 0.995 else 3)}%'


def column(values: Sequence[float | None], digits: int = 4) -> list[str]:
    """The numbers of one column with the same count of decimals, as many as the most precise one needs.

    A column of whole numbers has none. Numbers too large or too small for that are written as `number` writes them.
    """
    plain = [value for value in values if value is not None and _is_plain(value)]
    decimals = 0
    if not all(float(value).is_integer() for value in plain):
        decimals = max(len(_trimmed(f'{value:.{_decimals(value, digits)}f}').partition('.')[2]) for value in plain)
    return [_signed(f'{value:,.{decimals}f}') if value is not None and _is_plain(value) else number(value)
            for value in values]


def _is_plain(value: float) -> bool:
    return value == 0 or 1e-3 <= abs(value) < 1e6


def _decimals(value: float, digits: int) -> int:
    """Decimals that show `digits` significant digits of a number of at least 0.001."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def _trimmed(written: str) -> str:
    return written.rstrip('0').rstrip('.') if '.' in written else written


def _signed(written: str) -> str:
    """The number with a minus sign instead of a hyphen, and without one where it rounds to zero."""
    if written.startswith('-'):
        return written[1:] if not written.strip('-0.,') else f'−{written[1:]}'
    return written


def _scientific(value: float, digits: int) -> str:
    mantissa, exponent = f'{value:.{digits - 1}e}'.split('e')
    return f'{_signed(_trimmed(mantissa))} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}'
