"""Scores generated texts against references, and says what they cost.

  calm evaluate --predictions out.jsonl --references ref.jsonl.gz --reference_field fr --metric bleu --metric rougeL

Predictions are records with a `text`, as `calm generate` writes them; references are records in the same order, from JSONL
or from seqio:TASK:SPLIT, whose texts are under `target`. A reference is a field, a template over fields such as
'{title}: {body}', or a field that holds a list of references.
"""

import collections
import json
from array import array

import numpy as np
from rich.console import Console
from rich.table import Table

from calm_jax.commands.provenance import origin
from calm_jax.data.jsonl import Template, value_of
from calm_jax.data.references import references
from calm_jax.data.sources import open_records
from calm_jax.files import write_json
from calm_jax.metrics import quality
from calm_jax.metrics.scores import score, unit
from calm_jax.outputs import check_file
from calm_jax.progress import progress

# What records of `calm generate` tell beside their text: field → (name, unit).
_COSTS = {
    'layers': ('layers', 'per token'),
    'flops': ('FLOPs', 'per example'),
    'flops_elbayad': ('FLOPs, Elbayad et al. 2020', 'per example'),
}


def add_arguments(parser):
    parser.add_argument('--predictions', required=True, help='JSONL (.gz, .xz) with a field text')
    parser.add_argument(
        '--references', required=True, help='JSONL (.gz, .xz), or seqio:TASK:SPLIT; one record for each prediction'
    )
    parser.add_argument(
        '--reference_field',
        required=True,
        action='append',
        help='field or template of the reference; a list, or the flag given again, adds references',
    )
    parser.add_argument(
        '--metric',
        required=True,
        action='append',
        help=f'one of {", ".join([*quality.CORPUS_METRICS, *quality.METRICS])}; may be given again',
    )
    parser.add_argument('--output', help='also write the values as JSON, which calm report draws as a table')
    parser.add_argument('--overwrite', action='store_true', help='replace the output if it exists')
    parser.add_argument('--quiet', action='store_true', help='no progress')


def run(args):
    if args.output:
        check_file(args.output, args.overwrite, [args.predictions, args.references])
    names = list(dict.fromkeys(args.metric))
    versions = {name: quality.metric_version(name) for name in names}
    templates = [Template(field) for field in args.reference_field]
    predictions, wanted = open_records(args.predictions), open_records(args.references)
    if len(predictions) != len(wanted):
        raise ValueError(
            f'{args.predictions} holds {len(predictions)} records, {args.references} {len(wanted)}: '
            'expected one reference record for each prediction, in the same order'
        )
    # Of each record only what is scored is kept: token lists are many times a text.
    texts, costs, ids = [], Costs(), []
    for i, record in enumerate(predictions):
        texts.append(_text(record, predictions.where(i)))
        costs.observe(record)
        ids.append(json.dumps(record.get('id')))
    reference_texts, reference_ids = [], []
    for i, record in enumerate(wanted):
        reference_texts.append(references(templates, record, wanted.where(i)))
        reference_ids.append(json.dumps(record.get('id')))
    _check_order(ids, reference_ids, predictions, wanted)
    columns, row = [], {'examples': len(texts)}
    for name in progress(names, 'metrics', quiet=args.quiet, unit='metric'):
        row[name] = score(name, texts, reference_texts)
        columns.append({'key': name, 'name': name, 'unit': unit(name)})
    for key, value in costs.means().items():
        row[key] = value
        columns.append(dict(zip(('key', 'name', 'unit'), (key, *_COSTS[key]))))
    columns.append({'key': 'examples', 'name': 'examples', 'unit': ''})
    Console().print(_table(columns, row))
    if args.output:
        _write(args, columns, row, versions)


def _check_order(ids, reference_ids, predictions, references):
    """Records are matched by their order: refuse what cannot be in the same one."""
    if ids != reference_ids and collections.Counter(ids) == collections.Counter(reference_ids):
        i = next(i for i, (first, second) in enumerate(zip(ids, reference_ids)) if first != second)
        raise ValueError(
            f'{predictions.where(i)} has id {ids[i]} and {references.where(i)} has id {reference_ids[i]}: '
            'the same ids in another order; sort the references as the predictions are'
        )


def _text(record, where):
    text = value_of(record, 'text', where)
    if not isinstance(text, str):
        raise ValueError(f'{where}: field "text" holds {json.dumps(text)[:40]}; expected a string')
    return text


class Costs:
    """Means of the costs that every record tells, 8 bytes a record and cost."""

    def __init__(self):
        self._told = {key: array('d') for key in _COSTS}
        self._lengths = array('q')
        self._records = 0

    def observe(self, record):
        """Counts one record."""
        self._records += 1
        for key, values in self._told.items():
            if isinstance(record.get(key), int | float):
                values.append(record[key])
        if isinstance(record.get('tokens'), list):
            self._lengths.append(len(record['tokens']))

    def means(self):
        """{cost: mean over records}; layers, which are a mean over a record's tokens, are weighed by tokens."""
        means = {key: float(np.mean(values)) for key, values in self._told.items() if len(values) == self._records}
        if 'layers' in means and len(self._lengths) == self._records and sum(self._lengths):
            means['layers'] = float(np.average(self._told['layers'], weights=self._lengths))
        return means


def _table(columns, row):
    table = Table('quantity')
    table.add_column('value', justify='right')
    table.add_column('unit')
    for column in columns:
        value = row[column['key']]
        table.add_row(column['name'], f'{value:,}' if isinstance(value, int) else _readable(value), column['unit'])
    return table


def _readable(value):
    return f'{value:.3e}' if abs(value) >= 1e6 else f'{value:,.4f}' if abs(value) < 10 else f'{value:,.2f}'


def _write(args, columns, row, versions):
    write_json(
        args.output,
        {
            'title': f'{args.predictions} against {args.references}',
            'columns': columns,
            'rows': [row],
            'provenance': {**origin('evaluate', args, seed=None), 'versions': versions},
        },
        make_folders=True,
    )
