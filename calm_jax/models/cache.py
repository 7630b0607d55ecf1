"""The key/value cache of one attention layer: [B·N, positions, H] each.

Rows and heads share an axis, rows first: what is written is then what the product reads. With an axis each, XLA's CPU
backend writes a cache twice, once as it is carried and once as it is read, and copies it for both.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.types import Array


class KVCache(NamedTuple):
    keys: Array
    values: Array


def init(rows, heads, positions, head_dim, dtype):
    """An empty cache."""
    empty = jnp.zeros((rows * heads, positions, head_dim), dtype)
    return KVCache(empty, empty)


def write(cache, index, keys, values):
    """The cache with keys and values [B·N, W, H] from position `index` on. The caller keeps index + W within the cache:
    a slice that runs over its end would be moved back silently."""
    return KVCache(
        jax.lax.dynamic_update_slice_in_dim(cache.keys, keys, index, axis=1),
        jax.lax.dynamic_update_slice_in_dim(cache.values, values, index, axis=1),
    )
