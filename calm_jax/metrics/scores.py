"""One number for a set of predictions: of a corpus metric, or the mean of a metric with one value per example."""

from collections.abc import Sequence

from calm_jax.metrics import quality

CORPUS, MEAN = 'corpus, 0–100', 'mean of examples, 0–1'


def score(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The value of the metric of that name. Raises ValueError for an unknown name, and as the metrics do."""
    if name in quality.CORPUS_METRICS:
        return float(quality.CORPUS_METRICS[name](predictions, references))
    return float(quality.metric(name)(predictions, references).mean())


def unit(name: str) -> str:
    """What the metric's value is counted in."""
    return CORPUS if name in quality.CORPUS_METRICS else MEAN
