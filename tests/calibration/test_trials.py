"""The paper's random splits: what each trial chose, and what that gave on its test examples."""

import json

import numpy as np
import pytest

from calm_jax.calibration import Point, calibrate, run_trials, trials_running
from calm_jax.calibration.draws import permutation, uniforms

THRESHOLDS = [0.9, 0.7, 0.5, 0.3, 0.1]
SHARES = np.array([0.01, 0.04, 0.08, 0.2, 0.6])
TOLERANCES = (0.05, 0.1, 0.3)


@pytest.fixture(scope='module')
def pool() -> tuple[np.ndarray, np.ndarray]:
    """Losses and layers [500, 5] of settings that cost more loss and fewer layers as λ falls."""
    u = uniforms(1, 500, 2)
    return np.where(u[:, :1] < SHARES, 0.5 + u[:, 1:] / 2, 0.0), np.array([7, 6, 5, 3, 1]) + u[:, 1:] / 10


def test_a_trial_is_a_calibration_on_its_part_of_the_pool():
    u, grid = uniforms(2, 500, 2), [round(0.99 - 0.01 * j, 2) for j in range(80)]  # fine, so that the part matters
    losses = np.where(u[:, :1] < np.linspace(0.001, 0.6, 80), 0.5 + u[:, 1:] / 2, 0.0)
    layers = np.linspace(8, 1, 80) - u[:, 1:]
    result = run_trials(losses, layers, grid, TOLERANCES, 8, trials=6, seed=4)
    assert (result['n_calibration'], result['n_test'], result['trials']) == (400, 100, 6)
    for row in result['tolerances']:
        assert len({entry['threshold'] for entry in row['per_trial']}) > 1
        for trial, entry in enumerate(row['per_trial']):
            order = permutation((4, trial), 500)
            certificate = calibrate(losses[order[:400]], grid, row['tolerance'], 0.05, seed=4)
            assert (entry['threshold'], entry['point'] is not None) == (certificate.threshold, certificate.found)
            if certificate.found:
                column = grid.index(certificate.threshold)
                assert entry['point'] == column
                assert entry['test_risk'] == pytest.approx(losses[order[400:], column].mean())
                assert entry['pool_risk'] == pytest.approx(losses[:, column].mean())
                assert entry['layers'] == pytest.approx(layers[order[400:], column].mean())


def test_the_summary_is_of_the_trials(pool):
    result = run_trials(*pool, THRESHOLDS, TOLERANCES, 8, label='softmax_gap', objective='textual', metric='rougeL')
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result['label'], result['objective'], result['metric'], result['epsilon']) == (
        'softmax_gap', 'textual', 'rougeL', 0.05,
    )  # fmt: skip
    assert 'prove nothing' in result['note'] and len(result['tolerances']) == 3
    for row in result['tolerances']:
        assert len(row['per_trial']) == 50
        risks = [entry['test_risk'] for entry in row['per_trial']]
        assert row['share_test_above'] == sum(risk > row['tolerance'] for risk in risks) / 50
        assert row['share_pool_above'] == sum(e['pool_risk'] > row['tolerance'] for e in row['per_trial']) / 50
        assert (row['risk_mean'], row['risk_std']) == pytest.approx((np.mean(risks), np.std(risks)))
        layers = [entry['layers'] for entry in row['per_trial']]
        assert (row['layers_mean'], row['layers_std']) == pytest.approx((np.mean(layers), np.std(layers)))
    depths = [row['layers_mean'] for row in result['tolerances']]
    assert depths == sorted(depths, reverse=True) and depths[0] > depths[-1]
    assert all(row['share_pool_above'] <= 0.05 for row in result['tolerances'])


def test_a_trial_that_certifies_nothing_runs_at_full_depth(pool):
    row = run_trials(*pool, THRESHOLDS, [0.005], 8, trials=3)['tolerances'][0]
    full = {'point': None, 'threshold': None, 'test_risk': 0.0, 'pool_risk': 0.0, 'layers': 8.0}
    assert row['per_trial'] == [full] * 3


def test_a_trial_chooses_what_a_calibration_on_its_part_would_with_layers_as_the_cost(pool):
    losses, layers = pool[0], np.stack([*pool[1].T[:2], *(2 + 2 * uniforms(3, 500, 2).T), pool[1][:, 0]], axis=1)
    documents = [{'plan': number} for number in range(5)]
    result = run_trials(losses, layers, [Point(each) for each in documents], TOLERANCES, 8, trials=20, seed=4)
    for row in result['tolerances']:
        for trial, entry in enumerate(row['per_trial']):
            part = permutation((4, trial), 500)[:400]
            points = [Point(each, cost=cost) for each, cost in zip(documents, layers[part].mean(axis=0))]
            certificate = calibrate(losses[part], points, row['tolerance'], 0.05, seed=4)
            assert certificate.decoding == ({} if entry['point'] is None else documents[entry['point']])
            assert entry['threshold'] is None
    assert certificate.grid[3].rejected and {entry['point'] for entry in row['per_trial']} == {2, 3}


def test_columns_are_needed_until_every_trial_has_stopped(pool):
    losses, layers = pool
    running = [trials_running(losses[:, :k], TOLERANCES, trials=10) for k in range(1, 6)]
    assert running[0] == 30 and running == sorted(running, reverse=True) and running[-1] == 0
    whole = run_trials(losses, layers, THRESHOLDS, TOLERANCES, 8, trials=10)
    enough = 1 + running.index(0)
    assert run_trials(losses[:, :enough], layers[:, :enough], THRESHOLDS, TOLERANCES, 8, trials=10) == whole
    for k in range(1, enough):
        with pytest.raises(ValueError, match=f'of 10 trials at tolerance .* certify all {k} columns .* next point too'):
            run_trials(losses[:, :k], layers[:, :k], THRESHOLDS, TOLERANCES, 8, trials=10)


def test_a_grid_that_ends_before_the_trials_do_is_used_to_its_end(pool):
    losses, layers = pool
    result = run_trials(losses[:, :2], layers[:, :2], THRESHOLDS[:2], [0.3], 8, trials=3)
    assert [entry['threshold'] for entry in result['tolerances'][0]['per_trial']] == [0.7] * 3


def test_clusters_stay_together(pool):
    losses, layers = pool
    copied = [np.repeat(table[:250], 2, axis=0) for table in pool]
    clusters = np.repeat(np.arange(250), 2)
    once = run_trials(losses[:250], layers[:250], THRESHOLDS, TOLERANCES, 8, trials=5)
    together = run_trials(*copied, THRESHOLDS, TOLERANCES, 8, trials=5, group_by=clusters)
    assert together['n_calibration'] == 200
    for a, b in zip(once['tolerances'], together['tolerances']):
        assert [e['threshold'] for e in a['per_trial']] == [e['threshold'] for e in b['per_trial']]
        assert a['risk_mean'] == pytest.approx(b['risk_mean']) and a['layers_mean'] == pytest.approx(b['layers_mean'])
    assert trials_running(copied[0][:, :1], [0.3], trials=5, group_by=clusters) == 5


def test_signed_differences_are_reported_on_their_own_scale(pool):
    losses, layers = pool
    differences = losses / 4 - losses[::-1] / 4
    result = run_trials(differences, layers, THRESHOLDS, [0.1], 8, trials=5, signed=True)
    for entry in result['tolerances'][0]['per_trial']:
        column = THRESHOLDS.index(entry['threshold'])
        assert entry['pool_risk'] == pytest.approx(differences[:, column].mean(), abs=1e-12)
    with pytest.raises(ValueError, match=r'expected a number in \[0, 1\]$'):
        run_trials(differences, layers, THRESHOLDS, [0.1], 8)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'losses': np.full((500, 5), np.nan)}, '^losses: row 0, column 0 '),
        ({'losses': np.zeros(500)}, r'^losses: expected examples by points, shape \[n, k\], found \[500\]$'),
        ({'layers': np.ones((500, 4))}, r'^layers: expected the shape of the losses, \[500, 5\], found \[500, 4\]$'),
        ({'points': [0.5]}, '^points: expected one for each of 5 columns, found 1$'),
        ({'tolerances': [1.0]}, '^tolerance: expected a number between 0 and 1, found 1.0$'),
        ({'epsilon': 0}, '^epsilon: expected a number between 0 and 1, found 0$'),
        ({'trials': 0}, '^trials: expected 1 or more, found 0$'),
        ({'calibration_share': 1.0}, '^calibration_share: 1.0 of 500 examples leaves none'),
    ],
)
def test_what_is_out_of_place_is_refused(pool, change, message):
    good = {'losses': pool[0], 'layers': pool[1], 'points': THRESHOLDS, 'tolerances': [0.1], 'num_layers': 8}
    with pytest.raises(ValueError, match=message):
        run_trials(**{**good, **change})
