"""One checkpoint, sooner: at full depth, exactly what that says, within certificates, and at fixed depths, in one table.

    python scripts/exits_study.py alpaca --checkpoint smollm2 --train alpaca/train.jsonl --heldout alpaca/heldout.jsonl \\
        --tune alpaca/tune.jsonl --calibration alpaca/calibration.jsonl --test alpaca/test.jsonl --output runs/exits/alpaca

A checkpoint that never learned to exit gets adapters (`alpaca`; `multi30k` is of one trained with exits); its frequent ids are
counted on the tuning data, on which the least exit layer, and threshold and width of drafts, are chosen too. It is a queue, as
that of `scripts/policy_study.py`; times are taken last, of all rows interleaved, and want a quiet machine (`--until rows` ends
before them).
`scripts/results_page.py --exits DIR` writes the page.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import pathlib
import sys

import numpy as np
from layer_study import CHAT
from policy_study import Queue, Run, Study

import calm_jax as calm
from calm_jax.certified import decoding_of
from calm_jax.checkpoints.native import read_config
from calm_jax.data.jsonl import Records, Template
from calm_jax.decoding.codec import from_json, to_json
from calm_jax.depth.confidence import StaticDepth
from calm_jax.depth.plans import Uniform
from calm_jax.files import read_json, write_json
from calm_jax.machine import processor
from calm_jax.speed import sample, time_decodings

TOLERANCES = (0.05, 0.1, 0.25)  # textual; risk at the first
BATCH_SIZES = (1, 8, 32)
WIDTHS, THRESHOLDS = (4, 8), (0.1, 0.3, 0.6)
TRIED, TIMED, ROUNDS = 12, 32, 3  # texts that drafts are chosen on; texts and rounds that are timed
IDS = 1024
PROMISED = {**{f'textual_{each}': ('textual', each) for each in TOLERANCES}, f'risk_{TOLERANCES[0]}': ('risk', TOLERANCES[0])}
ROWS = [Run(name, '') for name in ('full', 'exact', *PROMISED, 'static', 'uniform')]


@dataclasses.dataclass(frozen=True)
class Kind:
    """Of a checkpoint. adapters: whether it gets them; least: exit layers that tuning chooses among."""

    study: Study
    adapters: bool
    least: tuple[int, ...]


def kind_of(name):
    """Those there are."""
    if name == 'alpaca':
        trained = {'MAX_SOURCE_LENGTH': 96, 'MAX_TARGET_LENGTH': 96, 'BATCH_SIZE': 4, 'TRAIN_STEPS': 400}
        trained |= {'EVAL_EVERY': 100, 'SAVE_EVERY': 100, 'LOG_EVERY': 20, 'MAX_MINUTES': 60.0}
        study = Study(
            source=CHAT.format('{instruction}\n{input}'),
            target='{output}',
            reference=('output',),
            metrics=('rougeL', 'rouge1'),
            bindings=trained,
            runs=ROWS,
            decode=('--batch_size', '16', '--max_source_length', '96', '--max_new_tokens', '64'),
        )
        return Kind(study, True, (8, 12, 16, 20))
    study = Study(
        source='en',
        target='fr',
        reference=('fr',),
        metrics=('chrf', 'sentence_bleu'),
        bindings={},
        runs=ROWS,
        decode=('--batch_size', '32', '--max_source_length', '64', '--max_new_tokens', '64'),
    )
    return Kind(study, False, (1, 2))


class ExitsQueue(Queue):
    """The runs of a kind."""

    def __init__(self, args, kind):
        super().__init__(args, kind.study)
        self.kind, self.depth = kind, read_config(args.checkpoint).num_decoder_layers
        self.tuned = args.output / 'tuned.jsonl'
        tune = Records(args.tune)
        rows = [tune[i] for i in range(min(len(tune), args.tune_limit))]
        self.tuned.write_text(''.join(json.dumps(each, ensure_ascii=False) + '\n' for each in rows), encoding='utf-8')

    @functools.cached_property
    def ids(self):
        """How many of the frequent ids exits look at."""
        return min(IDS, len(calm.load(self.args.output / 'counted').heads['frequent_ids']['ids']))

    @functools.cached_property
    def early(self):
        """Flags of every exit."""
        adapters = ('--adapters', 'trained') if self.kind.adapters else ()
        return ('--measure', 'softmax_gap', '--vocabulary', f'frequent:{self.ids}', *adapters)

    def model(self):
        """The checkpoint that all rows decode: with adapters where it needs them, and its frequent ids."""
        made = self.args.checkpoint
        if self.kind.adapters:
            self.train(Run('adapters', 'adapters.gin'), 0, self.folder('adapters') / 'model')
            made = self.folder('adapters') / 'model'
            made = made / ('best' if (made / 'best').is_dir() else 'last')
            for name, flags in {'before': (), 'after': ('--adapters', 'trained')}.items():
                output = self.args.output / f'agreement_{name}.json'
                data = ['--data', str(self.tuned), '--source_field', self.study.source, '--examples', '48']
                command = ['analyze', 'confidence', '--checkpoint', str(made), *data, '--measure', 'softmax_gap', *flags]
                lengths = self.study.decode[2:]
                self.calm([*command, *lengths, '--output', str(output)], done=output.exists())
        counted, said = self.args.output / 'counted', self.args.output / 'tune_full.jsonl'
        self.decode(said, made, (), self.tuned)
        command = ['count', '--checkpoint', str(made), '--predictions', str(said), '--output', str(counted)]
        self.calm(command, done=counted.is_dir())
        return counted

    def records(self, folder):
        """Of all certificates: they share most points, which are decoded once."""
        return self.args.output / 'records'

    def certificates(self):
        """Runs within those of every promise, by name; the least exit layer is chosen on the tuning data."""
        found = {}
        for name, (objective, tolerance) in PROMISED.items():
            least = [flag for layer in self.kind.least for flag in ('--min_exit_layer', str(layer))]
            tuning = ['--tuning_data', str(self.tuned), '--grid', '.99,.95,.9,.8,.7,.6,.5,.4,.3,.2,.1']
            how = ('--objective', objective, '--tolerance', str(tolerance), *self.early, *least, *tuning)
            found[name] = Run(name, '', certify=how)
        return found

    def rows(self, model):
        """Runs of every row but the exact one's."""
        certified = self.certificates()
        for run in certified.values():
            self.decode_and_score(run, model)
        layers = [read_json(self.folder(name) / 'scores.json')['layers'] for name in certified]
        equal = max(1, min(self.depth - 1, round(min(layers))))
        fixed = ('--measure', 'static', '--threshold', f'{equal / self.depth - 1e-6:f}')
        others = [Run('full', ''), Run('static', '', decode=fixed), Run('uniform', '', decode=('--plan', f'uniform:{equal}'))]
        for run in others:
            self.decode_and_score(run, model)
        return equal

    def exact(self, model):
        """The drafts that were fastest on the tuning data, as flags."""
        path, loaded = self.args.output / 'drafts.json', calm.load(model)
        if not path.exists():
            tries = [(least, threshold, width) for least in self.kind.least for threshold in THRESHOLDS for width in WIDTHS]
            decodings = [full(self.study, loaded), *(drafting(self, loaded, *each) for each in tries)]
            timed = time_decodings(loaded, decodings, sample(self.texts(self.tuned), TRIED), 1, 1)
            gains = (timed.seconds[0, 0] / timed.seconds[0, 1:]).tolist()
            best = int(np.argmax(gains))
            write_json(path, {'tried': [[*each, gain] for each, gain in zip(tries, gains)], 'chosen': tries[best]})
        least, threshold, width = read_json(path)['chosen']
        drafts = ('--threshold', str(threshold), '--min_exit_layer', str(least), '--verify', str(width))
        self.decode_and_score(Run('exact', '', decode=(*self.early, *drafts)), model)
        return least, threshold, width

    def texts(self, path):
        """Sources of a file."""
        records, template = Records(path), Template(self.study.source)
        return [template(records[i], records.where(i)) for i in range(len(records))]

    def times(self, model, equal, drafts):
        """Seconds of every row, interleaved, at every batch size."""
        path, loaded = self.args.output / 'times.json', calm.load(model)
        if path.exists():
            return
        whole = full(self.study, loaded)
        rows = {'full': whole, 'exact': drafting(self, loaded, *drafts)}
        for name in self.certificates():
            certificate = calm.Certificate.load(self.folder(name) / 'certificate.json')
            rows[name] = loaded.resolve(decoding_of(certificate, loaded.heads))
        exit = calm.Exit(StaticDepth(), equal / self.depth - 1e-6)
        rows['static'] = dataclasses.replace(whole, exit=exit)
        rows['uniform'] = dataclasses.replace(whole, plan=Uniform(equal / self.depth))
        texts, taken = self.texts(self.test), {}
        for size in BATCH_SIZES:
            timed = time_decodings(loaded, [*rows.values()], sample(texts, max(TIMED, 2 * size)), size, ROUNDS)
            reports = timed.reports[list(rows).index('exact')]
            taken[str(size)] = {
                'seconds': {name: timed.seconds[:, i].tolist() for i, name in enumerate(rows)},
                'tokens': dict(zip(rows, timed.tokens.tolist())),
                'rounds': sum(each.rounds for each in reports),
                'drafted': np.sum([each.drafted for each in reports if each.drafted], axis=0).tolist(),
                'accepted': np.sum([each.accepted for each in reports if each.accepted], axis=0).tolist(),
            }
            print(f'[{datetime.datetime.now():%H:%M:%S}] timed at batch {size}', flush=True)
        facts = {'machine': processor(), 'date': str(datetime.date.today()), 'command': sys.argv, 'batches': taken}
        write_json(path, {**facts, 'decodings': {name: to_json(each) for name, each in rows.items()}})


def full(study, model):
    """Full depth, within the study's lengths."""
    said = dict(zip(study.decode[::2], study.decode[1::2]))
    limits = calm.Limits(int(said['--max_source_length']), int(said['--max_new_tokens']))
    return model.resolve(calm.Decoding(limits=limits))


def drafting(queue, model, least, threshold, width):
    """A decoding whose drafts are verified."""
    measure = {'class': 'softmax_gap', 'vocabulary': {'class': 'frequent', 'count': queue.ids}}
    exit = {'measure': measure, 'threshold': threshold, 'min_exit_layer': least, 'verify': width}
    if queue.kind.adapters:
        exit['adapters'] = {'class': 'trained'}
    return dataclasses.replace(full(queue.study, model), exit=from_json({'exit': exit}, heads=model.heads).exit)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', choices=('alpaca', 'multi30k'))
    parser.add_argument('--checkpoint', required=True, type=pathlib.Path)
    parser.add_argument('--train', help='JSONL that adapters learn from')
    parser.add_argument('--heldout', help='JSONL that picks their checkpoint')
    parser.add_argument('--tune', required=True, help='JSONL that exits and drafts are chosen on')
    parser.add_argument('--tune_limit', type=int, default=200, help='records of it (default 200)')
    parser.add_argument('--calibration', required=True, help='JSONL that certificates are made on')
    parser.add_argument('--test', required=True, help='JSONL that nothing before the end looks at')
    parser.add_argument('--test_limit', type=int, help='records of it (default all)')
    parser.add_argument('--output', required=True, type=pathlib.Path)
    parser.add_argument('--steps', type=int, help='of the training, in place of the study’s')
    parser.add_argument('--batch_size', type=int, help='of the training, in place of the study’s')
    parser.add_argument('--until', choices=('model', 'rows', 'times'), default='times', help='the last that is done')
    args = parser.parse_args()
    queue = ExitsQueue(args, kind_of(args.study))
    model = queue.model()
    queue.describe()
    if args.until == 'model':
        return
    equal = queue.rows(model)
    queue.describe()
    if args.until == 'rows':
        return
    queue.times(model, equal, queue.exact(model))
    queue.describe()


if __name__ == '__main__':
    main()
