"""Exit adapters' stage: maps of early states towards what the full model says, on a frozen model (Belrose et al. 2023).

Each step draws a few exits and a few positions: the head is as large as many layers, and to apply it after each of them, at
every position, would take a hundred times as long.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.checkpoints import native
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.depth.adapters import adapters_of
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import Transformer
from calm_jax.training.losses import divergence
from calm_jax.training.multi_exit import layer_states, unembedding
from calm_jax.training.train_state import Stage, of_loss
from calm_jax.types import Array


def identities(config: TransformerConfig, rank: int, seed: int) -> dict[str, Array]:
    """Adapters that change nothing; rank: r; 0: full."""
    layers, width = config.num_decoder_layers - 1, config.emb_dim
    head = {'scale': jnp.ones((layers, width)), 'bias': jnp.zeros((layers, width))}
    if not rank:
        return {**head, 'kernel': jnp.zeros((layers, width, width))}
    down = width**-0.5 * jax.random.normal(jax.random.key(seed), (layers, width, rank))
    return {**head, 'down': down, 'up': jnp.zeros((layers, rank, width))}


def drawn_positions(weights: Array, count: int, key: Array) -> tuple[Array, Array]:
    """(`count` places of a batch's tokens, rows end to end, without repetition, int32 [count]; which of them count, float32
    [count]): all that do, and others of weight 0, where they are fewer. weights: [B, T]."""
    flat = jnp.asarray(weights).reshape(-1)
    noise = jax.random.gumbel(key, flat.shape)
    places = jax.lax.top_k(jnp.where(flat > 0, noise, -jnp.inf), min(count, flat.shape[0]))[1]
    return places, flat[places]


def adapters_stage(
    config: TransformerConfig,
    params: Any,
    tokenizer: Tokenizer,
    *,
    rank: int = 0,
    exits: int = 2,
    positions: int = 256,
    seed: int = 0,
    heads: dict | None = None,
    generation: dict | None = None,
) -> Stage:
    """Trains exit adapters alone; model and head are read and never written.

    rank: r of the maps; 0: full, D × D. exits, positions: how many are drawn for each step. seed: of low-rank maps that are
    begun anew. heads: those of the checkpoint, of which adapters are trained on.

    Raises ValueError for a decoder of one layer, and for values out of range.
    """
    layers = config.num_decoder_layers - 1
    if layers < 1:
        raise ValueError('the decoder has 1 layer: there is no earlier exit to adapt')
    if not 0 <= rank <= config.emb_dim or exits < 1 or positions < 1:
        raise ValueError(
            f'rank is {rank}, exits {exits}, positions {positions}; expected a rank from 0 (full) to {config.emb_dim}, and 1 '
            'or more of the others'
        )
    model, others = Transformer(config), dict(heads or {})
    begun = others.pop('exit_adapters', None)
    start = begun or identities(config, rank, seed)
    adapters_of(start).check(config.sizes)
    stored = start['down'].shape[-1] if 'down' in start else 0
    if begun and stored != rank:
        raise ValueError(
            f'rank is {rank}, and the checkpoint has adapters of rank {stored} (0: full), which are trained on; expected that, '
            'or a checkpoint without adapters'
        )

    def loss(head, frozen, batch, key):
        places_key, exits_key = jax.random.split(key)
        places, weights = drawn_positions(batch['decoder_loss_weights'], positions, places_key)
        states = [state.reshape(-1, config.emb_dim)[places] for state in layer_states(model, frozen, batch)]
        unembed, adapters = unembedding(model, frozen), adapters_of(head)
        full = unembed(states[-1])
        adapted = jnp.stack([adapters(layer, state) for layer, state in enumerate(states[:-1])])
        drawn = jax.random.choice(exits_key, layers, (min(exits, layers),), replace=False)
        each = jax.lax.map(lambda layer: jnp.sum(divergence(full, unembed(adapted[layer])) * weights), drawn)
        return jnp.sum(each), jnp.sum(weights) * len(drawn)

    def measure(head, frozen, batch):
        states, weights = layer_states(model, frozen, batch), batch['decoder_loss_weights']
        unembed, adapters = unembedding(model, frozen), adapters_of(head)
        full = unembed(states[-1])
        said = jnp.argmax(full, axis=-1)

        def at(pair):
            raw, adapted = (unembed(state) for state in pair)
            agrees = (jnp.sum((jnp.argmax(logits, axis=-1) == said) * weights) for logits in (raw, adapted))
            return jnp.sum(divergence(full, adapted) * weights), *agrees

        adapted = jnp.stack([adapters(layer, state) for layer, state in enumerate(states[:-1])])
        distance, raw, made = jax.lax.map(at, (jnp.stack(states[:-1]), adapted))
        return {'divergence': distance, 'raw_agreement': raw, 'agreement': made, 'tokens': jnp.sum(weights)}

    def report(sums):
        means = {name: value / sums['tokens'] for name, value in sums.items() if name != 'tokens'}
        return {
            'loss': float(np.mean(means['divergence'])),
            'agreement': float(np.mean(means['agreement'])),
            'divergence_by_layer': means['divergence'].tolist(),
            'agreement_by_layer': means['agreement'].tolist(),
            'raw_agreement_by_layer': means['raw_agreement'].tolist(),
        }

    def export(head, directory):
        native.save(
            directory, config, params, tokenizer, heads={**others, 'exit_adapters': head}, generation=generation, overwrite=True
        )

    return Stage(start, params, of_loss(loss), measure, report, ('loss', 'agreement'), export)
