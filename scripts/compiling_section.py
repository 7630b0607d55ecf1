"""The section of docs/results.md on loading a checkpoint and making its programs."""

from page import table


def compiling_section(results: list[dict]) -> str:
    """A table a file of `scripts/benchmarks/compiling.py`."""
    parts = []
    for result in results:
        heads = ['way to decode', 'tracing and compiling, s', 'first text in all, s', 'next text, s']
        rows = [[row['way'], *(f'{row[name]:.2f}' for name in ('compile', 'first', 'next'))] for row in result['rows']]
        made = result['provenance']
        parts += [f'### {result["title"]}, {result["layers"]} layers', '', f'Loading takes {result["load"]:.1f} s.', '']
        parts += [*table(heads, rows), '']
        parts += [f'`{made["command"]}` · {made["machine"]} · {made["date"]} · jax {made["jax"]} · no program was kept', '']
    return '\n'.join(parts).strip()
