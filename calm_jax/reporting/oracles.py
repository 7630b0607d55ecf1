"""Oracles over plans (Glavas et al. 2024, Figures 2 and 8–10): who gets which plan at each budget, what that scores, how much
of it is luck, and whether the choice goes by length."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from calm_jax.reporting.figures import Drawing, Panel, Table, add_legend, head, new_figure, without_empty_columns
from calm_jax.reporting.numerals import number, percent
from calm_jax.reporting.palette import LIGHT
from calm_jax.reporting.run import Allocation, Oracle

BIN = 15  # of lengths: the last bin holds whatever is longer
_MOST_ALLOCATIONS = 4
_PALEST, _DARKEST = 0.16, 0.8
_NORMAL = 1.96  # standard errors on either side of a 95% interval
_Values = Sequence[float | None] | np.ndarray
# Curves over budgets: name, colour, dashes, whether it is a stair.
_CURVES = {
    'oracle': ('oracle', LIGHT.series[1], '-', False),
    'greedy': ('greedy oracle', LIGHT.series[3], (0, (6, 1.5)), True),
    'informed': ('informed oracle', LIGHT.series[2], '-', False),
    'attainable': ('attainable oracle', LIGHT.series[2], (0, (1, 1)), False),
    'static': ('costliest plan', LIGHT.ink, (0, (1, 1.5)), True),
    'mixing': ('mixed at random', LIGHT.muted, (0, (4, 2)), False),
}
_ADVANTAGES = {
    'sampling_advantage': ('sampling: greedy − costliest plan', LIGHT.series[3], (0, (6, 1.5)), True),
    'allocation_advantage': ('allocation: oracle − greedy', LIGHT.series[1], '-', False),
}


def panels(oracles: Sequence[Oracle]) -> list[Panel]:
    """One panel for each file."""
    return [_panel(each, '' if len(oracles) == 1 else f'_{index + 1}') for index, each in enumerate(oracles)]


def _panel(oracle: Oracle, end: str) -> Panel:
    full, place = oracle.plans[-1], oracle.budgets.index(oracle.match)
    given = ', '.join(f'{plan.name} {percent(share)}' for plan, share in zip(oracle.plans, oracle.shares[place]))
    matched = (
        f'The oracle scores what {full.name} does ({number(full.score)}) with {number(oracle.match)} of {oracle.num_layers} '
        f'layers ({percent(oracle.match / oracle.num_layers)}): {given}.'
    )
    ends = f'Oracle: from {number(oracle.curves["oracle"][0])} to {number(oracle.curves["oracle"][-1])}.'
    drawings = [
        Drawing(
            f'oracle_shares{end}',
            'Who gets which plan, by budget',
            f'Stacked areas: the share of texts that an oracle gives each plan, by budget of mean layers, with the '
            f'{oracle.metric} that it comes to. {matched}',
            partial(_draw_shares, oracle),
        ),
        Drawing(
            f'oracle_advantages{end}',
            'What choosing by text gains',
            f'Line charts by budget of mean layers: {oracle.metric} of oracles and plans, and the advantages. {ends}',
            partial(_draw_advantages, oracle),
        ),
        Drawing(
            f'oracle_lengths{end}',
            'Who gets which plan, by length',
            f'Stacked bars: the share of texts of each length that have each plan. {" ".join(map(_test, oracle.allocations))}',
            partial(_draw_lengths, oracle),
        ),
    ]
    if oracle.by_tokens is not None:
        drawings.append(
            Drawing(
                f'oracle_tokens{end}',
                'The same where long outputs cost more',
                f'Line chart: {oracle.metric} by budget of layers times tokens. It matches {full.name} at '
                f'{number(oracle.by_tokens.match)} layers × tokens.',
                partial(_draw_tokens, oracle),
            )
        )
    return Panel(
        title=f'{oracle.label}: {oracle.metric}, {oracle.texts:,} texts, {oracle.num_layers} decoder layers',
        drawings=tuple(drawings),
        caption=_caption(oracle),
        notes=(matched, *_notes(oracle)),
        table=_table(oracle),
    )


def _caption(oracle: Oracle) -> str:
    caption = (
        'The oracle sees the scores that it chooses by, so that part of its advantage is luck. The greedy oracle, which gives '
        'each text the best plan within the budget, has the luck without moving layers from text to text; the costliest plan '
        'within the budget has neither. Dots are plans for all texts, mixed at random is what drawing among them comes to; the '
        f'star is where the oracle scores what {oracle.plans[-1].name} does.'
    )
    if 'attainable' in oracle.curves:
        caption += (
            ' The attainable oracle chooses by one output of each plan and is scored by another, so that luck is gone; the '
            'informed one chooses by what the scores of one predict of the other. They stand at what the other costs; '
            'the band holds 95% for the mean over texts.'
        )
    return caption


def _notes(oracle: Oracle) -> list[str]:
    notes = [] if not oracle.gap else [f'The oracle by layers is within {number(oracle.gap)} of the best at each budget.']
    notes += [_test(each) for each in oracle.allocations if each.p_value is not None]
    if oracle.by_tokens is not None:
        notes.append(f'By layers × tokens the oracle is within {number(oracle.by_tokens.gap)} of its hull.')
        notes += [
            f'At {number(budget, 4)} layers × tokens the best is {number(score, 5)}'
            + (f', or up to {number(bound, 5)}.' if bound > score else '.')
            for budget, score, bound in oracle.by_tokens.settled
        ]
    return notes


def _test(allocation: Allocation) -> str:
    at = f'At {number(allocation.budget)} layers'
    if allocation.p_value is None or allocation.statistic is None:
        return f'{at} there is one plan, or one bin.'
    return (
        f'{at}, plans by length: χ² {number(allocation.statistic, 4)} at {allocation.degrees} degrees of freedom, '
        f'p = {number(allocation.p_value, 2)}.'
    )


def _shades(count: int) -> list[float]:
    """How dark each plan is, the deeper the darker."""
    return [float(each) for each in np.linspace(_PALEST, _DARKEST, count)]


def _patches(oracle: Oracle) -> dict[str, Artist]:
    return {
        plan.name: Patch(facecolor=LIGHT.series[0], alpha=shade, linewidth=0)
        for plan, shade in zip(oracle.plans, _shades(len(oracle.plans)))
    }


def _draw_shares(oracle: Oracle) -> Figure:
    figure, (axes,) = new_figure(1, height=3.8)
    below = np.zeros(len(oracle.budgets))
    for column, shade in zip(np.array(oracle.shares).T, _shades(len(oracle.plans))):
        axes.fill_between(oracle.budgets, below, below + column, color=LIGHT.series[0], alpha=shade, linewidth=0)
        below = below + column
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(False)
    head(axes, 'texts by plan')
    scores = axes.twinx()
    scores.grid(False)
    scores.tick_params(axis='y', length=3)
    scores.set_title(oracle.metric, loc='right')
    handles = _patches(oracle)
    (handles['oracle'],) = scores.plot(oracle.budgets, _numbers(oracle.curves['oracle']), color=LIGHT.series[1], linewidth=2)
    _mark(scores, oracle, handles, [plan.layers for plan in oracle.plans], oracle.match)
    _layers(axes, oracle)
    add_legend(figure, handles)
    return figure


def _mark(axes: Axes, oracle: Oracle, handles: dict[str, Artist], costs: _Values, match: float) -> None:
    """Plans for all texts at their costs, the full one's score as a line, and the star where the oracle has it."""
    full = oracle.plans[-1]
    axes.axhline(full.score, color=LIGHT.muted, linewidth=0.9, linestyle=(0, (5, 3)), zorder=2)
    (handles['one plan for all'],) = axes.plot(
        _numbers(costs),
        [plan.score for plan in oracle.plans],
        linestyle='none',
        marker='o',
        markersize=6,
        color=LIGHT.ink,
        markeredgecolor=LIGHT.page,
        clip_on=False,
        zorder=5,
    )
    handles[f'oracle = {full.name}'] = _star(axes, match, full.score)


def _star(axes: Axes, budget: float, score: float) -> Line2D:
    (star,) = axes.plot(
        [budget],
        [score],
        linestyle='none',
        marker='*',
        markersize=13,
        color=LIGHT.series[4],
        markeredgecolor=LIGHT.ink,
        markeredgewidth=0.8,
        zorder=6,
    )
    return star


def _draw_advantages(oracle: Oracle) -> Figure:
    figure, (scores, gains) = new_figure(2, height=5.2, ratios=(3, 2))
    handles = {}
    for key, (name, colour, dashes, stair) in _CURVES.items():
        if key in oracle.curves:
            across = oracle.curves.get(f'{key}_layers', oracle.budgets)
            handles[name] = _line(scores, across, oracle.curves[key], colour, dashes, stair)
    _mark(scores, oracle, handles, [plan.layers for plan in oracle.plans], oracle.match)
    head(scores, oracle.metric)
    for key, (name, colour, dashes, stair) in _ADVANTAGES.items():
        line = _line(gains, oracle.budgets, oracle.curves[key], colour, dashes, stair)
        line.set_label(name)
    if 'informed_advantage' in oracle.curves:
        across, gain, error = (_numbers(oracle.curves[f'informed_{each}']) for each in ('layers', 'advantage', 'error'))
        order = np.argsort(across, kind='stable')
        low, high = gain - _NORMAL * error, gain + _NORMAL * error
        gains.fill_between(across[order], low[order], high[order], color=LIGHT.series[2], alpha=_PALEST, linewidth=0)
        line = _line(gains, across, gain, LIGHT.series[2], '-', False)
        line.set_label('informed oracle − mixed at random')
    gains.axhline(0, color=LIGHT.muted, linewidth=0.8)
    gains.legend(loc='best')
    head(gains, f'advantage in {oracle.metric}')
    _layers(gains, oracle, margin=0.012)
    add_legend(figure, handles)
    return figure


def _line(axes: Axes, across: _Values, up: _Values, colour: str, dashes, stair: bool) -> Line2D:
    style = 'steps-post' if stair else 'default'
    (line,) = axes.plot(_numbers(across), _numbers(up), color=colour, linestyle=dashes, linewidth=1.7, drawstyle=style)
    return line


def _draw_lengths(oracle: Oracle) -> Figure:
    allocations = sorted(oracle.allocations[:_MOST_ALLOCATIONS], key=lambda each: each.budget)
    figure, axes = new_figure(len(allocations), height=1.5 + 1.6 * len(allocations))
    for each, allocation in zip(axes, allocations):
        counts = np.array(allocation.counts, float)
        totals = counts.sum(axis=1)
        places, below = np.flatnonzero(totals), np.zeros(len(totals))
        for column, shade in zip(counts.T, _shades(len(oracle.plans))):
            share = np.divide(column, totals, out=np.zeros_like(column), where=totals > 0)
            each.bar(places, share[places], 0.84, bottom=below[places], color=LIGHT.series[0], alpha=shade, linewidth=0)
            below += share
        for place in places:
            each.annotate(f'{totals[place]:,.0f}', (place, 1), (0, 2), textcoords='offset points', ha='center', fontsize=6.5)
        each.set_ylim(0, 1.08)
        each.set_yticks([0, 0.5, 1])
        each.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        each.grid(False)
        each.spines['left'].set_bounds(0, 1)
        tested = '' if allocation.p_value is None else f', p = {number(allocation.p_value, 2)}'
        head(each, f'texts by plan at {number(allocation.budget)} layers{tested}')
    bins = len(allocations[0].counts)
    drawn = 1 + max((place for place in range(bins) if any(sum(each.counts[place]) for each in allocations)), default=0)
    names = [f'{BIN * place + 1}–{BIN * (place + 1)}' for place in range(bins - 1)] + [f'> {BIN * (bins - 1)}']
    axes[-1].set_xticks(range(drawn), names[:drawn], rotation=40, ha='right', rotation_mode='anchor')
    axes[-1].set_xlim(-0.6, drawn - 0.4)
    unit = 'words of the reference' if oracle.lengths_of == 'reference' else f'tokens that {oracle.plans[-1].name} generates'
    axes[-1].set_xlabel(f'length in {unit}')
    add_legend(figure, _patches(oracle))
    return figure


def _draw_tokens(oracle: Oracle) -> Figure:
    tokens = oracle.by_tokens
    assert tokens is not None
    figure, (axes,) = new_figure(1, height=3.6)
    handles: dict[str, Artist] = {'oracle': _line(axes, tokens.budgets, tokens.hull, LIGHT.series[1], '-', False)}
    handles['mixed at random'] = _line(axes, tokens.budgets, tokens.mixing, LIGHT.muted, (0, (4, 2)), False)
    _mark(axes, oracle, handles, [plan.layer_tokens for plan in oracle.plans], tokens.match)
    head(axes, oracle.metric)
    axes.set_xlabel('mean layers × tokens per text')
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8))
    axes.xaxis.set_major_formatter(EngFormatter(sep=' '))
    add_legend(figure, handles)
    return figure


def _layers(axes: Axes, oracle: Oracle, margin: float = 0.0) -> None:
    """The axis of budgets; margin: beyond its ends, as a share of its length."""
    low, high = oracle.budgets[0], oracle.budgets[-1]
    beyond = margin * (high - low) if high > low else 0.5
    axes.set_xlabel('budget: mean decoder layers per text')
    axes.set_xlim(low - beyond, high + beyond)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=oracle.num_layers > 4))


def _numbers(values: _Values) -> np.ndarray:
    return np.array([np.nan if each is None else each for each in values], float)


def _table(oracle: Oracle) -> Table:
    """A row for each budget that has a name."""
    columns = {
        'costliest plan': 'static',
        'mixed': 'mixing',
        'greedy': 'greedy',
        'oracle': 'oracle',
        'attainable': 'attainable',
        'informed': 'informed',
        'sampling advantage': 'sampling_advantage',
        'allocation advantage': 'allocation_advantage',
        'informed − mixed': 'informed_advantage',
        'standard error': 'informed_error',
    }
    columns = {heading: name for heading, name in columns.items() if name in oracle.curves}
    places = [place for place, budget in enumerate(oracle.budgets) if budget in (*oracle.named, oracle.match)]
    rows = tuple(
        (
            f'{number(oracle.budgets[place], 4)}{" (match)" if oracle.budgets[place] == oracle.match else ""}',
            *(oracle.curves[name][place] for name in columns.values()),
            *(percent(share) for share in oracle.shares[place]),
        )
        for place in places
    )
    return without_empty_columns(Table(('layers', *columns, *(f'texts with {plan.name}' for plan in oracle.plans)), rows))
