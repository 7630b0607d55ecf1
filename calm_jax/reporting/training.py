"""Training: the loss by step, of the training batches and at evaluations, from the first steps on; of a policy what it is
balanced against, how sure it is of it, and what its plans run."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from calm_jax.reporting import cells
from calm_jax.reporting.figures import Drawing, Panel, Table, add_legend, head, new_figure, without_empty_columns
from calm_jax.reporting.numerals import number, percent
from calm_jax.reporting.palette import LIGHT
from calm_jax.reporting.run import PolicyTraining, Series, Training
from calm_jax.schemas import TOKEN_CHOICES

_SERIES = (('training', 'losses', LIGHT.series[0], 'o'), ('evaluation', 'evaluations', LIGHT.series[1], 'D'))
_FULL = ('training, full plan', 'evaluation, full plan')
_EVALUATIONS = 24  # rows of the grid of what plans run
_LINEAR = 0.01  # nats about 0 within which q − c is drawn on a linear axis


class Curves(NamedTuple):
    """An axes of a policy's figure: what it shows; names of what is logged, with their labels; how it is scaled."""

    what: str
    names: dict[str, str]
    scaled: Callable[[Axes], None] = lambda axes: None


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale('log', nonpositive='mask')
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def _logarithmic_about_zero(axes: Axes) -> None:
    axes.set_yscale('symlog', linthresh=_LINEAR)
    axes.axhline(0, color=LIGHT.muted, linewidth=0.8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


# Of each figure of a policy: the end of its name, its title, its axes.
_FIGURES = (
    (
        'cost',
        'What plans cost, and how undecided they are',
        (
            Curves('cost, share of the full model’s operations', {'cost': 'cost'}),
            Curves('entropy of a decision, nats', {'entropy': 'entropy'}),
        ),
    ),
    (
        'bound',
        'The bound and its multiplier',
        (
            Curves('running loss above its bound, q − c', {'above_bound': 'q − c'}, _logarithmic_about_zero),
            Curves('multiplier λ', {'multiplier': 'multiplier'}),
        ),
    ),
    (
        'gradients',
        'The policy’s gradients',
        (
            Curves('norm', {'loss_grad_norm': 'of the loss', 'cost_grad_norm': 'of the cost'}, _logarithmic),
            Curves(
                'noise of the loss’s: mean of ‖g‖² over ‖mean of g‖²', {'loss_grad_noise': 'noise of the loss’s'}, _logarithmic
            ),
        ),
    ),
)


def panels(trainings: Sequence[Training]) -> list[Panel]:
    """One panel for each run."""
    return [_panel(each, '' if len(trainings) == 1 else f'_{index + 1}') for index, each in enumerate(trainings)]


def _panel(training: Training, end: str) -> Panel:
    policy = training.policy
    caption = (
        'Loss: nats per token, the exits weighed as the run says. Of training it is that of the step’s batch, of an evaluation '
        'that of all evaluation data.'
    )
    return Panel(
        title=f'{training.path.parent.as_posix()}, {training.losses[-1][0]:,} steps',
        drawings=(
            Drawing(f'training{end}', 'Loss by step', _alt(training), partial(_draw, training)),
            *([] if policy is None else _policy_drawings(policy, end)),
        ),
        caption=caption if policy is None else _POLICY_CAPTION,
        notes=(),
        table=_table(training),
    )


_POLICY_CAPTION = (
    'Loss: nats per target token, in training of drawn plans, at an evaluation of those that decode by default. The bound c is '
    'the full plan’s loss and a tolerance; where q − c is below 0, it holds. Noise: 1 where gradients of all batches agree, '
    'and the higher, the less a single one says.'
)


def _table(training: Training) -> Table:
    policy = training.policy
    columns: dict[str, dict[int, float | str]] = {f'loss, {name}': dict(getattr(training, key)) for name, key, *_ in _SERIES}
    if policy is not None:
        for name, series in _full_losses(policy).items():
            columns[f'loss, {name}'] = dict(series)
        labels = {name: label for *_, axes in _FIGURES for each in axes for name, label in each.names.items()}
        labels |= {f'{kind}_grad_norm': f'gradient norm of the {kind}' for kind in ('loss', 'cost')}
        for where, logged in (('', policy.batches), (', evaluation', policy.evaluated)):
            columns |= {f'{labels[name]}{where}': dict(series) for name, series in logged.items() if name in labels}
        for kind in dict.fromkeys(kind for _, kinds in policy.runs for kind in kinds):
            columns[f'skipped, {kind}'] = {
                step: percent(max(0.0, 1 - float(np.mean(kinds[kind])))) for step, kinds in policy.runs if kind in kinds
            }
    steps = sorted(set().union(*columns.values()))
    rows = tuple((step, *(column.get(step) for column in columns.values())) for step in steps)
    table = Table(('step', *columns), rows)
    return table if policy is None else without_empty_columns(table)


def _full_losses(policy: PolicyTraining) -> dict[str, Series]:
    logged = policy.batches.get('full_loss', ()), policy.evaluated.get('full_loss', ())
    return {name: series for name, series in zip(_FULL, logged) if series}


def _draw(training: Training) -> Figure:
    figure, (axes,) = new_figure(1, height=3.4)
    handles = {}
    for name, key, colour, marker in _SERIES:
        if series := getattr(training, key):
            steps, values = zip(*series)
            (handles[name],) = axes.plot(steps, values, color=colour, marker=marker, markersize=3.5, linewidth=1.4)
    if training.policy is not None:
        for (name, series), (*_, colour, _) in zip(_full_losses(training.policy).items(), _SERIES):
            (handles[name],) = axes.plot(*zip(*series), color=colour, linestyle=(0, (4, 2)), linewidth=1.2)
    axes.set_xscale('log', base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
    axes.xaxis.set_minor_locator(NullLocator())
    head(axes, 'loss, nats per token')
    axes.set_xlabel('step')
    add_legend(figure, handles)
    return figure


def _alt(training: Training) -> str:
    ends = [_ends(name, getattr(training, key)) for name, key, *_ in _SERIES if getattr(training, key)]
    return ' '.join(['Line chart: loss against the step, on a logarithmic axis.', *ends])


def _ends(name: str, series: Series) -> str:
    (first, start), (last, end) = series[0], series[-1]
    return f'{name}: from {number(start)} at step {first:,} to {number(end)} at step {last:,}.'


def _policy_drawings(policy: PolicyTraining, end: str) -> list[Drawing]:
    drawings = []
    for name, title, axes in _FIGURES:
        logged = [(label, policy.batches[key]) for each in axes for key, label in each.names.items() if key in policy.batches]
        if logged:
            alt = ' '.join(['Line charts against the step.', *(_ends(*each) for each in logged)])
            there = [each for each in axes if policy.batches.keys() & each.names.keys()]
            drawings.append(Drawing(f'training_{name}{end}', title, alt, partial(_draw_curves, policy, there)))
    if policy.runs:
        drawings.append(
            Drawing(
                f'training_runs{end}', 'What the plans of an evaluation run', _runs_alt(policy), partial(_draw_runs, policy)
            )
        )
    return drawings


def _draw_curves(policy: PolicyTraining, curves: Sequence[Curves]) -> Figure:
    figure, axes = new_figure(len(curves), height=0.9 + 1.45 * len(curves))
    handles = {}
    for each, wanted in zip(axes, curves):
        for place, (name, label) in enumerate(wanted.names.items()):
            for logged, (*_, colour, marker) in zip((policy.batches, policy.evaluated), _SERIES):
                if name in logged:
                    colour = colour if not place else LIGHT.series[place + 1]
                    style = {'markersize': 3.5, 'linewidth': 1.4, 'color': colour, 'marker': ('^' if place else marker)}
                    if len(logged[name]) > 60:
                        style['marker'] = ''
                    (line,) = each.plot(*zip(*logged[name]), **style, linestyle=(0, (4, 2)) if place else '-')
                    if len(wanted.names) > 1:
                        handles[label] = line
                    elif name in policy.evaluated:
                        handles['training' if logged is policy.batches else 'evaluation'] = line
        wanted.scaled(each)
        head(each, wanted.what)
    axes[-1].set_xlabel('step')
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
    if handles:
        add_legend(figure, handles)
    return figure


def _draw_runs(policy: PolicyTraining) -> Figure:
    some = np.unique(np.rint(np.linspace(0, len(policy.runs) - 1, min(len(policy.runs), _EVALUATIONS))).astype(int))
    chosen, choices = [policy.runs[place] for place in some], dict(policy.choices)
    kinds = list(chosen[-1][1])
    blocks = [cells.Block(kind, np.array([runs[kind] for _, runs in chosen])) for kind in kinds]
    if any(share > 1e-6 for shares in choices.values() for share in shares[1:]):
        shares = np.array([choices[step] for step, _ in chosen])
        blocks.append(cells.Block('tokens dropped', shares, TOKEN_CHOICES))
    figure, axes = cells.draw(blocks, [1.0] * len(chosen), height=1.7 + 0.12 * len(chosen) + 0.5 * (len(blocks) > len(kinds)))
    labelled = range(len(chosen) - 1, -1, -max(1, -(-len(chosen) // 12)))
    axes[0].set_yticks([place + 0.5 for place in labelled], [f'{chosen[place][0]:,}' for place in labelled])
    axes[0].set_ylabel('step')
    cells.legend(figure, 'of all texts', 'of none', 'of half')
    return figure


def _runs_alt(policy: PolicyTraining) -> str:
    step, runs = policy.runs[-1]
    means = [f'{kind}: {percent(float(np.mean(shares)))}.' for kind, shares in runs.items()]
    return ' '.join([f'Grid: a row for each evaluation, a column for each layer. What runs at step {step:,}:', *means])
