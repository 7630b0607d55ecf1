"""Parameters laid out for decoding: the kernels of linear maps that read the same state, side by side.

One product of twice the width reads memory faster than two, which is what a decoded token waits for. Training and files
keep t5x's names; `join` is applied when a model is loaded and `split` when it is written.
"""

import jax
import numpy as np

# Name of the joined map: the maps that it does at once.
JOINED = {'key_value': ('key', 'value'), 'wi_gated': ('wi_0', 'wi_1')}


def join(params):
    """The parameters with every group of `JOINED` as one map; no leaf is held twice once the caller drops `params`."""
    if not isinstance(params, dict):
        return params
    rest = {name: join(each) for name, each in params.items()}
    for joint, parts in JOINED.items():
        if all(part in rest for part in parts):
            parts = [rest.pop(part) for part in parts]
            rest[joint] = jax.tree.map(lambda *leaves: _module(leaves[0]).concatenate(leaves, axis=-1), *parts)
    return rest


def split(params):
    """The parameters under t5x's names again: the inverse of `join`."""
    if not isinstance(params, dict):
        return params
    rest = {}
    for name, each in params.items():
        parts = JOINED.get(name)
        if parts is None:
            rest[name] = split(each)
            continue
        cut = {leaf: _module(array).split(array, len(parts), axis=-1) for leaf, array in each.items()}
        rest.update({part: {leaf: pieces[i] for leaf, pieces in cut.items()} for i, part in enumerate(parts)})
    return rest


def _module(leaf):
    return np if isinstance(leaf, np.ndarray) else jax.numpy
