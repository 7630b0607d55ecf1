"""The section of docs/results.md on layers, from the folders of `scripts/layer_study.py`."""

import re
import shutil
import statistics

import numpy as np
from layer_claims import claim_lines, equal_quality_lines
from page import cell, commands_of, read, studies, table
from policy_section import heading, interval, scores_of

# What the paper has (Glavas et al. 2024): OPT-1.3B, 24 layers; its oracle scores what all layers do at so many.
PAPER = {
    'alpaca': 'ROUGE-L .342 with all 24 layers and .249 with 4; the oracle at 5.6 of 24 layers (23.3 %) scores what all do, '
    'giving 69.6 % of the texts 4 layers; χ² 29.02 (p = .51) at 6 and 40.57 (p = .09) at 24 layers, 30 degrees of freedom',
    'cnndm': 'the oracle at 5.5 of 24 layers (22.9 %) scores what all do',
}
GROUPS = (
    ('The same for every text', ('full', 'uniform', 'random', 'block', 'exit', 'searched')),
    ('Chosen for a text', ('prompt', 'policy')),
    ('Chosen for a token', ('controllers', 'exits')),
)
STATIC = r'full|(uniform|exit|block|searched)_\d+'  # names of runs that a hull is of
ORACLES = ('static', 'mixing', 'greedy', 'oracle', 'attainable', 'informed')
ADVANTAGES = {'sampling_advantage': 'sampling advantage', 'allocation_advantage': 'allocation advantage'}
CAPTIONS = {
    'quality': 'Score against layers (the paper’s Figures 1b and 7)',
    'skips': 'Tokens that skip each layer, by α, of held-out references read teacher-forced; the paper’s Figure 6 counts '
    'generated tokens',
    'patterns': 'Which layers evenly spaced plans run (Figure 3)',
    'similarity': 'Cosine similarity to the full model by cost (Figures 1a, 4 and 5)',
    'similarity_layers': 'The same layer by layer',
    'oracle_shares': 'Who gets which plan, by budget (Figures 2 and 10)',
    'oracle_advantages': 'What choosing by text gains (Figure 8)',
    'oracle_lengths': 'Who gets which plan, by length of the reference (Figure 9)',
    'oracle_tokens': 'The same where long outputs cost more',
}


def layer_section(directories, page=None):
    """All studies, one after the other. page: the folder that the page is in, where figures are copied to; None: no figures."""
    note = (
        'One frozen model; a run leaves out decoder layers beside a prompt that is read in full (`…_prompt`: not). Layers are '
        'the mean over tokens; FLOPs the mean share of the full model’s, prompt and head included, which no plan leaves out, '
        'and layer FLOPs those of the generated tokens’ layers alone, of the full model’s. Differences are to `full` on the '
        'same texts, with the 95 % interval of a paired bootstrap. The hull is what drawing two static plans at random comes '
        'to at as many layers; above it is what a choice is worth, and below its cheapest plan it is not drawn (–). The last '
        'columns are that, above the hull of the plans that were chosen from, over what an attainable and an informed choice '
        'of them gain: those are of texts drawn at temperature .7, where the rows are greedy. `searched` is a set of '
        'sub-layers searched on held-out data, `block` leaves out the layers before the last, `random_…_anywhere` may leave '
        'out the first. Token controllers draw their decisions, as in training, but `…_likelier` and `…_certified`.'
    )
    return '\n'.join(studies(note, directories, lambda directory: study_lines(directory, page))).strip()


def study_lines(directory, page=None):
    """One study."""
    facts, scores = read(directory / 'study.json'), scores_of(directory)
    if not scores:
        return []
    metric, *others = facts['metrics']
    model = f' Model: {facts["model"]}.' if facts.get('model') else ''
    lines = heading(facts, scores, f'{model} Paper: {PAPER[facts["study"]]}.')
    analyses = {path.stem: read(path) for path in sorted((directory / 'analyses').glob('*.json'))}
    promise = f'certified ({facts["promise"][0]} ≤ {facts["promise"][1]})'
    heads = ['run', metric, 'Δ to full', *others, 'layers', 'FLOPs', 'layer FLOPs', promise, 'above the hull']
    heads += ['of attainable', 'of informed']
    rows = []
    for title, kinds in GROUPS:
        made = [row_of(name, scores, metric, others, facts, analyses) for name in scores if name.split('_')[0] in kinds]
        rows += [[f'**{title}**', *[''] * (len(heads) - 1)], *made] if made else []
    rows += bound_rows(scores, facts, len(heads), analyses)
    lines += [*table(heads, rows), '']
    lines += equal_quality_lines(directory, scores, metric)
    if (path := directory / 'times.json').exists():
        lines += time_lines(read(path))
    for name, title in (('oracle', 'Oracles over one decode'), ('attainable', 'Oracles over two drawn decodes')):
        if name in analyses:
            lines += [f'**{title}.**', '', *oracle_lines(analyses[name], metric), '']
    if 'similarity' in analyses:
        lines += ['**States beside the full model’s** (cosine of the final state; mean of those before it).', '']
        lines += [*similarity_lines(analyses['similarity']), '']
    lines += claim_lines(scores, analyses)
    if page is not None:
        lines += picture_lines(directory, page)
    return [*lines, *commands_of(facts)]


def hull_of(scores, metric, names=None):
    """layers → the best score of mixing static plans at random, None below the cheapest: the upper concave hull. names: of
    those plans; None: all there are."""
    names = [name for name in scores if (name in names if names else re.fullmatch(STATIC, name))]
    points = sorted((scores[name]['layers'], scores[name][metric]) for name in names)
    upper = []
    for point in points:
        while len(upper) > 1 and _turns_up(upper[-2], upper[-1], point):
            upper.pop()
        upper.append(point)
    costs = [cost for cost, _ in upper]
    # More layers may always be spent: what scores less with more is never drawn.
    best = np.maximum.accumulate([score for _, score in upper])
    return lambda layers: None if layers < costs[0] - 1e-9 else float(np.interp(layers, costs, best))


def _turns_up(a, b, c):
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def curve_of(content, name):
    """layers → what an oracle gains over plans mixed at random, of what `calm analyze oracle` wrote; None outside, or where it
    has no such oracle."""
    curves = (content or {}).get('by_layers', {})
    if name not in curves:
        return lambda layers: None
    gains, costs = (np.array(curves[f'{name}_{part}'], float) for part in ('advantage', 'layers'))
    there = ~(np.isnan(gains) | np.isnan(costs))
    if not there.any():
        return lambda layers: None
    gains, costs = gains[there], costs[there]
    order = np.argsort(costs, kind='stable')
    return lambda layers: float(np.interp(layers, costs[order], gains[order])) if layers >= costs.min() - 1e-9 else None


def row_of(name, scores, metric, others, facts, analyses):
    """A run's line."""
    made, kind = scores[name], name.split('_')[0]
    below = hull_of(scores, metric)(made['layers'])
    static = re.fullmatch(STATIC, name) is not None
    return [
        name,
        cell(made[metric]),
        '' if name == 'full' else interval(made['each'], scores['full']['each']),
        *(cell(made[other]) for other in others),
        f'{made["layers"]:.2f}',
        f'{made["share"]:.1%}',
        layer_share(name, made),
        'yes' if name.endswith('_certified') else '',
        '' if static else '–' if below is None else f'{made[metric] - below:+.4f}',
        *(
            '' if kind in GROUPS[0][1] else share_of_gain(made, scores, metric, facts, analyses.get('attainable'), each)
            for each in ('attainable', 'informed')
        ),
    ]


def layer_share(name, made):
    """Of the full model's layers, what a run's cost; '–' where prompt or head are not as the full model's are."""
    if name.endswith('_prompt') or name.startswith('exits'):
        return '–'
    return f'{made["layer_flops"] / made["full_layer_flops"]:.1%}'


def share_of_gain(made, scores, metric, facts, content, oracle):
    """What a run gains over mixing the plans that are chosen from, of what an oracle gains over that."""
    below, possible = hull_of(scores, metric, facts['chosen'])(made['layers']), curve_of(content, oracle)(made['layers'])
    return '–' if below is None or possible is None or possible <= 0 else f'{(made[metric] - below) / possible:.0%}'


def bound_rows(scores, facts, width, analyses):
    """The hull and the oracles at as many layers as the prompt controllers run; what a choice gains is added to the hull of the
    plans that are chosen from."""
    rows, (metric, *others) = [], facts['metrics']
    for name in scores:
        if not re.fullmatch(r'prompt_[\d.]+', name):
            continue
        layers = scores[name]['layers']
        values = {'hull of static plans': hull_of(scores, metric)(layers)}
        mixed = hull_of(scores, metric, facts['chosen'])(layers)
        if 'oracle' in analyses:
            curves = analyses['oracle']['by_layers']
            place = int(np.argmin(np.abs(np.array(curves['budgets']) - layers)))
            values |= {f'{each} oracle' if each == 'greedy' else each: curves[each][place] for each in ('greedy', 'oracle')}
        for each in ('attainable', 'informed'):
            gain = curve_of(analyses.get('attainable'), each)(layers)
            values[f'mixing + {each} gain'] = None if gain is None or mixed is None else mixed + gain
        rows += [
            [f'{each}, as {name}', cell(value), '', *['' for _ in others], f'{layers:.2f}'] for each, value in values.items()
        ]
    rows = [[*row, *[''] * (width - len(row))] for row in rows]
    return [['**Bounds**', *[''] * (width - 1)], *rows] if rows else []


def time_lines(content):
    """Speeds of the prompt controller beside the full model and a plan for all."""
    rows = []
    for size, taken in content['batches'].items():
        seconds = taken['seconds']
        pairs = (('full', 'prompt'), ('full', 'uniform'), ('uniform', 'prompt'))
        rows.append([size, *(ratio(seconds[slow], seconds[fast]) for slow, fast in pairs)])
    heads = ['batch', 'prompt controller to full', 'uniform to full', 'prompt controller to uniform']
    made = f'{content["machine"]}; {content["date"]}'
    return [
        f'**Speed** of the prompt controller at {content["level"]:g}, and of {content["share"]:.1%} of the layers, evenly '
        f'spaced: medians of interleaved rounds (least–greatest); {made}.',
        '',
        *table(heads, rows),
        '',
    ]


def ratio(slow, fast):
    """'1.31 (1.28–1.33)', how many times as fast."""
    ratios = [one / other for one, other in zip(slow, fast)]
    return f'{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})'


def similarity_lines(content):
    """A table of methods by cost, means and halves of their 95 % intervals."""
    costs = [point['cost'] for point in content['methods'][0]['points']]

    def means(point):
        return '; '.join(f'{point[part]["mean"]:.3f} ± {point[part]["margin"]:.3f}' for part in ('final', 'intermediate'))

    rows = [[method['method'], *map(means, method['points'])] for method in content['methods']]
    return table(['', *(f'{cost} layers' for cost in costs)], rows)


def oracle_lines(content, metric):
    """What an oracle's file says at the costs of the plans."""
    curves, plans, match = content['by_layers'], content['plans'], content['match']
    there = [name for name in ORACLES if name in curves]
    budgets = np.array(curves['budgets'])
    rows = []
    for plan in plans:
        place = int(np.argmin(np.abs(budgets - plan['layers'])))
        shares = ', '.join(f'{share:.0%}' for share in curves['shares'][place])
        rows.append([cell(plan['layers']), *(cell(curves[name][place]) for name in (*there, *ADVANTAGES)), shares])
    tests = ', '.join(
        f'{cell(each["statistic"])} at {each["degrees"]} degrees of freedom, p = {cell(each["p_value"])} at '
        f'{each["budget"]:.3g} layers'
        for each in content['lengths']
    )
    gap = '' if curves['exact'] else f' Within {curves["gap"]:.2g} of the best at each budget.'
    if 'by_tokens' in content:
        tokens = content['by_tokens']
        settled = '; '.join(f'{cell(each["score"])} at {each["budget"]:.4g}' for each in tokens['settled'])
        gap += f' By layers × tokens within {tokens["gap"]:.2g} of the hull; optima {settled}.'
    names = ', '.join(plan['name'] for plan in plans)
    heads = ['mean layers', *(f'{name} {metric}' for name in there), *ADVANTAGES.values(), f'oracle’s shares of {names}']
    return [
        *table(heads, rows),
        '',
        f'The oracle scores what all layers do at {match["budget"]:.3g} of {content["num_layers"]} layers '
        f'({match["of_layers"]:.1%}). χ² of the plans over bins of lengths of the references: {tests}.{gap}',
    ]


def pictures(directory):
    """PNGs of a study: those of `scripts/layer_figures.py` and of `calm report`."""
    return [*sorted((directory / 'figures').glob('*.png')), *sorted((directory / 'analyses_figures').glob('*.png'))]


def picture_lines(directory, page):
    """Links to figures, which are copied beside the page."""
    folder, lines = page / 'figures' / 'layers' / directory.name, []
    for path in pictures(directory):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
        caption = CAPTIONS.get(re.sub(r'_\d+$', '', path.stem), path.stem)
        lines += [f'![{caption}](figures/layers/{directory.name}/{path.name})', '', f'{caption}.', '']
    return lines
