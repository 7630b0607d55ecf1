"""A text of which a part may be answered with, as a question and its context are laid out."""


class Passage(str):
    """A text, and which of its characters may be answered with: those from `start` up to `stop`; None: to its end."""

    answerable: range

    def __new__(cls, text: str, start: int = 0, stop: int | None = None) -> 'Passage':
        passage = super().__new__(cls, text)
        stop = len(text) if stop is None else stop
        if not 0 <= start <= stop <= len(text):
            raise ValueError(f'a passage from character {start} to {stop} of a text of {len(text)}; expected a part of it')
        passage.answerable = range(start, stop)
        return passage

    def __getnewargs__(self) -> tuple[str, int, int]:
        """What a copy is made of."""
        return str(self), self.answerable.start, self.answerable.stop


def answerable(text: str) -> range:
    """Which characters of a text may be answered with: all, where it says nothing."""
    return text.answerable if isinstance(text, Passage) else range(len(text))
