"""Estimators of the gradient of a policy's expected loss, from plans that are drawn of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.depth.policy import Decisions, Logits, Parts, drawn, likeliest, log_likelihood
from calm_jax.types import Array


class Sampled(NamedTuple):
    """What an estimator made of a batch, each float32 [B] unless said otherwise.

    objective: its gradient by the policy is an estimate of that of the expected loss, by the model that of the loss of the
    drawn plans. loss: of the drawn plans, in nats. logits: what the policy scored, of one draw.
    """

    objective: Array
    loss: Array
    logits: Logits


class Pass(NamedTuple):
    """A plan of each row, and what came of it. logits: what the policy scored; loss: in nats, [B]."""

    logits: Logits
    decisions: Decisions
    loss: Array

    def likelihood(self, parts: Parts) -> Array:
        """log π of the plan, [B]."""
        return log_likelihood(self.logits, self.decisions, parts)


class Draws(NamedTuple):
    """What estimators draw from. logits: of the policy; parts: what is decided; loss_of: decisions → nats [B], of these
    parameters of the model; soft_loss_of: (`Logits` that are gates in [0, 1], decisions) → nats [B], with a gradient by the
    gates; keys: the number of a draw → a key for each row, [B]."""

    logits: Logits
    parts: Parts
    loss_of: Callable[[Decisions], Array]
    soft_loss_of: Callable[[Logits, Decisions], Array]
    keys: Callable[[int], Array]

    def drawn(self, number: int) -> Pass:
        """A plan as likely as the policy has it."""
        return self._pass(drawn(self.logits, self.keys(number)))

    def likeliest(self) -> Pass:
        """Of each decision the likelier way."""
        return self._pass(likeliest(self.logits))

    def _pass(self, decisions):
        decisions = self.parts.limited(decisions)
        return Pass(self.logits, decisions, self.loss_of(decisions))


class LayerwiseDraws(NamedTuple):
    """As `Draws`, of decisions that are made layer by layer: each plan has scores of its own. follow: (`Logits` of which a
    layer is scored → decisions) → what comes of it."""

    parts: Parts
    follow: Callable[[Callable[[Logits], Decisions]], Pass]
    keys: Callable[[int], Array]

    def drawn(self, number: int) -> Pass:
        """A plan as likely as the policy has it."""
        keys = self.keys(number)
        return self.follow(lambda logits: drawn(logits, keys))

    def likeliest(self) -> Pass:
        """Of each decision the likelier way, after those before it."""
        return self.follow(likeliest)


def self_critical(draws: Draws | LayerwiseDraws) -> Sampled:
    """(ℓ(a) − ℓ(â)) ∇ log π(a): one draw against the likeliest plan (Rennie et al. 2017; Zhang et al. 2024, §3.2)."""
    made, likely = draws.drawn(0), draws.likeliest()
    advantage = jax.lax.stop_gradient(made.loss - likely.loss)
    return Sampled(advantage * made.likelihood(draws.parts) + made.loss, made.loss, made.logits)


def leave_one_out(draws: Draws | LayerwiseDraws, samples: int = 2) -> Sampled:
    """Σ_k (ℓ(a_k) − mean of the others) ∇ log π(a_k) / K: every draw is the baseline of the others (Kool et al. 2019).

    samples: K. Raises ValueError below 2.
    """
    if samples < 2:
        raise ValueError(f'leave_one_out.samples is {samples}; expected 2 or more')
    made = [draws.drawn(k) for k in range(samples)]
    loss = jnp.stack([each.loss for each in made])
    fixed = jax.lax.stop_gradient(loss)
    advantages = (fixed - jnp.mean(fixed, axis=0)) * samples / (samples - 1)
    likelihoods = jnp.stack([each.likelihood(draws.parts) for each in made])
    return Sampled(jnp.mean(advantages * likelihoods + loss, axis=0), jnp.mean(loss, axis=0), made[0].logits)


def straight_through(draws: Draws, temperature: float = 1.0) -> Sampled:
    """The gradient of the loss by the gates of sub-layers, as if each drawn gate were its relaxation (Jang et al. 2017); the
    choice of source tokens, which cuts arrays, by its score against the likeliest plan. Biased.

    Raises ValueError for a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f'straight_through.temperature is {temperature}; expected a positive number')
    decisions = drawn(draws.logits, draws.keys(0))
    noise = jax.random.split(draws.keys(1)[0])

    def gates(key, logits, decided):
        u = jax.random.uniform(key, logits.shape, logits.dtype, 1e-6, 1 - 1e-6)
        soft = jax.nn.sigmoid((logits + jnp.log(u) - jnp.log1p(-u)) / temperature)
        hard = soft > 0.5
        return jnp.where(decided, hard + soft - jax.lax.stop_gradient(soft), 1.0), hard | ~decided

    encoder, runs_encoder = gates(noise[0], draws.logits.encoder, draws.parts.encoder)
    decoder, runs_decoder = gates(noise[1], draws.logits.decoder, draws.parts.decoder)
    decisions = draws.parts.limited(Decisions(runs_encoder, runs_decoder, decisions.tokens))
    loss = draws.soft_loss_of(Logits(encoder, decoder, draws.logits.tokens), decisions)
    greedy = jax.lax.stop_gradient(draws.likeliest().loss)
    alone = draws.parts._replace(encoder=jnp.zeros_like(draws.parts.encoder), decoder=jnp.zeros_like(draws.parts.decoder))
    score = log_likelihood(draws.logits, decisions, alone)
    return Sampled(loss + (jax.lax.stop_gradient(loss) - greedy) * score, loss, draws.logits)


def untaught(draws: Draws | LayerwiseDraws) -> Sampled:
    """The loss of one draw, of which the policy learns nothing."""
    made = draws.drawn(0)
    return Sampled(made.loss, made.loss, made.logits)


Estimator = Callable[[Any], Sampled]
