"""Trains a model with an exit after every decoder layer, then the classifier that decides when to take it."""

import contextlib
import functools
import math
import pathlib
import shutil
import sys
import tempfile

import jax

from calm_jax.commands import configuration, gin_flags
from calm_jax.files import read_json, write_json, write_text
from calm_jax.outputs import check_apart

# Everyday flags and the macros they set.
_FLAGS = {
    'model_dir': 'MODEL_DIR',
    'steps': 'TRAIN_STEPS',
    'batch_size': 'BATCH_SIZE',
    'learning_rate': 'LEARNING_RATE',
    'seed': 'SEED',
    'max_minutes': 'MAX_MINUTES',
}
# What may change when a run goes on: when it ends, what it reports and keeps, and where it lies.
_MAY_CHANGE = {'MODEL_DIR', 'TRAIN_STEPS', 'MAX_MINUTES', 'LOG_EVERY', 'EVAL_EVERY', 'SAVE_EVERY'} | {
    f'LoopOptions.{name}' for name in ('steps', 'max_minutes', 'log_every', 'eval_every', 'save_every', 'keep')
}


# What a run writes to its folder, and --overwrite deletes.
_WRITTEN = {'config.gin', 'inputs.json', 'metrics.jsonl', 'state', 'best', 'last'}


def add_arguments(parser):
    """Flags of `calm train`."""
    gin_flags.add_arguments(parser)
    parser.add_argument('--model_dir', help='folder to write; the macro MODEL_DIR')
    parser.add_argument('--steps', type=int, help='optimizer steps in all; the macro TRAIN_STEPS')
    parser.add_argument('--batch_size', type=int, help='rows per step, over all devices; the macro BATCH_SIZE')
    parser.add_argument('--learning_rate', type=float, help='peak, per optimizer step; the macro LEARNING_RATE')
    parser.add_argument('--seed', type=int, help='of initial values, dropout and the order of the data; the macro SEED')
    parser.add_argument(
        '--max_minutes', type=float, help='end cleanly after this wall time, 0 is no limit; the macro MAX_MINUTES'
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument('--resume', action='store_true', help='go on after the latest checkpoint of the model folder')
    start.add_argument('--overwrite', action='store_true', help='delete what the model folder holds, and start')
    parser.add_argument('--quiet', action='store_true', help='no progress on standard error')


def run(args):
    """Reads the configuration, prepares the model folder and runs the job."""
    if not args.gin_file:
        raise ValueError('calm train needs a gin file, such as --gin_file=runs/train.gin')
    bindings = list(args.gin_binding)
    for flag, macro in _FLAGS.items():
        value = getattr(args, flag)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f'--{flag} is {value}; expected a number')
        if value is not None:
            bindings.append(f'{macro} = {value!r}')
    read = configuration.read(args.gin_file, bindings, configuration.search_folders(args))
    model_dir = read.macros.get('MODEL_DIR')
    if not isinstance(model_dir, str) or not model_dir:
        raise ValueError(f'MODEL_DIR is {model_dir!r}; expected the path of a folder')
    model_dir = pathlib.Path(model_dir).resolve()
    found = _found(model_dir, args.resume, args.overwrite)
    if found and args.overwrite:
        check_apart(model_dir, _read_paths(read.macros))
    if found and args.resume:
        _same_configuration(model_dir, read.text)
    read.job(model_dir=model_dir, quiet=args.quiet, start=functools.partial(_start, model_dir, found, read.text, args))


def _found(model_dir, resume, overwrite):
    """Whether a run is there; refuses a folder with anything else in it, and one that nobody said what to do with."""
    if not model_dir.exists() or (model_dir.is_dir() and not any(model_dir.iterdir())):
        return False
    if not model_dir.is_dir():
        raise NotADirectoryError(f'{model_dir} is a file; MODEL_DIR must be a folder')
    if not (resume or overwrite):
        raise FileExistsError(
            f'{model_dir} exists; pass --resume to go on after its latest checkpoint, or --overwrite to delete it'
        )
    if not (model_dir / 'config.gin').is_file():
        raise FileExistsError(f'{model_dir} holds no config.gin, so no training run made it; choose another MODEL_DIR')
    if overwrite and (others := sorted({path.name for path in model_dir.iterdir()} - _WRITTEN)):
        raise FileExistsError(
            f'{model_dir} holds {others[0]}, which no training run wrote; move it, or choose another MODEL_DIR'
        )
    return True


def _read_paths(macros):
    """What the job reads, of the paths that macros name."""
    for name in ('TRAIN_DATA', 'EVAL_DATA', 'TOKENIZER', 'CHECKPOINT'):
        value = macros.get(name)
        yield from (each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, str))


def _same_configuration(model_dir, resolved):
    """Raises ValueError naming the first binding that differs from those of the run to be resumed."""
    before = configuration.bindings((model_dir / 'config.gin').read_text())
    now = configuration.bindings(resolved)
    for name in {**now, **before}:
        if name not in _MAY_CHANGE and now.get(name) != before.get(name):
            raise ValueError(
                f'--resume: {name} is {now.get(name, "not set")}, and was {before.get(name, "not set")} in '
                f'{model_dir / "config.gin"}; set it back, or train into another MODEL_DIR'
            )


def _same_inputs(model_dir, inputs):
    """Raises ValueError naming the first input whose contents differ from those of the run to be resumed."""
    path = model_dir / 'inputs.json'
    before = read_json(path) if path.is_file() else inputs
    for name in {**inputs, **before}:
        if inputs.get(name) != before.get(name):
            raise ValueError(
                f'--resume: {name} is not what it was: found {inputs.get(name)}, and {before.get(name)} in '
                f'{path}; put it back, or train into another MODEL_DIR'
            )


def _start(model_dir, found, resolved, args, inputs):
    """Everything has been read and checked: prepares the model folder, and says what is cut; the first process for all."""
    if found and args.resume:
        _same_inputs(model_dir, inputs)
    if jax.process_index() > 0:
        return
    with _replaced(model_dir) if found and args.overwrite else contextlib.nullcontext():
        model_dir.mkdir(parents=True, exist_ok=True)
        write_json(model_dir / 'inputs.json', inputs)
        write_text(model_dir / 'config.gin', resolved)
    if not args.quiet:
        cut = inputs['truncated']
        print(
            f'{inputs["examples"]} examples; cut: {cut["source"]} sources of more than {inputs["max_source_length"]} tokens, '
            f'{cut["target"]} targets of more than {inputs["max_target_length"]}',
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def _replaced(folder):
    """Moves a folder aside; deletes it after the `with` block, or puts it back when that fails."""
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    folder.rename(aside / folder.name)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        (aside / folder.name).rename(folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside)
