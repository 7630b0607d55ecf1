"""A plan that is made while it is run: each layer is decided from the states of the layer before.

Layers count through both stacks as they run, the encoder's first, from 0. The first one always runs; after it the next one is
decided, and what is kept of the source.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from calm_jax.depth.policy import Decisions, Logits, kept
from calm_jax.types import Array, Plan

Decide = Callable[[int, Float[Array, 'B T D'], Bool[Array, 'B T']], tuple[Logits | None, Decisions]]
"""(layer, states after it, which of them are there) → (scores that the decisions were made by, or None; decisions, of which
those about the next layer are taken, and after the first layer the choice of tokens)."""


class Course(NamedTuple):
    """A plan as far as it is made.

    plan: of what has run and what runs next; of later layers everything. None: everything, and there is nothing to decide.
    decide: None where nothing is left to decide. protected: bool [B, S], source tokens that are never dropped; None: none can
    be. logits: what was scored so far, 0 elsewhere.
    """

    plan: Plan | None
    decide: Decide | None = None
    protected: Array | None = None
    logits: Logits | None = None

    @property
    def source(self) -> Array | None:
        """bool [B, S], source tokens that go on; None: all."""
        return None if self.plan is None else self.plan.source

    def after(self, layer: int, states: Float[Array, 'B T D'], mask: Bool[Array, 'B T']) -> 'Course':
        """With what follows from the states after a layer (static)."""
        plan, first = self.plan, layer + 1
        if self.decide is None or plan is None:
            return self
        encoder_layers, layers = plan.encoder_attention.shape[1], plan.self_attention.shape[1]
        if first == encoder_layers + layers:
            return self
        scored, decisions = self.decide(layer, states, mask)
        if layer == 0 and self.protected is not None:
            plan = plan._replace(source=kept(decisions.tokens, mask, self.protected), choice=decisions.tokens)
        if first < encoder_layers:
            plan = plan._replace(
                encoder_attention=plan.encoder_attention.at[:, first].set(decisions.encoder[:, first, 0]),
                encoder_feed_forward=plan.encoder_feed_forward.at[:, first].set(decisions.encoder[:, first, 1]),
            )
        else:
            place = first - encoder_layers
            attention = plan.self_attention.at[:, place].set(decisions.decoder[:, place, 0])
            plan = plan._replace(
                self_attention=attention,
                cross_attention=attention,
                feed_forward=plan.feed_forward.at[:, place].set(decisions.decoder[:, place, 1]),
            )
        logits = scored if self.logits is None or scored is None else jax.tree.map(jnp.add, self.logits, scored)
        return self._replace(plan=plan, logits=logits)

    def ended(self) -> 'Course':
        """With nothing more to decide."""
        return self._replace(decide=None)

    def decisions(self) -> Decisions:
        """Those that the plan comes from."""
        plan = self.plan
        assert plan is not None
        rows = plan.self_attention.shape[0]
        return Decisions(
            jnp.stack([plan.encoder_attention, plan.encoder_feed_forward], axis=-1),
            jnp.stack([plan.self_attention, plan.feed_forward], axis=-1),
            jnp.zeros(rows, jnp.int32) if plan.choice is None else plan.choice,
        )
