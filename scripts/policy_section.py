"""The section of docs/results.md on policies, from the folders of `scripts/policy_study.py`."""

import json

import numpy as np
from page import cell, commands_of, read, studies, table

# What the paper has (Zhang et al. 2024): rows of its tables by the name of a run; FLOPs of the full model's.
PAPER = {
    'dialogsum': {
        'full': 'CNN/DM: 40.90, 100%',
        'policy': 'CNN/DM: 41.01, 61.1%; XSum: 37.30 (37.25), 81.9%',
        'exits': 'CALM, CNN/DM: 40.54, 80.5%',
        'lead_3': 'CNN/DM: 36.67; XSum: 11.95',
        'half': 'BART-student, CNN/DM: 41.01, 93.1%',
        'random': 'CNN/DM: 38.72, 75.3%',
        'encoder_only': 'CNN/DM: 40.95, 91.9%',
        'decoder_only': 'CNN/DM: 40.86, 90.3%',
        'tokens_only': 'CNN/DM: 40.92, 71.5%',
        'fixed_0.2': 'CNN/DM: 40.88, 77.8%',
        'fixed_1.0': 'CNN/DM: 40.57, 68.5%',
        'fixed_1.5': 'CNN/DM: 38.39, 49.4%',
        'layerwise': 'CNN/DM: 40.97, 61.8%',
    },
    'sst2': {'full': '96.6, 100%', 'policy': '96.6, 80.7%'},
    'cnndm': {
        'full': 'LLaMA: 46.68, 100%',
        'policy': 'LLaMA: 46.73, 77.6%; GPT-2: 25.93 (25.81), 74.5%; T5: 39.61 (39.40), 74.5%',
    },
    'xsum': {'full': '37.25, 100%', 'policy': '37.30, 81.9%', 'lead_3': '11.95'},
    'squad': {'full': 'spans, BART: EM 88.8, F1 94.6, 100%', 'policy': 'spans, BART: EM 88.7, F1 94.5, 80.5%'},
}
SKIPPED = {
    'dialogsum': '8.50%, 11.13%, 28.75% (CNN/DM)',
    'sst2': '13.30%, 13.54%, 7.18%',
    'squad': '10.21%, 11.93%, 9.02% (spans)',
}
TIMES = 'BART large on eight V100s: 406M and 423M parameters, 16.8G and 17.6G, 1.20 and 1.48 s a training step, 10.3 and 5.1 s'
# What the paper measured and this page does not, by its tables: (what, how it would be run, what is missing).
NOT_RUN = (
    ('4, 13: MNLI', '`calm train --gin_file=runs/policy_mnli.gin …`', 'data; BART large'),
    ('4, 13: RTE', '`calm train --gin_file=runs/policy_rte.gin …`', 'data; BART large'),
    ('4, 13: SST-2', '`calm train --gin_file=runs/policy_sst2.gin …`', 'BART large'),
    ('5, 14: SQuAD 1.1 by spans', '`calm train --gin_file=runs/policy_squad.gin …`', 'BART large'),
    ('5, 14: SQuAD 2.0', '`calm train --gin_file=runs/policy_squad.gin …`', 'data; BART large'),
    ('12: CNN/DailyMail and XSum in full', '`calm train --gin_file=runs/policy_cnndm.gin …`', 'all of the data; BART large'),
)
LIMIT, WORSE = 0.65, -0.01  # share of FLOPs, and what the interval of the difference to full may not reach
GROUPS = (
    (
        'What it saves and what it costs',
        (
            'full',
            'policy',
            'policy_alone',
            'uniform',
            'constant',
            'random',
            'searched',
            'exits',
            'policy_and_exits',
            'policy_risk',
            'policy_textual',
            'half',
            'lead_3',
        ),
    ),
    ('What is decided', ('encoder_only', 'decoder_only', 'tokens_only', 'layerwise')),
    ('How it is learned', ('barrier', 'printed', *(f'fixed_{each}' for each in (0.2, 0.5, 0.8, 1.0, 1.5)))),
    ('How its gradient is estimated', ('leave_one_out', 'straight_through')),
    ('How much loss is allowed', ('tolerance_0.1', 'tolerance_0.2')),
)
RIVALS = ('uniform', 'constant', 'random', 'searched')
ROUNDS = 10_000  # of the bootstrap


def policy_section(directories, packed=()):
    """All studies, one after the other. packed: files of `scripts/benchmarks/sub_layers.py`."""
    note = (
        'Every run starts from the study’s checkpoint and trains as many steps (that of the summaries has learned to read '
        'first: `scripts/reading_base.sh`); FLOPs are the mean over the test texts of what a text took, as counted, over what '
        'the full model takes for a text of as many tokens. Differences are to `full` on the same texts, with the 95 % '
        'interval of a paired bootstrap. Skipped are shares of attentions, feed-forwards and source tokens, plans how many '
        'different ones the test texts got.'
    )
    lines = studies(note, directories, study_lines)
    for each in packed:
        lines += packed_lines(each)
    lines += ['### Tables of the paper that were not run', '', *table(['table', 'command', 'missing'], map(list, NOT_RUN)), '']
    return '\n'.join(lines).strip()


def study_lines(directory):
    """One study."""
    facts, scores = read(directory / 'study.json'), scores_of(directory)
    if not scores:
        return []
    metric, *others = facts['metrics']
    lines = heading(facts, scores)
    heads = ['run', metric, 'Δ to full', *others, 'FLOPs', 'layers', 'skipped att., ff., tokens', 'plans', 'paper']
    for title, names in GROUPS:
        rows = [
            row_of(name, scores, facts, metric, others, PAPER.get(facts['study'], {}).get(name.split(' ')[0], ''))
            for name in scores
            if name.split(' ')[0] in names
        ]
        if rows:
            lines += [f'**{title}.**', '', *table(heads, rows), '']
    rivals = [name for name in RIVALS if name in scores and 'policy' in scores]
    if rivals:
        said = (
            f'{name} {interval(scores["policy"]["each"], scores[name]["each"])} ({scores["policy"]["share"]:.1%} of the FLOPs '
            f'against {scores[name]["share"]:.1%})'
            for name in rivals
        )
        lines += [f'The policy (seed 0) less what it has to beat: {"; ".join(said)}.', '', *beaten(scores, metric, rivals), '']
    lines += verdict(scores, metric)
    if 'policy' in scores and scores['policy'].get('choices'):
        counts = scores['policy']['choices']
        said = ', '.join(f'{name}: {count}' for name, count in sorted(counts.items(), key=lambda each: -each[1]))
        paper = f' Skipped in the paper: {SKIPPED[facts["study"]]}.' if facts['study'] in SKIPPED else ''
        lines += [f'Choices of source tokens: {said}.{paper}', '']
    if (step := converged(directory / 'policy' / 'model' / 'metrics.jsonl')) is not None:
        lines += [
            f'The cost of the policy’s plans stays within 5 % of its last value from step {step} on (paper, §6.1: 5,000).',
            '',
        ]
    steps = {name: seconds_per_step(directory / name / 'model' / 'metrics.jsonl') for name in ('full', 'policy')}
    if all(steps.values()):
        lines += [
            f'A training step takes {steps["policy"]:.2f} s along with the policy and {steps["full"]:.2f} s without (median; '
            f'beside other jobs). Paper: {TIMES} a batch of inference.',
            '',
        ]
    if (path := directory / 'policy_time.json').exists():
        lines += time_lines(read(path))
    return [*lines, *commands_of(facts)]


def beaten(scores, metric, rivals):
    """Which rivals score as much at as little."""
    made = scores['policy']
    by = [name for name in rivals if scores[name][metric] >= made[metric] and scores[name]['share'] <= made['share'] + 0.01]
    return [f'The policy does not beat {", ".join(by)}.' if by else 'None of them scores as much at as little.']


def verdict(scores, metric):
    """What the policies come to over seeds, and whether one saves as much as was to be reached."""
    made = {name: each for name, each in scores.items() if name.split(' ')[0] == 'policy'}
    if 'full' not in scores or not made:
        return []
    lines = []
    if len(made) > 1:
        means = {part: [each[part] for each in made.values()] for part in (metric, 'share')}
        lines += [
            f'Over {len(made)} seeds: {metric} {np.mean(means[metric]):.4f} ± {np.std(means[metric], ddof=1):.4f}, '
            f'{np.mean(means["share"]):.1%} ± {np.std(means["share"], ddof=1):.1%} of the FLOPs (mean, standard deviation).',
            '',
        ]
    there = [name for name, each in scores.items() if name not in ('full', 'lead_3') and each['share'] <= LIMIT]
    good = [name for name in there if bounds(scores[name]['each'], scores['full']['each'])[0] > WORSE]
    said = f'reached by {", ".join(good)}' if good else 'not reached'
    return [*lines, f'At most {LIMIT:.0%} of the FLOPs with the interval of the difference above {WORSE}: {said}.', '']


def seconds_per_step(path):
    """Of a training, the median; None where there is none."""
    if not path.exists():
        return None
    records = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    rates = [record['steps_per_second'] for record in records if 'steps_per_second' in record]
    return 1 / float(np.median(rates)) if rates else None


def time_lines(result):
    """What `scripts/benchmarks/policy_time.py` measured of a policy."""
    heads = [
        'batch',
        'texts',
        'FLOPs',
        'seconds to full',
        'predicted',
        'planning',
        'time: source, layers, rest',
        'FLOPs of each',
    ]
    rows = [
        [
            str(row['batch_size']),
            str(row['texts']),
            f'{row["flops"]:.1%}',
            f'{row["measured"]:.1%} ({row["least"]:.1%}–{row["greatest"]:.1%})',
            f'{row["predicted"]:.1%}',
            f'{row["planning"]:+.1%}',
            *(', '.join(f'{each:.1%}' for each in row[name].values()) for name in ('shares', 'flops_by_part')),
        ]
        for row in result['rows']
    ]
    note = (
        '**Seconds.** All texts say as many tokens; predicted is Σ (share of full depth’s time) × (FLOPs of that part under '
        'the policy over all); planning is what a policy that runs everything takes more. The policy adds '
        f'{result["parameters"]:.1%} to the parameters.'
    )
    made = f'`{result["command"]}` · {result["machine"]} · {result["date"]} · seed {result["seed"]}'
    memory = [
        f'{row["memory"]["full"] / 1e6:.0f} MB at full depth and {row["memory"]["policy"] / 1e6:.0f} within the policy at '
        f'batch size {row["batch_size"]}'
        for row in result['rows']
        if 'memory' in row
    ]
    said = [f'Beside weights and inputs a decode has {"; ".join(memory)}, as compiled.', ''] if memory else []
    return [note, '', *table(heads, rows), '', *said, made, '']


def packed_lines(result):
    """What `scripts/benchmarks/sub_layers.py` measured of rows with plans of their own."""
    heads = ['share that runs', 'way', 'prefill, ms', 'to full depth', 'step, ms', 'to full depth', 'layers executed']
    rows = []
    for row in result['rows']:
        ratios = {
            part: f'{row[f"{part}_of_full"]:.2f} ({row[f"{part}_least"]:.2f}–{row[f"{part}_greatest"]:.2f})'
            for part in ('prefill', 'step')
        }
        prefill, step = f'{row["prefill_ms"]:.1f}', f'{row["step_ms"]:.2f}'
        rows.append(
            [f'{row["share"]:g}', row['way'], prefill, ratios['prefill'], step, ratios['step'], f'{row["executed"]:.2f}']
        )
    made = result['provenance']
    where = f'`{made["command"]}` · {made["machine"]} · {made["date"]} · seed {made["seed"]} · jax {made["jax"]}'
    return [f'### {result["title"]}', '', *table(heads, rows), '', where, '']


def heading(facts, scores, more=''):
    """A study's title, and what its runs were made on."""
    any_run = next(iter(scores.values()))
    made = f'Machine: {facts["machine"]}; {any_run["date"]}; {any_run["examples"]} test texts.{more}'
    return [f'### {facts["study"]}', '', made, '']


def scores_of(directory):
    """{name of a run, 'seed N' behind it: its scores}, of the runs that are done, in the order of the study."""
    found = {}
    for run in read(directory / 'study.json')['runs']:
        for seed in range(run['seeds']):
            path = directory / (run['name'] if seed == 0 else f'{run["name"]}_seed{seed}') / 'scores.json'
            if path.exists():
                found[run['name'] if seed == 0 else f'{run["name"]} seed {seed}'] = read(path)
    return found


def row_of(name, scores, facts, metric, others, paper):
    """A run's line."""
    made = scores[name]
    difference = '' if name == 'full' or 'full' not in scores else interval(made['each'], scores['full']['each'])
    skipped = [made.get(f'skipped_{kind}') for kind in ('attention', 'feed_forward', 'tokens')]
    return [
        name,
        cell(made[metric]),
        difference,
        *(cell(made[other]) for other in others),
        f'{made["share"]:.1%}',
        cell(made['layers']),
        '' if skipped[0] is None else ', '.join(f'{share:.1%}' for share in skipped),
        cell(made.get('plans', '')),
        paper,
    ]


def interval(values, full):
    """'+0.0012 [−0.0030, +0.0051]', the mean difference of pairs and its 95 % bootstrap interval."""
    low, high = bounds(values, full)
    return f'{np.mean(np.asarray(values) - np.asarray(full)):+.4f} [{low:+.4f}, {high:+.4f}]'


def bounds(values, full):
    """Of the mean difference of pairs, those of its 95 % bootstrap interval; seed 0."""
    differences = np.asarray(values) - np.asarray(full)
    rng = np.random.default_rng(0)
    means = [float(np.mean(differences[rng.integers(0, len(differences), len(differences))])) for _ in range(ROUNDS)]
    return np.quantile(means, (0.025, 0.975))


def converged(path):
    """The first logged step from which on the cost stays within a twentieth of the last; None where there is none."""
    if not path.exists():
        return None
    records = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    costs = [(record['step'], record['cost']) for record in records if 'cost' in record]
    if not costs:
        return None
    last = float(np.mean([cost for _, cost in costs[-5:]]))
    apart = max((step for step, cost in costs if abs(cost - last) > 0.05 * last), default=0)
    return min((step for step, _ in costs if step > apart), default=None)
