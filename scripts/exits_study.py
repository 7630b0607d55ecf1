"""One checkpoint, sooner: at full depth, exactly what that says, within certificates, and at fixed depths, in one table.

    python scripts/exits_study.py alpaca --checkpoint smollm2 --train alpaca/train.jsonl --heldout alpaca/heldout.jsonl \\
        --tune alpaca/tune.jsonl --calibration alpaca/calibration.jsonl --test alpaca/test.jsonl --output runs/exits/alpaca

A checkpoint that never learned to exit gets adapters (`alpaca`; `multi30k` and `small8` are of some trained with exits). On the
tuning data, which must be apart from all others, its frequent ids are counted, the rank of adapters, how many ids a look is of,
and drafts are chosen by the time they take, and the least exit layer is chosen. It is a queue, as that of
`scripts/policy_study.py`; times are taken last, of all rows interleaved, and want a quiet machine (`--until rows` ends before
them). `scripts/results_page.py --exits DIR` writes the page.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import sys
from typing import NamedTuple

import numpy as np
from layer_study import CHAT
from policy_study import Queue, Run, Study

import calm_jax as calm
from calm_jax import recorded
from calm_jax.certified import decoding_of
from calm_jax.checkpoints.native import read_config
from calm_jax.data.jsonl import Records, Template
from calm_jax.decoding.codec import from_json, to_json
from calm_jax.depth.confidence import StaticDepth
from calm_jax.depth.plans import Uniform
from calm_jax.depth.vocabulary import FrequentIds
from calm_jax.files import read_json, write_json
from calm_jax.machine import processor
from calm_jax.speed import sample, time_decodings

TOLERANCES = (0.05, 0.1, 0.25)  # textual; risk at the first
BATCH_SIZES = (1, 8, 32)
WIDTHS, THRESHOLDS, IDS = (4, 8), (0.1, 0.3, 0.6), (256, 1024)
RANKS, PILOT_STEPS = (0, 32), 100  # of adapters that are compared, before those of the best rank are trained
TRIED, ROUNDS = 12, 3  # texts that drafts are chosen on; rounds of all that is timed
TIMED, LEAST_SECONDS = 32, 3.0  # texts that are timed, or more: a round takes that long, of a row twice as fast as full depth
SHARED = 0.01  # of two files' texts, at most
PROMISED = {**{f'textual_{each}': ('textual', each) for each in TOLERANCES}, f'risk_{TOLERANCES[0]}': ('risk', TOLERANCES[0])}
ADAPTED = 'textual_0.1_lazy_adapted'  # the row in which skipped layers hold adapted states
ROWS = ('bare', 'full', 'exact', *PROMISED, 'static', 'uniform')
NOTHING = 'is cheaper than full depth on the tuning data'  # how a calibration ends that has nothing to certify


class Drafts(NamedTuple):
    """How an exit drafts: the least exit layer, λ, how many drafts at most, and how many ids it looks at."""

    least: int
    threshold: float
    width: int
    ids: int


@dataclasses.dataclass(frozen=True)
class Kind:
    """Of a checkpoint. adapters: whether it gets them; least: exit layers that tuning chooses among."""

    study: Study
    adapters: bool
    least: tuple[int, ...]


def kind_of(name):
    """Those there are."""
    if name == 'alpaca':
        trained = {'MAX_SOURCE_LENGTH': 128, 'MAX_TARGET_LENGTH': 96, 'BATCH_SIZE': 4, 'TRAIN_STEPS': 400}
        trained |= {'EVAL_EVERY': 200, 'SAVE_EVERY': 100, 'LOG_EVERY': 20, 'MAX_MINUTES': 180.0}
        study = Study(
            source=CHAT.format('{instruction}\n{input}'),
            target='{output}',
            reference=('output',),
            metrics=('rougeL', 'rouge1'),
            bindings=trained,
            runs=[Run(each, '') for each in (*ROWS, ADAPTED)],
            decode=('--batch_size', '16', '--max_source_length', '128', '--max_new_tokens', '64'),
        )
        return Kind(study, True, (8, 12, 16, 20))
    study = Study(
        source='en',
        target='fr',
        reference=('fr',),
        metrics=('chrf', 'sentence_bleu'),
        bindings={},
        runs=[Run(each, '') for each in ROWS],
        decode=('--batch_size', '32', '--max_source_length', '64', '--max_new_tokens', '64'),
    )
    return Kind(study, False, (1, 2) if name == 'multi30k' else (1, 2, 3, 4))


class ExitsQueue(Queue):
    """The runs of a kind."""

    def __init__(self, args, kind):
        super().__init__(args, kind.study)
        self.depth = read_config(args.checkpoint).num_decoder_layers
        least = tuple(each for each in kind.least if each < self.depth)
        self.kind = dataclasses.replace(kind, least=least or (1,))
        self.check_apart()
        self.tuned = args.output / 'tuned.jsonl'
        tune = Records(args.tune)
        rows = [tune[i] for i in range(min(len(tune), args.tune_limit))]
        self.tuned.write_text(''.join(json.dumps(each, ensure_ascii=False) + '\n' for each in rows), encoding='utf-8')

    def check_apart(self):
        """Ends the queue where two of the files share more texts than chance explains."""
        names = ('train', 'heldout', 'tune', 'calibration', 'test')
        texts = {name: set(self.texts(path)) for name in names if (path := getattr(self.args, name))}
        for one, other in itertools.combinations(texts, 2):
            both, fewer = len(texts[one] & texts[other]), min(len(texts[one]), len(texts[other]))
            if both > max(1, SHARED * fewer) and (one, other) != ('train', 'heldout'):
                raise SystemExit(f'--{one} and --{other} share {both} of {fewer} texts; expected files that are apart')

    @functools.cached_property
    def ids(self):
        """How many of the frequent ids exits may look at: each once, within the list."""
        listed = len(calm.load(self.args.output / 'counted').heads['frequent_ids']['ids'])
        return sorted({min(each, listed) for each in IDS})

    def early(self, ids):
        """Flags of every exit."""
        return ('--measure', 'softmax_gap', '--vocabulary', f'frequent:{ids}', *self.adapted)

    @property
    def adapted(self):
        """Flags of adapters, where there are any."""
        return ('--adapters', 'trained') if self.kind.adapters else ()

    def model(self):
        """The checkpoint that all rows decode: with its frequent ids, and with adapters where it needs them."""
        made, said = self.args.output / 'counted', self.args.output / 'tune_full.jsonl'
        self.decode(said, self.args.checkpoint, (), self.tuned)
        command = ['count', '--checkpoint', str(self.args.checkpoint), '--predictions', str(said), '--output', str(made)]
        self.calm(command, done=made.is_dir())
        if not self.kind.adapters:
            return made
        bound = {'CHECKPOINT': str(made)}
        made = self.learned(Run('adapters', 'adapters.gin', {**bound, 'RANK': self.rank(bound)}))
        for name, flags in {'before': (), 'after': self.adapted}.items():
            output = self.args.output / f'agreement_{name}.json'
            data = ['--data', str(self.tuned), '--source_field', self.study.source, '--examples', '48']
            command = ['analyze', 'confidence', '--checkpoint', str(made), *data, '--measure', 'softmax_gap', *flags]
            lengths = self.study.decode[2:]
            self.calm([*command, *lengths, '--output', str(output)], done=output.exists())
        return made

    def learned(self, run):
        """The checkpoint that a training makes. Ends the queue where its time was over before it had taken its steps."""
        folder = self.folder(run.name) / 'model'
        self.train(run, 0, folder)
        lines = (folder / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
        taken = max(json.loads(line)['step'] for line in lines)
        wanted = self.args.steps or {**self.study.bindings, **run.bindings}['TRAIN_STEPS']
        if taken < wanted:
            raise SystemExit(f'{folder}: {taken} of {wanted} steps were taken; its config.gin goes on with --resume')
        return folder / ('best' if (folder / 'best').is_dir() else 'last')

    def rank(self, bound):
        """The rank of adapters that short trainings say drafts are fastest with, on the tuning data."""
        path, short = self.args.output / 'rank.json', {'TRAIN_STEPS': PILOT_STEPS, 'EVAL_EVERY': PILOT_STEPS}
        if not path.exists():
            gains = {}
            for rank in RANKS:
                model = calm.load(self.learned(Run(f'pilot_{rank}', 'adapters.gin', {**bound, **short, 'RANK': rank})))
                gains[rank] = max(gain for *_, gain in self.searched(model, 1, self.start, {'least': self.kind.least})[1])
            write_json(path, {'gains': {str(rank): gain for rank, gain in gains.items()}, 'chosen': max(gains, key=gains.get)})
        return read_json(path)['chosen']

    @property
    def start(self):
        """Where the search of drafts begins."""
        return Drafts(self.kind.least[0], THRESHOLDS[1], WIDTHS[0], self.ids[0])

    def searched(self, model, size, drafts, axes):
        """(The fastest drafts on the tuning data, one option after the other; all that were tried, each with its gain: the
        median over rounds of full depth's seconds over its own.)"""
        texts, tried = sample(self.texts(self.tuned), max(TRIED, 2 * size)), []
        for name, values in axes.items():
            tries = [drafts._replace(**{name: value}) for value in values]
            decodings = [full(self.study, model), *(drafting(self, model, each) for each in tries)]
            seconds = time_decodings(model, decodings, texts, size, ROUNDS).seconds
            gains = np.median(seconds[:, :1] / seconds[:, 1:], axis=0).tolist()
            tried += [[*each, gain] for each, gain in zip(tries, gains)]
            drafts = tries[int(np.argmax(gains))]
        return drafts, tried

    def drafts(self, model):
        """Those of every batch size; what a look is of is chosen with those of the first."""
        path, loaded = self.args.output / 'drafts.json', calm.load(model)
        if not path.exists():
            made, begun = {}, self.start
            often = {'threshold': THRESHOLDS, 'width': WIDTHS}
            for size in BATCH_SIZES:
                axes = {'least': self.kind.least, **often, 'ids': self.ids} if size == BATCH_SIZES[0] else often
                begun, tried = self.searched(loaded, size, begun, axes)
                made[str(size)] = {'tried': tried, 'chosen': begun}
            write_json(path, made)
        return {size: Drafts(*each['chosen']) for size, each in read_json(path).items()}

    def records(self, folder):
        """Of all certificates: they share most points, which are decoded once. Another propagation has its own."""
        return (folder if folder.name == ADAPTED else self.args.output) / 'records'

    def certificates(self, ids):
        """Runs within those of every promise, by name; the least exit layer is chosen on the tuning data."""
        found = {}
        for run in self.study.runs:
            if run.name not in PROMISED and run.name != ADAPTED:
                continue
            objective, tolerance = PROMISED[run.name.removesuffix('_lazy_adapted')]
            least = [flag for layer in self.kind.least for flag in ('--min_exit_layer', str(layer))]
            tuning = ['--tuning_data', str(self.tuned), '--grid', '.99,.95,.9,.8,.7,.6,.5,.4,.3,.2,.1']
            how = ('--objective', objective, '--tolerance', str(tolerance), *self.early(ids), *least, *tuning)
            more = ('--propagation', 'lazy_adapted') if run.name == ADAPTED else ()
            found[run.name] = Run(run.name, '', certify=(*how, *more))
        return found

    def rows(self, model, drafts):
        """All rows; how many layers those of fixed depth have: no fewer than the cheapest certified has on its data."""
        for run, made in ((Run('full', ''), model), (Run('bare', ''), self.args.checkpoint)):
            self.decode_and_score(run, made)
        first = drafts[str(BATCH_SIZES[0])]
        for run in self.certificates(first.ids).values():
            self.within(run, model)
        layers = [self.calibrated_layers(name) for name in self.certificates(first.ids)]
        equal = max(1, min(self.depth - 1, math.ceil(min((each for each in layers if each), default=0.75 * self.depth))))
        fixed = ('--measure', 'static', '--threshold', f'{equal / self.depth - 1e-6:f}', *self.adapted)
        how = ('--threshold', str(first.threshold), '--min_exit_layer', str(first.least), '--verify', str(first.width))
        for run in (
            Run('static', '', decode=fixed),
            Run('uniform', '', decode=('--plan', f'uniform:{equal}')),
            Run('exact', '', decode=(*self.early(first.ids), *how)),
        ):
            self.decode_and_score(run, model)
        return equal

    def within(self, run, model):
        """A row within a certificate; full depth's, and why, where there is nothing cheaper to certify."""
        folder = self.folder(run.name)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with errors_in(folder / 'errors.txt'):
                self.decode_and_score(run, model)
        except SystemExit:
            said = (folder / 'errors.txt').read_text(encoding='utf-8').strip()
            if NOTHING not in said:
                print(said, file=sys.stderr)
                raise
            print(f'{run.name}: nothing certified: full depth', flush=True)
            write_json(folder / 'scores.json', {**read_json(self.folder('full') / 'scores.json'), 'nothing': said})

    def certificate(self, name):
        """Of a row; None where nothing was certified."""
        path = self.folder(name) / 'certificate.json'
        certificate = calm.Certificate.load(path) if path.exists() else None
        return certificate if certificate is not None and certificate.found else None

    def calibrated_layers(self, name):
        """Mean layers of what a row's certificate chose, on the calibration data; None where that is nothing."""
        if (certificate := self.certificate(name)) is None:
            return None
        records = self.records(self.folder(name))
        path = records / recorded.read(records).file(certificate.decoding)
        lines = map(json.loads, path.read_text(encoding='utf-8').splitlines())
        return float(np.mean([each['layers'] for each in lines if 'layers' in each]))

    def scores(self, folder, checkpoint):
        """Of the queue; and how many tokens there are, and which share of the texts is full depth's, token for token."""
        said, whole = tokens_of(folder / 'out.jsonl'), tokens_of(self.folder('full') / 'out.jsonl')
        equal = float(np.mean([one == other for one, other in zip(said, whole, strict=True)]))
        return {**super().scores(folder, checkpoint), 'texts_equal': equal, 'tokens': sum(map(len, said))}

    def texts(self, path):
        """Sources of a file."""
        records, template = Records(path), Template(self.study.source)
        return [template(records[i], records.where(i)) for i in range(len(records))]

    def times(self, model, equal, drafts):
        """Seconds of every row, interleaved, at every batch size; again where anything that was timed has changed since."""
        path, loaded = self.args.output / 'times.json', calm.load(model)
        whole = full(self.study, loaded)
        shared = dict.fromkeys(self.certificates(1), whole)
        for name in shared:
            if (certificate := self.certificate(name)) is not None:
                shared[name] = loaded.resolve(decoding_of(certificate, loaded.heads))
        exit = calm.Exit(StaticDepth(), equal / self.depth - 1e-6, adapters=drafting(self, loaded, self.start).exit.adapters)
        shared['static'] = dataclasses.replace(whole, exit=exit)
        shared['uniform'] = dataclasses.replace(whole, plan=Uniform(equal / self.depth))
        said = set(itertools.chain(*tokens_of(self.folder('full') / 'out.jsonl')))
        unsaid = np.setdiff1d(np.arange(loaded.config.vocab_size), list(said)).astype(np.int32)
        rows = {}
        for size in map(str, BATCH_SIZES):
            exact = drafting(self, loaded, drafts[size])
            never = dataclasses.replace(exact.exit.measure, vocabulary=FrequentIds(unsaid, min(len(unsaid), drafts[size].ids)))
            wrong = dataclasses.replace(exact.exit, measure=never, threshold=0.0, min_exit_layer=self.kind.least[0])
            rows[size] = {'full': whole, 'exact': exact, 'never_right': dataclasses.replace(whole, exit=wrong), **shared}
        documents = {size: {name: to_json(each) for name, each in these.items()} for size, these in rows.items()}
        texts = self.texts(self.test)
        timed = json.dumps([documents, loaded.fingerprints, texts, processor()], sort_keys=True)
        digest = hashlib.sha256(timed.encode()).hexdigest()
        if path.exists() and read_json(path).get('digest') == digest:
            return
        taken = {size: self.timed(loaded, these, texts, int(size)) for size, these in rows.items()}
        facts = {'machine': processor(), 'date': str(datetime.date.today()), 'command': sys.argv, 'digest': digest}
        write_json(path, {**facts, 'rounds': ROUNDS, 'layers': equal, 'batches': taken, 'decodings': documents})

    def timed(self, loaded, rows, texts, size):
        """Rows at a batch size, over texts enough, packed as all of them would be."""
        pack, count = loaded.pack_of(len(texts), size), min(len(texts), max(TIMED, 2 * size))
        one = time_decodings(loaded, [rows['full']], sample(texts, count), size, 1, pack=pack).seconds[0, 0]
        count *= math.ceil(2 * LEAST_SECONDS / one)
        texts = list(itertools.islice(itertools.cycle(sample(texts, count)), count))
        timed = time_decodings(loaded, [*rows.values()], texts, size, ROUNDS, pack=pack)
        print(f'[{datetime.datetime.now():%H:%M:%S}] timed at batch {size}', flush=True)
        named = dict(zip(rows, timed.reports))
        return {
            'texts': count,
            'seconds': {name: timed.seconds[:, i].tolist() for i, name in enumerate(rows)},
            'tokens': dict(zip(rows, timed.tokens.tolist())),
            'drafts': {name: drafts_of(named[name]) for name in ('exact', 'never_right')},
        }


def drafts_of(reports):
    """Rounds, and what was drafted and accepted by its place in one."""
    sums = {
        name: np.sum([getattr(each, name) for each in reports if getattr(each, name)], axis=0, dtype=int).tolist()
        for name in ('drafted', 'accepted')
    }
    return {'rounds': sum(each.rounds for each in reports), **sums}


def tokens_of(path):
    """Of every text of a file of decoded records."""
    return [json.loads(line)['tokens'] for line in path.read_text(encoding='utf-8').splitlines()]


@contextlib.contextmanager
def errors_in(path):
    """What this process and those that it starts write to standard error goes to a file meanwhile."""
    sys.stderr.flush()
    before = os.dup(2)
    with open(path, 'wb') as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)


def full(study, model):
    """Full depth, within the study's lengths."""
    said = dict(zip(study.decode[::2], study.decode[1::2]))
    limits = calm.Limits(int(said['--max_source_length']), int(said['--max_new_tokens']))
    return model.resolve(calm.Decoding(limits=limits))


def drafting(queue, model, drafts):
    """A decoding whose drafts are verified."""
    measure = {'class': 'softmax_gap', 'vocabulary': {'class': 'frequent', 'count': drafts.ids}}
    exit = {'measure': measure, 'threshold': drafts.threshold, 'min_exit_layer': drafts.least, 'verify': drafts.width}
    if queue.kind.adapters:
        exit['adapters'] = {'class': 'trained'}
    return dataclasses.replace(full(queue.study, model), exit=from_json({'exit': exit}, heads=model.heads).exit)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', choices=('alpaca', 'multi30k', 'small8'))
    parser.add_argument('--checkpoint', required=True, type=pathlib.Path)
    parser.add_argument('--train', help='JSONL that adapters learn from')
    parser.add_argument('--heldout', help='JSONL that picks their checkpoint')
    parser.add_argument('--tune', required=True, help='JSONL that exits and drafts are chosen on, apart from all others')
    parser.add_argument('--tune_limit', type=int, default=200, help='records of it (default 200)')
    parser.add_argument('--calibration', required=True, help='JSONL that certificates are made on')
    parser.add_argument('--test', required=True, help='JSONL that nothing before the end looks at')
    parser.add_argument('--test_limit', type=int, help='records of it (default all)')
    parser.add_argument('--output', required=True, type=pathlib.Path)
    parser.add_argument('--steps', type=int, help='of every training, in place of the study’s')
    parser.add_argument('--batch_size', type=int, help='of every training, in place of the study’s')
    parser.add_argument('--until', choices=('model', 'rows', 'times'), default='times', help='the last that is done')
    args = parser.parse_args()
    calm.use_compilation_cache()
    queue = ExitsQueue(args, kind_of(args.study))
    model = queue.model()
    queue.describe()
    if args.until == 'model':
        return
    drafts = queue.drafts(model)
    equal = queue.rows(model, drafts)
    queue.describe()
    if args.until == 'rows':
        return
    queue.times(model, equal, drafts)
    queue.describe()


if __name__ == '__main__':
    main()
