"""Random parameters for tests: those of a real initialisation in names, shapes and spread, without a program to compile."""

import functools

import jax
import numpy as np

from calm_jax.models.transformer import init_params


def random_params(config, seed=2):
    """float32 arrays of NumPy, which may be changed in place."""
    random = np.random.default_rng(seed)

    def drawn(path, leaf):
        *_, part, name = (each.key for each in path)
        if name in ('scale', 'bias'):
            return np.full(leaf.shape, float(name == 'scale'), np.float32)
        if name == 'embedding':
            spread = config.embedding_spread
        elif name == 'rel_embedding':
            spread = np.sqrt(2 / sum(leaf.shape))
        else:
            spread = leaf.shape[0] ** -0.5
            if part == 'query' and not config.attention_scale:
                spread /= np.sqrt(config.head_dim)
        return (spread * random.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(drawn, _shapes(config))


@functools.cache
def _shapes(config):
    return jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
