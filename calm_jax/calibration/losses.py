"""Losses: the numbers in [0, 1] that a guarantee is about, one row per example, one column per point."""

from collections.abc import Sequence

import numpy as np


def checked(losses, lowest: float = 0.0, name: str = 'losses') -> np.ndarray:
    """`losses` as float64, [n, m] or [n] as given.

    ValueError naming the first row and column that is outside [lowest, 1] or not a number.
    """
    try:
        array = np.asarray(losses, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f'{name}: expected a table of numbers, examples by points') from None
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f'{name}: expected at least one example and one point, found the shape {list(array.shape)}')
    outside = ~((array >= lowest) & (array <= 1))  # written so that NaN is outside
    if outside.any():
        raise ValueError(f'{name}: {_first(array, outside)}; expected a number in [{lowest:g}, 1]')
    return array


def check_binary(losses: np.ndarray, name: str = 'losses') -> None:
    """ValueError naming the first row and column that is neither 0 nor 1."""
    between = (losses != 0) & (losses != 1)
    if between.any():
        raise ValueError(
            f"{name}: {_first(losses, between)}; p-value 'binomial' is for losses 0 or 1, choose 'betting' for others"
        )


def _first(array: np.ndarray, marked: np.ndarray) -> str:
    """The first marked entry of a table [n, m] or column [n], in words."""
    index = tuple(int(i) for i in np.argwhere(marked)[0])
    place = ', '.join(f'{axis} {i}' for axis, i in zip(('row', 'column'), index))
    return f'{place} (counted from 0) is {array[index]:g}'


def signed_risk(differences, tolerance: float) -> tuple[np.ndarray, float]:
    """A signed risk difference and its tolerance, moved from [−1, 1] to [0, 1]: L = (d + 1)/2, tolerance (δ + 1)/2.

    d = R_early − R_full (CALM Definition 2), which CALM's Eq. (11) clips at 0. E[d] ≤ δ exactly when E[L] ≤ (δ + 1)/2,
    so testing L tests the stated hypothesis, and improvements pay for losses. L lies close around 1/2: only `betting`,
    which adapts to the variance, has power here. ValueError for a difference outside [−1, 1] or δ outside (−1, 1).
    """
    if not -1 < tolerance < 1:
        raise ValueError(f'tolerance of a signed difference: expected a number between -1 and 1, found {tolerance}')
    return (checked(differences, lowest=-1.0, name='differences') + 1) / 2, (tolerance + 1) / 2


def numbered(labels: Sequence, n: int, name: str) -> tuple[list, np.ndarray]:
    """The distinct labels in order of first appearance, and for each of n rows the number of its label, int [n]."""
    column = np.asarray(labels)
    if column.shape != (n,):
        raise ValueError(f'{name}: expected {n} labels, one per example, found the shape {list(column.shape)}')
    numbers: dict = {}
    inverse = np.array([numbers.setdefault(label, len(numbers)) for label in column.tolist()], dtype=np.int64)
    return list(numbers), inverse


def cluster_means(values, labels: Sequence) -> np.ndarray:
    """Means within clusters: values [n] or [n, m], labels [n] → [clusters] or [clusters, m], by first appearance.

    Questions about one paragraph are not independent, paragraphs are: the guarantee is then about the mean loss within
    a new paragraph, and paragraphs are counted. ValueError unless there is one label per row.
    """
    values = np.asarray(values, dtype=np.float64)
    clusters, inverse = numbered(labels, len(values), 'group_by')
    sums = np.zeros((len(clusters), *values.shape[1:]))
    np.add.at(sums, inverse, values)
    means = sums / np.bincount(inverse).reshape(-1, *[1] * (values.ndim - 1))
    return np.clip(means, values.min(axis=0), values.max(axis=0))  # rounding may not carry a mean out of its range
