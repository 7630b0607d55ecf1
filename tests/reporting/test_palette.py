"""Colours that work without hue: contrast by the WCAG formula, lightness in one direction."""

import pytest

from calm_jax.reporting.palette import DARK, LIGHT, contrast, layer_swatches, luminance

DEPTHS = [1, 2, 3, 6, 8, 12, 24, 32, 48]


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('depth', DEPTHS)
def test_text_on_every_layers_colour_has_contrast_of_4_and_a_half(depth, dark):
    assert len(layer_swatches(depth, dark)) == depth
    assert min(contrast(swatch.fill, swatch.ink) for swatch in layer_swatches(depth, dark)) >= 4.5


@pytest.mark.parametrize('depth', DEPTHS)
def test_deeper_is_darker_on_a_light_page_and_lighter_on_a_dark_one(depth):
    light = [luminance(swatch.fill) for swatch in layer_swatches(depth)]
    dark = [luminance(swatch.fill) for swatch in layer_swatches(depth, dark=True)]
    assert all(a > b for a, b in zip(light, light[1:]))
    assert all(a < b for a, b in zip(dark, dark[1:]))


def test_neighbouring_layers_of_eight_differ_in_lightness_alone():
    fills = [swatch.fill for swatch in layer_swatches(8)]
    assert min(contrast(one, other) for one, other in zip(fills, fills[1:])) > 1.1


@pytest.mark.parametrize('theme', [LIGHT, DARK])
def test_figures_are_legible_on_their_page(theme):
    assert contrast(theme.ink, theme.page) >= 7
    assert min(contrast(theme.muted, background) for background in (theme.page, theme.shade)) >= 4.5
    assert min(contrast(colour, theme.page) for colour in theme.series) >= 3


def test_contrast_is_that_of_the_standard():
    assert contrast('#000000', '#ffffff') == pytest.approx(21)
    assert contrast('#777777', '#ffffff') == pytest.approx(4.48, abs=0.01)
    assert luminance('#ff0000') == pytest.approx(0.2126)


def test_a_model_without_layers_has_no_colours():
    with pytest.raises(ValueError, match='num_layers is 0: expected at least 1'):
        layer_swatches(0)
