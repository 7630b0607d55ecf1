"""Reading weights: what a step of one text cannot be quicker than."""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import capacity_of, program
from calm_jax.models.config import TransformerConfig
from calm_jax.models.joined import CROSS_ATTENTION
from calm_jax.types import Array

READS = 5  # of which the quickest counts
TABLES = ('position_embedder', 'relpos_bias')  # of which a step reads a row
MADE_BEFORE = ('key', 'value', 'key_value')  # of cross-attention: what they make is made once a text


class StepReading(NamedTuple):
    """step, read: seconds, float64 [rounds], of a step at full depth and of reading the weights that it reads, weight_bytes."""

    step: np.ndarray
    read: np.ndarray
    weight_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Medians over the rounds, in milliseconds; share: of the step's time, what reading takes."""
        step, read = (1e3 * float(np.median(each)) for each in (self.step, self.read))
        return {'step_ms': step, 'read_ms': read, 'share': read / step, 'weight_bytes': self.weight_bytes}


def time_step(
    config: TransformerConfig, params: dict, tokens: np.ndarray, mask: np.ndarray, new_tokens: int, rounds: int
) -> StepReading:
    """A greedy step at full depth of one text beside reading its weights, in turns; the round that compiles is dropped.

    tokens: int [1, S]; mask: bool [1, S]. A step is the difference of decoding 1 and `new_tokens` tokens, 2 or more, over as
    many steps: encoder and prompt are in neither.
    """
    config = dataclasses.replace(config, eos_id=-1, other_eos_ids=())  # no text ends by itself
    weights = step_weights(params, config)

    def seconds(count):
        decoding, capacity = Decoding(limits=Limits(max_new_tokens=count)), capacity_of(new_tokens)
        function, arguments, settings = program(config, params, tokens, mask, decoding, capacity=capacity, outermost=True)
        began = perf_counter()
        jax.block_until_ready(function(*arguments, **settings))
        return perf_counter() - began

    times = []
    for _ in range(1 + rounds):
        first, whole = seconds(1), seconds(new_tokens)
        times.append([(whole - first) / (new_tokens - 1), read_seconds(weights)])
    step, read = np.array(times[1:]).T
    return StepReading(step, read, sum(each.nbytes for each in weights))


def step_weights(params: dict, config: TransformerConfig) -> list[Array]:
    """What a step at full depth reads once: the decoder without its tables of positions and without what is made before the
    first token, and the head."""
    decoder = {name: each for name, each in params['decoder'].items() if name not in TABLES}
    for name in [name for name in decoder if name.startswith('layers_')]:
        layer = {part: each for part, each in decoder[name].items() if part not in TABLES}
        cross = {part: each for part, each in layer.get(CROSS_ATTENTION, {}).items() if part not in MADE_BEFORE}
        decoder[name] = {**layer, CROSS_ATTENTION: cross}
    tied = config.tied_head and 'tied_kernel' not in decoder.get('logits_dense', {})
    return jax.tree.leaves((decoder, params['token_embedder']['embedding'] if tied else None))


def read_seconds(arrays: Sequence[Array]) -> float:
    """Seconds to read the arrays once, by whichever is quicker here: the device's own sum of each or, on a CPU, NumPy's maximum
    of each on every core."""
    arrays = list(arrays)
    summed = _quickest(lambda: jax.block_until_ready(_sums(arrays)))
    if jax.default_backend() != 'cpu':
        return summed
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    parts = _parts(arrays, cores)
    with ThreadPoolExecutor(cores) as pool:
        return min(summed, _quickest(lambda: list(pool.map(lambda part: [np.max(each) for each in part], parts))))


@jax.jit
def _sums(arrays):
    return [jnp.sum(each) for each in arrays]


def _parts(arrays, count):
    """`count` lists of pieces, which together are the arrays, flat. As whole numbers, whatever they hold: none is slow."""
    flat = [np.asarray(each).reshape(-1) for each in arrays]
    whole = [each.view(f'u{each.itemsize}') for each in flat]
    cut = [[len(each) * part // count for part in range(count + 1)] for each in whole]
    return [
        [each[ends[part] : ends[part + 1]] for each, ends in zip(whole, cut) if ends[part] < ends[part + 1]]
        for part in range(count)
    ]


def _quickest(way):
    way()  # compiles, and wakes the threads
    times = []
    for _ in range(READS):
        began = perf_counter()
        way()
        times.append(perf_counter() - began)
    return min(times)
