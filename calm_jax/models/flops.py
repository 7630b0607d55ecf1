"""Floating-point operations of one position, from the model's dimensions."""

from typing import NamedTuple

from calm_jax.models.config import TransformerConfig


class TokenFlops(NamedTuple):
    """Operations of one position in one layer: projections of queries and outputs of one attention, 4·D·A; of keys and values,
    4·D·K; the feed-forward, 2·D·F·(m + 1). Letters as in `metrics/cost.py`."""

    queries_outputs: int
    keys_values: int
    feed_forward: int


def of_token(config: TransformerConfig) -> TokenFlops:
    """Those of a model."""
    return TokenFlops(
        4 * config.emb_dim * config.num_heads * config.head_dim,
        4 * config.emb_dim * config.kv_heads * config.head_dim,
        2 * config.emb_dim * config.mlp_dim * (len(config.mlp_activations) + 1),
    )
