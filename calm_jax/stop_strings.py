"""Texts that end an output, looked for on the host in what rows have said, while they are in flight and when they have left."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from calm_jax.data.tokenizers import Tokenizer
from calm_jax.types import Trace


class _Token(NamedTuple):
    """special: whether it has no text. may_end: whether one of the texts may end with it."""

    special: bool
    may_end: bool


class StopStrings:
    """Some texts: an output ends with the first token after which one of them has been said. Special tokens are texts too, as
    they are written.

    As in Hugging Face transformers 5 (`StopStringCriteria`), but that no text begins within the prompt.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        self.texts, self._tokenizer = tuple(texts), tokenizer
        self._last = {text[-1] for text in self.texts}
        self._tokens: dict[int, _Token] = {}
        self._read: dict[int, int] = {}  # how many tokens of each row have been looked at

    def end(self, tokens: Sequence[int], read: int = 0) -> int | None:
        """How many tokens there are up to the end of the first of the texts; None where none has been said. read: how many were
        looked at before, without one."""
        if not self.texts:
            return None
        counts = (count for count in range(read + 1, len(tokens) + 1) if self._token(tokens[count - 1]).may_end)
        return next((count for count in counts if self._said(tokens[:count])), None)

    def ended(self, row: int, tokens: Sequence[int]) -> bool:
        """Whether a row, whose tokens grow from one call to the next, has said one of the texts."""
        read, self._read[row] = self._read.get(row, 0), len(tokens)
        return self.end(tokens, read) is not None

    def cut(self, trace: Trace) -> Trace:
        """The trace, on the host, of rows that end with the texts: what came after is as if it had not been said, its work
        too."""
        if not self.texts:
            return trace
        rows = zip(np.asarray(trace.tokens).tolist(), np.asarray(trace.lengths).tolist())
        ends = [length if (end := self.end(row[:length])) is None else end for row, length in rows]
        there = np.arange(trace.tokens.shape[1]) < np.array(ends)[:, None]
        columns = trace.exit_layers, trace.confidence, trace.work, trace.log_probabilities
        cut = jax.tree.map(lambda column: np.where(there, column, np.zeros_like(column)), columns)
        named = dict(zip(('exit_layers', 'confidence', 'work', 'log_probabilities'), cut))
        return trace._replace(lengths=np.array(ends, trace.lengths.dtype), **named)

    def _said(self, tokens: Sequence[int]) -> bool:
        """Whether one of the texts is in what the tokens say."""
        texts = [self._tokenizer.decode(tokens)]
        if any(self._token(each).special for each in tokens):
            texts.append(self._spelt(tokens))
        return any(each in text for text in texts for each in self.texts)

    def _spelt(self, tokens: Sequence[int]) -> str:
        """The text with special tokens, which `decode` drops, as they are written."""
        parts: list[str] = []
        for special, run in itertools.groupby(tokens, key=lambda each: self._token(each).special):
            ids = list(run)
            parts += self._tokenizer.pieces(ids) if special else [self._tokenizer.decode(ids)]
        return ''.join(parts)

    def _token(self, token: int) -> _Token:
        if token not in self._tokens:
            text = self._tokenizer.decode([token])
            (piece,) = self._tokenizer.pieces([token])
            # A token that is no character by itself may complete any.
            whole = bool(text) and '\ufffd' not in text
            special = token < self._tokenizer.vocab_size and not text
            self._tokens[token] = _Token(special, not whole or not self._last.isdisjoint(text + piece))
        return self._tokens[token]
