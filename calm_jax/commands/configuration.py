"""gin: files, bindings and their errors. Nothing else in the library reads gin."""
import argparse
import difflib
import pathlib
import re
from collections.abc import Callable, Sequence

import gin

from calm_jax.models.config import TransformerConfig
from calm_jax.training import classifier, jobs, losses
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_loop import LoopOptions

CONFIGURABLES = (
    TransformerConfig, Optimizer, LoopOptions, jobs.PairedText, jobs.train_model, jobs.train_exit_classifier,
    losses.proportional_to_layer, losses.uniform, losses.last_only, classifier.independent, classifier.geometric,
)


def job(run: Callable) -> Callable:
    """What a gin file makes the command do: `job.run = @train_model`."""
    return run


def gin_folder() -> pathlib.Path:
    """The folder of the gin files that come with the library, installed or in a checkout."""
    package = pathlib.Path(__file__).resolve().parents[1]
    for folder in (package / 'gin', package.parent / 'gin'):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f'the gin files of calm_jax are missing: looked for {package / "gin"} and {package.parent / "gin"}')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--gin_file, --gin_search_paths and --gin.NAME=VALUE, as t5x spells them."""
    parser.add_argument(
        '--gin_file', action='append', default=[], metavar='FILE',
        help='gin file, such as runs/train.gin; repeat it to stack files, later ones win')
    parser.add_argument(
        '--gin_search_paths', default='', metavar='DIRS',
        help='comma-separated folders searched for gin files after the current one and before those of the library')
    parser.add_argument(
        '--gin_binding', action='append', default=[], metavar='NAME=VALUE',
        help='one gin binding; also spelled --gin.NAME=VALUE. Strings need quotes that survive the shell: '
             '--gin.MODEL_DIR="\'runs/a\'"')
    parse = parser.parse_known_args

    # argparse has no flags with open names; those of gin are respelled just before it parses.
    def parse_known_args(args=None, namespace=None):
        return parse([re.sub(r'^--gin\.(?=[^=]+=)', '--gin_binding=', arg) for arg in args], namespace)

    parser.parse_known_args = parse_known_args


def read(files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str] = ()) -> tuple[Callable, str]:
    """(the job with everything bound, the resolved configuration as gin text) of files and bindings.

    Raises:
      FileNotFoundError: no such gin file.
      ValueError: a syntax error, an unknown name, or a REQUIRED macro without a value; one line each.
    """
    _register()
    gin.clear_config()
    for folder in (gin_folder(), *reversed(search_paths)):
        gin.add_config_file_search_path(str(folder))
    for file in files:
        _parse(lambda: gin.parse_config_file(file), file)
    known = set(_macros())
    for binding in bindings:
        name = binding.split('=')[0].strip()
        if re.fullmatch(r'\w+', name) and name not in known:
            raise ValueError(f'--gin.{name}: no such macro in {", ".join(files) or "no gin file"}{_nearest(name, known)}')
        _parse(lambda: gin.parse_config(binding), f'--gin.{binding}')
    missing = [name for name, value in _macros().items() if value == '%gin.REQUIRED']
    if missing:
        flags = ' '.join(f'--gin.{name}=...' for name in missing)
        raise ValueError(f'{", ".join(missing)} {"is" if len(missing) == 1 else "are"} required: add {flags}')
    return gin.get_configurable('job')(), gin.config_str()


def macro(name: str):
    """The value of a macro that has been read."""
    return gin.query_parameter(f'{name}/macro.value')


def _register() -> None:
    """Makes the library's functions and classes known to gin, once per process."""
    for configurable in (*CONFIGURABLES, job):
        try:
            gin.get_configurable(f'calm_jax.{configurable.__name__}')
        except ValueError:
            gin.external_configurable(configurable, name=configurable.__name__, module='calm_jax')


def _macros() -> dict[str, str]:
    """Macros bound so far, as gin prints them: {'SEED': '0', 'MODEL_DIR': '%gin.REQUIRED'}."""
    return dict(re.findall(r'^(\w+) = (.*)$', gin.config_str(), re.MULTILINE))


def _parse(parse: Callable[[], None], where: str) -> None:
    """Runs a gin parse; its errors become one line that names the place and the nearest known name."""
    try:
        parse()
    except OSError as error:
        raise FileNotFoundError(f'gin file not found: {where}; those of the library are under {gin_folder()}') from error
    except (ValueError, SyntaxError) as error:
        raise ValueError(f'{where}: {" ".join(str(error).split())}') from None


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f'; did you mean {close[0]}?' if close else ''
