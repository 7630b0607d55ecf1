"""The training loop: any stage, data parallel, resumable, and stopped by anything that is not a number."""

import collections
import dataclasses
import functools
import itertools
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

from calm_jax.checkpoints.manager import Manager
from calm_jax.checks import check_seed, check_types
from calm_jax.compilation import compile_seconds
from calm_jax.data.batching import TrainingBatches, read_ahead
from calm_jax.progress import progress
from calm_jax.training.metrics_log import MetricsLog
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_state import Batch, Stage, TrainState, initial_state
from calm_jax.training.update import Update

# Steps that the host may be ahead of the device: enough to hide its work, few enough to notice a bad loss at once.
STEPS_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How long to train, and what to write when.

    steps: updates in all, those before a resumption included.
    seed: of dropout and other draws in training (the order of the data has its own); 0 ≤ seed < 2**32.
    accumulate: batches of an update, which is that of all their rows together: memory is needed for one of them.
    eval_every: steps between evaluations; there is one more at the end. 0: only at the end.
    save_every: steps between checkpoints to resume from; there is one more at the end. 0: only at the end.
    log_every: steps between lines of metrics.jsonl and of output; there are more of steps that are powers of two.
    keep: how many of the latest checkpoints to resume from stay on disk.
    best_metric: the evaluation number that picks the best checkpoint.
    best_is_higher: whether more of it is better.
    max_minutes: wall time after which training ends cleanly, resumable; 0 is no limit. Counts from the loop's start.
    patience: evaluations in a row that may be no better than the best one, after which training ends cleanly; 0 is no limit.
    """

    steps: int
    seed: int = 0
    accumulate: int = 1
    eval_every: int = 1000
    save_every: int = 1000
    log_every: int = 100
    keep: int = 2
    best_metric: str = 'loss'
    best_is_higher: bool = False
    max_minutes: float = 0.0
    patience: int = 0

    def __post_init__(self):
        check_types(self)
        check_seed('seed', self.seed)
        for name in ('steps', 'accumulate', 'log_every', 'keep'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be 1 or more')
        for name in ('eval_every', 'save_every', 'max_minutes', 'patience'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be 0 or more')
        if self.patience and not self.eval_every:
            raise ValueError(f'patience is {self.patience} and eval_every is 0; expected evaluations before the end')


def fit(
    stage: Stage,
    optimizer: Optimizer,
    batches: TrainingBatches,
    eval_batches: Sequence[Batch],
    model_dir: str | os.PathLike,
    options: LoopOptions,
    quiet: bool = False,
    start: Callable[[], None] = lambda: None,
) -> TrainState:
    """Trains `stage` until `options.steps` and returns the last state.

    Writes, under `model_dir`:
      state/         checkpoints to resume from; training goes on after the latest one found there.
      best/          the checkpoint of the best evaluation so far, for decoding; absent without evaluation data.
      last/          the checkpoint of the last step, for decoding.
      metrics.jsonl  {"step", "loss", "grad_norm", "learning_rate", "steps_per_second", "minutes"}, and what else the stage sums
                     and watches, every `log_every` steps, at the first and at powers of two before, {"step", "eval": {…}} at
                     evaluations, and {"step", "patience", "best"} where no better one came. Steps per second are of time in
                     which nothing was compiled.

    Step s is of the next `accumulate` batches, up to number s · accumulate − 1. A run that was killed and resumed ends with the
    same parameters, bit for bit, as one that was not, on the same devices: batches are a function of their number, and keys of
    seed and step. One that ran out of patience goes on where it is resumed with more.

    Several processes (`jax.distributed.initialize`) train one model, each on its rows, with `model_dir` on a file system
    that all of them see. The checkpoints in state/ are written by all together, the rest by the first process alone.

    eval_batches: small enough to hold in memory; read in order at each evaluation.
    start: called once everything has been checked, before anything is written or read under `model_dir`; in every process, and
    none goes on before all have returned from it.

    Raises ValueError where loss or gradient is not finite, the batch cannot be split over devices, there is no such metric, or
    nothing is evaluated for patience to end with; checkpoints written before stay as they are.
    """
    mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))
    everywhere, by_row = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec('data'))
    _check_row_counts(batches.row_counts)
    if options.best_metric not in stage.metrics:
        raise ValueError(f'best_metric {options.best_metric!r} is not evaluated; choose from {", ".join(stage.metrics)}')
    if options.patience and not eval_batches:
        raise ValueError(f'patience is {options.patience}; expected evaluation data to lose it with')
    model_dir = pathlib.Path(model_dir).absolute()
    optimizer = optimizer.of(options.steps)
    # No process looks for an earlier run where another has begun this one.
    multihost_utils.sync_global_devices('checked')
    start()
    model_dir.mkdir(parents=True, exist_ok=True)
    multihost_utils.sync_global_devices('started')
    put = functools.partial(_put, sharding=by_row)
    update = Update(stage, optimizer, options.seed, options.accumulate, everywhere, by_row)
    measure = jax.jit(stage.measure, in_shardings=(everywhere, everywhere, by_row), out_shardings=everywhere)

    begin = jax.jit(functools.partial(initial_state, stage, optimizer=optimizer), out_shardings=everywhere)
    state, frozen = begin(_replicated(stage.params, everywhere)), _replicated(stage.frozen, everywhere)
    with Manager(model_dir / 'state', keep=options.keep) as manager:
        if manager.latest_step() is not None:
            state = manager.restore(state)
        first = int(state.step)
        run = _Run(stage, model_dir, options, first, quiet)
        in_flight: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()

        stop = first if _impatient(state, options) else options.steps
        ahead = read_ahead(batches, first * options.accumulate, stop * options.accumulate)
        bar = _training_bar(first, options.steps, run.bars)
        for step in range(first + 1, stop + 1):
            state, metrics = update(state, frozen, map(put, itertools.islice(ahead, options.accumulate)))
            in_flight.append((step, metrics))
            last = step == options.steps or run.is_late()
            evaluating = last or _due(step, options.eval_every)
            saving = last or _due(step, options.save_every)
            logging = last or _due(step, options.log_every) or _early(step)

            while len(in_flight) > (0 if evaluating or saving or logging else STEPS_IN_FLIGHT):
                numbers = _finite(*in_flight.popleft(), manager)
            if logging:
                run.trained(step, numbers)
            next(bar, None)
            if evaluating and eval_batches:
                bar.close()  # a terminal shows one at a time
                shown = progress(eval_batches, 'evaluating', quiet=not run.bars, unit='batches')
                report = evaluate(stage, measure, state.params, frozen, map(put, shown))
                run.evaluated(step, report)
                state = _keep_best(run, state, report, options)
                if _impatient(state, options):
                    run.lost_patience(step, state)
                    last = True
                if not last:
                    bar = _training_bar(step, options.steps, run.bars)
            if saving or last:
                manager.save(step, state)
                # A checkpoint that is still being written when the power fails is no checkpoint.
                manager.wait()
            if last:
                break
        bar.close()
        run.export(state.params, 'last')
    multihost_utils.sync_global_devices('exported')
    return state


class _Run:
    """What a run writes under its folder beside the checkpoints to resume from, and says: both in the first process alone.

    Its clock starts when it is made.

    first: the step that it resumes from; metrics of later ones are removed.
    """

    def __init__(self, stage: Stage, model_dir: pathlib.Path, options: LoopOptions, first: int, quiet: bool):
        self._stage, self._model_dir, self._options = stage, model_dir, options
        self._writes = jax.process_index() == 0
        self._metrics = MetricsLog(model_dir / 'metrics.jsonl', first) if self._writes else None
        # A terminal has progress bars; a log file gets lines instead.
        self.bars = self._writes and not quiet and sys.stderr.isatty()
        self._lines = self._writes and not quiet and not self.bars
        self._started = time.monotonic()
        self._logged = first, self._started, compile_seconds()

    def is_late(self) -> bool:
        """Whether the time limit is reached; all processes find the same, by the first one's clock."""
        limit = self._options.max_minutes
        if not limit:
            return False
        late = self._minutes() >= limit
        return late if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.bool_(late)))

    def trained(self, step: int, numbers: dict[str, float]) -> None:
        """Writes and says the metrics of a step, and the rate of the steps since the last such record."""
        (before, then, compiled), now = self._logged, time.monotonic()
        self._logged = step, now, compile_seconds()
        rate = (step - before) / max(now - then - (self._logged[2] - compiled), 1e-9)
        self._write({'step': step, **numbers, 'steps_per_second': round(rate, 4), 'minutes': round(self._minutes(), 2)})
        left = (self._options.steps - step) / rate / 60
        self._say(f'step {step}/{self._options.steps}: loss {numbers["loss"]:.4f}, {rate:.2f} steps/s, {left:.0f} min left')

    def evaluated(self, step: int, report: dict[str, Any]) -> None:
        """Writes a report, and says its numbers that are one number."""
        self._write({'step': step, 'eval': report})
        numbers = (f'{name} {value:.4f}' for name, value in report.items() if isinstance(value, float))
        self._say(f'step {step}: evaluation {", ".join(numbers)}')

    def lost_patience(self, step: int, state: TrainState) -> None:
        """Writes and says that training ends, since no better evaluation came."""
        best, waited = float(state.best), int(state.waited)
        self._write({'step': step, 'patience': waited, 'best': best})
        metric = self._options.best_metric
        self._say(f'step {step}: ends, {metric} was not better than {best:.4f} in {waited} evaluations (patience)')

    def export(self, params: Any, name: str) -> None:
        """Writes the checkpoint best/ or last/."""
        if self._writes:
            self._stage.export(params, self._model_dir / name)

    def _minutes(self) -> float:
        return (time.monotonic() - self._started) / 60

    def _write(self, record: dict[str, Any]) -> None:
        if self._metrics:
            self._metrics.write(record)

    def _say(self, line: str) -> None:
        if self._lines:
            print(line, file=sys.stderr, flush=True)


def evaluate(stage: Stage, measure, params: Any, frozen: Any, eval_batches: Iterable[Batch]) -> dict[str, Any]:
    """The stage's report on all batches together; sums are accumulated in float64."""
    totals: dict[str, np.ndarray] = {}
    for batch in eval_batches:
        for name, value in jax.device_get(measure(params, frozen, batch)).items():
            totals[name] = totals.get(name, 0.0) + np.asarray(value, np.float64)
    return stage.report(totals)


def _keep_best(run: _Run, state: TrainState, report: dict, options: LoopOptions) -> TrainState:
    """Exports the parameters if the report is the best so far; the state that remembers how good, and how long ago."""
    value, best = np.float32(report[options.best_metric]), float(state.best)
    if not math.isnan(best) and not (value > best if options.best_is_higher else value < best):
        # One more at the end of a part of a run is none of a run that went on.
        waited = int(state.waited) + _due(int(state.step), options.eval_every)
        return state._replace(waited=_replicated(np.int32(waited), state.waited.sharding))
    run.export(state.params, 'best')
    made = _replicated((value, np.int32(0)), state.best.sharding)
    return state._replace(best=made[0], waited=made[1])


def _impatient(state: TrainState, options: LoopOptions) -> bool:
    """Whether as many evaluations as `patience` were no better than the best."""
    return 0 < options.patience <= int(state.waited)


def _finite(step: int, metrics: dict[str, jax.Array], manager: Manager) -> dict[str, float]:
    """The metrics of a step as numbers, once it has run.

    Raises ValueError where one of them is not finite.
    """
    numbers = {name: float(value) for name, value in metrics.items()}
    for name in ('loss', 'grad_norm'):
        if not math.isfinite(numbers[name]):
            good = manager.latest_step()
            saved = 'nothing was saved yet' if good is None else f'the last good checkpoint is {manager.directory / str(good)}'
            raise ValueError(f'{name} is {numbers[name]} at step {step}; {saved}; lower the learning rate or look at the data')
    return numbers


def _check_row_counts(row_counts: Sequence[int]) -> None:
    devices = jax.device_count()
    for rows in row_counts:
        if rows % devices:
            raise ValueError(f'batch size {rows} cannot be split over {devices} devices; use a multiple of {devices}')


def _training_bar(first: int, steps: int, shown: bool) -> Generator:
    """A bar that stands at `first` of `steps` steps; each `next` is one more."""
    bar = progress(range(first, steps), 'training', total=steps, quiet=not shown, unit='steps', initial=first)
    next(bar, None)
    return bar


def _replicated(tree: Any, sharding: Sharding) -> Any:
    """The whole tree, which every process has, on every device."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)  # what already lies there is not copied
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def _put(batch: dict[str, np.ndarray], sharding: NamedSharding) -> Batch:
    """This process's rows as a global array."""
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def _early(step: int) -> bool:
    """Whether a step is a power of two: at first a loss falls fast, and whoever looks on has seen nothing yet."""
    return step & (step - 1) == 0


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
