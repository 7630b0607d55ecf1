"""Bytes of UTF-8 as tokens."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from calm_jax.data.tokenizers.classes import BYTES
from calm_jax.data.tokenizers.settings import SETTINGS, number_of_extra_ids
from calm_jax.data.tokenizers.tokenizer import before_end
from calm_jax.files import write_json


class ByteTokenizer:
    """Bytes of UTF-8 as ids: `id = byte + 3`, after pad 0, end-of-sequence 1 and unknown 2 (Xue et al., 2022).

    `extra_ids` more ids follow the 256 bytes (published models have 125); they have no text. Bytes that are not
    UTF-8, as a sequence cut inside a character ends in, decode to U+FFFD. Stored as `byte_tokenizer.json`.
    """

    FILES = ('byte_tokenizer.json',)
    OFFSET = 3
    start_ids = end_ids = ()
    truncation_side = 'right'
    chat = None
    languages = MappingProxyType({})

    def __init__(self, extra_ids: int = 0):
        self.extra_ids = extra_ids
        self.vocab_size = self.base_size = self.OFFSET + 256 + extra_ids
        self.pad_id, self.eos_id = 0, 1

    @classmethod
    def load(cls, directory: str | os.PathLike) -> 'ByteTokenizer':
        """From a folder."""
        return cls(number_of_extra_ids(Path(directory) / cls.FILES[0], 0))

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        return [byte + self.OFFSET for byte in text.encode()]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [(place, place + 1) for place, character in enumerate(text) for _ in character.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        values = (i - self.OFFSET for i in before_end(ids, self.eos_id))
        return bytes(value for value in values if 0 <= value < 256).decode(errors='replace')

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._piece(int(i)) for i in ids]

    def _piece(self, token: int) -> str:
        special = {0: '<pad>', 1: '</s>', 2: '<unk>'}
        byte = token - self.OFFSET
        if token in special:
            return special[token]
        if 32 <= byte < 127:
            return chr(byte)
        return f'<0x{byte:02X}>' if 0 <= byte < 256 else f'<{token}>'

    def fingerprint(self) -> str:
        return hashlib.sha256(b'bytes+%d extra_ids=%d' % (self.OFFSET, self.extra_ids)).hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / self.FILES[0], {'extra_ids': self.extra_ids})

    def publish(self, directory: str | os.PathLike) -> None:
        """As a class name and the number of sentinels, which is all that such a class needs."""
        special = {'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': '<pad>'}
        write_json(Path(directory) / SETTINGS, {'tokenizer_class': BYTES, 'extra_ids': self.extra_ids, **special})
