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
    if size >= 1e21 or 0 < size < 1e-3:
        return _scientific(value, digits)
    if size >= 1e6:
        shown, _, prefix = _prefixed(value, digits).partition(' ')
        return f'{_trimmed(shown)} {prefix}'
    return _signed(_trimmed(f'{value:,.{_decimals(value, digits)}f}'))


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage: 62%, 0.5%."""
    return NOTHING if share is None else f'{number(100 * share, 2 if share < 0.995 else 3)}%'


def deltas(tolerances: Sequence[tuple[str, float]]) -> str:
    """One tolerance as a number; several as 'rougeL 0.1, bleu 0.2'."""
    return ', '.join(f'{risk} {number(tolerance)}'.strip() for risk, tolerance in tolerances)


def column(values: Sequence[float | None], digits: int = 4) -> list[str]:
    """The numbers of one column with the same count of decimals: as many as the most precise one needs, at most four.

    A column of whole numbers has none. Numbers from a million on have three significant digits and a prefix; those
    below a thousandth are written as `number` writes them.
    """
    plain = [value for value in values if value is not None and _is_plain(value)]
    decimals = 0
    if not all(float(value).is_integer() for value in plain):
        decimals = min(4, max(len(_trimmed(f'{value:.{_decimals(value, digits)}f}').partition('.')[2]) for value in plain))
    return [_in_column(value, decimals) for value in values]


def _in_column(value: float | None, decimals: int) -> str:
    if value is not None and _is_plain(value):
        return _signed(f'{value:,.{decimals}f}')
    return _prefixed(value, 3) if value is not None and 1e6 <= abs(value) < 1e21 else number(value)


def _prefixed(value: float, digits: int) -> str:
    factor, prefix = next((factor, prefix) for factor, prefix in _PREFIXES if abs(value) >= factor)
    return f'{_signed(f"{value / factor:.{_decimals(value / factor, digits)}f}")} {prefix}'


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
