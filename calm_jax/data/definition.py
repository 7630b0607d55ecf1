"""What defines a function or an object of a program, as a digest: names, code and parameters, never a place in memory."""

import functools
import hashlib
import inspect
import json
import os
import types
from pathlib import Path
from typing import Any

import numpy as np


def digest(*values: Any) -> str:
    """sha256 (hex) over plain values, functions and objects; the same in every process of one Python version.

    A function counts with its name, bytecode, defaults, closure and the contents of the file that it is written in; an
    object with its class and its fields. What a function calls in other files does not count.
    """
    return hashlib.sha256(json.dumps(_described(values)).encode()).hexdigest()


def _described(value: Any, around: tuple[int, ...] = ()) -> Any:
    """The value as JSON has it; `around`: ids of what it is part of, which is described once."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in around:
        return 'what it is part of'
    part = functools.partial(_described, around=(*around, id(value)))
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [part(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((part(each) for each in value), key=json.dumps)
    if isinstance(value, dict | types.MappingProxyType):
        return sorted(([part(name), part(each)] for name, each in value.items()), key=json.dumps)
    if callable(getattr(value, 'numpy', None)):  # a tensor
        value = np.asarray(value.numpy())
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, part(value.tolist())]
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, types.CodeType):
        return [value.co_code.hex(), part(value.co_names), part(value.co_consts)]
    if isinstance(value, types.CellType):
        return part(value.cell_contents)
    if isinstance(value, functools.partial):
        return ['partial', part(value.func), part(value.args), part(value.keywords)]
    if isinstance(value, types.MethodType):
        return ['method', part(value.__func__), part(value.__self__)]
    if isinstance(value, types.FunctionType):
        inside = [value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__, inspect.unwrap(value).__code__]
        return [_name(value), _file(value), part(inside)]
    if isinstance(value, type):
        methods = [each for each in vars(value).values() if isinstance(each, types.FunctionType)]
        return [_name(value), _file(value), part(methods) if _file(value) is None else None]
    if hasattr(value, '__qualname__'):
        return _name(value)
    return [part(type(value)), part(getattr(value, '__dict__', None))]


def _name(value: Any) -> str:
    return f'{getattr(value, "__module__", None)}.{value.__qualname__}'


def _file(value: Any) -> str | None:
    """sha256 (hex) of the file that a function or class is written in; None where there is none, as in a notebook."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(value))
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None
