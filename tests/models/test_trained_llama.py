"""A trained model of the LLaMA architecture says what an independent float64 computation says it does.

The file is in the layout of llama2.c: seven int32 (width, feed-forward width, layers, heads, heads of keys and values,
vocabulary, positions), then float32 tensors, queries and keys with rotated pairs side by side.
"""

import functools
import json
import lzma
import os
import pathlib

import numpy as np
import pytest

from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import Transformer

FOLDER = pathlib.Path(os.environ.get('CALM_TEST_DATA', 'nowhere')) / 'ckpt' / 'aidreams260K'
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason='data outside the repository: $CALM_TEST_DATA/ckpt/aidreams260K')


def load():
    """(configuration, parameters) of the file."""
    data = lzma.decompress((FOLDER / 'aidreams260K.bin.xz').read_bytes())
    width, inner, layers, heads, kv_heads, vocab, positions = np.frombuffer(data, np.int32, 7).tolist()
    numbers, place, head = np.frombuffer(data, np.float32, offset=28), 0, width // heads

    def take(*shape):
        nonlocal place
        place += int(np.prod(shape))
        return numbers[place - int(np.prod(shape)) : place].reshape(shape)

    def halves(weights, count):
        """[out, in] with each head's pairs side by side → [in, out] with the pairs' first numbers before the second."""
        return weights.reshape(count, head // 2, 2, width).transpose(0, 2, 1, 3).reshape(count * head, width).T

    embedding, attention_norms = take(vocab, width), take(layers, width)
    query, key, value, out = (take(layers, count * head, width) for count in (heads, kv_heads, kv_heads, heads))
    mlp_norms = take(layers, width)
    gate, down, up = take(layers, inner, width), take(layers, width, inner), take(layers, inner, width)
    decoder = {'decoder_norm': {'scale': take(width)}}
    for i in range(layers):
        attention = {'query': halves(query[i], heads), 'key': halves(key[i], kv_heads), 'value': value[i].T, 'out': out[i].T}
        mlp = {'wi_0': gate[i].T, 'wi_1': up[i].T, 'wo': down[i].T}
        decoder[f'layers_{i}'] = {
            'pre_self_attention_layer_norm': {'scale': attention_norms[i]},
            'pre_mlp_layer_norm': {'scale': mlp_norms[i]},
            'self_attention': {name: {'kernel': each} for name, each in attention.items()},
            'mlp': {name: {'kernel': each} for name, each in mlp.items()},
        }
    config = TransformerConfig(
        vocab_size=vocab,
        emb_dim=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head,
        mlp_dim=inner,
        num_encoder_layers=0,
        num_decoder_layers=layers,
        mlp_activations=('silu', 'linear'),
        norm_epsilon=1e-5,
        positions='rotary',
        max_positions=positions,
        attention_scale=True,
        tied_head=True,
        pad_id=-1,
        eos_id=-1,
    )
    return config, {'token_embedder': {'embedding': embedding}, 'decoder': decoder}


def test_greedy_tokens_and_the_first_logits_are_those_expected():
    expected = json.loads((FOLDER / 'expected_greedy.json').read_text())
    config, params = load()
    ids = np.array([expected['greedy_ids']], np.int32)
    trace = generate(config, params, ids[:, :1], decoding=Decoding(limits=Limits(max_new_tokens=ids.shape[1] - 1)))
    np.testing.assert_array_equal(trace.tokens, ids[:, 1:])
    call = functools.partial(Transformer(config).apply, {'params': params})
    logits = call(call(None, None, ids[:, :1], method='decode')[-1][0, 0], method='unembed')
    np.testing.assert_allclose(logits, expected['first_step_logits'], atol=1e-4)
