"""Certificates beside what the run's curves add to them, and the small table of their numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from calm_jax.reporting.grids import Grid, Heading
from calm_jax.reporting.numerals import NOTHING, deltas, number, percent
from calm_jax.reporting.run import Certificate, Curve, Tested
from calm_jax.schemas import Point

# Heading of each column, its unit, whether it holds numbers, and whether the sentence of the guarantee says it too.
_COLUMNS = (
    ('setting', '', False, True),
    ('objective', '', False, True),
    ('metric', '', False, True),
    ('δ', '', True, True),
    ('ε', '', True, True),
    ('n', '', True, True),
    ('p-value', '', False, False),
    ('λ', '', True, True),
    ('share of δ used', '', True, False),
    ('mean layers', 'on calibration data', True, False),
)


class Promise(NamedTuple):
    """A certificate, the name of what it certifies, and the mean layers at its point out of L; None where unknown."""

    certificate: Certificate
    label: str
    layers: float | None
    num_layers: int | None


def promise(certificate: Certificate, curves: Sequence[Curve]) -> Promise:
    """The certificate beside its curve: the one in which every point it tested has the p-value or loss it recorded; where it
    tested points of several curves, the one that has the certified point so.

    A certificate knows nothing of layers. Where curves of several measures agree with it, the one of its own name or,
    failing that, in its own folder is meant; if that does not settle it, the cost stays unknown.
    """
    point = (certificate.decoding, certificate.threshold)
    chosen = [tested for tested in certificate.tested if (tested.decoding, tested.threshold) == point]
    matches = []
    for points in (certificate.tested, chosen if certificate.decoding else ()):
        if points and not matches:
            matches = [curve for curve in curves if all(_layers(curve, tested) is not None for tested in points)]
    for belongs in (
        lambda curve: curve.label == certificate.measure,
        lambda curve: curve.path.parent == certificate.path.parent,
    ):
        if len({curve.label for curve in matches}) > 1:
            matches = [curve for curve in matches if belongs(curve)] or matches
    if len({curve.label for curve in matches}) != 1:
        return Promise(certificate, certificate.measure or certificate.path.stem, None, None)
    curve = matches[0]
    layers = curve.num_layers if certificate.full_depth else _layers(curve, chosen[-1]) if chosen else None
    return Promise(certificate, curve.label, layers, curve.num_layers)


def summary(promises: Sequence[Promise]) -> Grid:
    """One row for each certificate: δ, ε, n, p-value, λ, share of δ used, mean layers. Empty columns are left out."""
    rows = [_row(each) for each in promises]
    keep = [place for place in range(len(_COLUMNS)) if any(row[place] is not None for row in rows)]
    return Grid(
        [Heading(*_COLUMNS[place][:3]) for place in keep],
        [[NOTHING if (cell := row[place]) is None else cell for place in keep] for row in rows],
    )


def beside_sentence(promise: Promise) -> list[tuple[str, str]]:
    """(name, value) of what the summary says of a certificate and the sentence of its guarantee does not."""
    return [
        (f'{name} {unit}'.strip(), cell)
        for (name, unit, _, said), cell in zip(_COLUMNS, _row(promise), strict=True)
        if not said and cell is not None
    ]


def _row(promise: Promise) -> tuple[str | None, ...]:
    certificate = promise.certificate
    used = None if certificate.full_depth else certificate.tolerance_used
    return (
        promise.label,
        certificate.objective,
        certificate.metric,
        deltas(certificate.tolerances),
        number(certificate.epsilon),
        f'{certificate.n:,}',
        certificate.p_value,
        _threshold(certificate),
        None if used is None else percent(used),
        None if promise.layers is None else f'{number(promise.layers)} of {promise.num_layers}',
    )


def _threshold(certificate: Certificate) -> str | None:
    if certificate.full_depth:
        return 'none valid'
    return None if certificate.threshold is None else number(certificate.threshold, 4)


def _layers(curve: Curve, tested: Tested) -> float | None:
    """Mean layers at a point; None where the curve has not that point with these numbers.

    One number is enough: a curve drawn again at another δ has other p-values, and losses averaged within clusters are
    not the curve's means over examples.
    """
    return next(
        (
            point.layers
            for point in curve.points
            if _is(point, tested) and (_equal(point.p_value, tested.p_value) or _equal(point.loss, tested.loss))
        ),
        None,
    )


def _is(point: Point, tested: Tested) -> bool:
    """Whether a point of a curve is the one that was tested: decoded alike, or at the same λ where either says no more."""
    if point.decoding and tested.decoding:
        return point.decoding == tested.decoding
    return _equal(point.threshold, tested.threshold)


def _equal(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
