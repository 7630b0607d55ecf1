"""Counts and times of a run that decodes, for the summary beside its file."""

import itertools
import time
from array import array
from collections.abc import Iterable, Iterator

import numpy as np


class _Rate:
    """Tokens, and the seconds they took."""

    def __init__(self):
        self.tokens, self._seconds = 0, 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.tokens += tokens
        self._seconds += seconds

    @property
    def per_second(self) -> float:
        return self.tokens / self._seconds if self._seconds else 0.0


class Summary:
    """Counts and times of a run, gathered while outputs pass by."""

    def __init__(self):
        self._began = time.perf_counter()
        self._rows = self._tokens = self._truncated = 0
        self._compile_seconds = 0.0
        self._all, self._warm = _Rate(), _Rate()  # of this run, and of it while nothing was compiled
        self._places = self._used = self._executed = self._needed = 0
        self._widths = set()
        self._rounds, self._drafted, self._accepted = 0, [], []
        self._layers = self._flops = 0.0
        self._seconds = array('d')  # of each example that this run decoded

    def passing(self, outputs: Iterable) -> Iterator:
        """The outputs, counted and timed."""
        for output in outputs:
            self._count(output.tokens, output.layers, output.truncated, output.flops)
            self._seconds.append(output.batch_seconds)
            yield output

    def report(self, report) -> None:
        """Counts what decoding took, a `calm_jax.output.DecodeReport`."""
        self._places += report.places
        self._used += report.tokens
        self._executed += report.executed
        self._needed += report.needed
        self._widths |= report.widths
        self._compile_seconds += report.compile_seconds
        self._rounds += report.rounds
        for sums, counts in ((self._drafted, report.drafted), (self._accepted, report.accepted)):
            sums[:] = [a + b for a, b in itertools.zip_longest(sums, counts, fillvalue=0)]
        for rate in [self._all] if report.compile_seconds else [self._all, self._warm]:
            rate.add(report.tokens, report.seconds)

    def include(self, records: Iterable[dict]) -> None:
        """Counts records of an earlier run, which took other time."""
        for each in records:
            self._count(each['tokens'], each['layers'], each['truncated'], each['flops'])

    def _count(self, tokens, layers, truncated, flops):
        self._rows += 1
        self._tokens += len(tokens)
        self._layers += layers * len(tokens)
        self._truncated += truncated
        self._flops += flops

    def as_dict(self) -> dict:
        """Counts of all examples: examples, tokens, truncated inputs, layers and FLOPs per token. Of this run: the places that
        it had (steps times rows) and used (its tokens); the same of sub-layers, `places_executed` and `places_needed`; the
        widths of sources, each a program of its own; of drafts that were verified the rounds, and by their place in a round how
        many were drafted and accepted; seconds of all it did, those of them that went into compiling, and those
        of decoding `timed_examples`, in none of which anything is compiled: their sum, tokens per second, mean and median of an
        example (None where there is none). Tokens per second are of the time after compiling was done, where there is some."""
        tokens = max(1, self._tokens)
        decoding, drafts = sum(self._seconds), (self._rounds, self._drafted, self._accepted)
        return {
            'examples': self._rows,
            'tokens': self._tokens,
            'truncated': self._truncated,
            'layers_per_token': self._layers / tokens,
            'flops_per_token': self._flops / tokens,
            'places': self._places,
            'places_used': self._used,
            'places_executed': self._executed,
            'places_needed': self._needed,
            'widths': sorted(self._widths),
            **({'drafts': dict(zip(('rounds', 'drafted', 'accepted'), drafts))} if self._rounds else {}),
            'seconds': time.perf_counter() - self._began,
            'compile_seconds': self._compile_seconds,
            'timed_examples': len(self._seconds),
            'decode_seconds': decoding,
            'tokens_per_second': (self._warm if self._warm.tokens else self._all).per_second,
            'seconds_per_example_mean': decoding / len(self._seconds) if self._seconds else None,
            'seconds_per_example_median': float(np.median(self._seconds)) if self._seconds else None,
        }
