"""Writes docs/results.md from the files of runs; nothing in it is typed by hand.

    python scripts/results_page.py --demo calm_demo --benchmark peers.json
    python scripts/results_page.py --experiments runs/multi30k/results --headline \\
        --classifier independent=runs/multi30k/classifier --classifier geometric=runs/multi30k/geometric

Every section is written from what is given; a section whose files are not given stays as the page has it. The run that is the
headline has the paper's numbers beside it, and is the README's table, between its two markers.
"""

import argparse
import functools
import itertools
import json
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / 'benchmarks'))
import vocabulary_section  # noqa: E402
from certified_section import certified_section  # noqa: E402
from compiling_section import compiling_section  # noqa: E402
from exits_section import exits_section  # noqa: E402
from flight_section import flight_section  # noqa: E402
from layer_section import layer_section  # noqa: E402
from page import cell, certificate, read, table, threshold_cell  # noqa: E402
from policy_section import policy_section  # noqa: E402
from steps_section import steps_section  # noqa: E402
from tables import markdown  # noqa: E402

PAPER = {  # Table 2 of CALM, WMT15 EN-FR, T5 8+8 layers, ε = .05: layers of 8, speed-up
    ('softmax_gap', 'textual', 0.1): (3.35, 2.01),
    ('state', 'textual', 0.1): (7.68, 1.00),
    ('classifier', 'textual', 0.1): (5.50, 2.05),
    ('softmax_gap', 'textual', 0.25): (1.76, 2.83),
    ('state', 'textual', 0.25): (2.84, 1.55),
    ('classifier', 'textual', 0.25): (2.97, 2.00),
    ('softmax_gap', 'risk', 0.02): (3.19, 2.10),
    ('state', 'risk', 0.02): (7.68, 1.00),
    ('classifier', 'risk', 0.02): (5.05, 1.97),
    ('softmax_gap', 'risk', 0.05): (1.96, 2.73),
    ('state', 'risk', 0.05): (2.72, 1.58),
    ('classifier', 'risk', 0.05): (3.08, 1.98),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--demo', type=Path, metavar='DIR', help='folder that `calm demo` wrote')
    parser.add_argument(
        '--benchmark',
        type=Path,
        action='append',
        default=[],
        metavar='FILE',
        help='JSON of scripts/benchmarks/peers.py or texts.py; repeatable',
    )
    parser.add_argument(
        '--flight',
        type=Path,
        action='append',
        default=[],
        metavar='FILE',
        help='JSON of scripts/benchmarks/flight.py; repeatable',
    )
    parser.add_argument(
        '--steps',
        type=Path,
        action='append',
        default=[],
        metavar='FILE',
        help='JSON of scripts/benchmarks/steps.py; repeatable',
    )
    parser.add_argument(
        '--reading',
        type=Path,
        action='append',
        default=[],
        metavar='FILE',
        help='JSON of `calm benchmark` at batch 1; repeatable',
    )
    parser.add_argument(
        '--compiling',
        type=Path,
        action='append',
        default=[],
        metavar='FILE',
        help='JSON of scripts/benchmarks/compiling.py; repeatable',
    )
    parser.add_argument(
        '--certified',
        type=Path,
        action='append',
        default=[],
        metavar='FILE',
        help='certificate with its measured speed; repeatable',
    )
    parser.add_argument('--certified_by', action='append', default=[], metavar='COMMAND', help='what made them; repeatable')
    parser.add_argument('--experiments', type=Path, metavar='DIR', help='folder of scripts/experiments.py')
    parser.add_argument(
        '--policy', type=Path, action='append', default=[], metavar='DIR', help='folder of scripts/policy_study.py; repeatable'
    )
    parser.add_argument(
        '--sub_layers',
        type=Path,
        action='append',
        default=[],
        metavar='FILE',
        help='of benchmarks/sub_layers.py, beside --policy',
    )
    parser.add_argument(
        '--exits', type=Path, action='append', default=[], metavar='DIR', help='folder of scripts/exits_study.py; repeatable'
    )
    parser.add_argument(
        '--layers', type=Path, action='append', default=[], metavar='DIR', help='folder of scripts/layer_study.py; repeatable'
    )
    parser.add_argument('--vocabularies', type=Path, metavar='DIR', help='folder of scripts/vocabularies.py')
    parser.add_argument(
        '--headline', action='store_true', help='of the experiments: compare with the paper, write the table of the README'
    )
    parser.add_argument('--figures', type=Path, metavar='DIR', help='figures that `calm report` drew of the experiments')
    parser.add_argument('--classifier', action='append', default=[], metavar='NAME=DIR', help='model folders of classifiers')
    parser.add_argument('--trained_by', action='append', default=[], metavar='COMMAND', help='what made the model; repeatable')
    parser.add_argument('--output', type=Path, default=Path(__file__).parents[1] / 'docs' / 'results.md')
    parser.add_argument('--readme', type=Path, default=Path(__file__).parents[1] / 'README.md')
    args = parser.parse_args()
    sections = parts(args.output.read_text(encoding='utf-8') if args.output.exists() else '', '##')
    if args.demo:
        sections['The demonstration'] = demo_section(args.demo)
    if args.benchmark:
        compared = parts(sections.get('Time against other engines', ''), '###')
        compared |= {result['title']: markdown(result).partition('\n')[2].strip() for result in map(read, args.benchmark)}
        sections['Time against other engines'] = joined(compared, '###')
    if args.flight:
        sections['Rows in flight'] = flight_section(list(map(read, args.flight)))
    if args.steps or args.reading:
        sections['Steps and what bounds them'] = steps_section(list(map(read, args.steps)), list(map(read, args.reading)))
    if args.compiling:
        sections['Loading and compiling'] = compiling_section(list(map(read, args.compiling)))
    if args.certified:
        sections['Certified at the batch size that is used'] = certified_section(
            [certificate(path) for path in args.certified], args.certified_by
        )
    if args.experiments:
        facts = read(args.experiments / 'experiments.json')
        sections[facts['title']] = experiments_section(args, facts)
    if args.policy:
        sections['Plans by a policy (Switchable Decision)'] = policy_section(args.policy, list(map(read, args.sub_layers)))
    if args.layers:
        sections['Layers of a frozen model (Dynamic layer selection)'] = layer_section(args.layers, args.output.parent)
    if args.exits:
        sections['One checkpoint, sooner: adapters and exact self-speculation'] = exits_section(args.exits)
    if args.vocabularies:
        facts = read(args.vocabularies / 'vocabularies.json')
        figures = args.output.parent / 'figures' / args.vocabularies.resolve().parent.name
        figures.mkdir(parents=True, exist_ok=True)
        drawn = [
            Path(shutil.copy(figure, figures)).relative_to(args.output.parent)
            for figure in sorted((args.vocabularies / 'inside_figures').glob('*.png'))
        ]
        sections[facts['title']] = vocabulary_section.section(args.vocabularies, facts, drawn, args.trained_by)
    head = '# Results\n\nWritten by `scripts/results_page.py` from the files of the runs named below.\n\n'
    args.output.write_text(head + joined(sections, '##') + '\n', encoding='utf-8')
    print(args.output)
    if args.figures:
        copy_figures(args.figures, figure_folder(args))
    if args.headline:
        write_readme_table(args.readme, args.experiments)


def parts(text, marks):
    """{title: text} of the parts of a page whose headings have these marks."""
    found = re.split(rf'^{marks} (.*)\n', text, flags=re.MULTILINE)[1:]
    return {title: part.strip() for title, part in zip(found[::2], found[1::2])}


def joined(sections, marks):
    """The inverse of `parts`."""
    return '\n\n'.join(f'{marks} {title}\n\n{text}' for title, text in sections.items())


def demo_section(directory):
    """The table of `calm demo`."""
    results = read(directory / 'results.json')
    heads = [f'{column["name"]} {column["unit"]}'.strip() for column in results['columns']]
    rows = [[cell(row[column['key']]) for column in results['columns']] for row in results['rows']]
    provenance = results['provenance']
    return '\n'.join(
        [
            results['title'] + '.',
            '',
            *table(heads, rows),
            '',
            f'`{provenance["command"]}` · {provenance["machine"]} · {provenance["date"]} · seed {provenance["seed"]}',
        ]
    )


def experiments_section(args, facts):
    """Everything on one trained model."""
    directory, folder = args.experiments, figure_folder(args).name
    drawn = (
        [f'![{figure.stem}](figures/{folder}/{figure.name})' for figure in chosen_figures(args.figures)] if args.figures else []
    )
    title = f'Machine: {facts["machine"]}; {facts["date"]}; seed 0; metric {facts["metric"]}; ε = {facts["epsilon"]:g}.'
    caption = (
        f'Layers and FLOPs per token are those on the calibration data; {facts["report"]} and mean loss are those on '
        'the test data, the loss being the one that the certificate bounds by δ. The first test set is drawn as the '
        'calibration data are; a loss above δ on another one is shift.'
    )
    lines = [
        title,
        '',
        '### Within a certificate',
        '',
        caption,
        '',
        *certified_table(directory, facts, args.headline),
        '',
        '### The promise kept: 50 random 80/20 trials',
        '',
        *trials_table(directory),
        '',
        *drawn,
        '',
        '### Bounds: the oracle, and the same depth for every token',
        '',
        *bounds_table(directory),
        '',
        '### Commands',
        '',
        '```',
        *args.trained_by,
        *facts['commands'].values(),
        '```',
        '',
    ]
    for each in args.classifier:
        lines += classifier_section(*each.split('=', 1))
    return '\n'.join(lines).strip()


def figure_folder(args):
    """Where the page keeps the figures of one run: runs/NAME/results → figures/NAME."""
    return args.output.parent / 'figures' / args.experiments.resolve().parent.name


def chosen_figures(directory):
    """Of a report's figures those of the paper: quality against layers (Fig. 3), validity of the trials (Fig. B.1–B.2)."""
    return sorted([*directory.glob('tradeoff_1_quality_layers.png'), *directory.glob('validity_*.png')])


def copy_figures(directory, output):
    """Puts the chosen figures beside the page."""
    output.mkdir(parents=True, exist_ok=True)
    for figure in chosen_figures(directory):
        shutil.copy(figure, output)


def certified_table(directory, facts, published):
    """One row per measure and promise: what was certified, and what it gave on every test set."""
    heads = [
        'measure',
        'objective',
        'δ',
        'λ (HB)',
        'λ (betting)',
        'share of δ',
        'layers',
        'FLOPs',
        'Elbayad FLOPs',
        'speed-up b1',
        'speed-up b32',
        *(f'{name}: {facts["report"]} (full), mean loss' for name in facts['tests']),
        *(['paper: layers of 8, speed-up'] if published else []),
    ]
    rows = []
    for (objective, tolerance), measure in itertools.product(facts['promises'], facts['measures']):
        stem = f'{objective}_{tolerance}'
        folder = directory / 'calibrated' / measure
        certificates = {p: certificate(folder / f'certificate_{stem}_{p}.json') for p in ('hoeffding_bentkus', 'betting')}
        curve = read(folder / 'curve.json')
        betting = certificates['betting']
        point = point_of(folder / 'curve.json', curve, betting)
        rows.append(
            [
                measure,
                objective,
                cell(tolerance),
                *(threshold_cell(certificates[p]) for p in certificates),
                cell(betting['tolerance_used']),
                cell(point['layers']),
                *(f'×{curve["full"][kind] / point[kind]:.2f}' for kind in ('flops', 'flops_elbayad')),
                *speed_ups(directory, folder / f'certificate_{stem}_betting.json'),
                *(
                    test_cell(
                        directory / 'test' / name,
                        f'{measure}_{stem}_betting',
                        objective,
                        facts,
                        references(path, facts['test_field']),
                    )
                    for name, path in facts['tests'].items()
                ),
                *(['{}, ×{}'.format(*PAPER[measure, objective, tolerance])] if published else []),
            ]
        )
    return table(heads, rows)


def write_readme_table(readme, directory):
    """The certified speed-ups in short, in place of what stands between the README's markers."""
    facts = read(directory / 'experiments.json')
    name, test = next(iter(facts['tests'].items()))
    layers = read(directory / 'calibrated' / 'softmax_gap' / 'curve.json')['num_layers']
    rows = []
    for measure, objective, tolerance in PAPER:
        stem = f'{objective}_{tolerance}_betting'
        folder = directory / 'calibrated' / measure
        curve, path = read(folder / 'curve.json'), folder / f'certificate_{stem}.json'
        point = point_of(folder / 'curve.json', curve, certificate(path))
        early, full = (
            read(directory / 'test' / name / each / 'results.json')['rows'][0]['bleu'] for each in (f'{measure}_{stem}', 'full')
        )
        rows.append(
            [
                measure,
                f'{objective}, δ = {tolerance}',
                f'{point["layers"]:.2f}',
                f'{1 - point["flops"] / curve["full"]["flops"]:.0%}',
                'full depth' if point['decoding'] == curve['full']['decoding'] else speed_ups(directory, path)[0],
                f'{early:.1f} ({full:.1f})',
            ]
        )
    heads = ['measure', 'promise, ε = .05', f'layers of {layers}', 'FLOPs saved', 'speed, batch 1 (full: ×1)', 'BLEU (full)']
    before, start, rest = readme.read_text(encoding='utf-8').partition('<!-- results -->\n')
    _, end, after = rest.partition('<!-- end -->')
    if not (start and end):
        raise ValueError(f'{readme}: expected the markers <!-- results --> and <!-- end -->')
    caption = f'English to French on Multi30k, {facts["metric"]}, test set {name}; {facts["machine"]}, {facts["date"]}:'
    inside = '\n'.join([caption, '', *table(heads, rows), ''])
    readme.write_text(before + start + inside + end + after, encoding='utf-8')


def point_of(path, curve, certified):
    """Layers and FLOPs at the certified point; ValueError where the curve does not hold it."""
    for point in (*curve['points'], curve['full']):
        if point['decoding'] == certified['decoding']:
            return point
    raise ValueError(f'{path}: no point is decoded as was certified; repeat `calm calibrate` on its records')


@functools.cache
def references(path, field):
    """Per example, its reference texts."""
    from calm_jax.data.jsonl import Template
    from calm_jax.data.references import references as texts_of
    from calm_jax.data.sources import open_records

    records, template = open_records(path), Template(field)
    return [texts_of([template], record, records.where(i)) for i, record in enumerate(records)]


def test_cell(folder, stem, objective, facts, wanted):
    """Quality under the certificate and of the full model, and the mean over examples of the loss that is bounded."""
    from calm_jax.data.jsonl import Records
    from calm_jax.metrics.objective import Objective

    early, full = (read(folder / name / 'results.json')['rows'][0] for name in (stem, 'full'))
    texts = [[record['text'] for record in Records(folder / name / 'out.jsonl')] for name in (stem, 'full')]
    loss = Objective(objective, [facts['metric']], wanted).losses(*texts).mean()
    return f'{early[facts["report"]]:.3g} ({full[facts["report"]]:.3g}), {loss:.3f}'


def speed_ups(directory, path):
    """Ratios to full depth at batch 1 and 32, as timed under the certificate in a file."""
    rows = {(row['batch_size'], row['setting']): row for row in read(directory / 'time.json')['rows']}
    return [f'×{rows[size, f"certificate {path}"]["speed_up"]:.2f}' for size in (1, 32)]


def trials_table(directory):
    """Shares of trials whose means exceed δ; risk and layers with their deviations."""
    heads = ['measure', 'objective', 'δ', 'test mean > δ', 'pool mean > δ', 'risk', 'layers']
    rows = []
    for path in sorted((directory / 'trials').rglob('trials.json')):
        trials = read(path)
        rows += [
            [
                trials['label'],
                trials['objective'],
                cell(row['tolerance']),
                f'{row["share_test_above"]:.0%}',
                f'{row["share_pool_above"]:.0%}',
                f'{row["risk_mean"]:.4f} ± {row["risk_std"]:.4f}',
                f'{row["layers_mean"]:.2f} ± {row["layers_std"]:.2f}',
            ]
            for row in trials['tolerances']
        ]
    return table(heads, rows)


def bounds_table(directory):
    """Layers and scores of the oracle and of static depths."""
    from calm_jax.metrics.quality import CORPUS_METRICS, METRICS

    found = {folder.name: read(folder / 'results.json')['rows'][0] for folder in sorted((directory / 'bounds').iterdir())}
    scores = [key for key in next(iter(found.values())) if key in CORPUS_METRICS or key in METRICS]
    return table(
        ['decoding', 'layers', *scores],
        [[name, *(cell(row[key]) for key in ('layers', *scores))] for name, row in found.items()],
    )


def classifier_section(name, directory):
    """ "Don't exit" F1 of the exit classifier, layer by layer, from the last line of its training log."""
    logged = [json.loads(line) for line in (Path(directory) / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()]
    last = [line['eval'] for line in logged if 'eval' in line][-1]
    heads = [f'layer {layer + 1}' for layer in range(len(last['dont_exit_f1_by_layer']))]
    return [
        f'### Exit classifier, {name} objective: "don\'t exit" F1',
        '',
        *table(heads, [[f'{value:.2f}' for value in last['dont_exit_f1_by_layer']]]),
        '',
    ]


if __name__ == '__main__':
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'results_page: {error}')
