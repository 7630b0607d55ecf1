"""What the commands do, as functions of Python: training, scoring and reporting. `calm_jax.model` decodes."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calm_jax.metrics.quality import Metric, metric_name, several
from calm_jax.metrics.scores import score
from calm_jax.model import Model, load
from calm_jax.models.config import TransformerConfig
from calm_jax.outputs import check_apart
from calm_jax.reporting import page
from calm_jax.reporting.reader import read
from calm_jax.training import jobs
from calm_jax.training.jobs import PairedText
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_loop import LoopOptions


def train(
    model_dir: str | os.PathLike,
    data: PairedText,
    options: LoopOptions,
    optimizer: Optimizer = Optimizer(),
    *,
    checkpoint: str | os.PathLike | None = None,
    tokenizer: str | os.PathLike | None = None,
    config: Callable[..., TransformerConfig] | None = None,
    resume: bool = False,
    quiet: bool = True,
    **loss: Any,
) -> Model:
    """Trains a model whose every decoder layer is an exit; returns the best one where there is evaluation data, else the last.

    From a native checkpoint, or from random parameters of `config(vocab_size=…, pad_id=…, eos_id=…)` for the tokenizer in a
    folder. model_dir: the folder to write, as `calm train` lays it out. resume: go on after the latest state there. loss:
    exit_weights, label_smoothing, z_loss, sampled_exits, as `calm_jax.training.jobs.train_model`.

    Raises FileExistsError for a folder that holds something and is not to be resumed, and what `train_model` raises.
    """
    folder = _folder(model_dir, resume)
    jobs.train_model(
        folder, data, optimizer, options, tokenizer=tokenizer, config=config, checkpoint=checkpoint, quiet=quiet, **loss
    )
    return _trained(folder)


def train_exit_classifier(
    model_dir: str | os.PathLike,
    data: PairedText,
    options: LoopOptions,
    optimizer: Optimizer = Optimizer('adamw', learning_rate=1e-2, warmup_steps=100),
    *,
    checkpoint: str | os.PathLike,
    resume: bool = False,
    quiet: bool = True,
) -> Model:
    """Trains the exit classifier of a native checkpoint, whose other parameters stay as they are; returns the model with it.

    Arguments and errors as `train`.
    """
    folder = _folder(model_dir, resume)
    jobs.train_exit_classifier(folder, data, optimizer, options, checkpoint, quiet=quiet)
    return _trained(folder)


def evaluate(
    predictions: Sequence[Any], references: Sequence[str | Sequence[str]], metrics: str | Metric | Sequence[str | Metric]
) -> dict[str, float]:
    """{metric: value} of predictions, one for each list of references, in the same order.

    predictions: texts, or outputs of a model. references: one text each, or several. metrics: one or several names,
    as `calm evaluate` takes, or functions (predictions, references) → [B] in [0, 1] of one's own.
    Raises ValueError for an unknown metric, and where the numbers of predictions and references differ.
    """
    texts = [each if isinstance(each, str) else each.text for each in predictions]
    wanted = [[each] if isinstance(each, str) else list(each) for each in references]
    return {metric_name(each): score(each, texts, wanted) for each in several(metrics)}


def report(run: str | os.PathLike, output: str | os.PathLike, overwrite: bool = False) -> page.Written:
    """Writes one HTML page, and figures beside it, of the JSON files that earlier stages wrote to a folder.

    Raises FileNotFoundError, FileExistsError or ValueError in one line.
    """
    content = read(Path(run))
    check_apart(output, [content.directory / path for path in content.files])
    return page.write(content, Path(output), overwrite)


def _folder(model_dir: str | os.PathLike, resume: bool) -> Path:
    folder = Path(model_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f'{folder} is a file; model_dir must be a folder')
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise FileExistsError(f'{folder} exists; pass resume=True to go on after its latest state, or name another folder')
    return folder


def _trained(folder: Path) -> Model:
    best = folder / 'best'
    return load(best if best.exists() else folder / 'last')
