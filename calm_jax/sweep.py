"""One data set decoded at full depth and at one λ after another, every run kept as a file of records. With the files at hand
everything recomputes without a model."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from calm_jax.data import jsonl
from calm_jax.data.record_schema import checked


class Sweep:
    """The records of a directory.

    provide: (λ, path) → None, sees to it that the file holds the records at this λ (1.0: full depth); raises where it
    cannot, as FileNotFoundError for a λ that is not there and cannot be decoded.
    """

    def __init__(self, directory: str | os.PathLike, provide: Callable[[float, Path], None]):
        self.directory, self._provide = Path(directory), provide
        self._read: dict[float, list[dict]] = {}

    def at(self, threshold: float) -> list[dict]:
        """The records at λ, in input order; λ = 1 is the full model."""
        if threshold not in self._read:
            path = self.path(threshold)
            self._provide(threshold, path)
            # Pieces are for the eye; a sweep holds twenty runs of them.
            self._read[threshold] = [
                {name: value for name, value in checked(record, where).items() if name != 'pieces'}
                for where, record in jsonl.stream(path)
            ]
            self._check_order(threshold, path)
        return self._read[threshold]

    def _check_order(self, threshold, path):
        """Losses compare record by record: those at λ must be of the same examples as the full model's."""
        if threshold >= 1:
            return
        full, early = ([record['id'] for record in self.at(each)] for each in (1.0, threshold))
        if full != early:
            where = next((i for i, (one, other) in enumerate(zip(full, early)) if one != other), min(len(full), len(early)))
            raise ValueError(
                f'{path}: record {where + 1} is not of the same example as in {self.path(1.0)} ({len(early)} and '
                f'{len(full)} records); decode again with --checkpoint and --overwrite'
            )

    def first(self, threshold: float, count: int) -> list[dict]:
        """The first records at λ, pieces and all."""
        self.at(threshold)
        return [record for _, (_, record) in zip(range(count), jsonl.stream(self.path(threshold)))]

    def path(self, threshold: float) -> Path:
        """Where the records at λ are kept: every λ has a file of its own, named by its shortest exact decimal."""
        return self.directory / ('full.jsonl' if threshold >= 1 else f'lambda_{float(threshold)!r}.jsonl')

    @property
    def asked(self) -> list[float]:
        """The λ below 1 that have been asked for, descending."""
        return sorted((threshold for threshold in self._read if threshold < 1), reverse=True)

    def texts(self, threshold: float) -> list[str]:
        return [record['text'] for record in self.at(threshold)]

    def layers(self, threshold: float) -> np.ndarray:
        """Mean layers per token of each example, [n]."""
        return np.array([record['layers'] for record in self.at(threshold)])
