"""The section of docs/results.md on one checkpoint decoded sooner, from the folders of `scripts/exits_study.py`."""

import statistics

from page import cell, commands_of, read, studies, table
from policy_section import heading, interval, scores_of

PROMISES = {'full': '–', 'exact': 'the same tokens', 'static': 'none', 'uniform': 'none'}


def exits_section(directories):
    """All studies, one after the other."""
    note = (
        'The same checkpoint in every row. `exact` is `--verify`: full depth’s tokens. Certified rows are named by objective '
        'and δ, ε = .05. `static` leaves, and `uniform` skips, as many layers of every text as the cheapest certified row. '
        'Layers and FLOPs are means over the test texts (FLOPs as a share of the full model’s, its head included), speeds the '
        'median of full depth’s seconds over the row’s (least–greatest), all rows interleaved.'
    )
    return '\n'.join(studies(note, directories, study_lines)).strip()


def study_lines(directory):
    """One study."""
    facts, scores = read(directory / 'study.json'), scores_of(directory)
    if not scores:
        return []
    metric, *others = facts['metrics']
    times = read(directory / 'times.json') if (directory / 'times.json').exists() else {'batches': {}}
    lines = heading(facts, scores, '')
    heads = ['row', 'promise', metric, 'Δ to full', *others, 'layers', 'FLOPs']
    heads += [f'speed, batch {size}' for size in times['batches']]
    rows = [row_of(name, each, scores['full'], metric, others, times) for name, each in ordered(scores)]
    lines += [*table(heads, rows), '']
    if times['batches']:
        lines += [drafts_line(size, each) for size, each in times['batches'].items()] + ['']
    found = {name: directory / f'agreement_{name}.json' for name in ('before', 'after')}
    if all(path.exists() for path in found.values()):
        lines += agreement_lines({name: read(path) for name, path in found.items()})
    return [*lines, *commands_of(facts)]


def ordered(scores):
    """Full depth, the exact row, certified ones by δ, and those that promise nothing."""
    known = ['full', 'exact', *sorted(name for name in scores if '_' in name), 'static', 'uniform']
    return [(name, scores[name]) for name in known if name in scores]


def row_of(name, score, full, metric, others, times):
    """Of the table."""
    promise = PROMISES.get(name) or name.replace('_', ' δ = ')
    quality = [
        cell(score[metric]),
        '–' if name == 'full' else interval(score['each'], full['each']),
        *(cell(score[other]) for other in others),
    ]
    speeds = [speed_of(each['seconds'], name) for each in times['batches'].values()]
    return [name, promise, *quality, f'{score["layers"]:.2f}', f'{score["share"]:.3f}', *speeds]


def speed_of(seconds, name):
    """How many times as fast as full depth a row is."""
    if name not in seconds:
        return '–'
    ratios = [full / each for full, each in zip(seconds['full'], seconds[name])]
    return f'{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})'


def drafts_line(size, taken):
    """What became of the exact row's drafts at a batch size."""
    shares = ', '.join(f'{a / max(1, d):.0%}' for a, d in zip(taken['accepted'], taken['drafted']))
    said = taken['tokens']['exact'] / max(1, taken['rounds'])
    return f'Batch {size}: {said:.2f} tokens a round; drafts accepted by their place in one: {shares or "none were made"}.  '


def agreement_lines(found):
    """How often each layer's likeliest token is the last layer's, before and after adapters."""
    curves = {name: each['accuracy'] for name, each in found.items()}
    rows = [[str(layer), *(f'{curve[layer - 1]:.3f}' for curve in curves.values())] for layer in layers_of(curves)]
    return ['**Layers whose likeliest token is the last’s.**', '', *table(['layer', *curves], rows), '']


def layers_of(curves):
    """Every second layer of deep models, and the last."""
    depth = len(next(iter(curves.values())))
    return sorted({*range(1, depth + 1, 1 if depth <= 12 else 2), depth})
