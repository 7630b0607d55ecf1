"""The loss of a batch under plans: what is read of it to decide, and its rows computed as far as their plans say."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.depth.layerwise import Course
from calm_jax.models import planned
from calm_jax.models.bound import bound
from calm_jax.models.config import TransformerConfig
from calm_jax.models.positions import standing
from calm_jax.models.transformer import DROPS_OUT, Transformer
from calm_jax.training.goals import Goal, NextTokens
from calm_jax.training.train_state import Batch
from calm_jax.types import Array, Context, Plan


class Read(NamedTuple):
    """A batch as far as the policy sees it: the states of one layer, and how long its texts are.

    context: as a plan maker is asked, with those states; of a decoder-only model's texts its mask is of their prompts.
    source_tokens, new_tokens: int32 [B].
    """

    context: Context
    source_tokens: Array
    new_tokens: Array


def caller(config: TransformerConfig, params: Any, key: Array | None = None) -> Callable:
    """`call(*args, method)`: methods of the model with these parameters; with dropout if there is a key, of each method in each
    layer by itself."""
    surely, model = bound(config, params), Transformer(config)

    def call(*args, method):
        if key is None or method not in DROPS_OUT:
            return surely(*args, method=method)
        where = f'{method} {args[0]}' if isinstance(args[0], int) else method
        dropout = jax.random.fold_in(key, zlib.crc32(where.encode()) & 0x7FFFFFFF)
        return model.apply({'params': params}, *args, deterministic=False, method=method, rngs={'dropout': dropout})

    return call


def read(call: Callable, config: TransformerConfig, batch: Batch, goal: Goal = NextTokens()) -> Read:
    """What the policy reads of a batch: the first encoder layer's states, or the first layer's over the prompts."""
    tokens, new_tokens = batch['decoder_input_tokens'], goal.new_tokens(batch)
    rows = len(tokens)
    if config.decoder_only:
        mask = goal.prompt(batch)
        positions, bias = standing(tokens.shape[1]), call(tokens.shape[1], method='causal_bias')
        states, _ = planned.decoder_layer(call, 0, call(tokens, positions, method='embed'), positions, bias)
        never = None
    else:
        tokens, mask = batch['encoder_input_tokens'], batch['encoder_mask']
        context = call(mask, method='encoder_context')
        states = planned.encode(call, range(1), call(tokens, method='embed_source'), context)
        never = planned.protected(config.eos_ids, tokens, mask) if config.sizes.drops_tokens else None
    seen = Context(config.sizes, jnp.zeros(rows, jnp.int32), tokens, mask, states, jnp.zeros(rows), protected=never)
    return Read(seen, jnp.sum(mask, axis=1, dtype=jnp.int32), new_tokens)


def followed(
    call: Callable,
    config: TransformerConfig,
    batch: Batch,
    seen: Read,
    course: Course,
    run: Any = planned.masked,
    goal: Goal = NextTokens(),
) -> tuple[Array, Course]:
    """(the decoder's last states [B, T, D], what was decided on the way) of a batch; the layer that was read is not run again.

    A plan that is there is a course with nothing to decide.
    """
    tokens, states = batch['decoder_input_tokens'], seen.context.hidden
    assert states is not None  # read
    length = tokens.shape[1]
    positions, bias = standing(length), call(length, method='causal_bias')
    course = course.after(0, states, seen.context.mask)
    if config.decoder_only:
        x, cross, first = states, None, 1
        if not goal.reads:
            if course.decide is not None:
                # The prompt is read in full, whatever is decided.
                whole = states
                for layer in range(1, config.num_decoder_layers - 1):
                    whole, _ = planned.decoder_layer(call, layer, whole, positions, bias)
                    course = course.after(layer, whole, seen.context.mask)
                course = course.ended()
            # But for its last token, which is followed by the first decision.
            prompt = seen.context.mask & (jnp.cumsum(seen.context.mask, axis=1) < seen.source_tokens[:, None])
            run = functools.partial(planned.outside, prompt, run)
    else:
        mask = seen.context.mask if course.source is None else course.source
        context, source = call(mask, method='encoder_context'), states
        for layer in range(1, config.num_encoder_layers):
            source = planned.encode(call, (layer,), source, context, course.plan, run)
            course = course.after(layer, source, mask)
        cross = planned.CrossAttention(call(source, method='encoder_norm'), call(mask, method='cross_bias'))
        x, first = call(tokens, positions, method='embed'), 0
    for layer in range(first, config.num_decoder_layers):
        x, _ = planned.decoder_layer(call, layer, x, positions, bias, cross, course.plan, run)
        course = course.after(config.num_encoder_layers + layer, *goal.looked_at(x, batch))
    return x, course


def nats(
    call: Callable,
    config: TransformerConfig,
    batch: Batch,
    seen: Read,
    plan: Plan,
    run: Any = planned.masked,
    goal: Goal = NextTokens(),
    head: Any = None,
) -> Array:
    """The loss of each row under a plan, in nats, float32 [B]. head: of a task."""
    states, _ = followed(call, config, batch, seen, Course(plan), run, goal)
    return goal.losses(call, head, states, batch)


def weighted(rows: Array, sub_layer: Callable[[Array], Array], x: Array) -> Array:
    """x + g · (sub_layer(x) − x) for numbers g of the rows, which have a gradient."""
    return x + rows[:, None, None].astype(x.dtype) * (sub_layer(x) - x)


def of_texts(seed: int, batch: Batch) -> Array:
    """A key for each row [B], of its target alone, or of the text that is read for a task: the same at every evaluation, and
    others for other texts."""
    if 'decoder_mask' in batch:
        tokens, there = batch['decoder_input_tokens'], batch['decoder_mask']
    else:
        tokens, there = batch['decoder_target_tokens'], batch['decoder_loss_weights'] > 0
    tokens = tokens.astype(jnp.uint32) * there
    places = 2 * jnp.arange(tokens.shape[1], dtype=jnp.uint32) + 1
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.sum(tokens * places, axis=1, dtype=jnp.uint32))
