"""One forward pass over whole sequences, within a plan: what training, analysis and the prefill of a decode compute.

`call(*args, method)` is a method of `Transformer`, parameters bound. A plan says which sub-layers each row runs; a row that
does not run one keeps its state. How is chosen by `run(rows, sub_layer, x)`: `masked` computes every sub-layer and keeps what
rows do not run, with gradients; `Skipped` computes none that no row runs, or for the rows alone that run it. sub_layer(x) is of
all rows; sub_layer(x, places) of some, whose states x are, and whose places in the batch are these.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.models.cache import KVCache
from calm_jax.types import Array, Plan

# Of rows that are run some at a time: products of fewer states wait for the kernels that they read.
STATES = 64

Run = Callable[[Array, Callable[..., Array], Array], Array]


def masked(rows: Array, sub_layer: Callable[..., Array], x: Array) -> Array:
    """sub_layer(x) [B, T, D] for the rows bool [B] that run it, x for the others; computed for all."""
    return jnp.where(rows[:, None, None], sub_layer(x), x)


def outside(prompt: Array, run: Run, rows: Array, sub_layer: Callable[..., Array], x: Array) -> Array:
    """As `run`, but every position of a prompt, bool [B, T], that is read in full, runs."""
    return jnp.where(prompt[..., None], sub_layer(x), run(rows, sub_layer, x))


@dataclasses.dataclass(frozen=True)
class Skipped:
    """As `masked`, but nothing is computed where no row runs it.

    packed: whether the rows that run it are taken out of the batch, some at a time: as many as have `STATES` states together,
    so that a sub-layer costs what its rows cost.
    """

    packed: bool = False

    def __call__(self, rows: Array, sub_layer: Callable[..., Array], x: Array) -> Array:
        """sub_layer(x) [B, T, D] for the rows bool [B] that run it, x for the others."""
        size = self._at_a_time(x)
        if size == x.shape[0]:
            return jax.lax.cond(jnp.any(rows), lambda x: masked(rows, sub_layer, x), lambda x: x, x)

        def some(x, places):
            own = rows_of(x, places, x.shape[0])
            return put(x, places, jnp.where(rows[places][:, None, None], sub_layer(own, places), own))

        return _some_at_a_time(rows, size, some, x)

    def project(self, rows: Array, project: Callable[..., Sequence[Array]], x: Array) -> tuple[Array, ...]:
        """What `project` makes of the states for attention, arrays rows first, of the rows bool [B] that attend; what there is
        of others is zeros, or never read."""

        def made(x, *places):
            return tuple(project(x, *places))

        size = self._at_a_time(x)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(made, x))
        if size == x.shape[0]:
            return jax.lax.cond(jnp.any(rows), made, lambda x: nothing, x)

        def some(carry, places):
            return jax.tree.map(lambda old, new: put(old, places, new), carry, made(rows_of(x, places, x.shape[0]), places))

        return _some_at_a_time(rows, size, some, nothing)

    def _at_a_time(self, x: Array) -> int:
        """How many rows; a divisor of how many there are."""
        count, length = x.shape[:2]
        if not self.packed:
            return count
        return next((size for size in range(1, count) if count % size == 0 and size * length >= STATES), count)


def _some_at_a_time(rows: Array, size: int, some: Callable[[Any, Array], Any], carry: Any) -> Any:
    """carry = some(carry, places) for the places int32 [size] of some of the rows bool [B] after the others; the last are
    filled up with places of rows that are not among them."""
    order, count = jnp.argsort(~rows, stable=True).astype(jnp.int32), jnp.sum(rows, dtype=jnp.int32)

    def body(carry):
        done, carry = carry
        return done + size, some(carry, jax.lax.dynamic_slice_in_dim(order, done, size))

    return jax.lax.while_loop(lambda carry: carry[0] < count, body, (jnp.zeros((), jnp.int32), carry))[1]


def rows_of(tree: Any, places: Array | None, count: int) -> Any:
    """Of arrays whose first axis goes through `count` rows, those at some places int32 [n] (None: all), row by row, each as it
    lies; what all rows share stays."""
    if places is None:
        return tree

    def take(leaf):
        if leaf.shape[0] == 1 < count:
            return leaf
        size = leaf.shape[0] // count
        pieces = [jax.lax.dynamic_slice_in_dim(leaf, place * size, size) for place in places]
        return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)

    return jax.tree.map(take, tree)


def put(old: Array, places: Array, new: Array) -> Array:
    """The array with rows in place of those at some places int32 [n], row by row."""
    count = places.shape[0]
    size = new.shape[0] // count
    for index in range(count):
        old = jax.lax.dynamic_update_slice_in_dim(old, new[index * size : (index + 1) * size], places[index] * size, axis=0)
    return old


def of_layer(each: Sequence[Any], layer: int) -> Any:
    """What a layer takes of a tuple of every layer's, or of the one that all share."""
    return each[layer % len(each)]


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
    rows = x.shape[0]
    for layer in layers:

        def attend(x, places=None, layer=layer):
            within = rows_of(of_layer(context, layer), places, rows)
            return call(layer, x, within, method='encoder_attend')

        def feed(x, places=None, layer=layer):
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
    `run` skips them: of rows that do not read them, or where none does.
    """
    rows = x.shape[0]

    def project(x, places=None):
        own = rows_of((positions, reach), places, rows)
        return call(layer, x, *own, method='self_project')

    if plan is not None and isinstance(run, Skipped):
        queries, *made = run.project(plan.self_attention[:, layer], project, x)
    else:
        queries, *made = project(x)

    def attend(x, places=None):
        own = rows_of((queries, *made, of_layer(bias, layer)), places, rows)
        return call(layer, x, *own, method='self_attend')

    def read(x, source):
        return call(layer, x, *call(layer, source.encoded, method='cross_kv'), source.bias, method='cross_attend')

    def feed(x, places=None):
        return call(layer, x, method='feed_forward')

    if plan is None:
        x = attend(x)
        return feed(x if cross is None else read(x, cross)), KVCache(*made)
    x = run(plan.self_attention[:, layer], attend, x)
    if cross is not None:
        x = run(plan.cross_attention[:, layer], lambda x, places=None: read(x, rows_of(cross, places, rows)), x)
    return run(plan.feed_forward[:, layer], feed, x), KVCache(*made)
