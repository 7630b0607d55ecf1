"""Joined parameters: the same model, and the way back."""

import dataclasses

import jax
import numpy as np
import pytest

from calm_jax.models.config import TransformerConfig
from calm_jax.models.joined import join, split
from calm_jax.models.transformer import Transformer
from tests.parameters import random_params

CONFIG = TransformerConfig(
    vocab_size=50, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_encoder_layers=1, num_decoder_layers=2
)


@pytest.mark.parametrize('tied', [{}, {'tied_head': True}, {'tied_head': True, 'head_bias': True}])
@pytest.mark.parametrize('activations', [('gelu', 'linear'), ('relu',)])
def test_joined_parameters_are_the_same_model_and_come_apart_again(activations, tied):
    config = dataclasses.replace(CONFIG, mlp_activations=activations, **tied)
    params = random_params(config, 0)
    joined = join(params, config)

    attention = joined['decoder']['layers_1']['self_attention']
    assert sorted(attention) == ['out', 'query_key_value'] and attention['query_key_value']['kernel'].shape == (16, 48)
    assert sorted(joined['decoder']['layers_1']['mlp']) == (['wi_gated', 'wo'] if len(activations) > 1 else ['wi', 'wo'])
    if tied and jax.default_backend() == 'cpu':
        assert joined['decoder']['logits_dense']['tied_kernel'].shape == (16, 50)
    jax.tree.map(np.testing.assert_array_equal, split(joined, config), params)

    source, target = np.array([[5, 6, 7, 1]]), np.array([[0, 8, 9]])
    logits = [Transformer(config).apply({'params': each}, source, target) for each in (params, joined)]
    np.testing.assert_allclose(*logits, atol=1e-5, rtol=0)


def test_kernels_stay_on_the_host_where_they_were_there():
    params = {'key': {'kernel': np.ones((2, 3))}, 'value': {'kernel': np.zeros((2, 3))}}
    assert isinstance(join(params, CONFIG)['key_value']['kernel'], np.ndarray)
