"""The head's rows of a few ids of each row, and its columns of a few ids of all, give what the whole head gives for them."""

import functools

import numpy as np
import pytest

from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import Transformer
from tests.parameters import random_params


@pytest.mark.parametrize(
    'differently',
    [{}, {'tied_head': True, 'head_scale': 0.3}, {'tied_head': True, 'head_bias': True, 'embedding_dim': 5}],
    ids=str,
)
def test_logits_of_ids_are_those_columns_of_all_logits(differently):
    config = TransformerConfig(
        vocab_size=37, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1, **differently
    )
    params = random_params(config, 0)
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 8)).astype(np.float32)
    ids = rng.integers(0, 37, (3, 5))
    call = functools.partial(Transformer(config).apply, {'params': params})
    rows = call(ids, call(method='head_table'), method='head_rows')
    whole = call(hidden, method='unembed')
    np.testing.assert_allclose(call(hidden, rows, method='unembed'), np.take_along_axis(whole, ids, axis=1), atol=1e-5)
    columns = call(ids[0], method='head_columns')
    assert columns.weight.shape == (config.embedding_dim or 8, 5)
    np.testing.assert_allclose(call(hidden, columns, method='unembed'), whole[:, ids[0]], atol=1e-5)
