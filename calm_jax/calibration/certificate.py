"""Certificates: what was tested on which data, what came of it, and what may be decoded under it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from calm_jax.calibration.procedures import bonferroni, fixed_sequence
from calm_jax.files import write_text

FORMAT = 'calm_jax certificate 1'
FULL_DEPTH = 1.0  # λ ≥ 1 switches every exit off: the output is the full model's own, and no test is needed
PROCEDURES = ('fixed_sequence', 'bonferroni')


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting of the grid. Where it was tested as several hypotheses (risks, groups), those of the largest p."""

    threshold: float
    setting: dict  # what else this point sets, beside λ; {} where λ is all
    mean_loss: float | None  # R̂, the mean over examples; None where it was not tested
    p_value: float | None
    rejected: bool  # 'inconsistent' was rejected: the setting is certified
    parts: dict  # {hypothesis: {'mean_loss', 'p_value'}} where there are several, else {}


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A calibrated threshold with everything its guarantee depends on. JSON and back is exact to the bit."""

    threshold: float  # λ, as decoded with; 1 where nothing was certified
    setting: dict  # what else the chosen point sets
    guarantee: str  # in one sentence
    tolerance_used: float | None  # R̂/δ, the largest over hypotheses; 0 at full depth, None where a δ ≤ 0
    objective: str | None
    metric: str | dict | None
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
    provenance: dict  # of parameters, tokenizer, settings, data, environment: see `covers`

    @property
    def found(self) -> bool:
        """Whether any setting was certified; if not, decode at full depth."""
        return any(point.rejected for point in self.grid)

    def to_json(self) -> str:
        """The certificate as JSON text, with a digest of all of it."""
        content = {'format': FORMAT, **dataclasses.asdict(self)}
        return json.dumps({**content, 'digest': _digest(content)}, indent=2, ensure_ascii=False) + '\n'

    def save(self, path: str | os.PathLike) -> None:
        """Write the certificate as a JSON file, whole or not at all, and make the folders it lacks."""
        write_text(path, self.to_json(), make_folders=True)

    @classmethod
    def from_json(cls, text: str, name: str = 'certificate') -> 'Certificate':
        """The certificate in `text`. ValueError, `name` and the first fault, if it is none or contradicts itself."""
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f'{name}: not JSON ({error.msg}, line {error.lineno}); expected a certificate') from None
        except RecursionError:
            raise ValueError(f'{name}: nested too deep; expected a certificate') from None
        if not isinstance(content, dict) or content.get('format') != FORMAT:
            raise ValueError(f'{name}: not a certificate; expected a JSON object with "format": "{FORMAT}"')
        digest, expected = content.pop('digest', None), _digest(content)
        del content['format']
        _check_fields(content, cls, name)
        if not isinstance(content['grid'], list) or not content['grid']:
            raise ValueError(f'{name}: expected a list of points as "grid"')
        for index, point in enumerate(content['grid']):
            _check_fields(point, Point, f'{name}: grid point {index}')
        certificate = cls(**content | {'grid': tuple(Point(**point) for point in content['grid'])})
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

        `current` describes the run as `provenance` describes the calibration, key by key: fingerprints of parameters
        and tokenizer, decode settings, … Everything must be equal, except `data`, which is not compared, and
        `environment` (backend, JAX version, batch size), where each difference gives a warning. What the chosen point
        set is expected under `settings`; a `threshold` there must be the certificate's. The ValueError names the first
        difference.
        """
        recorded, current = described(self.provenance, 'provenance'), described(current, 'current')
        recorded['settings'] |= self.setting
        if 'threshold' in current['settings']:
            recorded['settings']['threshold'] = self.threshold
        warnings = _differences(recorded.pop('environment'), current.pop('environment'))
        gap = next(_differences({**recorded, 'data': None}, {**current, 'data': None}), None)
        if gap:
            raise ValueError(f'the certificate does not cover this run: {gap}; decode as certified or calibrate again')
        return [f'{difference}; rounding there may change a few tokens' for difference in warnings]

    def _check_consistent(self, name: str) -> None:
        described(self.provenance, f'{name}: provenance')
        if self.procedure not in PROCEDURES:
            raise ValueError(f'{name}: expected as procedure one of {", ".join(PROCEDURES)}, found {self.procedure!r}')
        try:
            rejected, chosen = choose(self.grid, self.procedure, self.epsilon / self.joint)
        except (TypeError, ZeroDivisionError):
            raise ValueError(f'{name}: expected numbers as epsilon, joint, thresholds and p-values') from None
        if {index for index, point in enumerate(self.grid) if point.rejected} != rejected:
            raise ValueError(f'{name}: its p-values do not reject the points it marks as rejected; calibrate again')
        expected = (FULL_DEPTH, {}) if chosen is None else (self.grid[chosen].threshold, self.grid[chosen].setting)
        for part, value, wanted in zip(('threshold', 'setting'), (self.threshold, self.setting), expected):
            if value != wanted:
                raise ValueError(f'{name}: {part} is {_short(value)}, its p-values give {_short(wanted)}; calibrate again')


def choose(grid: Sequence[Point], procedure: str, level: float) -> tuple[set[int], int | None]:
    """The indices of the settings certified at this level, and of the one to decode with (None: full depth).

    `fixed_sequence`: the last rejected. `bonferroni`: the lowest λ (CALM Proposition 1). Untested points have p = 1.
    """
    p_values = [1.0 if point.p_value is None else point.p_value for point in grid]
    if procedure == 'fixed_sequence':
        last_rejected = fixed_sequence(p_values, level)
        return set() if last_rejected is None else set(range(last_rejected + 1)), last_rejected
    rejected = bonferroni(p_values, level)
    return set(rejected), min(rejected, key=lambda index: grid[index].threshold, default=None)


def _digest(content: dict) -> str:
    """SHA-256 (hex) of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def plain(value, name: str):
    """`value` as JSON gives it back (tuples as lists, keys as text): what is compared later is what was saved."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f'{name}: expected only what JSON can hold ({error})') from None


def described(description: Mapping, name: str) -> dict:
    """A description of a run, plain, with `settings` and `environment` as objects ({} if absent); ValueError if not."""
    if not isinstance(description, Mapping):
        raise ValueError(f'{name}: expected a mapping, found {description!r}')
    description = plain(dict(description), name)
    for part in ('settings', 'environment'):
        if not isinstance(description.setdefault(part, {}), dict):
            raise ValueError(f'{name}: expected a mapping as "{part}", found {description[part]!r}')
    return description


def _check_fields(content, kind: type, name: str) -> None:
    fields = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(content, dict):
        raise ValueError(f'{name}: expected an object with {", ".join(fields)}')
    for field in fields:
        if field not in content:
            raise ValueError(f'{name}: lacks "{field}"; the certificate is incomplete, calibrate again')
    for field in content:
        if field not in fields:
            raise ValueError(f'{name}: unknown field "{field}"; written by another version, calibrate again')


def _differences(recorded, current, path: str = ''):
    """One line for each leaf in which two descriptions differ, by dotted path."""
    if isinstance(recorded, dict) and isinstance(current, dict):
        for key in list(recorded) + [key for key in current if key not in recorded]:
            absent = {} if isinstance(recorded.get(key, current.get(key)), dict) else None
            inner = f'{path}.{key}' if path else key
            yield from _differences(recorded.get(key, absent), current.get(key, absent), inner)
    elif recorded != current:
        yield f'{path} is {_short(current)} here, {_short(recorded)} in the certificate'


def _short(value) -> str:
    text = 'absent' if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:36] + ' …'
