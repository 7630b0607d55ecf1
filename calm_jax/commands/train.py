"""Trains a model with an exit after every decoder layer, then the classifier that decides when to take it."""
import pathlib
import shutil

from calm_jax.commands import configuration, gin_flags

# Everyday flags and the macros they set.
_FLAGS = {
    'model_dir': 'MODEL_DIR', 'steps': 'TRAIN_STEPS', 'batch_size': 'BATCH_SIZE', 'learning_rate': 'LEARNING_RATE',
    'seed': 'SEED', 'max_minutes': 'MAX_MINUTES',
}


def add_arguments(parser):
    """Flags of `calm train`."""
    gin_flags.add_arguments(parser)
    parser.add_argument('--model_dir', help='folder to write; the macro MODEL_DIR')
    parser.add_argument('--steps', type=int, help='optimizer steps in all; the macro TRAIN_STEPS')
    parser.add_argument('--batch_size', type=int, help='rows per step, over all devices; the macro BATCH_SIZE')
    parser.add_argument('--learning_rate', type=float, help='peak, per optimizer step; the macro LEARNING_RATE')
    parser.add_argument('--seed', type=int, help='of initial values, dropout and the order of the data; the macro SEED')
    parser.add_argument('--max_minutes', type=float,
                        help='end cleanly after this wall time, 0 is no limit; the macro MAX_MINUTES')
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
        if getattr(args, flag) is not None:
            bindings.append(f'{macro} = {getattr(args, flag)!r}')
    job, resolved = configuration.read(args.gin_file, bindings, configuration.search_folders(args))
    model_dir = pathlib.Path(configuration.macro('MODEL_DIR'))
    _prepare(model_dir, args.resume, args.overwrite)
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / 'config.gin').write_text(resolved)
    job(model_dir=model_dir, quiet=args.quiet)


def _prepare(model_dir, resume, overwrite):
    """Refuses a folder with anything in it, unless told what to do with it."""
    if not model_dir.exists() or (model_dir.is_dir() and not any(model_dir.iterdir())):
        return
    if not model_dir.is_dir():
        raise NotADirectoryError(f'{model_dir} is a file; MODEL_DIR must be a folder')
    ours = (model_dir / 'config.gin').is_file()
    if not (resume or overwrite):
        raise FileExistsError(f'{model_dir} exists; pass --resume to go on after its latest checkpoint, '
                              'or --overwrite to delete it')
    if not ours:
        raise FileExistsError(f'{model_dir} holds no config.gin, so no training run made it; choose another MODEL_DIR')
    if overwrite:
        shutil.rmtree(model_dir)
