"""Languages of texts, for models that have them: what stands around a source, and what an output begins with."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax.data.tokenizers import Tokenizer
from calm_jax.nearest import did_you_mean

Named = str | Sequence[str] | None
"""The language of all texts by its code, those of each, or what the checkpoint has for its own."""


@dataclasses.dataclass(frozen=True)
class Languages:
    """source, target: of the texts and of their outputs. eos_id: what ends a text without a language behind it.

    A target is read rotated, as the models were trained: it begins with what would end it, then says what stands before it. So
    an output begins with its language, or with an end of sequence after which the language is said first.
    """

    tokenizer: Tokenizer
    eos_id: int
    source: Named = None
    target: Named = None

    def check(self, count: int | None) -> None:
        """Raises ValueError for a language that the tokenizer does not have, and for others than one of each of `count` texts
        (None: nobody knows how many)."""
        for name in ('source', 'target'):
            named = getattr(self, name)
            if named is None:
                continue
            codes = [named] if isinstance(named, str) else named
            if not isinstance(codes, Sequence) or not all(isinstance(code, str) for code in codes):
                raise TypeError(f'{name}_language is {named!r}; expected a code, such as ro_RO, or a list of one for each text')
            for code in dict.fromkeys(codes):
                check_language(f'{name}_language', code, self.tokenizer)
            if not isinstance(named, str) and count is not None and len(named) != count:
                raise ValueError(f'{name}_language has {len(named)} languages for {count} texts; expected one for each')

    def of_source(self, text: int) -> str | None:
        """The language of a text, by its index."""
        return self._of('source', text)

    def begin(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """(the id before an output, its first id or −1 where it is free) int32 [B] of the texts with these indices; below 0, of
        rows that fill up, the first's. None where no language was named."""
        if self.target is None:
            return None
        pairs = [self._begins(self._of('target', max(0, text))) for text in texts.tolist()]
        start, first = np.array(pairs, np.int32).T
        return start, first

    def _of(self, name: str, text: int) -> str | None:
        named = getattr(self, name)
        if named is None or isinstance(named, str):
            return named
        if text >= len(named):
            raise ValueError(f'{name}_language has {len(named)} languages, and there are more texts; expected one for each')
        return named[text]

    def _begins(self, language: str | None) -> tuple[int, int]:
        assert language is not None
        tokenizer = self.tokenizer.languages[language]
        before, behind = tokenizer.start_ids, tokenizer.end_ids
        return behind[-1] if behind else self.eos_id, before[0] if before else -1


def check_language(name: str, code: object, tokenizer: Tokenizer) -> None:
    """Raises ValueError, which names the nearest, for a language that the tokenizer does not have."""
    known = tokenizer.languages
    if code in known:
        return
    if not known:
        raise ValueError(f'{name} is {code!r}; the checkpoint has no languages: leave it out')
    near = did_you_mean(str(code), known) or f'; expected one of {len(known)}, such as {next(iter(known))}'
    raise ValueError(f'{name} is {code!r}; the checkpoint has no such language{near}')
