"""Second stage: the exit classifier, on a frozen backbone (CALM, §3.5 and App. D).

The classifier is one linear map shared by all layers, c_i = σ(kernel · d_i + bias), read from the raw state d_i of layer i
(before the final norm), and trained to predict whether layer i already gives the full model's token.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.checkpoints import native
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.depth.adapters import adapters_of
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import Transformer
from calm_jax.training.losses import Unembed
from calm_jax.training.multi_exit import layer_states, unembedding
from calm_jax.training.train_state import Stage, of_loss

Head = dict[str, jax.Array]
Objective = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits [L−1, B, T] of exiting, agrees [L−1, B, T] bool) → loss of each token, float32 [B, T], in nats."""


def init_head(emb_dim: int) -> Head:
    """{'kernel': [D, 1], 'bias': [1]} of zeros: probability ½ everywhere. The loss is convex, so any start will do."""
    return {'kernel': jnp.zeros((emb_dim, 1)), 'bias': jnp.zeros((1,))}


def exit_logits(head: Head, states: Sequence[jax.Array]) -> jax.Array:
    """Logits of exiting after each of the first L − 1 layers, from L states [B, T, D]; float32 [L−1, B, T]."""
    kernel, bias = head['kernel'][:, 0], head['bias'][0]
    return jnp.stack([jnp.einsum('btd,d->bt', state.astype(jnp.float32), kernel) + bias for state in states[:-1]])


def agreement(unembed: Unembed, states: Sequence[jax.Array]) -> jax.Array:
    """1[argmax p_i = argmax p_L] for i < L, from L states [B, T, D]; bool [L−1, B, T]. One layer's logits at a time."""
    tokens = jax.lax.map(lambda state: jnp.argmax(unembed(state), axis=-1), jnp.stack(states))
    return tokens[:-1] == tokens[-1]


def independent(logits: jax.Array, agrees: jax.Array) -> jax.Array:
    """The unweighted mean over layers of −[a_i log c_i + (1 − a_i) log(1 − c_i)]; float32 [B, T] (CALM, §3.5).

    logits: of c_i, [L−1, B, T].
    agrees: a_i, [L−1, B, T].
    """
    return jnp.mean(-jnp.where(agrees, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)), axis=0)


def geometric(logits: jax.Array, agrees: jax.Array) -> jax.Array:
    """−[log c_k + Σ_{j<k} log(1 − c_j)], k the first agreeing layer; float32 [B, T] (CALM, App. D; Elbayad et al. 2020).

    Where no layer below the last agrees, k = L and log c_L = 0: the last layer always exits.

    logits: of c_i, [L−1, B, T].
    agrees: a_i, [L−1, B, T].
    """
    agreed_before = jnp.cumsum(agrees, axis=0) - agrees > 0
    log_likelihood = jnp.where(agrees, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits))
    return -jnp.sum(jnp.where(agreed_before, 0.0, log_likelihood), axis=0)


def dont_exit_f1(true_positive: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """F1 of "don't exit", 2·TP / (predicted + actual), [L−1]; 0 where there is nothing to find and nothing was found.

    true_positive: tokens that should not exit (a_i = 0) and do not (c_i < ½), [L−1].
    predicted: tokens with c_i < ½, [L−1].
    actual: tokens with a_i = 0, [L−1].
    """
    return 2 * true_positive / np.maximum(predicted + actual, 1)


def classifier_stage(
    config: TransformerConfig,
    params: Any,
    tokenizer: Tokenizer,
    objective: Objective = independent,
    adapted: bool = False,
    heads: dict | None = None,
    generation: dict | None = None,
) -> Stage:
    """Trains the exit classifier alone; the backbone is read and never written.

    config: of the backbone.
    params: of the backbone, frozen.
    tokenizer: stored with the checkpoints.
    objective: `independent` (the paper's) or `geometric`.
    adapted: whether it reads states through the checkpoint's exit adapters, and is told by these what a layer says.
    heads: those that the checkpoint already has; a classifier among them is trained on, others are kept.
    generation: decoding defaults stored with the checkpoints.

    Raises ValueError where the decoder has one layer, so that there is nothing to decide, and for adapters that there are not.
    """
    if config.num_decoder_layers < 2:
        raise ValueError('the decoder has 1 layer: there is no earlier exit for a classifier to choose')
    model = Transformer(config)
    others = dict(heads or {})
    if adapted and 'exit_adapters' not in others:
        raise ValueError('adapted is True, and the checkpoint has no exit adapters; train some first, or expect False')
    read = adapters_of(others['exit_adapters']) if adapted else None
    start = others.pop('exit_classifier', None) or init_head(config.emb_dim)

    def logits_and_agreement(head, backbone, batch):
        states = layer_states(model, backbone, batch)
        if read is not None:
            states = tuple(read(layer, state) for layer, state in enumerate(states))
        return exit_logits(head, states), agreement(unembedding(model, backbone), states)

    def loss(head, backbone, batch, key):
        del key
        weights = batch['decoder_loss_weights']
        return jnp.sum(objective(*logits_and_agreement(head, backbone, batch)) * weights), jnp.sum(weights)

    def measure(head, backbone, batch):
        weights = batch['decoder_loss_weights']
        logits, agrees = logits_and_agreement(head, backbone, batch)
        stays, differs = logits < 0, ~agrees
        counts = {
            'agrees': agrees,
            'right': stays == differs,
            'true_positive': stays & differs,
            'predicted': stays,
            'actual': differs,
        }
        return {
            'objective': jnp.sum(objective(logits, agrees) * weights),
            'tokens': jnp.sum(weights),
            **{name: jnp.sum(count * weights, axis=(1, 2)) for name, count in counts.items()},
        }

    def report(sums):
        f1 = dont_exit_f1(sums['true_positive'], sums['predicted'], sums['actual'])
        return {
            'loss': float(sums['objective'] / sums['tokens']),
            'accuracy': float(np.mean(sums['right'] / sums['tokens'])),
            'dont_exit_f1': float(np.mean(f1)),
            'dont_exit_f1_by_layer': f1.tolist(),
            'agreement_by_layer': (sums['agrees'] / sums['tokens']).tolist(),
        }

    def export(head, directory):
        native.save(
            directory,
            config,
            params,
            tokenizer,
            heads={**others, 'exit_classifier': head},
            generation=generation,
            overwrite=True,
        )

    return Stage(start, params, of_loss(loss), measure, report, ('loss', 'accuracy', 'dont_exit_f1'), export)
