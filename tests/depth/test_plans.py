"""Plans and gates: the patterns of the paper's Fig. 3, and what rows they belong to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.decoding.choice import example_keys
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


@functools.partial(jax.jit, static_argnames=('layers',))
def drawn(maker, ids, layers, seed=0):
    """Which layers rows of these ids run, bool [B, L], as a decode of this seed has them."""
    sizes = Sizes(layers=layers, width=2, vocabulary=2, embedding=2)
    plan = maker(context(sizes, example_ids=ids, keys=example_keys(jax.random.key(seed), ids)))
    return plan.self_attention


@pytest.mark.parametrize('first', [True, False])
def test_a_text_draws_the_same_layers_whatever_its_batch_and_others_by_another_seed(first):
    maker, ids = plans.RandomLayers(0.5, first=first), np.array([5, 9, 2**31 - 1, 0, 5])
    runs = np.asarray(drawn(maker, ids, 12))
    np.testing.assert_array_equal(runs[[2, 4, 3, 1, 1]], drawn(maker, ids[[2, 4, 3, 1, 1]], 12))
    np.testing.assert_array_equal(runs[:1], drawn(maker, ids[:1], 12))
    np.testing.assert_array_equal(runs[0], runs[4])
    assert len(np.unique(runs, axis=0)) == 4
    assert (drawn(maker, ids, 12, seed=1) != runs).any(axis=1).all()


@pytest.mark.parametrize('first', [True, False])
def test_every_draw_has_exactly_its_layers_and_the_first_where_that_is_asked(first):
    for layers in (1, 7, 49):
        for count in range(1, layers + 1):
            runs = np.asarray(drawn(plans.RandomLayers(count / layers, first=first), np.arange(5), layers))
            assert (runs.sum(axis=1) == count).all() and (runs[:, 0].all() or not first)


@pytest.mark.parametrize('first', [True, False])
def test_each_other_layer_is_drawn_equally_often_and_beside_each_other(first):
    draws = 4000
    for count in (2, 4):
        runs = np.asarray(drawn(plans.RandomLayers(count / 7, first=first), np.arange(draws), 7))[:, int(first) :]
        share = (count - first) / runs.shape[1]
        np.testing.assert_allclose(runs.mean(axis=0), share, atol=4 * np.sqrt(share * (1 - share) / draws))
        together = np.einsum('nl,nm->lm', runs, runs, dtype=float)[np.triu_indices(runs.shape[1], 1)] / draws
        share *= (count - first - 1) / (runs.shape[1] - 1)
        np.testing.assert_allclose(together, share, atol=4 * np.sqrt(share * (1 - share) / draws))


@pytest.mark.parametrize(
    'share, layers',
    [(0.0, [2, 5, 6]), (0.375, [2, 5, 6]), (0.5, [1, 2, 5, 6]), (0.75, [1, 2, 4, 5, 6, 8]), (1.0, [*range(1, 9)])],
)
def test_a_fixed_plan_runs_its_layers_and_as_many_others_evenly_spaced_as_its_share_asks_for(sizes, share, layers):
    plan = plans.FixedLayers((5, 2, 6), share)(context(sizes._replace(layers=8, encoder_layers=3)))
    for runs in plan[:3]:
        assert [(np.flatnonzero(row) + 1).tolist() for row in runs] == [layers] * 3
    assert plan.encoder_attention.shape == plan.encoder_feed_forward.shape == (3, 3)
    assert plan.encoder_attention.all() and plan.encoder_feed_forward.all()


def test_a_random_plan_runs_whole_layers_and_leaves_the_encoder_whole(sizes):
    plan = plans.RandomLayers(0.5)(context(sizes._replace(encoder_layers=2), keys=jax.random.split(jax.random.key(0), 3)))
    assert plan.self_attention.tolist() == plan.cross_attention.tolist() == plan.feed_forward.tolist()
    assert plan.encoder_attention.shape == (3, 2) and plan.encoder_attention.all() and plan.encoder_feed_forward.all()


@pytest.mark.parametrize('text', ['', '0', '1,1', '5', '1,5', '-1', '1.5', 'first', '1,', '1;2'])
def test_a_fixed_plan_of_no_layers_that_there_are_is_refused(text, sizes):
    with pytest.raises(ValueError, match='expected decoder layers from 1 to 4, each once, as in layers:1,3'):
        plans.FixedLayers.of(text, sizes)


@pytest.mark.parametrize('text', ['0', '5', '-1', '1.5', 'four', ''])
def test_a_random_plan_of_no_layers_that_there_are_is_refused(text, sizes):
    with pytest.raises(ValueError, match='expected random:C with C from 1 to 4 decoder layers, or a share'):
        plans.RandomLayers.of(text, sizes)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: plans.FixedLayers(()), 'layers names none'),
        (lambda: plans.FixedLayers((2, 0)), 'layers names 0; expected decoder layers, counted from 1'),
        (lambda: plans.FixedLayers((2, 3, 2)), 'layers names 2 2 times'),
        (lambda: plans.FixedLayers((2,), 1.5), 'layers_share is 1.5'),
        (lambda: plans.RandomLayers(0.0), 'random_share is 0.0'),
        (lambda: plans.FixedLayers((5,)).check(Sizes(4, 2, 2, 2)), 'layers names 5; the decoder has 4 layers'),
    ],
)
def test_a_plan_that_cannot_be_is_refused_where_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_scripted_gate_repeats_its_last_row(sizes):
    gate = ScriptedGate(np.array([[True, False], [False, True]]))
    runs = [gate(None, context(sizes, layer=layer, position=jnp.array([0, 1, 7])))[1].tolist() for layer in (0, 1)]
    assert runs == [[True, False, False], [False, True, True]]


def test_a_scripted_gate_may_say_which_sub_layers_run(sizes):
    table = np.array([[[True, False, False]], [[False, True, False]]])
    at = context(sizes, layer=0, position=jnp.array([0, 1, 7]))
    assert ScriptedGate(table)(None, at)[1].tolist() == [table[0, 0].tolist(), *[table[1, 0].tolist()] * 2]
