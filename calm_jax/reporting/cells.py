"""Figures of cells: rows of whatever has plans, and a block of columns for each kind of sub-layer, filled as far as it runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from calm_jax.reporting.figures import add_legend
from calm_jax.reporting.palette import LIGHT

_LEVELS = 20  # shades of a share
_WIDTH = 0.88  # of a column, beside the gap to the next


class Block(NamedTuple):
    """A block of columns. shares: [rows, columns] in [0, 1]. names: of the columns; None: they are layers, from 1."""

    title: str
    shares: np.ndarray
    names: tuple[str, ...] | None = None


def draw(blocks: Sequence[Block], heights: Sequence[float], height: float) -> tuple[Figure, list[Axes]]:
    """The blocks side by side; rows are as high as they are told, downwards. height: of the figure, in inches."""
    figure = Figure(figsize=(4.8, height))
    ratios = [max(block.shares.shape[1], 3) for block in blocks]
    axes = list(figure.subplots(1, len(blocks), sharey=True, squeeze=False, width_ratios=ratios)[0])
    edges = np.concatenate([[0.0], np.cumsum(heights)])
    for each, block in zip(axes, blocks):
        _fill(each, block.shares, edges)
        columns = block.shares.shape[1]
        each.set_xlim(0.4, columns + 0.6)
        each.set_title('\n'.join(block.title.split(' ', 1)), loc='left', fontsize=8.5)
        each.grid(False)
        each.spines[:].set_visible(False)
        each.tick_params(length=0, labelsize=8)
        if block.names is None:
            each.xaxis.set_major_locator(MaxNLocator(nbins=min(6, columns), integer=True, min_n_ticks=1))
        else:
            each.set_xticks(range(1, columns + 1), block.names, rotation=90)
    axes[0].set_ylim(edges[-1], 0)
    return figure, axes


def legend(figure: Figure, filled: str, empty: str, between: str | None = None) -> None:
    """Says what a filled, an empty and a half-filled cell are."""
    handles: dict[str, Artist] = {filled: Patch(facecolor=LIGHT.series[0])}
    if between is not None:
        handles[between] = Patch(facecolor=LIGHT.series[0], alpha=0.5)
    add_legend(figure, {**handles, empty: Patch(facecolor=LIGHT.grid)})


def _fill(axes: Axes, shares: np.ndarray, edges: np.ndarray) -> None:
    """Cells that are alike and stand over one another are one rectangle, rectangles of one shade one path: pictures of many
    rows stay small."""
    columns = shares.shape[1]
    whole = [(column, 0.0, float(edges[-1])) for column in range(columns)]
    axes.add_patch(PathPatch(_rectangles(whole), facecolor=LIGHT.grid, linewidth=0))
    levels = np.rint(np.asarray(shares, np.float64) * _LEVELS).astype(int)
    changes = [np.flatnonzero(np.diff(levels[:, column], prepend=-1, append=-1)) for column in range(columns)]
    for level in sorted(set(levels.ravel().tolist()) - {0}):
        cells = [
            (column, float(edges[top]), float(edges[bottom]))
            for column in range(columns)
            for top, bottom in zip(changes[column], changes[column][1:])
            if levels[top, column] == level
        ]
        axes.add_patch(PathPatch(_rectangles(cells), facecolor=LIGHT.series[0], alpha=level / _LEVELS, linewidth=0))


def _rectangles(cells: Sequence[tuple[int, float, float]]) -> Path:
    """One path of the columns from top to bottom."""
    corners, codes = [], []
    for column, top, bottom in cells:
        left, right = column + 1 - _WIDTH / 2, column + 1 + _WIDTH / 2
        corners += [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(np.array(corners), codes)
