"""Thresholds to test, from the confidences of other data than is calibrated on."""

import numpy as np


def quantile_grid(confidence: np.ndarray, count: int = 20) -> list[float]:
    """`count` thresholds in (0, 1), descending: evenly spaced quantiles of the confidences, whatever their shape.

    Rounded to six decimals; equal ones appear once, so there may be fewer. Raises ValueError when none lies in (0, 1).
    """
    if not confidence.size:
        raise ValueError('no token of the grid data has a layer to leave at: lower --min_exit_layer, or pass --grid instead')
    levels = np.arange(count, 0, -1) / (count + 1)
    values = np.unique(np.round(np.quantile(confidence.astype(np.float64), levels), 6))
    grid = [float(value) for value in values[::-1] if 0 < value < 1]
    if not grid:
        raise ValueError('every confidence on the grid data is 0 or 1: no thresholds between them; pass --grid instead')
    return grid
