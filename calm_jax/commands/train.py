"""Trains a model with an exit after every decoder layer, then the classifier that decides when to take it.

    calm train --checkpoint DIR --train_data train.jsonl --eval_data eval.jsonl --source en --target fr --output runs/a
    calm train --stage classifier --checkpoint runs/a/best --train_data train.jsonl --source en --target fr --output runs/b
    calm train --gin_file=models/small8.gin --gin_file=runs/train.gin --gin.TOKENIZER="'DIR'" …     # from scratch

Everything has a name in gin, whose files (`calm gin_path`) say what there is; without one, a checkpoint is trained on for 1,000
steps of 32 rows. Warm-up is a third of the steps at most. A killed run goes on with --resume, to the same parameters.
"""

import argparse
import contextlib
import functools
import math
import os
import pathlib
import shlex
import shutil
import sys
import tempfile

import jax

from calm_jax.commands import configuration, gin_flags
from calm_jax.compilation import use_compilation_cache
from calm_jax.files import read_json, write_json, write_text
from calm_jax.outputs import check_apart
from calm_jax.training.search_run import EVALUATIONS

# Everyday flags and the macros they set.
_FLAGS = {
    'output': 'MODEL_DIR',
    'checkpoint': 'CHECKPOINT',
    'train_data': 'TRAIN_DATA',
    'eval_data': 'EVAL_DATA',
    'source': 'SOURCE',
    'target': 'TARGET',
    'max_source_length': 'MAX_SOURCE_LENGTH',
    'max_target_length': 'MAX_TARGET_LENGTH',
    'steps': 'TRAIN_STEPS',
    'batch_size': 'BATCH_SIZE',
    'batch_tokens': 'BATCH_TOKENS',
    'accumulate': 'ACCUMULATE',
    'learning_rate': 'LEARNING_RATE',
    'seed': 'SEED',
    'max_minutes': 'MAX_MINUTES',
    'labels': 'LABELS',
    'patience': 'PATIENCE',
}
# A batch is as large as one of the two says: who gives a flag takes the other back.
_IN_PLACE_OF = {'batch_size': 'batch_tokens', 'batch_tokens': 'batch_size'}
# Without a gin file: which one each stage takes, what it needs, and what it does where nothing else is said.
_STAGES = {
    'exits': 'runs/finetune.gin',
    'classifier': 'runs/classifier.gin',
    'adapters': 'runs/adapters.gin',
    'policy': 'runs/policy.gin',
    'controllers': 'runs/controllers.gin',
    'labels': 'runs/labels.gin',
    'spans': 'runs/spans.gin',
}
_NEEDED = ('checkpoint', 'train_data', 'output')
_DEFAULTS = {
    'SOURCE': 'source',
    'TARGET': 'target',
    'TRAIN_STEPS': 1000,
    'BATCH_SIZE': 32,
    'EVAL_EVERY': 200,
    'SAVE_EVERY': 200,
    'LOG_EVERY': 50,
}
# What may change when a run goes on: when it ends, what it reports and keeps, and where it lies.
_MAY_CHANGE = {'MODEL_DIR', 'TRAIN_STEPS', 'MAX_MINUTES', 'PATIENCE', 'LOG_EVERY', 'EVAL_EVERY', 'SAVE_EVERY'} | {
    f'LoopOptions.{name}' for name in ('steps', 'max_minutes', 'patience', 'log_every', 'eval_every', 'save_every', 'keep')
}


# What a run writes to its folder, and --overwrite deletes.
_WRITTEN = {'config.gin', 'inputs.json', 'metrics.jsonl', 'state', 'best', 'last', 'controller.json'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `calm train`."""
    parser.add_argument('--checkpoint', metavar='DIR', help='native checkpoint to train on; the macro CHECKPOINT')
    parser.add_argument(
        '--stage',
        choices=_STAGES,
        help='without a gin file: all of the model; the exit classifier, exit adapters, a policy or skip controllers alone; or '
        'the model with a head of labels or spans (default exits)',
    )
    for name in ('train', 'eval'):
        parser.add_argument(
            f'--{name}_data',
            action='append',
            metavar='FILE',
            help=f'JSONL (.gz, .xz) or seqio:TASK:SPLIT; repeatable; the macro {name.upper()}_DATA',
        )
    for name in ('source', 'target'):
        parser.add_argument(
            f'--{name}', metavar='FIELD', help=f'field or template of the {name} (default {name}); the macro {name.upper()}'
        )
        parser.add_argument(
            f'--max_{name}_length', type=int, metavar='N', help=f'tokens of a {name}; the macro MAX_{name.upper()}_LENGTH'
        )
    parser.add_argument('--output', metavar='DIR', help='folder to write; the macro MODEL_DIR')
    parser.add_argument('--steps', type=int, help='optimizer steps in all; the macro TRAIN_STEPS')
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument('--batch_size', type=int, help='rows of a batch, over all devices; the macro BATCH_SIZE')
    batch.add_argument(
        '--batch_tokens', type=int, help='in its place: tokens of a batch, padding among them; the macro BATCH_TOKENS'
    )
    parser.add_argument('--accumulate', type=int, metavar='N', help='batches of an optimizer step; the macro ACCUMULATE')
    parser.add_argument('--learning_rate', type=float, help='peak, per optimizer step; the macro LEARNING_RATE')
    parser.add_argument('--seed', type=int, help='of initial values, dropout and the order of the data; the macro SEED')
    parser.add_argument(
        '--max_minutes', type=float, help='end cleanly after this wall time, 0 is no limit; the macro MAX_MINUTES'
    )
    parser.add_argument(
        '--patience',
        type=int,
        metavar='N',
        help='end cleanly after N evaluations without a better one, 0 is no limit; the macro PATIENCE',
    )
    parser.add_argument(
        '--labels',
        type=lambda text: text.split(','),
        metavar='A,B,…',
        help='their names, with --stage labels (default: the targets of the training data); the macro LABELS, which is a list, '
        'and may have names with commas',
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument('--resume', action='store_true', help='go on after the latest checkpoint of the model folder')
    start.add_argument('--overwrite', action='store_true', help='delete what the model folder holds, and start')
    parser.add_argument('--quiet', action='store_true', help='no progress on standard error, no last line')
    gin_flags.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Reads the configuration, prepares the model folder, runs the job, and says where its model is and what is next."""
    use_compilation_cache()
    files, bindings = _stage(args)
    for flag, macro in _FLAGS.items():
        value = getattr(args, flag)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f'--{flag} is {value}; expected a number')
        if value is not None:
            value = value[0] if isinstance(value, list) and len(value) == 1 and flag != 'labels' else value
            bindings.append(f'{macro} = {value!r}')
    read = configuration.read(files, bindings, configuration.search_folders(args), _unset(args))
    model_dir = read.macros.get('MODEL_DIR')
    if not isinstance(model_dir, str) or not model_dir:
        raise ValueError(f'MODEL_DIR is {model_dir!r}; expected the path of a folder')
    model_dir = pathlib.Path(model_dir).resolve()
    found = _found(model_dir, args.resume, args.overwrite)
    if found and args.overwrite:
        check_apart(model_dir, _read_paths(read.macros))
    if found and args.resume:
        _same_configuration(model_dir, read.text)
    try:
        read.job(model_dir=model_dir, quiet=args.quiet, start=functools.partial(_start, model_dir, found, read.text, args))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_resume(model_dir, args.overwrite)) from None
    if not args.quiet and jax.process_index() == 0:
        print(_next(model_dir, read.macros))


def _stage(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The gin files and bindings to begin with: of flags, or of a stage and its defaults. ValueError for what it lacks."""
    unset = _unset(args)
    if args.gin_file:
        if args.stage:
            raise ValueError('--stage chooses a gin file, and --gin_file names one; leave one of the two out')
        return args.gin_file, [*unset, *args.gin_binding]
    bound = {binding.split('=')[0].strip() for binding in args.gin_binding}
    missing = [name for name in _NEEDED if getattr(args, name) is None and _FLAGS[name] not in bound]
    if missing:
        flags = ', '.join(f'--{name}' for name in missing)
        raise ValueError(f'{flags} missing; a model is trained from scratch by a gin file, such as --gin_file=runs/train.gin')
    defaults = [f'{macro} = {value!r}' for macro, value in _DEFAULTS.items()]
    return [_STAGES[args.stage or 'exits']], [*defaults, *unset, *args.gin_binding]


def _unset(args: argparse.Namespace) -> list[str]:
    """Bindings that take back what a flag is given in place of, for gin files that have such a macro."""
    return [f'{_FLAGS[other]} = None' for flag, other in _IN_PLACE_OF.items() if getattr(args, flag) is not None]


def _how_to_resume(model_dir: pathlib.Path, overwrite: bool) -> str:
    """What is said after Ctrl-C."""
    state = model_dir / 'state'
    steps = [int(path.name) for path in state.iterdir() if path.name.isdigit()] if state.is_dir() else []
    searched = (state / EVALUATIONS).is_file()
    if not steps and not searched:
        return 'nothing was saved yet'
    saved = 'what was measured is saved' if searched else f'step {max(steps)} is saved'
    instead = ' in place of --overwrite' if overwrite else ''
    return f'{saved}: the same command with --resume{instead} goes on after it'


def _next(model_dir: pathlib.Path, macros: dict) -> str:
    """The last line: where the model is, and the command that decodes with it."""
    best = (model_dir / 'best').is_dir()
    shown = pathlib.Path(os.path.relpath(model_dir)) if model_dir.is_relative_to(pathlib.Path.cwd()) else model_dir
    folder = shown / ('best' if best else 'last')
    data = next(iter(_paths(macros, 'EVAL_DATA')), None) or next(iter(_paths(macros, 'TRAIN_DATA')), 'FILE')
    source = macros.get('SOURCE')
    words = ['calm', 'generate', '--checkpoint', str(folder), '--input', data, '--source_field']
    words += [source if isinstance(source, str) else 'FIELD', '--output', f'{shown}.jsonl']
    if 'PARTS' in macros:
        words += ['--plan', 'policy', *(['--policy_drawn', 'true'] if macros.get('RANDOM') is not None else [])]
    elif 'PREDICTIONS' in macros:
        words += ['--plan', 'prompt_controller', *(['--chat'] if macros.get('CHAT') else [])]
    elif 'READS' in macros:
        words += ['--gate', 'controllers', *(['--controllers_drawn', 'true'] if macros['NOISE_AT_EVALUATION'] else [])]
    elif 'FROZEN' not in macros:
        words += ['--adapters', 'trained'] if 'EXITS' in macros else []
        words += ['--measure', 'classifier' if 'OBJECTIVE' in macros else 'softmax_gap', '--threshold', '0.9']
    return f'{folder}: {"of the best evaluation" if best else "of the last step"}; next: {shlex.join(words)}'


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
        yield from _paths(macros, name)


def _paths(macros, name):
    """The texts that a macro is, or is a list of."""
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
        parts = (f'{count} {side}s of more than {inputs[f"max_{side}_length"]} tokens' for side, count in cut.items())
        print(f'{inputs["examples"]} examples; cut: {", ".join(parts)}', file=sys.stderr, flush=True)


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
