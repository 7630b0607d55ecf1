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


def init(rows: int, heads: int, positions: int, head_dim: int, dtype) -> KVCache:
    """An empty cache."""
    empty = jnp.zeros((rows * heads, positions, head_dim), dtype)
    return KVCache(empty, empty)


def write(cache: KVCache, slot: Array | int, keys: Array, values: Array) -> KVCache:
    """The cache with keys and values [B·N, W, H] from `slot` on. The caller keeps slot + W within the cache: a slice that
    runs over its end would be moved back silently."""
    return KVCache(
        jax.lax.dynamic_update_slice_in_dim(cache.keys, keys, slot, axis=1),
        jax.lax.dynamic_update_slice_in_dim(cache.values, values, slot, axis=1),
    )


def read(cache: KVCache, slot: Array | int, width: int) -> KVCache:
    """Keys and values [B·N, W, H] from `slot` on; the caller keeps slot + W within the cache."""
    return KVCache(*(jax.lax.dynamic_slice_in_dim(each, slot, width, axis=1) for each in cache))


def put(cache: KVCache, rows: Array, slots: Array, keys: Array, values: Array) -> KVCache:
    """The cache with keys and values [n·N, 1, H] of the rows [n] at the slots [n], one of each; rows that there are not are
    left out."""
    heads = keys.shape[0] // rows.shape[0]

    def placed(old, new):
        by_row = old.reshape(-1, heads, *old.shape[1:])
        return by_row.at[rows, :, slots].set(new.reshape(-1, heads, new.shape[-1]), mode='drop').reshape(old.shape)

    return KVCache(placed(cache.keys, keys), placed(cache.values, values))


def turned(cache: KVCache, shift: Array | int) -> KVCache:
    """The cache as a ring, every position moved on by `shift`."""
    return KVCache(*(jnp.roll(each, shift, axis=1) for each in cache))
