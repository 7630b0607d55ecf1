"""What the sections of docs/results.md are written with: files, numbers, tables."""

import json


def read(path):
    """A JSON file."""
    return json.loads(path.read_text(encoding='utf-8'))


def cell(value):
    """A number or word as the tables show it."""
    return '–' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)


def table(heads, rows):
    """A Markdown table."""
    return [f'| {" | ".join(line)} |' for line in (heads, ['---'] * len(heads), *rows)]
