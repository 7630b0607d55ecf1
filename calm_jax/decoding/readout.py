"""A text read for a task: the decoder goes over the source in one pass, and a head reads its top states.

In a model with an encoder both stacks read the source, the decoder behind its start token, so that its state at a token has
seen that token's left in the decoder and all of the source across (Lewis et al. 2019, §3.1). A plan runs over the whole pass;
source tokens that it drops are dropped of the encoder alone, so that every token can still be pointed at.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Int

from calm_jax.decoding.begin import Decided, course_of, encoded_rows, layers_run, no_prefill
from calm_jax.decoding.decoding import Decoding
from calm_jax.models import planned
from calm_jax.models.config import TransformerConfig
from calm_jax.models.positions import standing
from calm_jax.models.task_head import behind_start, head_flops, label_places, task_scores
from calm_jax.tasks import Labels, Task
from calm_jax.types import Array, Plan, PrefillWork, Work


class Readout(NamedTuple):
    """What a head says of texts. scores: float32 [B, C] of labels, or [B, S, 2] of spans at every place, those too that are not
    there. work: of the decoder, a column for each token; prefill: of the encoder. plan: what they ran within; None:
    everything."""

    scores: Array
    work: Work
    prefill: PrefillWork
    plan: Plan | None


def read_rows(
    call: Callable,
    config: TransformerConfig,
    decided: Decided,
    decoding: Decoding,
    head: Mapping[str, Any],
    task: Task,
    room: int | None = None,
) -> Readout:
    """Reads texts that are decided upon, for a task (static); room: as `encoded_rows`."""
    source, mask = decided.source, decided.mask
    after, course = layers_run(config, decoding.plan), course_of(config, decided, decoding.plan)
    prefill, cross, x, first = no_prefill(len(source)), None, decided.states, after
    positions = standing(source.shape[1], mask if config.decoder_only else None)
    bias = call(source.shape[1], mask if config.decoder_only else None, method='causal_bias')
    if not config.decoder_only:
        encoded = encoded_rows(call, config, decided, after, room)
        cross = planned.CrossAttention(encoded.states, call(encoded.mask, method='cross_bias'))
        prefill, x, first = encoded.work, None, 0
    if x is None:
        tokens = source
        if not config.decoder_only:
            tokens = behind_start(source, mask, config.decoder_start_id, task.wraps)
        x = call(tokens, positions, method='embed')
    for layer in range(first, config.num_decoder_layers):
        x, _ = planned.decoder_layer(call, layer, x, positions, bias, cross, course.plan, planned.Skipped())
        course = course.after(config.num_encoder_layers + layer, x, mask)
    scored, plan = mask, course.plan
    if isinstance(task, Labels):
        place = label_places(config, source, mask)
        x = jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]
        scored = (jnp.arange(mask.shape[1]) == place[:, None]) & mask
    scores = task_scores(head, call(x, method='top'))
    there = jnp.any(mask, axis=1).astype(jnp.int32)
    if decoding.plan is not None:
        units = config.sizes.units(decoding.plan.flops(config.sizes))
        prefill = prefill._replace(decisions=there * jnp.asarray(units, jnp.int32))
    units = jnp.asarray(config.sizes.units(head_flops(head)), jnp.int32)
    work, across = _work(config, mask, plan, scored * units)
    if not config.decoder_only:
        prefill = prefill._replace(cross_keys_values=across * there)
    return Readout(scores, work, prefill, plan)


def _work(config: TransformerConfig, mask: Array, plan: Plan | None, decisions: Int[Array, 'B S']) -> tuple[Work, Array]:
    """What each token of a text needed, in order, places that are not there last; and how many layers read across, [B]."""
    rows, length = mask.shape
    if plan is None:
        every = jnp.full(rows, config.num_decoder_layers, jnp.int32)
        kinds = every, every, every
    else:
        parts = plan.self_attention, plan.cross_attention, plan.feed_forward
        kinds = tuple(jnp.sum(part, axis=1, dtype=jnp.int32) for part in parts)
    attention, across, feed_forward = kinds[0], kinds[1] * (not config.decoder_only), kinds[2]
    there = (jnp.arange(length) < jnp.sum(mask, axis=1, keepdims=True)).astype(jnp.int32)
    own, nothing = attention[:, None] * there, jnp.zeros_like(there)
    work = Work(own, across[:, None] * there, feed_forward[:, None] * there, own, nothing, nothing, decisions)
    return work, across
