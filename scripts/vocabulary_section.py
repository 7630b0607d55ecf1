"""The section of docs/results.md on reduced vocabularies, from the files of `scripts/vocabularies.py`."""

import itertools

from page import cell, certificate, read, table, threshold_cell


def section(directory, facts, figures, trained_by):
    """All that one run of `vocabularies.py` measured. figures: of its analyses; trained_by: commands that made the
    model."""
    tuned, certified = (Times(directory / stage / 'time.json') for stage in ('tuned', 'certified'))
    full = score(directory / 'test' / 'full')
    listed = f' The list of frequent ids has {facts["frequent"]}.' if 'frequent' in facts else ''
    lines = [
        f'Machine: {facts["machine"]}; {facts["date"]}; seed 0; metric {facts["metric"]}. Fixed pruning keeps {facts["keep"]} '
        f'ids after the first layer, decaying ends with {facts["keep"]}; the last layer looks at all.{listed}',
        '',
        '### Measure and reduction',
        '',
        f'λ is the one of which the tuning data say that its risk ({facts["metric"]}) is within {facts["tuned"]:g} more '
        f'likely than not (ε = ½); time is of {facts["timed"]} tuning examples, in flight, '
        'all settings interleaved, median of 3 rounds; scores, layers and FLOPs are of the test data.',
        '',
    ]
    rows = [['full depth', '', '', cell(full['layers']), '×1.00', *tuned.of('full depth'), *scores(full, facts)]]
    for measure, reduction in facts['combinations']:
        found = score(directory / 'test' / 'tuned' / f'{measure}_{reduction}_{facts["tuned"]}')
        path = directory / 'tuned' / f'{measure}_{reduction}' / f'certificate_{facts["tuned"]}.json'
        rows.append(
            [
                measure,
                reduction,
                threshold_cell(certificate(path)),
                cell(found['layers']),
                f'×{full["flops"] / found["flops"]:.2f}',
                *tuned.of(f'certificate {path}'),
                *scores(found, facts),
            ]
        )
    quality = list(dict.fromkeys((facts['report'], facts['metric'])))
    lines += table(
        [
            'measure',
            'reduction',
            'λ',
            'layers',
            'FLOPs',
            'batch 1: s',
            'samples/s',
            'speed-up',
            'batch 32: s',
            'samples/s',
            'speed-up',
            *quality,
        ],
        rows,
    )
    lines += [
        '',
        '### Certified',
        '',
        advice(directory, facts, tuned, certified),
        '',
        f'Chosen on the tuning data, certified on the calibration data (risk, ε = {facts["epsilon"]:g}), timed and '
        'scored on the test data. The first is the one that was chosen, the others needed no choice.',
        '',
    ]
    rows = []
    for measure, reduction in facts['certified']:
        for tolerance in facts['tolerances']:
            found = score(directory / 'test' / 'certified' / f'{measure}_{reduction}_{tolerance}')
            path = directory / 'certified' / f'{measure}_{reduction}' / f'certificate_{tolerance}.json'
            rows.append(
                [
                    measure,
                    reduction,
                    cell(tolerance),
                    threshold_cell(certificate(path)),
                    cell(found['layers']),
                    f'×{full["flops"] / found["flops"]:.2f}',
                    *certified.of(f'certificate {path}'),
                    *scores(found, facts),
                ]
            )
    lines += table(
        [
            'measure',
            'reduction',
            'δ',
            'λ',
            'layers',
            'FLOPs',
            'batch 1: s',
            'samples/s',
            'speed-up',
            'batch 32: s',
            'samples/s',
            'speed-up',
            *quality,
        ],
        rows,
    )
    lines += ['', '### What each layer knows', '', *(f'![{figure.stem}]({figure})' for figure in figures)]
    lines += [
        '',
        '### Tokens that differ from the unpruned ones',
        '',
        "Of the full model's outputs for 100 tuning examples: share of tokens at each layer that would be said "
        'otherwise than by the whole head on the same state; for contrasts '
        "also where the contrast's own scores rank another token first.",
        '',
    ]
    lines += unlike_table(directory)
    lines += ranking_table(directory)
    lines += ['', '### Commands', '', '```', *trained_by, *facts['commands'].values(), '```']
    return '\n'.join(lines)


class Times:
    """What `calm benchmark` measured, by setting."""

    def __init__(self, path):
        found = read(path)
        self.rows = {(row['batch_size'], row['setting']): row for row in found['rows']}
        self.examples = found['provenance']['data']['examples']

    def of(self, setting):
        """Seconds, examples a second and speed-up to full depth with its spread, at batch 1 and at 32."""
        return [each for size in (1, 32) for each in self._of(self.rows[size, setting])]

    def speed_up(self, setting, size):
        return self.rows[size, setting]['speed_up']

    def _of(self, row):
        spread = (
            '1.00'
            if row['speed_up'] is None
            else f'{row["speed_up"]:.2f} ({row["speed_up_least"]:.2f}–{row["speed_up_greatest"]:.2f})'
        )
        return f'{row["seconds"]:.2f}', f'{self.examples / row["seconds"]:.1f}', f'×{spread}'


def advice(directory, facts, tuned, certified):
    """The sentence on which combination to take."""

    def setting(stage, combination, tolerance):
        return f'certificate {directory / stage / "_".join(combination) / f"certificate_{tolerance}.json"}'

    at_32 = max(facts['combinations'], key=lambda each: tuned.speed_up(setting('tuned', each, facts['tuned']), 32))
    speeds = '; '.join(
        f'δ = {tolerance:g}: ×{certified.speed_up(setting("certified", facts["chosen"], tolerance), 1):.2f} at batch 1, '
        f'×{certified.speed_up(setting("certified", facts["chosen"], tolerance), 32):.2f} at 32'
        for tolerance in facts['tolerances']
    )
    said = []
    for size, best in ((1, facts['chosen']), (32, at_32)):
        ratio = tuned.speed_up(setting('tuned', best, facts['tuned']), size)
        said.append(
            f'at batch {size} **{named(*best)}** is the fastest (×{ratio:.2f})'
            if ratio > 1
            else f'at batch {size} none is faster than full depth, {named(*best)} comes closest (×{ratio:.2f})'
        )
    seen = []
    for tolerance, size in itertools.product(facts['tolerances'], (1, 32)):
        first = max(facts['certified'], key=lambda each: certified.speed_up(setting('certified', each, tolerance), size))
        ratio = certified.speed_up(setting('certified', first, tolerance), size)
        if first != facts['chosen'] and ratio > 1:
            seen.append(f'{named(*first)} at δ = {tolerance:g}, batch {size} (×{ratio:.2f})')
    return (
        f'Which to take: on the tuning data, at δ = {facts["tuned"]:g}, {"; ".join(said)}. Certified, '
        f'{named(*facts["chosen"])} gives {speeds}.' + (f' Faster on the test data: {", ".join(seen)}.' if seen else '')
    )


def named(measure, reduction):
    """'softmax_gap with fixed pruning'."""
    return f'`{measure}`' + {'none': '', 'frequent': ' over frequent ids'}.get(reduction, f' with {reduction} pruning')


def unlike_table(directory):
    """Per combination and layer, the share of tokens that are not the whole head's."""
    rows, layers = [], 0
    for path in sorted((directory / 'unlike').glob('*.json')):
        found = read(path)
        layers = len(found['unlike_head'])
        rows.append([found['measure'], 'whole head', *(f'{share:.2%}' for share in found['unlike_head'])])
        if 'unlike_scores' in found:
            rows.append([found['measure'], 'own scores', *(f'{share:.2%}' for share in found['unlike_scores'])])
    return table(['measure', 'against', *(f'layer {layer + 1}' for layer in range(layers))], rows)


def ranking_table(directory):
    """Per combination and layer, how well confidences part right from wrong beside those over all ids; nothing of analyses that
    do not say it."""
    analyses = [read(path) for path in sorted((directory / 'unlike').glob('*.json'))]
    analyses = [each for each in analyses if 'auc_whole' in each]
    if not analyses:
        return []
    names = {'auc': 'its ids', 'auc_whole': 'all ids', 'rank_correlation': 'correlation'}
    rows = [
        [each['measure'], label, *('–' if value is None else f'{value:.3f}' for value in each[name])]
        for each in analyses
        for name, label in names.items()
    ]
    layers = len(analyses[0]['auc'])
    return [
        '',
        '### Right from wrong',
        '',
        'Of the same outputs: in how many pairs, of a token that would be said right at the layer and one that would be said '
        'wrong, the measure is surer of the right one; the same of the measure over all ids; and the rank correlation of the '
        'two confidences.',
        '',
        *table(['measure', 'over', *(f'layer {layer + 1}' for layer in range(layers))], rows),
    ]


def score(folder):
    """The row that `calm evaluate` wrote."""
    return read(folder / 'results.json')['rows'][0]


def scores(found, facts):
    """The quality columns."""
    return [cell(found[name]) for name in dict.fromkeys((facts['report'], facts['metric']))]
