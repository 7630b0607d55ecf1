"""The section of docs/results.md on rows in flight, from files of scripts/benchmarks/flight.py."""

from page import table

NOTES = {
    'cpu': '*used*: places of the batch that held a row still decoding. *layers*: that a token needed, and that a step ran, of '
    'any row. *decode*: speed against batches at full depth, prefill apart; *whole*: with prefill and all that the host does. '
    'p50 and p95: measured seconds from the insertion of a text to its last token; *had*, p95: until the host has it, which is '
    'when the batch ends, or when a part of the slots has been refilled. *first*: seconds of the first pass, which compiles.',
    'gpu': 'On this card a step of this size waits for launches, not for products: batches at full depth run as one graph of '
    'kernels, while each row that comes in costs some hundred small copies, and each conditional waits for the host.',
}


def flight_section(results: list[dict]) -> str:
    """A table a file, the oldest first, and what its numbers are."""
    parts = []
    for result in results:
        parts += [f'### {result["title"]}, {result["provenance"]["device"]}', '', *_table(result['rows']), '']
        parts += [NOTES['gpu'], ''] if result['provenance']['device'].startswith('gpu') else []
        provenance = result['provenance']
        parts += [
            f'`{provenance["command"]}` · {provenance["machine"]} · {provenance["date"]} · seed {provenance["seed"]} · '
            f'median of {provenance["repeats"]} interleaved repeats (least–greatest) · jax {provenance["jax"]}',
            '',
        ]
    return '\n'.join([NOTES['cpu'], '', *parts]).strip()


def _table(rows):
    names = [
        'batch',
        'way',
        'setting',
        'used',
        'layers',
        'run',
        'ms a step',
        'p50, s',
        'p95, s',
        'had, s',
        'decode',
        'whole',
        'first, s',
    ]
    lines = []
    for row in rows:
        speed = f'{row["decode_speed"]:.2f} ({row["decode_speed_least"]:.2f}–{row["decode_speed_greatest"]:.2f})'
        lines.append(
            [
                str(row['batch_size']),
                row['way'],
                row['setting'],
                f'{row["used"]:.2f}',
                f'{row["layers"]:.2f}',
                f'{row["executed"]:.2f}',
                f'{row["step_ms"]:.2f}',
                f'{row["latency_p50"]:.3g}',
                f'{row["latency_p95"]:.3g}',
                f'{row["landed_p95"]:.3g}',
                speed,
                f'{row["whole_speed"]:.2f}',
                f'{row["compile_and_first_seconds"]:.1f}',
            ]
        )
    return table(names, lines)
