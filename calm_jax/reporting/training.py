"""Training: the loss by step, of the training batches and at evaluations, from the first steps on."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from calm_jax.reporting.figures import Drawing, Panel, Table, add_legend, head, new_figure
from calm_jax.reporting.numerals import number
from calm_jax.reporting.palette import LIGHT
from calm_jax.reporting.run import Training

_SERIES = (('training', 'losses', LIGHT.series[0], 'o'), ('evaluation', 'evaluations', LIGHT.series[1], 'D'))


def panels(trainings: Sequence[Training]) -> list[Panel]:
    """One panel for each run."""
    return [
        Panel(
            title=f'{each.path.parent.as_posix()}, {each.losses[-1][0]:,} steps',
            drawings=(
                Drawing(
                    'training' if len(trainings) == 1 else f'training_{index + 1}',
                    'Loss by step',
                    _alt(each),
                    partial(_draw, each),
                ),
            ),
            caption='Loss: nats per token, the exits weighed as the run says. Of training it is that of the step’s batch, '
            'of an evaluation that of all evaluation data.',
            notes=(),
            table=Table(('step', *(f'loss, {name}' for name, *_ in _SERIES)), _rows(each)),
        )
        for index, each in enumerate(trainings)
    ]


def _rows(training: Training) -> tuple[tuple[str | float | bool | None, ...], ...]:
    losses, evaluations = dict(training.losses), dict(training.evaluations)
    return tuple((step, losses.get(step), evaluations.get(step)) for step in sorted({**losses, **evaluations}))


def _draw(training: Training) -> Figure:
    figure, (axes,) = new_figure(1, height=3.4)
    handles = {}
    for name, key, colour, marker in _SERIES:
        if series := getattr(training, key):
            steps, values = zip(*series)
            (handles[name],) = axes.plot(steps, values, color=colour, marker=marker, markersize=3.5, linewidth=1.4)
    axes.set_xscale('log', base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
    axes.xaxis.set_minor_locator(NullLocator())
    head(axes, 'loss, nats per token')
    axes.set_xlabel('step')
    add_legend(figure, handles)
    return figure


def _alt(training: Training) -> str:
    ends = [
        f'{name}: from {number(series[0][1])} at step {series[0][0]:,} to {number(series[-1][1])} at step {series[-1][0]:,}.'
        for name, key, *_ in _SERIES
        if (series := getattr(training, key))
    ]
    return ' '.join(['Line chart: loss against the step, on a logarithmic axis.', *ends])
