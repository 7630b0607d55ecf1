"""A tiny random model, and the decoder of `definitions` on it."""

import pytest

from tests.laws.definitions import Definition, tiny_config, tiny_params, tiny_sources


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
