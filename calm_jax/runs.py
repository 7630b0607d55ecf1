"""A file of records decoded into another: what `calm generate` does with --input."""

import math
import os
import sys
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from calm_jax.certified import environment, kept_together
from calm_jax.data.conversation import Conversation
from calm_jax.data.decoded import Decoded, header, journalled, read_summary, recorded_date
from calm_jax.data.jsonl import Paths, Records, Template, value_of
from calm_jax.data.record_schema import record
from calm_jax.data.sources import open_records
from calm_jax.data.summary import Summary
from calm_jax.decoding import codec
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.packing import Packing
from calm_jax.decoding.rows import Rows
from calm_jax.languages import Named, check_language
from calm_jax.model import Model
from calm_jax.progress import progress
from calm_jax.request import BATCH_SIZE, PACKS, Options


class FileRun(NamedTuple):
    """A run that came to its end: its summary, and how many records it decoded itself; 0 where an earlier run had left none."""

    summary: dict
    decoded: int


class Interrupted(KeyboardInterrupt):
    """A run that was interrupted while it decoded. journalled: how many records there are to go on from."""

    def __init__(self, journalled: int) -> None:
        super().__init__()
        self.journalled = journalled


def decode_file(
    model: Model,
    decoding: Decoding,
    source: Paths | Records,
    source_field: str,
    output: str | os.PathLike,
    *,
    batch_size: int = BATCH_SIZE,
    threshold_field: str | None = None,
    pack: str | Packing = PACKS[0],
    in_order: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    plain: bool = False,
    chat: bool = False,
    source_language: str | None = None,
    target_language: str | None = None,
    speed: Callable[[], dict] | None = None,
    quiet: bool = True,
) -> FileRun:
    """Decodes the records of a file into another, as `calm_jax.data.decoded` lays it out.

    source: as `open_records` takes it, or what that gave; source_field: the field or template that makes the input of a record.
    threshold_field: the field of a record's own λ. pack: as `calm_jax.request.Options`. in_order: whether the records are
    written in the order of the input, or as they end. resume: go on where an interrupted run stopped; overwrite: replace the
    output. plain: writes texts alone, one a line. chat: whether each text is what a user says (`Conversation`).
    source_language, target_language: as `calm_jax.request.Options`, a code of all records, or a field of each in braces. speed:
    measures it against full depth for the summary, when all is decoded, by an earlier run too.

    Prompts that say what day it is say one day: the model's, or where a run is resumed, the one that it began with, or else
    now; it stands in the header.

    Raises ValueError or OSError in one line, before anything is written, for settings, records and files that do not do;
    `Interrupted` where it is interrupted after that.
    """
    decoding, template = model.resolve(decoding), Template(source_field, chat)
    records = source if isinstance(source, Records) else open_records(source)
    model = model.dated(texts(records, template), recorded_date(output) if resume else None)
    languages = {'source_language': source_language, 'target_language': target_language}
    options = _options(model, decoding, records, template, threshold_field, batch_size, pack, quiet, languages)
    date = None if model.date is None else model.date.isoformat()
    content = header(
        records.fingerprint(),
        source_field,
        codec.to_json(decoding),
        batch_size,
        model.fingerprints,
        threshold_field,
        plain,
        chat,
        date,
    )
    content |= {name: language for name, language in languages.items() if language is not None}
    decoded, summary = Decoded(output, content, resume, overwrite), Summary()
    if decoded.complete and decoded.summarized:
        finished = read_summary(output)
        if speed is not None:
            finished['speed'] = speed()
            decoded.summarize(finished)
        return FileRun(finished, 0)
    summary.include(decoded.finished_records())
    machine = environment(batch_size, kept_together(decoding, model.pack_of(len(records), batch_size, pack)))
    if not decoded.complete:
        lines = _decoded(model, decoding, records, template, options, summary, skip=decoded.finished)
        written = decoded.write(lines, in_order)
        done = len(decoded.finished)
        try:
            for _ in progress(written, 'decoding', total=len(records), initial=done, quiet=quiet, unit='examples'):
                pass
        except KeyboardInterrupt:
            raise Interrupted(journalled(output)) from None
    result = {**summary.as_dict(), **machine, **({} if speed is None else {'speed': speed()})}
    decoded.summarize(result)
    return FileRun(result, len(records) - len(decoded.finished))


def decode_records(
    model: Model,
    decoding: Decoding,
    records: Records,
    source_field: str,
    *,
    batch_size: int = BATCH_SIZE,
    threshold_field: str | None = None,
    pack: str | Packing = PACKS[0],
    in_order: bool = True,
    chat: bool = False,
    source_language: str | None = None,
    target_language: str | None = None,
    quiet: bool = True,
) -> Iterator[dict]:
    """Decodes records as `decode_file` does, and keeps nothing: each is yielded as a file would hold it.

    in_order: in the order of the input, those of a window of 64 batches when all of it is decoded. Raises as `decode_file`,
    when the first is asked for.
    """
    decoding, template = model.resolve(decoding), Template(source_field, chat)
    model = model.dated(texts(records, template))
    languages = {'source_language': source_language, 'target_language': target_language}
    options = _options(model, decoding, records, template, threshold_field, batch_size, pack, quiet, languages)
    lines = _decoded(model, decoding, records, template, options, Summary(), in_order=in_order)
    for _, each in progress(lines, 'decoding', total=len(records), quiet=quiet, unit='examples'):
        yield each


def _options(
    model: Model,
    decoding: Decoding,
    records: Records,
    template: Template,
    threshold_field: str | None,
    batch_size: int,
    pack: str | Packing,
    quiet: bool,
    languages: Mapping[str, str | None],
) -> Options:
    """The options of `Model.stream` for records, all of it checked."""
    thresholds, named = check_records(model, records, template, threshold_field, languages, quiet)
    rows = None if thresholds is None else Rows(threshold=thresholds)
    options = Options(
        rows=rows,
        batch_size=batch_size,
        pack=pack,
        source_language=named.get('source_language'),
        target_language=named.get('target_language'),
    )
    model.check(decoding, **options)
    codec.check_heads(decoding, model.heads)
    return options


def _decoded(
    model: Model,
    decoding: Decoding,
    records: Records,
    template: Template,
    options: Options,
    summary: Summary,
    skip: Collection[int] = (),
    in_order: bool = False,
) -> Iterator[tuple[int, dict]]:
    """(row, record) of every record but those to skip, as they end or in order, counted and timed by the summary."""
    names = {}  # the records' own ids, of those that are being decoded

    def inputs() -> Iterator[str]:
        for index, each in enumerate(records):
            if index not in skip:
                names[index] = each.get('id', index)
            yield template(each, records.where(index))

    outputs = model.stream(inputs(), decoding, in_order=in_order, skip=skip, watch=summary.report, **options)
    for each in summary.passing(outputs):
        yield each.text_index, record(names.pop(each.text_index), each)


def texts(records: Records, template: Template) -> Iterator[str]:
    """What a template makes of records, one after the other."""
    return (template(each, records.where(index)) for index, each in enumerate(records))


class RecordSettings(NamedTuple):
    """What records say of how they are decoded. thresholds: their own λ. languages: by option, of all or of each."""

    thresholds: array | None
    languages: dict[str, Named]


def check_records(
    model: Model,
    records: Records,
    template: Template,
    threshold_field: str | None = None,
    languages: Mapping[str, str | None] = MappingProxyType({}),
    quiet: bool = True,
) -> RecordSettings:
    """The records' own settings, where fields hold them.

    Raises ValueError, naming the line, for a record that the template makes no text of, or the checkpoint no ids, whose λ or
    language is none, or whose id is no number of JSON.
    """
    thresholds = array('d')
    fields = {name: Template(language) for name, language in languages.items() if language is not None and '{' in language}
    named: dict[str, list[str]] = {name: [] for name in fields}
    for index, each in enumerate(progress(records, 'checking', quiet=quiet, unit='examples')):
        where = records.where(index)
        text = template(each, where)
        if isinstance(text, Conversation) or model.tokenizer.vocab_size > model.config.vocab_size:
            try:
                model.encode(text)
            except ValueError as error:
                raise ValueError(f'{where}: {error}') from None
        if isinstance(name := each.get('id'), float) and not math.isfinite(name):
            raise ValueError(f'{where}: id is {name}; expected a text or a finite number')
        if threshold_field is not None:
            thresholds.append(_threshold(each, threshold_field, where))
        for name, field in fields.items():
            check_language(f'{where}: {name}', code := field(each, where), model.tokenizer)
            named[name].append(sys.intern(code))
    return RecordSettings(None if threshold_field is None else thresholds, {**languages, **named})


def _threshold(each: dict, field: str, where: str) -> float:
    value = value_of(each, field, where)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f'{where}: {field} is {value!r}; expected λ, a number from 0 to 1')
    return float(value)
