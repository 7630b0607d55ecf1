"""Parameters that are there are read as they are, and are of the shape that their module makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.models.config import TransformerConfig
from calm_jax.models.layers import RMSNorm

CONFIG = TransformerConfig(
    vocab_size=9, emb_dim=4, num_heads=1, head_dim=4, mlp_dim=4, num_encoder_layers=1, num_decoder_layers=1
)


def test_a_parameter_is_made_once_and_then_read():
    norm, x = RMSNorm(CONFIG), jnp.array([[1.0, 1.0, -1.0, -1.0]])
    made = norm.init(jax.random.key(0), x)['params']
    np.testing.assert_array_equal(made['scale'], np.ones(4))
    scaled = norm.apply({'params': {'scale': np.arange(4.0)}}, x)
    np.testing.assert_allclose(scaled, [[0, 1, -2, -3]], rtol=1e-5)


def test_a_parameter_of_another_shape_is_one_line():
    with pytest.raises(ValueError, match=r'^the parameter scale is of shape \[3\]; expected \[4\](\n|$)'):  # JAX adds a note
        RMSNorm(CONFIG).apply({'params': {'scale': np.ones(3)}}, jnp.ones((1, 4)))
