"""One forward pass over whole sequences, within a plan: what training, analysis and the prefill of a decode compute.

`call(*args, method)` is a method of `Transformer`, parameters bound. A plan says which sub-layers each row runs; a row that
does not run one keeps its state. How is chosen by `run(rows, sub_layer, x)`: `masked` computes every sub-layer and keeps what
rows do not run, with gradients; `skipped` computes none that no row runs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.models.cache import KVCache
from calm_jax.types import Array, Plan

Run = Callable[[Array, Callable[[Array], Array], Array], Array]


def masked(rows: Array, sub_layer: Callable[[Array], Array], x: Array) -> Array:
    """sub_layer(x) [B, T, D] for the rows bool [B] that run it, x for the others; computed for all."""
    return jnp.where(rows[:, None, None], sub_layer(x), x)


def skipped(rows: Array, sub_layer: Callable[[Array], Array], x: Array) -> Array:
    """As `masked`, but nothing is computed where no row runs it."""
    return jax.lax.cond(jnp.any(rows), lambda x: masked(rows, sub_layer, x), lambda x: x, x)


def outside(prompt: Array, run: Run, rows: Array, sub_layer: Callable[[Array], Array], x: Array) -> Array:
    """As `run`, but every position of a prompt, bool [B, T], that is read in full, runs."""
    return jnp.where(prompt[..., None], sub_layer(x), run(rows, sub_layer, x))


def everyone(rows: Array, sub_layer: Callable[[Array], Array], x: Array) -> Array:
    """sub_layer(x) for every row: where rows differ in nothing that is worth a mask."""
    return sub_layer(x)


def of_layer(each: Sequence[Any], layer: int) -> Any:
    """What a layer takes of a tuple of every layer's, or of the one that all share."""
    return each[layer % len(each)]


def projected(project: Callable[[Array], Sequence[Array]], x: Array, rows: Array | None = None) -> tuple[Array, ...]:
    """What `project` makes of states for attention; with rows bool [B] that attend, zeros where none does."""

    def made(x):
        return tuple(project(x))

    if rows is None:
        return made(x)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(made, x))
    return jax.lax.cond(jnp.any(rows), made, lambda x: nothing, x)


def protected(end_ids: Sequence[int], tokens: Array, mask: Array) -> Array:
    """Source tokens that no plan drops, bool [B, S]: the first, the last, and every one that ends or separates texts.

    end_ids: ids of those. tokens: int32 [B, S]; mask: bool [B, S], which of them are there.
    """
    ends = jnp.any(tokens[..., None] == jnp.asarray(end_ids), axis=-1)
    places = jnp.arange(tokens.shape[1])
    last = places == jnp.sum(mask, axis=1, keepdims=True) - 1
    return mask & (ends | (places == 0) | last)


class CrossAttention(NamedTuple):
    """What the decoder reads of its source: encoded [B, S, D]; bias [B, 1, 1, S], which hides padding."""

    encoded: Array
    bias: Array


def encode(
    call: Callable, layers: Iterable[int], x: Array, context: Sequence[Any], plan: Plan | None = None, run: Run = masked
) -> Array:
    """The source's states [B, S, D] after some encoder layers, from those that enter them; context: `encoder_context`."""
    for layer in layers:

        def attend(x, layer=layer):
            return call(layer, x, of_layer(context, layer), method='encoder_attend')

        def feed(x, layer=layer):
            return call(layer, x, method='encoder_feed_forward')

        if plan is None:
            x = feed(attend(x))
        else:
            x = run(plan.encoder_attention[:, layer], attend, x)
            x = run(plan.encoder_feed_forward[:, layer], feed, x)
    return x


def decoder_layer(
    call: Callable,
    layer: int,
    x: Array,
    positions: Array,
    bias: Sequence[Array],
    cross: CrossAttention | None = None,
    plan: Plan | None = None,
    run: Run = masked,
    reach: Array | None = None,
) -> tuple[Array, KVCache]:
    """(states after one decoder layer [B, T, D], its keys and values [B·N, T, H]), all positions at once.

    positions: int32 [B|1, T]; reach: int32 [B, 1], how many tokens are read together, where they are more than these; bias:
    scores of the self-attention [B|1, N|1, T, T], as `causal_bias` has them. A row that runs a layer's self-attention runs it
    at every position, so the keys it reads are those of the states that entered the layer. Keys and values are zeros where
    `run` skips what no row reads.
    """
    reads = plan.self_attention[:, layer] if plan is not None and run is skipped else None
    queries, *made = projected(lambda x: call(layer, x, positions, reach, method='self_project'), x, reads)

    def attend(x):
        return call(layer, x, queries, *made, of_layer(bias, layer), method='self_attend')

    def read(x, source):
        return call(layer, x, *call(layer, source.encoded, method='cross_kv'), source.bias, method='cross_attend')

    def feed(x):
        return call(layer, x, method='feed_forward')

    if plan is None:
        x = attend(x)
        return feed(x if cross is None else read(x, cross)), KVCache(*made)
    x = run(plan.self_attention[:, layer], attend, x)
    if cross is not None:
        x = run(plan.cross_attention[:, layer], lambda x: read(x, cross), x)
    return run(plan.feed_forward[:, layer], feed, x), KVCache(*made)
