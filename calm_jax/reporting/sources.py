"""Sources as printed, with the tokens that a plan dropped."""

import itertools
from typing import NamedTuple

from calm_jax.reporting.numerals import number
from calm_jax.reporting.run import CutSource

_LONG, _ENDS = 60, 24  # pieces of a stretch that is shortened, and those at its ends that stay
_PIECES = 400  # of a source, that are shown


class Stretch(NamedTuple):
    """Part of a source as printed: the space before it, and its text. kind: 'kept', 'dropped', or 'between' for words about
    what is left out here."""

    space: str
    text: str
    kind: str


class CutText(NamedTuple):
    """A source with its dropped tokens, as printed, and in words what was dropped."""

    title: str
    stretches: list[Stretch]
    dropped: str
    output: str


def printed(cut: CutSource) -> CutText:
    """What the page shows of it."""
    staying = len(cut.pieces) - len(cut.dropped)
    chosen = '' if cut.choice is None else f', {cut.choice} dropped'
    return CutText(f'Text {cut.id}', _stretches(cut), f'{staying:,} of {len(cut.pieces):,} tokens kept{chosen}', cut.output)


def _stretches(cut: CutSource) -> list[Stretch]:
    """The source in stretches of kept and of dropped tokens; of long ones the ends alone, of a long source its beginning."""
    stretches, shown = [], 0
    for dropped, group in itertools.groupby(range(len(cut.pieces)), key=cut.dropped.__contains__):
        places, kind = list(group), 'dropped' if dropped else 'kept'
        if shown >= _PIECES:
            stretches.append(Stretch(' ', f'… {number(len(cut.pieces) - places[0])} more tokens', 'between'))
            break
        if len(places) > _LONG:
            left_out = f'… {number(len(places) - 2 * _ENDS)} more {kind} …'
            stretches += [
                _stretch(cut.pieces, places[:_ENDS], kind),
                Stretch(' ', left_out, 'between'),
                _stretch(cut.pieces, places[-_ENDS:], kind),
            ]
        else:
            stretches.append(_stretch(cut.pieces, places, kind))
        shown += min(len(places), 2 * _ENDS)
    return stretches


def _stretch(pieces: tuple[str, ...], places: list[int], kind: str) -> Stretch:
    text = ''.join(pieces[place] for place in places).replace('▁', ' ')
    words = text.lstrip(' ')
    space = '' if places[0] == 0 else text[: len(text) - len(words)]
    return Stretch(space, words, kind)
