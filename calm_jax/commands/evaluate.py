"""Scores generated texts against references, and says what they cost.

  calm evaluate --predictions out.jsonl --references ref.jsonl.gz --reference_field fr --metric bleu --metric rougeL

Predictions are records with a `text`, as `calm generate` writes them; references are records in the same order, from JSONL
or from seqio:TASK:SPLIT, whose texts are under `target`. A reference is a field, a template over fields such as
'{title}: {body}', or a field that holds a list of references. A metric of one's own is --metric package.module:function, a
function of predictions (B texts) and references (for each a list of texts) that returns B numbers in [0, 1].
"""

import argparse
import json

from calm_jax.commands import own
from calm_jax.commands.plain_table import plain_table
from calm_jax.commands.provenance import origin
from calm_jax.evaluation import Evaluation, evaluate_file
from calm_jax.files import write_json
from calm_jax.metrics import quality
from calm_jax.outputs import check_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `calm evaluate`."""
    parser.add_argument('--predictions', required=True, metavar='FILE', help='JSONL (.gz, .xz) with a field text')
    parser.add_argument(
        '--references',
        required=True,
        metavar='FILE',
        help='JSONL (.gz, .xz), or seqio:TASK:SPLIT; one record for each prediction',
    )
    parser.add_argument(
        '--reference_field',
        required=True,
        action='append',
        metavar='FIELD',
        help='field or template of the reference; a list, or the flag given again, adds references',
    )
    parser.add_argument(
        '--metric',
        required=True,
        action='append',
        metavar='NAME',
        help=f'one of {", ".join([*quality.CORPUS_METRICS, *quality.METRICS])}, or package.module:function; may be given again',
    )
    parser.add_argument('--json', action='store_true', help='print what --output writes, in place of the table')
    parser.add_argument('--output', metavar='FILE', help='also write the values as JSON, which calm report draws as a table')
    parser.add_argument('--overwrite', action='store_true', help='replace the output if it exists')
    parser.add_argument('--quiet', action='store_true', help='no progress')


def run(args: argparse.Namespace) -> None:
    """Prints the values, as a table or as JSON, and writes them."""
    if args.output:
        check_file(args.output, args.overwrite, [args.predictions, args.references])
    metrics = [own.metric(each) for each in dict.fromkeys(args.metric)]
    evaluation = evaluate_file(args.predictions, args.references, metrics, args.reference_field, quiet=args.quiet)
    title = f'{args.predictions} against {args.references}'
    provenance = {**origin('evaluate', args, seed=None), 'versions': evaluation.versions}
    content = {'title': title, **evaluation.as_dict(), 'provenance': provenance}
    print(json.dumps(content, indent=2, ensure_ascii=False) if args.json else table(evaluation))
    if args.output:
        write_json(args.output, content, make_folders=True)


def table(evaluation: Evaluation) -> str:
    """The values with their units, one a row."""
    rows = [['quantity', 'value', 'unit']]
    for column in evaluation.columns:
        value = evaluation.values[column['key']]
        rows.append([column['name'], f'{value:,}' if isinstance(value, int) else _readable(value), column['unit']])
    return plain_table(rows, numbers=[1])


def _readable(value: float) -> str:
    return f'{value:.3e}' if abs(value) >= 1e6 else f'{value:,.4f}' if abs(value) < 10 else f'{value:,.2f}'
