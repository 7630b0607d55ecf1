"""The timings of `peers.py` as a Markdown page."""

import statistics

CTRANSLATE2 = 'full depth against CTranslate2 float32'
PRUNED_EXIT = 'the same: exit after 4 layers against the state measure'
_TIED = (
    'The products of one step of a decoder-only model, timed in a loop of their own, take 2.6 ms in eight layers (100 MB) and '
    '1.2 ms in the head (66 MB): 39 and 55 GB/s, about what memory gives. The rest of its step are some twenty small '
    'operations a layer: norms, biases, softmax, cache writes; BART has those of cross-attention and one more norm. Reading '
    'the tied head as [E, V] took off 0.2 ms at batch 1 and 1.2 ms at 8 and 32. Tried, of no use at batch 1: joining the '
    'query with key and value (0.15 ms less in products, but computed twice where a layer may be skipped), kernels cut in 2 '
    "or 4 parts (a tenth less at batch 8), XLA's oneDNN and XNNPACK."
)
# What profiling found behind a target that is missed, by shape, target and batch size.
REASONS = {
    ('t5_1_1', CTRANSLATE2, 1): 'A step at batch 1 is matrix–vector products, seven eighths of its time by the profiler. The '
    'head (66 MB) is read at the limit of the machine, the seven products of a layer (0.8–2.6 MB each) at half of it. Removing '
    'the copies of caches took off 0.5 ms, joining the products that read the same state (key and value; both inputs of the '
    'feed-forward) another 5–10%.',
    ('t5_1_1', PRUNED_EXIT, 32): "By the profiler ranking takes 4.0 ms of the step and gathering 1.3 ms: XLA's top-k ranks on "
    'one thread, 0.13 ms a row. Tried, of no use: an exact top-k in two stages over the maxima of blocks (3.7–3.9 ms, what '
    'costs is the order of 256 ids, not the length of the row), rows in parts side by side (4.2 ms); gathers that promise '
    'their bounds save 0.1 ms.',
    **{(shape, CTRANSLATE2, 1): _TIED for shape in ('bart', 'gpt2', 'opt')},
}


def markdown(result):
    """The page: per batch size one table of all engines and settings, then peak memory and where the numbers come from. Of real
    texts one table of all batch sizes."""
    if 'texts' in result:
        return texts_markdown(result)
    parts = [f'### {result["title"]}', '']
    for batch_size in result['settings']['batch_size']:
        parts += batch_table(result, batch_size)
    parts += targets_table(result)
    if result['memory']:
        parts += memory_table(result['memory'])
    provenance = result['provenance']
    versions = {name: number for engine in result['engines'].values() for name, number in engine['versions'].items()}
    parts += [
        f'Median of {result["settings"]["repeats"]} interleaved repeats (least–greatest). *ms a step*: (whole call − call '
        'stopped after the first token) / (tokens − 1); *first token*: encoder, cross-attention keys and values, one step. '
        '*weights*: bytes of decoder weights that a step must read, over its time, and as a share of what reading memory '
        'with all threads reached in the same rounds. *tokens*: share equal to this package at full depth. *compile*: of '
        'transformers compiled its first call. *program*: '
        'arguments, weights among them, results and temporaries of one compiled call.',
        '',
        f'`{provenance["command"]}` · {provenance["machine"]} · {provenance["date"]} · seed {provenance["seed"]} · '
        f'Python {provenance["python"]} · ' + ', '.join(f'{name} {number}' for name, number in sorted(versions.items())),
        '',
    ]
    return '\n'.join(parts)


def batch_table(result, batch_size):
    """One batch size."""
    rows = [row for row in result['rows'] if row['batch_size'] == batch_size]
    machine = next((row for row in rows if row['engine'] == 'machine'), None)
    limit = statistics.median(each['bytes_per_second'] for each in machine['rounds']) if machine else None
    head = f'**Batch {batch_size}**' + (f' (memory read at {limit / 1e9:.1f} GB/s)' if limit else '')
    names = [
        'engine',
        'setting',
        'layers',
        'cache',
        'ms a step',
        'first token, ms',
        'tokens/s',
        'speed to own full depth',
        'speed to transformers',
        'speed to CTranslate2',
        'weights, GB/s',
        'of limit',
        'tokens',
        'compile, s',
        'program, MiB',
    ]
    lines = [head, '', _line(names), _line(['---'] * 4 + ['---:'] * (len(names) - 4))]
    for row in rows:
        if row['engine'] != 'machine':
            lines.append(_line(_cells(result, rows, row, limit)))
    return [*lines, '', *left_out_lines(result, batch_size)]


def left_out_lines(result, batch_size=None):
    """Which engines did not run, and why, at this batch size or, None, at all."""
    return [
        line
        for each in result['left_out']
        if batch_size is None or each['batch_size'] in (None, batch_size)
        for line in (f'{each["engine"]} was left out: {each["why"]}', '')
    ]


def texts_markdown(result):
    """The page of `texts.py`."""
    names = ['batch', 'engine', 'seconds', 'tokens', 'tokens/s', 'first pass, s', 'this package against it', 'texts equal']
    lines = [_line(names), _line(['---'] * 2 + ['---:'] * (len(names) - 2))]
    for row in result['rows']:
        seconds = _pass_seconds(row)
        ours = [each for each in result['rows'] if (each['engine'], each['batch_size']) == ('calm_jax', row['batch_size'])]
        ratios = [theirs / mine for mine, theirs in zip(_pass_seconds(ours[0]), seconds)] if ours else []
        lines.append(
            _line(
                [
                    row['batch_size'],
                    row['engine'],
                    _spread(seconds, 2),
                    row['count'],
                    _spread([row['count'] / each for each in seconds], 0),
                    f'{row["compiled"]["first_seconds"]:.1f}',
                    f'{_spread(ratios, 2)}×' if ratios and row is not ours[0] else '',
                    f'{100 * row["texts_equal"]:.1f}%' if 'texts_equal' in row else '',
                ]
            )
        )
    provenance = result['provenance']
    versions = {name: number for engine in result['engines'].values() for name, number in engine['versions'].items()}
    return '\n'.join(
        [
            f'### {result["title"]}',
            '',
            *lines,
            '',
            *left_out_lines(result),
            f'Median of {result["settings"]["repeats"]} interleaved passes over all texts (least–greatest), after a first that '
            'compiles. Each text ends by itself. *tokens*: generated, ends included. *this package against it*: its speed '
            "over the other's, round by round. *texts equal*: token for token. This package is timed from texts to texts, "
            'the others from ids to ids. *side by side*: a batch a thread.',
            '',
            f'`{provenance["command"]}` · {provenance["machine"]} · {provenance["date"]} · Python {provenance["python"]} · '
            + ', '.join(f'{name} {number}' for name, number in sorted(versions.items())),
            '',
        ]
    )


def _pass_seconds(row):
    return [each['seconds'] for each in row['rounds']]


def targets_table(result):
    """What was to be reached, what was, and why not where not. Ratios are medians over rounds, of the shortest cache."""
    cache = min(result['settings']['cache_length'])
    ours = 'calm_jax', 'full depth', cache, None
    classifier = 'calm_jax', 'classifier', cache
    layers = result['shape']['layers']
    compiled = [
        row['compiled']['lower_seconds'] + row['compiled']['compile_seconds']
        for row in result['rows']
        if 'compile_seconds' in row['compiled']
    ]
    t5 = result['shape']['name'] == 't5_1_1'
    wanted = [
        ('full depth against transformers', 1, ('transformers', 'full depth', None, None), ours, '≥ 2.5×' if t5 else '≥ 2×'),
        *([('full depth against transformers', 32, ('transformers', 'full depth', None, None), ours, '≥ 1.6×')] if t5 else []),
        *(
            (CTRANSLATE2, size, ('ctranslate2 float32', 'full depth', None, None), ours, '> 1×')
            for size in result['settings']['batch_size']
        ),
        *(
            ('conditionals, nothing exits: full depth against it', size, ours, (*classifier, layers), '≥ 0.95×')
            for size in result['settings']['batch_size']
        ),
        (f'exit after one of {layers} layers (classifier) against full depth', 1, ours, (*classifier, 1), '≥ 2.5×'),
    ]
    lines = []
    for name, batch_size, slower, faster, target in wanted:
        found = [_row(result, batch_size, *each) for each in (slower, faster)]
        if None in found:
            continue
        ratio = statistics.median(a / b for a, b in zip(*map(step_seconds, found)))
        bound = float(target.strip('≥>× '))
        reached = 'yes' if ratio >= bound else f'no, {1 - ratio / bound:.0%} short'
        lines.append([name, batch_size, target, f'{ratio:.2f}×', reached])
    lines += pruning_lines(result, cache)
    if compiled:
        lines.append(['compile, any shape', 'all', '≤ 10 s', f'{max(compiled):.1f} s', 'yes' if max(compiled) <= 10 else 'no'])
    shape = result['shape']['name']
    missed = [(shape, name, batch_size) for name, batch_size, *_, reached in lines if reached.startswith('no')]
    why = [[reason, ''] for reason in dict.fromkeys(REASONS[each] for each in missed if each in REASONS)]
    return [
        '**Targets**',
        '',
        _line(['what', 'batch', 'target', 'measured', 'reached']),
        _line(['---'] * 5),
        *map(_line, lines),
        '',
        *(line for reason in why for line in reason),
    ]


def pruning_lines(result, cache):
    """What pruning was to cost beside the state measure, where both were timed."""
    lines = []
    for size in result['settings']['batch_size']:
        seconds = {}
        for name in ('state', 'softmax_gap', 'softmax_gap, fixed 256'):
            for layer in (1, 4):
                if (row := _row(result, size, 'calm_jax', name, cache, layer)) is not None:
                    seconds[name, layer] = step_seconds(row)
        if ('state', 4) not in seconds or ('softmax_gap, fixed 256', 4) not in seconds:
            continue
        times = {
            name: [(late - first) / 3 for late, first in zip(seconds[name, 4], seconds[name, 1])]
            for name in ('state', 'softmax_gap, fixed 256')
        }
        added = _median_ratio(times['softmax_gap, fixed 256'], times['state']) - 1
        lines.append(
            [
                'softmax, 256 ids kept: added to the time of a layer with the state measure, from the second on',
                size,
                '≤ 25%',
                f'{added:.0%}',
                'yes' if added <= 0.25 else 'no',
            ]
        )
        if size in (1, 32):
            bound = 1.1 if size == 1 else 1.35
            found = _median_ratio(seconds['softmax_gap, fixed 256', 4], seconds['state', 4])
            lines.append([PRUNED_EXIT, size, f'≤ {bound}×', f'{found:.2f}×', 'yes' if found <= bound else 'no'])
        if ('softmax_gap', 4) in seconds:
            found = _median_ratio(seconds['softmax_gap', 4], seconds['state', 4])
            once = statistics.median(
                mine - theirs for mine, theirs in zip(seconds['softmax_gap, fixed 256', 1], seconds['softmax_gap', 1])
            )
            lines.append(['unpruned softmax: exit after 4 layers against the state measure', size, '', f'{found:.2f}×', ''])
            lines.append(['once a step: ranking and gathering 256 ids', size, '', f'{1e3 * once:.2f} ms', ''])
    return lines


def _median_ratio(one, other):
    return statistics.median(mine / theirs for mine, theirs in zip(one, other))


def _row(result, batch_size, engine, setting, cache_length, exit_layer):
    wanted = engine, setting, cache_length, exit_layer, batch_size
    names = 'engine', 'setting', 'cache_length', 'exit_layer', 'batch_size'
    return next((row for row in result['rows'] if tuple(row[name] for name in names) == wanted), None)


def memory_table(memory):
    """Peak resident set of each engine in a fresh process, compilation included."""
    engines = list(dict.fromkeys((row['engine'], row['cache_length']) for row in memory))
    sizes = list(dict.fromkeys(row['batch_size'] for row in memory))
    peaks = {(row['engine'], row['cache_length'], row['batch_size']): row.get('peak_bytes') for row in memory}
    lines = [
        '**Peak memory** (resident, MiB; a fresh process that loads and decodes one batch at full depth)',
        '',
        _line(['engine', 'cache', *(f'batch {size}' for size in sizes)]),
        _line(['---', '---', *['---:'] * len(sizes)]),
    ]
    for engine, cache in engines:
        found = [peaks.get((engine, cache, size)) for size in sizes]
        lines.append(_line([engine, cache or _own_cache(engine), *(f'{peak / 2**20:.0f}' if peak else '' for peak in found)]))
    return [*lines, '']


def step_seconds(row):
    """Seconds of one step in each round."""
    return [(each['whole'] - each['first']) / (row['new_tokens'] - 1) for each in row['rounds']]


def step_bytes(result, row):
    """Bytes of decoder weights that one step of this row reads."""
    shape = result['shape']
    layers = row['exit_layer'] or shape['layers']
    heads = layers if row['setting'] in ('softmax_gap', 'weighted_contrast', 'divergent_contrast') else 1
    width = 1 if 'int8' in row['engine'] else 2 if '16' in result['engines'][row['engine']]['dtype'] else 4
    return width * (layers * shape['weights_per_layer'] + heads * shape['weights_of_head'])


def _cells(result, rows, row, limit):
    seconds = step_seconds(row)
    median = statistics.median(seconds)
    rate = step_bytes(result, row) / median
    compiled = row['compiled']
    return [
        row['engine'],
        row['setting'],
        row['exit_layer'] or '',
        row['cache_length'] or _own_cache(row['engine']),
        _spread([1e3 * each for each in seconds], 2),
        _spread([1e3 * each['first'] for each in row['rounds']], 0),
        f'{row["batch_size"] * row["new_tokens"] / statistics.median(each["whole"] for each in row["rounds"]):.0f}',
        _ratio(seconds, _reference(rows, row['engine'], row['cache_length'])),
        *(_ratio(seconds, _reference(rows, peer, None)) for peer in ('transformers', 'ctranslate2 float32')),
        f'{rate / 1e9:.1f}',
        f'{100 * rate / limit:.0f}%' if limit else '',
        f'{100 * row["tokens_equal"]:.0f}%' if 'tokens_equal' in row else '',
        _compile_cell(compiled),
        f'{compiled["memory_bytes"] / 2**20:.0f}' if compiled.get('memory_bytes') else '',
    ]


def _own_cache(engine):
    """Of a peer, which chooses the length itself."""
    return 'static' if engine == 'transformers compiled' else 'grows'


def _compile_cell(compiled):
    if 'first_call_seconds' in compiled:
        return f'{compiled["first_call_seconds"]:.1f}'
    return f'{compiled["lower_seconds"] + compiled["compile_seconds"]:.1f}' if 'compile_seconds' in compiled else ''


def _reference(rows, engine, cache_length):
    """Seconds a step, per round, of an engine at full depth."""
    wanted = engine, 'full depth', cache_length
    found = [row for row in rows if (row['engine'], row['setting'], row['cache_length']) == wanted]
    return step_seconds(found[0]) if found else None


def _ratio(seconds, reference):
    """How many times faster than the reference, round by round."""
    return _spread([theirs / mine for mine, theirs in zip(seconds, reference)], 2) if reference else ''


def _spread(values, digits):
    if len(values) == 1:
        return f'{values[0]:.{digits}f}'
    return f'{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})'


def _line(cells):
    return '| ' + ' | '.join(str(cell) for cell in cells) + ' |'
