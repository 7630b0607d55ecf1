import pathlib

import pytest

from calm_jax.checkpoints import huggingface, native

PARITY = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'


@pytest.fixture(scope='session')
def published():
    """Folder of small published models: gated_gelu (float32), odd_shapes (float16, five files), plain_relu (bfloat16)."""
    return PARITY


@pytest.fixture(scope='session')
def checkpoint():
    """A small model in memory, with a head and decoding defaults."""
    import jax.numpy as jnp

    read = huggingface.read(PARITY / 'plain_relu')
    heads = {'exit_classifier': {'kernel': jnp.linspace(-1, 1, 16)[:, None], 'bias': jnp.array([0.25])}}
    return read._replace(heads=heads, generation={'limits': {'max_source_length': 40, 'max_new_tokens': 7}})


@pytest.fixture(scope='session')
def saved(checkpoint, tmp_path_factory):
    """The same model as a native directory; tests that change it work on a copy."""
    directory = tmp_path_factory.mktemp('native') / 'model'
    native.save(directory, *checkpoint)
    return directory
