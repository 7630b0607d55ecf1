"""Decode texts, each token to the depth it needs.

    calm generate --checkpoint DIR --input in.jsonl --source_field en --output out.jsonl --measure softmax_gap --threshold 0.8
    calm generate --checkpoint DIR --input in.jsonl --source_field en --output out.jsonl --certificate c.json
    calm generate --checkpoint DIR --prompt "A man rides a bicycle." --show_depth
    calm generate --checkpoint DIR --prompt "Who was Ada Lovelace?" --chat
    calm generate --checkpoint DIR --input - --output - < texts.txt > answers.txt

Writes one JSON record a line, in input order: the text, and per token its exit layer and confidence. A file whose name ends in
.txt, and `-`, standard input or output, is plain text instead, one a line (--input_format, --output_format). Texts are in
flight: where one has ended, the next takes its place. An interrupted run continues with --resume and what it has journalled;
with --pack none the file is the same to the byte as if it had not been interrupted, else but for close calls of float32.
Fewer layers are not always less time: --measure_speed says what they are here.
"""

import argparse
import json
import logging
import sys
from functools import partial
from pathlib import Path

from calm_jax import certified
from calm_jax.calibration import Certificate
from calm_jax.commands import decode_flags
from calm_jax.commands.shown_depth import print_depths
from calm_jax.commands.text_files import FORMATS, STANDARD, is_text, opened
from calm_jax.compilation import use_compilation_cache
from calm_jax.data import jsonl
from calm_jax.data.conversation import Conversation
from calm_jax.data.decoded import check_path, journalled, plain_line
from calm_jax.data.jsonl import Records, Template
from calm_jax.data.sources import SOURCE_FIELD
from calm_jax.data.windows import row_bucket
from calm_jax.decoding.decoding import Decoding, off
from calm_jax.model import Model, load
from calm_jax.outputs import check_apart
from calm_jax.request import BATCH_SIZE, PACKS
from calm_jax.runs import Interrupted, decode_file, decode_records, texts
from calm_jax.speed import few, in_words, measure_speed

_LOGGER = logging.getLogger('calm_jax')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `calm generate`."""
    decode_flags.add_model(parser)
    parser.set_defaults(batch_size=None)  # a certificate has its own default
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--input', metavar='FILE', help='JSONL or .txt, plain, .gz or .xz; - for standard input; or seqio:TASK:SPLIT'
    )
    source.add_argument(
        '--prompt',
        metavar='TEXT',
        help="decode this text to standard output; with --certificate it stands in the place of its template's field",
    )
    parser.add_argument(
        '--source_field',
        metavar='FIELD',
        help="field of the input text, or a template such as 'translate: {en}' (default: the certificate's, else source)",
    )
    parser.add_argument(
        '--chat',
        action='store_true',
        help="each text is what a user says, put to the model as the checkpoint's chat template has it; a --source_field that "
        'holds messages is a conversation without this flag, and so are all texts with a certificate of conversations',
    )
    for name, of in (('source', 'the texts'), ('target', 'what is said')):
        parser.add_argument(
            f'--{name}_language',
            metavar='CODE',
            help=f"language of {of}, for models that have languages: such as ro_RO, or a record's own, '{{field}}' "
            "(default: the checkpoint's)",
        )
    parser.add_argument('--show_depth', action='store_true', help='colour the tokens of the answer by their layers (--prompt)')
    parser.add_argument('--threshold_field', metavar='FIELD', help="field that holds a record's own λ, instead of --threshold")
    parser.add_argument('--output', metavar='FILE', help='JSONL or .txt to write, - for standard output; required with --input')
    for name in ('input', 'output'):
        parser.add_argument(
            f'--{name}_format', choices=FORMATS, help=f'of --{name} (default: text for - and what ends in .txt, else jsonl)'
        )
    parser.add_argument('--certificate', metavar='FILE', help='decode within the guarantee of this certificate')
    decode_flags.add_pack(parser)
    parser.add_argument('--finish_order', action='store_true', help='write records in the order in which they end')
    parser.add_argument(
        '--measure_speed', action='store_true', help='then time a few batches of the input against full depth, for the summary'
    )
    parser.add_argument('--resume', action='store_true', help='go on where an interrupted run stopped, if there is one')
    parser.add_argument('--overwrite', action='store_true', help='replace the output if it exists')
    decode_flags.add_decoding(parser)


def run(args: argparse.Namespace) -> None:
    """Decodes a file, or prints what answers a prompt."""
    use_compilation_cache()
    check_flags(args)
    certificate = None if args.certificate is None else Certificate.load(args.certificate)
    model = load(args.checkpoint, args.dtype).at(args.date)
    recorded = certificate and certified.recorded_batch_size(certificate)
    batch_size = args.batch_size or recorded or BATCH_SIZE
    source_field = args.source_field or (certificate and certified.recorded_source_field(certificate)) or SOURCE_FIELD
    template = Template(source_field, args.chat or (certificate is not None and certified.of_conversations(certificate)))
    check_chat(args, model, certificate)
    with opened(args, source_field) as records:
        if certificate is None:
            decoding = decode_flags.decoding_of(args, model, by_record=args.threshold_field is not None)
        else:
            decoding = certified_decoding(args, certificate, model, batch_size, 1 if records is None else len(records))
            model = model.at(model.date or certified.recorded_date(certificate))
        if records is None:
            prompt = asked(args.prompt, template, certificate)
            decode_flags.check_date(args, model, [prompt])
            answer(args, model, decoding, prompt)
            return
        decode_flags.check_date(args, model, texts(records, template))
        if certificate is not None:
            conversation = isinstance(template(records[0], records.where(0)), Conversation)
            certified.warn(certified.source_warnings(certificate, source_field, conversation))
        if args.output == STANDARD:
            print_decoded(args, model, decoding, records, template, batch_size)
        else:
            write_decoded(args, model, decoding, records, template, batch_size, certificate)


def print_decoded(
    args: argparse.Namespace, model: Model, decoding: Decoding, records: Records, template: Template, batch_size: int
) -> None:
    """Decodes to standard output, which has nothing else on it; says where not all of the inputs was read."""
    plain, cut = is_text(args.output, args.output_format), 0
    for each in decode_records(
        model,
        decoding,
        records,
        template.template,
        batch_size=batch_size,
        threshold_field=args.threshold_field,
        pack=args.pack,
        in_order=not args.finish_order,
        chat=template.chat,
        **languages(args),
        quiet=args.quiet or sys.stdout.isatty(),
    ):
        print(plain_line(each) if plain else json.dumps(each, ensure_ascii=False), flush=True)
        cut += each['truncated']
    if cut:  # a file has a summary that says so
        _LOGGER.warning(f'{cut} inputs were cut at {decoding.limits.max_source_length} tokens; --max_source_length allows more')


def write_decoded(
    args: argparse.Namespace,
    model: Model,
    decoding: Decoding,
    records: Records,
    template: Template,
    batch_size: int,
    certificate: Certificate | None,
) -> None:
    """Decodes to a file, and says what was done; how to go on, where it is interrupted."""
    speed = None
    if args.measure_speed and (certificate is None or certificate.found):
        check_skips(decoding)
        speed = partial(measured_speed, args, model, decoding, records, template, batch_size)
    try:
        result = decode_file(
            model,
            decoding,
            records,
            template.template,
            args.output,
            batch_size=batch_size,
            threshold_field=args.threshold_field,
            pack=args.pack,
            in_order=not args.finish_order,
            resume=args.resume,
            overwrite=args.overwrite,
            plain=is_text(args.output, args.output_format),
            chat=template.chat,
            **languages(args),
            speed=speed,
            quiet=args.quiet,
        )
    except Interrupted as interruption:
        raise KeyboardInterrupt(how_to_resume(args, interruption.journalled, len(records))) from None
    except KeyboardInterrupt:  # before anything was decoded: what --overwrite is to replace is another run's
        done = 0 if args.overwrite else journalled(args.output)
        raise KeyboardInterrupt(how_to_resume(args, done, len(records))) from None
    if not args.quiet:
        print(describe(args.output, result.summary, result.decoded, model, decoding))
        if args.measure_speed and 'speed' in result.summary:
            print(f'measured: {in_words(result.summary["speed"])}')
        elif certificate is not None:
            pack = certified.kept_together(decoding, model.pack_of(len(records), batch_size, args.pack))
            if words := speed_of(certificate, row_bucket(len(records), batch_size), pack):
                print(words)


def how_to_resume(args: argparse.Namespace, done: int, examples: int) -> str:
    """What is said after Ctrl-C."""
    if not done:
        return 'nothing was decoded yet'
    instead = ' in place of --overwrite' if args.overwrite else ''
    return f'{done:,} of {examples:,} are kept: the same command with --resume{instead} goes on after them'


def languages(args: argparse.Namespace) -> dict[str, str | None]:
    """The languages of texts and outputs, as options."""
    return {'source_language': args.source_language, 'target_language': args.target_language}


def asked(prompt: str, template: Template, certificate: Certificate | None) -> str:
    """What is decoded of --prompt: with a certificate, what its template makes of it, which the guarantee covers; a warning
    where it cannot."""
    if certificate is not None and certified.recorded_source_field(certificate) is not None:
        field, *others = template.fields
        if not others:
            return template({field: prompt}, '--prompt')
        certified.warn(
            [
                f'--prompt is decoded as it is, and the inputs of the certificate are made of {1 + len(others)} fields, '
                f'{template.template!r}: the guarantee is for inputs made alike'
            ]
        )
    return Conversation.of_user(prompt) if template.chat else prompt


def answer(args: argparse.Namespace, model: Model, decoding: Decoding, text: str) -> None:
    """Prints what answers a text; says so where not all of it was read."""
    output = model.generate(text, decoding, source_language=args.source_language, target_language=args.target_language)
    if output.truncated:
        end = 'beginning' if model.padding['side'] == 'left' else 'end'
        _LOGGER.warning(
            f'--prompt is longer than {decoding.limits.max_source_length} tokens and was cut: it lost its {end}; '
            '--max_source_length allows more'
        )
    if args.show_depth:
        print_depths(output, model)
    else:
        print(output.text)


def check_flags(args: argparse.Namespace) -> None:
    """Raises ValueError or OSError for flags that contradict each other, a prompt that is no text, and an output that cannot be
    written, before anything takes time."""
    if args.input and not args.output:
        raise ValueError('--input needs --output, the JSONL file to write')
    if args.prompt is not None:
        for name in (
            'output',
            'output_format',
            'input_format',
            'resume',
            'overwrite',
            'source_field',
            'threshold_field',
            'finish_order',
            'pack',
        ):
            if getattr(args, name) not in (None, False, PACKS[0]):
                raise ValueError(f'--prompt prints to standard output; --{name} belongs to --input')
        if args.batch_size is not None and args.certificate is None:
            raise ValueError(f'--batch_size {args.batch_size} changes nothing with --prompt, which is one text; leave it out')
    if args.show_depth and args.prompt is None:
        raise ValueError('--show_depth colours the answer to --prompt; `calm report` shows the depths of a file')
    for name, language in languages(args).items():
        if language is not None and args.certificate:
            raise ValueError(
                f'--{name} and --certificate: the guarantee is for the languages that it was made with; leave one out'
            )
        if language is not None and args.measure_speed:
            raise ValueError(f"--{name} and --measure_speed, which times texts in the checkpoint's own; leave one out")
        if language is not None and args.prompt is not None and '{' in language:
            raise ValueError(f'--{name} {language}: a prompt is no record; expected a code, such as ro_RO')
    if args.resume and args.overwrite:
        raise ValueError('--resume and --overwrite contradict each other; pass one')
    if args.measure_speed and (args.prompt is not None or args.threshold_field is not None):
        other = '--prompt' if args.prompt is not None else '--threshold_field'
        raise ValueError(f'--measure_speed times batches of --input under one λ; leave it or {other} out')
    if args.threshold_field is not None and args.certificate:
        raise ValueError('--threshold_field and --certificate both say λ; leave one of the two out')
    if args.prompt is not None and not jsonl.is_unicode(args.prompt):
        raise ValueError('--prompt: not text; it holds bytes that are not UTF-8, or half of a surrogate pair')
    if args.output == STANDARD:
        for name in ('resume', 'overwrite', 'measure_speed'):
            if getattr(args, name):
                raise ValueError(f'--{name} belongs to a file, and --output - is standard output; leave it out')
    elif args.output:
        check_path(args.output)
        check_apart(args.output, [args.input, args.certificate])


def check_chat(args: argparse.Namespace, model: Model, certificate: Certificate | None) -> None:
    """Raises ValueError for --chat without a chat template, and with a certificate of inputs that were no conversations."""
    if args.chat and model.tokenizer.chat is None:
        raise ValueError(f'--chat: {args.checkpoint} has no chat template; pass the text that its prompts have')
    if args.chat and certificate is not None and not certified.of_conversations(certificate):
        raise ValueError('--chat: the certificate covers inputs that are no conversations; leave it out, or calibrate again')


def certified_decoding(
    args: argparse.Namespace, certificate: Certificate, model: Model, batch_size: int, examples: int
) -> Decoding:
    """The decoding that the certificate covers. examples: how many there are to decode.

    Raises ValueError for whatever a flag says otherwise than the certificate, or the model is otherwise, by name.
    """
    for name, value, covered in decode_flags.otherwise(args, certificate.decoding, model.config.sizes):
        covered = 'none' if covered is None else covered
        raise ValueError(f'--{name} {value}: the certificate covers {covered}; leave the flag out, or calibrate again')
    return model.certified(certificate, batch_size, examples, args.decode_flags.layout.own, args.pack)


def check_skips(decoding: Decoding) -> None:
    """Raises ValueError for a decoding that is full depth, which has no speed against it."""
    if all(off(decision) for decision in (decoding.exit, decoding.gate, decoding.plan)):
        raise ValueError('--measure_speed compares with full depth, and this decodes at full depth; leave it out')


def measured_speed(
    args: argparse.Namespace, model: Model, decoding: Decoding, records: Records, template: Template, batch_size: int
) -> dict:
    """The speed of a decoding against full depth, on inputs evenly spaced over the file, packed as all of it is."""
    places = few(range(len(records)), batch_size)
    texts = [template(records[place], records.where(place)) for place in places]
    pack = model.pack_of(len(records), batch_size, args.pack)
    return measure_speed(model, decoding, texts, batch_size, quiet=args.quiet, pack=pack)


def speed_of(certificate: Certificate, batch_size: int, pack: str) -> str:
    """What the certificate says of its speed here, in a line; '' where that was warned of already. batch_size, pack: of the
    decode."""
    speed = certified.speed_here(certificate, batch_size, pack)
    if not certificate.found:
        return 'nothing was certified: this is full depth, and as fast'
    if speed is not None:
        return '' if speed['speed_up'] < 1 else f'measured when it was calibrated: {in_words(speed)}'
    device = certified.speed_conditions(batch_size, pack)['device']
    where = f'batch size {batch_size}, pack {pack}, {device}'
    return f'speed against full depth: not measured here ({where}); --measure_speed does'


def describe(output: str | Path, summary: dict, decoded: int, model: Model, decoding: Decoding) -> str:
    """What was done, in a line."""
    if not decoded:
        return f'{output} is complete: {summary["examples"]} records'
    drafts, said = summary.get('drafts'), ''
    if drafts:
        shares = ', '.join(f'{a / max(1, d):.0%}' for a, d in zip(drafts['accepted'], drafts['drafted']))
        said = f'{summary["tokens"] / drafts["rounds"]:.2f} tokens a round, drafts accepted by place {shares}, '
    used, widths = summary['places_used'] / max(1, summary['places']), len(summary['widths'])
    return (
        f'{output}: {summary["examples"]} examples, {summary["tokens"]} tokens, {used:.0%} of places used, '
        f'{widths} width{"s" if widths > 1 else ""} compiled, '
        f'{summary["layers_per_token"]:.2f} of {model.config.num_decoder_layers} layers per token, {said}'
        f'{summary["tokens_per_second"]:.1f} tokens/s, {summary["compile_seconds"]:.0f} s of compiling apart, '
        f'{summary["truncated"]} inputs cut at {decoding.limits.max_source_length} tokens'
    )
