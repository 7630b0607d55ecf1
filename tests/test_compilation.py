"""Compile time: told apart from what programs take."""

import jax
import jax.numpy as jnp

from calm_jax.compilation import _CompileClock, compile_seconds

TRACE, COMPILE = '/jax/core/compile/jaxpr_trace_duration', '/jax/core/compile/backend_compile_duration'


def test_time_is_counted_once_however_spans_lie_inside_each_other():
    clock = _CompileClock()
    for event, start, end in [
        (TRACE, 2, 3),
        (TRACE, 4, 5),
        (TRACE, 1, 6),  # holds both before
        (COMPILE, 6, 10),
        ('/jax/other', 0, 100),
        (COMPILE, 9, 12),  # of another thread
    ]:
        clock.add(event, start, end, fun_name='f')
    assert clock.seconds == 11


def test_a_program_that_is_there_already_takes_no_compile_time():
    function = jax.jit(lambda x: jnp.sin(x) @ x + 7)
    before = compile_seconds()
    function(jnp.ones((3, 3)))
    compiled = compile_seconds()
    function(jnp.ones((3, 3)))
    assert before < compiled == compile_seconds()
