"""How far a choice of depth by text could go: `calm analyze oracle`, over the outputs of several plans.

    calm analyze oracle --predictions full=full.jsonl --predictions half=half.jsonl --predictions quarter=quarter.jsonl \\
        --references test.jsonl --reference_field fr --metric rougeL --output oracle.json

NAME=FILE is what `calm generate` wrote within a plan, of the same inputs in the same order. Costs are mean layers per text, as
recorded, or --cost NAME=LAYERS. The oracle gives each text a plan so that the mean score is the highest that a budget of mean
layers allows, at every budget; the greedy oracle gives each text the best plan within the budget; mixing is what drawing
plans at random comes to. A NAME that is given twice has two decodes, drawn with different seeds: then there is the attainable
oracle, which chooses by one and is scored by the other, and the informed one, which chooses by what one predicts of the other.
"""

import argparse
from typing import Any

from calm_jax import prediction_sets
from calm_jax.analysis import oracle
from calm_jax.commands import own
from calm_jax.commands.flag_types import numbers, positive
from calm_jax.commands.plain_table import plain_table
from calm_jax.commands.provenance import origin
from calm_jax.files import write_json
from calm_jax.metrics import quality
from calm_jax.outputs import check_file

_ROWS = {
    'static': 'costliest plan',
    'mixing': 'mixing',
    'greedy': 'greedy',
    'oracle': 'oracle',
    'attainable': 'attainable',
    'informed': 'informed',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `calm analyze oracle`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        '--predictions',
        required=True,
        action='append',
        metavar='NAME=FILE',
        help='outputs within a plan, JSONL (.gz, .xz); for each plan once, or twice for two decodes',
    )
    parser.add_argument('--references', required=True, metavar='FILE', help='JSONL (.gz, .xz), or seqio:TASK:SPLIT')
    parser.add_argument(
        '--reference_field',
        required=True,
        action='append',
        metavar='FIELD',
        help='field or template of the reference; a list, or the flag given again, adds references',
    )
    parser.add_argument(
        '--metric', default='rougeL', metavar='NAME', help='one value per text, or package.module:function (default rougeL)'
    )
    parser.add_argument('--cost', action='append', metavar='NAME=LAYERS', help='mean layers of a plan (default: as recorded)')
    parser.add_argument(
        '--num_layers', type=positive, metavar='L', help='decoder layers of the model (default: the deepest exit recorded)'
    )
    parser.add_argument('--budgets', metavar='β,β,…', help='of mean layers, to print beside those of the plans')
    parser.add_argument('--token_budgets', metavar='β,β,…', help='the same, of mean layers × tokens')
    parser.add_argument(
        '--lengths',
        choices=prediction_sets.LENGTHS,
        default='output',
        help='what the plans that are chosen are binned by: tokens of the costliest plan’s output, or words of the reference',
    )
    parser.add_argument('--label', metavar='NAME', help='of the data in figures (default: the file of references)')
    parser.add_argument('--output', required=True, metavar='FILE', help='JSON to write, which `calm report` draws')
    parser.add_argument('--overwrite', action='store_true', help='replace the output if it exists')
    parser.add_argument('--quiet', action='store_true', help='no progress, and nothing printed')


def run(args: argparse.Namespace) -> None:
    """Writes oracle.json, and prints what it holds at the budgets that have a name."""
    files: dict[str, list[str]] = {}
    for name, path in (_named(each, '--predictions', 'NAME=FILE') for each in args.predictions):
        files.setdefault(name, []).append(path)
    check_file(args.output, args.overwrite, [args.references, *(path for paths in files.values() for path in paths)])
    metric = own.metric(args.metric)
    costs = dict(_cost(each) for each in args.cost or ())
    budgets = numbers(args.budgets, '--budgets') if args.budgets else []
    token_budgets = numbers(args.token_budgets, '--token_budgets') if args.token_budgets else []
    sets, depth = prediction_sets.read(
        files,
        args.references,
        args.reference_field,
        metric,
        costs=costs,
        num_layers=args.num_layers,
        lengths=args.lengths,
        quiet=args.quiet,
    )
    content = {
        'analysis': 'oracle',
        'label': args.label or args.references,
        'metric': quality.metric_name(metric),
        'lengths_of': args.lengths,
        **oracle.study(sets, depth, budgets, token_budgets),
        'provenance': {
            **origin('analyze oracle', args, seed=None),
            'versions': {quality.metric_name(metric): quality.metric_version(metric)},
        },
    }
    write_json(args.output, content, make_folders=True)
    if not args.quiet:
        print('\n'.join(_lines(content)))


def _named(text: str, flag: str, expected: str) -> tuple[str, str]:
    name, equals, value = text.partition('=')
    if not name or not equals or not value:
        raise ValueError(f'{flag} {text!r}: expected {expected}')
    return name, value


def _cost(text: str) -> tuple[str, float]:
    name, value = _named(text, '--cost', 'NAME=LAYERS')
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f'--cost {text!r}: expected NAME=LAYERS, LAYERS a number') from None


def _lines(content: dict[str, Any]) -> list[str]:
    """What is printed: a table by budget, where the oracle matches the full plan, lengths, and layers × tokens."""
    curves, plans, match = content['by_layers'], content['plans'], content['match']
    rows = [['layers', *(name for key, name in _ROWS.items() if key in curves), *(f'{plan["name"]} %' for plan in plans)]]
    for place, budget in enumerate(curves['budgets']):
        if budget in curves['named'] or budget == match['budget']:
            shares = [f'{100 * share:.1f}' for share in curves['shares'][place]]
            rows.append([f'{budget:.4g}', *(_score(curves[key][place]) for key in _ROWS if key in curves), *shares])
    lines = [plain_table(rows, numbers=range(len(rows[0]))), '']
    lines.append(
        f'the oracle scores what {plans[-1]["name"]} does ({_score(plans[-1]["score"])}) with {match["budget"]:.4g} of '
        f'{content["num_layers"]} layers ({match["of_layers"]:.1%})'
    )
    if not curves['exact']:
        lines.append(f'costs have no common unit: the oracle is within {curves["gap"]:.2g} of the best at each budget')
    lines += [_settled(each, 'layers') for each in curves['settled']]
    for each in sorted(content['lengths'], key=lambda each: each['budget']):
        if each['p_value'] is not None:
            lines.append(
                f'plans by length at {each["budget"]:.4g} layers: χ² {each["statistic"]:.2f} at {each["degrees"]} degrees of '
                f'freedom, p = {each["p_value"]:.3g}'
            )
    if 'by_tokens' in content:
        tokens = content['by_tokens']
        lines.append(
            f'by layers × tokens the oracle is within {tokens["gap"]:.2g} of the hull; it matches at {tokens["match"]:.4g}'
        )
        lines += [_settled(each, 'layers × tokens') for each in tokens['settled']]
    return lines


def _settled(each: dict[str, float], unit: str) -> str:
    score = f'{each["score"]:.6f}' if each['bound'] <= each['score'] else f'{each["score"]:.6f}…{each["bound"]:.6f}'
    return f'  at {each["budget"]:.4g} {unit} the best is {score}'


def _score(value: float | None) -> str:
    return '–' if value is None else f'{value:.4f}'
