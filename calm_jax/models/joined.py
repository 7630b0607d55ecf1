"""Parameters laid out for decoding: what one product can read at once, as it is read fastest.

The kernels of linear maps that read the same state stand side by side: one product of all of them takes less time than one of
each, which is what a decoded token waits for. Positions that a layer only holds get queries with it that nobody asks, and no
count of work has them. On a CPU a tied head has a copy of the embedding as a kernel [E, V], from which logits take up to a
third less time than from [V, E]. Training and files keep t5x's names and have neither; `join` is applied when a model is loaded
and `split` when it is written.
"""

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.models.config import TransformerConfig

# Name of the joined map: the maps that it does at once. Cross-attention's queries read another state than its keys and values.
JOINED = {'query_key_value': ('query', 'key', 'value'), 'key_value': ('key', 'value'), 'wi_gated': ('wi_0', 'wi_1')}
CROSS_ATTENTION = 'encoder_decoder_attention'


def join(params: dict, config: TransformerConfig) -> dict:
    """The parameters laid out for decoding; but for that copy no leaf is held twice once the caller drops `params`."""
    params = _joined(params)
    if not config.tied_head or jax.default_backend() != 'cpu':
        return params
    decoder = params['decoder']
    head = {**decoder.get('logits_dense', {}), 'tied_kernel': jnp.transpose(params['token_embedder']['embedding'])}
    return {**params, 'decoder': {**decoder, 'logits_dense': head}}


def split(params: dict, config: TransformerConfig) -> dict:
    """The parameters under t5x's names again: the inverse of `join`."""
    if not isinstance(params, dict):
        return params
    widths = dict.fromkeys(('key', 'value'), config.kv_heads) | {'query': config.num_heads}
    rest = {}
    for name, each in params.items():
        if name == 'logits_dense':
            each = {leaf: array for leaf, array in each.items() if leaf != 'tied_kernel'}
            if each:
                rest[name] = each
            continue
        parts = JOINED.get(name)
        if parts is None:
            rest[name] = split(each, config)
            continue
        ends = np.cumsum([widths.get(part, 1) for part in parts])
        for leaf, array in each.items():
            pieces = _module(array).split(array, ends[:-1] * (array.shape[-1] // ends[-1]), axis=-1)
            for part, piece in zip(parts, pieces):
                rest.setdefault(part, {})[leaf] = piece
    return rest


def _joined(params, module=''):
    if not isinstance(params, dict):
        return params
    rest = {name: _joined(each, name) for name, each in params.items()}
    for joint, parts in JOINED.items():
        if all(part in rest for part in parts) and not (module == CROSS_ATTENTION and 'query' in parts):
            parts = [rest.pop(part) for part in parts]
            rest[joint] = jax.tree.map(lambda *leaves: _module(leaves[0]).concatenate(leaves, axis=-1), *parts)
    return rest


def _module(leaf):
    return np if isinstance(leaf, np.ndarray) else jnp
