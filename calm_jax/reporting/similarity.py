"""How near runs with fewer layers stay to the full model (Dynamic layer selection, Figures 1a, 4 and 5), and layer by layer."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from calm_jax.reporting.figures import Drawing, Panel, Table, add_legend, head, new_figure
from calm_jax.reporting.numerals import number
from calm_jax.reporting.palette import LIGHT
from calm_jax.reporting.run import Interval, ReducedRun, Similarity

_NAMES = {'exit': 'early exit', 'uniform': 'uniform', 'random': 'random', 'random_all': 'random, first layer too'}
_MARKERS = ('o', 'D', '^', 'v', 'P', 'X')
_MOST_COSTS = 4  # whose layers are drawn one by one


def panels(similarities: Sequence[Similarity]) -> list[Panel]:
    """One panel for each file."""
    return [_panel(each, '' if len(similarities) == 1 else f'_{index + 1}') for index, each in enumerate(similarities)]


def _panel(similarity: Similarity, suffix: str) -> Panel:
    costs = shown_costs(similarity)
    rows = tuple(
        (
            f'{_name(run.method)}, {number(run.cost)} layers',
            *(value for part in (run.final, run.intermediate) for value in (part.mean, part.margin)),
        )
        for run in similarity.runs
    )
    return Panel(
        title=f'{similarity.label}: states beside the full model’s',
        drawings=(
            Drawing(
                f'similarity{suffix}',
                'Cosine similarity to the full model, by cost',
                f'Line charts by how many layers run, the final state above, the layers before it below. {_ends(similarity)}',
                partial(_draw_by_cost, similarity),
            ),
            Drawing(
                f'similarity_layers{suffix}',
                'Cosine similarity to the full model, layer by layer',
                f'Line charts by layer, one for each cost of {", ".join(map(number, costs))} layers. '
                f'They end at layer {similarity.num_layers}, the final state.',
                partial(_draw_by_layer, similarity, costs),
            ),
        ),
        caption='Above: what the next token is read from. Below: what later tokens attend to, a mean over all layers but the '
        f'last. Bands are 95% intervals over {number(similarity.texts)} texts. Each run reads the full model’s own tokens with '
        f'keys and values of its own; prompts ran {similarity.prompt}.',
        notes=tuple(_nearest(similarity)),
        table=Table(('run', 'final state', 'final state ±', 'layers before', 'layers before ±'), rows),
    )


def _name(method: str) -> str:
    return _NAMES.get(method, method)


def _methods(similarity: Similarity) -> dict[str, list[ReducedRun]]:
    """The runs of each method, costs rising."""
    return {
        name: sorted((run for run in similarity.runs if run.method == name), key=lambda run: run.cost)
        for name in dict.fromkeys(run.method for run in similarity.runs)
    }


def shown_costs(similarity: Similarity) -> list[int]:
    """Costs whose layers are drawn: those of chosen layers, and others evenly spaced; not that of the full model."""
    methods = _methods(similarity).values()
    costs = sorted({run.cost for run in similarity.runs if run.cost < similarity.num_layers}) or [similarity.num_layers]
    chosen = [cost for cost in costs if any(len(runs) == 1 and runs[0].cost == cost for runs in methods)][:_MOST_COSTS]
    others, room = [cost for cost in costs if cost not in chosen], _MOST_COSTS - len(chosen)
    if len(others) > room:
        others = [others[round((place + 0.5) * len(others) / room - 0.5)] for place in range(room)]
    return sorted({*chosen, *others})


def _draw_by_cost(similarity: Similarity) -> Figure:
    figure, axes = new_figure(2, height=5.4)
    before = f'mean of layers 1 … {similarity.num_layers - 1}: cosine similarity'
    parts = (('final', 'final state: cosine similarity'), ('intermediate', before))
    handles = {}
    for each, (part, words) in zip(axes, parts, strict=True):
        for index, (name, runs) in enumerate(_methods(similarity).items()):
            handles[_name(name)] = _line(each, index, [run.cost for run in runs], [getattr(run, part) for run in runs])
        head(each, words)
    axes[-1].set_xlabel(f'cost (decoder layers run, of {similarity.num_layers})')
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    add_legend(figure, handles)
    return figure


def _draw_by_layer(similarity: Similarity, costs: Sequence[int]) -> Figure:
    figure, axes = new_figure(len(costs), height=1.2 + 1.55 * len(costs))
    handles = {}
    for each, cost in zip(axes, costs, strict=True):
        for index, (name, runs) in enumerate(_methods(similarity).items()):
            for run in runs:
                if run.cost == cost:
                    layers = range(1, similarity.num_layers + 1)
                    handles[_name(name)] = _line(each, index, layers, run.by_layer, markersize=3)
        head(each, f'{cost} of {similarity.num_layers} layers run: cosine similarity')
    axes[-1].set_xlabel('layer whose state is compared')
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    low, high = zip(*(each.get_ylim() for each in axes))
    for each in axes:
        each.set_ylim(min(low), max(high))
    add_legend(figure, handles)
    return figure


def _line(axes: Axes, index: int, places: Sequence[int], values: Sequence[Interval], markersize: float = 4.5) -> Line2D:
    """A line through means within a band; of one place a mark with a bar."""
    colour, means = LIGHT.series[index % len(LIGHT.series)], [value.mean for value in values]
    margins = [value.margin or 0 for value in values]
    if len(means) == 1:
        axes.errorbar(places, means, margins, color=colour, capsize=3)
    else:
        low, high = ([mean + side * margin for mean, margin in zip(means, margins)] for side in (-1, 1))
        axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
    style = {'color': colour, 'marker': _MARKERS[index % len(_MARKERS)], 'markersize': markersize, 'linewidth': 1.6}
    (line,) = axes.plot(places, means, **style)
    return line


def _ends(similarity: Similarity) -> str:
    return ' '.join(
        f'{_name(name)}: final state from {number(runs[0].final.mean)} to {number(runs[-1].final.mean)}.'
        for name, runs in _methods(similarity).items()
    )


def _nearest(similarity: Similarity) -> list[str]:
    """Which method is nearest the full model at how many costs, in a sentence of each kind of state."""
    sentences = []
    for part, words in (('final', 'Nearest in the final state'), ('intermediate', 'Nearest in the layers before')):
        best, costs = Counter(), 0
        for cost in sorted({run.cost for run in similarity.runs if run.cost < similarity.num_layers}):
            means = {run.method: getattr(run, part).mean for run in similarity.runs if run.cost == cost}
            if len(means) > 1:
                costs += 1
                first = [_name(name) for name, mean in means.items() if mean > max(means.values()) - 1e-6]
                best[first[0] if len(first) == 1 else 'several alike'] += 1
        if costs:
            counts = ', '.join(f'{name} at {number(count)}' for name, count in best.most_common())
            sentences.append(f'{words}: {counts} of {number(costs)} costs.')
    return sentences
