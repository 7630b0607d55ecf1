"""From the outputs of a few plans to a checkpoint with a controller that chooses among them by the prompt."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from calm_jax import prediction_sets
from calm_jax.analysis.oracle import mixing
from calm_jax.data.decoded import recorded_header
from calm_jax.data.jsonl import Template
from calm_jax.data.sources import open_records
from calm_jax.data.windows import DecodeBatch, decode_windows
from calm_jax.decoding import codec
from calm_jax.files import write_json
from calm_jax.model import SOURCE_LENGTH, Model, load
from calm_jax.tasks import check_says_tokens
from calm_jax.training.prompt_controller import Curve, Fitted, curve, fitted, prompt_features

CONTROLLER = 'controller.json'
SHOWN = 6  # points of the curve that are printed


def train_prompt_controller(
    model_dir: str | os.PathLike,
    checkpoint: str | os.PathLike,
    data: str,
    predictions: Sequence[str],
    source: str,
    target: str | Sequence[str],
    metric: str = 'rougeL',
    chat: bool = False,
    max_source_length: int | None = None,
    batch_size: int = 16,
    quiet: bool = False,
    start: Callable[[dict], None] = lambda inputs: None,
) -> Fitted:
    """Trains a prompt controller of a native checkpoint and stores it beside what the checkpoint has.

    Writes, under `model_dir`:
      last/            the checkpoint, for decoding.
      controller.json  {"penalty", "plans": [{"file", "layers", "loss", "r_squared"}], "curve": {"levels", "layers", "losses",
                       "mixing"}}: what the controller predicts of prompts by fits without them, and what it would choose by
                       that; beside each point the loss of the best random mixing of plans at that cost.

    data: JSONL of the prompts. predictions: for each plan a file that `calm generate` wrote of them, in their order, each
    within one plan that is the same for every text, one of them at full depth. source: template of the prompt; target: of the
    references. metric: in [0, 1], one value per text. chat: whether prompts are what a user says. max_source_length: tokens of
    a prompt; None: as the checkpoint decodes. start: called with a description of the inputs before anything is written.

    Raises ValueError for what `prediction_sets.read` refuses, plans that differ within a file or are the same in two, where no
    file is at full depth, and where the header of a file says that it is of other prompts or of another model.
    """
    model = load(checkpoint)
    check_says_tokens(model.task, checkpoint)
    if len(set(predictions)) < len(predictions):
        raise ValueError(f'predictions names a file twice: {", ".join(predictions)}')
    sets, _ = prediction_sets.read({path: [path] for path in predictions}, data, target, metric, quiet=quiet)
    plans = np.stack([static_plan(path, model) for path in predictions])
    layers = sets.layers[0].mean(axis=0)
    order = [int(place) for place in np.argsort(plans.sum(axis=(1, 2)), kind='stable')]
    names = [predictions[place] for place in order]
    plans, layers, losses = plans[order], layers[order], 1 - sets.scores[0][:, order]
    _check(plans, names)
    limit = max_source_length or codec.from_json(model.generation or {}).limits.max_source_length or SOURCE_LENGTH
    wanted = {
        'input': open_records(data).fingerprint(),
        'source_field': source,
        'chat': chat,
        'parameters': model.fingerprints['parameters'],
        'max_source_length': limit,
    }
    for path in predictions:
        _check_header(path, wanted)
    batches = _batches(model, data, Template(source, chat), limit, batch_size)
    given = prompt_features(model.config, model.params, batches)
    made = fitted(given, losses[:, :-1] - losses[:, -1:])
    chosen = curve(made.unseen, losses, layers)
    start(
        {
            'train': open_records(data).fingerprint(),
            'predictions': {path: open_records(path).fingerprint() for path in predictions},
            'checkpoint': model.fingerprints['parameters'],
            'examples': len(losses),
            'truncated': {'source': int(sum(batch.truncated.sum() for batch in batches))},
            'max_source_length': limit,
        }
    )
    folder = pathlib.Path(model_dir)
    heads = {**(model.heads or {}), 'prompt_controller': {**made.head, 'runs': plans}}
    dataclasses.replace(model, heads=heads).save(folder / 'last', overwrite=True)
    write_json(folder / CONTROLLER, _content(names, layers, losses, made, chosen))
    if not quiet and jax.process_index() == 0:
        print('\n'.join(_lines(losses, layers, chosen)), file=sys.stderr)
    return made


def static_plan(path: str, model: Model) -> np.ndarray:
    """Which attentions and feed-forwards of the decoder every text of a decoded file ran, bool [L, 2].

    Raises ValueError, naming the record, where texts differ, leave early, or were decoded by a model of other layers.
    """
    records, count = open_records(path), model.config.num_decoder_layers
    everything = {'self_attention': '1' * count, 'feed_forward': '1' * count}
    first = None
    for index in range(len(records)):
        record, where = records[index], records.where(index)
        plan = record.get('plan')
        if plan is None and any(layer != count for layer in record.get('exit_layers', ())):
            raise ValueError(
                f'{where}: holds no plan, and tokens that left early; expected a plan, or full depth of {count} layers'
            )
        runs = {name: (plan or everything).get(name, '') for name in everything}
        first = runs if first is None else first
        if runs != first or any(len(each) != count for each in runs.values()):
            raise ValueError(
                f'{where}: its plan is not that of the other texts, or of another model; expected one plan for all'
            )
    assert first is not None  # there are records
    return np.array([[layer == '1' for layer in each] for each in first.values()]).T


def _check(plans: np.ndarray, names: Sequence[str]) -> None:
    if not plans[-1].all():
        raise ValueError(
            f'no predictions are at full depth: {names[-1]} runs most; add those that what plans add is measured from'
        )
    for number, plan in enumerate(plans[1:], start=1):
        if (plan == plans[number - 1]).all():
            raise ValueError(f'{names[number - 1]} and {names[number]} are of one plan; leave one out')


def _check_header(path: str, wanted: Mapping[str, Any]) -> None:
    """Refuses a file whose header, where it has one, says that it was decoded of other prompts or by another model."""
    header = recorded_header(open_records(path).paths[0])
    if header is None:
        return
    limits = header.get('decoding', {}).get('limits', {})
    recorded = {'chat': False, **header, 'max_source_length': limits.get('max_source_length')}
    for name, value in wanted.items():
        if recorded.get(name) is not None and recorded[name] != value:
            what = 'by another model' if name == 'parameters' else 'of other prompts'
            raise ValueError(f'{path} was decoded {what}: its header has {name} {recorded[name]!r}; expected {value!r}')


def _batches(model: Model, data: str, template: Template, limit: int, batch_size: int) -> list[DecodeBatch]:
    """Prompts as a decode lays them out."""
    records = open_records(data)
    encoded = (model.encode(template(records[index], records.where(index))) for index in range(len(records)))
    windows = decode_windows(encoded, batch_size, max_source_length=limit, **model.padding)
    return [batch for window in windows for batch in window]


def _content(names: Sequence[str], layers: np.ndarray, losses: np.ndarray, made: Fitted, chosen: Curve) -> dict:
    adds = losses[:, :-1] - losses[:, -1:]
    spread = np.maximum(adds.var(axis=0), 1e-12)
    told = [*(1 - np.mean((adds - made.unseen) ** 2, axis=0) / spread), None]
    mixed = mixing(1 - losses, np.broadcast_to(layers, losses.shape), chosen.costs) @ losses.mean(axis=0)
    return {
        'penalty': made.penalty,
        'prompts': len(losses),
        'plans': [
            {'file': name, 'layers': float(cost), 'loss': float(loss), 'r_squared': None if share is None else float(share)}
            for name, cost, loss, share in zip(names, layers, losses.mean(axis=0), told)
        ],
        'curve': {
            'levels': chosen.levels.tolist(),
            'layers': chosen.costs.tolist(),
            'losses': chosen.losses.tolist(),
            'mixing': [None if np.isnan(loss) else float(loss) for loss in mixed],
        },
    }


def _lines(losses: np.ndarray, layers: np.ndarray, chosen: Curve) -> list[str]:
    """What is printed: plans, and points of the curve."""
    lines = [f'{cost:.2f} layers, loss {loss:.4f}: a plan for all' for cost, loss in zip(layers, losses.mean(axis=0))]
    places = np.unique(np.linspace(0, len(chosen.levels) - 1, SHOWN).round().astype(int))
    return lines + [
        f'{chosen.costs[place]:.2f} layers, loss {chosen.losses[place]:.4f}: by prompt, unseen, at {chosen.levels[place]:.4f}'
        for place in places
    ]
