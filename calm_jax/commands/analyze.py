"""Look inside a model.

    calm analyze sensitivity --checkpoint DIR --data in.jsonl --source_field en --metric rougeL --output sensitivity.json

sensitivity: what one wrong token costs the rest of the sequence, by where it stands: the score against the full model's
output after the last layer's 10th-ranked token (sampling) or the first layer's prediction (layer) at each position.
"""

import dataclasses
from functools import partial

from calm_jax.analysis.sensitivity import sensitivity
from calm_jax.commands import decode_flags
from calm_jax.commands.generate import model_fingerprints
from calm_jax.commands.provenance import data_of, provenance
from calm_jax.data import jsonl
from calm_jax.data.sources import open_records
from calm_jax.decoding.settings import Settings
from calm_jax.metrics import quality
from calm_jax.model import load
from calm_jax.outputs import check_file
from calm_jax.progress import progress
from calm_jax.sweep import save_json

KINDS = ('sensitivity',)


def add_arguments(parser):
    parser.add_argument('analysis', choices=KINDS)
    decode_flags.add_model(parser)
    parser.add_argument('--data', required=True, metavar='FILE', help='inputs: JSONL, plain, .gz or .xz, or seqio:TASK:SPLIT')
    parser.add_argument('--source_field', default='source', metavar='FIELD', help='input: a field or template (default source)')
    parser.add_argument('--metric', default='rougeL', metavar='NAME', help='score against the full output (default rougeL)')
    parser.add_argument('--positions', metavar='t,t,…', help='tokens before the wrong one (default: 8, evenly spaced)')
    parser.add_argument('--examples', type=decode_flags.positive, default=100, metavar='N', help='inputs used (default 100)')
    parser.add_argument('--max_new_tokens', type=decode_flags.positive, metavar='T', help="default: the checkpoint's, else 128")
    parser.add_argument('--max_source_length', type=decode_flags.positive, metavar='S', help='default: as above, else 512')
    parser.add_argument('--output', required=True, metavar='FILE', help='JSON to write, which `calm report` draws')
    parser.add_argument('--overwrite', action='store_true', help='replace the output if it exists')


def run(args):
    check_file(args.output, args.overwrite, [args.data])
    decode_flags.use_compilation_cache()
    metric = quality.metric(args.metric)
    records, template = open_records(args.data), jsonl.Template(args.source_field)
    texts = [template(records[i], records.where(i)) for i in range(min(args.examples, len(records)))]
    model = load(args.checkpoint, args.dtype)
    length, source_length = model.limits(args.max_new_tokens, args.max_source_length)
    settings = Settings(max_new_tokens=length, max_source_length=source_length, dtype=model.config.dtype)
    positions = _positions(args.positions, settings.max_new_tokens)
    result = sensitivity(
        model, texts, metric, positions, max_new_tokens=settings.max_new_tokens,
        max_source_length=settings.max_source_length, batch_size=args.batch_size,
        progress=partial(progress, quiet=args.quiet))
    save_json(args.output, {**result, 'metric': args.metric, 'provenance': provenance(
        'analyze sensitivity', args, seed=settings.seed, settings=dataclasses.asdict(settings),
        fingerprints=model_fingerprints(model), data=data_of(records, args.source_field, len(texts)))})
    if not args.quiet:
        for position, sampling, layer, count in zip(*(result[key] for key in ('positions', 'sampling', 'layer', 'examples'))):
            print(f'token {position}: {args.metric} {sampling:.3f} after the 10th-ranked token, {layer:.3f} after the '
                  f"first layer's ({count} outputs)")


def _positions(text, length):
    if text is None:
        return sorted({round(step * (length - 1) / 7) for step in range(8)})
    try:
        positions = [int(each) for each in text.split(',')]
    except ValueError:
        raise ValueError(f'--positions {text!r}: expected whole numbers with commas between them') from None
    for position in positions:
        if not 0 <= position < length:
            raise ValueError(f'--positions: {position} is outside 0…{length - 1}')
    return positions
