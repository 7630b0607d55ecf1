"""What the sections of docs/results.md are written with: files, numbers, tables."""

import json

from calm_jax import formats


def read(path):
    """A JSON file."""
    return json.loads(path.read_text(encoding='utf-8'))


def certificate(path):
    """What a certificate holds. Raises ValueError for what is none that this calm_jax reads."""
    content = read(path)
    formats.check(content, 'certificate', str(path), shown=True)
    return content


def threshold_cell(content):
    """λ of a certificate as the tables show it."""
    valid = any(point['rejected'] for point in content['grid'])
    return cell(content['threshold']) if valid else 'full depth'


def cell(value):
    """A number or word as the tables show it."""
    return '–' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)


def table(heads, rows):
    """A Markdown table."""
    return [f'| {" | ".join(line)} |' for line in (heads, ['---'] * len(heads), *rows)]


def commands_of(facts):
    """Those of a study's runs, one after the other, in a fence."""
    return ['```', *(command for made in facts['commands'].values() for command in made), '```', '']


def studies(note, directories, lines_of):
    """A section: a note on all studies, then the lines of each."""
    lines = [note, '']
    for directory in directories:
        lines += lines_of(directory)
    return lines
