"""Norms, projections, attention and feed-forward, under t5x's parameter names and logical axes."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning

from calm_jax.models.config import ACTIVATIONS, TransformerConfig

_FUNCTIONS = {name: getattr(nn, name) if name != 'linear' else lambda x: x for name in ACTIVATIONS}

# What a masked key's score is increased by: finite, so that a row without any key gives no NaN.
MASKED = -1e10

_fan_in = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
_fan_in_normal = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
_fan_avg_uniform = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')


def widened(x):
    """x in float32, or as it is where it is wider: what sums and exponentials are computed in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class RMSNorm(nn.Module):
    """x · scale / √(mean(x²) + ε), over the last axis, in float32 or wider (Zhang & Sennrich 2019)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x):
        scale = partitioning.param_with_axes('scale', nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=('embed',))
        wide = widened(x)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.config.norm_epsilon)
        return (wide * scale).astype(self.config.dtype)


class Dense(nn.Module):
    """A linear map [..., in] → [..., features] without bias."""

    config: TransformerConfig
    features: int
    axes: tuple[str, str]
    init: nn.initializers.Initializer = _fan_in

    @nn.compact
    def __call__(self, x):
        kernel = partitioning.param_with_axes(
            'kernel', self.init, (x.shape[-1], self.features), jnp.float32, axes=self.axes)
        return x @ kernel.astype(self.config.dtype)

    def columns(self, x, ids):
        """The features ids [B, k] of x [B, in] → [B, k], each row its own."""
        kernel = self.get_variable('params', 'kernel').astype(self.config.dtype)
        return jnp.einsum('bd,dbk->bk', x, kernel[:, ids])


def _together(joint, parts, x):
    """part(x) for each of parts: one product, cut, where their kernels have been laid side by side (`joined.py`)."""
    if not joint.has_variable('params', 'kernel'):
        return [part(x) for part in parts]
    return jnp.split(joint(x), [sum(part.features for part in parts[:i]) for i in range(1, len(parts))], axis=-1)


class Embedding(nn.Module):
    """A table of token vectors: ids [...] → [..., D]."""

    config: TransformerConfig

    def setup(self):
        shape = (self.config.vocab_size, self.config.emb_dim)
        self.embedding = partitioning.param_with_axes(
            'embedding', nn.initializers.normal(1.0), shape, jnp.float32, axes=('vocab', 'embed'))

    def __call__(self, ids):
        return jnp.take(self.embedding, ids, axis=0).astype(self.config.dtype)


class RelativePositionBias(nn.Module):
    """One learned number per head and distance bucket, added to attention scores (Raffel et al. 2020, §2.1)."""

    config: TransformerConfig
    bidirectional: bool

    def setup(self):
        shape = (self.config.num_heads, self.config.relative_attention_num_buckets)
        self.rel_embedding = partitioning.param_with_axes(
            'rel_embedding', _fan_avg_uniform, shape, jnp.float32, axes=('heads', 'relpos_buckets'))

    def __call__(self, relative_position):
        """The bias float32 [N, ...] for relative positions int32 [...] (key minus query)."""
        return jnp.take(self.rel_embedding, self.bucket(relative_position), axis=1)

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


class Attention(nn.Module):
    """Multi-head attention in halves: keys and values of some states, then the queries that read them.

    No 1/√H at attention time: it is folded into the query initialiser, as T5 trains it.
    """

    config: TransformerConfig

    def setup(self):
        joined = self.config.num_heads * self.config.head_dim
        query_init = _fan_in_normal
        self.query = Dense(
            self.config, joined, ('embed', 'joined_kv'),
            init=lambda *args: query_init(*args) / jnp.sqrt(self.config.head_dim))
        self.key = Dense(self.config, joined, ('embed', 'joined_kv'), init=_fan_in_normal)
        self.value = Dense(self.config, joined, ('embed', 'joined_kv'), init=_fan_in_normal)
        self.key_value = Dense(self.config, 2 * joined, ('embed', 'joined_kv'))
        self.out = Dense(self.config, self.config.emb_dim, ('joined_kv', 'embed'), init=_fan_in_normal)
        self.dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))

    def project_kv(self, x):
        """Keys and values [B·N, T, H] of states x [B, T, D]."""
        keys, values = _together(self.key_value, (self.key, self.value), x)
        return self._split(keys), self._split(values)

    def __call__(self, x, keys, values, bias, deterministic=True):
        """What states x [B, T, D] read from keys and values [B·N, S, H], scores increased by bias [B|1, N|1, T, S]."""
        scores = widened(jnp.einsum('gth,gsh->gts', self._split(self.query(x)), keys))
        by_head = (x.shape[0], self.config.num_heads)
        weights = jax.nn.softmax(scores.reshape(by_head + scores.shape[1:]) + bias, axis=-1).astype(self.config.dtype)
        weights = self.dropout(weights, deterministic=deterministic)
        read = jnp.einsum('gts,gsh->gth', weights.reshape(scores.shape), values)
        return self.out(read.reshape(by_head + read.shape[1:]).swapaxes(1, 2).reshape(x.shape[:-1] + (-1,)))

    def _split(self, x):
        """[B, T, N·H] → [B·N, T, H]: rows and heads in one axis, as a matrix product over batches takes them."""
        heads = x.reshape(x.shape[:-1] + (self.config.num_heads, self.config.head_dim)).swapaxes(1, 2)
        return heads.reshape((-1,) + heads.shape[2:])


class FeedForward(nn.Module):
    """wo(Π act_i(wi_i x)): plain with one activation, gated with two (Shazeer 2020)."""

    config: TransformerConfig

    def setup(self):
        count = len(self.config.mlp_activations)
        names = ['wi'] if count == 1 else [f'wi_{i}' for i in range(count)]
        for name in names:
            setattr(self, name, Dense(self.config, self.config.mlp_dim, ('embed', 'mlp')))
        self.projections = [getattr(self, name) for name in names]
        self.wi_gated = Dense(self.config, count * self.config.mlp_dim, ('embed', 'mlp'))
        self.wo = Dense(self.config, self.config.emb_dim, ('mlp', 'embed'))
        self.dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))

    def __call__(self, x, deterministic=True):
        hidden = 1
        for activation, y in zip(self.config.mlp_activations, _together(self.wi_gated, self.projections, x)):
            hidden = hidden * _FUNCTIONS[activation](y)
        return self.wo(self.dropout(hidden, deterministic=deterministic))
