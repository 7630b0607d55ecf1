"""Plans and gates: the patterns of the paper's Fig. 3, and what rows they belong to."""

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.depth import plans
from calm_jax.depth.gates import ScriptedGate
from calm_jax.types import Context, Sizes


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


def context(sizes, **values):
    """What a decision of three rows sees."""
    ids = jnp.array([5, -1, 9])
    nothing = {'tokens': None, 'mask': None, 'hidden': None, 'keys': None}
    return Context(**{'sizes': sizes, 'example_ids': ids, **nothing, **values})


def test_a_uniform_plan_is_the_same_for_every_row_and_leaves_the_encoder_whole(sizes):
    plan = plans.Uniform(0.5)(context(sizes._replace(encoder_layers=3)))
    assert plan.self_attention.tolist() == plan.feed_forward.tolist() == [[True, False, True, False]] * 3
    assert plan.encoder_attention.shape == (3, 3) and plan.encoder_attention.all()


@pytest.mark.parametrize('layers', [1, 2, 3, 7, 24, 49])
def test_a_share_that_is_a_number_of_layers_is_that_number(layers):
    assert [plans.layers_of(count / layers, layers) for count in range(1, layers + 1)] == list(range(1, layers + 1))
    sizes = Sizes(layers=layers, width=2, vocabulary=2, embedding=2)
    assert [plans.Uniform.of(str(count), sizes)['share'] for count in range(1, layers + 1)] == [
        count / layers for count in range(1, layers + 1)
    ]


@pytest.mark.parametrize('text', ['0', '5', '-1', '1.5', '1.0', 'four', ''])
def test_a_uniform_plan_of_no_layers_that_there_are_is_refused(text, sizes):
    with pytest.raises(ValueError, match='from 1 to 4 decoder layers, or a share'):
        plans.Uniform.of(text, sizes)


def test_a_scripted_gate_repeats_its_last_row(sizes):
    gate = ScriptedGate(np.array([[True, False], [False, True]]))
    runs = [gate(None, context(sizes, layer=layer, position=jnp.array([0, 1, 7])))[1].tolist() for layer in (0, 1)]
    assert runs == [[True, False, False], [False, True, True]]


def test_a_scripted_gate_may_say_which_sub_layers_run(sizes):
    table = np.array([[[True, False, False]], [[False, True, False]]])
    at = context(sizes, layer=0, position=jnp.array([0, 1, 7]))
    assert ScriptedGate(table)(None, at)[1].tolist() == [table[0, 0].tolist(), *[table[1, 0].tolist()] * 2]
