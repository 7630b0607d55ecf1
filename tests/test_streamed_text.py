"""Text as its tokens come: no half characters, nothing taken back, and in the end all of it."""

import pytest

from calm_jax.data.tokenizers import ByteTokenizer
from calm_jax.streamed_text import StreamedText


def parts_of(data):
    """What each byte adds, and the end."""
    streamed = StreamedText(ByteTokenizer())
    return [streamed.add(byte + 3) for byte in data] + [streamed.end()]


@pytest.mark.parametrize(
    'text, parts', [('añ', ['a', '', 'ñ', '']), ('€', ['', '', '€', '']), ('😀!', ['', '', '', '😀', '!', ''])]
)
def test_a_character_comes_when_its_last_byte_has_come(text, parts):
    assert parts_of(text.encode()) == parts


@pytest.mark.parametrize(
    'data', [b'\xe2\x82', b'a\xf0\x9f\x98', b'\x80' * 9 + b'a', b'\xe2\x82a\xff', 'ab€'.encode() * 3 + b'\xf0']
)
def test_bytes_that_are_no_character_are_said_as_the_whole_text_says_them(data):
    parts = parts_of(data)
    assert ''.join(parts) == ByteTokenizer().decode([byte + 3 for byte in data]) == data.decode(errors='replace')


def test_at_most_three_stray_bytes_wait():
    parts = parts_of(b'\x80' * 9)
    assert parts == ['', '', ''] + ['\ufffd'] * 6 + ['\ufffd' * 3]


def test_what_follows_the_end_of_sequence_adds_nothing():
    streamed = StreamedText(ByteTokenizer())
    assert [streamed.add(token) for token in (ord('a') + 3, 1)] + [streamed.end()] == ['a', '', '']
