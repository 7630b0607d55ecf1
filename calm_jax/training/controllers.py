"""Skip controllers' stage: which layers a token runs, learned on a frozen model or with it (Glavas et al. 2024, Eq. 1).

A gate is drawn for every token at every layer, hard on the way forward and, on the way back, as if it were its relaxation
(Jang et al. 2017): the difference of two Gumbel draws is a logistic one, so a layer's two scores come down to one logit. What
is minimised is how far the gated model is from the full one, and α times the share of layers that run. The full model is the
one that training begins with: where the model learns too, it is held to what it was.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from calm_jax.checkpoints import native
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.depth import controllers
from calm_jax.depth.policy import LIKELY
from calm_jax.models import planned
from calm_jax.models.config import TransformerConfig
from calm_jax.models.positions import standing
from calm_jax.training import losses
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.plan_loss import caller, of_texts
from calm_jax.training.train_state import Batch, Stage
from calm_jax.types import Array, Plan

Distance = Callable[[Array, Array, Array], Array]
"""(logits [B, T, V] of the gated model, of the full one, targets int32 [B, T]) → nats of each token, float32 [B, T]."""


def divergence(gated: Array, full: Array, targets: Array) -> Array:
    """KL(full ‖ gated) (Eq. 1)."""
    del targets
    return losses.divergence(jax.lax.stop_gradient(full), gated)


def cross_entropy(gated: Array, full: Array, targets: Array) -> Array:
    """−log p(target) of the gated model, as the authors' code has it."""
    del full
    return losses.token_losses(gated, targets).nll


class Gated(NamedTuple):
    """states: the decoder's last, [B, T, D]; runs: float32 [B, T, L, O], 1 where a layer or sub-layer runs, with a gradient."""

    states: Array
    runs: Array


def straight_through(logits: Array, noise: Array | None, temperature: float) -> Array:
    """1 or 0, with the gradient of σ((logits + noise) / temperature). noise: logistic; None: none."""
    soft = jax.nn.sigmoid((logits if noise is None else logits + noise) / temperature)
    return (soft >= 0.5) + soft - jax.lax.stop_gradient(soft)


def logistic(keys: Array, layer: int, shape: tuple[int, ...]) -> Array:
    """Noise of a layer, float32 [B, *shape], of each row by its own key [B]."""
    of_layer = jax.vmap(jax.random.fold_in, (0, None))(keys, layer)
    return jax.vmap(lambda key: jax.random.logistic(key, shape))(of_layer)


def token_by_token(gates: Array, sub_layer: Callable[[Array], Array], x: Array) -> Array:
    """x + g · (sub_layer(x) − x), gates g [B, T]."""
    return x + gates[..., None].astype(x.dtype) * (sub_layer(x) - x)


def gated(
    call: Callable, config: TransformerConfig, head: Any, batch: Batch, keys: Array | None, temperature: float = 1.0
) -> Gated:
    """What the decoder makes of a batch under controllers; prompts are read in full, and so is the source.

    head: arrays as `SkipControllers` has them; None: all runs. keys: of each row, what noise is drawn from, [B]; None: the
    likelier decisions.
    """
    tokens, weights = batch['decoder_input_tokens'], batch['decoder_loss_weights'] > 0
    layers, outputs = config.num_decoder_layers, 1 if head is None else head['kernel'].shape[-1]
    positions, bias = standing(tokens.shape[1]), call(tokens.shape[1], method='causal_bias')
    said = jnp.cumsum(weights, axis=1) - weights  # tokens before each that is predicted
    free = (said > 0) | weights if config.decoder_only else jnp.ones(tokens.shape, bool)
    cross = None
    if not config.decoder_only:
        mask = batch['encoder_mask']
        context, source = call(mask, method='encoder_context'), call(batch['encoder_input_tokens'], method='embed_source')
        source = planned.encode(call, range(config.num_encoder_layers), source, context)
        cross = planned.CrossAttention(call(source, method='encoder_norm'), call(mask, method='cross_bias'))
    embedding = x = call(tokens, positions, method='embed')
    runs = []
    for layer in range(layers):
        gates = jnp.ones((*tokens.shape, outputs), jnp.float32)
        plan = None
        if head is not None and 0 < layer < layers - 1:
            logits = controllers.scores(head, layer, x, embedding, said)
            noise = None if keys is None else logistic(keys, layer, logits.shape[1:])
            gates = jnp.where(free[..., None], straight_through(logits, noise, temperature), 1.0)
            plan = _plan(gates, layers)
        x, _ = planned.decoder_layer(call, layer, x, positions, bias, cross, plan, token_by_token)
        runs.append(gates)
    return Gated(x, jnp.stack(runs, axis=2))


def _plan(gates: Array, layers: int) -> Plan:
    """A plan of gates [B, T, O] at one of so many layers, whichever it is: float32 [B, L, T] each."""
    attention, feed_forward = (jnp.broadcast_to(gates[:, None, :, k], (len(gates), layers, gates.shape[1])) for k in (0, -1))
    return Plan(attention, attention, feed_forward, attention, feed_forward)


def begun(config: TransformerConfig, reads: str, hidden_width: int, sub_layers: bool, seed: int) -> dict[str, Any]:
    """A head that has learned nothing: all layers run with probability .9. hidden_width: H; 0: no hidden layer."""
    layers, width, outputs = config.num_decoder_layers, config.emb_dim, 2 if sub_layers else 1
    head = {
        'inputs': jnp.array([float(name == reads) for name in controllers.INPUTS], jnp.float32),
        'kernel': jnp.zeros((layers, hidden_width or width, outputs)),
        'bias': jnp.full((layers, outputs), jnp.log(LIKELY) - jnp.log1p(-LIKELY)),
    }
    if hidden_width:
        spread = width**-0.5
        head['hidden_kernel'] = spread * jax.random.normal(jax.random.key(seed), (layers, width, hidden_width))
        head['hidden_bias'] = jnp.zeros((layers, hidden_width))
    return head


def _check_alike(head: dict[str, Any], fresh: dict[str, Any]) -> None:
    """Raises ValueError for the controllers of a checkpoint where those that are asked for read something else, or are of other
    shapes."""
    shapes = [{name: np.shape(value) for name, value in each.items() if value is not None} for each in (head, fresh)]
    if shapes[0] != shapes[1]:
        there, wanted = (', '.join(f'{name} {list(shape)}' for name, shape in sorted(each.items())) for each in shapes)
        raise ValueError(
            f'the checkpoint has controllers of {there}; expected {wanted}: train on with the hidden_width and sub_layers that '
            'they have, or begin with a checkpoint without'
        )
    if not np.array_equal(head['inputs'], fresh['inputs']):
        there, wanted = (
            ' and '.join(name for name, weight in zip(controllers.INPUTS, each['inputs']) if weight) for each in (head, fresh)
        )
        raise ValueError(
            f'the checkpoint has controllers that read {there!r}; expected {wanted!r}: train on with the reads that they have, '
            'or begin with a checkpoint without'
        )


def controllers_stage(
    config: TransformerConfig,
    params: Any,
    tokenizer: Tokenizer,
    *,
    alpha: float = 4.0,
    summed: bool = False,
    reads: str = 'hidden',
    hidden_width: int = 0,
    sub_layers: bool = False,
    distance: Distance = divergence,
    temperature: float = 1.0,
    noise_at_evaluation: bool = True,
    backbone: Optimizer | None = None,
    dropout_steps: int = 0,
    seed: int = 0,
    heads: dict | None = None,
    generation: dict | None = None,
) -> Stage:
    """Trains skip controllers of every decoder layer but the first and the last.

    alpha: α, nats that running all layers costs beside running none. summed: whether it is that of each layer instead, L times
    as strong (Eq. 1; the authors' code takes the mean). reads: one of `depth.controllers.INPUTS`. hidden_width: of a hidden
    layer; 0: controllers are linear. sub_layers: whether attention and feed-forward are decided apart. distance: to the full
    model that training begins with, `divergence`, or to the target, `cross_entropy`. temperature: of the relaxation.
    noise_at_evaluation: whether evaluations draw, as training does and as the paper decodes (`--controllers_drawn true`), or
    take the likelier decisions. backbone: of the model, which learns too; None: it is frozen. dropout_steps: in which the model
    alone learns, under draws of controllers that have learned nothing, as layer dropout does (Fan et al. 2020). heads: those of
    the checkpoint, of which controllers are trained on.

    Raises ValueError for values out of range, controllers of a checkpoint that are not as these are to be, and for a decoder of
    two layers or one, of which none can be skipped.
    """
    if config.num_decoder_layers < 3:
        raise ValueError(
            f'the decoder has {config.num_decoder_layers} layers, and its first and last always run; expected 3 or more'
        )
    if not 0 <= alpha < np.inf or not 0 < temperature < np.inf:
        raise ValueError(f'alpha is {alpha}, temperature {temperature}; expected 0 or more, and a positive number')
    if reads not in controllers.INPUTS:
        raise ValueError(f'reads is {reads!r}; expected one of {", ".join(controllers.INPUTS)}')
    if hidden_width < 0 or dropout_steps < 0 or (dropout_steps and backbone is None):
        raise ValueError(
            f'hidden_width is {hidden_width}, dropout_steps {dropout_steps}; expected 0 or more, and no dropout_steps where '
            'the model is frozen'
        )
    others = dict(heads or {})
    head = others.pop('controllers', None)
    fresh = begun(config, reads, hidden_width, sub_layers, seed)
    if head is not None:
        _check_alike(head, fresh)
    head = fresh if head is None else head
    inputs = {'inputs': jnp.asarray(head['inputs'])}  # said, not learned
    weight = alpha * (config.num_decoder_layers if summed else 1)

    def parts(trained, frozen):
        """(the model's parameters, the controllers' head)"""
        return trained.get('backbone', frozen), {**trained['controllers'], **inputs}

    def outcome(trained, frozen, batch, keys, dropout=None):
        """(of the gated model and the full one: logits [B, T, V]; runs [B, T, L, O])."""
        now, head = parts(trained, frozen)
        call, teacher = caller(config, now, dropout), caller(config, frozen)
        made = gated(call, config, head, batch, keys, temperature)
        full = gated(teacher, config, None, batch, None)
        return call(made.states, method='unembed'), teacher(full.states, method='unembed'), made.runs

    def loss(trained, frozen, batch, key):
        dropout, draws = jax.random.split(key)
        rows = batch['decoder_input_tokens'].shape[0]
        keys = jax.random.split(draws, rows)
        some = dropout if config.dropout_rate and backbone is not None else None
        logits, full, runs = outcome(trained, frozen, batch, keys, some)
        weights = batch['decoder_loss_weights']
        share = jnp.mean(runs, axis=(2, 3))
        each = distance(logits, full, batch['decoder_target_tokens'])
        sums = {'distance': jnp.sum(each * weights), 'share': jnp.sum(share * weights), 'weight': jnp.sum(weights)}
        return jnp.sum((each + weight * share) * weights), sums

    def gradients(trained, frozen, batch, key):
        (objective, sums), grads = jax.value_and_grad(loss, has_aux=True)(trained, frozen, batch, key)
        return {'loss': objective, **sums}, grads

    def measure(trained, frozen, batch):
        logits, full, runs = outcome(trained, frozen, batch, of_texts(seed, batch) if noise_at_evaluation else None)
        weights, targets = batch['decoder_loss_weights'], batch['decoder_target_tokens']
        each = {
            'distance': distance(logits, full, targets),
            'nll': losses.token_losses(logits, targets).nll,
            'full_nll': losses.token_losses(full, targets).nll,
            'agreement': jnp.argmax(logits, axis=-1) == jnp.argmax(full, axis=-1),
            'share': jnp.mean(runs, axis=(2, 3)),
            'tokens': jnp.ones_like(weights),
        }
        return {
            **{name: jnp.sum(value * weights) for name, value in each.items()},
            'runs': jnp.einsum('bt,btlo->ol', weights, runs),
        }

    def report(sums):
        runs = sums.pop('runs') / sums['tokens']
        means = {name: float(value / sums['tokens']) for name, value in sums.items() if name != 'tokens'}
        names = ('decoder_attention', 'decoder_feed_forward') if len(runs) == 2 else ('decoder_layers',)
        return {
            **means,
            'loss': means['distance'] + weight * means['share'],
            **{name: share.tolist() for name, share in zip(names, runs)},
        }

    def export(trained, directory):
        now, head = parts(trained, params)
        native.save(
            directory, config, now, tokenizer, heads={**others, 'controllers': head}, generation=generation, overwrite=True
        )

    def optimizers(optimizer):
        if backbone is None:
            return optimizer.build()
        waiting = optax.chain(
            optimizer.build(), optax.scale_by_schedule(lambda step: jnp.where(jnp.asarray(step) < dropout_steps, 0.0, 1.0))
        )
        names = {'controllers': 'controllers', 'backbone': 'backbone'}
        return optax.partition({'controllers': waiting, 'backbone': backbone.build()}, names)

    trained = {'controllers': {name: jnp.asarray(value) for name, value in head.items() if name != 'inputs'}}
    return Stage(
        params=trained if backbone is None else {**trained, 'backbone': params},
        frozen=params,
        gradients=gradients,
        measure=measure,
        report=report,
        metrics=('loss', 'distance', 'nll', 'share'),
        export=export,
        optimizer=cast(Any, optimizers),
    )
