"""States that runs with fewer layers reach, against decoders by definition: NumPy, one row, one token at a time, own caches."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from calm_jax.analysis.similarity import METHODS, Method, Moments, similarity
from calm_jax.checkpoints import native
from calm_jax.data.example_ids import ExampleIds
from calm_jax.decoding.choice import example_keys
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.depth.plans import FixedLayers
from calm_jax.model import load
from calm_jax.types import Context
from tests.laws.definitions import Definition
from tests.parameters import random_params

LENGTH = 6  # generated tokens


class Rotary:
    """A decoder of the LLaMA kind in float64 (Touvron et al. 2023), which reads a row token by token."""

    def __init__(self, config, params):
        self.config, self.params = config, jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(self, x, scale):
        return x / np.sqrt((x * x).mean() + self.config.norm_epsilon) * scale['scale']

    def turned(self, x, position):
        """Heads [N, H] turned by their position, the first half of each with its second."""
        half = x.shape[1] // 2
        angle = position * self.config.rotary_theta ** (-np.arange(half) / half)
        one, other = x[:, :half], x[:, half:]
        return np.concatenate(
            [one * np.cos(angle) - other * np.sin(angle), other * np.cos(angle) + one * np.sin(angle)], axis=1
        )

    def states(self, tokens, runs):
        """[T, L, D] after each layer. runs(position, layer): whether it runs; it writes keys and values all the same."""
        heads, caches, all_states = self.config.num_heads, [([], []) for _ in range(self.config.num_decoder_layers)], []
        for position, token in enumerate(tokens):
            x, states = self.params['token_embedder']['embedding'][token], []
            for i, (keys, values) in enumerate(caches):
                layer = self.params['decoder'][f'layers_{i}']
                p, y = layer['self_attention'], self.norm(x, layer['pre_self_attention_layer_norm'])
                query, key, value = ((y @ p[name]['kernel']).reshape(heads, -1) for name in ('query', 'key', 'value'))
                keys.append(self.turned(key, position))
                values.append(value)
                if runs(position, i):
                    scores = np.einsum('nh,tnh->nt', self.turned(query, position), keys) / np.sqrt(self.config.head_dim)
                    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                    weights /= weights.sum(axis=1, keepdims=True)
                    x = x + np.einsum('nt,tnh->nh', weights, values).reshape(-1) @ p['out']['kernel']
                    y = self.norm(x, layer['pre_mlp_layer_norm'])
                    gate = y @ layer['mlp']['wi_0']['kernel']
                    x = x + (gate / (1 + np.exp(-gate)) * (y @ layer['mlp']['wi_1']['kernel'])) @ layer['mlp']['wo']['kernel']
                states.append(x)
            all_states.append(states)
        return np.array(all_states)

    def greedy(self, prompt, length):
        """What a prompt is followed by: the likeliest tokens, to the end-of-sequence or so many."""
        tokens = []
        while len(tokens) < length and self.config.eos_id not in tokens:
            x = self.norm(
                self.states([*prompt, *tokens], lambda position, layer: True)[-1, -1], self.params['decoder']['decoder_norm']
            )
            tokens.append(int(np.argmax(x @ self.params['decoder']['logits_dense']['kernel'])))
        return tokens


def encoder_decoder_states(definition, source, tokens, runs=None, leaves_after=None):
    """[T, L, D] of a T5 that is made to say these tokens. runs(layer): whether it runs; leaves_after: layers of an early exit,
    above which keys and values are projected from the state that left."""
    seen, layers = {}, definition.config.num_decoder_layers

    def leaves(layer, position, hidden, previous, logits):
        seen[position, layer] = previous, hidden
        return 0.0, layer + 1 == leaves_after, tokens[position]

    definition.decode(source, len(tokens), leaves, None if runs is None else lambda position, layer: (runs(layer),) * 3)
    states = []
    for position in range(len(tokens)):
        x = seen[min(key for key in seen if key[0] == position)][0]
        for layer in range(layers):
            x = seen.get((position, layer), (x, x))[1]
            states.append(x)
    return np.array(states).reshape(len(tokens), layers, -1)


def cosine(one, other):
    return (one * other).sum(axis=-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def expected(texts):
    """What is reported of cosines [T, L] of each text: (final, intermediate, by layer), each (mean, margin)."""
    means = np.array([text.mean(axis=0) for text in texts])
    columns = [means[:, -1], means[:, :-1].mean(axis=1), *means.T]
    margins = [stats.sem(column) * stats.t.ppf(0.975, len(texts) - 1) for column in columns]
    final, intermediate, *by_layer = [{'mean': column.mean(), 'margin': margin} for column, margin in zip(columns, margins)]
    return {'final': final, 'intermediate': intermediate, 'by_layer': by_layer}


def assert_point(point, cost, texts):
    assert point.pop('cost') == cost
    assert jax.tree.structure(point) == jax.tree.structure(expected(texts))
    for found, value in zip(jax.tree.leaves(point), jax.tree.leaves(expected(texts))):
        np.testing.assert_allclose(found, value, atol=2e-6)


def layers_of(maker, config, text, seed):
    """Which layers a text runs, asked alone, bool [L]."""
    ids = jnp.array([ExampleIds()(text)], jnp.int32)
    context = Context(config.sizes, ids, None, None, None, example_keys(jax.random.key(seed), ids))
    return np.asarray(maker(context).self_attention[0])


def methods_of(layers, cost):
    return [*(Method(name, {cost: make(cost, layers)}) for name, make in METHODS.items()), Method('2', {1: FixedLayers((2,))})]


@pytest.fixture
def texts(data):
    return [json.loads(line)['en'] for line in open(data)][1:5]


@pytest.mark.parametrize('in_full', [True, False])
def test_states_of_a_decoder_only_model_are_those_of_a_row_read_alone_with_its_own_caches(checkpoint, texts, in_full):
    model = load(checkpoint)
    config = dataclasses.replace(
        model.config,
        num_encoder_layers=0,
        pad_id=-1,
        eos_id=10,  # which one of the texts says
        positions='rotary',
        max_positions=64,
        attention_scale=True,
        mlp_activations=('silu', 'linear'),
    )
    model = dataclasses.replace(model, config=config, params=random_params(config, 3), generation={})
    decoding = model.resolve(Decoding(limits=Limits(max_source_length=16, max_new_tokens=LENGTH), seed=5))
    methods = methods_of(3, 2)
    found = similarity(model, texts, methods, decoding, prompt_in_full=in_full, batch_size=2)
    rotary, prompts = Rotary(config, model.params), [model.encode(text)[-16:] for text in texts]
    outputs = [rotary.greedy(prompt, LENGTH) for prompt in prompts]
    rows = [([*prompt, *output[:-1]], len(prompt) - 1) for prompt, output in zip(prompts, outputs)]
    assert len({*map(len, prompts)}) > 1 and len({*map(len, outputs)}) > 1
    assert found['layers'] == 3 and found['texts'] == 4 and found['tokens'] == sum(map(len, outputs))
    whole = [rotary.states(tokens, lambda position, layer: True)[read:] for tokens, read in rows]
    for method, one in zip(methods, found['methods']):
        [(cost, maker)], [point] = method.plans.items(), one['points']
        runs = [layers_of(maker, config, text, 5) for text in texts]
        cosines = []
        for of, (tokens, read), states in zip(runs, rows, whole):
            reduced = rotary.states(
                tokens, lambda position, layer, of=of, read=read: of[layer] or (in_full and position < read)
            )
            cosines.append(cosine(reduced[read:], states))
        assert one['method'] == method.name and all(of.sum() == cost for of in runs)
        assert max(each.min() for each in cosines) < 0.99
        assert_point(point, cost, cosines)


def test_states_of_an_encoder_decoder_are_those_of_a_row_that_leaves_early_or_skips_by_definition(checkpoint, texts):
    model = load(checkpoint)
    decoding = model.resolve(Decoding(limits=Limits(max_source_length=16, max_new_tokens=8), seed=5))
    methods = methods_of(3, 2)
    found = similarity(model, texts, methods, decoding, batch_size=4)
    definition = Definition(model.config, native.load(checkpoint).params)
    sources = [np.array([*model.tokenizer.encode(text)[:15], model.config.eos_id]) for text in texts]
    rows = [(source, definition.decode(source, 8).tokens) for source in sources]
    whole = [encoder_decoder_states(definition, *row) for row in rows]
    for method, one in zip(methods, found['methods']):
        [(cost, maker)], [point] = method.plans.items(), one['points']
        cosines = []
        for text, row, states in zip(texts, rows, whole):
            how = {'leaves_after': cost} if method.name == 'exit' else {'runs': layers_of(maker, model.config, text, 5).item}
            cosines.append(cosine(encoder_decoder_states(definition, *row, **how), states))
        assert_point(point, cost, cosines)


def test_all_layers_are_the_full_model_and_a_single_text_has_no_interval(checkpoint, texts):
    model = load(checkpoint)
    decoding = model.resolve(Decoding(limits=Limits(max_source_length=16, max_new_tokens=8)))
    methods = [Method(name, {3: make(3, 3)}) for name, make in METHODS.items()]
    found = similarity(model, texts[:1], methods, decoding, batch_size=4)
    for one in found['methods']:
        [point] = one['points']
        for value in (point['final'], point['intermediate'], *point['by_layer']):
            assert value['margin'] is None
            np.testing.assert_allclose(value['mean'], 1, atol=1e-6)


def test_moments_of_rows_that_come_in_pieces_are_those_of_all_of_them():
    rows = 1 - 1e-5 * np.random.default_rng(0).standard_normal((40, 3))
    moments = Moments(3)
    for begin, end in ((0, 1), (1, 1), (1, 30), (30, 40)):
        moments.add(rows[begin:end])
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.margin(), stats.sem(rows) * stats.t.ppf(0.975, 39), rtol=1e-9)
