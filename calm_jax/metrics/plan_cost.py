"""What an input costs within a plan, as a sum over its decisions: so that a policy's expected cost has a gradient.

The same prices as `cost.py`, of a decode of T tokens: of each sub-layer what running it adds, of each choice of source tokens
with as many tokens as it keeps. With probabilities in place of decisions the sum is the expectation, because a sub-layer and
the choice of tokens are drawn apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.metrics import cost
from calm_jax.models.config import TransformerConfig
from calm_jax.types import Array

Share = tuple[int, int]
"""Numerator and denominator of what is kept: ⌈n · numerator / denominator⌉ of n tokens."""


class Prices(NamedTuple):
    """Operations in units of those of the full model, float32: what each decision adds for each of B inputs.

    fixed: [B], what no decision is about: the layer that the policy reads after, the head, a prompt.
    encoder_attention, encoder_feed_forward: [B, J], of a layer after the first, by the choice of source tokens.
    decoder_attention: [B, J], self- and cross-attention of a layer with their keys and values; decoder_feed_forward: [B].
    again_attention, again_feed_forward: [B, J] and [B], of every decoder layer but the last, of the first position, which is
    run before for a policy that decides layer by layer; else 0.
    """

    fixed: Array
    encoder_attention: Array
    encoder_feed_forward: Array
    decoder_attention: Array
    decoder_feed_forward: Array
    again_attention: Array
    again_feed_forward: Array


class Chances(NamedTuple):
    """Probabilities, or decisions as 0 and 1: encoder, decoder: [B, layers, 2], that attention and feed-forward run; tokens:
    [B, J], of each choice. The layer that the policy reads after stands among its stack's, and is not counted."""

    encoder: Array
    decoder: Array
    tokens: Array


def prices(
    config: TransformerConfig,
    source_tokens: Array,
    new_tokens: Array,
    shares: Sequence[Share],
    decision_flops: int = 0,
    reads: bool = False,
    layerwise: bool = False,
) -> Prices:
    """The prices of B inputs of so many source and new tokens, int [B], T ≥ 1; shares: J of them, what each choice keeps.

    decision_flops: what the policy itself takes. A decoder-only model's prompt runs in full. reads: whether the decoder goes
    over so many tokens in one pass, for a task, with no prompt before them and no logits behind; its head is left out.
    layerwise: whether the policy decides layer by layer.
    """
    of, read = cost.of_token(config), 4 * config.num_heads * config.head_dim  # of one key by all heads
    decision = config.emb_dim * config.sizes.units(decision_flops)
    sources, length = (jnp.asarray(each, jnp.result_type(float)) for each in (source_tokens, new_tokens))
    kept = jnp.stack([-(-jnp.asarray(source_tokens) * top // bottom) for top, bottom in shares], axis=1).astype(sources.dtype)
    t, m = length[:, None], kept
    feed_forward = length * of.feed_forward
    own = t * (of.queries_outputs + of.keys_values)
    again_attention, again_feed_forward = jnp.zeros_like(m), jnp.zeros_like(length)
    fixed = 0 * length if reads else (config.vocab_size * cost.id_flops(config) + cost.state_flops(config)) * length
    if config.decoder_only:
        sources = jnp.ones_like(sources) if reads else sources  # all of the text is new
        attention = own + read * (t * sources[:, None] + t * (t - 1) / 2) + 0 * m
        encoder_attention = encoder_feed = jnp.zeros_like(m)
        before = jnp.maximum(sources - 1, 0)
        prompt = before * (of.queries_outputs + of.keys_values + of.feed_forward) + read * before * (before + 1) / 2
        fixed = fixed + config.num_decoder_layers * prompt + attention[:, 0] + feed_forward
        if not reads:
            # What the policy looks at are layers over the last token of the prompt too, which the full model runs once.
            looked_at = config.num_decoder_layers - 1 if layerwise else 1
            last = of.queries_outputs + of.keys_values + read * sources + of.feed_forward
            decision = decision + looked_at * last
        encoder_layers, decoder_layers = 0, config.num_decoder_layers - 1
    else:
        attention = own + read * t * (t + 1) / 2 + t * of.queries_outputs + read * t * m + m * of.keys_values
        encoder_attention, encoder_feed = cost.encoder_attention(config, m), m * of.feed_forward
        fixed = fixed + cost.encoder_attention(config, sources) + sources * of.feed_forward
        if layerwise and not reads:
            again_attention = 2 * of.queries_outputs + of.keys_values + read + read * m
            again_feed_forward = jnp.full_like(length, of.feed_forward)
        encoder_layers, decoder_layers = config.num_encoder_layers - 1, config.num_decoder_layers
    whole = (
        fixed
        + encoder_layers * (encoder_attention[:, 0] + encoder_feed[:, 0])
        + decoder_layers * (attention[:, 0] + feed_forward)
    )
    decoder = attention, feed_forward, again_attention, again_feed_forward
    made = Prices(fixed + decision, encoder_attention, encoder_feed, *decoder)
    return jax.tree.map(lambda each: each / whole.reshape(-1, *(1,) * (each.ndim - 1)), made)


def expected(prices: Prices, chances: Chances, decoder_only: bool) -> Array:
    """The expected share of the full model's operations, [B]; exact where the chances are 0 and 1."""
    encoder = jnp.sum(chances.encoder[:, 1:], axis=1)
    decoder = jnp.sum(chances.decoder[:, 1 if decoder_only else 0 :], axis=1)
    again = jnp.sum(chances.decoder[:, :-1], axis=1)
    by_choice = (
        encoder[:, :1] * prices.encoder_attention
        + encoder[:, 1:] * prices.encoder_feed_forward
        + decoder[:, :1] * prices.decoder_attention
        + again[:, :1] * prices.again_attention
    )
    feed_forward = decoder[:, 1] * prices.decoder_feed_forward + again[:, 1] * prices.again_feed_forward
    return prices.fixed + jnp.sum(chances.tokens * by_choice, axis=1) + feed_forward
