"""The first position of a decode, run through the decoder before the first step, where each layer is decided from the state
that it has after the layer before; and what that costs."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Int

from calm_jax.models import planned
from calm_jax.models.cache import KVCache
from calm_jax.models.config import TransformerConfig
from calm_jax.models.flops import of_token
from calm_jax.models.positions import standing
from calm_jax.types import Array, Plan


class FirstPosition(NamedTuple):
    """state: [B, 1, D]; read: what it reads across."""

    state: Array
    read: planned.CrossAttention

    @classmethod
    def at(cls, call: Callable, start_ids: Int[Array, ' B'], read: planned.CrossAttention) -> 'FirstPosition':
        """Before the first layer, of the start ids."""
        return cls(call(start_ids[:, None], jnp.zeros_like(start_ids)[:, None], method='embed'), read)

    @property
    def there(self) -> Array:
        """bool [B, 1], all."""
        return jnp.ones(self.state.shape[:2], bool)

    def after(self, call: Callable, layer: int, made: KVCache, plan: Plan | None) -> 'FirstPosition':
        """After a layer, within a plan. made: its keys and values of what is read across, which are not projected again."""

        def with_made(*args, method):
            return made if method == 'cross_kv' else call(*args, method=method)

        bias = call(1, method='causal_bias')
        state, _ = planned.decoder_layer(with_made, layer, self.state, standing(1), bias, self.read, plan, planned.Skipped())
        return self._replace(state=state)


def first_position_units(config: TransformerConfig, plan: Plan, read: Int[Array, ' B']) -> Int[Array, ' B']:
    """Floating-point operations of that, in units of D and rounded up, int32 [B]: of every layer but the last. read: how many
    tokens of the source each row reads across."""
    of, units = of_token(config), config.sizes.units
    one_key = 4 * config.num_heads * config.head_dim  # by all heads

    def ran(part):
        return jnp.sum(part[:, :-1], axis=1, dtype=jnp.int32)

    across = units(of.queries_outputs) - -(read * one_key) // config.emb_dim
    return (
        ran(plan.self_attention) * units(of.queries_outputs + of.keys_values + one_key)
        + ran(plan.cross_attention) * across
        + ran(plan.feed_forward) * units(of.feed_forward)
    )
