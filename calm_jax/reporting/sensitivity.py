"""Sensitivity (CALM, Fig. 2a): the score of a whole output after one token was disturbed, by that token's position."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from calm_jax.reporting.figures import Drawing, Panel, Table, add_legend, head, new_figure
from calm_jax.reporting.numerals import number
from calm_jax.reporting.palette import LIGHT
from calm_jax.reporting.run import Sensitivity

_SERIES = (('sampled token', 'sampling', LIGHT.series[1], 'D'), ('first layer’s token', 'layer', LIGHT.series[0], 'o'))


def panels(sensitivities: Sequence[Sensitivity]) -> list[Panel]:
    """One panel for each file."""
    return [
        Panel(
            title=f'{each.metric} of the whole output',
            drawings=(
                Drawing(
                    'sensitivity' if len(sensitivities) == 1 else f'sensitivity_{index + 1}',
                    'What one disturbed token costs, by its position',
                    _alt(each),
                    partial(_draw, each),
                ),
            ),
            caption='One token is replaced by a low-ranked sample, or by the first layer’s prediction; all others come '
            'from the full model.',
            notes=(),
            table=Table(
                ('position', *(name for name, *_ in _SERIES)),
                tuple(zip(each.positions, each.sampling, each.layer, strict=True)),
            ),
        )
        for index, each in enumerate(sensitivities)
    ]


def _draw(sensitivity: Sensitivity) -> Figure:
    figure, (axes,) = new_figure(1, height=3.4)
    handles = {}
    for name, key, colour, marker in _SERIES:
        (handles[name],) = axes.plot(
            sensitivity.positions, getattr(sensitivity, key), color=colour, marker=marker, markersize=4.5, linewidth=1.6
        )
    head(axes, f'{sensitivity.metric} against the undisturbed output')
    axes.set_xlabel('position of the disturbed token')
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    add_legend(figure, handles)
    return figure


def _alt(sensitivity: Sensitivity) -> str:
    ends = [
        f'{name}: from {number(getattr(sensitivity, key)[0])} to {number(getattr(sensitivity, key)[-1])}.'
        for name, key, *_ in _SERIES
    ]
    first, last = sensitivity.positions[0], sensitivity.positions[-1]
    return ' '.join(
        [
            f'Line chart: {sensitivity.metric} against the position of the disturbed token, {number(first)} to {number(last)}.',
            *ends,
        ]
    )
