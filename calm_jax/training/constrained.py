"""Steps that lower a cost while a loss stays below a bound: rules that make one direction of two gradients.

Each is an optax transformation that reads, beside the gradient of the loss q, that of the cost f and how far the loss is above
its bound, q − c. What follows it in a chain scales the direction; one that adapts to coordinates, as Adam does, voids the
inequalities that the rules below promise of the direction itself.
"""

import math
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from calm_jax.options import option
from calm_jax.pytrees import pytree

TINY = 1e-12  # of a squared norm, below which a gradient is no direction


class RuleState(NamedTuple):
    """multiplier: float32 [], of the last step: of the loss, or of the cost where the rule weighs that."""

    multiplier: jax.Array


class Rule:
    """How a direction is made of two gradients: of the loss q, and of the cost f.

    weighs_loss: whether the multiplier is of the loss's gradient, so that the direction is ∇f + λ∇q; else it is ∇q + λ∇f.
    """

    weighs_loss: ClassVar[bool] = True

    def multiplier(self, before: jax.Array, products: 'Products', excess: jax.Array) -> jax.Array:
        """λ, float32 []. before: that of the step before; excess: q − c, float32 []."""
        raise NotImplementedError

    def build(self) -> optax.GradientTransformationExtraArgs:
        """The transformation: `update(∇q, state, params, cost=∇f, excess=q − c)`."""

        def init(params: Any) -> RuleState:
            del params
            return RuleState(jnp.zeros((), jnp.float32))

        def update(updates: Any, state: RuleState, params: Any = None, **extra: Any) -> tuple[Any, RuleState]:
            del params
            cost, excess = extra['cost'], extra['excess']
            multiplier = self.multiplier(state.multiplier, products(updates, cost), jnp.asarray(excess, jnp.float32))
            scaled, whole = (updates, cost) if self.weighs_loss else (cost, updates)
            direction = jax.tree.map(lambda one, other: one + multiplier * other, whole, scaled)
            return direction, RuleState(multiplier)

        return optax.GradientTransformationExtraArgs(init, cast(Any, update))


class Products(NamedTuple):
    """Inner products of the two gradients, float32 [] each: ‖∇q‖², ‖∇f‖², ∇q·∇f."""

    loss: jax.Array
    cost: jax.Array
    both: jax.Array


def products(loss: Any, cost: Any) -> Products:
    """Inner products of two gradients, pytrees alike."""
    return Products(squared_norm(loss), squared_norm(cost), _inner(loss, cost))


def squared_norm(gradient: Any) -> jax.Array:
    """float32 [], of a pytree."""
    return _inner(gradient, gradient)


def _inner(one: Any, other: Any) -> jax.Array:
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y, dtype=jnp.float32), one, other)), jnp.zeros(()))


@pytree
class DynamicBarrier(Rule):
    """λ = max((φ − ∇q·∇f) / ‖∇q‖², 0) with φ = min(α (q − c), β ‖∇q‖²): f falls, and q with it at the rate φ at least
    (Gong & Liu 2021, whose method Zhang et al. 2024, §3.3, describe in prose).

    Raises ValueError for an α or a β that is not positive.
    """

    alpha: float = option('how fast a loss above its bound falls', default=1.0)
    beta: float = option("the most of it, in squares of its gradient's norm", default=1.0)

    def __post_init__(self):
        for name, value in (('alpha', self.alpha), ('beta', self.beta)):
            if isinstance(value, int | float) and not 0 < value < math.inf:
                raise ValueError(f'{name} is {value}; expected a positive number')

    def multiplier(self, before, products, excess):
        del before
        barrier = jnp.minimum(self.alpha * excess, self.beta * products.loss)
        return jnp.maximum((barrier - products.both) / jnp.maximum(products.loss, TINY), 0.0)


@pytree
class PrintedBarrier(Rule):
    """The formula as printed: ∇q + λ∇f, λ = max((φ − ∇q·∇f) / ‖∇f‖², 0), φ = q − c (Zhang et al. 2024, Eq. 7 and below).

    It contradicts the prose around it: the cost is pushed hardest where the loss is worst, and not at all where it is below
    its bound, so that it ends where the loss alone is least.
    """

    weighs_loss: ClassVar[bool] = False

    def multiplier(self, before, products, excess):
        del before
        return jnp.maximum((excess - products.both) / jnp.maximum(products.cost, TINY), 0.0)


@pytree
class FixedWeight(Rule):
    """∇q + λ∇f with a λ that stays (Zhang et al. 2024, Table 8: .2, .5, .8, 1.0, 1.5).

    Raises ValueError for a negative weight.
    """

    weighs_loss: ClassVar[bool] = False

    weight: float = option('of the cost beside the loss', default=0.5)

    def __post_init__(self):
        if isinstance(self.weight, int | float) and not 0 <= self.weight < math.inf:
            raise ValueError(f'weight is {self.weight}; expected 0 or more')

    def multiplier(self, before, products, excess):
        del before, products, excess
        return jnp.asarray(self.weight, jnp.float32)


@pytree
class DualAscent(Rule):
    """∇f + λ∇q with a λ that rises while the loss is above its bound: λ ← max(λ + η (q − c), 0).

    Noise of a mini-batch averages out over steps, where the barrier's multiplier divides by a squared norm that noise makes
    many times too large.

    Raises ValueError for a rate that is not positive.
    """

    rate: float = option('η, by which the multiplier rises for each nat of loss above the bound', default=0.1)

    def __post_init__(self):
        if isinstance(self.rate, int | float) and not 0 < self.rate < math.inf:
            raise ValueError(f'rate is {self.rate}; expected a positive number')

    def multiplier(self, before, products, excess):
        del products
        return jnp.maximum(before + self.rate * excess, 0.0)


RULES: tuple[type[Rule], ...] = (DynamicBarrier, PrintedBarrier, FixedWeight, DualAscent)
