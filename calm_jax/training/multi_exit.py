"""First stage: the whole transformer, every decoder layer an exit."""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.checkpoints import native
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import Transformer
from calm_jax.training import losses
from calm_jax.training.train_state import Batch, Stage, of_loss


def layer_states(model: Transformer, params: Any, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, ...]:
    """The L decoder states [B, T, D] of a batch, teacher forced; with dropout if there is a key, which is consumed."""
    deterministic = key is None
    encoder_key, decoder_key = (None, None) if deterministic else jax.random.split(key)
    encoded, source_mask = None, None
    if not model.config.decoder_only:
        source, source_mask = batch['encoder_input_tokens'], batch['encoder_mask']
        encoded = model.apply(
            {'params': params}, source, source_mask, deterministic=deterministic, method='encode', rngs=_dropout(encoder_key)
        )
    states = model.apply(
        {'params': params},
        encoded,
        source_mask,
        batch['decoder_input_tokens'],
        deterministic=deterministic,
        method='decode',
        rngs=_dropout(decoder_key),
    )
    return cast(tuple[jax.Array, ...], states)


def unembedding(model: Transformer, params: Any) -> losses.Unembed:
    """The final norm and the head with these parameters."""
    return cast(losses.Unembed, functools.partial(model.apply, {'params': params}, method='unembed'))


def multi_exit_stage(
    config: TransformerConfig,
    params: Any,
    tokenizer: Tokenizer,
    exit_weights: Callable[[int], np.ndarray] = losses.proportional_to_layer,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    sampled_exits: bool = False,
    generation: dict | None = None,
) -> Stage:
    """Trains all parameters by Eq. 6 of CALM; measures each exit's nats per token and accuracy.

    config: of the model; `config.dropout_rate` is applied in training only.
    params: where to start.
    tokenizer: stored with the checkpoints.
    exit_weights: L → ω [L]; one of `losses.proportional_to_layer`, `losses.uniform`, `losses.last_only`.
    label_smoothing: see `losses.token_losses`.
    z_loss: see `losses.token_losses`.
    sampled_exits: estimate Eq. 6 without bias from two heads instead of L, see `losses.sampled_multi_exit_loss`.
    generation: decoding defaults stored with the checkpoints.

    Raises ValueError where `exit_weights` does not give one number per decoder layer.
    """
    model = Transformer(config)
    weights = np.asarray(exit_weights(config.num_decoder_layers), np.float32)
    if weights.shape != (config.num_decoder_layers,) or not np.isfinite(weights).all():
        raise ValueError(
            f'exit_weights gives {weights.tolist()}; expected {config.num_decoder_layers} numbers, one per decoder layer'
        )

    def exit_losses(params, batch, **extras):
        return losses.exit_losses(unembedding(model, params), batch['decoder_target_tokens'], **extras)

    def loss(params, frozen, batch, key):
        del frozen
        dropout_key, exit_key = jax.random.split(key)
        states = layer_states(model, params, batch, dropout_key if config.dropout_rate else None)
        losses_of = exit_losses(params, batch, label_smoothing=label_smoothing, z_loss=z_loss)
        token_weights = batch['decoder_loss_weights']
        if sampled_exits:
            objective = losses.sampled_multi_exit_loss(losses_of, states, token_weights, weights, exit_key)
            return objective, jnp.sum(token_weights)
        sums = losses.multi_exit_loss(losses_of, states, token_weights, weights)
        return sums.objective, sums.tokens

    def measure(params, frozen, batch):
        del frozen
        states, token_weights = layer_states(model, params, batch), batch['decoder_loss_weights']
        return losses.multi_exit_loss(exit_losses(params, batch), states, token_weights, weights)._asdict()

    def report(sums):
        nll, accuracy = sums['nll'] / sums['tokens'], sums['correct'] / sums['tokens']
        return {
            'loss': float(sums['objective'] / sums['tokens']),
            'nll': float(nll[-1]),
            'accuracy': float(accuracy[-1]),
            'nll_by_layer': nll.tolist(),
            'accuracy_by_layer': accuracy.tolist(),
        }

    def export(params, directory):
        native.save(directory, config, params, tokenizer, generation=generation, overwrite=True)

    return Stage(params, {}, of_loss(loss), measure, report, ('loss', 'nll', 'accuracy'), export)


def _dropout(key):
    return None if key is None else {'dropout': key}
