"""Confidence, prediction and ranks of every layer at every token, in one parallel pass over the full model's own outputs."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.analysis.forcing import Forced, teacher_forced, unwatched
from calm_jax.argmax import argmax
from calm_jax.decoding.choice import likeliest_id
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.layer_loop import remembered
from calm_jax.depth.adapters import ExitAdapters
from calm_jax.depth.confidence import Measure
from calm_jax.model import Model
from calm_jax.models.bound import bound
from calm_jax.models.config import TransformerConfig
from calm_jax.models.positions import standing
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
    model: Model,
    texts: Sequence[str],
    measure: Measure,
    decoding: Decoding,
    *,
    min_exit_layer: int = 1,
    adapters: ExitAdapters | None = None,
    batch_size: int = 16,
    progress: Callable = unwatched,
) -> LayerConfidences:
    """Decodes the texts without exits, then asks the measure at every layer of every generated token.

    Every layer sees the full model's states of earlier tokens: what a token's exits would be if none had left before. Tokens
    are compared as the head ranks them, whatever rules and choice make of that.
    decoding: how the texts are decoded, its limits as numbers: at full depth but for its plan, as it says else.
    min_exit_layer: layers that every token visits. adapters: through which early layers are read; None: through none.
    progress: as `calm_jax.progress.progress`.
    """
    seen = []
    within_plan = dataclasses.replace(decoding.full(), plan=decoding.plan)
    batches = teacher_forced(model, texts, within_plan, batch_size, progress)
    for batch in progress(batches, 'confidences', unit='batches'):
        *observed, runs = jax.device_get(_observe_all(model.config, model.decoding_params, measure, adapters, batch))
        later = np.cumsum(runs[::-1], axis=0)[::-1] - runs  # how many of the layers after this one run
        visited = np.arange(1, len(runs) + 1)[:, None]
        leaves = runs & (later > 0) & (visited >= min_exit_layer)
        seen.append([each[:, batch.present.reshape(-1)] for each in (*observed, leaves)])
    return LayerConfidences(*(np.concatenate(each, axis=1) for each in zip(*seen)))


@partial(jax.jit, static_argnames=('config',))
def _observe_all(config: TransformerConfig, params: dict, measure: Measure, adapters: ExitAdapters | None, batch: Forced):
    """Confidence, prediction, likeliest token, rank of the last layer's, and whether the layer runs, [L, B·T]: each token of
    each row is one row of evidence."""
    call = bound(config, params)
    rows, length = batch.tokens.shape
    states = [state[:, -length:].reshape(rows * length, -1) for state in planned_states(call, config, batch)]
    runs = jnp.repeat(_layers_that_run(config, batch), length, axis=1)
    position = jnp.tile(jnp.arange(length, dtype=jnp.int32), rows)

    def choose(logits, ids=None):
        return argmax(logits) if ids is None else likeliest_id(logits, ids)

    if adapters is not None:
        states[1:] = [adapters(layer, state) for layer, state in enumerate(states[1:])]
    answer, table = choose(call(states[-1], method='unembed')), call(method='head_table')
    columns = None if measure.listed is None else call(jnp.asarray(measure.listed), method='head_columns')
    memory, seen = measure.init(rows * length, config.sizes), []
    for layer, (previous, hidden) in enumerate(zip(states, states[1:])):

        def head(part=None, state=None, asked=None, hidden=hidden):
            return call(hidden if state is None else state, part, method='unembed')

        evidence = Evidence(
            layer=layer,
            num_layers=config.num_decoder_layers,
            position=position,
            hidden=hidden,
            previous=previous,
            ran=runs[layer],
            oracle=answer,
            logits=head,
            head_rows=lambda ids: call(ids, table, method='head_rows'),
            choose=choose,
            head_columns=columns,
            every_layer=batch.plan is None,
        )
        after, confidence, prediction = measure.observe(memory, evidence)
        memory, logits = remembered(evidence, after, memory), head()
        likeliest = choose(logits)
        rank = 1 + jnp.sum(logits > jnp.take_along_axis(logits, answer[:, None], axis=1), axis=1)
        seen.append((confidence, likeliest if prediction is None else prediction, likeliest, rank))
    return *map(jnp.stack, zip(*seen)), runs


def planned_states(call: Callable, config: TransformerConfig, batch: Forced) -> list[jax.Array]:
    """The states [B, R + T, D] that enter the decoder, and that leave each layer, within the batch's plan."""
    encoded = None if config.decoder_only else call(batch.source, batch.source_mask, batch.plan, method='encode')
    positions = standing(batch.decoder_input.shape[1], batch.mask)
    entering = call(batch.decoder_input, positions, method='embed')
    source_mask = batch.source_mask
    if batch.plan is not None and batch.plan.source is not None:
        source_mask = batch.plan.source
    leaving = call(encoded, source_mask, batch.decoder_input, batch.mask, batch.plan, batch.prompt, method='decode')
    return [entering, *leaving]


def _layers_that_run(config, batch):
    """Which rows run any part of each layer, bool [L, B]."""
    if batch.plan is None:
        return jnp.ones((config.num_decoder_layers, len(batch.tokens)), bool)
    parts = [batch.plan.self_attention, batch.plan.feed_forward]
    if not config.decoder_only:
        parts.append(batch.plan.cross_attention)
    return jnp.any(jnp.stack(parts), axis=0).T
