"""Outputs of the same texts under several plans, scored: what an oracle over them chooses from."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from calm_jax import evaluation
from calm_jax.analysis.oracle import PredictionSets
from calm_jax.data.decoded import recorded_header
from calm_jax.data.jsonl import Template
from calm_jax.data.sources import open_records
from calm_jax.metrics import quality
from calm_jax.nearest import did_you_mean
from calm_jax.progress import progress

LENGTHS = ('output', 'reference')


class _Decode(NamedTuple):
    """One file: texts, scores and mean layers of its records, how many tokens each has, None where that is not recorded, and
    the deepest exit layer, 0 where there is none. words: of the first reference of each, int [n]."""

    path: str
    texts: list[str]
    scores: np.ndarray
    layers: np.ndarray
    tokens: np.ndarray | None
    deepest: int
    words: np.ndarray


def read(
    files: Mapping[str, Sequence[str]],
    references: str,
    reference_field: str | Sequence[str],
    metric: str | quality.Metric,
    *,
    costs: Mapping[str, float] | None = None,
    num_layers: int | None = None,
    lengths: str = 'output',
    quiet: bool = True,
) -> tuple[PredictionSets, int]:
    """Scores and costs of each plan's outputs, and how many layers the model has.

    files: by the name of each plan one file that `calm generate` wrote, or two, drawn with different seeds. references: one
    record for each of theirs, in the same order. costs: mean layers of a plan's outputs, in place of those that records say;
    num_layers: where they do not say how deep the model is. lengths: what texts are binned by, tokens of the output of the plan
    that costs most ('output'; where tokens are not recorded, its words), or words of the first reference ('reference').

    Raises ValueError or FileNotFoundError in one line, as `calm evaluate` does, and where files are not of the same inputs, two
    decodes of a plan are the same, or a cost is unknown or outside 1…num_layers.
    """
    scorer, given = quality.metric(metric), dict(costs or {})
    _check_plans(files, given)
    _check_inputs(list(itertools.chain(*files.values())))
    fields = [reference_field] if isinstance(reference_field, str) else reference_field
    templates = [Template(field) for field in fields]
    pairs = [(name, path) for name, paths in files.items() for path in paths]
    decodes: dict[str, list[_Decode]] = {name: [] for name in files}
    for name, path in progress(pairs, 'scoring', quiet=quiet, unit='files'):
        texts, wanted, recorded = evaluation.read(path, references, templates)
        layers, words = _layers(name, path, given, recorded, len(texts)), np.array([len(row[0].split()) for row in wanted])
        scores = scorer(texts, wanted)
        decodes[name].append(_Decode(path, texts, scores, layers, recorded.lengths, recorded.deepest, words))
    _check_draws(decodes)
    deepest = max(each.deepest for each in itertools.chain(*decodes.values()))
    if num_layers is None and not deepest:
        raise ValueError('--num_layers is missing: the records do not say how deep the model is')
    depth = deepest if num_layers is None else num_layers
    _check_layers(decodes, given, depth)
    columns = list(zip(*decodes.values()))
    scores, layers = (np.array([[getattr(each, of) for each in row] for row in columns]) for of in ('scores', 'layers'))
    tokens = None
    if all(each.tokens is not None for row in columns for each in row):
        tokens = np.array([[each.tokens for each in row] for row in columns]).swapaxes(1, 2)
    binned = _lengths(columns[0][int(layers.mean(axis=(0, 2)).argmax())], lengths)
    return PredictionSets(tuple(files), scores.swapaxes(1, 2), layers.swapaxes(1, 2), tokens, binned), depth


def _check_plans(files: Mapping[str, Sequence[str]], costs: Mapping[str, float]) -> None:
    if len(files) < 2:
        raise ValueError('one plan leaves nothing to choose: give --predictions NAME=FILE for two or more')
    for name in costs:
        if name not in files:
            raise ValueError(
                f'--cost {name}: no predictions of that name; there are {", ".join(files)}{did_you_mean(name, files)}'
            )
    (first, number), *others = ((name, len(each)) for name, each in files.items())
    for name, other in [(first, number), *others]:
        if other not in (1, 2) or other != number:
            raise ValueError(
                f'expected one file of each plan, or two decodes of each, not {number} of {first!r} and {other} of {name!r}'
            )


def _check_inputs(paths: Sequence[str]) -> None:
    """Refuses files of different inputs: of another length, other ids, or with headers that say so."""
    sets = [open_records(path) for path in paths]
    for path, records in zip(paths[1:], sets[1:]):
        if len(records) != len(sets[0]):
            raise ValueError(
                f'{paths[0]} holds {len(sets[0])} records, {path} {len(records)}: expected outputs of the same inputs'
            )
    headers = [recorded_header(records.paths[0]) or {} for records in sets]
    for path, header in zip(paths, headers):
        for key in ('input', 'source_field'):
            if header.get(key) is not None and headers[0].get(key) not in (None, header[key]):
                raise ValueError(f'{paths[0]} and {path} were decoded from different inputs: their headers differ in {key}')
    for number, rows in enumerate(zip(*sets), start=1):
        for path, row in zip(paths, rows):
            if row.get('id') != rows[0].get('id'):
                raise ValueError(
                    f'record {number} has id {rows[0].get("id")!r} in {paths[0]} and {row.get("id")!r} in {path}: '
                    'expected outputs of the same inputs, in the same order'
                )


def _check_draws(decodes: Mapping[str, Sequence[_Decode]]) -> None:
    for name, files in decodes.items():
        if len(files) == 2 and files[0].texts == files[1].texts:
            raise ValueError(
                f'{files[0].path} and {files[1].path} hold the same texts: two decodes of {name!r} are to be drawn, '
                'at a temperature and each with its own --seed'
            )


def _check_layers(decodes: Mapping[str, Sequence[_Decode]], given: Mapping[str, float], depth: int) -> None:
    for name, files in decodes.items():
        for each in files:
            outside = np.flatnonzero((each.layers < 1 - 1e-9) | (each.layers > depth * (1 + 1e-9)))
            if len(outside):
                what = f'--cost {name}' if name in given else f'record {outside[0] + 1} of {each.path}'
                raise ValueError(f'{what}: {each.layers[outside[0]]:.6g} layers; expected 1…{depth}')


def _lengths(full: _Decode, of: str) -> np.ndarray:
    """What texts are binned by, int [n]."""
    if of == 'reference':
        return full.words
    return np.array([len(text.split()) for text in full.texts]) if full.tokens is None else full.tokens


def _layers(name: str, path: str, given: Mapping[str, float], recorded: evaluation.Costs, count: int) -> np.ndarray:
    """Mean layers of each output, float64 [n]."""
    if name in given:
        return np.full(count, given[name], np.float64)
    layers = recorded.each('layers')
    if layers is None:
        raise ValueError(f'records of {path} do not all say their layers; pass --cost {name}=LAYERS')
    return layers
