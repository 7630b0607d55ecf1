"""Texts that end an output, looked for on the host in what rows have said."""

import bisect
import itertools
from collections.abc import Sequence

import jax
import numpy as np

from calm_jax.data.tokenizers import Tokenizer
from calm_jax.types import Trace


def has_stopped(tokens: Sequence[int], tokenizer: Tokenizer, stop_strings: Sequence[str]) -> bool:
    """Whether one of some texts is in what the tokens say. Special tokens are texts too, as they are written.

    As in Hugging Face transformers 5 (`StopStringCriteria`), but that no text begins within the prompt.
    """
    if not stop_strings:
        return False
    texts = tokenizer.decode(tokens), _spelt(tokens, tokenizer)
    return any(each in text for text in texts for each in stop_strings)


def _spelt(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text with special tokens, which `decode` drops, as they are written."""
    parts: list[str] = []
    special = [token < tokenizer.vocab_size and not tokenizer.decode([token]) for token in tokens]
    for alone, run in itertools.groupby(zip(special, tokens), key=lambda each: each[0]):
        ids = [token for _, token in run]
        parts += tokenizer.pieces(ids) if alone else [tokenizer.decode(ids)]
    return ''.join(parts)


def length_at_stop(tokens: Sequence[int], tokenizer: Tokenizer, stop_strings: Sequence[str]) -> int:
    """How many tokens there are up to the one that completes the first of some texts; all, where none does."""
    if not has_stopped(tokens, tokenizer, stop_strings):
        return len(tokens)
    counts = range(1, len(tokens) + 1)
    return counts[bisect.bisect_left(counts, True, key=lambda count: has_stopped(tokens[:count], tokenizer, stop_strings))]


def cut_at_stops(trace: Trace, tokenizer: Tokenizer, stop_strings: Sequence[str]) -> Trace:
    """The trace, on the host, of rows whose texts end where the first of some texts does: what came after is as if it had not
    been said, its work too."""
    if not stop_strings:
        return trace
    tokens, lengths = np.asarray(trace.tokens), np.asarray(trace.lengths)
    said = [row[:length].tolist() for row, length in zip(tokens, lengths)]
    ends = np.array([length_at_stop(row, tokenizer, stop_strings) for row in said], lengths.dtype)
    there = np.arange(tokens.shape[1]) < ends[:, None]

    columns = trace.exit_layers, trace.confidence, trace.work, trace.log_probabilities
    cut = jax.tree.map(lambda column: np.where(there, column, np.zeros_like(column)), columns)
    return trace._replace(lengths=ends, **dict(zip(('exit_layers', 'confidence', 'work', 'log_probabilities'), cut)))
