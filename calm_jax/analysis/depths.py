"""What each layer knows already: the rank of the final token; how sure a measure is and how right (Vincenti et al. 2024)."""

import numpy as np
from scipy import stats

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
    what would be said is not what the whole head says there, as a pruned vocabulary has it; and how well the measure tells
    right from wrong (`auc`)."""
    return {
        'confidence': [float(np.mean(layer)) for layer in seen.confidence],
        'accuracy': [float(np.mean(layer)) for layer in seen.agrees],
        'unlike_head': [float(np.mean(layer)) for layer in seen.predicted != seen.likeliest],
        'auc': auc(seen),
        'tokens': int(seen.rank.shape[1]),
    }


def auc(seen: LayerConfidences) -> list[float | None]:
    """Per layer the share of pairs, of a token that would be said right and one that would be said wrong, in which the right
    one has the higher confidence; equal ones count half. 1 where a threshold parts them, ½ where the measure knows nothing: the
    area under the ROC curve. None where all tokens are right, or all wrong."""
    return [_auc(*layer) for layer in zip(seen.confidence, seen.agrees)]


def against_whole(seen: LayerConfidences, whole: LayerConfidences) -> dict:
    """How a measure that looks at a part of the ids ranks tokens beside the same over all ids, per layer: the `auc` of that
    one, and Spearman's correlation of the two confidences, None where one of them is the same for all tokens."""
    return {
        'auc_whole': auc(whole),
        'rank_correlation': [_rank_correlation(*layer) for layer in zip(seen.confidence, whole.confidence)],
    }


def _auc(confidence: np.ndarray, right: np.ndarray) -> float | None:
    """The Mann–Whitney statistic over the number of pairs."""
    count, wrong = int(right.sum()), int((~right).sum())
    if not count or not wrong:
        return None
    return float((stats.rankdata(confidence)[right].sum() - count * (count + 1) / 2) / (count * wrong))


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    if min(np.ptp(one), np.ptp(other)) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(one), stats.rankdata(other))[0, 1])


def unlike_scores(seen: LayerConfidences, scored: LayerConfidences) -> list[float]:
    """Of a contrast, per layer the share of tokens where the largest score is not that of the token which is emitted.

    scored: what is seen where the contrast emits by its scores ('auto_contrastive').
    """
    return [float(np.mean(layer)) for layer in scored.predicted != seen.predicted]
