"""The forward pass computes what the reference implementation computed (tests/fixtures/parity), layer by layer.

The fixtures are published directories made by scripts/make_parity_fixtures.py; neither torch nor transformers is needed here.
"""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.checkpoints import huggingface
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import Transformer

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'


class Model(NamedTuple):
    """A published model, what the reference implementation computed with it, and what this one computes."""

    config: TransformerConfig
    params: dict
    reference: dict
    encoded: jax.Array
    states: tuple
    logits: jax.Array


@pytest.fixture(scope='module', params=('gated_gelu', 'odd_shapes', 'plain_relu'))
def model(request):
    config, params, *_ = huggingface.read(FIXTURES / request.param)
    reference = dict(np.load(FIXTURES / request.param / 'reference.npz'))
    module = Transformer(config)

    @jax.jit
    def forward(source, target):
        encoded = module.apply({'params': params}, source, method='encode')
        states = module.apply({'params': params}, encoded, source != config.pad_id, target, method='decode')
        return encoded, states, module.apply({'params': params}, states[-1], method='unembed')

    return Model(config, params, reference, *forward(reference['source'], reference['target']))


def test_every_layer_state_and_the_logits_are_the_references(model):
    present = model.reference['source'] != model.config.pad_id
    np.testing.assert_allclose(model.encoded[present], model.reference['encoded'][present], atol=1e-4)
    assert len(model.states) == len(model.reference['states']) == model.config.num_decoder_layers
    for state, expected in zip(model.states, model.reference['states']):
        np.testing.assert_allclose(state, expected, atol=1e-4)
    np.testing.assert_allclose(model.logits, model.reference['logits'], atol=1e-4)


def test_64_greedy_tokens_by_repeated_full_forward_passes_are_the_references(model):
    config, module, expected = model.config, Transformer(model.config), model.reference['greedy']
    rows, length = expected.shape
    assert length == 64

    @jax.jit
    def greedy(encoded, mask):
        def body(step, inputs):  # Causal: what stands after position `step` does not matter.
            states = module.apply({'params': model.params}, encoded, mask, inputs, method='decode')
            logits = module.apply({'params': model.params}, states[-1][:, step], method='unembed')
            return inputs.at[:, step + 1].set(jnp.argmax(logits, axis=-1).astype(jnp.int32))

        start = jnp.full((rows, length + 1), config.pad_id, jnp.int32).at[:, 0].set(config.decoder_start_id)
        return jax.lax.fori_loop(0, length, body, start)[:, 1:]

    np.testing.assert_array_equal(greedy(model.encoded, model.reference['source'] != config.pad_id), expected)


def test_padding_a_source_further_changes_no_logit():
    checkpoint = huggingface.read(FIXTURES / 'plain_relu')
    reference = np.load(FIXTURES / 'plain_relu' / 'reference.npz')
    wider = np.pad(reference['source'], ((0, 0), (0, 11)), constant_values=checkpoint.config.pad_id)
    logits = jax.jit(Transformer(checkpoint.config).apply)({'params': checkpoint.params}, wider, reference['target'])
    np.testing.assert_allclose(logits, reference['logits'], atol=1e-4)
