"""Plans and gates: the patterns of the paper's Fig. 3, and what rows they belong to."""

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.depth import plans
from calm_jax.depth.gates import ScriptedGate


@pytest.mark.parametrize(
    'cost, layers',
    [
        (4, [1, 7, 13, 19]),
        (8, list(range(1, 23, 3))),
        (12, list(range(1, 24, 2))),
        (16, [1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22, 24]),
        (24, list(range(1, 25))),
    ],
)
def test_uniform_patterns_of_24_layers_are_the_papers(cost, layers):
    assert (np.flatnonzero(plans.uniform_layers(cost, 24)) + 1).tolist() == layers


@pytest.mark.parametrize('num_layers', [1, 2, 6, 8, 12, 32])
def test_a_uniform_plan_runs_exactly_its_cost_and_always_the_first_layer(num_layers):
    for cost in range(1, num_layers + 1):
        runs = plans.uniform_layers(cost, num_layers)
        assert runs.sum() == cost and runs[0]


@pytest.mark.parametrize('cost', [0, 9, -1])
def test_a_cost_outside_the_layers_is_refused(cost):
    with pytest.raises(ValueError, match='1 to 8'):
        plans.uniform_layers(cost, 8)


def test_a_uniform_plan_is_the_same_for_every_row_and_leaves_the_encoder_whole():
    plan = plans.Uniform(2, 4, 3)(np.array([5, -1, 9]))
    assert plan.self_attention.tolist() == plan.feed_forward.tolist() == [[True, False, True, False]] * 3
    assert plan.encoder_attention.shape == (3, 3) and plan.encoder_attention.all()


def test_a_scripted_gate_repeats_its_last_row():
    gate = ScriptedGate(np.array([[True, False], [False, True]]))
    position = jnp.array([0, 1, 7])
    assert gate(0, position, None, None).tolist() == [True, False, False]
    assert gate(1, position, None, None).tolist() == [False, True, True]
