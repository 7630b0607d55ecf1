"""Words of a text in any script, as ROUGE counts them.

Of Latin script they are those of rouge_score, to the letter: lower case, runs of a–z and 0–9; a letter outside them, as é,
parts a word. What rouge_score leaves out is counted too: runs of letters, marks and digits of another script are words, and
where a script puts no spaces between words, each character is one, with the marks on it.
"""

import functools
import re
import unicodedata

_ASCII = re.compile('[a-z0-9]+')
# How the names of characters begin whose scripts write words without spaces.
_UNSPACED = tuple('CJK,HIRAGANA,KATAKANA,HALFWIDTH KATAKANA,IDEOGRAPHIC,BOPOMOFO,THAI,LAO,KHMER,MYANMAR,TIBETAN'.split(','))
_LATIN = ('LATIN', 'FULLWIDTH LATIN', 'MICRO', 'FEMININE ORDINAL', 'MASCULINE ORDINAL', 'MODIFIER')
_NONE, _PLAIN, _RUN, _ALONE, _MARK = range(5)


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    text = text.lower()
    if text.isascii():
        return _ASCII.findall(text)
    found, before = [], _NONE
    for character in text:
        kind = _kind(character)
        joins = kind == before == _RUN or kind == before == _PLAIN
        if kind == _MARK:  # on the character before it; of a Latin one it says nothing
            joins = before in (_RUN, _ALONE)
            kind = before if joins else _NONE
        if kind != _NONE:
            found[-1:] = [found[-1] + character] if joins else [*found[-1:], character]
        before = kind
    return found


class Words:
    """`words`, as rouge_score takes a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return words(text)


def latin_words(text: str) -> list[str]:
    """The words that rouge_score finds in a text."""
    return _ASCII.findall(text.lower())


@functools.lru_cache(maxsize=1 << 16)
def _kind(character: str) -> int:
    """What a character, in lower case, does to the word before it."""
    if character.isascii():
        return _PLAIN if character.isalnum() else _NONE
    category, name = unicodedata.category(character), unicodedata.name(character, '')
    if not (category[0] in 'LM' or category == 'Nd') or name.startswith(_LATIN):
        return _NONE
    if category[0] == 'M':
        return _MARK
    return _ALONE if name.startswith(_UNSPACED) else _RUN
