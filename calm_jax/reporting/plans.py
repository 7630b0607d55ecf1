"""Plans of a decoded file: how often each sub-layer is skipped, every text's plan as a row, which source tokens stay."""

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from scipy.cluster.hierarchy import leaves_list, linkage

from calm_jax.reporting import cells
from calm_jax.reporting.figures import Drawing, Panel, Table, add_legend, head, new_figure
from calm_jax.reporting.numerals import percent
from calm_jax.reporting.palette import LIGHT
from calm_jax.reporting.run import Plans
from calm_jax.reporting.sources import printed

MOST = 300  # different plans that are drawn
_HATCHES = ('', '////', '....')


def panels(files: Sequence[Plans]) -> list[Panel]:
    """Of each file one panel of sub-layers, and one of source tokens where a choice of them is named or any are dropped."""
    panels_of_files = []
    for index, each in enumerate(files):
        end = '' if len(files) == 1 else f'_{index + 1}'
        panels_of_files.append(_sub_layer_panel(each, end))
        if each.choices or each.cut:
            panels_of_files.append(_source_panel(each, end))
    return panels_of_files


def _texts(plans: Plans) -> int:
    return sum(count for _, count in plans.counts)


def skip_rates(plans: Plans) -> dict[str, list[float]]:
    """By kind of sub-layer the share of texts that skip it, of each layer."""
    total = _texts(plans)
    return {
        name: [sum(count for runs, count in plans.counts if runs[kind][layer] == '0') / total for layer in range(layers)]
        for kind, (name, layers) in enumerate(plans.sub_layers)
    }


def _sub_layer_panel(plans: Plans, end: str) -> Panel:
    rates = skip_rates(plans)
    depth = max(map(len, rates.values()))
    means = [f'{name}: {percent(sum(each) / len(each))} skipped.' for name, each in rates.items()]
    texts, different = _texts(plans), len(plans.counts)
    drawn = '' if different <= MOST else f', of which {MOST} are drawn'
    return Panel(
        title=f'{plans.path.as_posix()}: {plans.label}',
        drawings=(
            Drawing(
                f'plans_skipped{end}',
                'How often each sub-layer is skipped',
                ' '.join(['Bar chart: the share of texts that skip it, by layer.', *means]),
                partial(_draw_rates, rates),
            ),
            Drawing(
                f'plans_texts{end}',
                'The plan of every text, a row each',
                f'Grid: a row for each of {texts:,} texts, a column for each layer, like plans next to each other. '
                f'{different:,} different plans.',
                partial(_draw_plans, plans),
            ),
        ),
        caption='Attention in a decoder is self- and cross-attention together, unless both are listed. The layers that a plan '
        'maker reads after always run. Rows of the grid are sorted by likeness, plans that run much first.',
        notes=(f'{texts:,} texts, {different:,} different plans{drawn}.', ' '.join(means)),
        table=Table(
            ('layer', *(f'skipped, {name}' for name in rates)),
            tuple(
                (str(layer + 1), *(percent(each[layer]) if layer < len(each) else None for each in rates.values()))
                for layer in range(depth)
            ),
        ),
    )


def _draw_rates(rates: dict[str, list[float]]) -> Figure:
    stacks = {stack: list(group) for stack, group in itertools.groupby(rates, key=lambda name: name.partition(' ')[0])}
    figure, axes = new_figure(len(stacks), height=1.2 + 1.6 * len(stacks))
    handles, depth = {}, max(map(len, rates.values()))
    for each, (stack, names) in zip(axes, stacks.items()):
        width = 0.8 / len(names)
        for place, name in enumerate(names):
            layers = np.arange(1, len(rates[name]) + 1) + (place - (len(names) - 1) / 2) * width
            bars = each.bar(
                layers,
                rates[name],
                0.92 * width,
                facecolor=LIGHT.series[place] if not place else LIGHT.page,
                edgecolor=LIGHT.series[place],
                hatch=_HATCHES[place],
                linewidth=0.9,
            )
            handles.setdefault(name.partition(' ')[2], bars)
        each.set_ylim(0, 1.02)
        each.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        each.grid(False, axis='x')
        head(each, f'texts that skip it, {stack}')
    axes[-1].set_xlim(0.4, depth + 0.6)
    axes[-1].set_xlabel('layer')
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    add_legend(figure, handles)
    return figure


def by_likeness(runs: np.ndarray) -> np.ndarray:
    """An order of different plans, bool [n, sub-layers], in which like ones are neighbours; that end first which runs more."""
    if len(runs) < 3:
        order = np.arange(len(runs))
    else:
        order = leaves_list(linkage(runs.astype(float), 'average', metric='cityblock', optimal_ordering=True))
    sizes = runs[order].sum(axis=1)
    half = len(order) // 2
    return order[::-1] if sizes[:half].sum() < sizes[len(sizes) - half :].sum() else order


def _draw_plans(plans: Plans) -> Figure:
    chosen = plans.counts
    if len(chosen) > MOST:
        chosen = [chosen[place] for place in np.rint(np.linspace(0, len(chosen) - 1, MOST)).astype(int)]
    runs = np.array([[layer == '1' for layer in ''.join(each)] for each, _ in chosen])
    order = by_likeness(runs)
    heights = [chosen[place][1] for place in order]
    ends = np.cumsum([layers for _, layers in plans.sub_layers])
    blocks = [cells.Block(name, runs[order][:, last - layers : last]) for (name, layers), last in zip(plans.sub_layers, ends)]
    figure, axes = cells.draw(blocks, heights, height=4.2)
    axes[0].yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
    axes[0].set_ylabel('texts')
    figure.supxlabel('layer', fontsize=9.5)
    cells.legend(figure, 'runs', 'skipped')
    return figure


def _source_panel(plans: Plans, end: str) -> Panel:
    total = sum(plans.choices.values())
    shares = {name: count / total for name, count in plans.choices.items()}
    drawings = ()
    if shares:
        alt = ' '.join(f'{name}: {percent(share)}.' for name, share in shares.items())
        drawings = (
            Drawing(
                f'plans_choices{end}',
                'What is dropped of the sources',
                f'Bar chart: the share of texts by what the plan drops. {alt}',
                partial(_draw_choices, shares),
            ),
        )
    return Panel(
        title=f'Source tokens: {plans.path.as_posix()}',
        drawings=drawings,
        caption='What a choice comes to is rounded in favour of the tokens, and the first, the last and those that end or '
        'separate texts are never dropped: of a short source a small share is nothing.',
        notes=(),
        table=Table(
            ('dropped', 'texts', 'share'), tuple((name, count, percent(shares[name])) for name, count in plans.choices.items())
        ),
        texts=tuple(printed(each) for each in plans.cut),
    )


def _draw_choices(shares: dict[str, float]) -> Figure:
    figure, (axes,) = new_figure(1, height=0.9 + 0.27 * len(shares))
    places = range(len(shares))
    axes.barh(places, list(shares.values()), 0.7, color=LIGHT.series[0])
    for place, share in zip(places, shares.values()):
        axes.annotate(percent(share), (share, place), (4, 0), textcoords='offset points', va='center', fontsize=9)
    axes.set_yticks(places, list(shares))
    axes.tick_params(axis='y', length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(shares.values()))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(False, axis='y')
    head(axes, 'share of texts, by what is dropped')
    return figure
