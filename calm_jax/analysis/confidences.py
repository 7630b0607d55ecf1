"""Confidence, prediction and ranks of every layer at every token, in one parallel pass over the full model's own outputs."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.analysis.forcing import teacher_forced, unwatched
from calm_jax.decoding.layer_loop import remembered
from calm_jax.decoding.sampling import Greedy, likeliest_id
from calm_jax.models.positions import standing
from calm_jax.models.transformer import Transformer
from calm_jax.types import Evidence


class LayerConfidences(NamedTuple):
    """confidence: float32 [L, tokens]; predicted: int32 [L, tokens], what the measure would say there; likeliest: int32
    [L, tokens], what the whole head says there; rank: int32 [L, tokens], that of the last layer's token, from 1;
    leaves: bool [L, tokens], where the token may leave: at layers that run, from the least on, before the last that runs."""

    confidence: np.ndarray
    predicted: np.ndarray
    likeliest: np.ndarray
    rank: np.ndarray
    leaves: np.ndarray

    @property
    def agrees(self) -> np.ndarray:
        """Whether what would be said is the last layer's token, bool [L, tokens]."""
        return self.predicted == self.likeliest[-1]


def layer_confidences(
    model, texts, measure, *, max_new_tokens, max_source_length, plan=None, min_exit_layer=1, batch_size=16, progress=unwatched
) -> LayerConfidences:
    """Decodes the texts without exits, then asks the measure at every layer of every generated token.

    Every layer sees the full model's states of earlier tokens: what a token's exits would be if none had left before.
    plan: example ids [B] → Plan, of the rows' sub-layers; min_exit_layer: layers that every token visits.
    progress: as `calm_jax.progress.progress`, to show how far it is.
    """
    seen = []
    batches = teacher_forced(model, texts, max_new_tokens, max_source_length, batch_size, plan, progress)
    for batch in progress(batches, 'confidences', unit='batches'):
        planned = None if plan is None else plan(batch.rows)
        observed = _observe_all(
            model.config, model.params, measure, batch.source, batch.decoder_input, batch.mask, planned, batch.tokens.shape[1]
        )
        *seen_here, runs = jax.device_get(observed)
        later = np.cumsum(runs[::-1], axis=0)[::-1] - runs  # how many of the layers after this one run
        visited = np.arange(1, len(runs) + 1)[:, None]
        leaves = runs & (later > 0) & (visited >= min_exit_layer)
        seen.append([each[:, batch.present.reshape(-1)] for each in (*seen_here, leaves)])
    return LayerConfidences(*(np.concatenate(each, axis=1) for each in zip(*seen)))


@partial(jax.jit, static_argnames=('config', 'length'))
def _observe_all(config, params, measure, source, decoder_input, mask, plan, length):
    """Confidence, prediction, likeliest token, rank of the last layer's, and whether the layer runs, [L, B·T]: each token of
    each row is one row of evidence."""
    model = Transformer(config)

    def call(*args, method):
        return model.apply({'params': params}, *args, method=method)

    rows = len(decoder_input)
    states, runs = _states(call, config, source, decoder_input, mask, plan)
    flat = [state[:, -length:].reshape(rows * length, -1) for state in states]
    runs = jnp.repeat(runs, length, axis=1)
    position = jnp.tile(jnp.arange(length, dtype=jnp.int32), rows)

    def choose(logits, ids=None):
        return Greedy()(logits, None) if ids is None else likeliest_id(logits, ids)

    answer, table = choose(call(flat[-1], method='unembed')), call(method='head_table')
    memory, seen = measure.init(rows * length, config.sizes), []
    for layer in range(config.num_decoder_layers):
        evidence = Evidence(
            layer,
            config.num_decoder_layers,
            position,
            flat[layer + 1],
            flat[layer],
            runs[layer],
            answer,
            logits=lambda rows=None, state=flat[layer + 1]: call(state, rows, method='unembed'),
            head_rows=lambda ids: call(ids, table, method='head_rows'),
            choose=choose,
            every_layer=plan is None,
        )
        after, confidence, prediction = measure.observe(memory, evidence)
        memory, logits = remembered(evidence, after, memory), evidence.logits()
        likeliest = choose(logits)
        rank = 1 + jnp.sum(logits > jnp.take_along_axis(logits, answer[:, None], axis=1), axis=1)
        seen.append((confidence, likeliest if prediction is None else prediction, likeliest, rank))
    return *map(jnp.stack, zip(*seen)), runs


def _states(call, config, source, decoder_input, mask, plan):
    """The states [B, R + T, D] that enter the decoder and leave each layer, and which rows run each layer: bool [L, B].

    Under a plan a row keeps its state where it skips a sub-layer. A row that runs a layer's self-attention runs it at every
    position, so the keys it attends to are those of the states that entered the layer.
    """
    positions = standing(decoder_input.shape[1], mask)
    entering = call(decoder_input, positions, method='embed')
    encoded, cross_bias, source_mask = None, None, None
    if not config.decoder_only:
        source_mask = call(source, method='source_mask')
        encoded, cross_bias = _encoded(call, config, source, source_mask, plan), call(source_mask, method='cross_bias')
    if plan is None:
        states = call(encoded, source_mask, decoder_input, mask, method='decode')
        return [entering, *states], jnp.ones((config.num_decoder_layers, len(decoder_input)), bool)
    self_bias = call(decoder_input.shape[1], mask, method='causal_bias')
    x, states, runs = entering, [entering], plan.self_attention | plan.feed_forward
    for layer in range(config.num_decoder_layers):
        keys_values = call(layer, x, positions, method='self_kv')
        attended = call(layer, x, *keys_values, self_bias, positions, method='self_attend')
        x = _where(plan.self_attention[:, layer], attended, x)
        if encoded is not None:
            keys_values = call(layer, encoded, method='cross_kv')
            x = _where(plan.cross_attention[:, layer], call(layer, x, *keys_values, cross_bias, method='cross_attend'), x)
        x = _where(plan.feed_forward[:, layer], call(layer, x, method='feed_forward'), x)
        states.append(x)
    return states, (runs if encoded is None else runs | plan.cross_attention).T


def _encoded(call, config, source, source_mask, plan):
    """The encoder's output [B, S, D], under a plan if there is one."""
    if plan is None:
        return call(source, method='encode')
    x, context = call(source, method='embed_source'), call(source_mask, method='encoder_context')
    for layer in range(config.num_encoder_layers):
        x = _where(plan.encoder_attention[:, layer], call(layer, x, context, method='encoder_attend'), x)
        x = _where(plan.encoder_feed_forward[:, layer], call(layer, x, method='encoder_feed_forward'), x)
    return call(x, method='encoder_norm')


def _where(rows, new, old):
    """`new` for the rows, `old` for the others."""
    return jnp.where(rows.reshape(rows.shape + (1,) * (new.ndim - 1)), new, old)
