"""Models whose sub-layers pass the largest float16, 65504, as those of T5 1.1 and mT5 do, run in it all the same."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.checkpoints import huggingface
from calm_jax.models.transformer import Transformer

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity' / 'plain_relu'


def test_feed_forward_outputs_beyond_float16_give_the_states_of_float32():
    config, params, *_ = huggingface.read(FIXTURE)
    kernel = params['encoder']['layers_0']['mlp']['wo']['kernel']
    params['encoder']['layers_0']['mlp']['wo']['kernel'] = kernel / jnp.abs(kernel).max() * 60_000
    reference = np.load(FIXTURE / 'reference.npz')
    source, mask, target = (reference[name] for name in ('source', 'mask', 'target'))

    def computed(dtype):
        module, variables = Transformer(dataclasses.replace(config, dtype=dtype)), {'params': params}
        if dtype == 'float16':
            variables = jax.tree.map(lambda x: x.astype(jnp.float16), variables)
        x = module.apply(variables, source, method='embed_source')
        context = module.apply(variables, mask, method='encoder_context')
        x = module.apply(variables, 0, x, context, method='encoder_attend')
        fed = module.apply(variables, 0, x, method='encoder_feed_forward')
        return np.asarray(fed, np.float64), module.apply(variables, source, target, mask)

    (wide, logits), (narrow, narrow_logits) = computed('float32'), computed('float16')
    assert np.abs(wide[mask]).max() > 65504
    np.testing.assert_allclose(narrow[mask], wide[mask], rtol=0, atol=0.01 * np.abs(wide[mask]).max())
    np.testing.assert_allclose(narrow_logits, logits, atol=0.1)
