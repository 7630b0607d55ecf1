"""The section of docs/results.md on layers, from the folders of `scripts/layer_study.py`."""

import numpy as np
from page import cell, commands_of, read, studies, table
from policy_section import heading, interval, scores_of

# What the paper has (Glavas et al. 2024): OPT-1.3B, 24 layers; its oracle scores what all layers do at so many.
PAPER = {
    'alpaca': 'ROUGE-L .342 with all 24 layers and .249 with 4; the oracle at 5.6 of 24 layers (23.3 %) scores what all do',
    'cnndm': 'the oracle at 5.5 of 24 layers (22.9 %) scores what all do',
}
GROUPS = (
    ('The same for every text', ('full', 'uniform', 'random', 'exit', 'searched')),
    ('Chosen for a text', ('prompt', 'policy')),
    ('Chosen for a token', ('controllers', 'exits')),
)
ORACLES = ('static', 'mixing', 'greedy', 'oracle', 'attainable', 'informed')


def layer_section(directories):
    """All studies, one after the other."""
    note = (
        'One frozen model; a run leaves out decoder layers beside a prompt that is read in full (`…_prompt`: not). Layers are '
        'the mean over tokens, FLOPs the mean share of the full model’s, its head included, which no plan leaves out. '
        'Differences are to `full` on the same texts, with the 95 % interval of a paired bootstrap. The hull is what drawing '
        'two of the uniform plans at random comes to at as many layers; above it is what a choice is worth.'
    )
    return '\n'.join(studies(note, directories, study_lines)).strip()


def study_lines(directory):
    """One study."""
    facts, scores = read(directory / 'study.json'), scores_of(directory)
    if not scores:
        return []
    metric, *others = facts['metrics']
    lines = heading(facts, scores, f' Paper: {PAPER[facts["study"]]}.')
    hull, attainable = hull_of(scores, metric), curve_of(directory / 'attainable.json', 'informed')
    heads = ['run', metric, 'Δ to full', *others, 'layers', 'FLOPs', 'above the hull', 'of what an informed choice gains']
    for title, kinds in GROUPS:
        rows = [row_of(name, scores, metric, others, hull, attainable) for name in scores if name.split('_')[0] in kinds]
        if rows:
            lines += [f'**{title}.**', '', *table(heads, rows), '']
    for name, title in (('oracle', 'Oracles over one decode'), ('attainable', 'Oracles over two drawn decodes')):
        path = directory / f'{name}.json'
        if path.exists():
            lines += [f'**{title}.**', '', *oracle_lines(read(path), metric), '']
    if (path := directory / 'similarity.json').exists():
        lines += ['**States beside the full model’s** (cosine of the final state; mean of those before it).', '']
        lines += [*similarity_lines(read(path)), '']
    return [*lines, *commands_of(facts)]


def hull_of(scores, metric):
    """layers → the best score of mixing static plans at random; the upper concave hull of the uniform plans and all layers."""
    names = [name for name in scores if name == 'full' or (name.startswith('uniform_') and not name.endswith('_prompt'))]
    points = sorted((scores[name]['layers'], scores[name][metric]) for name in names)
    upper = []
    for point in points:
        while len(upper) > 1 and _turns_up(upper[-2], upper[-1], point):
            upper.pop()
        upper.append(point)
    # More layers may always be spent: what scores less with more is never drawn.
    best = np.maximum.accumulate([score for _, score in upper])
    return lambda layers: float(np.interp(layers, [cost for cost, _ in upper], best))


def _turns_up(a, b, c):
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def curve_of(path, name):
    """layers → what an oracle gains over plans mixed at random, of a file of `calm analyze oracle`; None without one."""
    if not path.exists():
        return None
    content = read(path)['by_layers']
    if name not in content:
        return None
    gains, costs = (np.array(content[f'{name}_{part}'], float) for part in ('advantage', 'layers'))
    there = ~np.isnan(gains)
    return lambda layers: float(np.interp(layers, costs[there], gains[there]))


def row_of(name, scores, metric, others, hull, attainable):
    """A run's line."""
    made = scores[name]
    above = made[metric] - hull(made['layers'])
    possible = None if attainable is None else attainable(made['layers'])
    fixed = name.split('_')[0] in GROUPS[0][1]
    return [
        name,
        cell(made[metric]),
        '' if name == 'full' else interval(made['each'], scores['full']['each']),
        *(cell(made[other]) for other in others),
        cell(made['layers']),
        f'{made["share"]:.1%}',
        '' if name.startswith(('full', 'uniform')) and not name.endswith('prompt') else f'{above:+.4f}',
        '' if fixed or not possible or possible <= 0 else f'{above / possible:.0%}',
    ]


def similarity_lines(content):
    """A table of methods by cost, means and halves of their 95 % intervals."""
    costs = [point['cost'] for point in content['methods'][0]['points']]

    def said(point):
        return '; '.join(f'{point[part]["mean"]:.3f} ± {point[part]["margin"]:.3f}' for part in ('final', 'intermediate'))

    rows = [[method['method'], *map(said, method['points'])] for method in content['methods']]
    return table(['', *(f'{cost} layers' for cost in costs)], rows)


def oracle_lines(content, metric):
    """What an oracle's file says at the costs of the plans."""
    curves, plans = content['by_layers'], content['plans']
    there = [name for name in ORACLES if name in curves]
    budgets = np.array(curves['budgets'])
    rows = []
    for plan in plans:
        place = int(np.argmin(np.abs(budgets - plan['layers'])))
        rows.append([cell(plan['layers']), *(cell(curves[name][place]) for name in there)])
    match = content['match']
    tests = ', '.join(
        f'{cell(each["statistic"])} at {each["degrees"]} degrees of freedom, p = {cell(each["p_value"])} at '
        f'{each["budget"]:.3g} layers'
        for each in content['lengths']
    )
    return [
        *table(['mean layers', *(f'{name} {metric}' for name in there)], rows),
        '',
        f'The oracle scores what all layers do at {match["budget"]:.3g} of {content["num_layers"]} layers '
        f'({match["of_layers"]:.1%}). χ² of the plans over bins of lengths: {tests}.',
    ]
