"""Quality of generated texts against references: one value in [0, 1] per example, and corpus values for reporting.

Every metric has the signature `f(predictions, references) -> float64 [B]`: `predictions` B texts, `references` B
sequences of at least one text each. With several references an example scores the maximum over them, so that a further
reference never lowers a value. All raise ValueError where the two lengths differ or an example has no reference.

A corpus metric (`CORPUS_METRICS`) is one number, 0–100, of the whole set. It is no mean of values per example, so its
expectation cannot be tested: `metric` refuses it.
"""

import collections
import functools
import importlib.util
import os
import re
import string
from collections.abc import Callable, Sequence
from importlib import metadata

import numpy as np
import sacrebleu

from calm_jax.metrics.own import OwnMetric
from calm_jax.metrics.words import Words, latin_words, words
from calm_jax.nearest import did_you_mean

Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], np.ndarray]


def rouge1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """F-measure of matching words (Lin 2004, ROUGE-1). Tokenised as `rougeL`."""
    return _rouge('rouge1', predictions, references)


def rouge2(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """F-measure of matching word pairs (Lin 2004, ROUGE-2); 0 for a text of one word. Tokenised as `rougeL`."""
    return _rouge('rouge2', predictions, references)


def rougeL(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:  # noqa: N802, the metric's name
    """F-measure of the longest common subsequence of words (Lin 2004, ROUGE-L), of the text as one sequence.

    No stemmer, as T5's own evaluation; other tools (and ROUGE-1.5.5 with -m) stem and score a little higher. Words are those of
    rouge_score, which keeps a–z and 0–9 and parts a word at any other Latin letter, and besides those of other scripts, which
    rouge_score leaves out (`calm_jax.metrics.words`). A text without any scores 0.
    """
    return _rouge('rougeL', predictions, references)


def token_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """F1 of the words as multisets, after SQuAD normalisation (Rajpurkar et al. 2016).

    Where either text has no word left, 1 if both have none, else 0 (as SQuAD 2.0).
    """
    return _best(_token_f1, predictions, references)


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """1 where the texts are equal after SQuAD normalisation, else 0 (Rajpurkar et al. 2016)."""
    return _best(lambda prediction, reference: normalized(prediction) == normalized(reference), predictions, references)


def chrf(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Sentence chrF2 / 100 (Popović 2015), sacreBLEU's defaults: F₂ of character 1–6-grams, no spaces, case kept."""
    return _best(
        lambda prediction, reference: _chrf().sentence_score(prediction, [reference]).score / 100, predictions, references
    )


def sentence_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Sentence BLEU-4 / 100 as sacreBLEU computes it: tokeniser 13a, case kept, effective order, smoothing `exp`.

    Smoothing `exp` (Chen & Cherry 2014, method 3): the k-th n-gram order without a match counts 1 / 2^k matches. A text
    without any matching word scores 0. Several references: the best one alone, where corpus BLEU pools their n-grams.
    """
    return _best(
        lambda prediction, reference: _sentence_bleu().sentence_score(prediction, [reference]).score / 100,
        predictions,
        references,
    )


def accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """1 where the texts are equal but for surrounding white space, else 0: labels."""
    return _best(lambda prediction, reference: prediction.strip() == reference.strip(), predictions, references)


def bleurt(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """BLEURT (Sellam et al. 2020) clipped to [0, 1]; its checkpoint is the folder in the variable BLEURT_CHECKPOINT.

    Raises ValueError where the package is missing or the variable names no folder.
    """
    _check(predictions, references)
    scorer = _bleurt_scorer(_bleurt_checkpoint())
    if not len(predictions):
        return np.zeros(0)
    counts = [len(row) for row in references]
    scores = scorer.score(
        references=[reference for row in references for reference in row],
        candidates=[prediction for prediction, count in zip(predictions, counts) for _ in range(count)],
    )
    firsts = np.cumsum([0] + counts[:-1])
    return np.clip(np.maximum.reduceat(np.asarray(scores, np.float64), firsts), 0.0, 1.0)


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4, 0–100 (Papineni et al. 2002): sacreBLEU's defaults, all references of an example pooled."""
    return _corpus(sacrebleu.BLEU(), predictions, references)


def corpus_chrf(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF2, 0–100 (Popović 2015): sacreBLEU's defaults, counts summed over the examples' best references."""
    return _corpus(sacrebleu.CHRF(), predictions, references)


METRICS: dict[str, Metric] = {
    'rouge1': rouge1,
    'rouge2': rouge2,
    'rougeL': rougeL,
    'token_f1': token_f1,
    'exact_match': exact_match,
    'chrf': chrf,
    'sentence_bleu': sentence_bleu,
    'accuracy': accuracy,
    'bleurt': bleurt,
}

BINARY = ('exact_match', 'accuracy')  # 0 or 1 for every example

CORPUS_METRICS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], float]] = {
    'bleu': bleu,
    'corpus_chrf': corpus_chrf,
}


def metric(name: str | Metric) -> Metric:
    """The metric of that name with one value per example; a function of one's own, checked at each call (`OwnMetric`).

    Raises ValueError for an unknown name, with the nearest known one, and for a corpus metric.
    """
    if not isinstance(name, str):
        return OwnMetric(name)
    if name in CORPUS_METRICS:
        raise ValueError(
            f'metric {name!r} is one number for a whole corpus, with no value per example whose mean '
            f'could be guaranteed: choose one of {", ".join(METRICS)}'
        )
    _known(name, METRICS)
    if name == 'bleurt':
        _bleurt_checkpoint()  # what is missing is said before there is anything to score
    return METRICS[name]


# What a reference needs to score more than 0 against itself, of the metrics where there are others.
_MATCHABLE: dict[str, Callable[[str], bool]] = {
    'rouge1': lambda reference: bool(words(reference)),
    'rouge2': lambda reference: len(words(reference)) > 1,
    'rougeL': lambda reference: bool(words(reference)),
    'chrf': lambda reference: bool(reference.strip()),
    'sentence_bleu': lambda reference: bool(reference.strip()),
}


def unscored(name: str | Metric, references: Sequence[Sequence[str]]) -> np.ndarray:
    """Which examples have references that score 0 against themselves, bool [B]: no prediction can be right under the metric, as
    of a reference without a word under ROUGE. Of a metric of one's own nothing is known: none."""
    matches = _MATCHABLE.get(name) if isinstance(name, str) else None
    return np.array([matches is not None and not any(map(matches, row)) for row in references], bool)


def beyond_rouge_score(name: str | Metric, references: Sequence[Sequence[str]]) -> int:
    """How many examples have references whose words rouge_score leaves out, so that a ROUGE here is not the one it computes."""
    if not isinstance(name, str) or not name.startswith('rouge'):
        return 0
    return sum(any(words(reference) != latin_words(reference) for reference in row) for row in references)


def several(metrics: str | Metric | Sequence[str | Metric]) -> list[str | Metric]:
    """One metric or several, as a list."""
    return [metrics] if isinstance(metrics, str) or not isinstance(metrics, Sequence) else list(metrics)


def metric_name(name: str | Metric) -> str:
    """What a metric is called in results: its name, or package.module:function of one of one's own."""
    return name if isinstance(name, str) else OwnMetric(name).name


def metric_version(name: str | Metric) -> str:
    """What a value of the metric depends on: library, version and options, or the source of a function of one's own.

    Raises ValueError for an unknown name.
    """
    if not isinstance(name, str):
        return OwnMetric(name).version
    _known(name, {**METRICS, **CORPUS_METRICS})
    if name.startswith('rouge'):
        library = f'rouge-score {metadata.version("rouge-score")}'
        return f'{library} {name} F-measure, words of all scripts 1, no stemmer, best reference'
    if name == 'bleurt':
        folder = os.path.basename(os.path.normpath(_bleurt_checkpoint()))
        return f'bleurt {metadata.version("bleurt")} {folder}, clipped to [0, 1], best reference'
    library = f'sacrebleu {sacrebleu.__version__}'
    return {
        'token_f1': 'token_f1 1, SQuAD normalisation, best reference',
        'exact_match': 'exact_match 1, SQuAD normalisation, any reference',
        'accuracy': 'accuracy 1, surrounding space stripped, any reference',
        'chrf': f'{library} sentence chrF2 nc:6 nw:0 space:no case:mixed eff:yes, best reference',
        'sentence_bleu': f'{library} sentence BLEU tok:13a smooth:exp case:mixed eff:yes, best reference',
        'bleu': f'{library} corpus BLEU tok:13a smooth:exp case:mixed eff:no',
        'corpus_chrf': f'{library} corpus chrF2 nc:6 nw:0 space:no case:mixed eff:yes',
    }[name]


_PUNCTUATION = str.maketrans('', '', string.punctuation)
_ARTICLES = re.compile(r'\b(a|an|the)\b')


def normalized(text: str) -> str:
    """SQuAD normalisation (Rajpurkar et al. 2016): lower case, no ASCII punctuation, no a/an/the, single spaces."""
    return ' '.join(_ARTICLES.sub(' ', text.lower().translate(_PUNCTUATION)).split())


def _token_f1(prediction: str, reference: str) -> float:
    predicted, wanted = normalized(prediction).split(), normalized(reference).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    # 2 / (1/precision + 1/recall) with both over the same number of common words
    common = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
    return 2 * common / (len(predicted) + len(wanted))


def _rouge(kind: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    scorer = _rouge_scorer(kind)
    return _best(lambda prediction, reference: scorer.score(reference, prediction)[kind].fmeasure, predictions, references)


@functools.cache
def _rouge_scorer(kind: str):
    from rouge_score import rouge_scorer  # imports NLTK, which costs a second or two

    return rouge_scorer.RougeScorer([kind], use_stemmer=False, tokenizer=Words())


@functools.cache
def _chrf():
    return sacrebleu.CHRF()


@functools.cache
def _sentence_bleu():
    return sacrebleu.BLEU(smooth_method='exp', effective_order=True)


@functools.cache
def _bleurt_scorer(checkpoint: str):
    from bleurt import score  # pyright: ignore[reportMissingImports]  # optional; imports TensorFlow

    return score.BleurtScorer(checkpoint)


def _bleurt_checkpoint() -> str:
    if importlib.util.find_spec('bleurt') is None:
        raise ValueError(
            "metric 'bleurt' needs the package bleurt, which is not installed: "
            'pip install git+https://github.com/google-research/bleurt'
        )
    folder = os.environ.get('BLEURT_CHECKPOINT', '')
    if not os.path.isdir(folder):
        found = f'is {folder!r}, no folder' if folder else 'is not set'
        raise ValueError(
            f"metric 'bleurt' needs a checkpoint: the environment variable BLEURT_CHECKPOINT {found}; "
            'expected the folder of an unpacked BLEURT checkpoint such as BLEURT-20'
        )
    return folder


def _best(score: Callable[[str, str], float], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """max over r of score(prediction, r) for each example, [B]; clipped, as rounding may leave 1 + 4e-16."""
    _check(predictions, references)
    values = [max(score(prediction, reference) for reference in row) for prediction, row in zip(predictions, references)]
    return np.clip(np.array(values, np.float64), 0.0, 1.0)


def _corpus(scorer, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    _check(predictions, references)
    if not len(predictions):
        raise ValueError('no examples: a corpus metric needs at least one')
    # sacreBLEU takes the k-th references of all examples together, None where an example has fewer
    most = max(len(row) for row in references)
    streams = [[row[k] if k < len(row) else None for row in references] for k in range(most)]
    return float(scorer.corpus_score(list(predictions), streams).score)


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f'{len(predictions)} predictions and {len(references)} lists of references: expected as many of each')
    for index, row in enumerate(references):
        if isinstance(row, str):
            raise ValueError(f'references[{index}] is a string: expected a list of strings, one for each reference')
        if not len(row):
            raise ValueError(f'example {index} has no reference: expected at least one')


def _known(name: str, names: dict) -> None:
    if name not in names:
        own = ', or package.module:function' if ':' not in name else '; a function is handed in itself'
        raise ValueError(f'unknown metric {name!r}; expected one of {", ".join(names)}{own}{did_you_mean(name, names)}')
