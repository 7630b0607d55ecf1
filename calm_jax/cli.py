"""The command `calm`: one sub-command per stage, one line and exit code 2 for whatever a user can get wrong."""

import argparse
import importlib
import sys

COMMANDS = (
    'demo', 'import', 'export', 'train', 'generate', 'calibrate', 'evaluate', 'benchmark', 'analyze', 'report', 'gin_path')


def main(argv=None) -> int:
    """Runs one command; returns the exit code. `calm COMMAND --help` explains each."""
    argv = sys.argv[1:] if argv is None else list(argv)
    name = argv[0] if argv else None
    # Only the command asked for is imported: a report needs no JAX.
    wanted = [name] if name in COMMANDS else COMMANDS
    parser = _OneLineParser(prog='calm', description='Adaptive-depth text generation with guarantees.')
    parser.add_argument('--version', action='version', version=_version())
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    commands = {}
    for each in wanted:
        commands[each] = importlib.import_module(f'calm_jax.commands.{each}{"_" if each == "import" else ""}')
        commands[each].add_arguments(subparsers.add_parser(
            each, help=commands[each].SUMMARY, description=commands[each].__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter))
    try:
        args = parser.parse_args(argv)
        commands[args.command].run(args)
    except SystemExit as stop:  # argparse: --help is 0, a wrong flag is 2
        return stop.code or 0
    except (ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        print(f'calm {name}: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'calm {name}: interrupted', file=sys.stderr)
        return 130
    return 0


def console() -> None:
    """The console script."""
    sys.exit(main())


class _OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage before it."""

    def error(self, message):
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')


def _version() -> str:
    from importlib import metadata

    return f'calm_jax {metadata.version("calm_jax")}'


if __name__ == '__main__':
    console()
