"""The transformer, with an encoder or without: whole for training, in halves for decoding that decides layer by layer."""

import functools

import jax.numpy as jnp
from flax import linen as nn

from calm_jax.models import planned
from calm_jax.models.config import TransformerConfig
from calm_jax.models.encoder_attention import ENCODER_ATTENTIONS
from calm_jax.models.layers import MASKED, NORMS, Attention, Dense, Embedding, FeedForward, Head, Residual, widened
from calm_jax.models.positions import PositionEmbedding, RelativePositionBias, standing


def _norm(module, name):
    """The norm of a sub-layer of `module`, its parameters named by where it stands."""
    config = module.config
    name = f'{config.norm_position}_{name}_layer_norm'
    setattr(module, name, NORMS[config.norm](config))
    return getattr(module, name)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added to the state that it read."""

    config: TransformerConfig

    def setup(self):
        if self.config.relative_attention_per_layer:
            self.relpos_bias = RelativePositionBias(self.config, bidirectional=True)
        self.dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))
        self.attention_norm = _norm(self, 'attention')
        self.attention = ENCODER_ATTENTIONS[self.config.encoder_attention](self.config)
        self.mlp_norm = _norm(self, 'mlp')
        self.mlp = FeedForward(self.config)

    def attend(self, x, context, deterministic=True):
        add = Residual(self.config, self.attention_norm, self.dropout)
        return add(x, self.attention.read(add.entering(x), context, deterministic), deterministic)

    def feed_forward(self, x, deterministic=True):
        add = Residual(self.config, self.mlp_norm, self.dropout)
        return add(x, self.mlp(add.entering(x), deterministic), deterministic)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention where there is an encoder, and feed-forward; what attention reads is made apart from the
    reading, so that a layer that is skipped can still write its keys and values."""

    config: TransformerConfig

    def setup(self):
        if self.config.relative_attention_per_layer:
            self.relpos_bias = RelativePositionBias(self.config, bidirectional=False)
        self.dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))
        self.self_attention_norm = _norm(self, 'self_attention')
        self.self_attention = Attention(self.config)
        if not self.config.decoder_only:
            self.cross_attention_norm = _norm(self, 'cross_attention')
            self.encoder_decoder_attention = Attention(self.config)
        self.mlp_norm = _norm(self, 'mlp')
        self.mlp = FeedForward(self.config)

    def self_project(self, x, positions, reach=None):
        """Queries [B, T, N, H], keys and values [B·Nₖᵥ, T, H] of the states x [B, T, D] that enter this layer at positions
        [B, T]. reach: as `positions.frequencies`."""
        add = Residual(self.config, self.self_attention_norm, self.dropout)
        return self.self_attention.project(add.entering(x), positions, reach)

    def self_queries(self, x, positions):
        """Queries alone of such states."""
        add = Residual(self.config, self.self_attention_norm, self.dropout)
        return self.self_attention.project_queries(add.entering(x), positions)

    def self_kv(self, x, positions):
        """Keys and values alone of such states, which this layer holds and does not run."""
        add = Residual(self.config, self.self_attention_norm, self.dropout)
        return self.self_attention.project_held(add.entering(x), positions)

    def cross_kv(self, encoded):
        """Keys and values [B·Nₖᵥ, S, H] of the encoder's output [B, S, D]."""
        return self.encoder_decoder_attention.project_kv(encoded)

    def self_attend(self, x, queries, keys, values, bias, some=None, deterministic=True):
        add = Residual(self.config, self.self_attention_norm, self.dropout)
        return add(x, self.self_attention(queries, keys, values, bias, deterministic, some), deterministic)

    def cross_attend(self, x, keys, values, bias, some=None, deterministic=True):
        add, attention = Residual(self.config, self.cross_attention_norm, self.dropout), self.encoder_decoder_attention
        y = attention(attention.project_queries(add.entering(x)), keys, values, bias, deterministic, some)
        return add(x, y, deterministic)

    def feed_forward(self, x, deterministic=True):
        add = Residual(self.config, self.mlp_norm, self.dropout)
        return add(x, self.mlp(add.entering(x), deterministic), deterministic)


class Encoder(nn.Module):
    config: TransformerConfig

    def setup(self):
        config = self.config
        if config.positions == 'relative' and not config.relative_attention_per_layer:
            self.relpos_bias = RelativePositionBias(config, bidirectional=True)
            if config.encoder_attention == 'transient_global':
                self.side_relpos_bias = RelativePositionBias(config, bidirectional=True)
        if config.positions == 'learned':
            self.position_embedder = PositionEmbedding(config)
        if config.embedding_norm:
            self.embedding_norm = NORMS[config.norm](config)
        self.layers = [EncoderLayer(config) for _ in range(config.num_encoder_layers)]
        if config.final_norm:
            self.encoder_norm = NORMS[config.norm](config)
        self.dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))


class Decoder(nn.Module):
    config: TransformerConfig

    def setup(self):
        config = self.config
        if config.positions == 'relative' and not config.relative_attention_per_layer:
            self.relpos_bias = RelativePositionBias(config, bidirectional=False)
        if config.positions == 'learned':
            self.position_embedder = PositionEmbedding(config)
        if config.embedding_norm:
            self.embedding_norm = NORMS[config.norm](config)
        if config.embedding_dim:
            self.project_in = Dense(config, config.emb_dim, ('embed', 'embed'))
            self.project_out = Dense(config, config.embedding_dim, ('embed', 'embed'))
        self.layers = [DecoderLayer(config) for _ in range(config.num_decoder_layers)]
        if config.final_norm:
            self.decoder_norm = NORMS[config.norm](config)
        self.logits_dense = Head(config)
        self.dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))


class Transformer(nn.Module):
    """A transformer; every method is called through `apply`.

    `encode`, `decode` and `unembed` are the full-depth model on whole sequences. The methods that take a `layer` are
    the same computation in halves, for one layer and any number of positions. A decoder-only model has no `encode`.
    """

    config: TransformerConfig

    def setup(self):
        self.token_embedder = Embedding(self.config)
        if not self.config.decoder_only:
            self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(self, encoder_input_tokens, decoder_input_tokens, encoder_mask=None, deterministic=True):
        """Logits float32 [B, T, V] of the last layer, of source [B, S] (None: decoder-only model) and shifted target [B, T].
        encoder_mask: as `encode`'s mask."""
        encoded = None
        if not self.config.decoder_only:
            encoded = self.encode(encoder_input_tokens, encoder_mask, deterministic=deterministic)
        return self.unembed(self.decode(encoded, encoder_mask, decoder_input_tokens, deterministic=deterministic)[-1])

    def encode(self, tokens, mask=None, plan=None, deterministic=True):
        """Source tokens int32 [B, S] → states [B, S, D], after the encoder's last norm.

        mask: bool [B, S], which of them are there; None: all. plan: sub-layers that rows run (`Plan`).
        """
        call, layers = self._call(deterministic), range(self.config.num_encoder_layers)
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask
        x = call(tokens, method='embed_source')
        if plan is not None and plan.source is not None:  # what goes on after the first layer; the others are seen by nobody
            x, layers = planned.encode(call, layers[:1], x, self.encoder_context(mask)), layers[1:]
            mask = plan.source
        x = planned.encode(call, layers, x, self.encoder_context(mask), plan)
        return call(x, method='encoder_norm')

    def decode(self, encoded, source_mask, tokens, mask=None, plan=None, prompt=None, deterministic=True):
        """The state [B, T, D] after each decoder layer (L of them, before the final norm), targets seen causally.

        encoded: the source's states [B, S, D], or None for a decoder-only model; source_mask: bool [B, S], which of them are
        there. mask: bool [B, T], tokens that are there where padding stands before them; positions count from a row's first
        token. None, of either: all. plan: as `encode`. prompt: bool [B, T], tokens that are read in full beside it; None: none.
        """
        call, run = self._call(deterministic), planned.masked
        if prompt is not None:
            run = functools.partial(planned.outside, prompt, run)
        bias, positions = self.causal_bias(tokens.shape[1], mask), standing(tokens.shape[1], mask)
        x = call(tokens, positions, method='embed')
        cross = None
        if encoded is not None:
            there = jnp.ones(encoded.shape[:2], bool) if source_mask is None else source_mask
            cross = planned.CrossAttention(encoded, self.cross_bias(there))
        states = []
        for layer in range(self.config.num_decoder_layers):
            x, _ = planned.decoder_layer(call, layer, x, positions, bias, cross, plan, run)
            states.append(x)
        return tuple(states)

    def _call(self, deterministic):
        """Methods by name, as `apply` calls them, with dropout unless deterministic."""

        def call(*args, method):
            dropout = {'deterministic': deterministic} if method in DROPS_OUT else {}
            return getattr(self, method)(*args, **dropout)

        return call

    def unembed(self, hidden, part=None):
        """Logits float32 [..., V] of states [..., D] of any layer: the shared final norm, then the shared head. With HeadRows,
        of states [B, D]: those of each row's own ids, [B, k]; with HeadColumns those of their ids, [..., K]."""
        x = self.top(hidden)
        if self.config.head_scale != 1:
            x = x * self.config.head_scale
        return widened(self.decoder.logits_dense(x, self.token_embedder.embedding, part))

    def top(self, hidden):
        """What a head reads, [..., E], of states [..., D] of any layer: the shared final norm, and the projection to the
        embedding's width where it is another."""
        x = (self.decoder.decoder_norm(hidden) if self.config.final_norm else hidden).astype(self.config.dtype)
        return self.decoder.project_out(x) if self.config.embedding_dim else x

    def head_table(self):
        """The head as [V, E], a row per id: made once, to take `head_rows` from."""
        return self.decoder.logits_dense.table(self.token_embedder.embedding)

    def head_rows(self, ids, table):
        """HeadRows of ids int32 [B, k] from `head_table`."""
        return self.decoder.logits_dense.rows(ids, table)

    def head_columns(self, ids):
        """HeadColumns of ids int32 [K]: made once, to score these ids and no others."""
        return self.decoder.logits_dense.columns(ids, self.token_embedder.embedding)

    def embed(self, tokens, positions, deterministic=True):
        """Vectors [..., D] of the decoder's tokens int32 [...] at positions int32 [...]."""
        return self._embed(self.decoder, tokens, positions, deterministic)

    def embed_source(self, tokens, deterministic=True):
        """Vectors [B, S, D] of source tokens."""
        return self._embed(self.encoder, tokens, jnp.arange(tokens.shape[1], dtype=jnp.int32), deterministic)

    def _embed(self, stack, tokens, positions, deterministic):
        x = self.token_embedder(tokens)
        if self.config.embedding_scale != 1:
            x = x * self.config.embedding_scale
        if self.config.embedding_dim:
            x = self.decoder.project_in(x)
        if self.config.positions == 'learned':
            x = x + stack.position_embedder(positions)
        x = stack.embedding_norm(x) if self.config.embedding_norm else x
        return stack.dropout(x.astype(self.config.state_dtype), deterministic=deterministic)

    def encoder_context(self, source_mask, positions=None):
        """What encoder layers attend within (`encoder_attention.py`), of each layer or, in a tuple of one, of all; positions:
        int32 [B, S], where in their source the tokens stand, where some were dropped."""
        attention = ENCODER_ATTENTIONS[self.config.encoder_attention]
        side = getattr(self.encoder, 'side_relpos_bias', _no_bias)
        biases = self._biases(self.encoder)
        return tuple(attention.context(self.config, source_mask, bias, side, positions) for bias in biases)

    def encoder_attend(self, layer, x, context, deterministic=True):
        return self.encoder.layers[layer].attend(x, context, deterministic)

    def encoder_feed_forward(self, layer, x, deterministic=True):
        return self.encoder.layers[layer].feed_forward(x, deterministic)

    def encoder_norm(self, x, deterministic=True):
        x = (self.encoder.encoder_norm(x) if self.config.final_norm else x).astype(self.config.dtype)
        return self.encoder.dropout(x, deterministic=deterministic)

    def self_bias(self, relative_position):
        """Additive scores float32 [N|1, ...] of the decoder's self-attention for key minus query positions [...], of each layer
        or, in a tuple of one, of all."""
        return tuple(bias(relative_position) for bias in self._biases(self.decoder))

    def _biases(self, stack):
        """(distance → scores) of each layer, or of all."""
        if self.config.positions != 'relative':
            return (_no_bias,)
        if self.config.relative_attention_per_layer:
            return tuple(layer.relpos_bias for layer in stack.layers)
        return (stack.relpos_bias,)

    def causal_bias(self, length, mask=None):
        """Additive scores [B|1, N|1, T, T] of the decoder's self-attention on T tokens at once, as `self_bias`: later ones are
        hidden, and with a mask bool [B, T] those that are not there."""
        steps = jnp.arange(length, dtype=jnp.int32)
        distance = steps[None, :] - steps[:, None]
        biases = tuple(bias[None] + jnp.where(distance <= 0, 0.0, MASKED) for bias in self.self_bias(distance))
        return biases if mask is None else tuple(bias + self.cross_bias(mask) for bias in biases)

    def cross_bias(self, mask):
        """Additive scores float32 [B, 1, 1, S] that hide padding."""
        return jnp.where(mask, 0.0, MASKED)[:, None, None, :]

    def self_project(self, layer, x, positions, reach=None):
        return self.decoder.layers[layer].self_project(x, positions, reach)

    def self_queries(self, layer, x, positions):
        return self.decoder.layers[layer].self_queries(x, positions)

    def self_kv(self, layer, x, positions):
        return self.decoder.layers[layer].self_kv(x, positions)

    def cross_kv(self, layer, encoded):
        return self.decoder.layers[layer].cross_kv(encoded)

    def self_attend(self, layer, x, queries, keys, values, bias, some=None, deterministic=True):
        return self.decoder.layers[layer].self_attend(x, queries, keys, values, bias, some, deterministic)

    def cross_attend(self, layer, x, keys, values, bias, some=None, deterministic=True):
        return self.decoder.layers[layer].cross_attend(x, keys, values, bias, some, deterministic)

    def feed_forward(self, layer, x, deterministic=True):
        return self.decoder.layers[layer].feed_forward(x, deterministic)


# Methods that drop activations out in training.
DROPS_OUT = frozenset(
    ('embed', 'embed_source', 'encoder_attend', 'encoder_feed_forward', 'encoder_norm')
    + ('self_attend', 'cross_attend', 'feed_forward')
)


def _no_bias(distance):
    """Scores [1, ...] that tell no distance from another."""
    return jnp.zeros((1,) + distance.shape, jnp.float32)


def init_params(config, key):
    """Random float32 parameters of a transformer, a nested dict under t5x's names. Consumes `key`."""
    tokens = jnp.ones((1, 2), jnp.int32)
    return nn.unbox(Transformer(config).init(key, None if config.decoder_only else tokens, tokens)['params'])
