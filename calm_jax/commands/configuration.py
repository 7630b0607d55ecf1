"""gin: files, bindings and their errors. Nothing else in the library is configured by gin."""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import logging
import pathlib
import re
import tokenize
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gin
from gin import config as gin_config

from calm_jax import gin_registry, options
from calm_jax.checks import check_type, expected, parts
from calm_jax.commands import gin_state
from calm_jax.decoding.codec import class_reference
from calm_jax.decoding.decoding import Decoding
from calm_jax.nearest import did_you_mean


class Configuration(NamedTuple):
    """What gin files and bindings say. gin itself holds none of it.

    job: runs with everything bound when called.
    text: the resolved configuration, as gin text that reads back to itself.
    macros: {'SEED': 0}; a value may be a reference of gin's.
    state: for `gin_state.apart`, in which gin is as this configuration has it.
    """

    job: Callable
    text: str
    macros: dict[str, Any]
    state: gin_state.Bindings


class BoundDecoding(NamedTuple):
    """What gin files and bindings say of decoding.

    document: a decoding document of what is bound, defaults included; a class is named where a reference is bound.
    unused: {class: {option: value}} of classes that are bound and that nothing in the document names.
    own: classes in the document that do not come along.
    """

    document: dict[str, Any]
    unused: dict[type, dict[str, Any]]
    own: tuple[type, ...]


def gin_folder() -> pathlib.Path:
    """The folder of the gin files that come with the library, installed or in a checkout."""
    package = pathlib.Path(__file__).resolve().parents[1]
    for folder in (package / 'gin', package.parent / 'gin'):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f'the gin files of calm_jax are missing: looked for {package / "gin"} and {package.parent / "gin"}')


def read(
    files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str] = (), optional: Collection[str] = ()
) -> Configuration:
    """The configuration of files and bindings, later ones winning; gin's own stays as it was.

    optional: those of the bindings that are left out where no file has their macro.

    Raises, in one line, FileNotFoundError where there is no such gin file, and ValueError where there is a syntax error, an
    import that fails, an unknown name, a value of the wrong kind, or a REQUIRED macro without a value.
    """
    with _parsed(files, bindings, search_paths, optional=optional):
        if 'run' not in gin.get_bindings('job', resolve_references=False):
            raise ValueError(f'{", ".join(files)}: nothing says what to run; add --gin_file=runs/train.gin or another of runs/')
        macros = {name: _macro(name) for name in _macros()}
        state = gin_state.current()
        return Configuration(_within(state, gin.get_configurable('job')()), gin.config_str(), macros, state)


def decoding(
    files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str] = (), own: Sequence[type] = ()
) -> BoundDecoding:
    """What files and bindings set of `Decoding` and of the classes that it is made of.

    own: classes of the user's that may be bound as well, without a registration of theirs.
    Raises as `read`, and for a class that is bound where another kind is expected.
    """
    with _parsed(files, bindings, search_paths, own):
        visited: dict[type, None] = {}
        document = _document(Decoding, 'calm_jax.Decoding', visited)
        unused, within = {}, dict(visited)
        for kind in (*options.classes(Decoding), *own):
            if kind not in within and (bound := _document(kind, _selector(kind), within)):
                unused[kind] = bound
    return BoundDecoding(document, unused, tuple(kind for kind in visited if kind not in options.classes(Decoding)))


@contextlib.contextmanager
def _registered(kinds: Sequence[type]) -> Iterator[None]:
    """gin with these classes too, for the length of a `with` block, but for those that it knows already."""
    unknown = [kind for kind in kinds if kind not in gin_config._INVERSE_REGISTRY]
    try:
        for kind in unknown:
            gin.external_configurable(kind, name=kind.__name__, module=kind.__module__)
        yield
    finally:
        for kind in unknown:
            if kind in gin_config._INVERSE_REGISTRY:
                gin_config._REGISTRY.pop(gin_config._INVERSE_REGISTRY.pop(kind).selector)


def _document(kind: type, selector: str, visited: dict[type, None]) -> dict[str, Any]:
    """What is bound of a class that decodings are made of, as a decoding document has it, defaults included."""
    visited[kind] = None
    bound = gin.get_bindings(selector, resolve_references=False)
    document = {}
    hints = options.annotations(kind)
    for field in dataclasses.fields(kind):
        option, where = options.of(field), f'{kind.__name__}.{field.name}'
        if field.name not in bound:
            # Where there is one class alone, what is bound of it needs no reference to it.
            if option.kind and (inner := _document(option.kind, _selector(option.kind), visited)):
                document[field.name] = inner
            continue
        where, value = _followed(where, bound[field.name])
        classes = [option.kind] if option.kind else list((option.kinds or {}).values())
        if not isinstance(value, gin_config.ConfigurableReference):
            if classes and value is not None:
                raise ValueError(f'{where} is {value!r}; expected {" or ".join(f"@{each.__name__}()" for each in classes)}')
            document[field.name] = value
            continue
        made, bases = _referred(value), [each for each in parts(hints[field.name]) if isinstance(each, type)]
        if not (value.evaluate and isinstance(made, type) and dataclasses.is_dataclass(made) and issubclass(made, (*bases,))):
            raise ValueError(f'{where} is {value!r}; expected {" or ".join(f"@{each.__name__}()" for each in classes)}')
        inner = _document(made, value.scoped_selector, visited)
        named = {} if made is option.kind else class_reference(made, option.kinds)
        document[field.name] = {**named, **inner}
    return document


def _selector(kind: type) -> str:
    return gin_config._INVERSE_REGISTRY[kind].selector


def bindings(resolved: str) -> dict[str, str]:
    """The bindings of a resolved configuration as its text has them: {'SEED': '0', 'LoopOptions.steps': '%TRAIN_STEPS'}."""
    text = re.sub(r'^(#.*)?\n', '', resolved, flags=re.MULTILINE)
    found = re.findall(r'^([\w./]+) = (.*\n(?:[ \t].*\n)*)', text, re.MULTILINE)
    return {name: ' '.join(value.removeprefix('\\\n').split()) for name, value in found}


def search_folders(args: argparse.Namespace) -> list[str]:
    """The folders of --gin_search_paths."""
    return [path for path in args.gin_search_paths.split(',') if path]


@contextlib.contextmanager
def _parsed(
    files: Sequence[str],
    bindings: Sequence[str],
    search_paths: Sequence[str],
    own: Sequence[type] = (),
    optional: Collection[str] = (),
) -> Iterator[None]:
    """Files and bindings in gin, checked, for the length of a `with` block; `own`: classes that may be bound as well; optional:
    as `read`."""
    with gin_state.apart(folders=[*map(str, search_paths), str(gin_folder())]), _registered(own):
        for file in files:
            _parse(functools.partial(gin.parse_config_file, file), file)
        known = set(_macros())
        for binding in bindings:
            name = binding.split('=')[0].strip()
            if re.fullmatch(r'\w+', name) and name not in known:
                if binding in optional:
                    continue
                raise ValueError(
                    f'--gin.{name}: no such macro in {", ".join(files) or "no gin file"}{did_you_mean(name, known)}'
                )
            _parse(functools.partial(gin.parse_config, binding), f'--gin.{binding}')
        _check_macros()
        _check_types()
        yield


def _macro(name: str) -> Any:
    """The value of a macro that has been read."""
    return gin.query_parameter(f'{name}/macro.value')


def _macros() -> dict[str, str]:
    """Macros bound so far, as gin prints them: {'SEED': '0', 'MODEL_DIR': '%gin.REQUIRED'}."""
    return dict(re.findall(r'^(\w+) = (.*)$', gin.config_str(), re.MULTILINE))


def _check_macros() -> None:
    """Raises ValueError for macros that are required or referred to, and have no value."""
    macros = _macros()
    missing = [name for name, value in macros.items() if value == '%gin.REQUIRED']
    if missing:
        flags = ' '.join(f'--gin.{name}=...' for name in missing)
        raise ValueError(f'{", ".join(missing)} {"is" if len(missing) == 1 else "are"} required: add {flags}')
    without_strings = re.sub(r"'[^'\n]*'", '', gin.config_str())
    for name in re.findall(r'%(\w+)(?![\w.])', without_strings):
        if name not in macros:
            raise ValueError(f'%{name} has no value{did_you_mean(name, macros)}; add --gin.{name}=...')


def _check_types() -> None:
    """Raises ValueError for a value, function or object that is bound where another kind is expected, naming its macro."""
    for configurable in (*gin_registry.CONFIGURABLES, gin_registry.job):
        values = gin.get_bindings(configurable.__name__, resolve_references=False)
        for name, annotation in _annotations(configurable).items():
            if name in values:
                _check_kind(*_followed(f'{configurable.__name__}.{name}', values[name]), annotation)


def _annotations(configurable: Callable) -> Mapping[str, Any]:
    """The type of each parameter."""
    if isinstance(configurable, type) and dataclasses.is_dataclass(configurable):
        return options.annotations(configurable)
    return {name: parameter.annotation for name, parameter in inspect.signature(configurable).parameters.items()}


def _followed(where: str, value: Any) -> tuple[str, Any]:
    """(the last macro's name, what it stands for) of a value that may be a macro, or `where` and the value."""
    names = []
    while isinstance(value, gin_config.ConfigurableReference) and (match := re.fullmatch(r'%(\w+)', repr(value))):
        where, value = match[1], _macro(match[1])
        if where in names:
            raise ValueError(f'{where} stands for itself; add --gin.{where}=...')
        names.append(where)
    if isinstance(value, (list, tuple)):
        value = type(value)(_followed(where, each)[1] for each in value)
    return where, value


def _referred(reference: gin_config.ConfigurableReference) -> Callable[..., Any]:
    """The class or function that a reference names, as it was registered."""
    # gin's constructor first sets it to None, and then to what it finds.
    return reference.configurable.wrapped  # pyright: ignore[reportOptionalMemberAccess]


def _check_kind(where: str, value: Any, wanted: Any) -> None:
    """Raises ValueError unless a binding can be of an annotated type: a value, an @function or the @Object() of a class.

    What functions of the user's own return is only known once they run.
    """
    kinds = parts(wanted)
    if repr(value) == '%gin.REQUIRED':
        raise ValueError(f'{where} is required: add --gin.{where}=...')
    if isinstance(value, gin_config.ConfigurableReference):
        function = _referred(value)
        if value.evaluate:
            fits = function not in gin_registry.CONFIGURABLES or any(_is_a(_made_by(function), kind) for kind in kinds)
        else:
            fits = any(_callable(kind) and _fits(function, kind) for kind in kinds)
    elif all(expected(kind) for kind in kinds):
        return check_type(where, value, wanted)
    else:
        fits = value is None and type(None) in kinds
    words = [_words(kind) for kind in kinds]
    # Of a type that nothing configurable is, such as a protocol, only its owner can tell what fits.
    if not fits and all(words):
        raise ValueError(f'{where} is {value!r}; expected {" or ".join(word for each in words for word in each)}')


def _words(kind: Any) -> list[str]:
    """What may be bound where a type is expected, as a gin file has it."""
    if _callable(kind):
        return [f'@{each.__name__}' for each in gin_registry.CONFIGURABLES if _fits(each, kind)]
    word = f'@{kind.__name__}()' if kind in gin_registry.CONFIGURABLES else expected(kind)
    return [word] if word else []


def _is_a(made: Any, kind: Any) -> bool:
    return made is kind or kind in getattr(made, '__mro__', ())


def _callable(kind: Any) -> bool:
    return typing.get_origin(kind) is Callable


def _fits(function: Callable, wanted: Any) -> bool:
    """Whether a function can be Callable[[arguments], result]: it takes as many; the library's take no more, and also return
    just that. What a function of the user's takes besides may be bound."""
    arguments, result = typing.get_args(wanted)
    signature = inspect.signature(function)
    if arguments is not ...:
        try:
            (signature.bind if function in gin_registry.CONFIGURABLES else signature.bind_partial)(*arguments)
        except TypeError:
            return False
    return function not in gin_registry.CONFIGURABLES or _made_by(function) is result


def _made_by(function: Callable) -> Any:
    return function if isinstance(function, type) else inspect.signature(function).return_annotation


def _parse(parse: Callable[[], Any], where: str) -> None:
    """Runs a gin parse; its errors become one line that names the place and the nearest known name."""
    # gin logs an error for each search path that does not hold a file, found elsewhere or not.
    logging.disable(logging.ERROR)
    try:
        parse()
    except OSError as error:
        missing = re.search(r'Unable to open file: (\S+?)\.? ', f'{error} ')
        raise FileNotFoundError(
            f'gin file not found: {missing[1] if missing else where}; those of the library are under {gin_folder()}'
        ) from None
    except ImportError as error:
        message, _, place = str(error).partition('\n')
        file = re.search(r'In file "(.+?)"', place)
        module = re.search(r'import \S+', place)
        raise ValueError(
            f'{file[1] if file else where}: {module[0] if module else "import"} failed ({message}); '
            'expected a module that is installed or on PYTHONPATH'
        ) from None
    except tokenize.TokenError as error:
        raise ValueError(f'{where}: {error.args[0]} at line {error.args[1][0]}; a bracket or quote is never closed') from None
    except KeyError as error:  # a name that two functions of the user's own have
        raise ValueError(f'{where}: {error.args[0]}') from None
    except (ValueError, SyntaxError) as error:
        raise ValueError(f'{where}: {_explained(str(error), where)}') from None
    finally:
        logging.disable(logging.NOTSET)


def _parameters() -> dict[str, tuple[str, ...]]:
    """{'Optimizer': ('name', 'learning_rate', …)} of everything that can be configured."""
    return {each.__name__: tuple(inspect.signature(each).parameters) for each in gin_registry.CONFIGURABLES}


def _explained(message: str, where: str) -> str:
    """gin's message in one line, with the nearest known name, and quotes proposed for a bare string."""
    line = re.search(r'line (\d+)', message)
    at = f' (line {line[1]})' if line and not where.startswith('--gin.') else ''
    if unknown := re.search(r"No configurable matching (?:reference )?'@?([\w./]+)(?:\(\))?'", message):
        return f'nothing is called {unknown[1]}{at}{did_you_mean(unknown[1], _parameters())}'
    if unknown := re.search(r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", message):
        return f'{unknown[1]} has no {unknown[2]}{at}{did_you_mean(unknown[2], _parameters().get(unknown[1], ()))}'
    if where.startswith('--gin.') and '=' in where:
        flag, value = where.split('=', 1)
        return f'not a gin value; a string needs quotes that survive the shell: {flag}="\'{value}\'"'
    return ' '.join(message.split())


def _within(state: gin_state.Bindings, run: Callable) -> Callable:
    """The job with gin as `state` has it while it runs."""

    @functools.wraps(run)
    def job(*arguments, **settings):
        with gin_state.apart(state), _one_line_errors():
            return run(*arguments, **settings)

    return job


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Errors of what gin calls without what gin adds to messages, and in one line for parameters that nobody set."""
    try:
        yield
    except (ValueError, OSError) as error:
        message, added, _ = str(error).partition('\n  In call to configurable')
        if not added:
            raise
        kind = next(kind for kind in (FileNotFoundError, FileExistsError, OSError, ValueError) if isinstance(error, kind))
        raise kind(message) from error
    except TypeError as error:
        unset = re.search(r'No values supplied by Gin or caller for arguments: \[(.*?)\]', str(error))
        called = re.search(r"In call to configurable '(\w+)'", str(error))
        if not unset or not called:
            raise
        owner, names = called[1], unset[1].replace("'", '')
        size = ' (a model, such as --gin_file=models/small8.gin)' if owner == 'TransformerConfig' else ''
        raise ValueError(
            f'{owner} lacks {names}: add a gin file that sets them{size}, or --gin.{owner}.{names.split(",")[0]}=...'
        ) from error
