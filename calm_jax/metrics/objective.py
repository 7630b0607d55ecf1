"""What a calibration bounds: the loss of early outputs against the full model's, per example, for one or several metrics."""

import logging
from collections.abc import Sequence

import numpy as np

from calm_jax.metrics import consistency, quality
from calm_jax.metrics.own import OwnMetric

_LOGGER = logging.getLogger('calm_jax')
KINDS = ('textual', 'risk')


class Objective:
    """Textual consistency (Eq. 10: 1 − m(early, full)) or risk consistency (Eq. 11, clamped; or its signed difference).

    kind: 'textual' or 'risk'. metrics: per-example metrics in [0, 1], by name or functions of one's own. references: per
    example at least one text; needed for 'risk', and for `quality`. signed: 'risk' without the clamp, in [−1, 1].

    Raises ValueError for an unknown kind or metric, risk without references or with some that cannot be matched, and signed
    textual losses.
    """

    def __init__(
        self,
        kind: str,
        metrics: Sequence[str | quality.Metric],
        references: Sequence[Sequence[str]] | None = None,
        signed: bool = False,
    ):
        if kind not in KINDS:
            raise ValueError(f'unknown objective {kind!r}; expected one of {", ".join(KINDS)}')
        if kind == 'risk' and references is None:
            raise ValueError('objective risk compares with references; name their field with --target_field')
        if signed and kind != 'risk':
            raise ValueError('signed losses belong to objective risk; a textual loss has no sign')
        names = tuple(quality.metric_name(each) for each in metrics)
        if len(set(names)) != len(names) or not names:
            raise ValueError(f'metrics: expected one or several different ones, found {", ".join(names) or "none"}')
        self.kind, self.names, self.signed, self.references = kind, names, signed, references
        self._worthless: set[str] = set()  # metrics of which it was said
        self._metrics = {name: quality.metric(each) for name, each in zip(names, metrics)}
        if kind == 'risk' and references is not None:
            for name, each in zip(names, metrics):
                _check_scored(name, each, references)
        self._versions = {name: quality.metric_version(each) for name, each in zip(names, metrics)}

    @property
    def binary(self) -> bool:
        """Whether every loss is 0 or 1, as far as is known beforehand: a metric of one's own may be so."""
        own = (isinstance(each, OwnMetric) for each in self._metrics.values())
        return not self.signed and all(name in quality.BINARY or is_own for name, is_own in zip(self.names, own))

    def losses(self, early: Sequence[str], full: Sequence[str]):
        """float64 [n], or {metric: [n]} where there are several."""
        values = {name: self._loss(name, metric, early, full) for name, metric in self._metrics.items()}
        return values if len(values) > 1 else values[self.names[0]]

    def quality(self, texts: Sequence[str]) -> np.ndarray | None:
        """The first metric against the references, [n]; None without references."""
        return None if self.references is None else self._metrics[self.names[0]](texts, self.references)

    def consistency(self, early: Sequence[str], full: Sequence[str]) -> np.ndarray:
        """The first metric against the full model's output, [n]."""
        return 1 - consistency.textual_loss(self._metrics[self.names[0]], early, full)

    def versions(self) -> dict | str:
        """What computed the metrics, for the certificate."""
        return self._versions if len(self._versions) > 1 else self._versions[self.names[0]]

    def _loss(self, name, metric, early, full):
        if self.kind == 'textual':
            return consistency.textual_loss(metric, early, full)
        compare = consistency.risk_difference if self.signed else consistency.risk_loss
        scores = metric(full, self.references)
        if not self.signed and not np.any(scores):
            self._warn_worthless(name, len(full))
        return compare(metric(early, self.references), scores)

    def _warn_worthless(self, name, count):
        if name not in self._worthless:
            self._worthless.add(name)
            _LOGGER.warning(
                f'{name} scores full depth 0 on all {count} examples, so that nothing can be lost and any threshold is '
                'certified: see whether references and outputs are of one language, and have words (for ROUGE) at all'
            )


def _check_scored(name, metric, references):
    """Raises ValueError for references that score 0 against themselves: whatever replaces the full output, their loss is 0."""
    unscored = quality.unscored(metric, references)
    if unscored.any():
        first = references[int(np.argmax(unscored))][0]
        raise ValueError(
            f'{name} scores {int(unscored.sum())} of {len(references)} references 0 against themselves, '
            f'the first {first[:40]!r}: their risk is 0 whatever is said; leave them out, or choose another metric'
        )
