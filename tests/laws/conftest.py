"""A tiny random model, and the decoder of `definitions` on it."""

import jax
import pytest

from tests.laws.definitions import Definition, tiny_config, tiny_params, tiny_sources


@pytest.fixture(scope='module', autouse=True)
def unkept():
    """Programs of laws are of no other tests, nor kept for them: to write one takes a third of the time to compile it."""
    name = 'jax_persistent_cache_min_compile_time_secs'
    before = getattr(jax.config, name)
    jax.config.update(name, 3600.0)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope='session')
def config():
    return tiny_config()


@pytest.fixture(scope='session')
def params(config):
    return tiny_params(config)


@pytest.fixture(scope='session')
def sources():
    return tiny_sources()


@pytest.fixture(scope='session')
def decode_by_definition(config, params):
    return Definition(config, params).decode
