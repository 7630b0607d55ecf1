"""Certificates: what was tested on which data, what came of it, and what may be decoded under it."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calm_jax import formats
from calm_jax.calibration.procedures import bonferroni, fixed_sequences
from calm_jax.files import write_text

PROCEDURES = ('fixed_sequence', 'bonferroni')
UNCOMPARED = ('data', 'source', 'tuning')  # provenance that describes the calibration and binds no later run
ABSENT = object()  # what a description does not hold, where None is a value
AS_BEFORE = {'pack': 'none'}  # of an environment that was recorded before it said so


@dataclasses.dataclass(frozen=True)
class Point:
    """One way to decode, to be tested or tested.

    Where it was tested as several hypotheses (risks, groups), mean_loss and p_value are those of the largest p.
    """

    decoding: dict  # the document to decode with, JSON that is never looked into here; {} where λ is all
    threshold: float | None = None  # λ: a label of the point, which the document holds too where there is one
    cost: float | None = None  # what is to be small, in one unit for all points: FLOPs per token, seconds, …
    mean_loss: float | None = None  # R̂, the mean over examples; None where it was not tested
    p_value: float | None = None
    rejected: bool = False  # 'inconsistent' was rejected: the point is valid
    parts: dict = dataclasses.field(default_factory=dict)  # {hypothesis: {'mean_loss', 'p_value'}} where there are several
    path: int = 0  # which of the paths it stands on: each is a fixed sequence of its own, and they share the level


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A calibrated way to decode with everything its guarantee depends on. JSON and back is exact to the bit."""

    decoding: dict  # the document to decode with: the chosen point's, or that of full depth where nothing was certified
    threshold: float | None  # λ of the chosen point; None where it has none, or nothing was certified
    cost: float | None  # of the chosen point, likewise
    guarantee: str  # in one sentence
    tolerance_used: float | None  # R̂/δ, the largest over hypotheses; 0 at full depth, None where a δ ≤ 0
    objective: str | None
    metric: str | list | dict | None
    metric_version: str | dict | None
    tolerance: float | dict  # δ, or {risk: δ}
    epsilon: float
    joint: int  # the number of certificates that share ε: each is tested at ε/joint
    procedure: str
    p_value: str
    seed: int  # of the order in which `betting` met the examples
    signed: bool  # losses are differences in [−1, 1], tested as (d + 1)/2 ≤ (δ + 1)/2
    n: int  # independent units: examples, or clusters of them
    examples: int
    clustered: bool
    groups: dict  # {group: n} where the guarantee holds in each of several groups, else {}
    grid: tuple[Point, ...]  # in test order, the untested included
    provenance: dict  # of parameters, tokenizer, data, environment: see `covers`
    semantics: int = formats.SEMANTICS  # of the decodes that were tested, and of those that are covered
    cost_unit: str | None = None  # of every cost, such as 'FLOPs per token'
    speed: dict | None = None  # the chosen point's against full depth, as it was measured; None where it was not

    @property
    def found(self) -> bool:
        """Whether any point was certified; if not, decode at full depth."""
        return any(point.rejected for point in self.grid)

    def to_json(self) -> str:
        """The certificate as JSON text, with a digest of all of it."""
        content = {**formats.stamp('certificate'), **dataclasses.asdict(self)}
        return json.dumps({**content, 'digest': _digest(content)}, indent=2, ensure_ascii=False) + '\n'

    def save(self, path: str | os.PathLike) -> None:
        """Write the certificate as a JSON file, whole or not at all, and make the folders it lacks."""
        write_text(path, self.to_json(), make_folders=True)

    @classmethod
    def from_json(cls, text: str, name: str = 'certificate') -> 'Certificate':
        """The certificate in `text`.

        ValueError, `name` and the first fault, if it is none, cannot be read here (see `formats.check`) or contradicts
        itself. A field that is absent and has a default is read as the default; an unknown field is refused.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f'{name}: not JSON ({error.msg}, line {error.lineno}); expected a certificate') from None
        except RecursionError:
            raise ValueError(f'{name}: nested too deep; expected a certificate') from None
        formats.check(content, 'certificate', name)
        digest, expected = content.pop('digest', None), _digest(content)
        del content['format'], content['version']
        _check_fields(content, cls, name)
        if not isinstance(content['grid'], list) or not content['grid']:
            raise ValueError(f'{name}: expected a list of points as "grid"')
        for index, point in enumerate(content['grid']):
            _check_fields(point, Point, f'{name}: grid point {index}')
        fields: dict[str, Any] = content | {'grid': tuple(Point(**point) for point in content['grid'])}
        certificate = cls(**fields)
        certificate._check_consistent(name)
        # Last, so that a fault with a name is said by it. This is no seal: it finds edits and damage, not forgery.
        if digest != expected:
            raise ValueError(f'{name}: changed since it was written, so it promises nothing; calibrate again')
        return certificate

    @classmethod
    def load(cls, path: str | os.PathLike) -> 'Certificate':
        """The certificate in a file. FileNotFoundError or ValueError in one line."""
        path = Path(path)
        if not path.is_file():
            found = 'not a file' if path.exists() else 'no such file'
            raise FileNotFoundError(f'{path}: {found}; expected a certificate written by calm calibrate')
        try:
            text = path.read_text(encoding='utf-8')
        except UnicodeDecodeError:
            raise ValueError(f'{path}: not text; expected a certificate in JSON') from None
        return cls.from_json(text, name=str(path))

    def covers(self, current: Mapping) -> list[str]:
        """Warnings, one line each, if the guarantee covers a run of this description; ValueError if it does not.

        `current` describes the run: `decoding`, the document that it decodes with, and what `provenance` says of the
        calibration, key by key: fingerprints of parameters, configuration and tokenizer, the dtype, … All of it must be
        equal; only `data` and `source` are not compared, and each difference in `environment` (backend, versions, batch
        size, pack) gives a warning. A certificate of λ alone, without a document, compares `threshold`. The ValueError names
        the first difference by its dotted path.
        """
        recorded, current = described(self.provenance, 'provenance'), described(current, 'current')
        if 'threshold' in current or (self.threshold is not None and not self.decoding):
            recorded['threshold'] = self.threshold
        recorded['decoding'] = plain(self.decoding, 'decoding')
        if not isinstance(current.setdefault('decoding', {}), dict):
            raise ValueError(f'current: expected a mapping as "decoding", found {current["decoding"]!r}')
        environment = current.pop('environment')
        before = {name: value for name, value in AS_BEFORE.items() if name in environment}
        warnings = _differences({**before, **recorded.pop('environment')}, environment)
        for part in UNCOMPARED:
            recorded.pop(part, None)
            current.pop(part, None)
        gap = next(_differences(recorded, current), None)
        if gap:
            raise ValueError(f'the certificate does not cover this run: {gap}; decode as certified or calibrate again')
        return [f'{difference}; rounding there may change a few tokens' for difference in warnings]

    def _check_consistent(self, name: str) -> None:
        if 'decoding' in described(self.provenance, f'{name}: provenance'):
            raise ValueError(f'{name}: provenance holds "decoding", which is of the points')
        for place, document in [('', self.decoding)] + [
            (f'grid point {index}: ', point.decoding) for index, point in enumerate(self.grid)
        ]:
            if not isinstance(document, dict):
                raise ValueError(f'{name}: {place}expected an object as "decoding", found {short(document)}')
        if self.procedure not in PROCEDURES:
            raise ValueError(f'{name}: expected as procedure one of {", ".join(PROCEDURES)}, found {self.procedure!r}')
        try:
            rejected, chosen = choose(self.grid, self.procedure, self.epsilon / self.joint)
        except (TypeError, ZeroDivisionError):
            raise ValueError(f'{name}: expected numbers as epsilon, joint, thresholds, costs and p-values') from None
        if {index for index, point in enumerate(self.grid) if point.rejected} != rejected:
            raise ValueError(f'{name}: its p-values do not reject the points it marks as rejected; calibrate again')
        point = Point(self.decoding) if chosen is None else self.grid[chosen]  # of full depth no point says what it is
        if not isinstance(self.speed, dict | None):
            raise ValueError(f'{name}: expected an object as "speed", found {short(self.speed)}')
        for part in ('decoding', 'threshold', 'cost'):
            value, expected = getattr(self, part), getattr(point, part)
            if value != expected:
                raise ValueError(f'{name}: {part} is {short(value)}, its p-values give {short(expected)}; calibrate again')


def choose(grid: Sequence[Point], procedure: str, level: float) -> tuple[set[int], int | None]:
    """The indices of the points certified at this level, and of the one to decode with (None: full depth).

    Under `fixed_sequence` all before the first failure of their path are certified, the paths sharing the level evenly; under
    `bonferroni` all p ≤ level/m. They hold at once, so any of them may be taken, whatever any data say of their costs, these
    data too: the cheapest, the earlier tested of equals.
    Where one of them has no cost: under `fixed_sequence` the last, under `bonferroni` the lowest λ (CALM Proposition 1;
    a point without λ only if none has one). Untested points have p = 1.
    """
    p_values = [1.0 if point.p_value is None else point.p_value for point in grid]
    if procedure == 'fixed_sequence':
        valid = fixed_sequences(p_values, [point.path for point in grid], level)
    else:
        valid = bonferroni(p_values, level)
    costs = {index: cost for index in valid if (cost := grid[index].cost) is not None}
    if len(costs) == len(valid):
        return set(valid), min(costs, key=costs.__getitem__, default=None)
    if procedure == 'fixed_sequence':
        return set(valid), valid[-1]
    thresholds = {index: math.inf if (threshold := grid[index].threshold) is None else threshold for index in valid}
    return set(valid), min(valid, key=thresholds.__getitem__)


def _digest(content: dict) -> str:
    """SHA-256 (hex) of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def plain(value, name: str):
    """`value` as JSON gives it back (tuples as lists, keys as text): what is compared later is what was saved."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f'{name}: expected only what JSON can hold ({error})') from None


def short(value) -> str:
    """A JSON value in at most 40 characters."""
    text = 'absent' if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:36] + ' …'


def described(description: Mapping, name: str) -> dict:
    """A description of a run, plain, with `environment` as an object ({} if absent); ValueError if it is none."""
    if not isinstance(description, Mapping):
        raise ValueError(f'{name}: expected a mapping, found {description!r}')
    content: dict = plain(dict(description), name)
    if not isinstance(content.setdefault('environment', {}), dict):
        raise ValueError(f'{name}: expected a mapping as "environment", found {content["environment"]!r}')
    return content


def _check_fields(content, kind: type, name: str) -> None:
    """ValueError for a field that is missing and has no default, and for one that is not known."""
    fields = dataclasses.fields(kind)
    if not isinstance(content, dict):
        raise ValueError(f'{name}: expected an object with {", ".join(field.name for field in fields)}')
    for field in fields:
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in content and not optional:
            raise ValueError(f'{name}: lacks "{field.name}"; the certificate is incomplete, calibrate again')
    names = {field.name for field in fields}
    for field in content:
        if field not in names:
            raise ValueError(f'{name}: unknown field "{field}", of another calm_jax; upgrade it, or calibrate again')


def _differences(recorded, current, path: str = '') -> Iterator[str]:
    """One line for each leaf in which two descriptions differ, by dotted path."""
    recorded, current = _opened(recorded, current), _opened(current, recorded)
    if isinstance(recorded, dict) and isinstance(current, dict):
        for key in [*recorded, *(key for key in current if key not in recorded)]:
            inner = f'{path}.{key}' if path else key
            yield from _differences(recorded.get(key, ABSENT), current.get(key, ABSENT), inner)
    elif isinstance(recorded, list) and isinstance(current, list) and len(recorded) == len(current):
        for index, pair in enumerate(zip(recorded, current)):
            yield from _differences(*pair, f'{path}[{index}]')
    elif recorded != current or isinstance(recorded, bool) != isinstance(current, bool):
        yield f'{path} is {short(current)} here, {short(recorded)} in the certificate'


def _opened(value, other):
    """An empty object for one that is absent beside an object with entries, so that the entries are compared."""
    return {} if value is ABSENT and isinstance(other, dict) and other else value
