"""The command itself: help, versions, and what is no command."""

import io
import logging
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

from calm_jax.cli import COMMANDS, main


def test_help_lists_every_command_and_imports_none(capsys):
    code = "import sys; from calm_jax.cli import main; main(['--help']); print('jax' in sys.modules)"
    printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert all(name in printed for name in COMMANDS) and printed.endswith('False\n')


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_explains_itself(name, capsys):
    assert main([name, '--help']) == 0
    assert '--' in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert main(['--version']) == 0 and capsys.readouterr().out == f'calm_jax {metadata.version("calm_jax")}\n'


def test_help_explains_a_command_or_lists_them(capsys):
    for asked, same in ((['help'], ['--help']), (['help', 'report'], ['report', '--help'])):
        printed = [main(argv) or capsys.readouterr().out for argv in (asked, same)]
        assert printed[0] == printed[1] and 'usage: calm' in printed[0]


def test_the_package_is_the_command():
    command = [sys.executable, '-m', 'calm_jax', 'generat']
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stderr.startswith('calm: unknown command')


def test_a_reader_that_has_read_enough_is_no_traceback(monkeypatch, capsys):
    from calm_jax.commands import gin_path

    def cut(args):
        raise BrokenPipeError

    monkeypatch.setattr(gin_path, 'run', cut)
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    assert main(['gin_path']) == 141 and capsys.readouterr().err == ''


def test_a_checkout_that_was_never_installed_says_so():
    code = (
        'from importlib import metadata\n'
        'def absent(name): raise metadata.PackageNotFoundError(name)\n'
        'metadata.version = absent\n'
        'import calm_jax; print(calm_jax.__version__)'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == 'not installed\n'


@pytest.mark.parametrize(
    'argv, word',
    [
        ([], 'COMMAND'),
        (['generat'], "unknown command 'generat'; expected one of demo, import,"),
        (['generat'], 'did you mean generate?'),
        (['help', 'certificat'], 'did you mean certificate?'),
        (['analyze', 'rank'], "unknown analysis 'rank'; expected one of sensitivity, ranks, confidence, similarity, oracle; "),
        (['analyze', 'rank'], 'did you mean ranks?'),
        (['--nonsense'], 'unrecognized arguments: --nonsense'),
        # A flag that is missing may be one that is misspelt; a value that looks like a flag is none.
        (['report', 'run', '--ouput', 'page.html'], 'unrecognized arguments: --ouput; did you mean --output?'),
        (
            ['evaluate', '--predictions=a', '--reference=b'],
            '--reference; did you mean --references? (see calm evaluate --help)',
        ),
        (
            ['report', 'run', '--output=--x.html', '--over_write'],
            'unrecognized arguments: --over_write; did you mean --overwrite?',
        ),
        (['report', 'run'], 'the following arguments are required: --output'),
    ],
)
def test_what_is_no_command_is_one_line_and_exit_code_2(argv, word, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert word in error and len(error.splitlines()) == 1


@pytest.mark.parametrize('hint, printed', [((), 'interrupted'), (('go on so',), 'interrupted; go on so')])
def test_an_interruption_is_no_traceback_and_may_say_how_to_go_on(hint, printed, monkeypatch, capsys):
    from calm_jax.commands import gin_path

    def interrupted(args):
        raise KeyboardInterrupt(*hint)

    monkeypatch.setattr(gin_path, 'run', interrupted)
    assert main(['gin_path']) == 130 and capsys.readouterr().err == f'calm gin_path: {printed}\n'


def test_what_the_library_logs_is_printed_while_a_command_runs_and_only_then(monkeypatch, capsys):
    from calm_jax.commands import gin_path

    logger = logging.getLogger('calm_jax')
    before = logger.level, logger.propagate, list(logger.handlers)

    def logs(args):
        logger.debug('too fine')
        logger.info('step %d', 3)
        logging.getLogger('calm_jax.some').warning('another\nbatch size')
        if fails:
            raise ValueError('wrong')

    monkeypatch.setattr(gin_path, 'run', logs)
    for fails in (False, True):
        assert main(['gin_path']) == (2 if fails else 0)
        printed = ['step 3', 'calm gin_path: warning: another batch size', *(['calm gin_path: wrong'] if fails else [])]
        assert capsys.readouterr().err.splitlines() == printed
        assert (logger.level, logger.propagate, logger.handlers) == before


def out_of_memory():
    import jax

    message = 'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nBuffer assignment:\n 1'
    return [MemoryError(), np._core._exceptions._ArrayMemoryError((9,), np.dtype('int8')), jax.errors.JaxRuntimeError(message)]


@pytest.mark.parametrize('error', out_of_memory(), ids=lambda error: type(error).__name__)
def test_too_little_memory_is_one_line_that_says_what_to_lower(error, monkeypatch, capsys):
    from calm_jax.commands import generate, gin_path

    def full(args):
        raise error

    monkeypatch.setattr(generate, 'run', full)
    monkeypatch.setattr(gin_path, 'run', full)
    assert main(['generate', '--checkpoint', 'x', '--prompt', 'y']) == 2
    line = capsys.readouterr().err
    assert 'out of memory' in line and 'lower --batch_size' in line and len(line.splitlines()) == 1
    assert main(['gin_path']) == 2 and 'batch_size' not in capsys.readouterr().err  # it has no such flag


def test_mistakes_of_ours_keep_their_traceback(monkeypatch):
    import jax

    from calm_jax.commands import gin_path

    for error in (RuntimeError('out of memory of what to do'), jax.errors.JaxRuntimeError('INTERNAL: x'), RecursionError()):

        def wrong(args, error=error):
            raise error

        monkeypatch.setattr(gin_path, 'run', wrong)
        with pytest.raises(type(error)):
            main(['gin_path'])
