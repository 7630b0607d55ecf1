"""What all figures of a report share: how they are kept, styled and rendered.

Figures are matplotlib `Figure` objects made without pyplot and under settings of their own, so neither a user's
matplotlibrc changes them nor do they leave a trace in a user's session. They are drawn once, for a light page; the dark
version is the same drawing with every colour exchanged.
"""

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from calm_jax.reporting.numerals import deltas
from calm_jax.reporting.palette import DARK, LIGHT
from calm_jax.reporting.run import Curve, Trials
from calm_jax.reporting.sources import CutText

Hues = dict[str, int]

_MARKERS = ('o', 'D', '^', 'v', 'P', 'X')
_DASHES = ('-', (0, (6, 1.5)), (0, (3, 1)), (0, (1, 1)))


class Drawing(NamedTuple):
    """One figure: a stem for its file, a title, what it shows in words, and a function that draws it."""

    name: str
    title: str
    alt: str
    draw: Callable[[], Figure]


class Table(NamedTuple):
    """The numbers behind figures: a heading for each column, and rows whose first cell names the row."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str | float | bool | None, ...], ...]


class Panel(NamedTuple):
    """Figures that belong together, how to read them, findings to print in words, one table for all of them, and sources to
    print below."""

    title: str
    drawings: tuple[Drawing, ...]
    caption: str
    notes: tuple[str, ...]
    table: Table
    texts: tuple[CutText, ...] = ()


class Rendered(NamedTuple):
    """A drawing as SVG for light and dark pages (transparent, text as paths) and as PNG (200 dots per inch, light)."""

    light: bytes
    dark: bytes
    png: bytes


class Style(NamedTuple):
    """How one series is drawn."""

    colour: str
    marker: str
    dashes: str | tuple


def render(drawing: Drawing) -> Rendered:
    """The drawing's three files. The same drawing gives the same bytes: no date, no random identifiers."""
    with _own_settings():
        figure = drawing.draw()
        # Laid out once, here: a figure with an engine of its own is laid out, and drawn twice, by each savefig.
        ConstrainedLayoutEngine().execute(figure)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format='svg', transparent=True, metadata={'Date': None, 'Creator': None})
        figure.savefig(png, format='png', dpi=200, metadata={'Software': None})
    return Rendered(svg.getvalue(), _darkened(svg.getvalue()), png.getvalue())


def new_figure(rows: int, height: float, ratios: Sequence[float] | None = None) -> tuple[Figure, Sequence[Axes]]:
    """A figure of `rows` axes over one another, `height` inches high, that share their horizontal axis."""
    figure = Figure(figsize=(4.8, height))
    return figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0])


def head(axes: Axes, what: str) -> None:
    """Says what the vertical axis shows, flat above it, where it is read without turning one's head."""
    axes.set_title(what, loc='left')


def add_legend(figure: Figure, handles: dict[str, Artist]) -> None:
    """Names above the axes, in as many columns as their length leaves room for; the figure grows with their rows."""
    columns = max(1, int(340 / (38 + 5.6 * max(map(len, handles)))))  # points: the figure, a handle, a letter
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, -(-len(handles) // columns) - 2))
    # Passed one by one: matplotlib leaves out of its own legends whatever starts with an underscore.
    figure.legend(list(handles.values()), list(handles), loc='outside upper left', ncols=min(len(handles), columns))


def hues(curves: Sequence[Curve], trials: Sequence[Trials]) -> Hues:
    """A number for each measure, in the order they are first met, so that it looks the same in every figure."""
    labels = [each.label for each in (*curves, *trials) if getattr(each, 'kind', 'measure') == 'measure']
    return {label: place for place, label in enumerate(dict.fromkeys(labels))}


def styles(series: dict[str, Curve] | dict[str, Trials], hues: Hues) -> dict[str, Style]:
    """Colour, marker and dashes of each series; baselines and oracles stand back from the measures.

    Where one figure holds a colour twice, the second series is dashed.
    """
    result, used = {}, []
    for name, each in series.items():
        kind = getattr(each, 'kind', 'measure')
        if kind == 'static':
            result[name] = Style(LIGHT.muted, 's', (0, (4, 2)))
        elif kind == 'oracle':
            result[name] = Style(LIGHT.ink, 'h', (0, (1, 1.5)))
        else:
            hue = hues[each.label] % len(LIGHT.series)
            dashes = _DASHES[min(used.count(hue), len(_DASHES) - 1)]
            result[name] = Style(LIGHT.series[hue], _MARKERS[hue % len(_MARKERS)], dashes)
            used.append(hue)
    return result


def distinct_labels(series: Sequence[Curve | Trials]) -> list[str]:
    """The label of each, followed by objective and tolerance, and then by its folder, only where labels repeat."""
    labels = [each.label for each in series]
    if len(set(labels)) < len(labels):
        labels = [_full_label(each) if labels.count(each.label) > 1 else each.label for each in series]
    if len(set(labels)) < len(labels):
        labels = [
            f'{label} ({each.path.parent.as_posix()})' if labels.count(label) > 1 else label
            for label, each in zip(labels, series, strict=True)
        ]
    return labels


def without_empty_columns(table: Table) -> Table:
    """The table without the columns in which no row has anything."""
    keep = [index for index in range(len(table.headings)) if any(row[index] is not None for row in table.rows)]
    return Table(
        tuple(table.headings[index] for index in keep), tuple(tuple(row[index] for index in keep) for row in table.rows)
    )


def _full_label(each: Curve | Trials) -> str:
    tolerances = deltas(each.tolerances) if isinstance(each, Curve) else ''
    return ' '.join(filter(None, (each.label, each.objective, f'δ={tolerances}' if tolerances else '')))


def _darkened(svg: bytes) -> bytes:
    """The same picture in the dark theme's colours."""
    pairs = dict(zip(LIGHT.series, DARK.series))
    pairs |= {getattr(LIGHT, name): getattr(DARK, name) for name in LIGHT._fields if name != 'series'}
    return re.sub(r'#[0-9a-f]{6}\b', lambda found: pairs.get(found[0], found[0]), svg.decode('utf-8')).encode('utf-8')


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                'font.family': 'DejaVu Sans',
                'font.size': 9.5,
                'text.color': LIGHT.ink,
                'figure.facecolor': LIGHT.page,
                'axes.titlesize': 9.5,
                'axes.titlecolor': LIGHT.ink,
                'axes.titlepad': 8,
                'axes.labelcolor': LIGHT.ink,
                'axes.labelsize': 9.5,
                'axes.labelpad': 6,
                'axes.edgecolor': LIGHT.muted,
                'axes.linewidth': 0.8,
                'axes.spines.top': False,
                'axes.spines.right': False,
                'axes.facecolor': 'none',
                'axes.axisbelow': True,
                'axes.grid': True,
                'grid.color': LIGHT.grid,
                'grid.linewidth': 0.8,
                'xtick.color': LIGHT.muted,
                'xtick.labelcolor': LIGHT.ink,
                'xtick.labelsize': 9,
                'ytick.color': LIGHT.muted,
                'ytick.labelcolor': LIGHT.ink,
                'ytick.labelsize': 9,
                'legend.frameon': False,
                'legend.fontsize': 9,
                'legend.handlelength': 2.2,
                'legend.columnspacing': 1.4,
                'legend.borderaxespad': 0.2,
                # Labels are a user's text: a dollar sign in one is no formula.
                'text.parse_math': False,
                'svg.hashsalt': 'calm_jax',
                'svg.fonttype': 'path',
            }
        )
        yield
