"""Draws what a study of layers found, into a folder: quality.png, score against layers (Glavas et al. 2024, Figures 1b and 7),
skips.png, how often controllers skip each layer (Figure 6), and patterns.png, which layers evenly spaced plans run (Figure 3).

    python scripts/layer_figures.py runs/layers/alpaca --output runs/layers/alpaca/figures

`scripts/layer_study.py` draws them itself at its end.
"""

import argparse
import json
import pathlib
import re
import sys
from functools import partial

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from layer_section import curve_of, hull_of  # noqa: E402
from page import read  # noqa: E402
from policy_section import scores_of  # noqa: E402

from calm_jax.depth.plans import uniform_layers  # noqa: E402
from calm_jax.reporting.figures import Drawing, add_legend, head, render  # noqa: E402
from calm_jax.reporting.palette import LIGHT  # noqa: E402

SERIES = {  # by the pattern of a run's name: label, marker
    r'uniform_\d+': ('evenly spaced', 'o'),
    r'random_\d+': ('drawn at random', 's'),
    r'block_\d+': ('all but a block', 'v'),
    r'exit_\d+': ('early exit', '^'),
    r'searched_\d+': ('searched', 'P'),
    r'controllers_hidden_[\d.]+': ('token controllers, hidden state', 'D'),
    r'controllers_fixed_[\d.]+': ('token controllers, fixed input', 'd'),
    r'prompt_[\d.]+': ('prompt controller', 'X'),
    r'policy': ('policy', '*'),
}
ROUNDS = 2000  # of the bootstrap


def interval(values):
    """Half of the 95 % interval of a mean, by a bootstrap; seed 0."""
    rng = np.random.default_rng(0)
    means = [np.mean(values[rng.integers(0, len(values), len(values))]) for _ in range(ROUNDS)]
    low, high = np.quantile(means, (0.025, 0.975))
    return (high - low) / 2


def draw_quality(scores, metric, chosen, attainable):
    """Score against layers, a series for each kind of run. chosen: names of the plans that `attainable` chooses from."""
    figure = Figure(figsize=(7.2, 4.6))
    axes, handles = figure.subplots(), {}
    for place, (pattern, (label, marker)) in enumerate(SERIES.items()):
        runs = [made for name, made in scores.items() if re.fullmatch(pattern, name)]
        runs.sort(key=lambda made: made['layers'])
        if not runs:
            continue
        colour = LIGHT.series[place % len(LIGHT.series)]
        layers, means = [made['layers'] for made in runs], [made[metric] for made in runs]
        bars = [interval(np.array(made['each'])) for made in runs]
        handles[label] = axes.errorbar(
            layers,
            means,
            bars,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.2,
            linestyle='-' if place < len(LIGHT.series) else (0, (4, 2)),
            elinewidth=0.8,
            capsize=2,
        )
    full = scores['full']
    handles['all layers'] = axes.plot(full['layers'], full[metric], marker='o', markersize=7, color=LIGHT.ink, linestyle='')[0]
    hull, least = hull_of(scores, metric), min(made['layers'] for made in scores.values())
    grid = [layers for layers in np.linspace(least, full['layers'], 200) if hull(layers) is not None]
    mixed = axes.plot(grid, [hull(each) for each in grid], color=LIGHT.muted, linewidth=1, linestyle='--')
    handles['mixed at random'] = mixed[0]
    mixing = hull_of(scores, metric, chosen)
    gains = [(layers, mixing(layers), attainable(layers)) for layers in grid]
    upper = [(layers, below + gain) for layers, below, gain in gains if below is not None and gain is not None]
    if upper:
        handles['attainable choice'] = axes.plot(*zip(*upper), color=LIGHT.muted, linewidth=1, linestyle=':')[0]
    axes.set_xlabel('decoder layers per token')
    axes.set_ylabel(f'{metric}, mean over texts and its 95 % interval')
    head(axes, 'Score against layers')
    figure.legend(handles.values(), handles.keys(), loc='outside upper left', ncols=3)
    return figure


def last_runs(path):
    """Of the best evaluation of a training: the share of tokens that run each layer, [L]."""
    evaluations = [json.loads(line)['eval'] for line in path.read_text(encoding='utf-8').splitlines() if '"eval"' in line]
    best = min(evaluations, key=lambda each: each['loss'])
    return np.array(best['decoder_layers'])


def draw_skips(by_alpha):
    """A panel for each α, of both inputs; by_alpha: {α: {input: shares [L]}}."""
    figure = Figure(figsize=(7.2, 1.7 * len(by_alpha) + 0.6))
    handles = {}
    panels = np.atleast_1d(figure.subplots(len(by_alpha), 1, sharex=True, sharey=True))
    for axes, (alpha, inputs) in zip(panels, sorted(by_alpha.items())):
        for place, (name, shares) in enumerate(sorted(inputs.items(), reverse=True)):
            layers = np.arange(1, len(shares) + 1) + (place - 0.5) * 0.38
            handles[f'{name} input'] = axes.bar(layers, 1 - shares, width=0.36, color=LIGHT.series[place])
        head(axes, f'α = {alpha:g}')
        axes.set_ylabel('share of tokens\nthat skip')
        axes.set_ylim(0, 1)
    panels[-1].set_xlabel('decoder layer')
    add_legend(figure, handles)
    return figure


def draw_patterns(depth):
    """Which layers run, a row for each cost."""
    figure = Figure(figsize=(7.2, 1.2 + 0.13 * depth))
    axes = figure.subplots()
    runs = np.array([uniform_layers(cost, depth) for cost in range(1, depth + 1)], float)
    colours = ListedColormap([LIGHT.grid, LIGHT.series[0]])
    axes.pcolormesh(
        np.arange(depth + 1) + 0.5, np.arange(depth + 1) + 0.5, runs, cmap=colours, edgecolor='white', linewidth=0.4
    )
    axes.set_xlabel('decoder layer')
    axes.set_ylabel('cost (decoder layers run)')
    head(axes, 'Layers that evenly spaced plans run')
    return figure


def draw(study, output):
    """All figures of a study's folder, into another."""
    scores, facts = scores_of(study), read(study / 'study.json')
    path = study / 'analyses' / 'attainable.json'
    attainable = curve_of(read(path) if path.exists() else None, 'attainable')
    drawings = {'patterns': partial(draw_patterns, facts['depth'])}
    if 'full' in scores:
        drawings['quality'] = partial(draw_quality, scores, facts['metrics'][0], facts['chosen'], attainable)
    by_alpha = {}
    for folder in sorted(study.glob('controllers_*_*')):
        found = re.fullmatch(r'controllers_(hidden|fixed)_([\d.]+)', folder.name)
        if found and (folder / 'model' / 'metrics.jsonl').exists():
            by_alpha.setdefault(float(found[2]), {})[found[1]] = last_runs(folder / 'model' / 'metrics.jsonl')
    if by_alpha:
        drawings['skips'] = partial(draw_skips, by_alpha)
    output.mkdir(parents=True, exist_ok=True)
    for name, drawn in drawings.items():
        (output / f'{name}.png').write_bytes(render(Drawing(name, name, name, drawn)).png)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', type=pathlib.Path, help='folder of scripts/layer_study.py')
    parser.add_argument('--output', required=True, type=pathlib.Path, help='folder to write')
    args = parser.parse_args()
    draw(args.study, args.output)


if __name__ == '__main__':
    main()
