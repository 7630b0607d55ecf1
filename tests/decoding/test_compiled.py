"""What programs are compiled with: by machine, and only where a program is compiled by itself."""

import jax
import jax.numpy as jnp
import pytest

from calm_jax.decoding import compiled
from calm_jax.decoding.compiled import Compiled, Machine, measured_options, options_of

YNN = {'xla_cpu_experimental_ynn_fusion_type': ''}


@pytest.fixture
def options(monkeypatch):
    """Says which options this machine is to have."""

    def choose(chosen):
        monkeypatch.setattr(compiled, 'options_of', lambda machine: chosen)
        measured_options.cache_clear()

    yield choose
    measured_options.cache_clear()


@pytest.mark.parametrize(
    ('machine', 'expected'),
    [
        (Machine('cpu', frozenset(('sse2', 'avx2'))), YNN),
        (Machine('cpu', frozenset(('avx2', 'avx512f'))), {}),
        (Machine('cpu', frozenset()), {}),
        (Machine('gpu', frozenset(('avx2',))), {}),
    ],
)
def test_options_are_those_that_were_measured_on_such_a_machine(machine, expected):
    assert options_of(machine) == expected


def test_an_option_that_is_not_known_is_left_out(options):
    options({'xla_cpu_no_such_option': 'x', 'xla_cpu_enable_fast_math': False})
    assert measured_options() == {'xla_cpu_enable_fast_math': False}


def test_the_outermost_way_has_the_options_and_says_the_same(options):
    options({'xla_cpu_enable_fast_math': False})
    doubled = Compiled(lambda x: 2 * x)
    assert doubled.way(True) is not doubled.way(False)
    assert doubled.way(True)(jnp.float32(3)) == doubled.plain(jnp.float32(3)) == 6
    assert jax.jit(lambda x: doubled.plain(x))(jnp.float32(3)) == 6
    with pytest.raises(ValueError, match='compiler_options'):
        jax.jit(lambda x: doubled.outermost(x))(jnp.float32(3))


def test_without_options_there_is_one_way(options):
    options({})
    doubled = Compiled(lambda x: 2 * x)
    assert doubled.way(True) is doubled.way(False)
