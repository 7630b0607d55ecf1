"""What a folder of records is of: its records.json, and the files that stand beside it.

    records.json                  what was decoded, with what, and the points in test order
    full.jsonl                    the records of full depth
    point_0f3c1a2b4d5e.jsonl      those of a point, by the first 12 digits of its decoding's digest

Each file of records has its own header, which holds the whole decoding, so that one that was made otherwise is told from one
that fits.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calm_jax import formats
from calm_jax.calibration import Point
from calm_jax.data import decoded
from calm_jax.decoding.codec import digest
from calm_jax.files import read_json, write_json
from calm_jax.types import Sizes

RECORDS, FULL = 'records.json', 'full.jsonl'
COST_UNIT = 'FLOPs per token'  # of every point
DIGITS = 12  # of a digest, in the name of a file
_AGAIN = 'decode again with --checkpoint and --overwrite'


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What records.json holds.

    full: the document of full depth. points: in test order, untested, each with its document, its λ, if it has one, and its
    path.
    sizes: of the model. fingerprints: of the model. data: as `data_of` says it. environment: as `certified.environment`.
    """

    full: dict
    points: tuple[Point, ...]
    sizes: Sizes
    fingerprints: dict[str, str]
    data: dict[str, Any]
    environment: dict[str, Any]

    def __post_init__(self):
        files = {}
        for point in self.points:
            other = files.setdefault(self.file(point.decoding), point.decoding)
            if other != point.decoding:
                raise ValueError(f'{self.file(point.decoding)} would hold the records of two points; leave one of them out')

    @property
    def provenance(self) -> dict:
        """What a certificate that is found from these records depends on."""
        return {**self.fingerprints, 'data': self.data, 'environment': self.environment}

    def file(self, document: dict) -> str:
        """The name of the file of records that are decoded so."""
        return FULL if document == self.full else f'point_{digest(document)[:DIGITS]}.jsonl'

    def header(self, document: dict) -> dict:
        """What the header of records that are decoded so says if they were made with this."""
        return decoded.header(
            self.data['fingerprint'],
            self.data['source_field'],
            document,
            self.environment['batch_size'],
            self.fingerprints,
            date=self.data.get('date'),
        )

    def misfit(self, path: Path, document: dict) -> list[str]:
        """In what a file of records differs from records that are decoded so, or why that cannot be told; [] where it fits."""
        return decoded.header_differences(path, self.header(document))

    def otherwise(self, other: 'Recorded') -> list[str]:
        """In what the records of another differ, but for the thresholds that they are at, and for settings besides one that
        both have."""
        own, others = self.settings, other.settings
        shared = next((each for each in own if each in others), None)
        mine, theirs = (own[0], others[0]) if shared is None else (shared, shared)
        return decoded.differences({**self.header(mine), 'full': self.full}, {**other.header(theirs), 'full': other.full})

    def at(self, thresholds: Sequence[float], where: str) -> list[Point]:
        """The points that have these λ. Raises ValueError, naming `where`, for one that none or several have."""
        points = []
        for threshold in thresholds:
            matches = [point for point in self.points if point.threshold == threshold]
            if len(matches) != 1:
                levels = ', '.join(f'{point.threshold:g}' for point in self.points if point.threshold is not None) or 'none'
                which = 'no point' if not matches else f'{len(matches)} points'
                raise ValueError(f'{where}: {which} at λ = {threshold:g}; there are {levels}; pass --checkpoint to decode more')
            points += matches
        return points

    def write(self, directory: Path) -> None:
        """Writes records.json, whole or not at all."""
        points = [
            {'file': self.file(point.decoding), 'threshold': point.threshold, 'decoding': point.decoding}
            | ({'path': point.path} if point.path else {})
            for point in self.points
        ]
        content = {
            **formats.stamp('records'),
            'full': self.full,
            'points': points,
            'cost_unit': COST_UNIT,
            'sizes': self.sizes._asdict(),
            'fingerprints': self.fingerprints,
            'data': self.data,
            'environment': self.environment,
        }
        write_json(directory / RECORDS, content)

    @property
    def settings(self) -> list[dict]:
        """How points are decoded but for their λ, each once; {} where there is none."""
        settings = []
        for point in self.points:
            if (setting := without_threshold(point.decoding)) not in settings:
                settings.append(setting)
        return settings or [{}]


def without_threshold(document: dict) -> dict:
    """A decoding document but for its λ."""
    if 'exit' not in document:
        return document
    return {**document, 'exit': {name: value for name, value in document['exit'].items() if name != 'threshold'}}


def read(directory: str | os.PathLike) -> Recorded:
    """What the records of a folder are of.

    Raises FileNotFoundError where it holds none; ValueError, in one line, where records.json is damaged or not of this format.
    """
    path = Path(directory) / RECORDS
    content = read_json(path)
    formats.check(content, 'records', str(path))
    try:
        recorded = Recorded(
            full=_object(content, 'full'),
            points=tuple(_point(each) for each in content['points']),
            sizes=Sizes(**content['sizes']),
            fingerprints=_object(content, 'fingerprints'),
            data=_object(content, 'data'),
            environment=_object(content, 'environment'),
        )
        if not recorded.points:
            raise ValueError('no points')
        recorded.header({})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'{path} is damaged or incomplete ({error}); {_AGAIN}') from None
    return recorded


def _point(content: dict) -> Point:
    threshold = content['threshold']
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
        raise ValueError(f'a threshold is {threshold!r}')
    path = content.get('path', 0)
    if isinstance(path, bool) or not isinstance(path, int):
        raise ValueError(f'a path is {path!r}')
    return Point(_object(content, 'decoding'), threshold, path=path)


def _object(content: dict, name: str) -> dict:
    if not isinstance(content[name], dict):
        raise ValueError(f'{name} is no object')
    return content[name]
