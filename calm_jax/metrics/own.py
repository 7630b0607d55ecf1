"""A metric of one's own: a function of predictions and references with a value in [0, 1] for each example."""

import dataclasses
import hashlib
import inspect
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class OwnMetric:
    """A function (predictions, references) → [B], checked at each call.

    predictions: B texts; references: for each at least one text. The values are finite and in [0, 1], 1 the best.
    Raises TypeError for what cannot be called, ValueError for a function that no file defines.
    """

    function: Callable[[Sequence[str], Sequence[Sequence[str]]], Any]

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f'metric is {self.function!r}; expected a name, or a function (predictions, references) → [B]')
        if not hasattr(self.function, '__qualname__'):
            raise TypeError(f'metric is {self.function!r}; expected a function that has a name')
        self._file()

    @property
    def name(self) -> str:
        """package.module:function; of a script that is being run, the name that it would be imported by."""
        module = self._file().stem if self.function.__module__ == '__main__' else self.function.__module__
        return f'{module}:{self.function.__qualname__}'

    @property
    def version(self) -> str:
        """What a value depends on: the name, and SHA-256 of the file that defines the function."""
        return f'{self.name}, source {hashlib.sha256(self._file().read_bytes()).hexdigest()}'

    def __call__(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """Values, float64 [B]. Raises ValueError in one line where the function raises, and for what is no value for each
        example, NaN or outside [0, 1]. Of no texts nothing is asked: where no output has changed there is none to compare."""
        if not len(predictions):
            return np.zeros(0)
        try:
            values = self.function(list(predictions), [list(texts) for texts in references])
        except Exception as error:  # whatever it is: it is the function's
            raise ValueError(f'metric {self.name} raised {type(error).__name__}: {error}') from error
        if values is None:
            raise ValueError(f'metric {self.name}: returned None for {len(predictions)} examples; expected one number for each')
        try:
            array = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f'metric {self.name}: returned what is no list of numbers; expected one for each example'
            ) from None
        if array.shape != (len(predictions),):
            raise ValueError(
                f'metric {self.name}: returned the shape {list(array.shape)} for {len(predictions)} examples; '
                f'expected [{len(predictions)}], one number for each'
            )
        outside = np.flatnonzero(~((array >= 0) & (array <= 1)))
        if outside.size:
            raise ValueError(
                f'metric {self.name}: {array[outside[0]]} for example {outside[0]} (from 0); expected numbers in [0, 1]'
            )
        return array

    def _file(self) -> pathlib.Path:
        try:
            path = pathlib.Path(inspect.getfile(self.function))
        except (TypeError, OSError):
            path = None
        if path is None or not path.is_file():
            name = self.function.__qualname__
            raise ValueError(f'metric {name} is defined in no file; put it in a module, so that its source can be told')
        return path
