"""Oracles over plans: what they are by definition, in which order they stand, and what is left of them without luck."""

import numpy as np
import pytest
from scipy import stats

from calm_jax.analysis import oracle
from calm_jax.analysis.knapsack import EveryBudget
from calm_jax.analysis.oracle import PredictionSets, study

COSTS = (4.0, 8.0, 12.0, 24.0)
TEXTS = 400


def sets_of(scores):
    layers = np.broadcast_to(np.array(COSTS), scores.shape)
    return PredictionSets(
        ('a', 'b', 'c', 'd'), scores, layers, None, np.random.default_rng(0).integers(1, 190, scores.shape[1])
    )


@pytest.fixture(scope='module')
def noisy():
    return noisy_sets(TEXTS)


def noisy_sets(texts):
    """Two decodes, deeper plans better on average, and by how much is the text's own; noise as large."""
    rng = np.random.default_rng(1)
    worth = 0.2 + rng.random((1, texts, 1)) * np.array([0, 0.1, 0.15, 0.3])
    return sets_of(worth + rng.normal(0, 0.08, (2, texts, 4)))


@pytest.fixture(scope='module')
def once(noisy):
    """One decode, with numbers of tokens."""
    tokens = np.random.default_rng(5).integers(1, 190, (1, TEXTS, 4))
    return noisy._replace(scores=noisy.scores[:1], layers=noisy.layers[:1], tokens=tokens)


@pytest.fixture(scope='module')
def content(once):
    return study(once, 24, [6.0], [900.0])


def test_the_oracle_stands_above_the_greedy_one_and_that_above_the_costliest_plan(content):
    curves = {
        name: np.array(each, float) for name, each in content['by_layers'].items() if name in ('oracle', 'greedy', 'static')
    }
    assert (np.diff(curves['oracle']) >= 0).all() and (np.diff(curves['greedy']) >= 0).all()
    assert (curves['oracle'] >= curves['greedy'] - 1e-9).all() and (curves['greedy'] >= curves['static'] - 1e-9).all()
    assert (np.array(content['by_layers']['layers']) <= np.array(content['by_layers']['budgets']) + 1e-9).all()
    assert content['by_layers']['exact'] and content['by_layers']['settled'] == []
    # Nothing to sample with one plan, nothing to allocate with depth for all.
    assert content['by_layers']['sampling_advantage'][0] == 0
    assert content['by_layers']['allocation_advantage'][-1] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(np.sum(content['by_layers']['shares'], axis=1), 1)


def test_greedy_and_costliest_plan_are_what_their_definitions_say(noisy, content):
    scores = noisy.scores[0]
    for budget, greedy, static in zip(*(content['by_layers'][name] for name in ('budgets', 'greedy', 'static'))):
        allowed = [place for place, cost in enumerate(COSTS) if cost <= budget]
        assert greedy == pytest.approx(np.mean([max(row[place] for place in allowed) for row in scores]))
        assert static == pytest.approx(scores[:, allowed[-1]].mean())
    assert oracle.greedy(np.array([[0.2, 0.5], [0.3, 0.1]]), np.array([[1.0, 3.0], [2.0, 3.0]]), 1.5) is None
    assert oracle.static(np.array([[0.2, 0.5]]), np.array([[2.0, 3.0]]), 1.5) is None


def test_the_match_is_the_least_budget_that_scores_what_the_full_plan_does(noisy, content):
    exact = EveryBudget(noisy.scores[0], noisy.layers[0], 4.0)
    full, match = noisy.scores[0, :, -1].mean(), content['match']['budget']
    assert exact.score([match])[0] >= full > exact.score([match - 4 / TEXTS])[0]
    assert content['match']['of_layers'] == match / 24
    assert sum(share * cost for share, cost in zip(content['match']['shares'], COSTS)) == pytest.approx(match)


def test_by_layers_and_tokens_the_hull_bounds_what_is_settled(content):
    tokens = content['by_tokens']
    assert (np.array(tokens['stair']) <= np.array(tokens['hull']) + 1e-12).all() and 0 < tokens['gap'] < 0.01
    settled = {each['budget']: each for each in tokens['settled']}
    assert set(settled) >= {900.0} and len(settled) > 3
    for budget, each in settled.items():
        place = tokens['budgets'].index(budget)
        assert tokens['stair'][place] <= each['score'] + 1e-12 <= each['bound'] + 2e-12 <= tokens['hull'][place] + 3e-12
    assert any(each['score'] > tokens['stair'][tokens['budgets'].index(budget)] for budget, each in settled.items())


def test_plans_in_another_order_are_the_same_study(once, content):
    order = [2, 0, 3, 1]
    shuffled = PredictionSets(
        tuple(once.names[place] for place in order), *(each[..., order] for each in once[1:4]), once.lengths
    )
    assert study(shuffled, 24, [6.0], [900.0]) == content


def test_mixing_is_the_upper_hull_of_the_plans():
    scores, costs = np.array([[0.2, 0.2, 0.4, 0.35]] * 3), np.array([COSTS] * 3)
    none, *shares = oracle.mixing(scores, costs, [2, 4, 6, 8, 12, 24])
    assert np.isnan(none).all()
    np.testing.assert_allclose(shares, [[1, 0, 0, 0], [0.75, 0, 0.25, 0], [0.5, 0, 0.5, 0], [0, 0, 1, 0], [0, 0, 1, 0]])


def test_without_noise_the_attainable_oracle_is_the_oracle():
    one = np.random.default_rng(2).random((1, 300, 4))
    curves = study(sets_of(np.repeat(one, 2, axis=0)), 24)['by_layers']
    np.testing.assert_allclose(curves['attainable'], curves['oracle'], atol=1e-9)
    np.testing.assert_allclose(curves['attainable_layers'], curves['layers'])
    np.testing.assert_allclose(curves['informed'], curves['oracle'], atol=1e-6)


def test_on_pure_noise_oracles_win_by_luck_alone():
    """All plans alike and all texts: what one output says of another is nothing."""
    curves = study(sets_of(np.random.default_rng(3).random((2, 4 * TEXTS, 4))), 24)['by_layers']
    error = 1 / np.sqrt(12 * 8 * TEXTS)
    assert curves['oracle'][-1] > 0.5 + 50 * error and curves['greedy'][-1] > 0.5 + 50 * error
    for name in ('attainable', 'informed'):
        assert np.abs(np.array(curves[name]) - 0.5).max() < 5 * error
        assert np.abs(np.array(curves[f'{name}_error'][-1]) / error - 1) < 0.5


def test_what_is_attainable_lies_below_the_oracle_and_the_informed_choice_above_mixing():
    noisy = noisy_sets(1500)
    content = study(noisy, 24)
    curves = {name: np.array(each) for name, each in content['by_layers'].items() if name not in ('exact', 'gap', 'settled')}
    for name in ('attainable', 'informed'):
        assert (curves[name] <= curves['oracle'] + 1e-9).all()
    gain, spent = curves['informed_advantage'], curves['informed_layers']
    hull = np.interp(spent, COSTS, noisy.scores.mean(axis=(0, 1)))  # which is concave here
    np.testing.assert_allclose(gain, curves['informed'] - hull, atol=1e-9)
    middle = (curves['budgets'] > 6) & (curves['budgets'] < 20)
    assert (gain - 2 * curves['informed_error'])[middle].min() > 0 and gain.min() > -0.005
    assert (curves['informed'][middle] > curves['attainable'][middle]).mean() > 0.5


def test_one_decode_predicts_the_other_by_other_texts():
    rng = np.random.default_rng(6)
    worth, noise, means = rng.normal(0, 1, (4000, 3)), rng.normal(0, 1, (2, 4000, 3)), np.array([0, 0.2, 0.5])
    above = lambda values: values - values.mean(axis=-1, keepdims=True)  # noqa: E731
    scores = worth + means + noise
    # Half of what one decode shows is the text's: the prediction is half of it, about the plans' averages.
    np.testing.assert_allclose(oracle.predicted(scores), above(means) + above(worth + noise) / 2, atol=0.4)
    np.testing.assert_allclose(oracle.predicted(np.stack([worth, worth])), np.stack([above(worth)] * 2), atol=1e-9)
    # Nothing in common: all texts alike, whatever one decode says of them.
    np.testing.assert_allclose(oracle.predicted(means + noise), np.broadcast_to(above(means), noise.shape), atol=0.3)
    # But for the plans' averages, no score of the other decode has a part in what is predicted of it.
    changed = scores.copy()
    changed[1, 17] += [2, -1, -1]
    moved = np.abs(oracle.predicted(changed)[0] - oracle.predicted(scores)[0])
    assert moved[17].max() <= 3 / 4000 and moved[18].max() > 0


def test_the_chi_squared_test_gives_the_published_p_values():
    """Glavas et al. 2024, A.5.2: 11 bins and 4 plans are 30 degrees of freedom; printed there as 0.51 and 0.09."""
    assert round(oracle.chi_squared_p(29.02, 30), 3) == 0.517
    assert round(oracle.chi_squared_p(40.57, 30), 3) == 0.094
    counts = np.random.default_rng(4).integers(5, 60, (11, 4))
    tested, reference = oracle.homogeneity(counts), stats.chi2_contingency(counts, correction=False)
    assert tested.degrees == 30 == reference.dof
    np.testing.assert_allclose(tested[::2], (reference.statistic, reference.pvalue))


def test_empty_bins_and_plans_are_no_part_of_the_test():
    counts = np.array([[4, 0, 9], [0, 0, 0], [7, 0, 3]])
    tested = oracle.homogeneity(counts)
    reference = stats.chi2_contingency(counts[[0, 2]][:, [0, 2]], correction=False)
    assert tested.degrees == 1
    np.testing.assert_allclose(tested[::2], (reference.statistic, reference.pvalue))
    assert oracle.homogeneity(np.array([[4, 0], [5, 0]])) == (None, 0, None)


def test_bins_hold_fifteen_lengths_and_the_last_the_rest(noisy, content):
    assert oracle.length_bins(np.array([0, 1, 15, 16, 150, 151, 999])).tolist() == [0, 0, 0, 1, 9, 10, 10]
    for each in content['lengths']:
        counts = np.array(each['counts'])
        np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(oracle.length_bins(noisy.lengths), minlength=11))
        place = content['by_layers']['budgets'].index(each['budget'])
        np.testing.assert_allclose(counts.sum(axis=0) / TEXTS, content['by_layers']['shares'][place])
    assert [each['budget'] for each in content['lengths']] == [content['match']['budget'], 24.0, 6.0]


def test_a_budget_below_the_cheapest_plan_is_refused(noisy, once):
    with pytest.raises(ValueError, match='a budget of 3.9 is below 4, what the cheapest plan of each text comes to'):
        study(noisy, 24, [3.9])
    with pytest.raises(ValueError, match='a budget of 1 is below'):
        study(once, 24, token_budgets=[1])
