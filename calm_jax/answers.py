"""What a task's head says of a text, as a text: a label, or a part of what was read."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calm_jax.tasks import Labels, Spans

Offsets = Sequence[tuple[int, int]]
"""Of each token, which characters of its text it spells, from and up to."""


class Answer(NamedTuple):
    """text: of the label, or of the answer, empty where there is none. places: which tokens of the source it is, of a label
    none. confidence: its probability. number: of the label, or of the first token of the answer, 0 where there is none."""

    text: str
    places: range
    confidence: float
    number: int


def label_of(scores: np.ndarray, task: Labels) -> Answer:
    """The likeliest label; scores: [C]."""
    chances = _softmax(scores)
    best = int(np.argmax(chances))
    return Answer(task.names[best], range(0), float(chances[best]), best)


def span_of(scores: np.ndarray, offsets: Offsets, text: str, passage: range, task: Spans) -> Answer:
    """The answer whose first and last token together score most, of at most `task.longest` tokens that spell something of a
    passage; none, where that is allowed and the first token alone scores as much.

    scores: [n, 2], of the text's tokens. passage: which characters of the text may be answered with. An answer is the text's
    own characters, without white space around them.
    """
    parts = (text[max(start, passage.start) : min(stop, passage.stop)] for start, stop in offsets)
    spells = np.array([bool(part.strip()) for part in parts], bool)
    first, last = (np.where(spells, scores[:, side], -np.inf).astype(np.float64) for side in range(2))
    best, place = -np.inf, (0, 0)
    for length in range(1, min(task.longest, len(first)) + 1):
        sums = first[: len(first) - length + 1] + last[length - 1 :]
        start = int(np.argmax(sums))
        if sums[start] > best:
            best, place = float(sums[start]), (start, start + length)
    none = float(scores[0].sum()) if task.unanswerable and len(scores) else -np.inf
    if best == -np.inf or none >= best:
        return Answer('', range(0), _chance(scores, spells, task, 0, 0) if none > -np.inf else 1.0, 0)
    start, stop = place
    begins, ends = max(offsets[start][0], passage.start), min(offsets[stop - 1][1], passage.stop)
    return Answer(text[begins:ends].strip(), range(start, stop), _chance(scores, spells, task, start, stop - 1), start)


def _chance(scores: np.ndarray, spells: np.ndarray, task: Spans, start: int, stop: int) -> float:
    """The probability of an answer: of its first token times that of its last, among all that may be answered with."""
    possible = spells.copy()
    if task.unanswerable:
        possible[0] = True
    chances = _softmax(np.where(possible[:, None], scores, -np.inf))
    return float(chances[start, 0] * chances[stop, 1])


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Over the first axis, float64."""
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=0))
    return powers / powers.sum(axis=0)
