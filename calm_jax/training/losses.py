"""The multi-exit training loss (CALM, Eq. 6) and its per-exit measurements.

Every decoder layer is an exit through the shared final norm and head. The exits are visited one after another by a scan
whose body is under `jax.checkpoint`: logits of one exit [B, T, V] are alive at a time, forwards and backwards, and never
[L, B, T, V].
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Unembed = Callable[[jax.Array], jax.Array]
"""Layer states [B, T, D] to float32 logits [B, T, V]: the shared final norm and head."""


def proportional_to_layer(num_layers: int) -> np.ndarray:
    """ω_i = i / Σ_j j for i = 1…L, favouring high layers (CALM, below Eq. 6); float32 [L]."""
    layers = np.arange(1, num_layers + 1, dtype=np.float32)
    return layers / layers.sum()


def uniform(num_layers: int) -> np.ndarray:
    """ω_i = 1 / L: all exits count alike; float32 [L]."""
    return np.full(num_layers, 1.0 / num_layers, np.float32)


def last_only(num_layers: int) -> np.ndarray:
    """ω_L = 1 and 0 elsewhere: ordinary training of the full model; float32 [L]."""
    return np.eye(num_layers, dtype=np.float32)[-1]


class TokenLosses(NamedTuple):
    """What one exit says about each target token; float32 [B, T] each.

    objective: what is minimised: smoothed cross-entropy plus the z-loss, in nats.
    nll: −log p(target), in nats, without smoothing or z-loss.
    correct: 1 where no token scores above the target, else 0.
    """

    objective: jax.Array
    nll: jax.Array
    correct: jax.Array


def token_losses(logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0, z_loss: float = 0.0) -> TokenLosses:
    """Cross-entropy of each token against its smoothed target, in float32.

    The target distribution gives 1 − s to the target and s / (V − 1) to each other token; its entropy is subtracted, so
    that a perfect model scores 0. The z-loss z · (log Σ exp logits)² keeps the normaliser near 1.

    logits: [B, T, V].
    targets: [B, T] int token ids.
    label_smoothing: s in [0, 1).
    z_loss: z ≥ 0; 1e-4 is usual.

    Raises ValueError where s or z is out of range.
    """
    check_extras(label_smoothing, z_loss)
    logits = logits.astype(jnp.float32)
    vocab_size = logits.shape[-1]
    # A masked sum rather than a gather: it fuses with the other reductions, and its gradient is no scatter.
    is_target = jnp.arange(vocab_size) == targets[..., None]
    target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    top_logit = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    log_normaliser = top_logit + jnp.log(jnp.sum(jnp.exp(logits - top_logit[..., None]), axis=-1))
    nll = log_normaliser - target_logit
    objective = nll
    if label_smoothing:
        off_target = label_smoothing / (vocab_size - 1)
        others = (vocab_size - 1) * log_normaliser - (jnp.sum(logits, axis=-1) - target_logit)
        entropy = -(1 - label_smoothing) * np.log(1 - label_smoothing) - label_smoothing * np.log(off_target)
        objective = (1 - label_smoothing) * nll + off_target * others - entropy
    if z_loss:
        objective = objective + z_loss * jnp.square(log_normaliser)
    correct = (target_logit >= top_logit).astype(jnp.float32)
    return TokenLosses(objective, nll, correct)


def divergence(full: jax.Array, made: jax.Array) -> jax.Array:
    """KL(full ‖ made) of logits [..., V], in nats, float32 [...]."""
    expected = jax.nn.log_softmax(full.astype(jnp.float32))
    return jnp.sum(jnp.exp(expected) * (expected - jax.nn.log_softmax(made.astype(jnp.float32))), axis=-1)


def check_extras(label_smoothing: float, z_loss: float) -> None:
    """Raises ValueError unless label smoothing is in [0, 1) and the z-loss is 0 or more."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(f'label_smoothing is {label_smoothing}; expected at least 0 and less than 1')
    if not 0 <= z_loss < np.inf:
        raise ValueError(f'z_loss is {z_loss}; expected 0 or more')


class ExitSums(NamedTuple):
    """Sums over the counted target tokens; divide by `tokens` for means.

    objective: Σ_i ω_i Σ_tokens objective_i, the numerator of Eq. 6; float32 [].
    nll: −log p(target) of each exit; float32 [L].
    correct: tokens that each exit predicts; float32 [L].
    tokens: Σ of the token weights; float32 [].
    """

    objective: jax.Array
    nll: jax.Array
    correct: jax.Array
    tokens: jax.Array


ExitLosses = Callable[[jax.Array], TokenLosses]
"""The state [B, T, D] of any exit → what that exit says about each target token."""


def exit_losses(unembed: Unembed, targets: jax.Array, label_smoothing: float = 0.0, z_loss: float = 0.0) -> ExitLosses:
    """`token_losses` of a state through the shared head, which may close over the parameters being differentiated."""
    return lambda state: token_losses(unembed(state), targets, label_smoothing, z_loss)


def multi_exit_loss(
    losses_of: ExitLosses, states: Sequence[jax.Array], token_weights: jax.Array, exit_weights: np.ndarray
) -> ExitSums:
    """ℒ = Σ_i ω_i ℒ_i over all exits, as sums over tokens (CALM, Eq. 6).

    Sums, not means, so that micro-batches with different numbers of tokens add up to exactly the large batch.

    losses_of: such as `exit_losses` makes.
    states: L decoder states [B, T, D], before the final norm, lowest layer first.
    token_weights: [B, T]; 0 where a position does not count.
    exit_weights: ω [L]. Exits of weight 0 cost nothing in the backward pass but are still measured.

    Raises ValueError where there is not one weight per exit.
    """
    if len(states) != len(exit_weights):
        raise ValueError(f'{len(exit_weights)} exit weights for {len(states)} decoder layers; give one per layer')
    token_weights = token_weights.astype(jnp.float32)

    @jax.checkpoint
    def one_exit(objective, state_and_weight):
        state, exit_weight = state_and_weight
        sums = TokenLosses(*(jnp.sum(value * token_weights) for value in losses_of(state)))
        measured = jax.lax.stop_gradient((sums.nll, sums.correct))
        return objective + exit_weight * sums.objective, measured

    objective, (nll, correct) = jax.lax.scan(one_exit, jnp.zeros(()), (jnp.stack(states), jnp.asarray(exit_weights)))
    return ExitSums(objective, nll, correct, jnp.sum(token_weights))


def sampled_multi_exit_loss(
    losses_of: ExitLosses, states: Sequence[jax.Array], token_weights: jax.Array, exit_weights: np.ndarray, key: jax.Array
) -> jax.Array:
    """An unbiased estimate of `multi_exit_loss(...).objective` from two heads instead of L; float32 [].

    The last exit is always measured. Below it every token draws one exit i < L with probability ω_i / Σ_{j<L} ω_j and
    counts Σ_{j<L} ω_j times its loss, whose expectation is Σ_{i<L} ω_i ℒ_i. Worth it where the head outweighs a layer,
    as with many layers, large vocabularies or no accelerator.

    key: consumed.
    For the others see `multi_exit_loss`.

    Raises ValueError where there is not one weight per exit.
    """
    if len(states) != len(exit_weights):
        raise ValueError(f'{len(exit_weights)} exit weights for {len(states)} decoder layers; give one per layer')
    lower, last = exit_weights[:-1], exit_weights[-1]

    @jax.checkpoint
    def one_exit(state):
        return jnp.sum(losses_of(state).objective * token_weights)

    objective = last * one_exit(states[-1])
    if lower.sum() > 0:
        drawn = jax.random.categorical(key, jnp.log(jnp.asarray(lower)), shape=token_weights.shape)
        # A chain of selects: its gradient is selects too, where indexing a stack would scatter.
        state = states[0]
        for layer in range(1, len(lower)):
            state = jnp.where((drawn == layer)[..., None], states[layer], state)
        objective = objective + lower.sum() * one_exit(state)
    return objective
