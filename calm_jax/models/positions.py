"""Where a token stands: a bias of scores by distance, a learned vector, or a rotation."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from calm_jax.models.config import TransformerConfig
from calm_jax.models.parameters import parameter

_fan_avg_uniform = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')


class RelativePositionBias(nn.Module):
    """One learned number per head and distance bucket, added to attention scores (Raffel et al. 2020, §2.1)."""

    config: TransformerConfig
    bidirectional: bool

    def setup(self):
        shape = (self.config.num_heads, self.config.relative_attention_num_buckets)
        self.rel_embedding = parameter(self, 'rel_embedding', _fan_avg_uniform, shape, ('heads', 'relpos_buckets'))

    def __call__(self, relative_position):
        """The bias float32 [N, ...] for relative positions int32 [...] (key minus query)."""
        bias = jnp.take(self.rel_embedding, self.bucket(relative_position), axis=1)
        return bias.astype(jnp.promote_types(bias.dtype, jnp.float32))

    def bucket(self, relative_position):
        """Bucket of a relative position: exact up to half the buckets, then logarithmic up to the maximum distance."""
        buckets, offset = self.config.relative_attention_num_buckets, 0
        if self.bidirectional:
            buckets //= 2
            offset = jnp.where(relative_position > 0, buckets, 0)
            distance = jnp.abs(relative_position)
        else:
            distance = jnp.maximum(-relative_position, 0)
        exact = buckets // 2
        scale = (buckets - exact) / jnp.log(self.config.relative_attention_max_distance / exact)
        ratio = jnp.maximum(distance, 1).astype(jnp.float32) / exact
        far = exact + (jnp.log(ratio) * scale).astype(jnp.int32)
        return offset + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))


class PositionEmbedding(nn.Module):
    """A table of position vectors: int32 [...] → [..., D]. Positions past the end take the last."""

    config: TransformerConfig

    def setup(self):
        shape = (self.config.max_positions + self.config.position_offset, self.config.emb_dim)
        init = nn.initializers.normal(self.config.embedding_spread)
        self.embedding = parameter(self, 'embedding', init, shape, ('abspos_buckets', 'embed'))

    def __call__(self, positions):
        rows = jnp.minimum(positions, self.config.max_positions - 1) + self.config.position_offset
        return jnp.take(self.embedding, rows, axis=0).astype(self.config.dtype)


def standing(length, mask=None):
    """Positions int32 [B|1, T] of T tokens, from a row's first one on where a mask bool [B, T] says which are there."""
    if mask is None:
        return jnp.arange(length, dtype=jnp.int32)[None]
    return jnp.maximum(jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)


def rotate(config, x, positions, reach=None):
    """x [B, T, N, H] with the pairs (xᵢ, xᵢ₊H/₂) turned by position · θ^(−2i/H) (Su et al. 2021), positions int32 [B, T].
    reach: as `frequencies`."""
    angles = positions[..., None, None].astype(jnp.float32) * frequencies(config, positions, reach)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.promote_types(x.dtype, jnp.float32)), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def frequencies(config, positions, reach=None):
    """Radians per position of each pair, float32 [H / 2], or [B, T|1, 1, H / 2] where they depend on positions int32 [B, T].

    `rotary_scaling` of one number makes every wave slower by it (Chen et al. 2023). Of two, factor and original length, it
    raises θ once a text passes that length, as the reference implementation does: by how long it was when the token was read,
    so that a token's keys stay as they were then. Of four (Grattafiori et al. 2024), waves longer than the original length over
    the low factor are slower by `factor`, those shorter than the original length over the high factor stay, and those between
    are interpolated.

    reach: int32 [B, T|1], tokens of the text that each position was read with, itself and those before counted; None: all T
    were read together.
    """
    if len(config.rotary_scaling) == 2:
        return _stretched(config, positions.max(axis=-1, keepdims=True) + 1 if reach is None else reach)
    rates = config.rotary_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    if len(config.rotary_scaling) == 1:
        rates = rates / config.rotary_scaling[0]
    if len(config.rotary_scaling) == 4:
        factor, low, high, original = config.rotary_scaling
        share = np.clip((original * rates / (2 * np.pi) - low) / (high - low), 0, 1)  # of a wave that stays as it is
        rates = (1 - share) * rates / factor + share * rates
    return rates.astype(np.float32)


def _stretched(config, reach):
    """Radians per position, float32 [B, T|1, 1, H / 2], of a θ that grows with the tokens int32 [B, T|1] of a text."""
    factor, original = config.rotary_scaling
    reach = jnp.maximum(reach, original).astype(jnp.float32)[..., None, None]
    growth = (factor * reach / original - (factor - 1)) ** (config.head_dim / (config.head_dim - 2))
    exponents = -np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    return (config.rotary_theta * growth) ** exponents
