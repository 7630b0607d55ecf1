"""One number for a set of predictions: of a corpus metric, or the mean of a metric with one value per example."""

from collections.abc import Sequence

from calm_jax.metrics import quality

CORPUS, MEAN = 'corpus, 0–100', 'mean of examples, 0–1'


def score(metric: str | quality.Metric, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The value of the metric of that name, or of one's own. Raises ValueError for an unknown name, and as the metrics do."""
    if isinstance(metric, str) and metric in quality.CORPUS_METRICS:
        return float(quality.CORPUS_METRICS[metric](predictions, references))
    return float(quality.metric(metric)(predictions, references).mean())


def unit(metric: str | quality.Metric) -> str:
    """What the metric's value is counted in."""
    return CORPUS if isinstance(metric, str) and metric in quality.CORPUS_METRICS else MEAN
