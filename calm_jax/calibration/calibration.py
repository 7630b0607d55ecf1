"""Calibration: from losses to a certificate, one point at a time or all at once."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from numbers import Integral

import numpy as np

from calm_jax.calibration.certificate import PROCEDURES, Certificate, Point, choose, described, plain, short
from calm_jax.calibration.draws import permutation
from calm_jax.calibration.guarantee import sentence
from calm_jax.calibration.losses import check_binary, checked, cluster_means, numbered, signed_risk
from calm_jax.calibration.p_values import P_VALUES, check_level, compute_p_values, least_n


class Calibration:
    """A calibration that asks for losses one point at a time: nothing behind the first failure is ever decoded.

        calibration = Calibration(points, tolerance=0.1, epsilon=0.05)
        while (point := calibration.point) is not None:              # the next to decode
            losses, cost = decode(point.decoding)                    # [n], and one number
            calibration.observe(losses, cost)                        # also returns whether to go on
        certificate = calibration.certificate(objective='textual', metric='rougeL', provenance={…}, full={…})

    What the constructor takes is fixed beforehand, without looking at the calibration examples:
        points: what is tested, in this order (cautious to bold as a rule) and never sorted: each a `Point`, of which
            decoding, threshold, cost and path are read, or a number λ, short for Point({}, λ). Points of several paths are
            several sequences, which share ε evenly: the choice among all of them is covered.
        tolerance: δ, or {risk: δ} for several risks at once. epsilon: ε, the probability that the guarantee fails.
        p_value: 'binomial' for a loss that can only be 0 or 1, else 'betting' ('hoeffding_bentkus', 'hoeffding').
        procedure: 'fixed_sequence', or 'bonferroni' for a grid without an order, all of which is then tested.
        seed: of the order in which 'betting' meets the examples.
        group_by: a cluster label per example [n]: losses are averaged within clusters, and clusters are counted.
        groups: a group label per example [n]: the guarantee holds in each group, p is the largest of theirs.
        joint: the number of certificates among which one is chosen after seeing all of them: each gets ε/joint.
        signed: losses are differences in [−1, 1] and δ is on their scale (see `signed_risk`).
    Stopping early is valid: a point that was not tested is not certified. ValueError for anything out of place.
    """

    def __init__(
        self,
        points: Sequence[float | Point],
        tolerance: float | Mapping[str, float],
        epsilon: float,
        p_value: str = 'betting',
        procedure: str = 'fixed_sequence',
        seed: int = 0,
        group_by: Sequence | None = None,
        groups: Sequence | None = None,
        joint: int = 1,
        signed: bool = False,
    ):
        check_level(epsilon)
        if p_value not in P_VALUES:
            raise ValueError(f'p_value: expected one of {", ".join(P_VALUES)}, found {p_value!r}')
        if procedure not in PROCEDURES:
            raise ValueError(f'procedure: expected one of {", ".join(PROCEDURES)}, found {procedure!r}')
        if not isinstance(joint, Integral) or joint < 1:
            raise ValueError(f'joint: expected the number of certificates, 1 or more, found {joint!r}')
        if signed and p_value == 'binomial':
            raise ValueError("p_value: 'binomial' is for losses 0 or 1; choose 'betting' for signed differences")
        lowest = -1 if signed else 0
        tolerances = dict(tolerance) if isinstance(tolerance, Mapping) else {None: tolerance}
        for bound in tolerances.values():
            if not lowest < bound < 1:
                raise ValueError(f'tolerance: expected a number between {lowest} and 1, found {bound}')
        permutation(seed, 1)  # refuses what is no seed
        self._grid = _untested(points)
        self._used: dict[int, float | None] = {}  # the share of the tolerance that each tested point takes, by its index
        self._tolerances = {risk: float(bound) for risk, bound in tolerances.items()}  # {None: δ} if one for all risks
        self._epsilon, self._joint, self._signed = float(epsilon), int(joint), bool(signed)
        self._p_value, self._procedure, self._seed = p_value, procedure, int(seed)
        self._group_by, self._groups = group_by, groups
        self._rows: tuple[list[str], int] | None = None  # the names of the risks and the number of examples
        self._members: dict[str | None, np.ndarray] = {}  # the units of each group; {None: all} without groups

    @property
    def point(self) -> Point | None:
        """The next point to decode, or None when there is nothing left to test."""
        index = self._next()
        return None if index is None else self._grid[index]

    def check_enough(self, n: int) -> None:
        """ValueError, with the least number, if even losses of zero on n examples would certify nothing.

        Needs no losses, so it can be asked before anything is decoded; the first `observe` asks it too.
        """
        self._members = _members(n, self._group_by, self._groups)
        level = self._level / (len(self._grid) if self._procedure == 'bonferroni' else self._paths)
        for tolerance in sorted(set(self._tolerances.values())):
            least = least_n(self._p_value, (tolerance + 1) / 2 if self._signed else tolerance, level)
            for group, members in self._members.items():
                if len(members) < least:
                    units = 'examples' if self._group_by is None else 'clusters'
                    units += '' if group is None else f' in group {group}'
                    raise ValueError(
                        f'{len(members)} {units} are too few: at tolerance {tolerance:g} and level {level:g}, '
                        f'{self._p_value} certifies nothing with fewer than {least}'
                    )

    def observe(self, losses, cost: float | None = None) -> bool:
        """Test the next point on its losses, [n] or {risk: [n]}, and return whether there is another to test.

        cost: what decoding it took, in one unit for all points; None leaves the cost that the point came with.
        """
        index = self._next()
        if index is None:
            raise ValueError('the calibration is finished: no more losses are needed')
        point = self._grid[index]
        cost = point.cost if cost is None else _finite(cost, f'cost at {_label(point)}')
        risks = self._risks(losses, point)
        if self._rows is None:
            n = len(next(iter(risks.values())))
            self.check_enough(n)
            self._rows = list(risks), n
        units = self._units(risks, point)
        parts = {name: self._test(*each) for name, each in units.items()}
        largest = max(parts.values(), key=lambda part: part['p_value'])
        shares = [part['mean_loss'] / part['tolerance'] for part in parts.values() if part['tolerance'] > 0]
        self._used[index] = max(shares) if len(shares) == len(parts) else None
        self._grid[index] = dataclasses.replace(
            point, cost=cost, mean_loss=largest['mean_loss'], p_value=largest['p_value'], parts=parts if len(parts) > 1 else {}
        )
        return self._next() is not None

    def foreseen(self, losses, point: Point) -> tuple[tuple[float, ...], bool]:
        """What losses on tuning data, [n] or {risk: [n]}, let expect of a point; it is not tested by them.

        How unsafe it is, to compare points by: the mean loss above its tolerance, so that points stand in one order whatever δ;
        of several risks or groups first the largest p-value, then the largest such mean. And whether it is hopeless: the
        losses reject, at level ε, that every expected loss is within its tolerance (Hoeffding).
        """
        risks = self._risks(losses, point)
        self._members = self._members or _members(len(next(iter(risks.values()))), self._group_by, self._groups)
        units = self._units(risks, point).values()
        parts = [self._test(*each) for each in units]
        above = [part['mean_loss'] - part['tolerance'] for part in parts]
        largest = (max(part['p_value'] for part in parts),) if len(parts) > 1 else ()
        width = 2 if self._signed else 1  # of the range of a loss
        bounds = [width * math.sqrt(math.log(1 / self._epsilon) / (2 * len(values))) for values, _ in units]
        return (*largest, max(above)), any(excess > bound for excess, bound in zip(above, bounds))

    def certificate(
        self,
        objective: str | None = None,
        metric: str | Sequence | Mapping | None = None,
        metric_version: str | Mapping | None = None,
        provenance: Mapping | None = None,
        full: Mapping | None = None,
        cost_unit: str | None = None,
    ) -> Certificate:
        """The certificate of what has been tested so far: of the cheapest valid point (see `choose`), or of full depth.

        `provenance` describes the calibration run, in what JSON can hold: fingerprints of `parameters` and `tokenizer`,
        the calibration `data` (its `name` goes into the guarantee), the `environment`. `Certificate.covers` compares it
        with a later run. `full`: the document of full depth ({} by default), decoded with where no point is valid.
        `cost_unit`: of the points' costs, in words.
        """
        if self._rows is None:
            raise ValueError('nothing was tested yet: observe the losses of the first point')
        provenance = described(provenance or {}, 'provenance')
        if 'decoding' in provenance:
            raise ValueError('provenance: "decoding" is of the points; leave it out')
        fallback = Point(_document({} if full is None else full, 'full'))
        tolerances = {risk: self._tolerance_of(risk) for risk in self._rows[0]}
        rejected, chosen = choose(self._grid, self._procedure, self._level)
        grid = [dataclasses.replace(point, rejected=index in rejected) for index, point in enumerate(self._grid)]
        point = fallback if chosen is None else grid[chosen]
        certificate = Certificate(
            decoding=point.decoding,
            threshold=point.threshold,
            cost=point.cost,
            guarantee='',
            tolerance_used=0.0 if chosen is None else self._used[chosen],
            objective=objective,
            metric=plain(metric, 'metric'),
            metric_version=plain(metric_version, 'metric_version'),
            tolerance=tolerances if len(tolerances) > 1 or None not in self._tolerances else self._tolerances[None],
            epsilon=self._epsilon,
            joint=self._joint,
            procedure=self._procedure,
            p_value=self._p_value,
            seed=self._seed,
            signed=self._signed,
            n=sum(len(members) for members in self._members.values()),
            examples=self._rows[1],
            clustered=self._group_by is not None,
            groups={group: len(members) for group, members in self._members.items() if group is not None},
            grid=tuple(grid),
            provenance=provenance,
            cost_unit=cost_unit,
        )
        return dataclasses.replace(certificate, guarantee=sentence(certificate))

    @property
    def _level(self) -> float:
        """What all tests of this certificate share."""
        return self._epsilon / self._joint

    @property
    def _paths(self) -> int:
        return len({point.path for point in self._grid})

    def _next(self) -> int | None:
        """The index of the next point to test: the first untested one of a path on which, in a fixed sequence, none failed."""
        level, failed = self._level / self._paths, set()
        for index, point in enumerate(self._grid):
            if point.path in failed:
                continue
            if point.p_value is None:
                return index
            if self._procedure == 'fixed_sequence' and not point.p_value <= level:
                failed.add(point.path)
        return None

    def _risks(self, losses, point: Point) -> dict[str, np.ndarray]:
        """The losses of each risk, checked."""
        risks = {
            name: checked(column, -1.0 if self._signed else 0.0, f'{name} at {_label(point)}')
            for name, column in (losses if isinstance(losses, Mapping) else {'losses': losses}).items()
        }
        self._check_rows(risks)
        return risks

    def _units(self, risks: Mapping[str, np.ndarray], point: Point) -> dict[str, tuple[np.ndarray, float]]:
        """The losses of the units of each hypothesis, 'the expected loss exceeds δ', and its δ, by risk and group."""
        if self._group_by is not None:
            risks = {risk: cluster_means(column, self._group_by) for risk, column in risks.items()}
        hypotheses = {}
        for risk, units in risks.items():
            if self._p_value == 'binomial':
                check_binary(units, f'{risk} at {_label(point)}')
            for group, members in self._members.items():
                name = ', '.join(([risk] if len(risks) > 1 else []) + ([group] if group is not None else []))
                hypotheses[name] = units[members], self._tolerance_of(risk)
        return hypotheses

    def _test(self, values: np.ndarray, tolerance: float) -> dict:
        """One hypothesis, 'the expected loss in this group exceeds δ', from the losses of its units."""
        unit_values, unit_tolerance = signed_risk(values, tolerance) if self._signed else (values, tolerance)
        return {
            'tolerance': tolerance,
            'mean_loss': math.fsum(values.tolist()) / len(values),
            'p_value': float(compute_p_values(unit_values, unit_tolerance, self._p_value, self._seed)),
        }

    def _tolerance_of(self, risk: str) -> float:
        return self._tolerances[None if None in self._tolerances else risk]

    def _check_rows(self, risks: dict[str, np.ndarray]) -> None:
        """The same risks of the same number of examples at every point."""
        if not risks:
            raise ValueError('losses: expected those of one risk or more, found an empty mapping')
        names, n = list(risks), len(next(iter(risks.values())))
        for name, column in risks.items():
            if column.shape != (n,):
                raise ValueError(f'{name}: expected the losses of one point, shape [{n}], found {list(column.shape)}')
        if None not in self._tolerances and set(names) != set(self._tolerances):
            expected = ', '.join(map(str, self._tolerances))
            raise ValueError(f'losses: expected those of {expected}, which have a tolerance, found {", ".join(names)}')
        if self._rows not in (None, (names, n)):
            raise ValueError(
                f'losses: expected {self._rows[1]} examples of {", ".join(self._rows[0])}, as at the first point, '
                f'found {n} of {", ".join(names)}'
            )


def calibrate(
    losses,
    points: Sequence[float | Point],
    tolerance: float | Mapping[str, float],
    epsilon: float,
    p_value: str = 'betting',
    procedure: str = 'fixed_sequence',
    seed: int = 0,
    group_by: Sequence | None = None,
    groups: Sequence | None = None,
    joint: int = 1,
    signed: bool = False,
    objective: str | None = None,
    metric: str | Sequence | Mapping | None = None,
    metric_version: str | Mapping | None = None,
    provenance: Mapping | None = None,
    full: Mapping | None = None,
    cost_unit: str | None = None,
) -> Certificate:
    """The certificate of losses [n, m], or {risk: [n, m]}: n examples by m points, columns in test order.

    The point chosen is the cheapest of Λ_valid, or full depth where that is empty, so that P(E[L] ≤ δ) ≥ 1 − ε over the
    draw of the examples. Without costs it is the last valid one: for descending λ, min(Λ_valid) (CALM Proposition 1).
    The arguments are those of `Calibration` and of its `certificate`. ValueError for anything out of place.
    """
    calibration = Calibration(points, tolerance, epsilon, p_value, procedure, seed, group_by, groups, joint, signed)
    tables = {
        name: checked(table, -1.0 if signed else 0.0, name)
        for name, table in (losses if isinstance(losses, Mapping) else {'losses': losses}).items()
    }
    for name, table in tables.items():
        if table.shape[1:] != (len(points),):
            raise ValueError(f'{name}: expected {len(points)} columns, one per point, found the shape {list(table.shape)}')
    while (index := calibration._next()) is not None:
        calibration.observe({name: table[:, index] for name, table in tables.items()})
    return calibration.certificate(objective, metric, metric_version, provenance, full, cost_unit)


def _untested(points: Sequence[float | Point]) -> list[Point]:
    """The grid before any test; ValueError for what is no point, and for one that is given twice."""
    grid = []
    for index, given in enumerate(points):
        point = _point(given, f'points: point {index} (counted from 0)')
        if any((point.decoding, point.threshold) == (other.decoding, other.threshold) for other in grid):
            raise ValueError(f'points: {_label(point)} is given twice; expected each point once, in test order')
        grid.append(point)
    if not grid:
        raise ValueError('points: expected numbers λ or Points, one or more, found none')
    return grid


def _point(given: float | Point, name: str) -> Point:
    """The untested point that a number λ or a Point stands for."""
    if not isinstance(given, Point):
        return Point({}, _finite(given, name))
    threshold = None if given.threshold is None else _finite(given.threshold, f'{name}, threshold')
    cost = None if given.cost is None else _finite(given.cost, f'{name}, cost')
    return Point(_document(given.decoding, f'{name}, decoding'), threshold, cost, path=given.path)


def _document(value, name: str) -> dict:
    """A decoding document as JSON gives it back."""
    if not isinstance(value, Mapping):
        raise ValueError(f'{name}: expected a JSON object, found {value!r}')
    return plain(dict(value), name)


def _finite(value, name: str) -> float:
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f'{name}: expected a finite number, found {value!r}')
    return number


def _label(point: Point) -> str:
    """A point in words: its λ, or its document."""
    return short(point.decoding) if point.threshold is None else f'threshold {point.threshold:g}'


def _members(n: int, group_by: Sequence | None, groups: Sequence | None) -> dict[str | None, np.ndarray]:
    """The units (examples, or clusters) of each group, {None: all} without groups. A cluster lies within one group."""
    clusters, cluster_of = (list(range(n)), np.arange(n)) if group_by is None else numbered(group_by, n, 'group_by')
    if groups is None:
        return {None: np.arange(len(clusters))}
    labels, group_of = numbered(groups, n, 'groups')
    group_of_cluster = np.empty(len(clusters), dtype=np.int64)
    group_of_cluster[cluster_of] = group_of
    straddling = np.flatnonzero(group_of_cluster[cluster_of] != group_of)
    if straddling.size:
        raise ValueError(f'groups: cluster {clusters[cluster_of[straddling[0]]]} of group_by lies in several groups')
    return {str(label): np.flatnonzero(group_of_cluster == number) for number, label in enumerate(labels)}
