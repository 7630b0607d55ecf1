"""The encoder-decoder transformer: whole for training, in halves for decoding that decides layer by layer."""

import jax.numpy as jnp
from flax import linen as nn

from calm_jax.models.config import TransformerConfig
from calm_jax.models.layers import MASKED, Attention, Dense, Embedding, FeedForward, RelativePositionBias, RMSNorm, widened


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each on the normed state and added to it."""

    config: TransformerConfig

    def setup(self):
        self.pre_attention_layer_norm = RMSNorm(self.config)
        self.attention = Attention(self.config)
        self.pre_mlp_layer_norm = RMSNorm(self.config)
        self.mlp = FeedForward(self.config)
        self.dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))

    def attend(self, x, bias, deterministic=True):
        normed = self.pre_attention_layer_norm(x)
        y = self.attention(normed, *self.attention.project_kv(normed), bias, deterministic)
        return x + self.dropout(y, deterministic=deterministic)

    def feed_forward(self, x, deterministic=True):
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return x + self.dropout(y, deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward; keys and values are made apart, so that a layer that is
    skipped can still write them (`self_kv`)."""

    config: TransformerConfig

    def setup(self):
        self.pre_self_attention_layer_norm = RMSNorm(self.config)
        self.self_attention = Attention(self.config)
        self.pre_cross_attention_layer_norm = RMSNorm(self.config)
        self.encoder_decoder_attention = Attention(self.config)
        self.pre_mlp_layer_norm = RMSNorm(self.config)
        self.mlp = FeedForward(self.config)
        self.dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))

    def self_kv(self, x):
        """Keys and values [B·N, T, H] of the states x [B, T, D] that enter this layer."""
        return self.self_attention.project_kv(self.pre_self_attention_layer_norm(x))

    def cross_kv(self, encoded):
        """Keys and values [B·N, S, H] of the encoder's output [B, S, D]."""
        return self.encoder_decoder_attention.project_kv(encoded)

    def self_attend(self, x, keys, values, bias, deterministic=True):
        y = self.self_attention(self.pre_self_attention_layer_norm(x), keys, values, bias, deterministic)
        return x + self.dropout(y, deterministic=deterministic)

    def cross_attend(self, x, keys, values, bias, deterministic=True):
        y = self.encoder_decoder_attention(self.pre_cross_attention_layer_norm(x), keys, values, bias, deterministic)
        return x + self.dropout(y, deterministic=deterministic)

    def feed_forward(self, x, deterministic=True):
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return x + self.dropout(y, deterministic=deterministic)


class Encoder(nn.Module):
    config: TransformerConfig

    def setup(self):
        self.relpos_bias = RelativePositionBias(self.config, bidirectional=True)
        self.layers = [EncoderLayer(self.config) for _ in range(self.config.num_encoder_layers)]
        self.encoder_norm = RMSNorm(self.config)
        self.dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))


class Decoder(nn.Module):
    config: TransformerConfig

    def setup(self):
        self.relpos_bias = RelativePositionBias(self.config, bidirectional=False)
        self.layers = [DecoderLayer(self.config) for _ in range(self.config.num_decoder_layers)]
        self.decoder_norm = RMSNorm(self.config)
        self.logits_dense = Dense(self.config, self.config.vocab_size, ('embed', 'vocab'))
        self.dropout = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))


class Transformer(nn.Module):
    """An encoder-decoder transformer; every method is called through `apply`.

    `encode`, `decode` and `unembed` are the full-depth model on whole sequences. The methods that take a `layer` are
    the same computation in halves, for one layer and any number of positions.
    """

    config: TransformerConfig

    def setup(self):
        self.token_embedder = Embedding(self.config)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(self, encoder_input_tokens, decoder_input_tokens, deterministic=True):
        """Logits float32 [B, T, V] of the last layer, for source [B, S] and shifted target [B, T] tokens."""
        encoded = self.encode(encoder_input_tokens, deterministic)
        states = self.decode(encoded, self.source_mask(encoder_input_tokens), decoder_input_tokens, deterministic)
        return self.unembed(states[-1])

    def source_mask(self, tokens):
        """bool [B, S]: which source positions hold a token."""
        return tokens != self.config.pad_id

    def encode(self, tokens, deterministic=True):
        """Source tokens int32 [B, S] → states [B, S, D], after the encoder's last norm."""
        x = self.encoder.dropout(self.embed(tokens), deterministic=deterministic)
        bias = self.encoder_bias(self.source_mask(tokens))
        for layer in self.encoder.layers:
            x = layer.feed_forward(layer.attend(x, bias, deterministic), deterministic)
        return self.encoder.dropout(self.encoder_norm(x), deterministic=deterministic)

    def decode(self, encoded, source_mask, tokens, deterministic=True):
        """The state [B, T, D] after each decoder layer (L of them, before the final norm), targets seen causally."""
        x = self.decoder.dropout(self.embed(tokens), deterministic=deterministic)
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        visible = positions[None, :] <= positions[:, None]
        bias = self.self_bias(positions[None, :] - positions[:, None])[None] + jnp.where(visible, 0.0, MASKED)
        cross_bias = self.cross_bias(source_mask)
        states = []
        for layer in self.decoder.layers:
            x = layer.self_attend(x, *layer.self_kv(x), bias, deterministic)
            x = layer.cross_attend(x, *layer.cross_kv(encoded), cross_bias, deterministic)
            x = layer.feed_forward(x, deterministic)
            states.append(x)
        return tuple(states)

    def unembed(self, hidden, ids=None):
        """Logits float32 [..., V] of states [..., D] of any layer: the shared final norm, then the shared head. With ids
        [B, k], of states [B, D]: those of each row's ids alone, [B, k]."""
        normed, head = self.decoder.decoder_norm(hidden), self.decoder.logits_dense
        return widened(head(normed) if ids is None else head.columns(normed, ids))

    def embed(self, tokens):
        """Token vectors [..., D]."""
        return self.token_embedder(tokens)

    def encoder_bias(self, source_mask):
        """Additive scores [B, N, S, S] of the encoder's self-attention."""
        positions = jnp.arange(source_mask.shape[1], dtype=jnp.int32)
        bias = self.encoder.relpos_bias(positions[None, :] - positions[:, None])
        return bias[None] + self.cross_bias(source_mask)

    def encoder_attend(self, layer, x, bias):
        return self.encoder.layers[layer].attend(x, bias)

    def encoder_feed_forward(self, layer, x):
        return self.encoder.layers[layer].feed_forward(x)

    def encoder_norm(self, x):
        return self.encoder.encoder_norm(x)

    def self_bias(self, relative_position):
        """Additive scores float32 [N, ...] of the decoder's self-attention for key minus query positions [...]."""
        return self.decoder.relpos_bias(relative_position)

    def cross_bias(self, source_mask):
        """Additive scores float32 [B, 1, 1, S] that hide padding."""
        return jnp.where(source_mask, 0.0, MASKED)[:, None, None, :]

    def self_kv(self, layer, x):
        return self.decoder.layers[layer].self_kv(x)

    def cross_kv(self, layer, encoded):
        return self.decoder.layers[layer].cross_kv(encoded)

    def self_attend(self, layer, x, keys, values, bias):
        return self.decoder.layers[layer].self_attend(x, keys, values, bias)

    def cross_attend(self, layer, x, keys, values, bias):
        return self.decoder.layers[layer].cross_attend(x, keys, values, bias)

    def feed_forward(self, layer, x):
        return self.decoder.layers[layer].feed_forward(x)


def init_params(config, key):
    """Random float32 parameters of a transformer, a nested dict under t5x's names. Consumes `key`."""
    tokens = jnp.ones((1, 2), jnp.int32)
    return nn.unbox(Transformer(config).init(key, tokens, tokens)['params'])
