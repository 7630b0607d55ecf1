"""Certificates beside what the run's curves add to them, and the small table of their numbers."""

from collections.abc import Sequence
from typing import NamedTuple

from calm_jax.report.grids import Grid, Heading
from calm_jax.report.numerals import NOTHING, number, percent
from calm_jax.report.run import Certificate, Curve

# Heading of each column, and whether it holds numbers.
_COLUMNS = (('setting', False), ('objective', False), ('metric', False), ('δ', True), ('ε', True), ('n', True),
            ('p-value', False), ('λ', True), ('share of δ used', True), ('mean layers', True))


class Promise(NamedTuple):
    """A certificate, the name of what it certifies, and the mean layers at its λ out of L; None where unknown."""
    certificate: Certificate
    label: str
    layers: float | None
    num_layers: int | None


def promise(certificate: Certificate, curves: Sequence[Curve]) -> Promise:
    """The certificate beside its curve: the one in which every setting it tested has the mean loss it recorded.

    A certificate knows nothing of cost. Where curves of several measures agree with it, the one of its own name or,
    failing that, in its own folder is meant; if that does not settle it, the cost stays unknown.
    """
    tested = [_key(*pair) for pair in certificate.tested]
    matches = [curve for curve in curves if tested and set(tested) <= _losses(curve).keys()]
    for belongs in (lambda curve: curve.label == certificate.measure,
                    lambda curve: curve.path.parent == certificate.path.parent):
        if len({curve.label for curve in matches}) > 1:
            matches = [curve for curve in matches if belongs(curve)]
    if len({curve.label for curve in matches}) != 1:
        return Promise(certificate, certificate.measure or certificate.path.stem, None, None)
    curve = matches[0]
    if certificate.full_depth:
        return Promise(certificate, curve.label, curve.num_layers, curve.num_layers)
    layers = [_losses(curve)[pair] for pair in tested if pair[0] == _key(certificate.threshold, 0)[0]]
    return Promise(certificate, curve.label, layers[-1] if layers else None, curve.num_layers)


def summary(promises: Sequence[Promise]) -> Grid:
    """One row for each certificate: δ, ε, n, p-value, λ, share of δ used, mean layers. Empty columns are left out."""
    rows = [_row(each) for each in promises]
    keep = [place for place in range(len(_COLUMNS)) if any(row[place] is not None for row in rows)]
    return Grid([Heading(_COLUMNS[place][0], '', _COLUMNS[place][1]) for place in keep],
                [[NOTHING if row[place] is None else row[place] for place in keep] for row in rows])


def _row(promise: Promise) -> tuple[str | None, ...]:
    certificate = promise.certificate
    deltas = ', '.join(f'{risk} {number(tolerance)}'.strip() for risk, tolerance in certificate.tolerances)
    used = None if certificate.full_depth else certificate.tolerance_used
    return (promise.label, certificate.objective, certificate.metric, deltas, number(certificate.epsilon),
            f'{certificate.n:,}', certificate.p_value,
            'none valid' if certificate.full_depth else number(certificate.threshold, 4),
            None if used is None else percent(used),
            None if promise.layers is None else f'{number(promise.layers)} of {promise.num_layers}')


def _losses(curve: Curve) -> dict[tuple[float, float], float]:
    """Mean layers by threshold and mean loss."""
    return {_key(point.threshold, point.loss): point.layers for point in curve.points
            if point.threshold is not None and point.loss is not None}


def _key(threshold: float, loss: float) -> tuple[float, float]:
    # The same numbers, written by two files; rounding only forgives the last digits.
    return round(threshold, 9), round(loss, 6)
