"""Contrastive scores against their formulas, worked out by hand on five words."""

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.depth.contrast import DivergentContrast, WeightedContrast, contrast_scores, divergence, dola_scores, plausible
from calm_jax.depth.vocabulary import FixedPruning, Whole

EXPERT = (0.4, 0.3, 0.15, 0.1, 0.05)
AMATEUR = (0.1, 0.5, 0.2, 0.1, 0.1)
NEAR = (0.3, 0.4, 0.1, 0.1, 0.1)
FLAT = (0.2, 0.2, 0.2, 0.2, 0.2)
# α = .3: plausible are the words of at least .12, the first three. p / a is 4, .6, .75 on them, of sum 5.35; Σ p is .85.
SCORES = (0.85 * 4 / 5.35, 0.85 * 0.6 / 5.35, 0.85 * 0.75 / 5.35, 0.1, 0.05)


def log(probabilities):
    return jnp.log(jnp.asarray([probabilities], jnp.float32))


def test_plausible_are_words_of_at_least_alpha_times_the_largest_probability():
    assert plausible(log(EXPERT), 0.3).tolist() == [[True, True, True, False, False]]
    assert plausible(log(EXPERT), 0.2).tolist() == [[True, True, True, True, False]]


def test_scores_by_hand():
    scores = contrast_scores(log(EXPERT), log(AMATEUR), plausible(log(EXPERT), 0.3))
    np.testing.assert_allclose(scores, [SCORES], rtol=1e-5)
    np.testing.assert_allclose(scores.sum(), 1, rtol=1e-6)


def test_dola_scores_by_hand():
    scores = dola_scores(log(EXPERT), log(AMATEUR), plausible(log(EXPERT), 0.3))[0]
    np.testing.assert_allclose(scores[:3], np.log([4, 0.6, 0.75]), rtol=1e-5)
    assert scores[3:].max() < -1000 and scores[3] > scores[4]


def test_the_divergence_of_the_plausible_words_by_hand():
    # ½ Σ p ln(p / m) + a ln(a / m) over three words with m = .25, .4, .175, and .35, .35, .125.
    likely = plausible(log(EXPERT), 0.3)
    by_hand = (
        0.4 * np.log(1.6)
        + 0.1 * np.log(0.4)
        + 0.3 * np.log(0.75)
        + 0.5 * np.log(1.25)
        + 0.15 * np.log(0.15 / 0.175)
        + 0.2 * np.log(0.2 / 0.175)
    ) / 2
    np.testing.assert_allclose(divergence(log(EXPERT), log(AMATEUR), likely), [by_hand], rtol=1e-5)
    np.testing.assert_allclose(divergence(log(EXPERT), log(AMATEUR), likely), [0.062611604], rtol=1e-5)
    np.testing.assert_allclose(divergence(log(EXPERT), log(NEAR), likely), [0.009684292], rtol=1e-4)
    np.testing.assert_allclose(divergence(log(EXPERT), log(EXPERT), likely), [0], atol=1e-7)


def test_the_weighted_amateur_is_the_layer_of_half_the_depth(observed):
    # Layers 2 and 3 look at layer 1, layer 4 at layer 2; layer 1 has none.
    seen = observed(WeightedContrast(alpha=0.3), AMATEUR, EXPERT, NEAR, EXPERT)
    gaps = [confidence for confidence, _ in seen]
    np.testing.assert_allclose(gaps[0], 0.3, rtol=1e-5)
    np.testing.assert_allclose(gaps[1], SCORES[0] - SCORES[2], rtol=1e-5)
    # NEAR over AMATEUR on its plausible words (at least .12: the first two): 3 and .8 of 3.8, times .7; the next is .1842.
    np.testing.assert_allclose(gaps[2], 0.7 * (3 - 0.8) / 3.8, rtol=1e-5)
    # Layer 4 against layer 2, which is the same: its plausible words share their mass alike.
    np.testing.assert_allclose(gaps[3], 0, atol=1e-6)
    assert [token for _, token in seen] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    'second, third, chosen',
    [
        # JSD / distance at layer 4: layer 2 counts half. .0626 / 2 > .0097: the second; in AMATEUR's other place the third.
        (AMATEUR, NEAR, AMATEUR),
        (NEAR, AMATEUR, AMATEUR),
        # .0626 / 2 = .0313 against .0439: the third, although its divergence is the smaller one.
        (AMATEUR, (0.15, 0.5, 0.2, 0.1, 0.05), (0.15, 0.5, 0.2, 0.1, 0.05)),
    ],
)
def test_the_divergent_amateur_has_the_largest_divergence_per_layer_between(observed, second, third, chosen):
    seen = observed(DivergentContrast(alpha=0.3), FLAT, second, third, EXPERT)
    ratio = np.array(EXPERT[:3]) / np.array(chosen[:3])
    scores = sorted([*(0.85 * ratio / ratio.sum()), 0.1, 0.05])
    np.testing.assert_allclose(seen[3][0], scores[-1] - scores[-2], rtol=1e-4)
    # Layers 1 and 2 have no amateur: the plain gap.
    np.testing.assert_allclose(seen[0][0], 0, atol=1e-6)
    np.testing.assert_allclose(seen[1][0], sorted(second)[-1] - sorted(second)[-2], rtol=1e-4)


@pytest.mark.parametrize('emits, token', [('model', 0), ('auto_contrastive', 2), ('dola', 2)])
def test_which_distribution_speaks(observed, emits, token):
    # Against (.3, .4, .05, …) the third word gains most: 4/3, .75, 3.
    seen = observed(WeightedContrast(alpha=0.3, emits=emits), (0.3, 0.4, 0.05, 0.1, 0.15), EXPERT, EXPERT, EXPERT)
    assert seen[1][1] == token
    assert seen[0][1] == 1  # no amateur yet


@pytest.mark.parametrize('kind', [WeightedContrast, DivergentContrast])
@pytest.mark.parametrize('emits', ['model', 'auto_contrastive', 'dola'])
def test_pruned_to_every_word_it_is_the_contrast(observed, kind, emits):
    layers = AMATEUR, NEAR, (0.15, 0.5, 0.2, 0.1, 0.05), EXPERT
    whole = observed(kind(alpha=0.3, emits=emits), *layers)
    for partition in ('kept', 'full'):
        pruned = observed(kind(alpha=0.3, emits=emits, vocabulary=FixedPruning(keep=5, partition=partition)), *layers)
        np.testing.assert_allclose(pruned, whole, rtol=1e-5, atol=1e-6)


def test_pruned_scores_by_hand(observed):
    # Layer 1 keeps words 1, 2 and 0. On them layer 2 is .4, .3, .15 of .85, layer 1 .1, .5, .2 of .8: the same ratios.
    seen = observed(WeightedContrast(alpha=0.3, vocabulary=FixedPruning(keep=3)), AMATEUR, EXPERT, EXPERT, EXPERT)
    np.testing.assert_allclose(seen[1][0], (4 - 0.75) / 5.35, rtol=1e-5)
    assert seen[1][1] == 0
    full = observed(
        WeightedContrast(alpha=0.3, vocabulary=FixedPruning(keep=3, partition='full')), AMATEUR, EXPERT, EXPERT, EXPERT
    )
    # The two others weigh .2, as in layer 1: all is divided by 1.05.
    np.testing.assert_allclose(full[1][0], 0.85 / 1.05 * (4 - 0.75) / 5.35, rtol=1e-5)


@pytest.mark.parametrize('kind', [WeightedContrast, DivergentContrast])
def test_an_amateur_that_the_row_has_not_run_is_none(evidence, sizes, kind):
    measure = kind(alpha=0.3)
    memory, found = measure.init(2, sizes), None
    ran = jnp.array([[True, False], [True, False], [True, True], [True, True]])
    for layer, probabilities in enumerate((AMATEUR, AMATEUR, EXPERT)):
        after, found, _ = measure.observe(memory, evidence(layer, [probabilities] * 2, False, ran[layer]))
        memory = (after[0], jnp.where(ran[layer][:, None], after[1], memory[1]))
    np.testing.assert_allclose(found, [SCORES[0] - SCORES[2], 0.1], rtol=1e-5)


@pytest.mark.parametrize('kind', [WeightedContrast, DivergentContrast])
@pytest.mark.parametrize('emits', ['model', 'auto_contrastive', 'dola'])
def test_no_logits_make_a_confidence_that_is_no_number(evidence, sizes, kind, emits):
    rng = np.random.Generator(np.random.PCG64(1))
    extremes = np.array([0, 1, -1, 3e38, -3e38, -np.inf, np.inf, 1e30, -200, 88.8], np.float32)
    measure = kind(emits=emits)
    memory, emitted = measure.init(256, sizes), []
    for layer in range(4):
        states = jnp.asarray(extremes[(rng.random((256, 5)) * len(extremes)).astype(int)])
        asked = evidence(layer, np.full((256, 5), 0.2))._replace(
            logits=lambda states=states: states, choose=lambda logits, ids: emitted.append(logits) or jnp.argmax(logits, -1)
        )
        memory, confidence, _ = measure.observe(memory, asked)
        assert np.isfinite(confidence).all() and (confidence >= 0).all() and (confidence <= 1 + 1e-6).all()
    assert not np.isnan(np.concatenate(emitted)).any()


@pytest.mark.parametrize('kind', [WeightedContrast, DivergentContrast])
@pytest.mark.parametrize(
    'arguments, complaint',
    [
        ({'alpha': 0.0}, 'alpha is 0.0; expected'),
        ({'alpha': 1.0}, 'alpha is 1.0; expected'),
        ({'emits': 'dolla'}, "unknown output distribution 'dolla'.*did you mean dola"),
    ],
)
def test_what_cannot_be_contrasted_is_refused(kind, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        kind(**arguments)


@pytest.mark.parametrize(
    'kind, keep, looks',
    [
        (WeightedContrast, 5, [[1, 5]] * 4),
        (DivergentContrast, 5, [[1, 5]] * 4),
        # The last layers look at all five words; each earlier layer that is looked at, at the two that are kept.
        (WeightedContrast, 2, [[1, 5], [2, 2 + 2], [2, 2 + 2], [2, 5 + 2]]),
        (DivergentContrast, 2, [[1, 5], [1, 2], [2, 2 + 2], [3, 5 + 2 * 2]]),
    ],
)
def test_contrasts_apply_the_head_to_what_they_look_at(counted, kind, keep, looks):
    vocabulary = Whole() if keep == 5 else FixedPruning(keep=keep)
    assert counted(kind(vocabulary=vocabulary)) == looks


def test_below_the_least_exit_layer_only_what_is_remembered_costs(counted):
    look, nothing = [1, 5], [0, 0]
    assert counted(WeightedContrast(), decides=False) == [look, look, nothing, nothing]
    assert counted(DivergentContrast(), decides=False) == [nothing, look, look, nothing]
    pruned = WeightedContrast(vocabulary=FixedPruning(keep=2, pruning_layer=3))
    assert counted(pruned, decides=False) == [nothing, nothing, look, nothing]
