"""Which layers to skip, how well a controller chooses, and how far an oracle could go (Glavas et al. 2024), on one model.

    python scripts/layer_study.py alpaca --checkpoint smollm2 --train alpaca/train.jsonl --heldout alpaca/heldout.jsonl \\
        --tune alpaca/tune.jsonl --calibration alpaca/calibration.jsonl --test alpaca/test.jsonl --output runs/layers/alpaca

Static plans, skip controllers and prompt controllers, each decoded on the test data and scored; then the oracles over what the
static plans said, and the similarity of their states. It is a queue, as that of `scripts/policy_study.py`.
"""

import argparse
import dataclasses
import pathlib
import time

from policy_study import ALONE, LEARNED, PROMISE, STEPS, WITHIN, Queue, Run, Study

from calm_jax.checkpoints.native import read_config

COSTS = (6, 10, 15, 20, 25)  # layers of 30
COMPARED = 24  # texts whose states are
CHOSEN = (10, 15, 20, 25)  # of which a prompt controller chooses, beside all
LEVELS = (0.995, 0.98, 0.95, 0.9)
ALPHAS = (2.0, 4.0, 6.0, 10.0)
CHAT = '<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n'
CERTIFIED = {  # the run whose model it is, and the points
    'uniform': ('', ('--plan', 'uniform:25', '--plan', 'uniform:20', '--plan', 'uniform:15')),
    'exits': ('', ('--measure', 'softmax_gap')),
    'controllers': ('controllers_hidden_4', ('--gate', 'controllers:.9', '--gate', 'controllers:.5')),
    'policy': ('policy', ('--plan', 'policy:.9', '--plan', 'policy:.5')),
}
CONTROLLERS = {
    **STEPS,
    'MAX_SOURCE_LENGTH': 96,
    'MAX_TARGET_LENGTH': 32,
    'BATCH_SIZE': 4,
    'TRAIN_STEPS': 150,
    'EVAL_EVERY': 75,
    'LEARNING_RATE': 1e-2,
}


def runs(depth):
    """All of a model with so many layers."""
    drawn = ('--temperature', '0.7')
    return [
        Run('full', ''),
        *(Run(f'uniform_{cost}', '', decode=('--plan', f'uniform:{cost}')) for cost in COSTS),
        *(Run(f'random_{cost}', '', decode=('--plan', f'random:{cost}')) for cost in COSTS),
        *(Run(f'exit_{cost}', '', decode=('--measure', 'static', '--threshold', f'{cost / depth - 1e-6:f}')) for cost in COSTS),
        *(
            Run(f'uniform_{cost}_prompt', '', decode=('--plan', f'uniform:{cost}', '--plan_prompt', 'plan'))
            for cost in (CHOSEN[1], CHOSEN[2])
        ),
        Run(
            'searched_20',
            'policy_searched.gin',
            {'MAX_EVALUATIONS': 200},
            ('--plan', 'policy'),
            equal_to='uniform_20',
            share='SHARE',
        ),
        Prompted('prompt', '', of=(*(f'uniform_{cost}' for cost in CHOSEN), 'full')),
        *(
            Run(
                f'controllers_{reads}_{alpha:g}',
                'controllers.gin',
                {**CONTROLLERS, 'ALPHA': alpha, 'READS': reads},
                ('--gate', 'controllers', '--controllers_drawn', 'true'),
            )
            for alpha in ALPHAS
            for reads in ('hidden', 'fixed')
        ),
        *(
            Run(
                f'controllers_{name}_4',
                'controllers.gin',
                {**CONTROLLERS, 'ALPHA': 4.0, **bindings},
                ('--gate', 'controllers', '--controllers_drawn', 'true'),
            )
            for name, bindings in {
                'position': {'READS': 'position'},
                'embedding': {'READS': 'embedding'},
                'two_layer': {'HIDDEN_WIDTH': 72},
                'sub_layers': {'SUB_LAYERS': True},
                'cross_entropy': {'DISTANCE': '@cross_entropy'},
            }.items()
        ),
        Run('policy', ALONE, {**LEARNED, 'ESTIMATOR': '@leave_one_out'}, WITHIN),
        *(Run(f'{name}_certified', '', start=start, certify=(*flags, *PROMISE)) for name, (start, flags) in CERTIFIED.items()),
        *(
            Run(f'drawn_{name}_{seed}', '', decode=(*flags, *drawn, '--seed', str(seed)))
            for seed in (1, 2)
            for name, flags in {'full': (), **{f'uniform_{cost}': ('--plan', f'uniform:{cost}') for cost in CHOSEN}}.items()
        ),
    ]


@dataclasses.dataclass(frozen=True)
class Prompted(Run):
    """A prompt controller. of: runs whose plans it chooses from, cheapest first, decoded on the tuning data too."""

    of: tuple = ()


def study(name, checkpoint):
    """The study of a data set."""
    fields = {
        'alpaca': ('{instruction}\n{input}', '{output}', 'output'),
        'cnndm': ('Summarize:\n{article}', '{highlights}', 'highlights'),
    }
    source, target, reference = fields[name]
    length = 160 if name == 'cnndm' else 96
    return Study(
        source=CHAT.format(source),
        target=target,
        reference=(reference,),
        metrics=('rougeL', 'rouge1', 'rouge2'),
        bindings={'MAX_SOURCE_LENGTH': length, 'MAX_TARGET_LENGTH': 32, 'BATCH_SIZE': 4, **STEPS, 'TRAIN_STEPS': 400},
        runs=runs(read_config(checkpoint).num_decoder_layers),
        decode=('--batch_size', '16', '--max_source_length', str(length), '--max_new_tokens', '48'),
    )


class LayerQueue(Queue):
    """With prompt controllers, and what is analysed at the end."""

    def do(self, run, seed):
        """Trains, decodes and scores a run, as far as that is not done."""
        if not isinstance(run, Prompted):
            super().do(run, seed)
            return
        named = {each.name: each for each in self.study.runs}
        files = [self.folder(name) / 'tune.jsonl' for name in run.of]
        for name, path in zip(run.of, files):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.decode(path, self.args.checkpoint, named[name].decode, self.args.tune)
        folder = self.folder(run.name)
        bindings = {
            'MODEL_DIR': str(folder / 'model'),
            'CHECKPOINT': str(self.args.checkpoint),
            'TRAIN_DATA': self.args.tune,
            'SOURCE': self.study.source,
            'TARGET': self.study.reference[0],
            'METRIC': self.study.metrics[0],
            'PREDICTIONS': [str(path) for path in files],
            'MAX_SOURCE_LENGTH': self.study.bindings['MAX_SOURCE_LENGTH'],
        }
        said = [f'--gin.{name}={value!r}' for name, value in bindings.items()]
        self.calm(['train', '--gin_file=runs/prompt_controller.gin', *said], done=(folder / 'model' / 'last').is_dir())
        for level in LEVELS:
            decode = ('--plan', f'prompt_controller:{level}')
            each = Run(f'{run.name}_{level}', '', decode=decode)
            self.decode_and_score(each, folder / 'model' / 'last')
        plans = [flag for level in LEVELS for flag in ('--plan', f'prompt_controller:{level}')]
        certified = Run(f'{run.name}_certified', '', certify=(*plans, *PROMISE))
        self.decode_and_score(certified, folder / 'model' / 'last')

    def analyse(self):
        """The oracles, of one decode and of two, and the similarity of states."""
        args, chosen = self.args, [*(f'uniform_{cost}' for cost in CHOSEN), 'full']
        wanted = [
            '--references',
            str(self.test),
            '--reference_field',
            self.study.reference[0],
            '--metric',
            self.study.metrics[0],
        ]
        for name, ways in {'oracle': ('',), 'attainable': ('_1', '_2')}.items():
            prefix = '' if name == 'oracle' else 'drawn_'
            files = [
                flag
                for each in chosen
                for way in ways
                for flag in ('--predictions', f'{each}={self.folder(f"{prefix}{each}{way}") / "out.jsonl"}')
            ]
            output = args.output / f'{name}.json'
            self.calm(['analyze', 'oracle', *files, *wanted, '--output', str(output)], done=output.exists())
        output = args.output / 'similarity.json'
        data = ['--data', str(self.test), '--source_field', self.study.source, '--examples', str(COMPARED)]
        how = ['--costs', ','.join(map(str, COSTS)), *self.study.decode]
        command = ['analyze', 'similarity', '--checkpoint', str(args.checkpoint), *data, *how, '--output', str(output)]
        self.calm(command, done=output.exists())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', choices=('alpaca', 'cnndm'))
    parser.add_argument('--checkpoint', required=True, type=pathlib.Path, help='decoder-only, chat-trained')
    parser.add_argument('--train', required=True, help='JSONL that token controllers and the policy learn from')
    parser.add_argument('--heldout', required=True, help='JSONL that picks checkpoints, and that a plan is searched on')
    parser.add_argument('--tune', required=True, help='JSONL that prompt controllers learn from')
    parser.add_argument('--calibration', required=True, help='JSONL that certificates are made on')
    parser.add_argument('--test', required=True, help='JSONL that nothing before the end looks at')
    parser.add_argument('--test_limit', type=int, help='records of it (default all)')
    parser.add_argument('--output', required=True, type=pathlib.Path)
    parser.add_argument('--steps', type=int, help='of every training, in place of the study’s')
    parser.add_argument('--batch_size', type=int, help='of every training, in place of the study’s')
    parser.add_argument('--only', action='append', help='name of a run; repeatable')
    parser.add_argument('--minutes', type=float, default=1e9, help='wall time after which nothing more is begun')
    args = parser.parse_args()
    queue = LayerQueue(args, study(args.study, args.checkpoint))
    for run in queue.study.runs:
        if args.only and run.name not in args.only:
            continue
        if time.monotonic() - queue.began > args.minutes * 60:
            raise SystemExit(f'{args.minutes:g} minutes are over; the same command goes on')
        queue.do(run, 0)
    if not args.only:
        queue.analyse()
    queue.describe()


if __name__ == '__main__':
    main()
