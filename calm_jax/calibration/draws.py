"""Random numbers that stay the same: explicit uniforms, from which everything random here is made.

NumPy promises that the raw output of a bit generator never changes between versions, but not the output of
`permutation`, `choice` or `beta`. So only raw bits are asked for and the rest is written out: a recorded seed means the
same draws for good.
"""

from collections.abc import Sequence

import numpy as np


def uniforms(seed: int | Sequence[int], *shape: int) -> np.ndarray:
    """Uniform numbers strictly inside (0, 1), float64 of the given shape: (k + 1/2) / 2^52, k the top 52 bits of PCG64.

    `seed` is a non-negative integer, or a sequence of them (a seed and an index: a stream each); ValueError otherwise.
    With 52 bits the largest value is still below 1, so an inverse transform meets neither 0 nor 1.
    """
    try:
        if seed is None:
            raise TypeError('NumPy would take a seed from the clock')
        generator = np.random.PCG64(seed)
    except (TypeError, ValueError):
        raise ValueError(f'seed: expected a non-negative integer, found {seed!r}') from None
    bits = generator.random_raw(int(np.prod(shape))) >> np.uint64(12)
    return ((bits.astype(np.float64) + 0.5) * 2.0**-52).reshape(shape)


def permutation(seed: int | Sequence[int], n: int) -> np.ndarray:
    """A uniformly random order of 0 … n−1, int [n]: the ranks of n uniform numbers."""
    return np.argsort(uniforms(seed, n), kind='stable')
