"""Generated texts as coloured tokens: what the page prints, and how an early output compares with the full one."""

from typing import NamedTuple

from calm_jax.reporting.numerals import number, percent
from calm_jax.schemas import Output

_SPACE = '▁'  # how SentencePiece writes the space a piece begins with


class Token(NamedTuple):
    """One token: spaces before it, its text, the layer it left at (1..L), its hover text, and whether it is the first
    one that differs from the full model's."""

    space: str
    text: str
    layer: int
    title: str
    departs: bool


class Share(NamedTuple):
    """How many of an output's tokens left at a layer, as a share in [0, 1], with that in words."""

    layer: int
    share: float
    title: str


class Coloured(NamedTuple):
    """An output ready to print. `layers` is the mean exit layer, None for an output without tokens."""

    label: str
    tokens: list[Token]
    layers: float | None
    shares: list[Share]
    compared: str


def plain(pieces: tuple[str, ...]) -> str:
    """The text of SentencePiece pieces: '▁' is a space, none before the first word."""
    return ''.join(pieces).replace(_SPACE, ' ').removeprefix(' ')


def colour(output: Output, full: Output, num_layers: int) -> Coloured:
    """Tokens of an early output with what a reader should see of each; compared piece by piece with the full output.

    A space before a word stands outside its token, so that words stay apart and pieces of one word touch. The spaces
    and texts of all tokens, one after another, are the text.
    """
    first = _first_difference(output.pieces, full.pieces)
    tokens = []
    for index, (piece, layer) in enumerate(zip(output.pieces, output.exit_layers, strict=True)):
        text = piece.replace(_SPACE, ' ')
        if index == 0:
            text = text.removeprefix(' ')
        word = text.lstrip(' ')
        title = f'layer {layer} of {num_layers}'
        if output.confidence is not None and output.confidence[index] is not None:
            title += f', confidence {number(output.confidence[index])}'
        if index == first:
            title += ', first token to differ from the full model'
        # A token of spaces alone keeps them, or it could not be seen.
        space = text[: len(text) - len(word)] if word else ''
        tokens.append(Token(space, word or text, layer, title, index == first))
    count = len(output.exit_layers)
    tallies = [(layer, output.exit_layers.count(layer) / count) for layer in sorted(set(output.exit_layers))]
    shares = [Share(layer, share, f'layer {layer}: {percent(share)} of tokens') for layer, share in tallies]
    return Coloured(
        output.label,
        tokens,
        sum(output.exit_layers) / count if count else None,
        shares,
        _compared(output.pieces, full.pieces, first),
    )


def _first_difference(pieces: tuple[str, ...], full: tuple[str, ...]) -> int | None:
    """Index of the first piece that the full output has not at that place; None where there is no such piece."""
    return next((index for index, piece in enumerate(pieces) if index >= len(full) or piece != full[index]), None)


def _compared(pieces: tuple[str, ...], full: tuple[str, ...], first: int | None) -> str:
    if pieces == full:
        return 'the same tokens as the full model'
    if first is None:
        return f'as the full model, but ends after token {len(pieces)}'
    return f'differs from the full model from token {first + 1} on'
