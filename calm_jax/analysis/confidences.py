"""Confidence and agreement of every layer at every token, in one parallel pass over the full model's own outputs."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.analysis.forcing import teacher_forced
from calm_jax.decoding.sampling import Greedy
from calm_jax.models.transformer import Transformer
from calm_jax.types import Evidence


class LayerConfidences(NamedTuple):
    """confidence: float32 [L, tokens]; agrees: bool [L, tokens], whether the layer's token is the last layer's."""

    confidence: np.ndarray
    agrees: np.ndarray


def layer_confidences(model, texts, measure, *, max_new_tokens, max_source_length, batch_size=16) -> LayerConfidences:
    """Decodes the texts at full depth, then asks the measure at every layer of every generated token.

    Every layer sees the full model's states of earlier tokens: what a token's exits would be if none had left before.
    """
    confidences, agreements = [], []
    for batch in teacher_forced(model, texts, max_new_tokens, max_source_length, batch_size):
        observed = _observe_all(model.config, model.params, measure, batch.source, batch.decoder_input)
        confidence, agrees = jax.device_get(observed)
        confidences.append(confidence[:, batch.present.reshape(-1)])
        agreements.append(agrees[:, batch.present.reshape(-1)])
    return LayerConfidences(np.concatenate(confidences, axis=1), np.concatenate(agreements, axis=1))


@partial(jax.jit, static_argnames='config')
def _observe_all(config, params, measure, tokens, decoder_input):
    """Confidence and agreement [L, B·T]: each token of each row is one row of evidence."""
    model = Transformer(config)

    def call(*args, method):
        return model.apply({'params': params}, *args, method=method)

    rows, length = decoder_input.shape
    encoded = call(tokens, method='encode')
    states = call(encoded, call(tokens, method='source_mask'), decoder_input, method='decode')
    states = [call(decoder_input, method='embed'), *states]
    flat = [state.reshape(rows * length, -1) for state in states]
    position = jnp.tile(jnp.arange(length, dtype=jnp.int32), rows)

    def choose(logits):
        return Greedy()(logits, None)

    answer = choose(call(flat[-1], method='unembed'))
    memory, confidences, agreements = measure.init(rows * length), [], []
    for layer in range(config.num_decoder_layers):
        evidence = Evidence(
            layer, config.num_decoder_layers, position, flat[layer + 1], flat[layer], jnp.ones(rows * length, bool), answer,
            logits=partial(call, flat[layer + 1], method='unembed'), choose=choose)
        memory, confidence, prediction = measure.observe(memory, evidence)
        prediction = choose(evidence.logits()) if prediction is None else prediction
        confidences.append(confidence)
        agreements.append(prediction == answer)
    return jnp.stack(confidences), jnp.stack(agreements)


def quantile_grid(confidence: np.ndarray, count: int = 20) -> list[float]:
    """`count` thresholds in (0, 1), descending: evenly spaced quantiles of the confidences below the last layer.

    Rounded to six decimals; equal ones appear once, so there may be fewer. Raises ValueError when none lies in (0, 1).
    """
    levels = np.arange(count, 0, -1) / (count + 1)
    values = np.unique(np.round(np.quantile(confidence[:-1].astype(np.float64), levels), 6))
    grid = [float(value) for value in values[::-1] if 0 < value < 1]
    if not grid:
        raise ValueError('every confidence on the grid data is 0 or 1: no thresholds between them; pass --grid instead')
    return grid
