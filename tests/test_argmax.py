import jax.numpy as jnp
import numpy as np

from calm_jax.argmax import argmax


def test_it_is_the_first_of_the_largest():
    rows = np.random.default_rng(0).integers(0, 5, (200, 17)).astype(np.float32)  # ties in most rows
    rows[0, :] = -np.inf
    rows[1, 3] = np.inf
    found = argmax(jnp.asarray(rows))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, np.argmax(rows, axis=-1))


def test_a_row_that_holds_no_number_still_gives_an_index():
    assert argmax(jnp.full((2, 4), jnp.nan)).tolist() == [3, 3]
