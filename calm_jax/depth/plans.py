"""Makers of plans: which sub-layers each row runs for its whole sequence.

A maker is a function of the example ids int [B] of a batch's rows, so that no row's plan depends on its neighbours.
"""

import dataclasses

import numpy as np

from calm_jax.types import Plan


def fixed(rows, decoder_layers, encoder_layers):
    """The same whole layers for every row: decoder_layers bool [L], encoder_layers bool [its layers] → Plan."""
    decoder = np.broadcast_to(np.asarray(decoder_layers, bool), (rows, len(decoder_layers)))
    encoder = np.broadcast_to(np.asarray(encoder_layers, bool), (rows, len(encoder_layers)))
    return Plan(decoder, decoder, decoder, encoder, encoder)


def full(rows, num_layers, num_encoder_layers):
    """Everything runs."""
    return fixed(rows, np.ones(num_layers, bool), np.ones(num_encoder_layers, bool))


@dataclasses.dataclass(frozen=True)
class Uniform:
    """`cost` of L decoder layers, evenly spaced; the encoder runs in full."""

    cost: int
    num_layers: int
    num_encoder_layers: int

    def __call__(self, example_ids):
        layers = uniform_layers(self.cost, self.num_layers)
        return fixed(len(example_ids), layers, np.ones(self.num_encoder_layers, bool))


def uniform_layers(cost, num_layers):
    """bool [L]: U(l, c) = 1[Σ_{k<l} U(k, c) ≤ (l − 1) c / L], layers from 1 (Glavas et al. 2024,
    Eq. 2): exactly c of them. Compared in integers, so that no rounding moves a layer.

    Raises ValueError when cost is outside 1…L.
    """
    if not 1 <= cost <= num_layers:
        raise ValueError(f'uniform plan of {cost} layers; expected 1 to {num_layers}, the layers the decoder has')
    runs = []
    for layer in range(num_layers):
        runs.append(sum(runs) * num_layers <= layer * cost)
    return np.array(runs)
