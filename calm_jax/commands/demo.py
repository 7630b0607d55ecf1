"""Shows all of it on a small trained model, offline: calibrate, decode within the guarantee, compare, draw.

    calm demo                                  # a minute on two CPU cores; writes calm_demo/page.html
    calm demo --retrain --output my_demo       # first makes data, tokenizer, model and exit classifier again

Of all measures and thresholds that keep the promise the cheapest is certified, in one call. The headline says how many layers a
token ran, how many outputs changed, and how much faster one text at a time is decoded, which is what waiting for a model is: by
the median of several rounds of each text, with what half of the texts gain. Many at a time are timed too. A model this small
spends half of its time on other things than layers; what larger ones gain stands in docs/results.md.

The task is localisation from English to French: dates, times, numbers, money, measurements, names. Every step is one of the
other commands, and is printed as it would be typed.
"""

import argparse
import shlex
import shutil
from pathlib import Path

import numpy as np

from calm_jax import certified
from calm_jax.calibration import Certificate
from calm_jax.commands.plain_table import plain_table
from calm_jax.commands.provenance import origin
from calm_jax.compilation import use_compilation_cache
from calm_jax.data import jsonl
from calm_jax.demo import localisation
from calm_jax.demo.localisation import ASSETS, SEED, TRAINING_ROWS, write_shipped_splits, write_split
from calm_jax.examples import examples, telling
from calm_jax.files import read_json, write_json
from calm_jax.model import load
from calm_jax.progress import progress
from calm_jax.speed import measure_speed, sample, time_decodings

# Fixed before calibrating: the share of outputs that may change, the chance of being wrong about it, and the thresholds.
TOLERANCE, EPSILON = 0.05, 0.05
FULL, CERTIFIED = 'full model', 'certified'
# All that the model has, with thresholds of each: one certificate is found among them.
MEASURES = {'softmax_gap': '0.97,0.95', 'state': '0.98,0.95', 'classifier': '0.97,0.9'}
BATCH_SIZE = 100
TIMED_TEXTS, TIMED_ROUNDS = 32, 7  # one at a time
EXAMPLES = 12
SPLITS = ('tune', 'calibration', 'test')
MARKER = 'demo.json'
# A small model has no use for more, and buckets of a long limit are wide: all texts share one compiled shape.
GENERATION = {'limits': {'max_source_length': 320, 'max_new_tokens': 48}}


def add_arguments(parser):
    parser.add_argument('--output', default='calm_demo', metavar='DIR', help='folder to write (default calm_demo)')
    parser.add_argument(
        '--retrain',
        action='store_true',
        help='make data, tokenizer, model and classifier again, to DIR/model; needs the extra [demo]',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the folder of an earlier demo')
    parser.add_argument('--quiet', action='store_true', help="print the headline, the table and the page's name only")


def run(args):
    directory = Path(args.output)
    check(directory, args.overwrite, args.retrain)
    use_compilation_cache()
    prepare(directory)
    data, checkpoint = directory / 'data', directory / 'model'
    if args.retrain:
        retrain(directory, data, args.quiet)
    else:
        lay_out_assets(data, checkpoint)
    certificate = Certificate.load(calibrate(checkpoint, data, directory, args.quiet))
    decoded = decode(directory / 'certificate.json', checkpoint, data, directory, args.quiet)
    test = lines(data / 'test.jsonl')
    speeds = speeds_of(certificate, checkpoint, data, args.quiet)
    rows = [table_row(name, decoded, [record['fr'] for record in test], speeds, certificate) for name in decoded]
    num_layers = read_json(checkpoint / 'config.json')['num_decoder_layers']
    title, note = headline(certificate, speeds, rows[-1], num_layers)
    write_json(
        directory / 'results.json',
        {
            'title': title,
            'note': note,
            'columns': columns(num_layers),
            'rows': rows,
            'speeds': speeds,
            'provenance': origin('demo', args, SEED),
        },
    )
    write_json(directory / 'examples.json', shown_examples(test, decoded, num_layers))
    call('report', [str(directory), '--output', str(directory / 'page.html')], quiet=True)
    print(f'\n{title}.\n{note}\n')
    show(rows, columns(num_layers))
    print(f'\n{directory / "page.html"}: the same with the certificate, its curve, and every token coloured by its depth')


def check(directory, overwrite, retrain):
    """Refuses a folder with anything in it, unless it may be replaced and an earlier demo made it; and what cannot be made.

    Nothing is written or deleted. Raises FileExistsError, NotADirectoryError, FileNotFoundError or ValueError.
    """
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f'{directory} is a file; --output must be a folder')
    if directory.exists() and any(directory.iterdir()):
        if not overwrite:
            raise FileExistsError(f'{directory} exists; pass --overwrite to replace it, or another --output')
        if not (directory / MARKER).is_file():
            raise FileExistsError(f'{directory} holds no {MARKER}, so no demo made it; choose another --output')
    if retrain:
        localisation.row('train', 0)  # says how to get Babel where it is not there
        return
    missing = [name for name in (*(f'{split}.jsonl' for split in SPLITS), 'model') if not (ASSETS / name).exists()]
    if missing:
        raise FileNotFoundError(f'{ASSETS}: {", ".join(missing)} of the demo missing; install calm_jax again')


def prepare(directory):
    """Makes the folder, empty but for the marker."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    write_json(directory / MARKER, {'seed': SEED, 'tolerance': TOLERANCE, 'epsilon': EPSILON})


def lay_out_assets(data, checkpoint):
    """Copies what the package ships, so that every command below can be typed again and varied."""
    data.mkdir()
    for split in SPLITS:
        shutil.copy(ASSETS / f'{split}.jsonl', data)
    shutil.copytree(ASSETS / 'model', checkpoint)


def retrain(directory, data, quiet):
    """Data, tokenizer, multi-exit model, exit classifier; finished in `directory`/model, in half precision."""
    from calm_jax.checkpoints import native
    from calm_jax.demo import vocabulary

    write_shipped_splits(data)
    write_split(data / 'train.jsonl', 'train', progress(range(TRAINING_ROWS), 'making data', quiet=quiet, unit='pairs'))
    texts = (record[language] for record in lines(data / 'train.jsonl') for language in ('en', 'fr'))
    vocabulary.train(texts, directory / 'tokenizer')
    common = [f'--gin.TRAIN_DATA={str(data / "train.jsonl")!r}', f'--gin.EVAL_DATA={str(data / "tune.jsonl")!r}']
    call(
        'train',
        [
            '--gin_file=runs/demo.gin',
            *common,
            f'--gin.TOKENIZER={str(directory / "tokenizer")!r}',
            '--output',
            str(directory / 'backbone'),
        ],
        quiet,
    )
    call(
        'train',
        [
            '--gin_file=runs/demo_classifier.gin',
            *common,
            f'--gin.CHECKPOINT={str(directory / "backbone" / "best")!r}',
            '--output',
            str(directory / 'classifier'),
        ],
        quiet,
    )
    trained = native.load(directory / 'classifier' / 'best')
    native.save(
        directory / 'model', trained.config, trained.params, trained.tokenizer, trained.heads, GENERATION, dtype='float16'
    )


def calibrate(checkpoint, data, directory, quiet):
    """The certificate of the cheapest setting of any measure that keeps the promise, and beside it what it was found from."""
    certificate = directory / 'certificate.json'
    call(
        'calibrate',
        [
            '--checkpoint',
            str(checkpoint),
            '--data',
            str(data / 'calibration.jsonl'),
            '--source_field',
            'en',
            '--target_field',
            'fr',
            *(flag for name, grid in MEASURES.items() for flag in ('--measure', name, '--grid', grid)),
            '--tuning_data',
            str(data / 'tune.jsonl'),
            '--metric',
            'accuracy',
            '--tolerance',
            str(TOLERANCE),
            '--epsilon',
            str(EPSILON),
            '--p_value',
            'binomial',
            '--batch_size',
            str(BATCH_SIZE),
            '--records',
            str(directory / 'records'),
            '--output',
            str(certificate),
        ],
        quiet,
    )
    return certificate


def decode(certificate, checkpoint, data, directory, quiet):
    """Records of the test split: of the full model, then within the certificate."""
    (directory / 'test').mkdir()
    common = [
        '--checkpoint',
        str(checkpoint),
        '--input',
        str(data / 'test.jsonl'),
        '--source_field',
        'en',
        '--batch_size',
        str(BATCH_SIZE),
    ]
    decoded = {}
    for name, flags in {FULL: [], CERTIFIED: ['--certificate', str(certificate)]}.items():
        output = directory / 'test' / f'{name.replace(" ", "_")}.jsonl'
        call('generate', [*common, *flags, '--output', str(output)], quiet)
        decoded[name] = lines(output)
    return decoded


def speeds_of(certificate, checkpoint, data, quiet):
    """The certified decoding against full depth: `alone`, texts one at a time, and `together`, what `measure_speed` says of
    BATCH_SIZE of them; {} where nothing was certified."""
    if not certificate.found:
        return {}
    model, texts = load(checkpoint), [record['en'] for record in lines(data / 'tune.jsonl')]
    decoding = certified.decoding_of(certificate, model.heads)
    alone = speed_alone(model, decoding, sample(texts, TIMED_TEXTS), quiet)
    return {'alone': alone, 'together': measure_speed(model, decoding, texts, BATCH_SIZE, quiet=quiet)}


def speed_alone(model, decoding, texts, quiet):
    """Texts one at a time, each under both decodings in turn and several times: how fast all of them are, by the median of
    each, and the quarter of the texts that gains least and most.

    What else the machine does strikes single rounds of single texts, which a median leaves aside.
    """
    decodings = [model.resolve(decoding).full(), decoding]
    medians = np.array(
        [
            np.median(time_decodings(model, decodings, [text], 1, TIMED_ROUNDS).seconds, axis=0)
            for text in progress(texts, 'timing', quiet=quiet, unit='texts')
        ]
    )
    quarter, half, three_quarters = np.quantile(medians[:, 0] / medians[:, 1], [0.25, 0.5, 0.75]).tolist()
    return {
        'speed_up': float(medians[:, 0].sum() / medians[:, 1].sum()),
        'quartiles': [quarter, half, three_quarters],
        'texts': len(texts),
        'rounds': TIMED_ROUNDS,
    }


def headline(certificate, speeds, row, num_layers):
    """What came of it, in a line, and what is to be read with it: the spread, the promise, and what the test says of it."""
    promised = f'at most {TOLERANCE:.0%} of outputs change, with probability {1 - EPSILON:g}'
    if not certificate.found:
        return 'Full depth: nothing could be promised', f'What was not: {promised}.'
    speed = speeds['alone']
    least, _, most = speed['quartiles']
    return (
        f'{row["layers"]:.1f} of {num_layers} layers a token, {row["changed"]:.1f}% of outputs changed, '
        f'{speed["speed_up"]:.1f} times as fast',
        f'English to French, against full depth. Time is of one text alone: half of {speed["texts"]} texts gain between '
        f'{least:.2f} and {most:.2f} times, each the median of {speed["rounds"]} rounds. Promised: {promised}; measured on the '
        'test set.',
    )


def shown_examples(test, decoded, num_layers):
    """What examples.json holds: a few test texts, a third of them with another output."""
    full, early = decoded[FULL], decoded[CERTIFIED]
    rows = telling([record['text'] for record in full], [record['text'] for record in early], EXAMPLES)
    return examples(
        [test[row]['en'] for row in rows],
        [test[row]['fr'] for row in rows],
        [full[row] for row in rows],
        {f'{CERTIFIED}, δ = {TOLERANCE:g}': [early[row] for row in rows]},
        num_layers,
        'test.jsonl',
    )


def columns(num_layers):
    """What the table says, as results.json names it, and what its columns mean."""
    return [
        {'key': 'name', 'name': 'decoding', 'unit': ''},
        {'key': 'threshold', 'name': 'λ', 'unit': '', 'meaning': 'confidence from which on a token leaves'},
        {'key': 'layers', 'name': 'layers', 'unit': f'of {num_layers}', 'meaning': 'decoder layers that a token ran'},
        {'key': 'flops', 'name': 'FLOPs', 'unit': 'M', 'meaning': 'of a token, in millions'},
        {'key': 'saved', 'name': 'saved', 'unit': '%', 'meaning': "of the full model's FLOPs"},
        {
            'key': 'speed_1',
            'name': 'speed',
            'unit': '× at 1',
            'meaning': 'of one text at a time; below 1 is slower than full depth',
        },
        {'key': 'speed_batch', 'name': 'speed', 'unit': f'× at {BATCH_SIZE}', 'meaning': f'of {BATCH_SIZE} texts together'},
        {'key': 'changed', 'name': 'changed', 'unit': '%', 'meaning': "test outputs that are not the full model's"},
        {'key': 'exact', 'name': 'exact', 'unit': '%', 'meaning': 'test outputs equal to the reference'},
    ]


def table_row(name, decoded, references, speeds, certificate):
    """One way of decoding, measured on the test split."""
    records, full, early = decoded[name], decoded[FULL], name == CERTIFIED
    tokens = sum(len(record['tokens']) for record in records)
    flops = sum(record['flops'] for record in records)
    full_flops = sum(record['flops'] for record in full)
    speed_1, speed_batch = (speeds[name]['speed_up'] if early and name in speeds else 1.0 for name in ('alone', 'together'))
    measure = certificate.decoding.get('exit', {}).get('measure', {}).get('class', 'full depth')
    return {
        'name': measure if early else name,
        'threshold': certificate.threshold if early else None,
        'layers': sum(record['layers'] * len(record['tokens']) for record in records) / tokens,
        'flops': flops / tokens / 1e6,
        'saved': 100 * (1 - flops / full_flops),
        'speed_1': round(speed_1, 2),
        'speed_batch': round(speed_batch, 2),
        'changed': 100 * float(np.mean([one['text'] != other['text'] for one, other in zip(records, full)])),
        'exact': 100 * float(np.mean([record['text'] == reference for record, reference in zip(records, references)])),
    }


def show(rows, headings):
    """The table on standard output, and what its columns mean."""
    cells = [[f'{heading["name"]}', *(_cell(row[heading['key']], heading['key']) for row in rows)] for heading in headings]
    units = [heading['unit'] for heading in headings]
    table = [[column[0] for column in cells], units, *([column[1 + at] for column in cells] for at in range(len(rows)))]
    print(plain_table(table, numbers=range(1, len(headings))))
    print()
    meanings = [
        [f'{heading["name"]} {heading["unit"]}'.strip(), heading['meaning']] for heading in headings if 'meaning' in heading
    ]
    print(plain_table(meanings))


def _cell(value, key):
    """As the table has it: λ is as it is, .996 being not 1."""
    if value is None or isinstance(value, str):
        return value or '–'
    return f'{value:g}' if key == 'threshold' else f'{value:.2f}'


def call(command, arguments, quiet):
    """Runs another command in this process, after printing it as it would be typed."""
    import importlib

    module = importlib.import_module(f'calm_jax.commands.{command}')
    if not quiet:
        print(f'$ {shlex.join(["calm", command, *arguments])}')
    parser = argparse.ArgumentParser(prog=f'calm {command}')
    module.add_arguments(parser)
    module.run(parser.parse_args([*arguments, *(['--quiet'] if quiet else [])]))


def lines(path):
    """The records of a JSONL file."""
    return [record for _, record in jsonl.stream(path)]
