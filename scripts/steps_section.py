"""The section of docs/results.md on steps beside what they cannot go below: their products, and reading their weights."""

from page import table

HEADS = ['batch', 'measure', 'layers', 'step, ms', 'its products, ms', 'over products', 'time', 'multiply-adds', 'weight bytes']
NOTE = (
    'A step in a batch whose rows leave after geometric draws, packed as the default packs; *its products*: the time of the '
    'matrix products that it ran, each alone at the rows that it ran for, in the same process. The last three columns are '
    'shares of full depth: of its time, of the multiply-adds of those products, and of the bytes of kernels that they read. '
    'What a step has besides: scores and values of attention, norms, and the waiting for threads at each product, which takes '
    'longer there than where it follows itself.'
)


def steps_section(results: list[dict], readings: list[dict]) -> str:
    """A table a file of steps, and what `calm benchmark` said of a step at batch 1."""
    parts = []
    for result in results:
        provenance = result['provenance']
        parts += [f'### {result["title"]}', '', NOTE, '', *table(HEADS, [_row(row) for row in result['rows']]), '']
        parts += [
            f'`{provenance["command"]}` · {provenance["machine"]} · {provenance["date"]} · seed {provenance["seed"]} · '
            f'median of {provenance["repeats"]} interleaved repeats · jax {provenance["jax"]}',
            '',
        ]
    if readings:
        parts += ['### A step at batch 1 and the reading of its weights', '']
        heads = ['model', 'step, ms', 'weights read in, ms', 'share', 'weights, MB']
        parts += [*table(heads, [_reading(result) for result in readings]), '']
    for result in readings:
        provenance = result['provenance']
        parts += [f'`{provenance["command"]}` · {provenance["machine"]} · {provenance["date"]}', '']
    return '\n'.join(parts).strip()


def _row(row):
    numbers = [f'{row[name]:.2f}' for name in ('step_ms', 'products_ms', 'over_products')]
    shares = [f'{row[name]:.2f}' for name in ('time_share', 'multiply_add_share', 'weight_share')]
    return [str(row['batch_size']), row['measure'], f'{row["depth"]:g}', *numbers, *shares]


def _reading(result):
    read = result['step_reading']
    name = result['title'].partition(':')[0]
    return [name, *(f'{read[each]:.2f}' for each in ('step_ms', 'read_ms', 'share')), f'{read["weight_bytes"] / 1e6:.0f}']
