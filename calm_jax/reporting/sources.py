"""Sources as printed, with the tokens that a plan dropped."""

import itertools
from typing import NamedTuple

from calm_jax.reporting.numerals import number
from calm_jax.reporting.run import CutSource

_LONG, _ENDS = 60, 24  # pieces of a stretch that is shortened, and those at its ends that stay
_PIECES = 400  # of a source, that are shown


class Stretch(NamedTuple):
    """Part of a source as printed. kind: 'kept', 'dropped', or 'between' for words about what is left out here."""

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
    kept = len(cut.pieces) - len(cut.dropped)
    chosen = '' if cut.choice is None else f', {cut.choice} dropped'
    return CutText(f'Text {cut.id}', _stretches(cut), f'{kept:,} of {len(cut.pieces):,} tokens kept{chosen}', cut.output)


def _stretches(cut: CutSource) -> list[Stretch]:
    """The source in stretches of kept and of dropped tokens; of long ones the ends alone, of a long source its beginning."""
    places, found = range(len(cut.pieces)), []
    for dropped, group in itertools.groupby(places, key=cut.dropped.__contains__):
        stretch, kind = list(group), 'dropped' if dropped else 'kept'
        if len(stretch) > _LONG:
            between = len(stretch) - 2 * _ENDS
            found += [(stretch[:_ENDS], kind), (between, 'between'), (stretch[-_ENDS:], kind)]
        else:
            found.append((stretch, kind))
    stretches, shown = [], 0
    for stretch, kind in found:
        if kind == 'between':
            stretches.append(Stretch(f' … {number(stretch)} tokens … ', kind))
        elif shown + len(stretch) > _PIECES:
            stretches.append(Stretch(f' … {number(len(cut.pieces) - stretch[0])} more tokens', 'between'))
            break
        else:
            text = ''.join(cut.pieces[place] for place in stretch).replace('▁', ' ')
            stretches.append(Stretch(text if stretches else text.removeprefix(' '), kind))
            shown += len(stretch)
    return stretches
