"""Ids of examples, from which draws get their keys: functions of the text, never of where it stands."""

import zlib
from collections import Counter


class ExampleIds:
    """Ids of texts in the order in which they are asked for: CRC-32 of the text's UTF-8, begun at how many texts of the same
    CRC were asked for before.

    A text so has the same id in every file and order, and the copies of a text have ids of their own. Two files share no
    draws but for texts that both hold. An id is an int32, 0 ≤ id < 2³¹; two of n texts share one with a chance of n² / 2³².
    """

    def __init__(self) -> None:
        self._asked: Counter[int] = Counter()

    def __call__(self, text: str) -> int:
        """The id of the text, asked for once more."""
        content = text.encode()
        code = zlib.crc32(content)
        before = self._asked[code]
        self._asked[code] += 1
        return zlib.crc32(content, before) & 0x7FFFFFFF


def sequence_id(example_id: int, sequence: int) -> int:
    """The id of one of several sequences of a text, from 0: the text's own, then one of (id, sequence) for each other."""
    return zlib.crc32(b'sequence %d' % sequence, example_id) & 0x7FFFFFFF if sequence else example_id
