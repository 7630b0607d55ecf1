"""Decodes compiled ahead of time, so that compiling and running are timed apart.

made = program(config, params, tokens, mask, decoding)   # of `calm_jax.decoding.generate`
compiled = compile_program(*made)
arguments, settings = inputs(*made[1:])
trace = compiled.call(*arguments, **settings)
"""

import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax

STATIC = ('capacity', 'log_probabilities', 'packing')  # of a program's settings; of its arguments, the configuration


class CompiledProgram(NamedTuple):
    """call: the executable. lower_seconds: tracing and lowering; compile_seconds: compiling what they gave.

    memory_bytes: arguments (parameters among them), results and temporaries of one call; None where the backend does not say.
    """

    call: jax.stages.Compiled
    lower_seconds: float
    compile_seconds: float
    memory_bytes: int | None


def compile_program(function: Any, arguments: tuple, settings: dict) -> CompiledProgram:
    """The program that `function(*arguments, **settings)` would compile; nothing is run."""
    start = time.perf_counter()
    lowered = function.lower(*arguments, **settings)
    traced = time.perf_counter()
    call = lowered.compile()
    return CompiledProgram(call, traced - start, time.perf_counter() - traced, _memory(call))


def inputs(arguments: tuple, settings: dict) -> tuple[tuple, dict]:
    """(arguments, settings) of the executable: those of the program without what it is compiled for."""
    return arguments[1:], {name: value for name, value in settings.items() if name not in STATIC}


def key(function: Callable, arguments: tuple, settings: dict) -> Hashable:
    """Equal for calls that share a program: those that differ in numbers alone."""
    config, *_ = arguments
    leaves, structure = jax.tree.flatten(inputs(arguments, settings))
    shapes = tuple(jax.typeof(leaf) for leaf in leaves)
    return function, config, structure, shapes, tuple(settings.get(name) for name in STATIC)


def _memory(call):
    analysis = call.memory_analysis()
    if analysis is None:
        return None
    made = analysis.output_size_in_bytes + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.argument_size_in_bytes + made
