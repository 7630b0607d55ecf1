"""Pieces become tokens without losing a letter or a space."""

import pytest

from calm_jax.reporting.tokens import colour, plain
from calm_jax.schemas import Output


def output(pieces, layers=None, confidence=None):
    return Output('early', tuple(pieces), tuple(layers or [1] * len(pieces)), confidence)


@pytest.mark.parametrize(
    ('pieces', 'spaces', 'texts'),
    [
        (['▁The', '▁cat', 's', '.'], ['', ' ', '', ''], ['The', 'cat', 's', '.']),
        (['▁', 'x', '▁', 'y'], ['', '', '', ''], ['', 'x', ' ', 'y']),
        (['a', '▁▁b'], ['', '  '], ['a', 'b']),
        (['▁New▁York', '▁is'], ['', ' '], ['New York', 'is']),
        (['line', '\n', '▁two'], ['', '', ' '], ['line', '\n', 'two']),
        (['</s>'], [''], ['</s>']),
        ([], [], []),
    ],
)
def test_spaces_stand_before_words_and_everything_together_is_the_text(pieces, spaces, texts):
    coloured = colour(output(pieces), output(pieces), 2)
    assert [token.space for token in coloured.tokens] == spaces
    assert [token.text for token in coloured.tokens] == texts
    assert ''.join(token.space + token.text for token in coloured.tokens) == plain(tuple(pieces))
    assert plain(tuple(pieces)) == ''.join(pieces).replace('▁', ' ').removeprefix(' ')


def test_mean_and_shares_count_tokens():
    coloured = colour(output('abcd', [1, 1, 2, 8]), output('abcd'), 8)
    assert coloured.layers == 3
    assert [(share.layer, share.share) for share in coloured.shares] == [(1, 0.5), (2, 0.25), (8, 0.25)]
    assert coloured.shares[0].title == 'layer 1: 50% of tokens'
    assert colour(output(''), output('a'), 8).layers is None


@pytest.mark.parametrize(
    ('early', 'full', 'marked', 'words'),
    [
        ('abc', 'abc', None, 'the same tokens as the full model'),
        ('abx', 'abc', 2, 'differs from the full model from token 3 on'),
        ('abcd', 'abc', 3, 'differs from the full model from token 4 on'),
        ('ab', 'abc', None, 'as the full model, but ends after token 2'),
    ],
)
def test_an_early_output_is_compared_token_by_token(early, full, marked, words):
    coloured = colour(output(early), output(full), 2)
    assert [place for place, token in enumerate(coloured.tokens) if token.departs] == ([] if marked is None else [marked])
    assert coloured.compared == words


def test_the_hover_text_gives_layer_and_confidence_where_there_is_one():
    coloured = colour(output('ab', [2, 8], (0.9512, None)), output('ab'), 8)
    assert [token.title for token in coloured.tokens] == ['layer 2 of 8, confidence 0.951', 'layer 8 of 8']
