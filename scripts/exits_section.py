"""The section of docs/results.md on one checkpoint decoded sooner, from the folders of `scripts/exits_study.py`."""

import shlex
import statistics

from page import cell, certificate, commands_of, read, studies, table
from policy_section import heading, interval, scores_of

PROMISES = {'bare': '–', 'full': '–', 'exact': 'the same tokens', 'static': 'none', 'uniform': 'none'}


def exits_section(directories):
    """All studies, one after the other."""
    note = (
        'The same checkpoint in every row, but for `bare`: full depth of it as it came, without adapters and list of ids. '
        '`exact` is `--verify`: full depth’s tokens. Certified rows are named by objective and δ, ε = .05; each certificate '
        'holds by itself, not all of them at once. Where nothing was certified the row is full depth. `static` leaves, and '
        '`uniform` skips, no fewer layers of every text than remain of the cheapest certified row on its calibration data. '
        'Layers and FLOPs are means over the test texts (FLOPs as a share of the full model’s, its head included); texts equal '
        'to full depth’s are so token for token. Times are the median seconds of a round, and the median of full depth’s '
        'seconds over the row’s (least–greatest), all rows interleaved.'
    )
    return '\n'.join(studies(note, directories, study_lines)).strip()


def study_lines(directory):
    """One study."""
    facts, scores = read(directory / 'study.json'), scores_of(directory)
    if 'full' not in scores:
        return []
    metric, *others = facts['metrics']
    times = found(directory / 'times.json', {'batches': {}})
    lines = heading(facts, scores, adapters_words(directory))
    heads = ['row', 'promise', 'settings', metric, 'Δ to full', *others, 'texts equal', 'tokens', 'layers', 'FLOPs']
    heads += [f'batch {size}: seconds, speed' for size in times['batches']]
    rows = [row_of(directory, name, each, scores['full'], metric, others, times) for name, each in ordered(scores)]
    lines += [*table(heads, rows), '']
    if times['batches']:
        drafts = found(directory / 'drafts.json', {})
        lines += [line for size, each in times['batches'].items() for line in drafts_lines(size, each, drafts)] + ['']
        made = f'`{shlex.join(["python", *times["command"]])}` · {times["machine"]} · {times["date"]}'
        texts = ', '.join(f'{each["texts"]} at batch {size}' for size, each in times['batches'].items())
        lines += [f'Times: {times["rounds"]} rounds; texts in one: {texts}. {made}', '']
    curves = {name: directory / f'agreement_{name}.json' for name in ('before', 'after')}
    if all(path.exists() for path in curves.values()):
        lines += agreement_lines({name: read(path) for name, path in curves.items()})
    return [*lines, *commands_of(facts)]


def found(path, otherwise):
    """A JSON file, where there is one."""
    return read(path) if path.exists() else otherwise


def adapters_words(directory):
    """' Adapters of rank 32 …', where ranks were compared."""
    if not (directory / 'rank.json').exists():
        return ''
    content = read(directory / 'rank.json')
    tried = ', '.join(f'{rank_words(rank)} {gain:.2f}' for rank, gain in content['gains'].items())
    return f' Adapters: {rank_words(content["chosen"])} (speed of drafts after short trainings, on tuning data: {tried}).'


def rank_words(rank):
    """'rank 32', 'full'."""
    return f'rank {rank}' if int(rank) else 'full'


def ordered(scores):
    """Full depth, the exact row, certified ones by δ, and those that promise nothing."""
    known = ['bare', 'full', 'exact', *sorted(name for name in scores if '_' in name), 'static', 'uniform']
    return [(name, scores[name]) for name in known if name in scores]


def row_of(directory, name, score, full, metric, others, times):
    """Of the table."""
    promise, settings = PROMISES.get(name), '–'
    if name == 'exact':
        settings = drafts_words(next(iter(found(directory / 'drafts.json', {'1': {'chosen': None}}).values()))['chosen'])
    elif promise is None:
        promise, settings = certified_words(directory / name / 'certificate.json', name)
    quality = [
        cell(score[metric]),
        '–' if name == 'full' else interval(score['each'], full['each']),
        *(cell(score[other]) for other in others),
        f'{score["texts_equal"]:.1%}',
        str(score['tokens']),
    ]
    speeds = [speed_of(each['seconds'], name) for each in times['batches'].values()]
    return [name, promise, settings, *quality, f'{score["layers"]:.2f}', f'{score["share"]:.3f}', *speeds]


def certified_words(path, name):
    """(What a certificate promises, and how it decodes); nothing, where there is none or it found nothing."""
    content = certificate(path) if path.exists() else None
    if content is None or not any(point['rejected'] for point in content['grid']):
        return 'nothing certified: full depth', '–'
    exit, more = content['decoding']['exit'], content['decoding'].get('propagation')
    settings = [f'λ = {exit["threshold"]:g}', f'from layer {exit.get("min_exit_layer", 1)}', ids_words(exit)]
    settings += [f'{more["class"]}'] if more else []
    return f'{name.split("_")[0]} δ = {content["tolerance"]:g}', ', '.join(filter(None, settings))


def ids_words(exit):
    """'256 ids', of a look at some."""
    vocabulary = exit['measure'].get('vocabulary', {})
    return f'{vocabulary.get("count", 1024)} ids' if vocabulary.get('class') == 'frequent' else ''


def drafts_words(chosen):
    """'W = 4, λ = .3, from layer 8, 256 ids'."""
    if chosen is None:
        return '–'
    least, threshold, width, ids = chosen
    return f'W = {width}, λ = {threshold:g}, from layer {least}, {ids} ids'


def speed_of(seconds, name):
    """What a row takes, and how many times as fast as full depth it is."""
    if name not in seconds:
        return '–'
    return f'{statistics.median(seconds[name]):.2f}, {ratio_words(seconds, name)}'


def ratio_words(seconds, name):
    """'1.31 (1.25–1.40)'."""
    ratios = [full / each for full, each in zip(seconds['full'], seconds[name])]
    return f'{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})'


def drafts_lines(size, taken, drafts):
    """What became of the exact row's drafts at a batch size, and what drafts cost that are never right."""
    exact, wrong = (taken['drafts'][name] for name in ('exact', 'never_right'))
    shares = ', '.join(f'{a / max(1, d):.0%}' for a, d in zip(exact['accepted'], exact['drafted']))
    tokens = taken['tokens']['exact'] / max(1, exact['rounds'])
    settings = drafts_words(drafts.get(size, {}).get('chosen'))
    drafted = f'{drafted_share(exact):.0%} of the rounds had drafts'
    became = f'accepted by their place: {shares}' if sum(exact['drafted']) else 'the rest went on at full depth'
    return [
        f'Batch {size}, `exact` ({settings}): {tokens:.2f} tokens a round, {drafted}; {became}.  ',
        f'Batch {size}, drafts that are never right: {sum(wrong["accepted"])} of {sum(wrong["drafted"])} accepted, '
        f'{drafted_share(wrong):.0%} of the rounds had any before it went on at full depth; speed '
        f'{ratio_words(taken["seconds"], "never_right")}.  ',
    ]


def drafted_share(drafts):
    """Of the rounds, those that drafted."""
    return (drafts['drafted'] or [0])[0] / max(1, drafts['rounds'])


def agreement_lines(curves):
    """How often each layer's likeliest token is the last layer's, before and after adapters."""
    shares = {name: each['accuracy'] for name, each in curves.items()}
    rows = [[str(layer), *(f'{curve[layer - 1]:.3f}' for curve in shares.values())] for layer in layers_of(shares)]
    return ['**Layers whose likeliest token is the last’s.**', '', *table(['layer', *shares], rows), '']


def layers_of(curves):
    """Every second layer of deep models, and the last."""
    depth = len(next(iter(curves.values())))
    return sorted({*range(1, depth + 1, 1 if depth <= 12 else 2), depth})
