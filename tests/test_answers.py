"""Answers: a label, or the part of a text whose first and last token score most."""

import itertools

import numpy as np
import pytest

from calm_jax.answers import label_of, span_of
from calm_jax.data.jsonl import Template
from calm_jax.data.passage import Passage, answerable
from calm_jax.data.tokenizers import read_published
from calm_jax.tasks import Labels, Spans
from tests.data.test_published_tokenizers import CLASSES, KINDS, write

TEXT = 'what? it is not far  from here'
OFFSETS = [(0, 0), (0, 4), (4, 5), (5, 8), (8, 11), (11, 15), (15, 19), (19, 20), (20, 25), (25, 30), (0, 0)]


@pytest.mark.parametrize('unanswerable', (False, True))
def test_a_span_is_the_best_of_all_that_may_be_answered_with(unanswerable):
    rng, task, passage, none = np.random.default_rng(0), Spans(unanswerable, longest=3), range(6, len(TEXT)), 0
    allowed = [place for place, (a, b) in enumerate(OFFSETS) if TEXT[max(a, 6) : b].strip()]
    for _ in range(60):
        scores = rng.normal(size=(len(OFFSETS), 2))
        pairs = [(a, b) for a, b in itertools.product(allowed, repeat=2) if a <= b < a + 3]
        first, last = max(pairs, key=lambda pair: scores[pair[0], 0] + scores[pair[1], 1])
        answer = span_of(scores, OFFSETS, TEXT, passage, task)
        if unanswerable and scores[0].sum() >= scores[first, 0] + scores[last, 1]:
            assert (answer.text, len(answer.places)) == ('', 0)
            none, first, last = none + 1, 0, 0
        else:
            assert answer.text == TEXT[max(OFFSETS[first][0], 6) : OFFSETS[last][1]].strip()
            assert answer.places == range(first, last + 1)
        possible = [*allowed, 0] if unanswerable else allowed
        chances = [np.exp(scores[at, side]) / np.exp(scores[possible, side]).sum() for side, at in enumerate((first, last))]
        np.testing.assert_allclose(answer.confidence, np.prod(chances))
    assert (none > 0) == unanswerable


def test_where_nothing_may_be_answered_with_there_is_no_answer():
    assert span_of(np.zeros((2, 2)), [(0, 0), (0, 0)], '  ', range(2), Spans()).text == ''


def test_a_label_is_the_likeliest():
    answer = label_of(np.array([0.1, 2.0, -1.0]), Labels(('a', 'b', 'c')))
    assert answer.text == 'b'
    np.testing.assert_allclose(answer.confidence, np.exp(2) / (np.exp(0.1) + np.exp(2) + np.exp(-1)))


def test_a_text_of_several_fields_is_answered_from_the_last():
    text = Template('question: {q} context: {c}!')({'q': 'who?', 'c': 'it was her'})
    assert text[answerable(text).start : answerable(text).stop] == 'it was her'
    assert answerable(Template('c')({'c': 'all of it'})) == range(9) == answerable('all of it')
    with pytest.raises(ValueError, match='a passage from character 2 to 9 of a text of 3'):
        Passage('abc', 2, 9)


@pytest.mark.parametrize('kind', sorted(KINDS))
def test_every_token_of_a_published_tokenizer_says_which_characters_it_spells(kind, tmp_path):
    model, *parts = KINDS[kind]
    tokenizer = read_published(write(tmp_path / 'model', *parts), CLASSES.get(model, 'LlamaTokenizer'))
    text = 'Two women walk, in the green room'
    offsets, ids = tokenizer.offsets(text), tokenizer.encode(text)
    assert len(offsets) == len(ids)
    told = [text[a:b].strip() for a, b in offsets]
    assert ''.join(told) == text.replace(' ', '')
