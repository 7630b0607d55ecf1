"""Norms, projections, attention and feed-forward, under t5x's parameter names and logical axes; what configurations choose
between is resolved here, once."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.models.config import TransformerConfig
from calm_jax.models.parameters import parameter
from calm_jax.models.positions import rotate
from calm_jax.types import Array, HeadColumns, HeadRows

_FUNCTIONS = {
    'gelu': nn.gelu,
    'gelu_exact': lambda x: nn.gelu(x, approximate=False),
    'relu': nn.relu,
    'silu': nn.silu,
    'linear': lambda x: x,
}

# What a masked key's score is increased by: finite, so that a row without any key gives no NaN.
MASKED = -1e10

# In how many parts a kernel is read for a single state.
READ_PARTS = 4

_fan_in = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
_fan_in_normal = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')


def widened(x):
    """x in float32, or as it is where it is wider: what sums and exponentials are computed in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def product(x, kernel, wide=None):
    """x [..., in] times a kernel [in, out]; wide: the type of what comes out, where it is another.

    A single state waits for the kernel to be read. On a CPU it is read in parts that each lie in one piece: up to a third
    faster than by columns of all rows, where the rows are short.
    """
    if x.size != x.shape[-1] or x.size % READ_PARTS or jax.default_backend() != 'cpu':
        return jnp.matmul(x, kernel, preferred_element_type=wide)
    cut = x.reshape(READ_PARTS, -1), kernel.reshape(READ_PARTS, -1, kernel.shape[-1])
    parts = jnp.einsum('pi,pio->po', *cut, preferred_element_type=wide)
    # A reduction over the parts is not vectorised; their sum is.
    return sum(parts[1:], parts[0]).reshape(x.shape[:-1] + kernel.shape[-1:])


class RMSNorm(nn.Module):
    """x · scale / √(mean(x²) + ε), over the last axis, in float32 or wider (Zhang & Sennrich 2019)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x):
        scale = parameter(self, 'scale', nn.initializers.ones, (x.shape[-1],), ('embed',))
        wide = widened(x)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.config.norm_epsilon)
        return (wide * scale).astype(self.config.dtype)


class LayerNorm(nn.Module):
    """(x − mean(x)) · scale / √(variance(x) + ε) + bias, over the last axis, in float32 or wider (Ba et al. 2016)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1],)
        scale = parameter(self, 'scale', nn.initializers.ones, shape, ('embed',))
        bias = parameter(self, 'bias', nn.initializers.zeros, shape, ('embed',))
        wide = widened(x)
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.config.norm_epsilon)
        return (wide * scale + bias).astype(self.config.dtype)


NORMS = {'rms': RMSNorm, 'layer': LayerNorm}


class Residual:
    """A sub-layer added to the state that it read: normed before it, or the sum after it."""

    def __init__(self, config, norm, dropout):
        self.before = config.norm_position == 'pre'
        self.norm, self.dropout, self.dtype = norm, dropout, config.state_dtype

    def entering(self, x):
        """What the sub-layer reads of a state."""
        return self.norm(x) if self.before else x

    def __call__(self, x, y, deterministic):
        """The state after a sub-layer that answered y."""
        x = x + self.dropout(y, deterministic=deterministic)
        return x if self.before else self.norm(x).astype(self.dtype)


class Dense(nn.Module):
    """A linear map [..., in] → [..., features], with a bias where asked for; adds: its result is added to a state, and has the
    state's type."""

    config: TransformerConfig
    features: int
    axes: tuple[str, str]
    init: nn.initializers.Initializer = _fan_in
    bias: bool = False
    adds: bool = False

    @nn.compact
    def __call__(self, x):
        kernel = parameter(self, 'kernel', self.init, (x.shape[-1], self.features), self.axes)
        dtype = self.config.state_dtype if self.adds else self.config.dtype
        wider = None if dtype == self.config.dtype else dtype
        y = product(x.astype(dtype), kernel.astype(dtype), wider)
        if not self.bias:
            return y
        bias = parameter(self, 'bias', nn.initializers.zeros, (self.features,), self.axes[1:])
        return y + bias.astype(dtype)


def _together(joint, parts, x):
    """part(x) for each of parts: one product, cut, where their kernels have been laid side by side (`joined.py`)."""
    if not joint.has_variable('params', 'kernel'):
        return [part(x) for part in parts]
    return jnp.split(joint(x), [sum(part.features for part in parts[:i]) for i in range(1, len(parts))], axis=-1)


class Embedding(nn.Module):
    """A table of token vectors: ids [...] → [..., width]."""

    config: TransformerConfig

    def setup(self):
        config = self.config
        shape, spread = (config.vocab_size, config.embedding_dim or config.emb_dim), config.embedding_spread
        self.embedding = parameter(self, 'embedding', nn.initializers.normal(spread), shape, ('vocab', 'embed'))

    def __call__(self, ids):
        return jnp.take(self.embedding, ids, axis=0, mode='clip').astype(self.config.dtype)  # padding may be −1


class Head(nn.Module):
    """States [..., width] → logits [..., V]: a map of its own or products with the embedding [V, width], and a bias if asked
    for."""

    config: TransformerConfig

    def setup(self):
        config = self.config
        if not config.tied_head:
            self.kernel = parameter(self, 'kernel', _fan_in, (config.emb_dim, config.vocab_size), ('embed', 'vocab'))
        if config.head_bias:
            self.bias = parameter(self, 'bias', nn.initializers.zeros, (config.vocab_size,), ('vocab',))

    def __call__(self, x, embedding, part=None):
        """Every logit; with HeadRows, of states [B, width], those of each row's own ids, [B, k]; with HeadColumns those of
        their ids, [..., K]."""
        dtype = self.config.dtype
        # Of float16 logits are wider: the type has no room to tell close ones apart.
        wide = None if self.config.state_dtype == dtype else self.config.state_dtype
        times = functools.partial(jnp.matmul, preferred_element_type=wide)
        if part is not None:
            columns = isinstance(part, HeadColumns)
            by_row = functools.partial(jnp.einsum, 'bd,bkd->bk', preferred_element_type=wide)
            logits = (times if columns else by_row)(x, part.weight)
            return logits if part.bias is None else logits + part.bias
        if not self.config.tied_head:
            logits = times(x, self.kernel.astype(dtype))
        elif self.has_variable('params', 'tied_kernel'):  # the embedding, laid out for this (`joined.py`)
            logits = times(x, self.get_variable('params', 'tied_kernel').astype(dtype))
        else:
            logits = jnp.einsum('...d,vd->...v', x, embedding.astype(dtype), preferred_element_type=wide)
        return logits + self.bias.astype(dtype) if self.config.head_bias else logits

    def table(self, embedding):
        """[V, width], a row per id, to take some of; a copy where the head has a map of its own."""
        return (embedding if self.config.tied_head else self.kernel.T).astype(self.config.dtype)

    def rows(self, ids, table):
        """HeadRows of ids int32 [B, k] from the table."""
        return HeadRows(table[ids], self._bias(ids))

    def columns(self, ids, embedding):
        """HeadColumns of ids int32 [K], a copy."""
        weight = embedding[ids].T if self.config.tied_head else self.kernel[:, ids]
        return HeadColumns(weight.astype(self.config.dtype), self._bias(ids))

    def _bias(self, ids):
        return self.bias.astype(self.config.dtype)[ids] if self.config.head_bias else None


class Some(NamedTuple):
    """Some rows of a batch. rows: int32 [w], which; ranks: int32 [B], where each stands among them; of the others anything
    below w."""

    rows: Array
    ranks: Array


class Attention(nn.Module):
    """Multi-head attention in halves: queries, keys and values of some states, then what the ones read from the others.

    Without `attention_scale` there is no 1/√H: it is folded into the query initialiser, as T5 trains it.
    `positions` int32 [B, T] matter to rotary ones only.
    """

    config: TransformerConfig

    def setup(self):
        config = self.config
        queries, keys = config.num_heads * config.head_dim, config.kv_heads * config.head_dim
        folded = 1.0 if config.attention_scale else jnp.sqrt(config.head_dim)

        def project(features, init=_fan_in_normal):
            return Dense(config, features, ('embed', 'joined_kv'), init, config.attention_bias)

        def queries_init(key, shape, dtype=None, out_sharding=None):
            return _fan_in_normal(key, shape, dtype, out_sharding) / folded

        self.query = project(queries, queries_init)
        self.key, self.value = project(keys), project(keys)
        self.key_value, self.query_key_value = project(2 * keys), project(queries + 2 * keys)
        self.out = Dense(config, config.emb_dim, ('joined_kv', 'embed'), _fan_in_normal, config.attention_bias, adds=True)
        self.dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))

    def project(self, x, positions, reach=None):
        """Queries [B, T, N, H], keys and values [B·Nₖᵥ, T, H] of states x [B, T, D], which read each other. reach: as
        `positions.frequencies`."""
        queries, keys, values = self.heads(x)
        return self._asking(queries, positions, reach), *self._held(keys, values, positions, reach)

    def project_queries(self, x, positions=None):
        """Queries alone."""
        (queries,) = self._part(x, slice(0, 1))
        return self._asking(queries, positions)

    def project_held(self, x, positions):
        """Keys and values alone, of states that were each read by itself."""
        keys, values = self._part(x, slice(1, 3))
        return self._held(keys, values, positions, reach=positions + 1)

    def project_kv(self, x):
        """Keys and values [B·Nₖᵥ, S, H] of states x [B, S, D], which others read."""
        return [self._by_row(self._heads(each)) for each in _together(self.key_value, (self.key, self.value), x)]

    def heads(self, x):
        """Queries [B, T, N, H], keys and values [B, T, Nₖᵥ, H] of states x [B, T, D], as yet where no position has turned
        them."""
        return [self._heads(each) for each in _together(self.query_key_value, (self.query, self.key, self.value), x)]

    def _part(self, x, part):
        """Some of `heads`. Where one product makes all three, the others are dropped: to cut its kernel takes longer."""
        if self.query_key_value.has_variable('params', 'kernel'):
            return self.heads(x)[part]
        return [self._heads(each(x)) for each in (self.query, self.key, self.value)[part]]

    def __call__(self, queries, keys, values, bias, deterministic=True, some=None):
        """What queries [B, T, N, H] read from keys and values [B·Nₖᵥ, S, H], [B, T, D], scores increased by bias
        [B|1, N|1, T, S]. some: `Some`, where queries [w, T, N, H] are of these alone."""
        if some is None:
            return self.out(self._read(queries, keys, values, bias, deterministic))
        asking = jnp.take(queries, some.ranks, axis=0)
        return self.out(jnp.take(self._read(asking, keys, values, bias, deterministic), some.rows, axis=0))

    def _read(self, queries, keys, values, bias, deterministic):
        """Sums of values [B, T, N·H]."""
        rows, length, heads, width = queries.shape
        # Queries that share a head of keys stand one after another, as if they were further positions.
        queries = self._by_row(queries).reshape(keys.shape[0], -1, width)
        if rows == length == 1:
            # So small a product is done before threads have woken up for it: a query at a time, which takes none.
            scores = jnp.stack([jnp.einsum('gh,gsh->gs', each, keys) for each in queries.swapaxes(0, 1)], axis=1)
        else:
            scores = jnp.einsum('gth,gsh->gts', queries, keys)
        weights = jax.nn.softmax(widened(scores).reshape(rows, heads, length, -1) + bias, axis=-1)
        weights = self.dropout(weights.astype(self.config.dtype), deterministic=deterministic)
        read = jnp.einsum('gts,gsh->gth', weights.reshape(scores.shape), values).reshape(rows, heads, length, width)
        return read.swapaxes(1, 2).reshape(rows, length, heads * width)

    def _asking(self, queries, positions, reach=None):
        queries = self._rotated(queries, positions, reach)
        return queries * self.config.head_dim**-0.5 if self.config.attention_scale else queries

    def _held(self, keys, values, positions, reach=None):
        return self._by_row(self._rotated(keys, positions, reach)), self._by_row(values)

    def _rotated(self, x, positions, reach=None):
        rotary = self.config.positions == 'rotary' and positions is not None
        return rotate(self.config, x, positions, reach) if rotary else x

    def _heads(self, x):
        """[B, T, N·H] → [B, T, N, H]."""
        return x.reshape(x.shape[:-1] + (x.shape[-1] // self.config.head_dim, self.config.head_dim))

    def _by_row(self, x):
        """[B, T, N, H] → [B·N, T, H]: rows and heads in one axis, as a matrix product over batches takes them."""
        return x.swapaxes(1, 2).reshape((-1, x.shape[1], x.shape[3]))


class FeedForward(nn.Module):
    """wo(Π act_i(wi_i x)): plain with one activation, gated with two (Shazeer 2020)."""

    config: TransformerConfig

    def setup(self):
        count = len(self.config.mlp_activations)
        names = ['wi'] if count == 1 else [f'wi_{i}' for i in range(count)]
        for name in names:
            setattr(self, name, Dense(self.config, self.config.mlp_dim, ('embed', 'mlp'), bias=self.config.mlp_bias))
        self.projections = [getattr(self, name) for name in names]
        self.wi_gated = Dense(self.config, count * self.config.mlp_dim, ('embed', 'mlp'), bias=self.config.mlp_bias)
        self.wo = Dense(self.config, self.config.emb_dim, ('mlp', 'embed'), bias=self.config.mlp_bias, adds=True)
        self.dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))

    def __call__(self, x, deterministic=True):
        hidden = 1
        for activation, y in zip(self.config.mlp_activations, _together(self.wi_gated, self.projections, x)):
            hidden = hidden * _FUNCTIONS[activation](y)
        return self.wo(self.dropout(hidden, deterministic=deterministic))
