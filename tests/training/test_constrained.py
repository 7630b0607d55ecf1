"""The rules on q = x² + y², f = (x − 3)² + y², c = 1: f is least within the bound at (1, 0), q alone at (0, 0)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.training.constrained import DualAscent, DynamicBarrier, FixedWeight, PrintedBarrier

STARTS = ((-1.0, 1.0), (4.0, 1.0), (0.5, 0.5), (0.0, 3.0))


def loss(point):
    return jnp.sum(point**2)


def cost(point):
    return (point[0] - 3) ** 2 + point[1] ** 2


def walked(rule, start, steps=20_000, rate=0.01):
    """(where the rule leads, its last multiplier)."""
    transformation = rule.build()

    def step(carry, _):
        point, state = carry
        gradients = jax.grad(loss)(point), jax.grad(cost)(point)
        direction, state = transformation.update(gradients[0], state, cost=gradients[1], excess=loss(point) - 1)
        return (point - rate * direction, state), None

    @jax.jit
    def run(point):
        return jax.lax.scan(step, (point, transformation.init(point)), length=steps)[0]

    point, state = run(jnp.array(start))
    return np.asarray(point), float(state.multiplier)


@pytest.mark.parametrize('rule', (DynamicBarrier(), DynamicBarrier(alpha=0.5), DualAscent(rate=0.05)), ids=repr)
def test_a_rule_of_the_prose_reaches_the_least_cost_within_the_bound_from_everywhere(rule):
    for start in STARTS:
        point, multiplier = walked(rule, start)
        np.testing.assert_allclose(point, (1, 0), atol=2e-3, err_msg=str(start))
        assert abs(multiplier - 2) < 0.02  # at (1, 0): ∇f = (−4, 0), ∇q = (2, 0)


def test_the_printed_rule_ends_where_the_loss_alone_is_least():
    for start in STARTS:
        point, _ = walked(PrintedBarrier(), start)
        np.testing.assert_allclose(point, (0, 0), atol=2e-3, err_msg=str(start))


@pytest.mark.parametrize('weight', (0.2, 0.5, 0.8, 1.0, 1.5))
def test_a_fixed_weight_ends_at_the_minimum_of_the_sum(weight):
    point, _ = walked(FixedWeight(weight), STARTS[0])
    np.testing.assert_allclose(point, (3 * weight / (1 + weight), 0), atol=1e-4)


def test_the_barrier_lowers_the_loss_at_its_rate_wherever_it_is_above_its_bound():
    rule, generator = DynamicBarrier(), np.random.default_rng(0)
    for _ in range(100):
        of_loss, of_cost = jnp.asarray(generator.normal(size=(2, 5)), jnp.float32)
        excess = float(generator.uniform(0, 3))
        direction, _ = rule.build().update(of_loss, rule.build().init(of_loss), cost=of_cost, excess=excess)
        barrier = min(excess, float(of_loss @ of_loss))
        assert float(direction @ of_loss) >= barrier - 1e-4


@pytest.mark.parametrize(
    'make', (lambda: DynamicBarrier(alpha=0), lambda: DynamicBarrier(beta=-1), lambda: FixedWeight(-1), lambda: DualAscent(0))
)
def test_a_number_out_of_range_is_refused_by_name(make):
    with pytest.raises(ValueError, match='expected'):
        make()
