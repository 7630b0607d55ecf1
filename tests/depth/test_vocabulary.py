"""Pruning, and a list of ids, against their formulas, worked out by hand, on a head of five words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.depth.confidence import SoftmaxGap, SoftmaxMax
from calm_jax.depth.contrast import WeightedContrast
from calm_jax.depth.vocabulary import DecayingPruning, FixedPruning, FrequentIds, Whole, frequent_ids
from calm_jax.types import HeadColumns, HeadRows


@pytest.mark.parametrize(
    'pruning, layers, vocabulary, kept',
    [
        # Published: at layer i max(k*, ⌊k₁ / (1 + ((k₁ − k*) / k*) i / L)⌋, from the whole vocabulary.
        (DecayingPruning(keep_least=256), 8, 32128, [1939, 733, 431, 321, 277, 260, 256]),
        # ⌊1000 / (1 + 9 · 2/4)⌋ = 181, ⌊181 / (1 + 0.81 · 3/4)⌋ = 112.
        (DecayingPruning(keep_first=1000, keep_least=100, pruning_layer=2), 4, 32128, [181, 112]),
        (FixedPruning(keep=256, pruning_layer=3), 8, 32128, [256, 256, 256, 256, 256]),
        (DecayingPruning(keep_first=5, keep_least=5), 4, 9, [5, 5, 5]),
    ],
)
def test_how_many_ids_are_kept(pruning, layers, vocabulary, kept):
    assert [pruning.count(visited, layers, vocabulary) for visited in range(pruning.pruning_layer, layers)] == kept


# Ranked 3, 1, 0 by the first layer; the second finds 3 and 4 likeliest, and only 3 was kept.
FIRST, SECOND = (0.2, 0.25, 0.05, 0.4, 0.1), (0.1, 0.1, 0.1, 0.3, 0.4)
THIRD, LAST = (0.3, 0.06, 0.03, 0.6, 0.01), (0.0625, 0.0625, 0.25, 0.125, 0.5)


def test_confidence_over_the_kept_ids_as_published(observed):
    seen = observed(SoftmaxGap(FixedPruning(keep=3)), FIRST, SECOND, THIRD, LAST)
    # The ranking layer and the last are unpruned; between them .2 / .5 and .3 / .96.
    np.testing.assert_allclose([confidence for confidence, _ in seen], [0.15, 0.4, 0.3125, 0.25], rtol=1e-5)
    assert [token for _, token in seen] == [3, 3, 3, 4]
    largest = observed(SoftmaxMax(FixedPruning(keep=3)), FIRST, SECOND, THIRD, LAST)
    np.testing.assert_allclose([confidence for confidence, _ in largest], [0.4, 0.6, 0.625, 0.5], rtol=1e-5)


def test_confidence_with_what_was_pruned_as_it_stood(observed):
    # States are log-probabilities, so the ids left out weigh .15 as in the first layer: .2 / .65 and .3 / 1.11.
    seen = observed(SoftmaxGap(FixedPruning(keep=3, partition='full')), FIRST, SECOND, THIRD, LAST)
    np.testing.assert_allclose([confidence for confidence, _ in seen], [0.15, 0.2 / 0.65, 0.3 / 1.11, 0.25], rtol=1e-5)


def test_decaying_pruning_drops_by_the_rank_of_each_layer(observed):
    pruning = DecayingPruning(keep_first=5, keep_least=1, partition='full')
    assert [pruning.count(visited, 4, 5) for visited in (1, 2, 3)] == [2, 1, 1]
    seen = observed(SoftmaxGap(pruning), FIRST, (0.1, 0.3, 0.1, 0.2, 0.3), LAST, LAST)
    # Kept 3 and 1, of which the second layer prefers 1; .35 and then .2 more are left out: a single id has no rival.
    np.testing.assert_allclose(seen[1][0], 0.1 / (0.5 + 0.35), rtol=1e-5)
    np.testing.assert_allclose(seen[2][0], 0.0625 / (0.0625 + 0.35 + 0.2), rtol=1e-5)
    assert [token for _, token in seen] == [3, 1, 1, 4]


def test_by_rank_the_best_id_stays_where_the_least_ids_would_lose_it(evidence, sizes):
    measure = SoftmaxGap(FixedPruning(keep=2))
    memory, _, _ = measure.observe(measure.init(1, sizes), evidence(0, LAST))
    assert memory.ids.tolist() == [[4, 2]]
    _, confidence, token = measure.observe(memory, evidence(1, LAST))
    assert token.tolist() == [4]
    np.testing.assert_allclose(confidence, [0.25 / 0.75], rtol=1e-5)
    # The two least ids in their place: what is said is another word, and nothing tells.
    by_id = memory._replace(ids=jnp.array([[0, 1]]), rows=HeadRows(jnp.eye(5)[jnp.array([[0, 1]])], None))
    _, confidence, token = measure.observe(by_id, evidence(1, LAST))
    assert token.tolist() == [0]
    np.testing.assert_allclose(confidence, [0], atol=1e-6)


def test_keeping_every_id_is_no_pruning(observed):
    for kind in (SoftmaxGap, SoftmaxMax):
        pruned, whole = (observed(kind(each), FIRST, SECOND, THIRD, LAST) for each in (FixedPruning(keep=5), Whole()))
        np.testing.assert_allclose(pruned, whole, rtol=1e-6)


IDS = np.array([3, 0, 4], np.int32)


def test_confidence_over_a_list_is_renormalised_and_blind_to_other_ids(observed):
    seen = observed(SoftmaxGap(FrequentIds(IDS, 2)), FIRST, SECOND, THIRD, LAST)
    # Of 3 and 0: .4 and .2 of .6; .3 and .1 of .4; .6 and .3 of .9; .125 and .0625 of .1875. SECOND's likeliest is 4.
    np.testing.assert_allclose([confidence for confidence, _ in seen], [1 / 3, 1 / 2, 1 / 3, 1 / 3], rtol=1e-5)
    assert [token for _, token in seen] == [None] * 4
    largest = observed(SoftmaxMax(FrequentIds(IDS, 3)), FIRST, SECOND, THIRD, LAST)
    np.testing.assert_allclose([confidence for confidence, _ in largest], [4 / 7, 1 / 2, 60 / 91, 8 / 11], rtol=1e-5)


def test_listed_ids_are_looked_at_where_a_token_may_leave_or_a_contrast_remembers(counted):
    measure, contrast = SoftmaxGap(FrequentIds(IDS, 2)), WeightedContrast(FrequentIds(IDS, 3))
    assert counted(measure) == [[1, 2]] * 4 and counted(contrast) == [[1, 3]] * 4
    assert counted(measure, decides=False) == [[0, 0]] * 4
    # Layer ⌊i/2⌋ of the third and fourth is the first and second; that of the second the first.
    assert counted(contrast, decides=False) == [[1, 3], [1, 3], [0, 0], [0, 0]]


def test_what_a_measure_says_of_itself_is_its_vocabularys():
    listed, whole, pruned = (SoftmaxGap(each) for each in (FrequentIds(IDS, 2), Whole(), FixedPruning(keep=2)))
    assert [each.predicts for each in (listed, whole, pruned)] == [False, True, True]
    assert [each.prunes for each in (listed, whole, pruned)] == [False, False, True]
    assert all(each.reads_logits for each in (listed, whole, pruned))
    assert listed.listed.tolist() == [3, 0] and whole.listed is pruned.listed is None


def test_a_contrast_of_listed_ids_emits_what_the_model_does():
    for emits in ('auto_contrastive', 'dola'):
        with pytest.raises(ValueError, match=f"emits is '{emits}', which has no score for ids outside a list"):
            WeightedContrast(FrequentIds(IDS, 2), emits=emits)


def test_ids_are_listed_by_falling_frequency_the_smaller_first_of_equals():
    ids = frequent_ids({9: 2, 4: 7, 1: 2, 30: 1, 0: 3})
    assert ids.tolist() == [4, 0, 1, 9, 30] and ids.dtype == np.int32


def test_a_row_that_skips_the_pruning_layer_is_pruned_by_the_next_that_it_runs(evidence, sizes):
    measure = SoftmaxGap(FixedPruning(keep=2))
    ran = jnp.array([True, False])
    memory = measure.init(2, sizes)
    memory, _, _ = measure.observe(memory, evidence(0, [FIRST, FIRST], False, ran))
    memory = memory._replace(known=memory.known & ran)  # as the loop leaves rows that were not asked
    memory, confidence, token = measure.observe(memory, evidence(1, [SECOND, SECOND], False))
    assert token.tolist() == [3, 4]
    np.testing.assert_allclose(confidence, [0.2 / 0.4, 0.1], rtol=1e-5)  # who ranks now says what it would say unpruned


@pytest.mark.parametrize(
    'pruning_layer, looks', [(1, [[1, 5], [1, 2], [1, 2], [1, 5]]), (3, [[1, 5]] * 4), (2, [[1, 5], [1, 5], [1, 2], [1, 5]])]
)
def test_pruned_looks_are_at_the_ids_that_are_kept(counted, pruning_layer, looks):
    assert counted(SoftmaxGap(FixedPruning(keep=2, pruning_layer=pruning_layer))) == looks


def test_where_no_token_may_leave_the_pruning_layer_alone_looks(counted):
    assert counted(SoftmaxGap(FixedPruning(keep=2, pruning_layer=3)), decides=False) == [[0, 0], [0, 0], [1, 5], [0, 0]]


@pytest.mark.parametrize(
    'kind, arguments, complaint',
    [
        (FrequentIds, {'ids': IDS, 'count': 0}, 'count is 0'),
        (FrequentIds, {'ids': IDS, 'count': 1.5}, 'count is 1.5'),
        (DecayingPruning, {'keep_first': 4, 'keep_least': 5}, 'at least 5 of 4 ids'),
        (DecayingPruning, {'keep_first': -1}, 'expected 1 or more'),
        (DecayingPruning, {'keep_least': 0}, 'expected 1 or more'),
        (FixedPruning, {'keep': 0}, 'keep is 0'),
        (FixedPruning, {'pruning_layer': 0}, 'pruning_layer is 0'),
        (FixedPruning, {'partition': 'fll'}, "unknown partition 'fll'.*did you mean full"),
    ],
)
def test_what_cannot_be_pruned_is_refused(kind, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        kind(**arguments)


@pytest.mark.parametrize(
    'pruning, complaint',
    [
        (FixedPruning(keep=6), 'keeps 6 ids; the vocabulary has 5'),
        (FrequentIds(IDS, 6), 'frequent_count is 6; the vocabulary has 5 ids'),
        (FrequentIds(IDS, 4), 'frequent_count is 4; the list has 3 frequent ids'),
        (FrequentIds(np.array([3, 5]), 1), 'the frequent ids hold 5; the vocabulary has 5 ids'),
        (FrequentIds(np.array([3, -1]), 1), 'the frequent ids hold -1'),
        (FrequentIds(np.array([3, 3]), 1), 'no list of distinct'),
        (FixedPruning(keep=2, pruning_layer=5), 'pruning_layer is 5; the decoder has 4 layers'),
    ],
)
def test_what_the_model_lacks_is_refused(pruning, complaint, sizes):
    with pytest.raises(ValueError, match=complaint):
        pruning.check(sizes)


@pytest.mark.parametrize(
    'pruning',
    [
        FixedPruning(keep=2),
        FixedPruning(keep=2, partition='full'),
        DecayingPruning(keep_first=4, keep_least=1, partition='full'),
        FrequentIds(IDS, 3),
        FrequentIds(IDS, 1),
    ],
)
def test_no_logits_make_a_confidence_that_is_no_number(pruning, evidence, sizes):
    rng = np.random.Generator(np.random.PCG64(0))
    extremes = np.array([0, 1, -1, 3e38, -3e38, -np.inf, 1e30, -200], np.float32)
    for measure in (SoftmaxGap(pruning), SoftmaxMax(pruning)):
        memory = measure.init(64, sizes)
        for layer in range(4):
            states = jnp.asarray(extremes[(rng.random((64, 5)) * 8).astype(int)].clip(-3e38))
            seen = evidence(layer, np.full((64, 5), 0.2))._replace(
                hidden=states,
                logits=lambda part=None, state=None, asked=None, states=states: _picked(states, part),
                head_columns=None if measure.listed is None else HeadColumns(jnp.eye(5)[:, measure.listed], None),
            )
            memory, confidence, _ = measure.observe(memory, seen)
            assert np.isfinite(confidence).all() and (confidence >= 0).all() and (confidence <= 1 + 1e-6).all()


def _picked(states, part):
    """The states of the ids of a part of the identity, without a product with what is not finite."""
    if part is None:
        return states
    weight = part.weight.T[None] if isinstance(part, HeadColumns) else part.weight
    return jnp.sum(jnp.where(weight > 0, states[:, None], 0), axis=-1)


def test_what_is_remembered_travels_through_a_compiled_function(evidence, sizes):
    measure = SoftmaxGap(FixedPruning(keep=3))
    step = jax.jit(lambda probabilities: measure.observe(measure.init(1, sizes), evidence(0, probabilities))[1])
    np.testing.assert_allclose(step(jnp.asarray(FIRST)), [0.15], rtol=1e-5)
