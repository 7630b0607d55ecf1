"""Calibration: the losses of one point after another, in the order given, become a certificate."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

import calm_jax.calibration
from calm_jax.calibration import (
    P_VALUES,
    Calibration,
    Certificate,
    Point,
    betting,
    binomial,
    calibrate,
    cluster_means,
    compute_p_values,
    hoeffding,
    signed_risk,
)
from calm_jax.calibration.draws import uniforms

THRESHOLDS = [0.9, 0.8, 0.7, 0.6, 0.5]


def step_losses(seed: int, shares=(0.01, 0.03, 0.08, 0.3, 0.5), n: int = 400) -> np.ndarray:
    """0/1 losses [n, m]: an example that fails at one threshold fails at all lower ones."""
    return (uniforms(seed, n, 1) < np.array(shares)).astype(float)


def test_the_chosen_threshold_is_the_last_before_the_first_failure():
    losses = step_losses(0)
    certificate = calibrate(losses, THRESHOLDS, tolerance=0.15, epsilon=0.05, p_value='binomial')
    assert certificate.threshold == 0.7 and certificate.found
    assert [point.rejected for point in certificate.grid] == [True, True, True, False, False]
    np.testing.assert_array_equal([point.p_value for point in certificate.grid[:4]], binomial(losses, 0.15)[:4])
    np.testing.assert_allclose([point.mean_loss for point in certificate.grid[:4]], losses.mean(axis=0)[:4])
    assert certificate.grid[4].p_value is None and certificate.grid[4].mean_loss is None
    assert certificate.tolerance_used == losses[:, 2].mean() / 0.15
    assert (certificate.n, certificate.examples, certificate.tolerance, certificate.epsilon) == (400, 400, 0.15, 0.05)


def test_columns_are_tested_in_the_order_given_and_never_sorted():
    losses = step_losses(1)[:, [0, 3, 1, 2, 4]]
    certificate = calibrate(losses, [0.9, 0.6, 0.8, 0.7, 0.5], 0.15, 0.05)
    assert certificate.threshold == 0.9
    assert [point.threshold for point in certificate.grid] == [0.9, 0.6, 0.8, 0.7, 0.5]
    assert [point.p_value is None for point in certificate.grid] == [False, False, True, True, True]


def test_no_valid_point_is_a_result_and_means_full_depth():
    losses, points = step_losses(2, (0.3, 0.01)), [Point({'exit': 0.9}, 0.9, cost=2), Point({'exit': 0.8}, 0.8, cost=1)]
    certificate = calibrate(losses, points, 0.1, 0.05, full={'choice': 'beam'})
    assert not certificate.found and certificate.tolerance_used == 0.0
    assert (certificate.decoding, certificate.threshold, certificate.cost) == ({'choice': 'beam'}, None, None)
    assert certificate.guarantee.startswith('No setting could be certified')
    assert calibrate(losses, points, 0.1, 0.05).decoding == {}
    assert calibrate(losses, points, 0.5, 0.05, full={'choice': 'beam'}).decoding == {'exit': 0.8}


@pytest.mark.parametrize('p_value', P_VALUES)
def test_one_setting_at_a_time_gives_the_same_certificate_and_stops_at_the_first_failure(p_value):
    for seed in range(5):
        losses = step_losses(seed, (0.0, 0.02, 0.05, 0.1, 0.2))
        calibration = Calibration(THRESHOLDS, 0.15, 0.05, p_value, seed=seed)
        decoded = []
        while calibration.point is not None:
            decoded.append(calibration.point.threshold)
            column = losses[:, THRESHOLDS.index(calibration.point.threshold)].copy()
            assert calibration.observe(column) == (calibration.point is not None)
        at_once = calibrate(losses, THRESHOLDS, 0.15, 0.05, p_value, seed=seed)
        assert calibration.certificate() == at_once
        assert calibration.certificate().to_json() == at_once.to_json()
        p_values = compute_p_values(losses, 0.15, p_value, seed)
        failures = np.flatnonzero(p_values > 0.05)
        assert decoded == THRESHOLDS[: failures[0] + 1 if failures.size else 5]
        with pytest.raises(ValueError, match='^the calibration is finished'):
            calibration.observe(losses[:, 0])


def test_stopping_early_certifies_what_was_tested():
    calibration = Calibration(THRESHOLDS, 0.15, 0.05)
    with pytest.raises(ValueError, match='^nothing was tested yet'):
        calibration.certificate()
    assert calibration.observe(step_losses(3)[:, 0])
    certificate = calibration.certificate()
    assert certificate.threshold == 0.9 and [point.rejected for point in certificate.grid] == [True] + [False] * 4
    assert Certificate.from_json(certificate.to_json()) == certificate


def hoeffding_losses(p: float, tolerance: float = 0.5, n: int = 100) -> list[float]:
    """Equal losses whose Hoeffding p-value is p."""
    return [tolerance - (np.log(1 / p) / (2 * n)) ** 0.5] * n


def test_a_p_value_of_exactly_epsilon_rejects():
    losses = np.array(hoeffding_losses(0.03))[:, None]
    p = hoeffding(losses, 0.5)[0]
    assert calibrate(losses, [0.5], 0.5, p, 'hoeffding').found
    assert not calibrate(losses, [0.5], 0.5, np.nextafter(p, 0), 'hoeffding').found


def test_joint_certificates_share_epsilon():
    losses = np.array(hoeffding_losses(0.03))[:, None]
    alone = calibrate(losses, [0.5], 0.5, 0.05, 'hoeffding')
    joint = calibrate(losses, [0.5], 0.5, 0.05, 'hoeffding', joint=2)
    assert alone.found and not joint.found and joint.joint == 2 and joint.epsilon == 0.05
    assert calibrate(losses, [0.5], 0.5, 0.0601, 'hoeffding', joint=2).found


def test_bonferroni_tests_the_whole_grid_at_a_share_of_epsilon_and_takes_the_lowest_threshold():
    losses = np.stack([hoeffding_losses(p) for p in (0.001, 0.9, 0.012, 0.013, 0.9)], axis=1)
    certificate = calibrate(losses, [0.7, 0.2, 0.6, 0.5, 0.9], 0.5, 0.06, 'hoeffding', 'bonferroni')
    assert [point.rejected for point in certificate.grid] == [True, False, False, False, False]
    certificate = calibrate(losses, [0.7, 0.2, 0.6, 0.5, 0.9], 0.5, 0.07, 'hoeffding', 'bonferroni')
    assert [point.rejected for point in certificate.grid] == [True, False, True, True, False]
    assert certificate.threshold == 0.5 and all(point.p_value is not None for point in certificate.grid)


def test_several_risks_are_one_hypothesis_whose_p_is_the_largest():
    text, toxicity = step_losses(4), step_losses(5, (0.01, 0.01, 0.04, 0.04, 0.04))
    risks, tolerances = {'text': text, 'toxicity': toxicity}, {'text': 0.6, 'toxicity': 0.06}
    certificate = calibrate(risks, THRESHOLDS, tolerances, 0.05)
    largest = np.maximum(betting(text, 0.6), betting(toxicity, 0.06))
    np.testing.assert_array_equal([point.p_value for point in certificate.grid[:3]], largest[:3])
    assert certificate.threshold == 0.8 and certificate.tolerance == tolerances
    stopped = certificate.grid[2]
    assert stopped.mean_loss == pytest.approx(toxicity[:, 2].mean())
    assert stopped.parts['text']['p_value'] < 0.05 < stopped.parts['toxicity']['p_value']
    assert certificate.tolerance_used == pytest.approx(max(text[:, 1].mean() / 0.6, toxicity[:, 1].mean() / 0.06))


def test_a_guarantee_in_every_group_takes_the_largest_p_of_the_groups():
    losses, groups = step_losses(6), np.array(['long', 'short'])[(np.arange(400) % 4 == 0).astype(int)]
    losses[groups == 'short', 1:] = np.maximum(losses[groups == 'short', 1:], (uniforms(7, 100, 1) < 0.15))
    certificate = calibrate(losses, THRESHOLDS, 0.15, 0.05, groups=groups)
    for j, point in enumerate(certificate.grid[:2]):
        assert point.p_value == max(betting(losses[groups == group, j], 0.15) for group in ('long', 'short'))
    assert certificate.groups == {'short': 100, 'long': 300} and certificate.n == 400
    assert certificate.threshold == 0.9 and calibrate(losses, THRESHOLDS, 0.15, 0.05).threshold < 0.9


def test_clusters_are_averaged_and_counted():
    losses, paragraphs = step_losses(8, n=400), np.arange(400) // 4
    certificate = calibrate(losses, THRESHOLDS, 0.15, 0.05, group_by=paragraphs)
    averaged = calibrate(cluster_means(losses, paragraphs), THRESHOLDS, 0.15, 0.05)
    assert certificate.grid == averaged.grid and certificate.threshold == averaged.threshold
    assert (certificate.n, certificate.examples, certificate.clustered) == (100, 400, True)


def test_copies_of_an_example_are_no_evidence_once_they_are_a_cluster():
    once = step_losses(9, (0.04,), n=60)
    copied = np.repeat(once, 10, axis=0)
    assert calibrate(copied, [0.5], 0.1, 0.05).found
    clustered = calibrate(copied, [0.5], 0.1, 0.05, group_by=np.repeat(np.arange(60), 10))
    assert not clustered.found and clustered.grid[0].p_value == pytest.approx(betting(once, 0.1)[0])


def test_groups_of_clusters_are_counted_in_clusters():
    losses, clusters = step_losses(10), np.arange(400) // 2
    certificate = calibrate(losses, THRESHOLDS, 0.2, 0.05, group_by=clusters, groups=np.where(clusters < 120, 'a', 'b'))
    assert certificate.groups == {'a': 120, 'b': 80} and certificate.n == 200
    with pytest.raises(ValueError, match='^groups: cluster 1 of group_by lies in several groups$'):
        calibrate(losses, THRESHOLDS, 0.2, 0.05, group_by=clusters, groups=['a'] * 3 + ['b'] * 397)


def test_signed_differences_are_tested_on_the_unit_scale_and_reported_on_their_own():
    differences = step_losses(11, (0.02, 0.2, 0.4, 0.5, 0.6)) * 0.2 - step_losses(12, (0.02, 0.2, 0.3, 0.3, 0.3)) * 0.2
    certificate = calibrate(differences, THRESHOLDS, 0.02, 0.05, signed=True)
    losses, tolerance = signed_risk(differences, 0.02)
    tested = [point for point in certificate.grid if point.p_value is not None]
    np.testing.assert_array_equal([point.p_value for point in tested], betting(losses, tolerance)[: len(tested)])
    means = differences.mean(axis=0)[: len(tested)]
    np.testing.assert_allclose([point.mean_loss for point in tested], means, atol=1e-12)
    assert certificate.found and certificate.signed and certificate.tolerance == 0.02
    assert calibrate(differences, THRESHOLDS, -0.5, 0.05, signed=True).threshold is None  # no worse than half better


PATH = [
    Point({'vocabulary': 512, 'exit': {'threshold': 0.9}}, 0.9),
    Point({'vocabulary': 256, 'exit': {'threshold': 0.9}}, 0.9),
    Point({'vocabulary': 256, 'plan': [1, 0]}),
]


def test_a_path_through_composed_decodings_is_certified_whole():
    calibration, losses = Calibration(PATH, 0.15, 0.05), step_losses(13, (0.01, 0.05, 0.5))
    while calibration.point is not None:
        calibration.observe(losses[:, PATH.index(calibration.point)])
    certificate = calibration.certificate()
    assert (certificate.decoding, certificate.threshold) == ({'vocabulary': 256, 'exit': {'threshold': 0.9}}, 0.9)
    assert [point.decoding for point in certificate.grid] == [point.decoding for point in PATH]
    assert [point.rejected for point in certificate.grid] == [True, True, False]
    assert certificate == calibrate(losses, PATH, 0.15, 0.05)


def test_a_number_is_short_for_a_point_without_a_document():
    losses, options = step_losses(16), {'tolerance': 0.15, 'epsilon': 0.05}
    assert calibrate(losses, THRESHOLDS, **options) == calibrate(losses, [Point({}, λ) for λ in THRESHOLDS], **options)
    assert calibrate(losses, np.array(THRESHOLDS), **options) == calibrate(losses, THRESHOLDS, **options)


def test_what_a_point_was_found_to_be_elsewhere_is_not_taken_over():
    losses = step_losses(17)
    tested = [Point({}, λ, mean_loss=0.0, p_value=1e-9, rejected=True, parts={'x': {}}) for λ in THRESHOLDS]
    assert calibrate(losses, tested, 0.15, 0.05) == calibrate(losses, THRESHOLDS, 0.15, 0.05)


def test_a_document_that_is_changed_afterwards_changes_nothing():
    document = {'exit': {'threshold': 0.9}}
    calibration = Calibration([Point(document, 0.9)], 0.15, 0.05)
    document['exit']['threshold'] = 0.1
    assert calibration.point.decoding == {'exit': {'threshold': 0.9}}


ZEROS = np.zeros((400, 4))


def chosen(costs, losses=ZEROS, procedure='fixed_sequence', thresholds=(0.9, 0.8, 0.7, 0.6)) -> Certificate:
    points = [Point({'number': index}, *pair) for index, pair in enumerate(zip(thresholds, costs))]
    return calibrate(losses, points, 0.15, 0.05, procedure=procedure)


@pytest.mark.parametrize('procedure', ['fixed_sequence', 'bonferroni'])
def test_the_cheapest_valid_point_is_chosen_under_either_procedure(procedure):
    certificate = chosen([8, 3.5, 4, 6], procedure=procedure)
    assert (certificate.decoding, certificate.threshold, certificate.cost) == ({'number': 1}, 0.8, 3.5)
    assert all(point.rejected for point in certificate.grid)
    assert [point.cost for point in certificate.grid] == [8.0, 3.5, 4.0, 6.0]


@pytest.mark.parametrize('procedure', ['fixed_sequence', 'bonferroni'])
def test_of_two_points_the_lower_threshold_is_not_taken_where_it_is_dearer(procedure):
    assert chosen([2, 3], ZEROS[:, :2], procedure, (0.9, 0.5)).threshold == 0.9
    assert chosen([3, 2], ZEROS[:, :2], procedure, (0.9, 0.5)).threshold == 0.5
    assert chosen([3, 2], ZEROS[:, :2], procedure, (0.5, 0.9)).threshold == 0.9


@pytest.mark.parametrize('procedure', ['fixed_sequence', 'bonferroni'])
def test_of_equally_cheap_points_the_earlier_tested_is_chosen(procedure):
    assert chosen([8, 3, 3, 3], procedure=procedure).decoding == {'number': 1}


def test_a_point_that_is_not_valid_is_not_chosen_however_cheap():
    losses = ZEROS + [0, 0, 0.5, 0]
    assert chosen([8, 7, 1, 2], losses).decoding == {'number': 1}  # number 3 stands behind the failure
    assert chosen([8, 7, 1, 2], losses, 'bonferroni').decoding == {'number': 3}


def test_where_a_valid_point_has_no_cost_the_last_valid_or_the_lowest_threshold_is_chosen():
    thresholds = (0.9, 0.6, 0.7, 0.8)
    for costs in ([1, 2, None, 3], [None] * 4):
        assert chosen(costs, thresholds=thresholds).decoding == {'number': 3}
        assert chosen(costs, procedure='bonferroni', thresholds=thresholds).decoding == {'number': 1}
    losses = ZEROS + [0, 0, 0, 0.5]  # the cost of a point that is not valid is not asked for
    for procedure in ('fixed_sequence', 'bonferroni'):
        assert chosen([1, 2, 3, None], losses, procedure, thresholds).decoding == {'number': 0}
    assert chosen([None] * 4, procedure='bonferroni', thresholds=(None, 0.9, None, 0.9)).decoding == {'number': 1}
    assert chosen([None] * 4, procedure='bonferroni', thresholds=(None,) * 4).decoding == {'number': 0}


def test_the_cost_observed_is_recorded_and_decides():
    calibration = Calibration([0.9, Point({}, 0.8, cost=1), Point({}, 0.7, cost=2)], 0.15, 0.05)
    calibration.observe(ZEROS[:, 0], 5)
    calibration.observe(ZEROS[:, 0], np.float32(4))
    calibration.observe(ZEROS[:, 0])  # keeps what the point came with
    certificate = calibration.certificate()
    assert [point.cost for point in certificate.grid] == [5.0, 4.0, 2.0]
    assert (certificate.threshold, certificate.cost) == (0.7, 2.0)


def test_a_dear_point_does_not_end_a_fixed_sequence():
    calibration = Calibration([0.9, 0.8, 0.7], 0.15, 0.05)
    assert calibration.observe(ZEROS[:, 0], 1) and calibration.observe(ZEROS[:, 0], 9)
    assert calibration.point.threshold == 0.7
    assert not calibration.observe(ZEROS[:, 0] + 0.5, 0.5)
    assert calibration.certificate().threshold == 0.9


def test_the_share_of_the_tolerance_used_is_that_of_the_chosen_point():
    certificate = chosen([1, 2, 3, 4], ZEROS + [0.03, 0, 0, 0])
    assert certificate.tolerance_used == pytest.approx(0.2)


def test_what_describes_the_calibration_is_recorded():
    provenance = {'parameters': 'f00', 'source': {'layers': (1, 2)}, 'data': {'name': 'news', 'sha256': 'ab'}}
    certificate = calibrate(
        step_losses(14), np.float32(THRESHOLDS), 0.15, 0.05, seed=3, objective='textual', metric='rougeL',
        metric_version='1.2', provenance=provenance,
    )  # fmt: skip
    content = json.loads(certificate.to_json())
    assert content['provenance'] == {**provenance, 'source': {'layers': [1, 2]}, 'environment': {}}
    assert (content['objective'], content['metric'], content['metric_version']) == ('textual', 'rougeL', '1.2')
    assert (content['seed'], content['p_value'], content['procedure']) == (3, 'betting', 'fixed_sequence')
    assert [np.float32(point['threshold']) for point in content['grid']] == np.float32(THRESHOLDS).tolist()
    assert np.float32(certificate.threshold).item() == certificate.threshold  # λ exactly as decoded with


GOOD = {'losses': step_losses(15), 'points': THRESHOLDS, 'tolerance': 0.15, 'epsilon': 0.05}
NAN = np.where(np.arange(400)[:, None] + np.arange(5) == 40, np.nan, GOOD['losses'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'losses': NAN}, r'^losses: row 36, column 4 \(counted from 0\) is nan; expected a number in \[0, 1\]$'),
        ({'losses': NAN * 2 - 1, 'signed': True}, r'^losses: row 36, column 4 .* expected a number in \[-1, 1\]$'),
        ({'losses': {'text': NAN}}, '^text: row 36, column 4 '),
        ({'losses': GOOD['losses'][:, :4]}, r'^losses: expected 5 columns, one per point, found .* \[400, 4\]$'),
        ({'losses': GOOD['losses'][:, 0]}, r'^losses: expected 5 columns, one per point, found the shape \[400\]$'),
        ({'losses': {'a': GOOD['losses'], 'b': GOOD['losses'][:300]}}, r'^b: expected .*, shape \[400\], found \[300\]$'),
        ({'losses': GOOD['losses'][:20]}, '^20 examples are too few: at tolerance 0.15 and level 0.05, .*25$'),
        ({'losses': GOOD['losses'][:14], 'p_value': 'binomial'}, '^14 examples are too few: .* fewer than 19$'),
        ({'losses': GOOD['losses'][:24], 'p_value': 'binomial', 'joint': 3}, 'level 0.0166667, .* 26$'),
        ({'losses': GOOD['losses'][:28], 'p_value': 'binomial', 'procedure': 'bonferroni'}, 'level 0.01, .* 29$'),
        ({'groups': ['a'] * 390 + ['b'] * 10}, '^10 examples in group b are too few: '),
        ({'group_by': np.arange(400) // 40}, '^10 clusters are too few: '),
        ({'group_by': [1, 2]}, r'^group_by: expected 400 labels, one per example, found the shape \[2\]$'),
        ({'groups': ['a']}, r'^groups: expected 400 labels'),
        ({'losses': GOOD['losses'] / 2, 'p_value': 'binomial'}, "^losses at threshold .* is 0.5; p-value 'binomial'"),
        ({'signed': True, 'p_value': 'binomial'}, "^p_value: 'binomial' is for losses 0 or 1"),
        ({'p_value': 'bentkus'}, "^p_value: expected one of hoeffding, .*, found 'bentkus'$"),
        ({'procedure': 'sorted'}, "^procedure: expected one of fixed_sequence, bonferroni, found 'sorted'$"),
        ({'tolerance': 0}, '^tolerance: expected a number between 0 and 1, found 0$'),
        ({'tolerance': float('nan')}, '^tolerance: expected a number between 0 and 1, found nan$'),
        ({'tolerance': -1, 'signed': True}, '^tolerance: expected a number between -1 and 1, found -1$'),
        ({'tolerance': {'text': 0.1}}, '^losses: expected those of text, which have a tolerance, found losses$'),
        ({'losses': {}}, '^losses: expected those of one risk or more, found an empty mapping$'),
        ({'epsilon': 1.0}, '^epsilon: expected a number between 0 and 1, found 1.0$'),
        ({'joint': 0}, '^joint: expected the number of certificates, 1 or more, found 0$'),
        ({'seed': -4}, '^seed: expected a non-negative integer, found -4$'),
        ({'points': []}, '^points: expected numbers λ or Points, one or more, found none$'),
        ({'points': [0.9, float('nan')]}, r'^points: point 1 \(counted from 0\): expected a finite number, found nan$'),
        ({'points': [0.9, {'exit': 0.8}]}, r'^points: point 1 \(counted from 0\): expected a finite number, found {'),
        ({'points': ['0.9']}, r"^points: point 0 \(counted from 0\): expected a finite number, found '0.9'$"),
        ({'points': [0.9, None]}, r'^points: point 1 .*: expected a finite number, found None$'),
        ({'points': [0.9, 0.8, 0.8]}, '^points: threshold 0.8 is given twice; expected each point once, in test order$'),
        ({'points': [Point({'k': 1}), Point({'k': 1})]}, '^points: {"k": 1} is given twice; expected each point once'),
        ({'points': [Point({}, float('inf'))]}, '^points: point 0 .*, threshold: expected a finite number, found inf$'),
        ({'points': [Point({}, 0.9, cost='low')]}, "^points: point 0 .*, cost: expected a finite number, found 'low'$"),
        ({'points': [Point('static')]}, "^points: point 0 .*, decoding: expected a JSON object, found 'static'$"),
        ({'points': [Point({'k': {1}})]}, '^points: point 0 .*, decoding: expected only what JSON can hold'),
        ({'full': 'greedy'}, "^full: expected a JSON object, found 'greedy'$"),
        ({'provenance': {'decoding': {}}}, '^provenance: "decoding" is of the points; leave it out$'),
        ({'provenance': {'parameters': {1, 2}}}, '^provenance: expected only what JSON can hold'),
        ({'provenance': {'environment': 'fast'}}, '^provenance: expected a mapping as "environment", found \'fast\'$'),
        ({'provenance': {'delta': float('nan')}}, '^provenance: expected only what JSON can hold'),
    ],
)
def test_what_is_out_of_place_is_refused_in_one_line(change, message):
    calibrate(**GOOD)
    with pytest.raises(ValueError, match=message) as error:
        calibrate(**{**GOOD, **change})
    assert '\n' not in str(error.value)


def test_calibration_needs_numpy_and_scipy_and_nothing_of_the_model():
    standard = {'ast', 'collections', 'dataclasses', 'hashlib', 'json', 'math', 'numbers', 'os', 'pathlib', 'typing'}
    for file in Path(calm_jax.calibration.__file__).parent.glob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                own = module.startswith('calm_jax.calibration.') or module in {'calm_jax', 'calm_jax.files', 'calm_jax.formats'}
                assert own or module.split('.')[0] in standard | {'numpy', 'scipy'}, f'{file.name} imports {module}'


def test_other_examples_or_risks_at_a_later_point_are_refused():
    calibration = Calibration(THRESHOLDS, 0.15, 0.05)
    calibration.observe(GOOD['losses'][:, 0])
    with pytest.raises(ValueError, match='^losses: expected 400 examples of losses, as at .*, found 399 of losses$'):
        calibration.observe(GOOD['losses'][:399, 1])
    with pytest.raises(ValueError, match='^losses: expected 400 examples of losses, .* found 400 of text$'):
        calibration.observe({'text': GOOD['losses'][:, 1]})
    with pytest.raises(ValueError, match=r'^losses: expected the losses of one point, shape \[400\], found '):
        calibration.observe(GOOD['losses'])
    with pytest.raises(ValueError, match=r'^losses at threshold 0.8: row 36 \(counted from 0\) is nan'):
        calibration.observe(NAN[:, 4])
    for cost in (float('nan'), '1', [1, 2]):
        with pytest.raises(ValueError, match='^cost at threshold 0.8: expected a finite number, found '):
            calibration.observe(GOOD['losses'][:, 1], cost)
    assert calibration.point == Point({}, 0.8)  # what was refused left no trace
