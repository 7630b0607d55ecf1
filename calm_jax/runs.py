"""A file of records decoded into another: what `calm generate` does with --input."""

import os
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

from calm_jax.certified import environment
from calm_jax.data.decoded import Decoded, header, read_summary
from calm_jax.data.jsonl import Paths, Records, Template, value_of
from calm_jax.data.record_schema import record
from calm_jax.data.sources import open_records
from calm_jax.data.summary import Summary
from calm_jax.decoding import codec
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.packing import Packing
from calm_jax.decoding.rows import Rows
from calm_jax.model import Model
from calm_jax.progress import progress
from calm_jax.request import BATCH_SIZE, PACKS


class FileRun(NamedTuple):
    """A run that came to its end: its summary, and how many records it decoded itself; 0 where an earlier run had left none."""

    summary: dict
    decoded: int


def decode_file(
    model: Model,
    decoding: Decoding,
    source: Paths,
    source_field: str,
    output: str | os.PathLike,
    *,
    batch_size: int = BATCH_SIZE,
    threshold_field: str | None = None,
    pack: str | Packing = PACKS[0],
    in_order: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    chat: bool = False,
    speed: Callable[[], dict] | None = None,
    quiet: bool = True,
) -> FileRun:
    """Decodes the records of a file into another, as `calm_jax.data.decoded` lays it out.

    source: as `open_records` takes it; source_field: the field or template that makes the input of a record. threshold_field:
    the field of a record's own λ. pack: as `calm_jax.request.Options`. in_order: whether the records are written in the order
    of the input, or as they end. resume: go on where an interrupted run stopped; overwrite: replace the output. chat: whether
    each text is what a user says (`Conversation`). speed: measures it against full depth for the summary, when all is decoded,
    by an earlier run too.

    Raises ValueError or OSError in one line, before anything is written, for settings, records and files that do not do.
    """
    decoding, records, template = model.resolve(decoding), open_records(source), Template(source_field, chat)
    thresholds = check_records(records, template, threshold_field, quiet)
    rows = None if thresholds is None else Rows(threshold=thresholds)
    model.check(decoding, rows=rows, batch_size=batch_size, pack=pack)
    codec.check_heads(decoding, model.heads)
    content = header(
        records.fingerprint(), source_field, codec.to_json(decoding), batch_size, model.fingerprints, threshold_field
    )
    if chat:
        content['chat'] = True
    decoded, summary = Decoded(output, content, resume, overwrite), Summary()
    if decoded.complete and decoded.summarized:
        finished = read_summary(output)
        if speed is not None:
            finished['speed'] = speed()
            decoded.summarize(finished)
        return FileRun(finished, 0)
    summary.include(decoded.finished_records())
    machine = environment(batch_size)
    if not decoded.complete:
        names = {}  # the records' own ids, of those that are being decoded

        def texts() -> Iterator[str]:
            for index, each in enumerate(records):
                if index not in decoded.finished:
                    names[index] = each.get('id', index)
                yield template(each, records.where(index))

        outputs = model.stream(
            texts(), decoding, rows=rows, batch_size=batch_size, pack=pack, skip=decoded.finished, watch=summary.report
        )
        lines = ((each.text_index, record(names.pop(each.text_index), each)) for each in summary.passing(outputs))
        written = decoded.write(lines, in_order)
        done = len(decoded.finished)
        for _ in progress(written, 'decoding', total=len(records), initial=done, quiet=quiet, unit='examples'):
            pass
    result = {**summary.as_dict(), **machine, **({} if speed is None else {'speed': speed()})}
    decoded.summarize(result)
    return FileRun(result, len(records) - len(decoded.finished))


def check_records(records: Records, template: Template, threshold_field: str | None = None, quiet: bool = True) -> array | None:
    """The records' own λ, where a field holds them.

    Raises ValueError, naming the line, for a record that the template makes no text of or whose λ is none.
    """
    thresholds = array('d')
    for index, each in enumerate(progress(records, 'checking', quiet=quiet, unit='examples')):
        where = records.where(index)
        template(each, where)
        if threshold_field is not None:
            thresholds.append(_threshold(each, threshold_field, where))
    return None if threshold_field is None else thresholds


def _threshold(each: dict, field: str, where: str) -> float:
    value = value_of(each, field, where)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f'{where}: {field} is {value!r}; expected λ, a number from 0 to 1')
    return float(value)
