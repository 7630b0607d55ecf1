"""Scores of a file of generated texts against references, and what they cost."""

import collections
import dataclasses
import json
import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from calm_jax import formats
from calm_jax.data.decoded import header_path
from calm_jax.data.jsonl import Paths, Records, Template, value_of
from calm_jax.data.references import references as texts_of
from calm_jax.data.sources import open_records
from calm_jax.files import read_json
from calm_jax.metrics import quality
from calm_jax.metrics.scores import score, unit
from calm_jax.progress import progress

_LOGGER = logging.getLogger('calm_jax')
# What decoded records say beside their text: field → (name, unit).
_COSTS = {
    'layers': ('layers', 'per token'),
    'exit_layers': ('exit layer', 'per token'),
    'flops': ('FLOPs', 'per example'),
    'flops_elbayad': ('FLOPs, Elbayad et al. 2020', 'per example'),
}
_OF_TOKENS = ('layers', 'exit_layers')  # means over a record's tokens, weighed by them


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Values of one set of texts.

    values: {metric or cost: number}, and how many examples there are. columns: {'key', 'name', 'unit'} of each value, in
    order. versions: what computed the metrics, by name.
    """

    values: dict[str, float | int]
    columns: tuple[dict[str, str], ...]
    versions: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """What a results file holds, whose table `calm report` draws."""
        return {'columns': list(self.columns), 'rows': [self.values]}


def evaluate_file(
    predictions: Paths,
    references: Paths,
    metric: str | quality.Metric | Sequence[str | quality.Metric],
    reference_field: str | Sequence[str] = 'target',
    *,
    quiet: bool = True,
) -> Evaluation:
    """The mean of each metric over decoded texts, or its value for the corpus, and what the texts cost.

    predictions: records with a `text`, as `calm generate` writes them, with the costs that all of them have; references: one
    record for each, in the same order, from JSONL or seqio:TASK:SPLIT. metric: names, or functions
    (predictions, references) → [B] in [0, 1] of one's own. reference_field: field or template of the reference, or several of
    them; a field may hold a list.

    Raises FileNotFoundError or ValueError, in one line, for what is not there or not so, records of calm_jax 0.1.0 among them.
    """
    named = {quality.metric_name(each): each for each in quality.several(metric)}
    versions = {name: quality.metric_version(each) for name, each in named.items()}
    fields = [reference_field] if isinstance(reference_field, str) else reference_field
    texts, wanted, costs = read(predictions, references, [Template(field) for field in fields])
    values: dict[str, float | int] = {}
    columns = []
    for name, each in progress(named.items(), 'metrics', quiet=quiet, unit='metric'):
        values[name] = score(each, texts, wanted)
        columns.append({'key': name, 'name': name, 'unit': unit(each)})
        for warning in _warnings(name, each, wanted):
            _LOGGER.warning(warning)
    for key, value in costs.means().items():
        values[key] = value
        columns.append(dict(zip(('key', 'name', 'unit'), (key, *_COSTS[key]))))
    values['examples'] = len(texts)
    columns.append({'key': 'examples', 'name': 'examples', 'unit': ''})
    return Evaluation(values, tuple(columns), versions)


def _warnings(name: str, metric: str | quality.Metric, references: Sequence[Sequence[str]]) -> Iterator[str]:
    """What a reader of the score should know of its references."""
    if unscored := int(quality.unscored(metric, references).sum()):
        yield f'{name} scores {unscored} of {len(references)} references 0 against themselves: nothing can match them'
    if beyond := quality.beyond_rouge_score(metric, references):
        yield (
            f'{name} counts words of {beyond} of {len(references)} references that rouge_score leaves out, '
            'of other scripts than Latin: it is not what rouge_score computes'
        )


def read(predictions: Paths, references: Paths, templates: Sequence[Template]) -> tuple[list[str], list[list[str]], 'Costs']:
    """Texts, the references of each, and costs. Of each record only these are held: token lists are many times a text.

    Raises as `evaluate_file`.
    """
    decoded, wanted = open_records(predictions), open_records(references)
    if len(decoded) != len(wanted):
        raise ValueError(
            f'{_named(predictions)} holds {len(decoded)} records, {_named(references)} {len(wanted)}: '
            'expected one reference record for each prediction, in the same order'
        )
    for path in decoded.paths:
        if (header := header_path(path)).is_file():
            formats.check(read_json(header), 'records', str(header))
    texts, costs, ids = [], Costs(), []
    for i, record in enumerate(decoded):
        texts.append(_text(record, decoded.where(i)))
        costs.observe(record)
        ids.append(json.dumps(record.get('id')))
    reference_texts, reference_ids = [], []
    for i, record in enumerate(wanted):
        reference_texts.append(texts_of(templates, record, wanted.where(i)))
        reference_ids.append(json.dumps(record.get('id')))
    _check_order(ids, reference_ids, decoded, wanted)
    return texts, reference_texts, costs


def _check_order(ids: list[str], reference_ids: list[str], predictions: Records, references: Records) -> None:
    """Records are matched by their order: refuse what cannot be in the same one. Where inputs had no id, predictions have the
    numbers of their rows."""
    if ids == reference_ids:
        return
    if collections.Counter(ids) == collections.Counter(reference_ids):
        i = next(i for i, (first, second) in enumerate(zip(ids, reference_ids)) if first != second)
        raise ValueError(
            f'{predictions.where(i)} has id {ids[i]} and {references.where(i)} has id {reference_ids[i]}: '
            'the same ids in another order; sort the references as the predictions are'
        )
    rows = [str(i) for i in range(len(ids))]
    if ids != rows and collections.Counter(ids) == collections.Counter(rows):
        i = next(i for i, (first, second) in enumerate(zip(ids, rows)) if first != second)
        raise ValueError(
            f'{predictions.where(i)} has id {ids[i]}: the ids are the rows of an input in another order, and '
            'the references have other ids; sort the predictions by id, or generate them without --finish_order'
        )


def _text(record: dict, where: str) -> str:
    text = value_of(record, 'text', where)
    if not isinstance(text, str):
        raise ValueError(f'{where}: field "text" holds {json.dumps(text)[:40]}; expected a string')
    return text


def _named(paths: Paths) -> str:
    return str(paths) if isinstance(paths, str | os.PathLike) else ', '.join(str(path) for path in paths)


class Costs:
    """The costs of records, 8 bytes a record and cost. deepest: the largest exit layer of any token, 0 where none is said."""

    def __init__(self):
        self._values = {key: array('d') for key in _COSTS}
        self._lengths = array('q')
        self._records = 0
        self.deepest = 0

    def observe(self, record: dict) -> None:
        """Counts one record."""
        self._records += 1
        for key, values in self._values.items():
            value = record.get(key)
            if isinstance(value, list) and all(isinstance(each, int | float) for each in value):
                if key == 'exit_layers':
                    self.deepest = max(self.deepest, *value, 0)
                value = sum(value) / max(1, len(value))
            if isinstance(value, int | float):
                values.append(value)
        if isinstance(record.get('tokens'), list):
            self._lengths.append(len(record['tokens']))

    def each(self, key: str) -> np.ndarray | None:
        """One cost of every record, float64 [B]; None unless all records have it."""
        return self._of_all(self._values[key])

    @property
    def lengths(self) -> np.ndarray | None:
        """The tokens of every record, int64 [B]; None unless all records list theirs."""
        return self._of_all(self._lengths)

    def means(self) -> dict[str, float]:
        """{cost: mean over records}, weighed by tokens where it is a mean over them."""
        values = {key: each for key in _COSTS if (each := self.each(key)) is not None}
        means, lengths = {key: float(np.mean(each)) for key, each in values.items()}, self.lengths
        if lengths is not None and lengths.sum():
            means |= {key: float(np.average(values[key], weights=lengths)) for key in _OF_TOKENS if key in means}
        return means

    def _of_all(self, values: array) -> np.ndarray | None:
        return np.array(values) if len(values) == self._records else None
