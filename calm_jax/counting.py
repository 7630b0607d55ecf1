"""The list of frequent ids that `FrequentIds` looks at: counted in a file, and put into a checkpoint as its head."""

import collections
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calm_jax import formats
from calm_jax.checkpoints import native
from calm_jax.data.decoded import header_path
from calm_jax.data.embedded import embedded
from calm_jax.data.jsonl import Records, Template
from calm_jax.data.references import references
from calm_jax.data.sources import open_records
from calm_jax.depth.vocabulary import FrequentIds, frequent_ids
from calm_jax.files import read_json
from calm_jax.outputs import check_apart
from calm_jax.tasks import check_says_tokens


class Counted(NamedTuple):
    """ids: int32 [N], by falling frequency; shares: float64 [N], of all tokens those that are among the first 1, 2, … N."""

    ids: np.ndarray
    shares: np.ndarray


def count_file(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    predictions: str | os.PathLike | None = None,
    data: str | os.PathLike | None = None,
    target_field: str | None = None,
    *,
    overwrite: bool = False,
) -> Counted:
    """Writes a native checkpoint that is another one with the list of frequent ids of a file in place of what list it had.

    predictions: records that a model with this tokenizer decoded, whose tokens are counted. data: records of texts instead, one
    or several under `target_field`, a field or template, whose tokens are counted with the end of sequence. overwrite: `output`
    may hold a checkpoint, the one that is read too.

    Raises ValueError or OSError in one line, before anything is written, where the file has no such tokens or texts, and
    unless one of `predictions` and `data` is given.
    """
    begun = native.load(checkpoint, dtype=None)
    check_says_tokens(begun.task, checkpoint)
    same = Path(output).resolve() == Path(checkpoint).resolve()
    check_apart(output, [predictions, data, None if same else checkpoint])
    if predictions is not None and data is None and target_field is None:
        sequences = _decoded(open_records(predictions), begun)
    elif predictions is None and data is not None and target_field is not None:
        sequences = _texts(open_records(data), Template(target_field), begun)
    else:
        raise ValueError('count the tokens of predictions, or the texts of data with a target_field: give one of the two')
    counts = collections.Counter(each for sequence in sequences for each in sequence)
    ids = frequent_ids(counts)
    heads = {**(begun.heads or {}), FrequentIds.head: {'ids': ids}}
    native.save(output, *begun._replace(heads=heads), overwrite=overwrite)
    occurrences = np.array([counts[each] for each in ids.tolist()], np.float64)
    return Counted(ids, np.cumsum(occurrences) / occurrences.sum())


def _decoded(records: Records, checkpoint: native.Checkpoint) -> Iterator[Sequence[int]]:
    """The tokens of decoded records."""
    for path in records.paths:
        if (header := header_path(path)).is_file():
            content = read_json(header)
            formats.check(content, 'records', str(header))
            if content.get('tokenizer') != checkpoint.tokenizer.fingerprint():
                raise ValueError(f'{path}: decoded with another tokenizer, whose ids are others; decode with this checkpoint')
    for index, record in enumerate(records):
        tokens = record.get('tokens')
        ids = isinstance(tokens, list) and all(isinstance(each, int) and not isinstance(each, bool) for each in tokens)
        if not ids or not all(0 <= each < checkpoint.config.vocab_size for each in tokens):
            raise ValueError(
                f'{records.where(index)}: no tokens, or none of the {checkpoint.config.vocab_size} ids of this model; expected '
                'records that `calm generate` wrote with it'
            )
        yield tokens


def _texts(records: Records, template: Template, checkpoint: native.Checkpoint) -> Iterator[Sequence[int]]:
    """The tokens of texts, without what stands before every text, and their end."""
    for index, record in enumerate(records):
        for text in references([template], record, records.where(index)):
            ids = checkpoint.tokenizer.encode(text, add_special=False)
            ids = embedded(ids, checkpoint.tokenizer, checkpoint.config.vocab_size, records.where(index))
            yield [*ids, checkpoint.config.eos_id]
