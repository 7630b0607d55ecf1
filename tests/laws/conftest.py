"""A tiny random model, and a decoder that follows the definitions: NumPy, one row, no cache, everything from the start."""

import inspect
from typing import NamedTuple

import jax
import numpy as np
import pytest

from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import init_params


@pytest.fixture(scope='session')
def config():
    # Few tokens, so that the end-of-sequence turns up and rows end at different steps.
    return TransformerConfig(
        vocab_size=14,
        emb_dim=16,
        num_heads=2,
        head_dim=6,
        mlp_dim=24,
        num_encoder_layers=2,
        num_decoder_layers=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=6,
    )


@pytest.fixture(scope='session')
def params(config):
    params = jax.tree.map(np.array, jax.jit(init_params, static_argnums=0)(config, jax.random.key(4)))
    # Random weights repeat one token for ever; a head of wider spread does not.
    params['decoder']['logits_dense']['kernel'] *= 3
    return params


@pytest.fixture(scope='session')
def sources():
    rng = np.random.Generator(np.random.PCG64(7))
    tokens = (2 + np.floor(rng.random((5, 6)) * 12)).astype(np.int32)
    for row, length in enumerate((6, 3, 5, 1, 4)):
        tokens[row, length:] = 0
    return tokens


def _takes(function):
    return len([each for each in inspect.signature(function).parameters.values() if each.default is each.empty])


class Reference(NamedTuple):
    tokens: list
    exit_layers: list
    sub_layers: list  # (self-attentions, cross-attentions, feed-forwards) that ran, per token
    confidence: list


class Definition:
    """T5 1.1 in float64 NumPy, after Raffel et al. 2020 and Shazeer 2020, on one row without padding."""

    def __init__(self, config, params):
        self.config = config
        self.params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(self, x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config.norm_epsilon) * scale['scale']

    def heads(self, x, kernel):
        return (x @ kernel['kernel']).reshape(len(x), self.config.num_heads, self.config.head_dim)

    def attend(self, p, x, keys, values, bias):
        scores = np.einsum('tnh,snh->nts', self.heads(x, p['query']), keys) + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum('nts,snh->tnh', weights, values).reshape(len(x), -1) @ p['out']['kernel']

    def feed(self, p, x):
        gate = x @ p['wi_0']['kernel']
        gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        return (gate * (x @ p['wi_1']['kernel'])) @ p['wo']['kernel']

    def bias(self, p, distances, bidirectional):
        """[N, queries, keys] for key minus query positions."""
        table, buckets = p['relpos_bias']['rel_embedding'], self.config.relative_attention_num_buckets
        number = np.zeros(distances.shape, int)
        for index, distance in np.ndenumerate(distances):
            half = buckets // 2 if bidirectional else buckets
            far = abs(distance) if bidirectional else max(0, -distance)
            exact = half // 2
            if far >= exact:
                reach = np.log(far / exact) / np.log(self.config.relative_attention_max_distance / exact)
                far = min(half - 1, exact + int(reach * (half - exact)))
            number[index] = far + (half if bidirectional and distance > 0 else 0)
        return table[:, number]

    def encode(self, tokens, sub_layers=None, norm=True):
        p = self.params['encoder']
        x = self.params['token_embedder']['embedding'][tokens]
        steps = np.arange(len(tokens))
        bias = self.bias(p, steps[None] - steps[:, None], bidirectional=True)
        for i in range(self.config.num_encoder_layers):
            layer = p[f'layers_{i}']
            attends, feeds = (True, True) if sub_layers is None else sub_layers(i)
            if attends:
                y = self.norm(x, layer['pre_attention_layer_norm'])
                x = x + self.attend(
                    layer['attention'],
                    y,
                    self.heads(y, layer['attention']['key']),
                    self.heads(y, layer['attention']['value']),
                    bias,
                )
            if feeds:
                x = x + self.feed(layer['mlp'], self.norm(x, layer['pre_mlp_layer_norm']))
        return self.norm(x, p['encoder_norm']) if norm else x

    def self_kv(self, i, x):
        layer = self.params['decoder'][f'layers_{i}']
        y = self.norm(x, layer['pre_self_attention_layer_norm'])
        return self.heads(y, layer['self_attention']['key']), self.heads(y, layer['self_attention']['value'])

    def logits(self, x):
        p = self.params['decoder']
        return (self.norm(x, p['decoder_norm']) @ p['logits_dense']['kernel'])[0]

    def decode(self, source, length, leaves=None, sub_layers=None, stand_in='exit', encoder_sub_layers=None):
        """Reference of the greedy decode of source [S].

        leaves(layer, position, hidden, previous, logits) → (confidence, whether the token leaves, and where that is not the
        likeliest of the logits what it would say here); None never leaves.
        sub_layers(position, layer), or with the state [1, D] that enters → whether self-attention, cross-attention and
        feed-forward run; None: all do.
        encoder_sub_layers(layer) → whether attention and feed-forward of the encoder's layer run; None: all do.
        stand_in: what a layer that the token left below holds for it: the projected 'exit' state, the projected 'first'
        layer's state, or the exit layer's own keys and values ('kv').
        """
        p, config = self.params['decoder'], self.config
        encoded = self.encode(source[source != config.pad_id], encoder_sub_layers)
        keys_values = [[] for _ in range(config.num_decoder_layers)]
        last, result = config.decoder_start_id, Reference([], [], [], [])
        for position in range(length):
            x = self.params['token_embedder']['embedding'][[last]]
            active, visited, ran, confidence, first, left_kv, said = True, 0, np.zeros(3, int), 1.0, x, None, ()
            bias = self.bias(p, np.arange(position + 1)[None] - position, bidirectional=False)
            for i in range(config.num_decoder_layers):
                layer = p[f'layers_{i}']
                if not active:
                    keys_values[i].append(left_kv if stand_in == 'kv' else self.self_kv(i, first if stand_in == 'first' else x))
                    continue
                keys_values[i].append(self.self_kv(i, x))
                left_kv, visited, previous = keys_values[i][-1], i + 1, x
                attends, crosses, feeds = (
                    (True,) * 3 if sub_layers is None else sub_layers(*(position, i, x)[: _takes(sub_layers)])
                )
                if attends:
                    keys, values = (np.concatenate(each) for each in zip(*keys_values[i]))
                    y = self.norm(x, layer['pre_self_attention_layer_norm'])
                    x = x + self.attend(layer['self_attention'], y, keys, values, bias)
                if crosses:
                    cross, y = layer['encoder_decoder_attention'], self.norm(x, layer['pre_cross_attention_layer_norm'])
                    keys, values = self.heads(encoded, cross['key']), self.heads(encoded, cross['value'])
                    x = x + self.attend(cross, y, keys, values, 0)
                if feeds:
                    x = x + self.feed(layer['mlp'], self.norm(x, layer['pre_mlp_layer_norm']))
                first = x if i == 0 else first
                if attends or crosses or feeds:
                    ran += attends, crosses, feeds
                    if leaves is not None:
                        confidence, left, *said = leaves(i, position, x[0], previous[0], self.logits(x))
                        active = not left
            last = int(said[0]) if said else int(np.argmax(self.logits(x)))
            for column, value in zip(result, (last, visited, tuple(ran.tolist()), confidence)):
                column.append(value)
            if last == config.eos_id:
                break
        return result


@pytest.fixture(scope='session')
def decode_by_definition(config, params):
    return Definition(config, params).decode
