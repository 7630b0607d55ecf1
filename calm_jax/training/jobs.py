"""Whole training jobs, from files to a model directory: what `calm train` runs."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from calm_jax.checkpoints import native
from calm_jax.checks import check_seed
from calm_jax.data.batching import (
    PackedExamples,
    TrainingBatches,
    check_exclusive,
    count_truncated,
    evaluation_batches,
    tokenize,
)
from calm_jax.data.jsonl import Records, Template
from calm_jax.data.sources import open_records
from calm_jax.data.task_examples import TaskExamples, collate_task
from calm_jax.data.tokenizers import Tokenizer, load_tokenizer
from calm_jax.depth import search
from calm_jax.depth.policy import parts_of, saying, unread
from calm_jax.metrics import plan_cost
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import init_params
from calm_jax.progress import progress
from calm_jax.tasks import Labels, Task, check_says_tokens
from calm_jax.training import adapters, baselines, classifier, constrained, controllers, estimators, losses, policy
from calm_jax.training.multi_exit import multi_exit_stage
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.search_run import SearchRun
from calm_jax.training.task import new_head, task_stage
from calm_jax.training.train_loop import LoopOptions, evaluate, fit
from calm_jax.training.train_state import Stage, TrainState

Paths = str | Sequence[str]
Start = Callable[[dict], None]


def _nothing(inputs: dict) -> None:
    """The default of `start`: notes nothing."""


class PairedText:
    """Sources and targets from JSONL, as the batches of a training run.

    train: paths of .jsonl, .jsonl.gz or .jsonl.xz files, or seqio:TASK:SPLIT (fields source and target).
    source: template of the source text, such as 'translate: {en}', or a field name.
    target: template of the target text.
    evaluation: paths of the evaluation examples; none is no evaluation.
    batch_size: rows of a batch, over all devices; 64 where nothing is said of `batch_tokens`.
    batch_tokens: in its place, tokens of a batch, padding among them, over all devices: rows of like length, as many as there
    are while their number times the longer of padded source and target (of a decoder-only model: of both as one sequence) is
    no more than this.
    max_source_length: tokens of a source, end-of-sequence included; longer ones are cut.
    max_target_length: tokens of a target, end-of-sequence included; longer ones are cut.
    length_multiple: batches are padded to multiples of this many tokens; None chooses.
    seed: of the order of the examples; 0 ≤ seed < 2**32.
    """

    def __init__(
        self,
        train: Paths,
        source: str,
        target: str,
        evaluation: Paths | None = None,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        max_source_length: int = 512,
        max_target_length: int = 128,
        length_multiple: int | None = None,
        seed: int = 0,
    ):
        check_seed('seed', seed)
        self._train, self._evaluation = train, evaluation
        self._templates = Template(source), Template(target)
        if batch_size is None and batch_tokens is None:
            batch_size = 64
        check_exclusive(batch_size, batch_tokens)
        self._sizes = {'batch_size': batch_size, 'batch_tokens': batch_tokens}
        self._seed = seed
        self._lengths = {
            'max_source_length': max_source_length,
            'max_target_length': max_target_length,
            'length_multiple': length_multiple,
        }

    @property
    def generation(self) -> dict:
        """Decoding defaults that fit this data, as a document, stored with checkpoints."""
        lengths = self._lengths
        return {'limits': {'max_source_length': lengths['max_source_length'], 'max_new_tokens': lengths['max_target_length']}}

    @functools.cached_property
    def _records(self) -> dict[str, Records]:
        named = {'train': self._train, 'evaluation': self._evaluation}
        return {name: open_records(paths) for name, paths in named.items() if paths is not None}

    def description(self, training: TrainingBatches) -> dict:
        """What was read, for JSON: {'train': sha256 of the files, 'evaluation': the same, 'examples': of training,
        'truncated': {'source': how many are cut, 'target': …}, 'max_source_length', 'max_target_length'}."""
        limits = {name: self._lengths[name] for name in ('max_source_length', 'max_target_length')}
        truncated = count_truncated(training.examples, **limits, source_end=training.source_end, target_end=training.target_end)
        return {
            **{name: records.fingerprint() for name, records in self._records.items()},
            'examples': len(training.examples),
            'truncated': truncated,
            **limits,
        }

    def labels(self) -> tuple[str, ...]:
        """The targets of the training examples, each once, sorted."""
        target, records = self._templates[1], self._records['train']
        return tuple(sorted({target(record, records.where(index)) for index, record in enumerate(records)}))

    def batches(
        self, tokenizer, config: TransformerConfig, quiet: bool = True, generation: dict | None = None, task: Task | None = None
    ) -> tuple[TrainingBatches, list]:
        """(training batches, evaluation batches) for a model; a progress bar while texts become tokens, unless `quiet`.

        generation: the checkpoint's decoding defaults, a document: targets are of the language that they begin with. task: what
        is asked of sources: targets are labels, or answers.
        Raises FileNotFoundError or ValueError where a file is missing or a record lacks a field.
        """
        target_start, target_end = ((), ()) if task else _around_target(tokenizer, config, generation or {})
        where = {
            'pad_id': config.pad_id,
            'source_end': () if config.decoder_only else tokenizer.end_ids or (config.eos_id,),
            'target_end': target_end,
            'decoder_start_id': config.decoder_start_id,
            'decoder_only': config.decoder_only,
            'start_ids': tokenizer.start_ids,
            'process_index': jax.process_index(),
            'process_count': jax.process_count(),
        }
        watch = functools.partial(progress, description='tokenizing', quiet=quiet, unit='examples')
        model = {'decoder_only': config.decoder_only, 'vocab_size': config.vocab_size}
        if task is not None:
            layout = {name: where[name] for name in ('source_end', 'decoder_only', 'start_ids')}
            where |= {'decoder_only': False, 'lay_out': functools.partial(collate_task, task=task, **layout)}

        def tokenized(records, watch=iter):
            if task is not None:
                return PackedExamples(watch(TaskExamples(records, *self._templates, tokenizer, task, **model)))
            return tokenize(records, *self._templates, tokenizer, watch, **model, target_start=target_start)

        examples = tokenized(self._records['train'], watch)
        sizes = {**self._sizes, 'row_multiple': jax.device_count(), 'seed': self._seed}
        training = TrainingBatches(examples, **sizes, **self._lengths, **where)
        if self._evaluation is None:
            return training, []
        examples = tokenized(self._records['evaluation'])
        if self._sizes['batch_size'] is None:
            epoch = TrainingBatches(examples, **sizes, **self._lengths, **where)
            return training, [epoch[number] for number in range(epoch.batches_per_epoch)]
        # Sorted by length so that batches hold little padding; sums over the set do not depend on the order.
        examples = sorted(examples, key=lambda example: (len(example.source), len(example.target)))
        return training, list(evaluation_batches(examples, self._sizes['batch_size'], **self._lengths, **where))


def _around_target(tokenizer, config, generation):
    """(ids before every target, ids behind it): as the tokenizer of its language has them around a text, the one that a decode
    begins with. Where that stands behind a text it is what decoding starts from, as if the last id of a target came around to
    the front (Liu et al. 2020); where it stands before, it is the first id that is said."""
    if config.decoder_only:
        return (), (config.eos_id,)
    behind, first = bool(tokenizer.end_ids), generation.get('rules', {}).get('forced_first_id')
    spoken = next(
        (
            each
            for each in tokenizer.languages.values()
            if (each.end_ids[-1] == config.decoder_start_id if behind else each.start_ids == (first,))
        ),
        None,
    )
    if spoken is None and tokenizer.languages:
        what, where = (
            (f'decoding starts from id {config.decoder_start_id}', 'decoder_start_token_id in config.json')
            if behind
            else (f'the first id that is said is {"free" if first is None else first}', 'forced_bos_token_id')
        )
        raise ValueError(f'{what}, which is no language; expected that of the targets, as {where} of what is imported')
    target = tokenizer if spoken is None else spoken
    return target.start_ids, target.end_ids or (config.eos_id,)


def train_model(
    model_dir: str | os.PathLike,
    data: PairedText,
    optimizer: Optimizer,
    options: LoopOptions,
    tokenizer: str | os.PathLike | None = None,
    config: Callable[..., TransformerConfig] | None = None,
    checkpoint: str | os.PathLike | None = None,
    exit_weights: Callable[[int], np.ndarray] = losses.proportional_to_layer,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    sampled_exits: bool = False,
    quiet: bool = False,
    start: Start = _nothing,
) -> TrainState:
    """First stage: trains a transformer whose every decoder layer is an exit (CALM, Eq. 6).

    Starts from a native checkpoint, or from random parameters of `config(vocab_size=…)` for a tokenizer.

    model_dir: see `train_loop.fit`.
    tokenizer: folder of a tokenizer; for training from scratch.
    config: makes the configuration when given vocab_size, pad_id and eos_id, which are the tokenizer's; for training from
    scratch.
    checkpoint: native checkpoint to start from; brings its own tokenizer and configuration.
    start: called with a description of the inputs (fingerprints and counts, for JSON) once everything has been read and
    checked, before anything is written.
    For the others see `multi_exit.multi_exit_stage` and `train_loop.fit`.

    Raises ValueError where neither a checkpoint nor a tokenizer and a configuration are given, or both.
    """
    if (checkpoint is None) == (tokenizer is None or config is None):
        raise ValueError('train from a checkpoint, or from a tokenizer and a model configuration: give exactly one of the two')
    losses.check_extras(label_smoothing, z_loss)
    if checkpoint is not None:
        begun = _saying_tokens(checkpoint)
        made, tokens = begun.config, begun.tokenizer
    else:
        assert tokenizer is not None and config is not None  # checked above
        tokens = load_tokenizer(tokenizer)
        made = config(vocab_size=tokens.vocab_size, pad_id=tokens.pad_id, eos_id=tokens.eos_id)
    # Mistakes in the data are said before anything is compiled.
    training, evaluation = data.batches(tokens, made, quiet, None if checkpoint is None else begun.generation)
    generation = data.generation
    if checkpoint is not None:
        params, generation = begun.params, {**(begun.generation or {}), **generation}
    else:
        params = jax.jit(functools.partial(init_params, made))(jax.random.key(options.seed))
    stage = multi_exit_stage(made, params, tokens, exit_weights, label_smoothing, z_loss, sampled_exits, generation)
    inputs = _inputs(data, training, tokens, None if checkpoint is None else params)
    return fit(stage, optimizer, training, evaluation, model_dir, options, quiet, functools.partial(start, inputs))


def train_exit_classifier(
    model_dir: str | os.PathLike,
    data: PairedText,
    optimizer: Optimizer,
    options: LoopOptions,
    checkpoint: str | os.PathLike,
    objective: classifier.Objective = classifier.independent,
    adapted: bool = False,
    quiet: bool = False,
    start: Start = _nothing,
) -> TrainState:
    """Second stage: trains the exit classifier of a native checkpoint, whose other parameters stay as they are.

    model_dir: see `train_loop.fit`; its checkpoints hold the backbone too.
    checkpoint: native checkpoint, from the first stage or imported.
    start: see `train_model`.
    For the others see `classifier.classifier_stage` and `train_loop.fit`.

    Raises ValueError for a checkpoint that answers texts in place of going on.
    """
    begun = _saying_tokens(checkpoint)
    generation = begun.generation or data.generation
    stage = classifier.classifier_stage(
        begun.config, begun.params, begun.tokenizer, objective, adapted, begun.heads, generation
    )
    batches = data.batches(begun.tokenizer, begun.config, quiet, begun.generation)
    return _fit_head(stage, begun, data, batches, optimizer, model_dir, options, quiet, start)


def train_adapters(
    model_dir: str | os.PathLike,
    data: PairedText,
    optimizer: Optimizer,
    options: LoopOptions,
    checkpoint: str | os.PathLike,
    rank: int = 0,
    exits: int = 2,
    positions: int = 256,
    quiet: bool = False,
    start: Start = _nothing,
) -> TrainState:
    """Trains the exit adapters of a native checkpoint, whose other parameters stay as they are.

    model_dir: see `train_loop.fit`; its checkpoints hold the model too. start: see `train_model`. For the others see
    `adapters.adapters_stage` and `train_loop.fit`.

    Raises ValueError for a checkpoint that answers texts in place of going on.
    """
    begun = _saying_tokens(checkpoint)
    stage = adapters.adapters_stage(
        begun.config,
        begun.params,
        begun.tokenizer,
        rank=rank,
        exits=exits,
        positions=positions,
        seed=options.seed,
        heads=begun.heads,
        generation=begun.generation or data.generation,
    )
    batches = data.batches(begun.tokenizer, begun.config, quiet, begun.generation)
    return _fit_head(stage, begun, data, batches, optimizer, model_dir, options, quiet, start)


def train_policy(
    model_dir: str | os.PathLike,
    data: PairedText,
    optimizer: Optimizer,
    options: LoopOptions,
    checkpoint: str | os.PathLike,
    parts: Sequence[str] | None = None,
    constant: bool = False,
    random: float | None = None,
    layerwise: bool = False,
    estimator: estimators.Estimator = estimators.self_critical,
    rule: constrained.Rule = constrained.DualAscent(),
    tolerance: float = 0.05,
    exact_cost: bool | None = None,
    entropy_floor: float = 0.0,
    backbone: Optimizer | None = None,
    dropout_steps: int = 0,
    task: Task | None = None,
    quiet: bool = False,
    start: Start = _nothing,
) -> TrainState:
    """Trains a policy of a native checkpoint, on its model as it is or together with it.

    model_dir: see `train_loop.fit`; its checkpoints hold the model too. optimizer: of the policy. start: see `train_model`.
    random: a share of the full model's operations, in place of a policy that learns: decisions are drawn alike for all inputs,
    which cost that on average over the training data, and the model learns under them; where it is frozen nothing learns, and
    the run is of one step. task: what is asked; where the checkpoint does not say, its head is begun anew. For the others see
    `policy.policy_stage` and `train_loop.fit`.

    Raises ValueError for a share that is none, or that cannot be reached, for a task that is not the checkpoint's, and for one
    whose head would not learn.
    """
    if random is not None:
        baselines.check_share('random', random)
    begun = native.load(checkpoint)
    if task is not None and begun.task is not None and not task.scored_alike(begun.task):
        raise ValueError(f'task is {task}; {checkpoint} answers with {begun.task}, and a policy is of that')
    if task is not None and begun.task is None:
        if backbone is None:
            raise ValueError(
                f'task is {task}, and {checkpoint} has no head of it: train one first, or the model with the policy'
            )
        head = new_head(begun.config, task, options.seed)
        begun = begun._replace(heads={**(begun.heads or {}), 'task': head})
    if task is not None:
        begun = begun._replace(task=_as_read(task, begun))
    stage = policy.policy_stage(
        begun.config,
        begun.params,
        begun.tokenizer,
        parts=parts,
        estimator=estimator,
        rule=rule,
        tolerance=tolerance,
        backbone=None if backbone is None else backbone.of(options.steps),
        entropy_floor=entropy_floor,
        exact_cost=exact_cost,
        constant=constant,
        random=random is not None,
        layerwise=layerwise,
        dropout_steps=dropout_steps,
        seed=options.seed,
        heads=begun.heads,
        generation=begun.generation or data.generation,
        task=begun.task,
    )
    batches = data.batches(begun.tokenizer, begun.config, quiet, begun.generation, begun.task)
    if random is not None:
        prices = _mean_prices(begun, batches[0])
        scores = baselines.drawn_alike(prices, parts_of(parts, begun.config.sizes), begun.config.decoder_only, random)
        stage = stage._replace(params={**stage.params, 'policy': unread(scores, begun.config.emb_dim)})
        options = options if backbone else dataclasses.replace(options, steps=1)
    return _fit_head(stage, begun, data, batches, optimizer, model_dir, options, quiet, start)


def train_controllers(
    model_dir: str | os.PathLike,
    data: PairedText,
    optimizer: Optimizer,
    options: LoopOptions,
    checkpoint: str | os.PathLike,
    alpha: float = 4.0,
    summed: bool = False,
    reads: str = 'hidden',
    hidden_width: int = 0,
    sub_layers: bool = False,
    distance: controllers.Distance = controllers.divergence,
    temperature: float = 1.0,
    noise_at_evaluation: bool = True,
    backbone: Optimizer | None = None,
    dropout_steps: int = 0,
    quiet: bool = False,
    start: Start = _nothing,
) -> TrainState:
    """Trains skip controllers of a native checkpoint, on its model as it is or together with it.

    model_dir: see `train_loop.fit`; its checkpoints hold the model too. optimizer: of the controllers. start: see
    `train_model`. For the others see `controllers.controllers_stage` and `train_loop.fit`.

    Raises ValueError for a checkpoint that answers texts in place of going on.
    """
    begun = _saying_tokens(checkpoint)
    stage = controllers.controllers_stage(
        begun.config,
        begun.params,
        begun.tokenizer,
        alpha=alpha,
        summed=summed,
        reads=reads,
        hidden_width=hidden_width,
        sub_layers=sub_layers,
        distance=distance,
        temperature=temperature,
        noise_at_evaluation=noise_at_evaluation,
        backbone=None if backbone is None else backbone.of(options.steps),
        dropout_steps=dropout_steps,
        seed=options.seed,
        heads=begun.heads,
        generation=begun.generation or data.generation,
    )
    batches = data.batches(begun.tokenizer, begun.config, quiet, begun.generation)
    return _fit_head(stage, begun, data, batches, optimizer, model_dir, options, quiet, start)


def train_task(
    model_dir: str | os.PathLike,
    data: PairedText,
    optimizer: Optimizer,
    options: LoopOptions,
    checkpoint: str | os.PathLike,
    task: Task | None = None,
    labels: Sequence[str] | None = None,
    frozen: bool = False,
    quiet: bool = False,
    start: Start = _nothing,
) -> TrainState:
    """Trains the head of a task, and the model of a native checkpoint with it.

    model_dir: see `train_loop.fit`; its checkpoints answer texts in place of going on. task: what is asked; None: which of the
    labels. labels: their names, in the order of the scores; None: those of the checkpoint, or else the targets of the training
    data, sorted. frozen: whether the model stays as it is. start: see `train_model`. For the others see `train_loop.fit`.

    Raises ValueError for labels that are no list of two or more different ones, and for training data with others.
    """
    begun = native.load(checkpoint)
    if task is None:
        own = begun.task.names if isinstance(begun.task, Labels) else None
        task = Labels(tuple(labels or own or data.labels()))
    task = _as_read(task, begun)
    heads = dict(begun.heads or {})
    if begun.task is not None and not task.scored_alike(begun.task):
        del heads['task']
    limits = {'max_source_length': data.generation['limits']['max_source_length']}
    stage = task_stage(
        begun.config,
        begun.params,
        begun.tokenizer,
        task,
        frozen=frozen,
        seed=options.seed,
        heads=heads,
        generation={'limits': limits},
    )
    batches = data.batches(begun.tokenizer, begun.config, quiet, begun.generation, task)
    return _fit_head(stage, begun, data, batches, optimizer, model_dir, options, quiet, start)


def _as_read(task: Task, begun: native.Checkpoint) -> Task:
    """A task of the model of a checkpoint, whose decoder starts as the checkpoint's task says, or else as those of models that
    have languages do."""
    wraps = bool(begun.tokenizer.languages) if begun.task is None else begun.task.wraps
    return dataclasses.replace(task, wraps=task.wraps or wraps)


def search_plan(
    model_dir: str | os.PathLike,
    data: PairedText,
    checkpoint: str | os.PathLike,
    share: float | None = None,
    layers: float | None = None,
    parts: Sequence[str] | None = None,
    beam: int = 1,
    max_evaluations: int = 10_000,
    quiet: bool = False,
    start: Start = _nothing,
) -> search.Route:
    """Searches the plan that is the same for every input and costs at most a share of the full model's operations on the
    training data, or so many layers, and stores it as a policy that reads nothing.

    Writes, under `model_dir`:
      state/         evaluations.jsonl, the loss of every plan that was measured: what a search that goes on does not measure
                     again.
      last/          the checkpoint, for decoding.
      metrics.jsonl  {"step", "loss", "full_loss", "cost", "dropped"}, the route to the plan, one thing less at each
                     step, and {"step", "eval": {…}} of the evaluation data, as of a policy.

    share: of the full model's operations, the mean over texts. layers: what the plan costs at most in its place, sub-layers of
    the decoder over those of a layer. parts: see `policy.policy_stage`. beam, max_evaluations: see
    `depth.search.search`. start: see `train_model`.

    Raises ValueError for both or neither, a share that is none, a cost that cannot be reached, and for several processes.
    """
    if (share is None) == (layers is None):
        raise ValueError(f'share is {share}, layers {layers}; expected one of the two')
    if share is not None:
        baselines.check_share('share', share)
    if jax.process_count() > 1:
        raise ValueError(f'a plan is searched for by one process; here are {jax.process_count()}')
    begun = native.load(checkpoint)
    config, decided = begun.config, parts_of(parts, begun.config.sizes)
    generation = begun.generation or data.generation
    heads = {name: head for name, head in (begun.heads or {}).items() if name != 'policy'}
    stage = policy.policy_stage(
        config, begun.params, begun.tokenizer, parts=parts, heads=heads, generation=generation, task=begun.task
    )
    training, evaluation = data.batches(begun.tokenizer, config, quiet, begun.generation, begun.task)
    if layers is None:
        most, cost_of = share, baselines.cost_of(_mean_prices(begun, training), config.decoder_only)
    else:
        most, cost_of = layers, functools.partial(baselines.layers_of, decoder_only=config.decoder_only)
    assert most is not None  # one of the two
    plans = (baselines.StaticPlan.full(config.sizes), functools.partial(baselines.droppable, decided), cost_of)
    search.check(*plans, most, beam, max_evaluations)
    start(_inputs(data, training, begun.tokenizer, begun.params))
    run = SearchRun(model_dir, quiet)
    head = (begun.heads or {}).get('task')
    loss_of = run.remembered(baselines.loss_of(config, begun.params, list(training.once()), begun.task, head))
    route = search.search(*plans, loss_of, most, beam=beam, max_evaluations=max_evaluations, watch=run.dropped)
    trained = {'policy': unread(saying(route.steps[-1].plan.decisions()), config.emb_dim)}
    run.end(route, evaluate(stage, jax.jit(stage.measure), trained, stage.frozen, evaluation) if evaluation else None)
    stage.export(trained, pathlib.Path(model_dir) / 'last')
    return route


def _saying_tokens(checkpoint: str | os.PathLike) -> native.Checkpoint:
    """A native checkpoint. Raises ValueError for one that answers texts in place of going on."""
    begun = native.load(checkpoint)
    check_says_tokens(begun.task, checkpoint)
    return begun


def _mean_prices(begun: native.Checkpoint, training: TrainingBatches) -> plan_cost.Prices:
    """Of one input, what decisions cost on average over the training data."""
    source, target = training.token_counts()
    read = begun.task is not None
    return baselines.mean_prices(begun.config, source, source if read else target, read)


def _fit_head(
    stage: Stage,
    begun: native.Checkpoint,
    data: PairedText,
    batches: tuple[TrainingBatches, list],
    optimizer: Optimizer,
    model_dir: str | os.PathLike,
    options: LoopOptions,
    quiet: bool,
    start: Start,
) -> TrainState:
    """Trains what a stage adds to the checkpoint that it began from, on batches of the data for it."""
    training, evaluation = batches
    inputs = _inputs(data, training, begun.tokenizer, begun.params)
    return fit(stage, optimizer, training, evaluation, model_dir, options, quiet, functools.partial(start, inputs))


def _inputs(data: PairedText, training: TrainingBatches, tokenizer: Tokenizer, params: dict | None) -> dict:
    """The data's description with the fingerprints of tokenizer and starting parameters (None: random ones)."""
    checkpoint = {} if params is None else {'checkpoint': native.fingerprint(params)}
    return {**data.description(training), 'tokenizer': tokenizer.fingerprint(), **checkpoint}
