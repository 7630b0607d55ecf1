"""Published tensors as parameters, whichever files hold them: one at a time, each accounted for."""

import jax.numpy as jnp
import numpy as np

from calm_jax.checkpoints import native, trees


def assemble(directory, config, weights, where, dtype, watch=iter):
    """Our parameters, a nested dict, of the tensors {name: tensor} that a published checkpoint holds.

    weights: the `Weight` of every parameter. A tensor has a `shape` and can be `read`, once, into an array. dtype: of the
    parameters; None keeps what is stored. `watch` passes the weights on, as a progress bar does; `directory` starts messages.

    Raises ValueError where tensors are missing, left over, mis-shaped, of another type than floating-point numbers, or
    unlike under two names.
    """
    weights = list(weights)
    stored = {name: tensor.shape for name, tensor in where.items()}
    sources = {weight.name: next((name for name in (weight.name, *weight.duplicates) if name in where), None)
               for weight in weights}
    shapes = native.parameter_shapes(config)
    expected = {}
    for weight in weights:
        shape = published_shape(weight, [shapes[path] for path in weight.paths])
        expected[sources[weight.name] or weight.name] = shape
        expected |= {name: shape for name in weight.duplicates if name in where}
    if problems := trees.differences(expected, stored):
        raise ValueError(f'{directory}: the weights do not match config.json: {problems}')
    params = {}
    for weight in watch(weights):
        source = sources[weight.name]
        array = _read(directory, where[source])
        for name in weight.duplicates:
            if name in where and name != source and not np.array_equal(_read(directory, where[name]), array, equal_nan=True):
                raise ValueError(f'{directory}: {name} and {source} differ; expected the same tensor twice')
        array = trees.cast(as_ours(weight, array), dtype, f'{directory}: {source}')
        for path, part in zip(weight.paths, np.split(array, len(weight.paths), axis=-1)):
            node = params
            *parents, leaf = path.split('/')
            for name in parents:
                node = node.setdefault(name, {})
            node[leaf] = jnp.array(part)  # A copy: the file may go away.
    return params


def published_shape(weight, shapes):
    """The shape of the published tensor of parameters of these shapes."""
    *outer, _ = shapes[0]
    shape = (*outer, sum(each[-1] for each in shapes))
    return (1, *shape) if weight.row else shape[::-1] if weight.transpose else shape


def as_ours(weight, array):
    """The published tensor as its parameters have it, side by side."""
    return array[0] if weight.row else array.T if weight.transpose else array


def as_published(weight, array):
    """Parameters side by side as the published tensor has them."""
    return array[None] if weight.row else array.T if weight.transpose else array


def _read(directory, tensor):
    try:
        return tensor.read()
    except ValueError as error:
        raise ValueError(f'{directory}: {error}') from None
