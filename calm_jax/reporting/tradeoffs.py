"""Quality against cost (CALM, Fig. 3): what each threshold of each measure gives up, and what it saves."""

from collections.abc import Iterable, Sequence
from functools import partial

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from calm_jax.reporting.figures import (
    Drawing,
    Hues,
    Panel,
    Table,
    add_legend,
    distinct_labels,
    head,
    new_figure,
    styles,
    without_empty_columns,
)
from calm_jax.reporting.numerals import deltas, number
from calm_jax.reporting.palette import LIGHT
from calm_jax.reporting.run import Curve
from calm_jax.schemas import Point

_COSTS = (('layers', 'decoder layers', 'mean decoder layers per token'), ('flops', 'FLOPs', 'mean FLOPs per token'))


def panels(curves: Sequence[Curve], hues: Hues) -> list[Panel]:
    """One panel for each set of comparable curves: quality and consistency, each against layers and against FLOPs.

    Quality is the metric against the references, consistency the metric against the full model's own output. Curves
    are comparable where metric, number of layers, number of examples and the full model's quality agree: the same model
    on the same data. A figure is left out where no curve has its numbers.
    """
    result = []
    groups = _comparable(curves)
    for index, group in enumerate(groups):
        stem = 'tradeoff' if len(groups) == 1 else f'tradeoff_{index + 1}'
        first = group[0]
        named = dict(zip(distinct_labels(group), group, strict=True))
        drawings = []
        for of, what in (
            ('quality', f'{first.metric} against the references'),
            ('consistency', f'{first.metric} against the full model’s output'),
        ):
            for cost, by, axis in _COSTS:
                drawn = {name: curve for name, curve in named.items() if any(_has(point, of, cost) for point in curve.points)}
                if drawn:
                    drawings.append(
                        Drawing(
                            name=f'{stem}_{of}_{cost}',
                            title=f'{of.capitalize()} by {by}',
                            alt=_alt(drawn, of, what, cost, axis),
                            draw=partial(_draw, drawn, hues, of, what, cost, axis),
                        )
                    )
        examples = f', {first.n:,} examples' if first.n else ''
        examples += f' of {first.data}' if first.data else ''
        result.append(
            Panel(
                title=f'{first.metric}, {first.num_layers} decoder layers{examples}',
                drawings=tuple(drawings),
                caption=_caption(group),
                notes=(),
                table=_table(named),
            )
        )
    return result


def chosen(curve: Curve) -> Point | None:
    """The point that calibration chooses: of the rejected ones that with the fewest FLOPs, the earlier in test order of equals;
    the last where one has no FLOPs, and None where there is none."""
    valid = [point for point in curve.points if point.rejected]
    if curve.kind != 'measure' or not valid:
        return None
    costs = [point.flops for point in valid if point.flops is not None]
    return valid[costs.index(min(costs))] if len(costs) == len(valid) else valid[-1]


def _draw(curves: dict[str, Curve], hues: Hues, of: str, what: str, cost: str, axis: str) -> Figure:
    figure, (axes,) = new_figure(1, height=3.6)
    handles = {}
    for name, style in styles(curves, hues).items():
        curve = curves[name]
        points = [point for point in curve.points if _has(point, of, cost)]
        across, up = [getattr(point, cost) for point in points], [getattr(point, of) for point in points]
        hollow = [curve.kind == 'measure' and point.rejected is False for point in points]
        axes.plot(across, up, color=style.colour, linewidth=1.6, linestyle=style.dashes, zorder=3)
        axes.scatter(
            across,
            up,
            s=26,
            marker=style.marker,
            edgecolors=style.colour,
            linewidths=1.2,
            zorder=4,
            facecolors=[LIGHT.page if each else style.colour for each in hollow],
        )
        (handles[name],) = axes.plot(
            [], [], color=style.colour, linewidth=1.6, linestyle=style.dashes, marker=style.marker, markersize=5
        )
        ringed = chosen(curve)
        if ringed is not None and _has(ringed, of, cost):
            axes.scatter(
                [getattr(ringed, cost)],
                [getattr(ringed, of)],
                s=130,
                marker='o',
                facecolors='none',
                edgecolors=style.colour,
                linewidths=1.6,
                zorder=6,
            )
    reference, full_cost = _full(curves.values(), of, cost)
    if full_cost is not None:
        axes.axvline(full_cost, color=LIGHT.muted, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    if reference is not None:
        axes.axhline(reference, color=LIGHT.muted, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    if reference is not None and full_cost is not None:
        (handles['full model'],) = axes.plot(
            [full_cost], [reference], marker='*', markersize=11, color=LIGHT.ink, linestyle='none', zorder=5, clip_on=False
        )
    head(axes, what)
    axes.set_xlabel(axis)
    if cost == 'layers':
        lowest = min(point.layers for curve in curves.values() for point in curve.points)
        axes.set_xlim(min(1.0, lowest) - 0.3, max(curve.num_layers for curve in curves.values()) + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=' '))
    add_legend(figure, handles)
    return figure


def _full(curves: Iterable[Curve], of: str, cost: str) -> tuple[float | None, float | None]:
    """The full model's score and cost. Against its own output it scores 1 by definition, and runs every layer."""
    curves = list(curves)
    full = next((curve.full for curve in curves if curve.full is not None), None)
    score = 1.0 if of == 'consistency' else full.quality if full is not None else None
    spent = getattr(full, cost) if full is not None else None
    return score, curves[0].num_layers if spent is None and cost == 'layers' else spent


def _caption(curves: Sequence[Curve]) -> str:
    measures = [curve for curve in curves if curve.kind == 'measure']
    tested = [curve for curve in measures if any(point.rejected is not None for point in curve.points)]
    if not tested:
        return 'Each point is one setting; the star is the full model.'
    levels = {(deltas(curve.tolerances), curve.epsilon) for curve in tested}
    tolerance, epsilon = levels.pop() if len(levels) == 1 else ('', None)
    at = f' at δ = {tolerance}, ε = {number(epsilon)}' if tolerance and epsilon is not None else ''
    return (
        f'Each point is one setting. Filled: shown valid{at}; hollow: not; ringed: the one chosen. The star is the full model.'
    )


def _alt(curves: dict[str, Curve], of: str, what: str, cost: str, axis: str) -> str:
    lines = [f'Line chart: {what} against {axis}.']
    for name, curve in curves.items():
        points = sorted((point for point in curve.points if _has(point, of, cost)), key=lambda point: getattr(point, cost))
        ends = _place(points[0], of, cost)
        if len(points) > 1:
            ends = f'from {ends} to {_place(points[-1], of, cost)}'
        ringed = chosen(curve)
        if ringed is not None and _has(ringed, of, cost):
            ends += f', chosen: {_place(ringed, of, cost)}'
        lines.append(f'{name}: {ends}.')
    score, _ = _full(curves.values(), of, cost)
    if score is not None:
        lines.append(f'Full model: {number(score)}.')
    return ' '.join(lines)


def _place(point: Point, of: str, cost: str) -> str:
    unit = ' layers' if cost == 'layers' else ' FLOPs'
    return f'{number(getattr(point, of))} at {number(getattr(point, cost))}{unit}'


def _table(curves: dict[str, Curve]) -> Table:
    headings = (
        'setting',
        'λ',
        'layers',
        'exit layer',
        'FLOPs',
        'FLOPs (Elbayad)',
        'quality',
        'consistency',
        'mean loss',
        'p-value',
        'valid',
    )
    named = [(name, point) for name, curve in curves.items() for point in curve.points]
    full = next((curve.full for curve in curves.values() if curve.full is not None), None)
    if full is not None:
        named.append(('full model', full))
    return without_empty_columns(
        Table(
            headings,
            tuple(
                (
                    name,
                    point.threshold,
                    point.layers,
                    point.exit_layers,
                    point.flops,
                    point.flops_elbayad,
                    point.quality,
                    point.consistency,
                    point.loss,
                    point.p_value,
                    point.rejected,
                )
                for name, point in named
            ),
        )
    )


def _comparable(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Curves that belong in one figure, in the order of their first; measures before baselines before oracles."""
    groups: list[list[Curve]] = []
    for curve in curves:
        group = next((group for group in groups if _same_data(curve, group[0])), None)
        if group is None:
            groups.append([curve])
        else:
            group.append(curve)
    order = ('measure', 'static', 'oracle')
    return [sorted(group, key=lambda curve: order.index(curve.kind)) for group in groups]


def _same_data(one: Curve, other: Curve) -> bool:
    if (one.metric, one.num_layers, one.n) != (other.metric, other.num_layers, other.n):
        return False
    ours, theirs = (curve.full.quality if curve.full is not None else None for curve in (one, other))
    # A full model decoded on another machine may differ in a few tokens; another task differs by far more.
    return ours is None or theirs is None or abs(ours - theirs) <= 0.005 * max(1.0, abs(theirs))


def _has(point: Point, *names: str) -> bool:
    return all(getattr(point, name) is not None for name in names)
