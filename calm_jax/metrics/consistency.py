"""Losses in [0, 1] that a calibration bounds: how far an early-exiting output is from the full model's, per example.

Schuster et al. 2022, §4.2: with m a quality metric in [0, 1], the distance D and the risk R are 1 − m.
"""

from collections.abc import Sequence

import numpy as np

from calm_jax.metrics.quality import Metric


def textual_loss(metric: Metric, early: Sequence[str], full: Sequence[str]) -> np.ndarray:
    """L = 1 − m(early, full), [B] (Eq. 10); equal texts lose 0.

    The full model must be consistent with itself, for that is what the guarantee falls back on; a metric may disagree
    where there is nothing to match (ROUGE of two empty texts is 0, ROUGE-2 of one word too).
    Raises ValueError where the numbers of texts differ.
    """
    if len(early) != len(full):
        raise ValueError(f'{len(early)} early and {len(full)} full outputs: expected as many of each')
    loss = np.zeros(len(early))
    changed = [i for i in range(len(early)) if early[i] != full[i]]  # also most of the time saved: few outputs change
    loss[changed] = 1.0 - metric([early[i] for i in changed], [[full[i]] for i in changed])
    return loss


def risk_loss(early_quality: np.ndarray, full_quality: np.ndarray) -> np.ndarray:
    """L = max(0, R_early − R_full) with R = 1 − quality against the references (Eq. 11); any shape, broadcast.

    Conservative: an example on which the early output is better earns nothing. Raises ValueError outside [0, 1].
    """
    return np.maximum(0.0, risk_difference(early_quality, full_quality))


def risk_difference(early_quality: np.ndarray, full_quality: np.ndarray) -> np.ndarray:
    """R_early − R_full, in [−1, 1]: what the hypothesis E[R_early] ≤ E[R_full] + δ (Eq. 2) is about, unclamped.

    Raises ValueError where a quality is outside [0, 1] or not a number.
    """
    early_quality, full_quality = np.asarray(early_quality, np.float64), np.asarray(full_quality, np.float64)
    for name, quality in (('early', early_quality), ('full', full_quality)):
        if not np.all((quality >= 0) & (quality <= 1)):
            wrong = quality[~((quality >= 0) & (quality <= 1))].flat[0]
            raise ValueError(f'{name} quality {wrong} is outside [0, 1]: expected a metric per example, not in percent')
    return full_quality - early_quality
