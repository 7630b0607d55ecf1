"""The head over a few ids of each row is the whole head, those columns of it."""

import functools

import jax
import numpy as np

from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import Transformer, init_params


def test_logits_of_ids_are_those_columns_of_all_logits():
    config = TransformerConfig(
        vocab_size=37, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1)
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 8)).astype(np.float32)
    ids = rng.integers(0, 37, (3, 5))
    unembed = functools.partial(Transformer(config).apply, {'params': params}, method='unembed')
    np.testing.assert_allclose(unembed(hidden, ids), np.take_along_axis(unembed(hidden), ids, axis=1), atol=1e-5)
