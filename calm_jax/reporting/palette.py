"""Colours: one per exit layer, and one per series of a figure, each for a light and a dark page.

Every choice works without hue. Exit layers run along a sequential scale whose lightness only falls (light page) or only
rises (dark page), so deeper always means further from the page's own colour, in greyscale and for colour-blind readers
alike. Series are Okabe and Ito's colours (2008), and figures also tell them apart by marker.
"""

from typing import NamedTuple

# Anchors of the layer scale as sRGB, from shallow to deep on a light page: pale yellow, green, teal, blue, night blue.
_ANCHORS = ('#fff6cf', '#d9efb4', '#8fd3ae', '#41adb8', '#2b80b3', '#2a549c', '#1c2c66')
_BLACK, _WHITE = '#000000', '#ffffff'


class Theme(NamedTuple):
    """What a figure draws with on one kind of page."""

    ink: str
    muted: str
    grid: str
    page: str
    shade: str
    series: tuple[str, ...]


LIGHT = Theme(
    ink='#1b1f27',
    muted='#5a6272',
    grid='#e3e6ec',
    page='#ffffff',
    shade='#f6e3dd',
    series=('#0072b2', '#d55e00', '#009e73', '#b0528c', '#b57d00', '#2a90c8'),
)
DARK = Theme(
    ink='#e8eaf0',
    muted='#a3abbb',
    grid='#2c323d',
    page='#171b22',
    shade='#3a2823',
    series=('#56b4e9', '#f08a4b', '#2fc79a', '#e08bbd', '#f0c443', '#9aa9ff'),
)


class Swatch(NamedTuple):
    """A background and the ink that reads best on it, both '#rrggbb'."""

    fill: str
    ink: str


def layer_swatches(num_layers: int, dark: bool = False) -> list[Swatch]:
    """Colours of exit layers 1..L; entry i is layer i + 1.

    On a dark page the scale is turned round. The ink is whichever of black and white contrasts more, which is
    never below 4.5 : 1 (WCAG 2.1 AA) on any background.
    """
    if num_layers < 1:
        raise ValueError(f'num_layers is {num_layers}: expected at least 1')
    swatches = []
    for layer in range(num_layers):
        depth = layer / (num_layers - 1) if num_layers > 1 else 1.0
        fill = _along(_ANCHORS, 1 - depth if dark else depth)
        swatches.append(Swatch(fill, max((_BLACK, _WHITE), key=lambda ink, fill=fill: contrast(fill, ink))))
    return swatches


def luminance(colour: str) -> float:
    """Relative luminance of '#rrggbb' in [0, 1] (WCAG 2.1)."""
    red, green, blue = (_linear(channel) for channel in _channels(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio (L1 + .05) / (L2 + .05) of two colours, 1 to 21 (WCAG 2.1)."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _along(anchors: tuple[str, ...], position: float) -> str:
    """The colour at `position` in [0, 1] of the straight lines between anchors."""
    scaled = position * (len(anchors) - 1)
    index = min(int(scaled), len(anchors) - 2)
    share = scaled - index
    mixed = (
        round((1 - share) * low + share * high)
        for low, high in zip(_channels(anchors[index]), _channels(anchors[index + 1]), strict=True)
    )
    return '#' + ''.join(f'{channel:02x}' for channel in mixed)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _linear(channel: int) -> float:
    value = channel / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
