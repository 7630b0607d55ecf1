"""The command `calm`: one sub-command per stage, one line and exit code 2 for whatever a user can get wrong."""

import argparse
import contextlib
import importlib
import logging
import re
import sys

from calm_jax import __version__
from calm_jax.commands.own import blamed
from calm_jax.nearest import did_you_mean

# Said here and not in the commands' files, so that the list of commands imports none of them.
COMMANDS = {
    'demo': 'calibrate and decode with a small trained model that comes along',
    'import': 'convert a published checkpoint to a native one',
    'export': 'write a native checkpoint in the published format',
    'train': 'train a model with an exit after every layer, or its exit classifier',
    'count': 'list the ids that a model says most often, for measures that look at these alone',
    'generate': 'decode a file of texts, standard input, or one prompt',
    'calibrate': 'choose a threshold with a statistical guarantee',
    'certificate': 'print what a certificate promises, and of what',
    'evaluate': 'score generated texts against references',
    'benchmark': 'time full depth against exits on this machine',
    'analyze': 'look inside: what an early error costs, ranks and confidence by layer',
    'report': 'one self-contained HTML page from the JSON files of a run',
    'gin_path': 'print the folder of the gin files',
}
UNRECOGNIZED = 'unrecognized arguments'


def main(argv=None) -> int:
    """Runs one command; returns the exit code. `calm COMMAND --help`, or `calm help COMMAND`, explains each."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ['help']:
        argv = [*argv[1:2], '--help']
    name = argv[0] if argv else None
    parser = _OneLineParser(prog='calm', description='Adaptive-depth text generation with guarantees.')
    parser.add_argument('--version', action='version', version=f'calm_jax {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND', required=True, title='commands')
    command = chosen = None
    for each, summary in COMMANDS.items():
        subparser = subparsers.add_parser(each, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if each == name:  # only the command asked for is imported: a report needs no JAX
            command = importlib.import_module(f'calm_jax.commands.{each}{"_" if each == "import" else ""}')
            subparser.description = command.__doc__
            command.add_arguments(subparser)
            chosen = subparser
    args = None
    try:
        args, unknown = parser.parse_known_args(argv)
        assert command is not None and chosen is not None  # parsing refused any other name
        if unknown:
            chosen.error(f'{UNRECOGNIZED}: {" ".join(unknown)}')
        # Classes of the user's own are named by flags of decoding, and imported where those are read.
        own = args.decode_flags.layout.own if hasattr(args, 'decode_flags') else ()
        with _logged(name), blamed(own):
            command.run(args)
    except SystemExit as stop:  # argparse: --help is 0, a wrong flag is 2
        return int(stop.code or 0)
    except BrokenPipeError:  # whoever read standard output has read enough
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.close()
        return 141
    except (ValueError, OSError) as error:
        said = f'{error.filename}: {error.strerror}' if isinstance(error, OSError) and error.filename else str(error)
        print(f'calm {name}: {" ".join(said.split())}', file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        flags = [f'--{name}' for name in ('batch_size', 'max_new_tokens', 'max_source_length') if hasattr(args, name)]
        advice = f'; lower {" or ".join(flags)}' if flags else ''
        reason = ' '.join(str(error).split()) or 'an allocation failed'
        print(f'calm {name}: out of memory ({reason[:160]}){advice}', file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:  # a command that can be taken up again says how
        hint = f'; {interruption}' if str(interruption) else ''
        print(f'calm {name}: interrupted{hint}', file=sys.stderr)
        return 130
    return 0


def console() -> None:
    """The console script."""
    sys.exit(main())


@contextlib.contextmanager
def _logged(name):
    """What the library logs is printed while a command runs; without a command it goes where the program that uses it says."""
    logger, printed = logging.getLogger('calm_jax'), _StandardError(name)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(printed)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # other packages give the root a handler, and every line would be there twice
    try:
        yield
    finally:
        logger.removeHandler(printed)
        logger.setLevel(level)
        logger.propagate = propagate


class _StandardError(logging.Handler):
    """One line a message on standard error, as that is at the moment: warnings after the command's name, others as they are."""

    def __init__(self, name):
        super().__init__()
        self._name = name

    def emit(self, record):
        line = ' '.join(record.getMessage().split())
        warns = record.levelno >= logging.WARNING
        print(f'calm {self._name}: {record.levelname.lower()}: {line}' if warns else line, file=sys.stderr, flush=True)


class _OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage before it, and that takes flags by their whole names alone.

    words: those that are parsed, in which a flag that is not known is looked for.
    """

    def __init__(self, *args, **settings):
        super().__init__(*args, **{'allow_abbrev': False, **settings})
        self.words = []

    def parse_known_args(self, args=None, namespace=None):
        self.words = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message):
        if unknown := self._unknown_flags(message):  # what is missing may be what is misspelt
            message = f'{UNRECOGNIZED}: {", ".join(unknown)}'
        elif choice := re.fullmatch(r"(.*): invalid choice: '(.*?)' \(choose from (.*)\)", message):
            names = [each.strip(" '") for each in choice[3].split(',')]
            where = f'unknown {choice[1].removeprefix("argument ").lower()}'  # of a command or an analysis, not of a flag
            message = message if '--' in choice[1] else f'{where} {choice[2]!r}; expected one of {", ".join(names)}'
            message += did_you_mean(choice[2], names)
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')

    def _unknown_flags(self, message: str) -> list[str]:
        """Flags among the words that are none, each with the nearest there is, where the message may be due to them."""
        if not message.startswith((UNRECOGNIZED, 'the following arguments are required', 'one of the arguments')):
            return []
        flags = [word.partition('=')[0] for word in self.words if word.startswith('--') and word != '--']
        known = [name for name in self._option_string_actions if name.startswith('--')]
        return [f'{flag}{did_you_mean(flag, known)}' for flag in flags if flag not in known and not flag.startswith('--gin.')]


def _out_of_memory(error) -> bool:
    """Whether Python, or JAX on any backend, found no memory; other errors are mistakes of ours, for a traceback."""
    if isinstance(error, MemoryError):
        return True
    jax = sys.modules.get('jax')  # where it was never imported nothing of it was raised
    text = str(error).lower()
    return (
        jax is not None
        and isinstance(error, jax.errors.JaxRuntimeError)
        and ('resource_exhausted' in text or 'out of memory' in text)
    )


if __name__ == '__main__':
    console()
