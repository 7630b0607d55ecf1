"""What each layer knows already: the rank of the final token; how sure a measure is and how right (Vincenti et al. 2024)."""

import numpy as np

from calm_jax.analysis.confidences import LayerConfidences

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def ranks(seen: LayerConfidences) -> dict:
    """Per layer the quantiles of the final token's rank among all ids, from 1, and the share of tokens where it is first."""
    return {
        'quantiles': [[float(value) for value in np.quantile(layer, QUANTILES)] for layer in seen.rank],
        'first': [float(np.mean(layer == 1)) for layer in seen.rank],
        'tokens': int(seen.rank.shape[1]),
    }


def confidence(seen: LayerConfidences) -> dict:
    """Per layer the mean confidence and the share of tokens that would be said right, if all left there; and the share where
    what would be said is not what the whole head says there, as a pruned vocabulary has it."""
    return {
        'confidence': [float(np.mean(layer)) for layer in seen.confidence],
        'accuracy': [float(np.mean(layer)) for layer in seen.agrees],
        'unlike_head': [float(np.mean(layer)) for layer in seen.predicted != seen.likeliest],
        'tokens': int(seen.rank.shape[1]),
    }


def unlike_scores(seen: LayerConfidences, scored: LayerConfidences) -> list[float]:
    """Of a contrast, per layer the share of tokens where the largest score is not that of the token which is emitted.

    scored: what is seen where the contrast emits by its scores ('auto_contrastive').
    """
    return [float(np.mean(layer)) for layer in scored.predicted != seen.predicted]
