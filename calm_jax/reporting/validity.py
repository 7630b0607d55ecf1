"""Validity (CALM, Fig. B.1–B.2): empirical risk against the tolerance, above what is paid for it in layers."""

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, StrMethodFormatter

from calm_jax.reporting.figures import (
    Drawing,
    Hues,
    Panel,
    Style,
    Table,
    add_legend,
    distinct_labels,
    head,
    new_figure,
    styles,
    without_empty_columns,
)
from calm_jax.reporting.numerals import number, percent
from calm_jax.reporting.palette import LIGHT
from calm_jax.reporting.run import Tolerance, Trials


def panels(trials: Sequence[Trials], hues: Hues) -> list[Panel]:
    """One panel for each objective, metric and ε: mean ± standard deviation over random splits, for each measure."""
    groups: dict[tuple, list[Trials]] = {}
    for each in trials:
        groups.setdefault((each.objective, each.metric, each.epsilon), []).append(each)
    result = []
    for index, ((objective, metric, epsilon), group) in enumerate(groups.items()):
        named = dict(zip(distinct_labels(group), group, strict=True))
        single = any(tolerance.trials for each in group for tolerance in each.tolerances)
        result.append(
            Panel(
                title=f'{f"{objective.capitalize()} consistency, " if objective else ""}{metric}, ε = {number(epsilon)}',
                drawings=(
                    Drawing(
                        'validity' if len(groups) == 1 else f'validity_{index + 1}',
                        'Risk and cost against the tolerance δ',
                        _alt(named),
                        partial(_draw, named, hues),
                    ),
                ),
                caption='Mean and standard deviation over random splits. Above: a risk on or below the diagonal keeps the '
                f'promise. Below: the layers it takes.{" Pale dots are single splits." if single else ""}',
                notes=(*_findings(named), *dict.fromkeys(each.note for each in group if each.note)),
                table=_table(named),
            )
        )
    return result


def _draw(trials: dict[str, Trials], hues: Hues) -> Figure:
    figure, (risk, layers) = new_figure(2, height=5.2, ratios=(3, 2))
    everything = [each for series in trials.values() for each in series.tolerances]
    deltas = sorted({each.tolerance for each in everything})
    start, end = min(0.0, deltas[0] * 1.08), max(0.0, deltas[-1] * 1.08)
    highest = max(end, *(max(_reach(each)) for each in everything)) * 1.02
    lowest = min(start, *(min(_reach(each)) for each in everything)) * 1.02
    diagonal = [lowest, highest]
    risk.fill_between(diagonal, diagonal, highest, color=LIGHT.shade, linewidth=0, zorder=0)
    risk.plot(diagonal, diagonal, color=LIGHT.muted, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    risk.text(
        0.02,
        0.95,
        'risk above the tolerance',
        transform=risk.transAxes,
        color=LIGHT.muted,
        style='italic',
        fontsize=8.5,
        va='top',
    )
    handles = {}
    for place, (name, style) in enumerate(styles(trials, hues).items()):
        # A hair's breadth aside, or the bars of one measure would hide another's.
        aside = (place - (len(trials) - 1) / 2) * (end - start) * min(0.009, 0.04 / len(trials))
        across = [each.tolerance + aside for each in trials[name].tolerances]
        handles[name] = _series(risk, across, trials[name], 'risk', 'test_risk', style)
        _series(layers, across, trials[name], 'layers', 'layers', style)
    head(risk, 'empirical risk')
    head(layers, 'mean decoder layers per token')
    risk.set_xlim(start, end)
    risk.set_ylim(lowest, highest)
    risk.tick_params(labelbottom=False)
    layers.set_ylim(bottom=0)
    layers.set_xlabel('tolerance δ')
    if min((b - a for a, b in zip(deltas, deltas[1:])), default=end) > 0.07 * (end - start):
        layers.xaxis.set_major_locator(FixedLocator(deltas))
        layers.xaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    add_legend(figure, handles)
    return figure


def _series(axes: Axes, across: Sequence[float], series: Trials, what: str, single: str, style: Style):
    """Mean ± standard deviation as bars joined by a line, over a pale dot for each split."""
    dots = [(x, getattr(trial, single)) for x, each in zip(across, series.tolerances) for trial in each.trials]
    axes.scatter([x for x, _ in dots], [y for _, y in dots], s=7, color=style.colour, alpha=0.35, linewidths=0, zorder=2)
    return axes.errorbar(
        across,
        [getattr(each, f'{what}_mean') for each in series.tolerances],
        yerr=[getattr(each, f'{what}_std') for each in series.tolerances],
        color=style.colour,
        marker=style.marker,
        markersize=5,
        linewidth=1.5,
        linestyle=style.dashes,
        elinewidth=1.2,
        capsize=2.5,
        zorder=4,
    )


def _reach(each: Tolerance) -> list[float]:
    """Every risk that has to fit into the figure."""
    return [each.risk_mean - each.risk_std, each.risk_mean + each.risk_std, *(trial.test_risk for trial in each.trials)]


def _findings(trials: dict[str, Trials]) -> list[str]:
    """How often the risk over all the data was above δ, in words; measures of which the same holds share a sentence."""
    names: dict[str, list[str]] = {}
    for name, each in trials.items():
        names.setdefault(_finding(each), []).append(name)
    return [f'{", ".join(who)}: {what}' for what, who in names.items()]


def _finding(trials: Trials) -> str:
    sizes = ''
    if trials.n_calibration and trials.n_test:
        sizes = f' ({trials.n_calibration:,} examples to calibrate, {trials.n_test:,} to test)'
    note = f'{trials.trials} random splits{sizes}.'
    counted = [(share, each.tolerance) for each in trials.tolerances if (share := each.share_pool_above) is not None]
    if not counted:
        return note
    share, tolerance = max(counted, key=lambda pair: pair[0])
    often = 'in none of them'
    if share > 0:
        often = f'in up to {percent(share)} of them, the most at δ = {number(tolerance)}'
    return f'{note} The risk of the setting chosen, over all the data, lay above δ {often}; ε is {percent(trials.epsilon)}.'


def _alt(trials: dict[str, Trials]) -> str:
    lines = ['Two charts over the tolerance δ: empirical risk with the diagonal above, mean decoder layers below.']
    for name, series in trials.items():
        lines.append(
            f'{name}: '
            + '; '.join(
                f'at δ = {number(each.tolerance)} risk {number(each.risk_mean)} ± {number(each.risk_std)}, '
                f'layers {number(each.layers_mean)} ± {number(each.layers_std)}'
                for each in series.tolerances
            )
            + '.'
        )
    return ' '.join(lines)


def _table(trials: dict[str, Trials]) -> Table:
    headings = (
        'setting',
        'δ',
        'risk',
        '± std',
        'layers',
        '± std',
        '% of splits: test risk above δ',
        '% of splits: pool risk above δ',
    )
    return without_empty_columns(
        Table(
            headings,
            tuple(
                (
                    name,
                    each.tolerance,
                    each.risk_mean,
                    each.risk_std,
                    each.layers_mean,
                    each.layers_std,
                    None if each.share_test_above is None else 100 * each.share_test_above,
                    None if each.share_pool_above is None else 100 * each.share_pool_above,
                )
                for name, series in trials.items()
                for each in series.tolerances
            ),
        )
    )
