"""The forward pass computes what the reference implementation computed (tests/fixtures/parity), layer by layer.

The fixtures are published directories made by scripts/make_parity_fixtures.py; neither torch nor transformers is needed here.
"""

import functools
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


NAMES = tuple(sorted(path.name for path in FIXTURES.iterdir()))


class Model(NamedTuple):
    """A published model, what the reference implementation computed with it, and what this one computes."""

    config: TransformerConfig
    params: dict
    reference: dict
    encoded: jax.Array | None
    states: tuple
    logits: jax.Array


def load(name):
    """(configuration, parameters, reference) of a fixture; padding as the configuration has it."""
    config, params, *_ = huggingface.read(FIXTURES / name)
    reference = dict(np.load(FIXTURES / name / 'reference.npz'))
    reference['source'] = np.where(reference['mask'], reference['source'], config.pad_id).astype(np.int32)
    return config, params, reference


@pytest.fixture(scope='module', params=NAMES)
def model(request):
    config, params, reference = load(request.param)
    module = Transformer(config)

    @jax.jit
    def forward(source, mask, target):
        def call(*args, **settings):
            return module.apply({'params': params}, *args, **settings)

        encoded = None if config.decoder_only else call(source, mask, method='encode')
        states = (
            call(None, None, source, mask, method='decode')
            if config.decoder_only
            else call(encoded, mask, target, method='decode')
        )
        return encoded, states, call(states[-1], method='unembed')

    return Model(config, params, reference, *forward(reference['source'], reference['mask'], reference.get('target')))


def test_every_layer_state_and_the_logits_are_the_references(model):
    present = model.reference['mask']
    if not model.config.decoder_only:
        np.testing.assert_allclose(model.encoded[present], model.reference['encoded'][present], atol=1e-4)
        present = np.ones(model.reference['target'].shape, bool)
    assert len(model.states) == len(model.reference['states']) == model.config.num_decoder_layers
    for state, expected in zip(model.states, model.reference['states']):
        np.testing.assert_allclose(state[present], expected[present], atol=1e-4)
    np.testing.assert_allclose(model.logits[present], model.reference['logits'][present], atol=1e-4)


def test_64_greedy_tokens_by_repeated_full_forward_passes_are_the_references(model):
    config, module, source, expected = (
        model.config,
        Transformer(model.config),
        *(model.reference[name] for name in ('source', 'greedy')),
    )
    rows, length = expected.shape
    assert length == 64
    read = source.shape[1] if config.decoder_only else 1
    before = source if config.decoder_only else np.full((rows, 1), config.decoder_start_id, np.int32)
    begun = np.concatenate([before, np.full((rows, length), 3, np.int32)], axis=1)
    there = np.concatenate([model.reference['mask'], np.ones((rows, length), bool)], axis=1) if config.decoder_only else None

    @jax.jit
    def greedy(begun):
        def body(step, tokens):  # Causal: what stands after position `step` does not matter.
            states = module.apply(
                {'params': model.params},
                model.encoded,
                None if config.decoder_only else model.reference['mask'],
                tokens,
                there,
                method='decode',
            )
            logits = module.apply({'params': model.params}, states[-1][:, step], method='unembed')
            return tokens.at[:, step + 1].set(jnp.argmax(logits, axis=-1).astype(jnp.int32))

        return jax.lax.fori_loop(read - 1, read - 1 + length, body, jnp.asarray(begun))[:, read:]

    np.testing.assert_array_equal(greedy(begun), expected)


@pytest.mark.parametrize('name', ('plain_relu', 'bart', 'longt5_local', 'longt5_global'))
def test_padding_a_source_further_changes_no_logit(name):
    config, params, reference = load(name)
    wider = np.pad(reference['source'], ((0, 0), (0, 11)), constant_values=config.pad_id)
    there = np.pad(reference['mask'], ((0, 0), (0, 11)))
    logits = jax.jit(Transformer(config).apply)({'params': params}, wider, reference['target'], there)
    np.testing.assert_allclose(logits, reference['logits'], atol=1e-4)


@pytest.mark.parametrize('name', ('gpt2', 'opt', 'llama_3'))
def test_padding_a_prompt_further_changes_no_logit(name):
    config, params, reference = load(name)
    wider = np.pad(reference['source'], ((0, 0), (5, 0)), constant_values=config.pad_id)
    there = np.pad(reference['mask'], ((0, 0), (5, 0)))
    call = functools.partial(jax.jit(Transformer(config).apply, static_argnames='method'), {'params': params})
    states = call(None, None, wider, there, method='decode')
    logits = call(states[-1][:, 5:], method='unembed')
    np.testing.assert_allclose(logits[reference['mask']], reference['logits'][reference['mask']], atol=1e-4)
