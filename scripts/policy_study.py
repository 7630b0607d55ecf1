"""What a policy saves, and what it costs in quality, beside everything that it has to beat: trained, decoded and scored.

    python scripts/policy_study.py dialogsum --checkpoint runs/dialogsum_read/model/best --train runs/dialogsum/train.jsonl \\
        --heldout runs/dialogsum/heldout.jsonl --test dialogsum/test.jsonl.xz --output runs/policy/dialogsum

All runs of a study start from one checkpoint and train alike long. It is a queue: what is done is not done again, a training
and a decode that were interrupted go on where they were, and a run that waits for another's cost comes after it. --minutes ends
the queue after the training or decode that is under way then; --only names runs. Each run leaves its folder with the model, the
decoded texts and their scores; `study.json` holds the commands as they can be typed. `scripts/results_page.py --policy DIR`
writes the page.
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import re
import shlex
import subprocess
import sys
import time

import numpy as np

from calm_jax.checkpoints.native import read_config
from calm_jax.data.jsonl import Records, Template
from calm_jax.data.references import references
from calm_jax.files import write_json
from calm_jax.machine import processor
from calm_jax.metrics import cost, quality


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, and how what it made decodes.

    gin: the gin file below runs/; bindings: of its macros. decode: flags of `calm generate`. start: the run whose checkpoint it
    starts from, in place of the study's. seeds: how many, each a run of its own. equal_to: the run whose share of FLOPs is
    bound to the macro `share`; of a run without one, which trains nothing, it decodes the evenly spaced decoder layers whose
    cost is nearest. certify: flags of `calm calibrate`, within whose certificate it decodes then.
    """

    name: str
    gin: str
    bindings: dict = dataclasses.field(default_factory=dict)
    decode: tuple = ()
    start: str = ''
    seeds: int = 1
    equal_to: str = ''
    share: str = ''
    certify: tuple = ()


JOINT, ALONE = 'policy_joint.gin', 'policy.gin'
WITHIN = ('--plan', 'policy')
DRAWN = ('--plan', 'policy', '--policy_drawn', 'true')


def policies(gin, extra=None):
    """The runs that every study of a policy has: the policy, its parts, its rules, its estimators, and what it has to beat."""
    extra = dict(extra or {})

    def run(name, decode=WITHIN, **options):
        bindings = {**extra, **options.pop('bindings', {})}
        return Run(name, options.pop('gin', gin), bindings, decode, **options)

    rules = {
        'barrier': '@DynamicBarrier()',
        'printed': '@PrintedBarrier()',
        **{f'fixed_{weight}': '@FixedWeight()' for weight in (0.2, 0.5, 0.8, 1.0, 1.5)},
    }
    return [
        run('policy', seeds=3),
        run('constant', bindings={'CONSTANT': True}),
        Run('uniform', '', start='full', equal_to='policy'),
        run('random', decode=DRAWN, equal_to='policy', share='RANDOM'),
        *(run(f'{part}_only', bindings={'PARTS': [part]}) for part in ('encoder', 'decoder', 'tokens')),
        *(
            run(name, bindings={'RULE': rule, **({'FixedWeight.weight': float(name.split('_')[1])} if 'fixed' in name else {})})
            for name, rule in rules.items()
        ),
        run('leave_one_out', bindings={'ESTIMATOR': '@leave_one_out'}),
        run('straight_through', bindings={'ESTIMATOR': '@straight_through'}),
        run('layerwise', bindings={'LAYERWISE': True}),
        *(run(f'tolerance_{nats}', bindings={'TOLERANCE': nats}) for nats in (0.1, 0.2)),
    ]


@dataclasses.dataclass(frozen=True)
class Study:
    """A task and its runs. source, target: templates; reference: fields of the test data's references; metrics: the first one
    is what is compared. bindings: macros of every training. decode: flags of every decode. lead: the template whose first
    three sentences are the run `lead_3`; by default the source."""

    source: str
    target: str
    reference: tuple
    metrics: tuple
    bindings: dict
    runs: list
    decode: tuple = ('--batch_size', '32')
    lead: str = ''


SUMMARIES = {'MAX_SOURCE_LENGTH': 256, 'MAX_TARGET_LENGTH': 64, 'LENGTH_MULTIPLE': 64, 'BATCH_SIZE': 16}
STEPS = {'TRAIN_STEPS': 600, 'EVAL_EVERY': 200, 'SAVE_EVERY': 100, 'LOG_EVERY': 20, 'MAX_MINUTES': 60.0}
LEARNED = {'LEARNING_RATE': 5e-3, 'WARMUP_STEPS': 20, 'ENTROPY_FLOOR': 0.1, 'TOLERANCE': 0.05, 'DECAY': 'constant'}
WITH_MODEL = {'DROPOUT_STEPS': 100, 'backbone/Optimizer.learning_rate': 3e-4, 'backbone/Optimizer.decay': 'linear'}
TUNED = {'LEARNING_RATE': 3e-4, 'WARMUP_STEPS': 20, 'DECAY': 'linear', 'OPTIMIZER': 'adamw'}

PROMISE = ('--objective', 'risk', '--tolerance', '0.05')
DIALS = tuple(flag for level in ('.99', '.9', '.7', '.5', '.3') for flag in ('--plan', f'policy:{level}'))
LEAD = Run('lead_3', '')  # the first three sentences, or turns, of the source

STUDIES = {
    'dialogsum': Study(
        source='dialogue',
        target='summary',
        reference=('summary1', 'summary2', 'summary3'),
        metrics=('rougeL', 'rouge1', 'rouge2'),
        bindings={**SUMMARIES, **STEPS},
        runs=[
            Run('full', 'finetune.gin', {**TUNED, 'EXIT_WEIGHTS': '@last_only'}),
            *policies(JOINT, {**LEARNED, **WITH_MODEL}),
            Run('policy_alone', ALONE, LEARNED, WITHIN, start='full'),
            Run('searched', 'policy_searched.gin', {}, WITHIN, start='full', equal_to='policy', share='SHARE'),
            Run(
                'exits',
                'finetune.gin',
                {**TUNED, 'EXIT_WEIGHTS': '@proportional_to_layer', 'SAMPLED_EXITS': True},
                certify=('--measure', 'softmax_gap', *PROMISE),
            ),
            Run('half', 'finetune.gin', {**TUNED, 'EXIT_WEIGHTS': '@last_only'}, start='half_depth'),
            Run(
                'policy_and_exits',
                ALONE,
                LEARNED,
                start='exits',
                certify=('--plan', 'policy:.5', '--measure', 'softmax_gap', *PROMISE),
            ),
            Run('policy_risk', '', start='policy', certify=(*DIALS, *PROMISE)),
            Run('policy_textual', '', start='policy', certify=(*DIALS, '--objective', 'textual', '--tolerance', '0.25')),
            LEAD,
        ],
    ),
    'sst2': Study(
        source='sentence',
        target='label',
        reference=('label',),
        metrics=('accuracy',),
        bindings={'MAX_SOURCE_LENGTH': 96, 'BATCH_SIZE': 32, **STEPS},
        runs=[
            Run('full', 'labels.gin', {**TUNED, 'LABELS': ['negative', 'positive']}),
            *(
                run
                for run in policies(
                    JOINT, {**LEARNED, **WITH_MODEL, 'TASK': '@Labels()', 'Labels.names': ['negative', 'positive']}
                )
                if run.name in ('policy', 'constant', 'random', 'uniform')
            ),
            Run('searched', 'policy_searched.gin', {}, WITHIN, start='full', equal_to='policy', share='SHARE'),
        ],
    ),
    'cnndm': Study(
        source='{article}\n\nSummary:',
        target=' {highlights}',
        reference=('highlights',),
        metrics=('rougeL', 'rouge1', 'rouge2'),
        bindings={'MAX_SOURCE_LENGTH': 160, 'MAX_TARGET_LENGTH': 32, 'BATCH_SIZE': 4, **STEPS, 'TRAIN_STEPS': 400},
        runs=[
            Run('full', ''),
            *(
                dataclasses.replace(run, seeds=1)
                for run in policies(ALONE, {**LEARNED, 'ESTIMATOR': '@leave_one_out'})
                if run.name in ('policy', 'constant', 'random', 'uniform')
            ),
            Run('searched', 'policy_searched.gin', {'MAX_EVALUATIONS': 200}, WITHIN, equal_to='policy', share='SHARE'),
            LEAD,
        ],
        decode=('--batch_size', '16', '--max_source_length', '160', '--max_new_tokens', '48'),
        lead='{article}',
    ),
}
STUDIES['alpaca'] = dataclasses.replace(
    STUDIES['cnndm'],
    source='{instruction}\n{input}\n',
    target='{output}',
    reference=('output',),
    runs=[run for run in STUDIES['cnndm'].runs if run is not LEAD],
)
STUDIES['squad'] = dataclasses.replace(
    STUDIES['cnndm'],
    source='{context}\n\nQuestion: {question}\nAnswer:',
    target=' {answer}',
    reference=('answers',),
    metrics=('token_f1', 'exact_match'),
    bindings={**STUDIES['cnndm'].bindings, 'MAX_SOURCE_LENGTH': 256, 'MAX_TARGET_LENGTH': 16},
    runs=[run for run in STUDIES['cnndm'].runs if run is not LEAD],
    decode=('--batch_size', '16', '--max_source_length', '256', '--max_new_tokens', '16'),
)
STUDIES['xsum'] = dataclasses.replace(
    STUDIES['dialogsum'],
    source='document',
    target='summary',
    reference=('summary',),
    runs=[
        run if run is LEAD else dataclasses.replace(run, seeds=1)
        for run in STUDIES['dialogsum'].runs
        if run.name in ('full', 'policy', 'uniform', 'searched', 'lead_3')
    ],
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', choices=STUDIES)
    parser.add_argument('--checkpoint', required=True, type=pathlib.Path, help='that all runs start from')
    parser.add_argument('--train', required=True, help='JSONL')
    parser.add_argument('--heldout', required=True, help='JSONL that picks checkpoints, and that a plan is searched on')
    parser.add_argument('--calibration', help='JSONL that certificates are made on, for runs that have one')
    parser.add_argument('--test', required=True, help='JSONL that nothing before the end looks at')
    parser.add_argument('--test_limit', type=int, help='records of it (default all)')
    parser.add_argument('--output', required=True, type=pathlib.Path)
    parser.add_argument('--steps', type=int, help='of every training, in place of the study’s')
    parser.add_argument('--batch_size', type=int, help='of every training, in place of the study’s')
    parser.add_argument('--only', action='append', help='name of a run; repeatable')
    parser.add_argument('--minutes', type=float, default=1e9, help='wall time after which nothing more is begun')
    args = parser.parse_args()
    queue = Queue(args, STUDIES[args.study])
    for run in queue.study.runs:
        if args.only and run.name not in args.only:
            continue
        for seed in range(run.seeds):
            if time.monotonic() - queue.began > args.minutes * 60:
                raise SystemExit(f'{args.minutes:g} minutes are over; the same command goes on')
            queue.do(run, seed)
    queue.describe()


class Queue:
    """Runs of a study, each with its folder."""

    def __init__(self, args, study):
        self.args, self.study, self.began = args, study, time.monotonic()
        args.output.mkdir(parents=True, exist_ok=True)
        written = args.output / 'study.json'
        self.commands = json.loads(written.read_text(encoding='utf-8'))['commands'] if written.exists() else {}
        self.remember('')
        self.test = args.output / 'test.jsonl'
        if not self.test.exists():
            records = Records(args.test)
            rows = (records[i] for i in range(min(len(records), args.test_limit or len(records))))
            self.test.write_text(''.join(json.dumps(each, ensure_ascii=False) + '\n' for each in rows), encoding='utf-8')

    def remember(self, name):
        """From here on commands are those of a run, by the name of its folder, and the ones of before are forgotten."""
        self.now, self.commands[name] = name, []

    def folder(self, name, seed=0):
        """Of a run."""
        return self.args.output / (name if seed == 0 else f'{name}_seed{seed}')

    def checkpoint(self, name):
        """What a run made; of no name, the study's start."""
        if not name:
            return self.args.checkpoint
        if name == 'half_depth':
            return half_depth(self.args.checkpoint, self.args.output / name)
        folder = self.folder(name) / 'model'
        if not folder.is_dir():
            return self.args.checkpoint  # that run trains nothing
        return folder / 'best' if (folder / 'best').is_dir() else folder / 'last'

    def do(self, run, seed):
        """Trains, decodes and scores a run, as far as that is not done."""
        folder = self.folder(run.name, seed)
        self.remember(folder.name)
        made = self.checkpoint(run.start) if run.start and not run.gin else self.args.checkpoint
        if run.equal_to and not run.gin:
            run = dataclasses.replace(run, decode=('--plan', f'uniform:{self.evenly(run)}'))
        if run.gin:
            self.train(run, seed, folder / 'model')
            made = folder / 'model' / ('best' if (folder / 'model' / 'best').is_dir() else 'last')
        if run is LEAD:
            self.lead(folder / 'out.jsonl')
            self.score(folder, made)
        elif run.certify and self.args.calibration is None:
            print(f'{run.name}: passed over, without --calibration')
        else:
            self.decode_and_score(run, made, folder)

    def evenly(self, run):
        """How many decoder layers cost nearest to what the run that it is equal to does, of texts as the full model says."""
        share, config = self.share_of(run), read_config(self.args.checkpoint)
        texts = (self.folder('full') / 'out.jsonl').read_text(encoding='utf-8').splitlines()
        records = [json.loads(line) for line in texts]
        lengths = [[record['source_tokens'] for record in records], [max(1, len(record['tokens'])) for record in records]]
        reads = (self.checkpoint('full') / 'task.json').exists()

        def flops(layers):
            return np.sum(cost.at_full_depth(dataclasses.replace(config, num_decoder_layers=layers), *lengths, reads=reads))

        whole = flops(config.num_decoder_layers)
        return min(range(1, config.num_decoder_layers + 1), key=lambda layers: abs(flops(layers) / whole - share))

    def share_of(self, run):
        """The share of the full model's operations that a run is to cost."""
        equal = self.folder(run.equal_to) / 'scores.json'
        if not equal.exists():
            raise SystemExit(f'{run.name} costs what {run.equal_to} does, which is not done yet')
        return round(min(1.0, json.loads(equal.read_text(encoding='utf-8'))['share']), 3)

    def decode_and_score(self, run, checkpoint, folder=None):
        """Of a run whose model there is, within its certificate if it has one."""
        folder = folder or self.folder(run.name)
        folder.mkdir(parents=True, exist_ok=True)
        self.decode(folder / 'out.jsonl', checkpoint, (*run.decode, *self.certified(folder, checkpoint, run)))
        self.score(folder, checkpoint)

    def score(self, folder, checkpoint):
        """Scores what a run decoded, if that is not done."""
        if not (folder / 'scores.json').exists():
            write_json(folder / 'scores.json', self.scores(folder, checkpoint))
        self.describe()

    def train(self, run, seed, folder):
        """`calm train` until it has taken its steps, or its time is over."""
        bindings = dict(self.study.bindings) if 'searched' not in run.gin else {'BATCH_SIZE': 32}
        if 'searched' in run.gin:
            lengths = ('MAX_SOURCE_LENGTH', 'MAX_TARGET_LENGTH', 'LENGTH_MULTIPLE')
            bindings |= {name: self.study.bindings[name] for name in lengths if name in self.study.bindings}
        bindings |= run.bindings
        if 'searched' not in run.gin:
            others = {'TRAIN_STEPS': self.args.steps, 'BATCH_SIZE': self.args.batch_size}
            bindings |= {name: value for name, value in others.items() if value}
        if run.share:
            bindings[run.share] = self.share_of(run)
        data = {'TRAIN_DATA': self.args.heldout if 'searched' in run.gin else self.args.train, 'EVAL_DATA': self.args.heldout}
        names = {'MODEL_DIR': str(folder), 'CHECKPOINT': str(self.checkpoint(run.start)), **data}
        texts = {'SOURCE': self.study.source, 'TARGET': self.study.target}
        seeds = {} if 'searched' in run.gin else {'SEED': seed}
        command = ['train', f'--gin_file=runs/{run.gin}']
        for name, value in {**names, **texts, **seeds, **bindings}.items():
            said = value if isinstance(value, str) and value.startswith('@') else repr(value)
            command.append(f'--gin.{name}={said}')
        self.calm(command, ['--resume'] if (folder / 'config.gin').exists() else [], done=(folder / 'last').is_dir())

    def records(self, folder):
        """Of the certificate of a run with this folder."""
        return folder / 'records'

    def certified(self, folder, checkpoint, run):
        """Flags of the certificate that a run decodes within, made where it is not there."""
        if not run.certify:
            return ()
        path = folder / 'certificate.json'
        data = ['--data', self.args.calibration, '--source_field', self.study.source, '--target_field', self.study.target]
        where = ['--records', str(self.records(folder)), '--output', str(path)]
        how = ['--metric', self.study.metrics[0], *self.study.decode, *run.certify]
        command = ['calibrate', '--checkpoint', str(checkpoint), *data, *how, *where]
        self.calm(command, done=path.exists())
        return '--certificate', str(path)

    def lead(self, output):
        """The first three sentences of every source, lines where it has them, as decoded texts that cost nothing."""
        records, template = Records(self.test), Template(self.study.lead or self.study.source)
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, 'w', encoding='utf-8') as file:
            for i in range(len(records)):
                text = template(records[i], records.where(i))
                parts = text.split('\n') if '\n' in text else re.split(r'(?<=[.!?]) ', text)
                empty = {'flops': 0.0, 'layers': 0.0, 'tokens': [], 'source_tokens': 1}
                file.write(json.dumps({'text': ' '.join(parts[:3]), **empty}, ensure_ascii=False) + '\n')

    def decode(self, output, checkpoint, flags, data=None):
        """`calm generate` of the test data, or others, which goes on where it was interrupted."""
        inputs = ['--input', str(data or self.test), '--source_field', self.study.source]
        # A certificate says how long texts are, and how many are decoded together.
        how = flags if '--certificate' in flags else (*self.study.decode, *flags)
        self.calm(['generate', '--checkpoint', str(checkpoint), *inputs, '--output', str(output), *how, '--resume'])

    def calm(self, command, more=(), done=False):
        """Remembers a command, and runs it unless it is done; a failing one ends the queue."""
        self.commands[self.now].append(typed(['calm', *command]))
        if done:
            return
        print(f'[{datetime.datetime.now():%H:%M:%S}] {typed(["calm", *command, *more])}', flush=True)
        if code := subprocess.run([sys.executable, '-m', 'calm_jax', *command, *more, '--quiet'], check=False).returncode:
            raise SystemExit(code)

    def scores(self, folder, checkpoint):
        """Means over the test data: metrics, shares of the full model's operations, what was skipped; and of each example the
        first metric, to be compared in pairs."""
        records = [json.loads(line) for line in (folder / 'out.jsonl').read_text(encoding='utf-8').splitlines()]
        templates, data = [Template(field) for field in self.study.reference], Records(self.test)
        wanted = [references(templates, data[i], data.where(i)) for i in range(len(data))]
        made = {}
        for name in self.study.metrics:
            values = quality.metric(name)([record['text'] for record in records], wanted)
            made[name] = float(np.mean(values))
            made.setdefault('each', np.round(values, 5).tolist())
        config, task = read_config(checkpoint), (checkpoint / 'task.json').exists()
        lengths = [[record['source_tokens'] for record in records], [len(record['tokens']) for record in records]]
        # Of the model that the study starts from, of texts as long: what half of its layers save is a share of it too.
        whole = cost.at_full_depth(read_config(self.args.checkpoint) if not task else config, *lengths, reads=task)
        flops = np.array([record['flops'] for record in records])
        made |= {'flops': float(flops.mean()), 'examples': len(records), 'share': float(np.mean(flops / np.maximum(whole, 1)))}
        made['layers'] = float(np.mean([record['layers'] for record in records]))
        return {**made, **skipped(records), 'machine': processor(), 'date': str(datetime.date.today())}

    def describe(self):
        """Writes down what the study is, and the commands of its runs in their order."""
        names = [self.folder(run.name, seed).name for run in self.study.runs for seed in range(run.seeds)]
        commands = {name: self.commands[name] for name in (*names, *self.commands) if self.commands.get(name)}
        write_json(
            self.args.output / 'study.json',
            {
                'study': self.args.study,
                'metrics': self.study.metrics,
                'machine': processor(),
                'commands': commands,
                'runs': [{'name': run.name, 'seeds': run.seeds} for run in self.study.runs],
            },
        )


def typed(command):
    """A command as it is typed, gin's texts within double quotes."""
    plain = (("'" in each and '"' not in each and '$' not in each, each) for each in command)
    return ' '.join(f'"{each}"' if quoted else shlex.quote(each) for quoted, each in plain)


def skipped(records):
    """Shares that plans leave out, of attention, feed-forward and source tokens; how often each choice of tokens is taken."""
    plans = [record['plan'] for record in records if record.get('plan')]
    if not plans:
        return {}

    def share(*names):
        runs = [int(value) for plan in plans for name in names for value in plan.get(name, '')]
        return 1 - float(np.mean(runs)) if runs else 0.0

    tokens = [record['source_tokens'] for record in records if record.get('plan')]
    choices = [plan['choice'] for plan in plans if plan.get('choice')]
    return {
        'skipped_attention': share('encoder_attention', 'self_attention'),
        'skipped_feed_forward': share('encoder_feed_forward', 'feed_forward'),
        'skipped_tokens': float(np.mean([len(plan.get('dropped', ())) / count for plan, count in zip(plans, tokens)])),
        'choices': {str(choice): choices.count(choice) for choice in dict.fromkeys(choices)},
        'plans': len({json.dumps({name: plan[name] for name in plan if name not in ('dropped', 'source')}) for plan in plans}),
    }


def half_depth(checkpoint, output):
    """Every other layer of both stacks, the first among them, as a checkpoint: what a student is fine-tuned from
    (Shleifer & Rush 2020)."""
    from calm_jax.checkpoints import native

    if output.is_dir():
        return output
    begun = native.load(checkpoint)
    params = dict(begun.params)
    for stack, count in (('encoder', begun.config.num_encoder_layers), ('decoder', begun.config.num_decoder_layers)):
        if stack not in params:
            continue
        layers = {name: value for name, value in params[stack].items() if not name.startswith('layers_')}
        for place, layer in enumerate(range(0, count, 2)):
            layers[f'layers_{place}'] = params[stack][f'layers_{layer}']
        params[stack] = layers
    config = dataclasses.replace(
        begun.config,
        num_encoder_layers=-(-begun.config.num_encoder_layers // 2),
        num_decoder_layers=-(-begun.config.num_decoder_layers // 2),
    )
    native.save(output, config, params, begun.tokenizer, generation=begun.generation)
    return output


if __name__ == '__main__':
    main()
