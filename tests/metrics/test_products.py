"""The counter of matrix products itself: functions whose products are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.metrics.products import products

SQUARE = jnp.full((3, 3), 0.5)
ONE = 2 * 3 * 3 * 3  # of SQUARE by SQUARE


def count(function, *args):
    return products(function, *args)[0]


@pytest.mark.parametrize(
    'spec, left, right, operations',
    [
        ('ij,jk->ik', (2, 3), (3, 5), 2 * 2 * 3 * 5),
        ('bij,bjk->bik', (4, 2, 3), (4, 3, 5), 4 * 2 * 2 * 3 * 5),
        ('bij,jk->bik', (4, 2, 3), (3, 5), 4 * 2 * 2 * 3 * 5),
        ('i,i->', (7,), (7,), 2 * 7),
        ('ij,ij->', (2, 3), (2, 3), 2 * 2 * 3),
        ('bcqnh,bcknh->bcnqk', (2, 3, 4, 5, 6), (2, 3, 7, 5, 6), 2 * 2 * 3 * 5 * 4 * 7 * 6),
    ],
)
def test_a_product_is_two_operations_per_output_and_contracted_element(spec, left, right, operations):
    assert count(lambda x, y: jnp.einsum(spec, x, y), jnp.ones(left), jnp.ones(right)) == operations


@pytest.mark.parametrize('groups', [1, 3])
def test_a_convolution_is_two_operations_per_output_element_and_weight_of_its_feature(groups):
    operations = count(
        lambda x, w: lax.conv_general_dilated(x, w, (1, 1), 'VALID', feature_group_count=groups),
        jnp.ones((1, 3, 6, 7)),
        jnp.ones((9, 3 // groups, 2, 4)),
    )
    assert operations == 2 * (9 * 5 * 4) * (3 // groups * 2 * 4)


def test_what_is_no_product_counts_nothing_and_the_result_is_the_functions_own():
    def function(key, x):
        return {'drawn': jax.random.normal(key, (2,)), 'sum': jax.nn.logsumexp(x), 'order': jnp.sort(x)[::-1]}

    counted, result = products(function, jax.random.key(0), jnp.arange(5.0))
    assert counted == 0
    jax.tree.map(np.testing.assert_array_equal, result, function(jax.random.key(0), jnp.arange(5.0)))


@pytest.mark.parametrize('index, operations', [(0, 0), (1, ONE), (2, 3 * ONE)])
def test_of_branches_only_the_one_that_is_taken_counts(index, operations):
    branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x @ x]
    assert count(lambda index, x: lax.switch(index, branches, x), jnp.int32(index), SQUARE) == operations
    # in one program for every row, all branches are computed and one is chosen
    rows = jnp.stack([SQUARE, SQUARE])
    assert count(jax.vmap(lambda index, x: lax.switch(index, branches, x)), jnp.full(2, index), rows) == 2 * 4 * ONE


@pytest.mark.parametrize('rounds', [0, 1, 5])
def test_loops_count_the_rounds_that_they_run(rounds):
    def until(limit, x):
        return lax.while_loop(lambda state: state[0] < limit, lambda state: (state[0] + 1, state[1] @ x), (0, x))

    counted, (steps, _) = products(until, jnp.int32(rounds), SQUARE)
    assert counted == rounds * ONE and steps == rounds
    assert count(lambda x: lax.fori_loop(0, rounds, lambda i, y: y @ x, x), SQUARE) == rounds * ONE
    assert count(lambda x: lax.scan(lambda y, z: (y @ x, z), x, jnp.arange(rounds)), SQUARE) == rounds * ONE


def test_the_condition_of_a_loop_counts_once_more_than_its_rounds():
    counted, result = products(lambda x: lax.while_loop(lambda y: (y @ y)[0, 0] > 0.1, lambda y: y / 2, x), SQUARE)
    assert counted == 3 * ONE and result[0, 0] == 0.125


def test_a_branch_inside_a_loop_counts_in_the_rounds_that_take_it():
    def every_other(x):
        return lax.fori_loop(0, 5, lambda i, y: lax.cond(i % 2 == 0, lambda y: y @ x, lambda y: y, y), x)

    def scanned(x):
        return lax.scan(lambda y, odd: (lax.cond(odd, lambda y: y, lambda y: y @ x, y), y[0, 0]), x, jnp.arange(5) % 2 == 1)

    for function in (every_other, scanned):
        counted, result = products(function, SQUARE)
        assert counted == 3 * ONE
        jax.tree.map(np.testing.assert_allclose, result, function(SQUARE))


def with_jvp(function):
    custom = jax.custom_jvp(function)
    custom.defjvps(None)
    return custom


def with_vjp(function):
    custom = jax.custom_vjp(function)
    custom.defvjp(lambda x: (function(x), None), lambda _, gradient: (gradient,))
    return custom


@pytest.mark.parametrize(
    'wrapped',
    [jax.jit, jax.checkpoint, with_jvp, with_vjp, lambda f: jax.jit(jax.checkpoint(jax.jit(f)))],
    ids=['jit', 'checkpoint', 'custom_jvp', 'custom_vjp', 'nested'],
)
def test_functions_called_inside_count_as_if_written_out(wrapped):
    assert count(wrapped(lambda x: jax.nn.relu(x @ x) @ x), SQUARE) == 2 * ONE


def test_products_where_no_rule_finds_them_are_an_error_and_not_a_zero():
    with pytest.raises(NotImplementedError, match='no rule for products inside'):
        count(lambda x: lax.custom_linear_solve(lambda y: x @ y, x[0], lambda solve, b: b), SQUARE)
