"""Rotations that stretch with what has been read."""

import jax.numpy as jnp
import numpy as np

from calm_jax.models.config import TransformerConfig
from calm_jax.models.positions import rotate

CONFIG = TransformerConfig(
    vocab_size=50,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=0,
    num_decoder_layers=1,
    positions='rotary',
    rotary_scaling=(2.0, 4.0),
)


def test_positions_that_were_read_alone_are_turned_together_as_each_by_itself():
    x = np.random.default_rng(0).standard_normal((2, 5, 2, 8)).astype(np.float32)
    positions = jnp.array([[1, 2, 3, 4, 9], [0, 0, 5, 6, 7]])
    single = [rotate(CONFIG, x[:, i : i + 1], positions[:, i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(rotate(CONFIG, x, positions, positions + 1), jnp.concatenate(single, axis=1), atol=1e-6)
    assert np.abs(rotate(CONFIG, x, positions) - jnp.concatenate(single, axis=1)).max() > 1e-2
