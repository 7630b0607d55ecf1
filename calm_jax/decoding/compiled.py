"""Compiled functions, and what they are compiled with: options of XLA by backend and processor, as measured.

An option may be given to a program that is compiled by itself alone, not to one that is part of another. A `Compiled` function
therefore comes in two ways.
"""

import functools
import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Machine(NamedTuple):
    """What options are chosen by. instructions: that the processor has, under Linux's names; none where it does not say."""

    backend: str
    instructions: frozenset[str]


def options_of(machine: Machine) -> dict[str, str | bool]:
    """XLA's options for a machine; none where none was measured to help.

    On processors with AVX2 and without AVX-512: XLA's own products instead of those of YNNPACK, which decode 1.33 times as fast
    at batch 8 and 1.25 times at 32 (T5, 512 wide, 8 layers, full depth). With AVX-512 they gain nothing up to 16 rows and lose
    a tenth from 32 on.
    """
    if machine.backend == 'cpu' and 'avx2' in machine.instructions and 'avx512f' not in machine.instructions:
        return {'xla_cpu_experimental_ynn_fusion_type': ''}
    return {}


@functools.cache
def measured_options() -> dict[str, str | bool]:
    """Those of this machine, as far as this XLA knows them: one that it does not know is left out, whatever its name was."""
    options = options_of(Machine(jax.default_backend(), _instructions()))
    known = {}
    for name, value in options.items():
        try:
            jax.jit(lambda x: x + 1, compiler_options={name: value})(0)
        except Exception:  # whatever this version of XLA raises of an option that it does not know
            continue
        known[name] = value
    return known


class Compiled:
    """A function compiled by `jax.jit`, called as any other. plain: as it may be part of another program. outermost: with the
    options of this machine, for those that call it by itself; it raises within another program."""

    def __init__(self, function: Callable, **settings: Any):
        functools.update_wrapper(self, function)
        self.plain = jax.jit(function, **settings)
        self._function, self._settings = function, settings

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return self.plain(*arguments, **settings)

    @functools.cached_property
    def outermost(self) -> Any:
        options = measured_options()
        return jax.jit(self._function, compiler_options=options, **self._settings) if options else self.plain

    def way(self, outermost: bool) -> Any:
        """The one or the other."""
        return self.outermost if outermost else self.plain


def compiled(**settings: Any) -> Callable[[Callable], Compiled]:
    """Makes a function a `Compiled` one; settings: of `jax.jit`."""
    return functools.partial(Compiled, **settings)


def _instructions() -> frozenset[str]:
    if platform.system() != 'Linux':
        return frozenset()
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as lines:
            flags = next((line.partition(':')[2] for line in lines if line.startswith('flags')), '')
    except OSError:
        return frozenset()
    return frozenset(flags.split())
