"""Generation settings say what the reference implementation says under them (tests/fixtures/rules): tokens of tiny models of
every family, and the scores that its processors make."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.checkpoints import huggingface
from calm_jax.decoding import codec
from calm_jax.decoding.choice import Greedy, Sampled
from calm_jax.decoding.chooser import Chooser
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.decoding.rules import DROPPED, Rules, Spoken
from calm_jax.models.families.generation import document_of

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures'
MODELS = ('gated_gelu', 'bart', 'gpt2', 'opt', 'llama_1')
CAPACITY, EVERY = 14, 10_000
SCORES = json.loads((FIXTURES / 'rules' / 'scores.json').read_text())
RULES = [name for name in SCORES if name in Rules.__dataclass_fields__]
FILTERS = [name for name in SCORES if name and name not in RULES]


@functools.cache
def read(name):
    """(checkpoint, its cases, sources [rows, S], masks)."""
    reference = np.load(FIXTURES / 'parity' / name / 'reference.npz')
    cases = json.loads((FIXTURES / 'rules' / f'{name}.json').read_text())
    return huggingface.read(FIXTURES / 'parity' / name), cases, reference['source'][:2], reference['mask'][:2]


def decoding_of(checkpoint, settings):
    document, notices = document_of({'max_new_tokens': CAPACITY, **settings}, not checkpoint.config.decoder_only)
    assert not notices
    if 'max_length' in settings:
        document['limits'] = document_of(settings, not checkpoint.config.decoder_only)[0]['limits']
    return codec.from_json(document)


def stacked(rules):
    """Rules of which each row has its own, all of them on: one program for whatever they are."""
    neutral = Rules(
        sequence_bias=(((0,), 0.0),) * 4,
        bad_words_ids=((10_000,) * 4,) * 4,
        exponential_decay_length_penalty=(0, 1.0),
        suppress_tokens=(10_000,) * 4,
        begin_suppress_tokens=(10_000,) * 4,
    )
    values = {}
    for name in Rules.__dataclass_fields__:
        own = [getattr(each, name) for each in rules]
        if isinstance(getattr(neutral, name), tuple):
            compiled = [getattr(Rules(**{name: each or getattr(neutral, name)}).resolved(), name) for each in own]
            values[name] = jax.tree.map(lambda *arrays: np.stack([fitted(each, arrays) for each in arrays]), *compiled)
        else:
            values[name] = np.array(own)
    return Rules(**values)


def fitted(array, others):
    """An array of ids or biases with the room of the others, which rows have behind and words before."""
    shape = np.max([each.shape for each in others], axis=0)
    room = [(0, more) for more in shape - array.shape]
    if array.ndim == 2:
        room[1] = room[1][::-1]
    return np.pad(array, room, constant_values=-1 if array.dtype == np.int32 else 0)


@pytest.mark.parametrize('name', MODELS)
def test_every_setting_says_what_the_reference_says(name):
    checkpoint, cases, source, mask = read(name)
    config, greedy = checkpoint.config, {key: case for key, case in cases.items() if 'sure' in case}
    decodings = [decoding_of(checkpoint, case['settings']) for case in greedy.values() for _ in source]
    limits = Limits(
        max_new_tokens=np.array([each.limits.max_new_tokens or CAPACITY for each in decodings]),
        max_length=np.array([each.limits.max_length or EVERY for each in decodings]),
    )
    decoding = Decoding(limits=limits, rules=stacked([each.rules for each in decodings]))
    masks = np.tile(mask, (len(greedy), 1))
    sources = np.where(masks, np.tile(source, (len(greedy), 1)), 3).astype(np.int32)  # a token of texts, which nobody reads
    trace = jax.device_get(generate(config, checkpoint.params, sources, masks, decoding))
    row, compared = 0, 0
    for key, case in greedy.items():
        for tokens, sure in zip(case['tokens'], case['sure']):
            assert trace.tokens[row, :sure].tolist() == tokens[:sure], (key, case['settings'])
            assert sure < len(tokens) or trace.lengths[row] == len(tokens), (key, case['settings'])
            row, compared = row + 1, compared + (sure == len(tokens))
    assert compared >= 0.8 * row


@pytest.mark.parametrize('name', ['bart', 'llama_1'])
def test_beams_are_searched_under_them_all(name):
    checkpoint, cases, source, mask = read(name)
    case = cases['searched']
    decoding = decoding_of(checkpoint, case['settings'])
    trace = jax.device_get(generate(checkpoint.config, checkpoint.params, source.astype(np.int32), mask, decoding))
    for row, tokens in enumerate(case['tokens']):
        assert trace.tokens[row, : trace.lengths[row]].tolist() == tokens


def spoken():
    """What the processors saw: at the seventh token."""
    history, source = np.array(SCORES['']['history'], np.int32), np.array(SCORES['']['source'], np.int32)
    rows, length = history.shape
    history = np.pad(history, ((0, 0), (0, 3)), constant_values=9)  # anything after
    number = functools.partial(np.full, rows, dtype=np.int32)
    mask = np.ones(source.shape, bool)
    seen = Spoken(history, number(length), number(0), number(length - 1), number(20), source, mask)
    return jax.tree.map(jnp.asarray, seen)


@pytest.mark.parametrize('name', RULES)
def test_a_rule_makes_the_scores_that_the_references_processor_makes(name):
    logits = np.array(SCORES['']['logits'], np.float32)
    rules = Rules(**SCORES[name]['settings']).resolved()
    scores = jax.jit(lambda rules, logits: rules.by_row(4).verdict(spoken(), (1,), 24)(logits))(rules, logits)
    np.testing.assert_allclose(scores, expected(name), atol=1e-5)
    assert not np.allclose(scores, logits)


@pytest.mark.parametrize('name', FILTERS)
def test_a_draw_is_from_what_the_references_filters_leave(name):
    logits = np.array(SCORES['']['logits'], np.float32)
    scores = Sampled(**SCORES[name]['settings']).resolved().filtered(jnp.asarray(logits))
    np.testing.assert_allclose(scores, expected(name), atol=1e-5)
    assert not np.allclose(scores, logits)


def expected(name):
    return np.array([[-np.inf if each is None else each for each in row] for row in SCORES[name]['scores']], np.float32)


def test_another_number_or_list_compiles_nothing():
    compiled = jax.jit(lambda rules, logits: rules.by_row(4).verdict(spoken(), (1,), 24)(logits))
    logits = np.array(SCORES['']['logits'], np.float32)
    for penalty, suppressed, words in ((1.2, [3, 4, 5], [[3], [4, 5, 6]]), (0.9, [7, 8, 9, 10], [[4, 5, 9], [5, 6]])):
        rules = Rules(repetition_penalty=penalty, suppress_tokens=suppressed, bad_words_ids=words)
        compiled(rules.resolved(), logits)
    assert compiled._cache_size() == 1


@pytest.mark.parametrize('rules', [{}, {'forced_last_id': 20}, {'suppress_tokens': tuple(range(12))}], ids=str)
def test_the_ids_that_a_measure_looks_at_are_judged_as_among_all(rules):
    ids = jnp.broadcast_to(jnp.array([3, 11, 7, 1, 9]), (4, 5))
    logits = jnp.take_along_axis(jnp.asarray(SCORES['']['logits'], jnp.float32), ids, axis=1)
    every = Rules(**{key: value for name in RULES for key, value in SCORES[name]['settings'].items()} | rules)
    seen = spoken()._replace(limit=jnp.array([7, 9, 7, 9], jnp.int32))  # of two rows this is the last token
    chooser = Chooser(Greedy(), 24, jnp.zeros(4), every.resolved().by_row(4).verdict(seen, (1,), 24))
    spread = jnp.full((4, 24), DROPPED).at[jnp.arange(4)[:, None], ids].set(logits)
    np.testing.assert_array_equal(chooser(logits, ids), chooser(spread))
    assert not rules or set(np.asarray(chooser(logits, ids)).tolist()) - set(ids[0].tolist())
