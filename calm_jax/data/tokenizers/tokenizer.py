"""What the library asks of a tokenizer."""

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from calm_jax.data.tokenizers.chat import ChatTemplate


class Tokenizer(Protocol):
    """Text to ids and back.

    vocab_size: the ids, tokens that were added to the vocabulary among them. base_size: those that texts
    are spelled in, the others being special or added.
    extra_ids: sentinels behind the vocabulary.
    pad_id, eos_id: −1 where no token pads, or ends a text. start_ids, end_ids: what `encode` puts before and
    behind every text, of models that encode their source but for an end of sequence that is the last.
    truncation_side: 'left' where a text that is too long loses its beginning, else 'right'. chat: how messages become a text,
    None where the tokenizer does not say. languages: the tokenizer of texts in each language, by its code, where what stands
    around a text says its language; the tokenizer itself is of one of them.

    `load_tokenizer` lists the kinds; each knows the files that it is stored in.
    """

    vocab_size: int
    base_size: int
    pad_id: int
    eos_id: int

    @property
    def extra_ids(self) -> int: ...

    @property
    def start_ids(self) -> tuple[int, ...]: ...

    @property
    def end_ids(self) -> tuple[int, ...]: ...

    @property
    def truncation_side(self) -> str: ...

    @property
    def chat(self) -> ChatTemplate | None: ...

    @property
    def languages(self) -> 'Mapping[str, Tokenizer]': ...

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Ids of a text, without the end of sequence that a model which encodes it wants.

        add_special: with what stands before every text, and behind it where the tokenizer says so; a text that a chat template
        made has them already.
        """
        ...

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Of each id of `encode(text)`, which characters of the text it spells, from and up to; (0, 0) where it spells none."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, to their end of sequence if any; never raises: ids without a text, special ones, are dropped."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One printable string for each id, to be shown side by side; spaces are spaces."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides the ids of a text, and the text of ids."""
        ...

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the files that `load_tokenizer(directory)` reads."""

    def publish(self, directory: str | os.PathLike) -> None:
        """Writes the files that transformers reads, with the same ids."""


def before_end(ids: Sequence[int], eos_id: int) -> list[int]:
    """The ids before the first end of sequence."""
    ids = [int(i) for i in ids]
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
