"""Decode texts, each token to the depth it needs.

    calm generate --checkpoint DIR --input in.jsonl --source_field en --output out.jsonl --measure softmax_gap --threshold 0.8
    calm generate --checkpoint DIR --input in.jsonl --source_field en --output out.jsonl --certificate c.json
    calm generate --checkpoint DIR --prompt "A man rides a bicycle."

Writes one JSON record a line, in input order: the text, and per token its exit layer and confidence. An interrupted run
continues with --resume; the file is the same to the byte as if it had not been interrupted.
"""

import collections
import dataclasses
import sys

import jax

from calm_jax.calibration import Certificate
from calm_jax.checkpoints.native import config_fingerprint, fingerprint
from calm_jax.commands import decode_flags
from calm_jax.data import jsonl
from calm_jax.data.decoded import Decoded, check_path, header
from calm_jax.data.record_schema import record
from calm_jax.data.sources import open_records
from calm_jax.data.summary import Summary
from calm_jax.data.windows import WINDOW
from calm_jax.decoding.settings import Settings
from calm_jax.model import load
from calm_jax.models.joined import split
from calm_jax.outputs import check_apart
from calm_jax.progress import progress


def add_arguments(parser):
    decode_flags.add_model(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--input', metavar='FILE', help='JSONL, plain, .gz or .xz, or seqio:TASK:SPLIT')
    source.add_argument('--prompt', metavar='TEXT', help='decode this text to standard output')
    parser.add_argument(
        '--source_field',
        default='source',
        metavar='FIELD',
        help="field that holds the input text, or a template such as 'translate: {en}' (default source)",
    )
    parser.add_argument('--output', metavar='FILE', help='JSONL to write; required with --input')
    parser.add_argument('--certificate', metavar='FILE', help='decode within the guarantee of this certificate')
    parser.add_argument('--resume', action='store_true', help='go on where an interrupted run stopped')
    parser.add_argument('--overwrite', action='store_true', help='replace the output if it exists')
    decode_flags.add_settings(parser)


def run(args):
    decode_flags.use_compilation_cache()
    if args.input and not args.output:
        raise ValueError('--input needs --output, the JSONL file to write')
    if args.prompt is not None and (args.output or args.resume or args.overwrite):
        raise ValueError('--prompt prints to standard output; --output, --resume and --overwrite belong to --input')
    if 'measure' in (said := decode_flags.given(args)) and 'threshold' not in said and not args.certificate:
        raise ValueError(f'--measure {said["measure"]} without --threshold would decode at full depth; say λ')
    if args.resume and args.overwrite:
        raise ValueError('--resume and --overwrite contradict each other; pass one')
    if args.prompt is not None and not jsonl.is_unicode(args.prompt):
        raise ValueError('--prompt: not text; it holds bytes that are not UTF-8, or half of a surrogate pair')
    if args.output:
        check_path(args.output)
        check_apart(args.output, [args.input, args.certificate])
    model = load(args.checkpoint, args.dtype)
    if args.certificate:
        settings = certified(Certificate.load(args.certificate), args, model)
    else:
        settings = decode_flags.settings(args, model)
    if args.prompt is not None:
        for output in decode_flags.stream(model, [args.prompt], settings, 1):
            print(output.text)
        return
    decode_file(
        model,
        settings,
        args.input,
        args.source_field,
        args.output,
        args.batch_size,
        resume=args.resume,
        overwrite=args.overwrite,
        quiet=args.quiet,
    )


def decode_file(
    model,
    settings,
    source_path,
    source_field,
    output_path,
    batch_size,
    *,
    resume=False,
    overwrite=False,
    quiet=False,
    parameters=None,
):
    """Decodes a JSONL file into another; returns the summary. `parameters`: their fingerprint, if it is known."""
    records = open_records(source_path)
    template = jsonl.Template(source_field)
    settings.build(model.config, model.heads)  # what is wrong with them is said before anything is written
    for i, each in enumerate(progress(records, 'checking', quiet=quiet, unit='examples')):
        template(each, records.where(i))
    fingerprints = model_fingerprints(model, parameters)
    run_header = header(records.fingerprint(), source_field, settings.deciding(), batch_size, fingerprints)
    decoded = Decoded(output_path, run_header, WINDOW * batch_size, resume, overwrite)
    summary = Summary()
    if not decoded.complete or not decoded.summarized:
        summary.include(decoded.finished_records())
    machine = environment(batch_size)
    if decoded.complete:
        if not decoded.summarized:
            decoded.summarize({**summary.as_dict(), **machine})
        if not quiet:
            print(f'{output_path} is complete: {decoded.finished} records')
        return None

    ids = collections.deque()  # of the examples that are being decoded, in order

    def texts():
        for i in range(decoded.finished, len(records)):
            example = records[i]
            ids.append(example.get('id', i))
            yield template(example, records.where(i))

    outputs = summary.passing(decode_flags.stream(model, texts(), settings, batch_size, first=decoded.finished))
    lines = (record(ids.popleft(), output) for output in outputs)
    written = decoded.write(lines)
    for _ in progress(written, 'decoding', total=len(records), initial=decoded.finished, quiet=quiet, unit='examples'):
        pass
    result = {**summary.as_dict(), **machine}
    decoded.summarize(result)
    if not quiet:
        print(
            f'{output_path}: {result["examples"]} examples, {result["tokens"]} tokens, '
            f'{result["layers_per_token"]:.2f} of {model.config.num_decoder_layers} layers per token, '
            f'{result["tokens_per_second"]:.1f} tokens/s, {result["truncated"]} inputs cut at '
            f'{settings.max_source_length} tokens'
        )
    return result


def model_fingerprints(model, parameters=None):
    """Fingerprints of everything trained, of the configuration and of the tokenizer."""
    return {
        'parameters': parameters or fingerprint({'params': split(model.params), 'heads': model.heads or {}}),
        'config': config_fingerprint(model.config),
        'tokenizer': model.tokenizer.fingerprint(),
    }


def environment(batch_size):
    """What may differ from a certificate's with no more than a warning."""
    return {'backend': jax.default_backend(), 'jax': jax.__version__, 'batch_size': batch_size}


def certified(certificate, args, model):
    """The settings that the certificate covers, with its λ.

    Whatever a flag says otherwise than the certificate, or the model is otherwise, is refused by name.
    """
    settings = Settings(**{**certified_settings(certificate), 'dtype': model.config.dtype})
    for name, value in decode_flags.given(args).items():
        if value != getattr(settings, name):
            raise ValueError(
                f'--{name} {value}: the certificate covers {getattr(settings, name)}; leave the flag out, or calibrate again'
            )
    current = {
        **model_fingerprints(model),
        'settings': dataclasses.asdict(settings),
        'environment': environment(args.batch_size),
    }
    warnings = certificate.covers(current)
    data = certificate.provenance.get('data')
    template = data.get('source_field') if isinstance(data, dict) else None
    if args.prompt is None and template is not None and template != args.source_field:
        warnings.append(
            f'--source_field is {args.source_field!r} here, {template!r} in the certificate: the guarantee is for '
            'inputs made alike'
        )
    for warning in warnings:
        print(f'calm generate: warning: {warning}', file=sys.stderr)
    return settings


def certified_settings(certificate):
    """The fields of Settings that a certificate holds, λ among them."""
    recorded = certificate.provenance.get('settings', {}) | certificate.setting
    unknown = sorted(set(recorded) - set(Settings.__dataclass_fields__))
    if unknown or not recorded:
        raise ValueError(
            f'the certificate records no decode settings known here ({", ".join(unknown) or "none"}); it was '
            'not written by `calm calibrate`'
        )
    return {**recorded, 'threshold': certificate.threshold}
