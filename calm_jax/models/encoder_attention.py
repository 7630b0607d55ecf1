"""How source positions read each other: all of them, those nearby, or those nearby and sums of blocks (Guo et al. 2022)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.models.layers import MASKED, NORMS, Attention, widened


class FullAttention(Attention):
    """Every position reads every other. One contract for all three: `context` is made before the layers."""

    @staticmethod
    def context(config, mask, bias, side_bias, positions=None):
        """What layers attend within: scores [B, N|1, S, S] to add. mask: bool [B, S]; bias, side_bias: distance → [N, ...].

        positions: int32 [B, S], where in their source the tokens stand, where some were dropped; None: one after another.
        """
        if positions is None:
            steps = jnp.arange(mask.shape[1], dtype=jnp.int32)
            scores = bias(steps[None, :] - steps[:, None])[None]
        else:
            scores = jnp.moveaxis(bias(positions[:, None, :] - positions[:, :, None]), 0, 1)
        return scores + jnp.where(mask, 0.0, MASKED)[:, None, None, :]

    def read(self, x, context, deterministic=True):
        """What the states x [B, S, D] read from each other, [B, S, D]."""
        positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        return self(*self.project(x, positions), context, deterministic)


class Local(NamedTuple):
    """bias: scores to add, [B, blocks, N, R, 3R + G]; block_ids: int32 [B, S], the global block each token belongs to, −1
    for none; None where there are no global blocks."""

    bias: Any
    block_ids: Any


class LocalAttention(Attention):
    """Every position reads those at most `local_radius` away: blocks of R = radius + 1 queries against three of keys.

    No token can be dropped before it: neighbours are told by where they stand in the array.
    """

    @staticmethod
    def context(config, mask, bias, side_bias, positions=None):
        return Local(_local_bias(config.local_radius + 1, mask, bias), None)

    def read(self, x, context, deterministic=True):
        return self._read(x, context.bias, (), deterministic)

    def _read(self, x, bias, side, deterministic):
        """x [B, S, D] read from itself in blocks, and from the side states [B, G, D] if there are any."""
        block, length = self.config.local_radius + 1, x.shape[1]
        queries, keys, values = (_blocks(each, block) for each in self.heads(x))
        keys, values = _three(keys), _three(values)
        if len(side):
            side_kv = [each[:, None] for each in self.heads(side)[1:]]
            keys, values = (
                jnp.concatenate([near, jnp.broadcast_to(far, near.shape[:2] + far.shape[2:])], axis=2)
                for near, far in zip((keys, values), side_kv)
            )
        weights = jax.nn.softmax(widened(jnp.einsum('bcqnh,bcknh->bcnqk', queries, keys)) + bias, axis=-1)
        weights = self.dropout(weights.astype(self.config.dtype), deterministic=deterministic)
        read = jnp.einsum('bcnqk,bcknh->bcqnh', weights, values)
        return self.out(read.reshape(x.shape[0], -1, read.shape[-2] * read.shape[-1])[:, :length])


class TransientGlobalAttention(LocalAttention):
    """Local attention, and every position also reads a summary of each block of `global_block_size` tokens: the normed sum
    of their states, made anew in each layer. Tokens past the last whole block belong to it."""

    def setup(self):
        super().setup()
        self.global_input_layer_norm = NORMS[self.config.norm](self.config)

    @staticmethod
    def context(config, mask, bias, side_bias, positions=None):
        size, block = config.global_block_size, config.local_radius + 1
        count = mask.shape[1] // size
        whole = jnp.sum(mask, axis=1, keepdims=True) // size
        ids = jnp.minimum(jnp.arange(mask.shape[1], dtype=jnp.int32)[None] // size, whole - 1)
        block_ids = jnp.where(mask, ids, -1)
        numbers = jnp.arange(count, dtype=jnp.int32)
        seen = jnp.where(numbers < whole, 0.0, MASKED)[:, None, None, :]
        side = jnp.moveaxis(side_bias(numbers - block_ids[..., None]), 0, 1) + seen  # [B, N, S, G]
        side = jnp.moveaxis(_blocks(jnp.moveaxis(side, 1, 2), block), 3, 2)
        near = _local_bias(block, mask, bias)
        return Local(jnp.concatenate([near, side], axis=-1), block_ids)

    def read(self, x, context, deterministic=True):
        count = x.shape[1] // self.config.global_block_size
        member = context.block_ids[..., None] == jnp.arange(count, dtype=jnp.int32)
        sums = self.global_input_layer_norm(jnp.einsum('bsd,bsg->bgd', x, member.astype(x.dtype)))
        return self._read(x, context.bias, sums, deterministic)


ENCODER_ATTENTIONS = {'full': FullAttention, 'local': LocalAttention, 'transient_global': TransientGlobalAttention}


def _local_bias(block, mask, bias):
    """Scores [B, blocks, N, block, 3 · block]: by distance, hidden beyond the radius and at padding."""
    distance = jnp.arange(3 * block, dtype=jnp.int32)[None] - jnp.arange(block, 2 * block, dtype=jnp.int32)[:, None]
    near = jnp.where(jnp.abs(distance) < block, 0.0, MASKED)
    present = jnp.where(_three(_blocks(mask, block)), 0.0, MASKED)
    return (bias(distance) + near)[None, None] + present[:, :, None, None, :]


def _blocks(x, block):
    """[B, S, ...] → [B, ⌈S / block⌉, block, ...], zeros at the end."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape((x.shape[0], x.shape[1] // block, block) + x.shape[2:])


def _three(x):
    """[B, C, R, ...] → [B, C, 3R, ...]: each block between its neighbours, zeros past the ends."""
    padded = jnp.pad(x, [(0, 0), (1, 1)] + [(0, 0)] * (x.ndim - 2))
    return jnp.concatenate([padded[:, i : i + x.shape[1]] for i in range(3)], axis=2)
