"""Text as its tokens come: parts that end where characters end."""

from calm_jax.data.tokenizers import Tokenizer

UNFINISHED = '\ufffd'  # what bytes decode to that are no character, or not yet
MOST_UNFINISHED = 3  # bytes of a character of UTF-8 that lacks its last


class StreamedText:
    """The text of tokens that come one after the other. What a part said is never taken back.

    Of a text that ends in bytes that are no character yet, those wait: at most three, as the longest character has four.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._parts = ''  # all that was said

    def add(self, token: int) -> str:
        """The part that this token adds, '' where none is certain yet."""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        end = len(text)
        while end and text[end - 1] == UNFINISHED and len(text) - end < MOST_UNFINISHED:
            end -= 1
        return self._part(text[:end])

    def end(self) -> str:
        """What waited, and is no character any more."""
        return self._part(self._tokenizer.decode(self._tokens))

    def _part(self, text: str) -> str:
        if not text.startswith(self._parts):
            return ''  # the tokenizer joins the token to what stands before it: wait for what follows
        part, self._parts = text[len(self._parts) :], text
        return part
