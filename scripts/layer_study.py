"""Which layers to skip, how well a controller chooses, and how far an oracle could go (Glavas et al. 2024), on one model.

    python scripts/layer_study.py alpaca --checkpoint smollm2 --model 'SmolLM2-135M-Instruct, four-bit values de-quantised' \\
        --train alpaca/train.jsonl --heldout alpaca/heldout.jsonl --tune alpaca/tune.jsonl \\
        --calibration alpaca/calibration.jsonl --test alpaca/test.jsonl --output runs/layers/alpaca

Static plans, skip controllers and prompt controllers, each decoded on the test data and scored; then the oracles over what the
static plans said, the similarity of their states, and figures. It is a queue, as that of `scripts/policy_study.py`; `--times`
adds, at the end, seconds of the prompt controller beside the full model and a plan for all, and wants a quiet machine.
`scripts/prepare_studies.py` makes the data; `scripts/results_page.py --layers DIR` writes the page.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time

import numpy as np
from policy_study import ALONE, LEARNED, PROMISE, STEPS, WITHIN, Queue, Run, Study

from calm_jax.checkpoints.native import read_config
from calm_jax.data.jsonl import Records
from calm_jax.files import read_json, write_json
from calm_jax.metrics import cost

SHARES = (1 / 5, 1 / 3, 1 / 2, 2 / 3, 5 / 6)  # of the layers: 6, 10, 15, 20 and 25 of 30
COMPARED = 24  # texts whose states are
LEVELS = 4  # of a prompt controller's dial that are decoded
ALPHAS = (2.0, 4.0, 6.0, 10.0)
SYSTEM = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face'
# What SmolLM2's chat template makes of one thing that a user says.
CHAT = f'<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n'
NEW_TOKENS = 64
# A step of Adam moves a logit that reads ones by at most as many times its rate as states are wide: 576 · 3e-4 is .17 (the
# paper's: 2048 · 5e-5, .10). At ten times that gates are shut before they have learned anything.
CONTROLLERS = {**STEPS, 'BATCH_SIZE': 4, 'TRAIN_STEPS': 150, 'EVAL_EVERY': 75, 'LEARNING_RATE': 3e-4}
NOISY = ('--gate', 'controllers', '--controllers_drawn', 'true')
DRAWN = ('--temperature', '0.7')


def costs_of(depth):
    """Layers of the plans, of so many."""
    return sorted({max(1, round(share * depth)) for share in SHARES})


def chosen_of(depth):
    """Names of the plans that a prompt controller and the oracles choose from, cheapest first."""
    costs = costs_of(depth)
    return (*(f'uniform_{each}' for each in costs[1:]), f'searched_{costs[-2]}', 'full')


def certified_of(depth):
    """{name: (the run whose model it is, points that a certificate chooses from)}."""
    costs = costs_of(depth)
    return {
        'uniform': ('', tuple(flag for each in costs[:1:-1] for flag in ('--plan', f'uniform:{each}'))),
        'searched': (f'searched_{costs[-2]}', WITHIN),
        'exits': ('', ('--measure', 'softmax_gap')),
        'controllers': ('controllers_hidden_4', ('--gate', 'controllers:.9', '--gate', 'controllers:.5')),
        'policy': ('policy', ('--plan', 'policy:.9', '--plan', 'policy:.5')),
    }


def static_runs(depth):
    """Those that leave out the same of every text, or what chance has it."""
    costs = costs_of(depth)
    some, searched = costs[-3:-1], costs[-2]
    blocks = {each: ','.join(map(str, (*range(1, each), depth))) for each in costs[-2:]}
    return [
        Run('full', ''),
        *(Run(f'uniform_{each}', '', decode=('--plan', f'uniform:{each}')) for each in costs),
        *(Run(f'random_{each}', '', decode=('--plan', f'random:{each}')) for each in costs),
        *(Run(f'random_{each}_anywhere', '', decode=('--plan', f'random:{each}', '--random_first', 'false')) for each in some),
        *(Run(f'block_{each}', '', decode=('--plan', f'layers:{layers}')) for each, layers in blocks.items()),
        *(Run(f'exit_{each}', '', decode=('--measure', 'static', '--threshold', f'{each / depth - 1e-6:f}')) for each in costs),
        *(Run(f'uniform_{each}_prompt', '', decode=('--plan', f'uniform:{each}', '--plan_prompt', 'plan')) for each in some),
        Run(f'searched_{searched}', 'policy_searched.gin', {'MAX_EVALUATIONS': 200, 'LAYERS': searched}, WITHIN),
    ]


def controller_runs():
    """Token controllers: what they read at every α, and what else they may be at one."""

    def run(name, alpha, **bindings):
        return Run(f'controllers_{name}_{alpha:g}', 'controllers.gin', {**CONTROLLERS, 'ALPHA': alpha, **bindings}, NOISY)

    return [
        *(run(reads, alpha, READS=reads) for alpha in ALPHAS for reads in ('hidden', 'fixed')),
        # Of one α what a certificate is made of too, which draws nothing.
        Run('controllers_hidden_4_likelier', '', decode=('--gate', 'controllers'), start='controllers_hidden_4'),
        run('position', 4.0, READS='position'),
        run('embedding', 4.0, READS='embedding'),
        run('two_layer', 4.0, HIDDEN_WIDTH=72),
        run('sub_layers', 4.0, SUB_LAYERS=True),
        run('cross_entropy', 4.0, DISTANCE='@cross_entropy'),
    ]


def runs(depth):
    """All of a model with so many layers."""
    static = static_runs(depth)
    named = {run.name: run for run in static}
    return [
        *static,
        Prompted('prompt', '', of=chosen_of(depth)),
        *controller_runs(),
        Run('policy', ALONE, {**LEARNED, 'ESTIMATOR': '@leave_one_out'}, WITHIN),
        *(
            Run(f'{name}_certified', '', start=start, certify=(*flags, *PROMISE))
            for name, (start, flags) in certified_of(depth).items()
        ),
        *(
            Run(
                f'drawn_{name}_{seed}',
                '',
                decode=(*named[name].decode, *DRAWN, '--seed', str(seed)),
                start=name if named[name].gin else '',
            )
            for seed in (1, 2)
            for name in chosen_of(depth)
        ),
    ]


@dataclasses.dataclass(frozen=True)
class Prompted(Run):
    """A prompt controller. of: runs whose plans it chooses from, cheapest first, decoded on the tuning data too."""

    of: tuple = ()


def study(name, checkpoint):
    """The study of a data set."""
    fields = {
        'alpaca': ('{instruction}\n{input}', '{output}', 'output', 128),
        'cnndm': ('Summarize:\n{article}', '{highlights}', 'highlights', 224),
    }
    source, target, reference, length = fields[name]
    lengths = {'MAX_SOURCE_LENGTH': length, 'MAX_TARGET_LENGTH': NEW_TOKENS}
    return Study(
        source=CHAT.format(source),
        target=target,
        reference=(reference,),
        metrics=('rougeL', 'rouge1', 'rouge2'),
        bindings={**lengths, 'BATCH_SIZE': 4, **STEPS, 'TRAIN_STEPS': 400},
        runs=runs(read_config(checkpoint).num_decoder_layers),
        decode=('--batch_size', '16', '--max_source_length', str(length), '--max_new_tokens', str(NEW_TOKENS)),
    )


class LayerQueue(Queue):
    """With prompt controllers, and what is analysed at the end."""

    @functools.cached_property
    def depth(self):
        """Decoder layers of the model."""
        return read_config(self.args.checkpoint).num_decoder_layers

    @functools.cached_property
    def named(self):
        """{name: run}."""
        return {run.name: run for run in self.study.runs}

    def do(self, run, seed):
        """Trains, decodes and scores a run, as far as that is not done."""
        if isinstance(run, Prompted):
            self.prompted(run)
        else:
            super().do(run, seed)

    def prompted(self, run):
        """Trains a prompt controller on what the plans say of the tuning data, and decodes at levels of its dial and within a
        certificate."""
        self.remember(run.name)
        files = [self.folder(name) / 'tune.jsonl' for name in run.of]
        for name, path in zip(run.of, files):
            path.parent.mkdir(parents=True, exist_ok=True)
            made = self.checkpoint(name if self.named[name].gin else '')
            self.decode(path, made, self.named[name].decode, self.args.tune)
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
        flags = [f'--gin.{name}={value!r}' for name, value in bindings.items()]
        model = folder / 'model' / 'last'
        self.calm(['train', '--gin_file=runs/prompt_controller.gin', *flags], done=model.is_dir())
        plans = [('--plan', f'prompt_controller:{level}') for level in levels_of(folder)]
        for level, plan in zip(levels_of(folder), plans):
            self.decode_and_score(Run(f'{run.name}_{level}', '', decode=plan), model)
        certify = (*(flag for plan in plans for flag in plan), *PROMISE)
        self.decode_and_score(Run(f'{run.name}_certified', '', certify=certify), model)

    def scores(self, folder, checkpoint):
        """Those of every study, and operations of the generated tokens' layers apart from those of prompt and head, where a
        text's prompt is read in full and its head once a token."""
        made, config = super().scores(folder, checkpoint), read_config(checkpoint)
        records = [json.loads(line) for line in (folder / 'out.jsonl').read_text(encoding='utf-8').splitlines()]
        sources, tokens = (
            np.array(each) for each in zip(*((record['source_tokens'], len(record['tokens'])) for record in records))
        )
        head = tokens * (config.vocab_size * cost.id_flops(config) + cost.state_flops(config))
        prompt = cost.at_full_depth(config, sources, np.zeros_like(tokens))
        whole = cost.at_full_depth(config, sources, tokens)
        layers = np.array([record['flops'] for record in records]) - head - prompt
        parts = {'layer': layers, 'full_layer': whole - head - prompt, 'head': head, 'prompt': prompt}
        return {**made, **{f'{name}_flops': float(np.mean(each)) for name, each in parts.items()}}

    def describe(self):
        """What a study is, with the levels of prompt controllers among the runs."""
        super().describe()
        path, listed = self.args.output / 'study.json', []
        facts = read_json(path)
        for each in facts['runs']:
            listed.append(each)
            run = self.named[each['name']]
            if isinstance(run, Prompted):
                names = [*map(str, levels_of(self.folder(run.name))), 'certified']
                listed += [{'name': f'{run.name}_{name}', 'seeds': 1} for name in names]
        chosen = chosen_of(self.depth)
        more = {'model': self.args.model, 'chosen': chosen, 'depth': self.depth, 'promise': PROMISE[1::2]}
        write_json(path, {**facts, 'runs': listed, **more})

    def analyse(self):
        """The oracles, of one decode and of two, the similarity of states, and figures of all of them."""
        args, folder = self.args, self.args.output / 'analyses'
        self.remember(folder.name)
        folder.mkdir(exist_ok=True)
        data = ['--references', str(self.test), '--reference_field', self.study.reference[0]]
        how = ['--metric', self.study.metrics[0], '--num_layers', str(self.depth), '--lengths', 'reference']
        for name, ways in {'oracle': ('',), 'attainable': ('_1', '_2')}.items():
            prefix = '' if name == 'oracle' else 'drawn_'
            files = [
                flag
                for each in chosen_of(self.depth)
                for way in ways
                for flag in ('--predictions', f'{each}={self.folder(f"{prefix}{each}{way}") / "out.jsonl"}')
            ]
            output = folder / f'{name}.json'
            label = f'{args.study}, {"one decode" if name == "oracle" else "two drawn decodes"}'
            command = ['analyze', 'oracle', *files, *data, *how, '--label', label, '--output', str(output)]
            self.calm(command, done=output.exists())
        output = folder / 'similarity.json'
        data = ['--data', str(self.test), '--source_field', self.study.source, '--examples', str(COMPARED)]
        how = ['--costs', ','.join(map(str, costs_of(self.depth))), *self.study.decode, '--label', args.study]
        command = ['analyze', 'similarity', '--checkpoint', str(args.checkpoint), *data, *how, '--output', str(output)]
        self.calm(command, done=output.exists())
        page = args.output / 'analyses.html'
        self.calm(['report', str(folder), '--output', str(page), '--overwrite'])

    def times(self):
        """Seconds of the prompt controller, of the full model and of as many layers for all."""
        from layer_times import times

        path, folder = self.args.output / 'times.json', self.folder('prompt')
        if not path.exists():
            level = levels_of(folder)[LEVELS // 2]
            layers = read_json(self.args.output / f'prompt_{level}' / 'scores.json')['layers']
            model, share = folder / 'model' / 'last', max(1, round(layers)) / self.depth
            write_json(path, times(model, level, share, self.study, Records(self.test)))


def levels_of(folder):
    """Some levels of a prompt controller's dial, of its curve, evenly spaced in layers between the cheapest plan and the full
    model; none before it is trained."""
    path = folder / 'model' / 'controller.json'
    if not path.exists():
        return []
    curve = read_json(path)['curve']
    layers = np.array(curve['layers'])
    wanted = np.linspace(layers.min(), layers.max(), LEVELS + 2)[1:-1]
    return sorted({round(curve['levels'][int(np.argmin(np.abs(layers - each)))], 6) for each in wanted}, reverse=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', choices=('alpaca', 'cnndm'))
    parser.add_argument('--checkpoint', required=True, type=pathlib.Path, help='decoder-only, chat-trained')
    parser.add_argument('--model', default='', help='what it is, for the page')
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
    parser.add_argument('--times', action='store_true', help='take times too, when all is done')
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
    if args.times:
        queue.times()
    queue.describe()
    if not args.only:
        from layer_figures import draw

        draw(args.output, args.output / 'figures')


if __name__ == '__main__':
    main()
