"""One data set decoded at full depth and at one point after another, every run kept as a file of records. With the files at
hand everything recomputes without a model."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import numpy as np

from calm_jax.calibration import Point
from calm_jax.certified import environment
from calm_jax.data import jsonl
from calm_jax.data.decoded import recorded_date
from calm_jax.data.jsonl import Records, Template
from calm_jax.data.record_schema import checked
from calm_jax.data.sources import data_of
from calm_jax.decoding import codec
from calm_jax.decoding.decoding import Decoding
from calm_jax.model import Model
from calm_jax.recorded import DIGITS, FULL, RECORDS, Recorded, read
from calm_jax.runs import decode_file, texts

# Ways to decode in test order, or several paths of them, each in its own order.
Paths: TypeAlias = Sequence[Decoding] | Sequence[Sequence[Decoding]]


class Decodes(NamedTuple):
    """What results need of n records: ids; texts; tokens: how many there are, [n]; layers, exit_layers: means over the tokens
    of each, [n]; flops, flops_elbayad: of each, [n]."""

    ids: list
    texts: list[str]
    tokens: np.ndarray
    layers: np.ndarray
    exit_layers: np.ndarray
    flops: np.ndarray
    flops_elbayad: np.ndarray

    def per_token(self, name: str) -> float:
        """The mean over all tokens of layers or exit_layers, or the FLOPs per token."""
        values = getattr(self, name)
        weighed = values * self.tokens if name in ('layers', 'exit_layers') else values
        return float(np.sum(weighed) / max(1, np.sum(self.tokens)))


class Sweep:
    """The records of a folder.

    provide: (document, path) → None, sees to it that the file holds the records that are decoded so; raises where it cannot,
    as FileNotFoundError where they are not there and cannot be decoded. decodings: by the name of the file that is decoded so.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        recorded: Recorded,
        provide: Callable[[dict, Path], None],
        decodings: Mapping[str, Decoding] = {},
    ):
        self.directory, self.recorded, self._provide = Path(directory), recorded, provide
        self._read: dict[str, Decodes] = {}
        self._decodings = decodings

    def decoding(self, document: dict) -> Decoding:
        """The decoding of a document, where a model decodes the sweep."""
        return self._decodings[self.recorded.file(document)]

    def at(self, document: dict) -> Decodes:
        """What was decoded so, in input order.

        Raises ValueError where it is not of the same examples as full depth: losses compare record by record.
        """
        path = self.path(document)
        if path.name not in self._read:
            full = None if document == self.recorded.full else self.full
            self._provide(document, path)
            decodes = _decodes(path)
            if full is not None:
                self._check_order(path, decodes.ids, full.ids)
            self._read[path.name] = decodes
        return self._read[path.name]

    @property
    def full(self) -> Decodes:
        """What was decoded at full depth."""
        return self.at(self.recorded.full)

    def cost(self, document: dict) -> float:
        """FLOPs per token of what was decoded so."""
        return self.at(document).per_token('flops')

    def path(self, document: dict) -> Path:
        """Where the records that are decoded so are kept."""
        return self.directory / self.recorded.file(document)

    def requested_points(self) -> list[Point]:
        """The points that have been asked for, in test order."""
        return [point for point in self.recorded.points if self.recorded.file(point.decoding) in self._read]

    def fitting(self) -> list[Point]:
        """Every point whose records are there and fit, in test order, those of an earlier promise too."""
        return [
            point
            for point in self.recorded.points
            if (path := self.path(point.decoding)).is_file() and not self.recorded.misfit(path, point.decoding)
        ]

    def records(self, document: dict, rows: Iterable[int]) -> list[dict]:
        """Some of the records that were decoded so, pieces and all."""
        self.at(document)
        records = Records(self.path(document))
        return [records[row] for row in rows]

    def _check_order(self, path: Path, early: list, full: list) -> None:
        if full != early:
            where = next((i for i, (one, other) in enumerate(zip(full, early)) if one != other), min(len(full), len(early)))
            raise ValueError(
                f'{path}: record {where + 1} is not of the same example as in {self.path(self.recorded.full)} '
                f'({len(early)} and {len(full)} records); decode again with --checkpoint and --overwrite'
            )


def points_of(decoding: Decoding, thresholds: Sequence[float]) -> list[Decoding]:
    """The decoding at each λ, in test order. Raises ValueError where there is no exit that a λ is of, and for what is no λ."""
    if not isinstance(decoding, Decoding):
        raise TypeError(f'decoding is {decoding!r}; expected Decoding(…)')
    if decoding.exit is None:
        raise ValueError('the decoding has no exit whose threshold could be λ; pass Decoding(exit=Exit(measure))')
    return [
        dataclasses.replace(decoding, exit=dataclasses.replace(decoding.exit, threshold=threshold)) for threshold in thresholds
    ]


def numbered(points: Paths) -> list[tuple[int, Decoding]]:
    """(number of its path, decoding) of every point, path by path.

    Raises TypeError for what is no decoding, ValueError for a path without any.
    """
    paths = list(points)
    if not any(isinstance(each, Sequence) for each in paths):
        paths = [cast(Sequence[Decoding], paths)]
    flat = []
    for number, path in enumerate(paths):
        for each in path if isinstance(path, Sequence) else [path]:
            if not isinstance(each, Decoding):
                raise TypeError(f'a point is {each!r}; expected a Decoding: see points_of')
            flat.append((number, each))
        if not flat or flat[-1][0] != number:
            raise ValueError('points: expected one or more, in test order, found none')
    return flat


def point(model: Model, decoding: Decoding, path: int = 0) -> Point:
    """A way to decode, with its λ where an exit has one, as a point to test."""
    threshold = None if decoding.exit is None else float(decoding.exit.threshold)
    return Point(codec.to_json(model.resolve(decoding)), threshold, path=path)


def recorded_sweep(directory: str | os.PathLike, data: Records) -> Sweep:
    """The sweep of a folder whose records are all decoded.

    Raises FileNotFoundError for a folder without records; ValueError for records of other data, and for what is damaged.
    """
    directory = Path(directory)
    recorded = read(directory)
    if recorded.data['fingerprint'] != data.fingerprint():
        raise ValueError(
            f'{directory}: its records were decoded from other data than {", ".join(str(path) for path in data.paths)}'
        )

    def find(document: dict, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f'{path}: not decoded yet; pass --checkpoint to decode it')
        if names := recorded.misfit(path, document):
            raise ValueError(
                f'{path} was decoded otherwise than {directory / RECORDS} says ({", ".join(names)}); decode again with '
                '--checkpoint and --overwrite'
            )

    return Sweep(directory, recorded, find)


def decoding_sweep(
    model: Model,
    points: Paths,
    data: Records,
    source_field: str,
    directory: str | os.PathLike,
    *,
    batch_size: int,
    overwrite: bool = False,
    quiet: bool = True,
) -> Sweep:
    """The sweep of a folder whose records are decoded when they are asked for; those that are there and fit are kept.

    points: in test order, or several paths of them; full depth is that of the first. What prompts say of the day is as
    `dated_like` has it. Raises ValueError where the folder holds records that were decoded otherwise, unless they may be
    overwritten; and for points of different full depths.
    """
    directory = Path(directory)
    model = dated_like(model, directory, texts(data, Template(source_field)))
    recorded, decodings = _requested(model, points, data, source_field, batch_size)
    if (directory / RECORDS).exists() and not overwrite:
        if names := read(directory).otherwise(recorded):
            raise ValueError(
                f'{directory} holds records that were decoded otherwise ({", ".join(names)}); name another folder, or pass '
                '--overwrite'
            )
    directory.mkdir(parents=True, exist_ok=True)

    def provide(document: dict, path: Path) -> None:
        decode(document, path)
        if document == recorded.full:
            recorded.write(directory)  # only now: the records there are of this model

    def decode(document: dict, path: Path) -> None:
        partial = path.with_name(path.name + '.partial')
        fits = not recorded.misfit(partial if partial.exists() else path, document)
        if fits and path.exists() and not partial.exists():
            return
        started = path.exists() or partial.exists()
        replaced = overwrite and not fits
        if replaced:
            path.unlink(missing_ok=True)  # an interruption must not leave it under the header of the new one
        decode_file(
            model,
            decodings[path.name],
            data,
            source_field,
            path,
            batch_size=batch_size,
            quiet=quiet,
            resume=started and not replaced,
            overwrite=replaced,
        )

    return Sweep(directory, recorded, provide, decodings)


def dated_like(model: Model, directory: str | os.PathLike, inputs: Iterable[str]) -> Model:
    """The model at one date, if what it makes of the inputs depends on it: its own, or else that of the records in a folder, or
    in one inside it, or else now."""
    folders = [Path(directory), *(each for each in sorted(Path(directory).glob('*')) if each.is_dir())]
    date = next((date for each in folders if (date := recorded_date(each / FULL)) is not None), None)
    return model.dated(inputs, date)


def folder_name(model: Model, points: Paths, data: Records, source_field: str, batch_size: int) -> str:
    """A name for the folder of what `decoding_sweep` decodes: the fingerprint of the data, and of what else decides the records
    but λ, so that whatever finds records there finds them fit."""
    recorded, _ = _requested(model, points, data, source_field, batch_size)
    settings = {'settings': recorded.settings, 'full': recorded.full, **recorded.header({})}
    return f'{recorded.data["fingerprint"][:DIGITS]}_{codec.digest(settings)[:DIGITS]}'


def _requested(
    model: Model, points: Paths, data: Records, source_field: str, batch_size: int
) -> tuple[Recorded, dict[str, Decoding]]:
    """What a folder of records of these points says, and their decodings and full depth's by the name of the file.

    Raises ValueError for points of different full depths.
    """
    resolved = [(path, model.resolve(each)) for path, each in numbered(points)]
    full = {codec.digest(document): document for document in (codec.to_json(each.full()) for _, each in resolved)}
    if len(full) != 1:
        raise ValueError('the points differ in limits, choice, rules or seed; they need one full depth, which all have')
    recorded = Recorded(
        full=next(iter(full.values())),
        points=tuple(point(model, each, path) for path, each in resolved),
        sizes=model.config.sizes,
        fingerprints=model.fingerprints,
        data=data_of(data, source_field, texts(data, Template(source_field)), model.date),
        environment=environment(batch_size, model.pack_of(len(data), batch_size)),
    )
    return recorded, {recorded.file(codec.to_json(each)): each for _, each in [(0, resolved[0][1].full()), *resolved]}


def _decodes(path: Path) -> Decodes:
    """The records of a file, without what is for the eye: a sweep holds twenty runs of them."""
    ids, texts, numbers = [], [], []
    for where, line in jsonl.stream(path):
        record = checked(line, where)
        tokens = len(record['tokens'])
        ids.append(record['id'])
        texts.append(record['text'])
        numbers.append(
            (tokens, record['layers'], sum(record['exit_layers']) / max(1, tokens), record['flops'], record['flops_elbayad'])
        )
    columns = np.array(numbers, np.float64).reshape(-1, 5).T
    return Decodes(ids, texts, *columns)
