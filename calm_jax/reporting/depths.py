"""What each layer knows (Not all FLOPs): ranks of the final token as boxes, and confidence against accuracy."""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from calm_jax.reporting.figures import Drawing, Panel, Table, add_legend, head, new_figure
from calm_jax.reporting.numerals import number, percent
from calm_jax.reporting.palette import LIGHT
from calm_jax.reporting.run import Confidences, Ranks

_RANKING = {'auc': 'right first', 'auc_whole': 'right first, over all ids'}
_MARKERS = ('o', 'D', '^', 'v', 'P', 'X')


def panels(ranks: Sequence[Ranks], confidences: Sequence[Confidences]) -> list[Panel]:
    """One panel for all ranks, and one for each measure's confidence, models side by side in both."""
    found = [_ranks_panel(ranks)] if ranks else []
    by_measure = [list(group) for _, group in groupby(sorted(confidences, key=_measure), key=_measure)]
    return found + [
        _confidence_panel(group, f'confidence_{index + 1}' if len(by_measure) > 1 else 'confidence')
        for index, group in enumerate(by_measure)
    ]


def _measure(confidences: Confidences) -> str:
    return confidences.measure


def _ranks_panel(ranks: Sequence[Ranks]) -> Panel:
    rows = tuple(
        (f'{each.label}, layer {layer + 1}', percent(first), *map(number, quantiles))
        for each in ranks
        for layer, (first, quantiles) in enumerate(zip(each.first, each.quantiles, strict=True))
    )
    shares = ' '.join(f'{each.label}: first for {percent(each.first[0])} of tokens after one layer.' for each in ranks)
    return Panel(
        title='Rank of the final token at each layer',
        drawings=(
            Drawing(
                'ranks',
                'Where each layer ranks the token that the last layer says',
                f'Box plots of ranks by layer, on a logarithmic scale. {shares}',
                partial(_draw_ranks, ranks),
            ),
        ),
        caption='Boxes hold the middle half of all tokens, whiskers 90% of them. Where they are low, few ids need to be kept.',
        notes=(),
        table=Table(('layer', 'first', '5%', '25%', 'median', '75%', '95%'), rows),
    )


def _draw_ranks(ranks: Sequence[Ranks]) -> Figure:
    figure, (axes,) = new_figure(1, height=3.4)
    handles, width = {}, 0.7 / len(ranks)
    for index, each in enumerate(ranks):
        colour = LIGHT.series[index % len(LIGHT.series)]
        boxes: list[dict[str, Any]] = [
            dict(zip(('whislo', 'q1', 'med', 'q3', 'whishi'), quantiles, strict=True)) for quantiles in each.quantiles
        ]
        places = [layer + 1 + (index - (len(ranks) - 1) / 2) * width for layer in range(len(boxes))]
        line = {'color': colour, 'linewidth': 1.2}
        drawn = axes.bxp(
            boxes,
            positions=places,
            widths=0.8 * width,
            showfliers=False,
            patch_artist=True,
            whiskerprops=line,
            capprops=line,
            boxprops={'facecolor': LIGHT.page, 'edgecolor': colour, 'linewidth': 1.2},
            medianprops={'color': colour, 'linewidth': 2.4},
            manage_ticks=False,
        )
        handles[each.label] = drawn['boxes'][0]
    axes.set_yscale('log')
    axes.set_ylim(0.8, 1.3 * max(2, *(quantiles[-1] for each in ranks for quantiles in each.quantiles)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    head(axes, 'rank among all ids, from 1')
    _layers(axes)
    add_legend(figure, handles)
    return figure


def _confidence_panel(group: Sequence[Confidences], name: str) -> Panel:
    ranks = [name for name in _RANKING if any(getattr(each, name) for each in group)]
    rows = tuple(
        (f'{each.label}, layer {layer + 1}', sure, right, percent(unlike), *(_at(getattr(each, name), layer) for name in ranks))
        for each in group
        for layer, (sure, right, unlike) in enumerate(zip(each.confidence, each.accuracy, each.unlike, strict=True))
    )
    ends = ' '.join(
        f'{each.label}: confidence {number(each.confidence[0])} and accuracy {number(each.accuracy[0])} after one layer.'
        for each in group
    )
    return Panel(
        title=f'Confidence and accuracy: {group[0].measure}',
        drawings=(
            Drawing(
                name, 'How sure each layer is, and how right', f'Line chart by layer. {ends}', partial(_draw_confidence, group)
            ),
        ),
        caption='Accuracy: what would be said at the layer is the last layer’s token. Confidence far above it is where leaving '
        'early goes wrong. Unlike: pruning or a contrast changes what is said.'
        + (' Right first: of a right and a wrong token, how often the right one has the higher confidence.' if ranks else ''),
        notes=(),
        table=Table(('layer', 'confidence', 'accuracy', 'unlike', *(_RANKING[name] for name in ranks)), rows),
    )


def _at(column: Sequence[float | None], layer: int) -> float | None:
    return column[layer] if column else None


def _draw_confidence(group: Sequence[Confidences]) -> Figure:
    figure, (axes,) = new_figure(1, height=3.4)
    handles = {}
    for index, each in enumerate(group):
        style = {'color': LIGHT.series[index % len(LIGHT.series)], 'marker': _MARKERS[index % len(_MARKERS)], 'markersize': 4.5}
        layers = range(1, len(each.confidence) + 1)
        name = f'{each.label}: ' if len(group) > 1 else ''
        (handles[f'{name}confidence'],) = axes.plot(layers, each.confidence, linestyle=(0, (4, 2)), linewidth=1.4, **style)
        (handles[f'{name}accuracy'],) = axes.plot(layers, each.accuracy, linewidth=1.8, **style)
    axes.set_ylim(-0.02, 1.02)
    head(axes, 'mean over tokens')
    _layers(axes)
    add_legend(figure, handles)
    return figure


def _layers(axes) -> None:
    axes.set_xlabel('layer')
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
