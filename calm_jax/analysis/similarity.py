"""How near a run with fewer layers stays to the full model: the cosine of their states (Glavas et al. 2024, §3.1 and A.3).

The full model decodes, greedily. Each reduced run then reads what it said, token by token, and attends to keys and values of
its own: a layer's come from the states that enter it in this run. As a row's plan is the same for all of its tokens, one
parallel pass within the plan is that run (`analysis.confidences.planned_states`). A layer that is skipped hands its state on.
So does every layer above an early exit, whose keys and values are projected from the copied state: to leave after layer c is
the plan of layers 1…c.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from calm_jax.analysis.confidences import planned_states
from calm_jax.analysis.forcing import Forced, teacher_forced, unwatched
from calm_jax.decoding.choice import example_keys
from calm_jax.decoding.decoding import Decoding
from calm_jax.depth.plans import FixedLayers, PlanMaker, RandomLayers, Uniform
from calm_jax.model import Model
from calm_jax.models.bound import bound
from calm_jax.models.config import TransformerConfig
from calm_jax.types import Context, Plan

# A cost in layers and the layers there are → what runs so many.
METHODS: Mapping[str, Callable[[int, int], PlanMaker]] = {
    'exit': lambda cost, layers: FixedLayers(tuple(range(1, cost + 1))),
    'uniform': lambda cost, layers: Uniform(cost / layers),
    'random': lambda cost, layers: RandomLayers(cost / layers),
    'random_all': lambda cost, layers: RandomLayers(cost / layers, first=False),
}


class Method(NamedTuple):
    """A way to run fewer layers. plans: by cost, how many of the decoder's layers run."""

    name: str
    plans: Mapping[int, PlanMaker]


class Moments:
    """Mean and spread of rows of numbers that come a few at a time; none is kept (Chan et al. 1979)."""

    def __init__(self, width: int):
        self.count, self.mean, self._squares = 0, np.zeros(width), np.zeros(width)

    def add(self, rows: np.ndarray) -> None:
        """Takes rows [n, width] in."""
        rows = np.asarray(rows, np.float64)
        count = self.count + len(rows)
        if not len(rows):
            return
        apart = rows.mean(axis=0) - self.mean
        self._squares += ((rows - rows.mean(axis=0)) ** 2).sum(axis=0) + apart**2 * self.count * len(rows) / count
        self.mean, self.count = self.mean + apart * len(rows) / count, count

    def margin(self, level: float = 0.95) -> np.ndarray | None:
        """Half of the interval about the mean that holds the true one at this level (Student's t); None of fewer than two."""
        if self.count < 2:
            return None
        deviation = np.sqrt(self._squares / (self.count - 1) / self.count)
        return stats.t.ppf((1 + level) / 2, self.count - 1) * deviation


def similarity(
    model: Model,
    texts: Sequence[str],
    methods: Sequence[Method],
    decoding: Decoding,
    *,
    prompt_in_full: bool = True,
    batch_size: int = 16,
    progress: Callable = unwatched,
) -> dict:
    """Of each method and cost the cosine of its states with the full model's, a mean over each text's tokens, and of these over
    texts: of the final state, of each layer's, and of the mean over all layers but the last.

    A state belongs to the token that it is followed by: the first is that of a prompt's last token, or of the start token.
    decoding: how the full model says what is read, its limits as numbers; its seed is that of random plans. prompt_in_full:
    whether a decoder-only model reads the prompt but its last token in full, whatever the plan (the paper's), or within it.
    progress: as `calm_jax.progress.progress`.
    Returns what similarity.json holds: layers, texts, tokens, and of each method its points; of each point the cost, and means
    with the margin that makes a 95% interval of them (None of a single text).
    Raises ValueError for a decoder of one layer.
    """
    if model.config.num_decoder_layers < 2:
        raise ValueError('the decoder has one layer: there is none to leave out')
    batches = teacher_forced(model, texts, decoding.full(), batch_size, progress)
    layers = model.config.num_decoder_layers
    comparisons = [(method, cost, maker, Moments(layers + 1)) for method in methods for cost, maker in method.plans.items()]
    passes, current = itertools.product(batches, comparisons), None
    for batch, (_, _, maker, moments) in progress(passes, 'comparing', total=len(batches) * len(comparisons), unit='passes'):
        if batch is not current:
            current, whole = batch, _generated_states(model.config, model.decoding_params, batch)
        reduced = batch._replace(
            plan=_plan(model.config, maker, batch, decoding), prompt=batch.prompt if prompt_in_full else None
        )
        moments.add(_by_text(_cosines(model.config, model.decoding_params, reduced, whole), batch.present))
    return {
        'layers': layers,
        'texts': len(texts),
        'tokens': int(sum(batch.present.sum() for batch in batches)),
        'methods': [
            {'method': method.name, 'points': [_point(cost, moments) for of, cost, _, moments in comparisons if of is method]}
            for method in methods
        ],
    }


def _plan(config: TransformerConfig, maker: PlanMaker, batch: Forced, decoding: Decoding) -> Plan:
    """What a plan maker that looks at no states says of a batch, as a decode has it."""
    assert maker.after == 0 and not maker.layerwise
    source, mask, example_ids = map(jnp.asarray, (batch.source, batch.source_mask, batch.example_ids))
    keys = example_keys(jax.random.key(decoding.seed), example_ids)
    return maker(Context(config.sizes, example_ids, source, mask, None, keys))


@partial(jax.jit, static_argnames=('config',))
def _generated_states(config: TransformerConfig, params: dict, batch: Forced) -> list[jax.Array]:
    """The states [B, T, D] that leave each layer, of the positions that generated tokens follow."""
    states = planned_states(bound(config, params), config, batch)[1:]
    return [state[:, -batch.tokens.shape[1] :] for state in states]


@partial(jax.jit, static_argnames=('config',))
def _cosines(config: TransformerConfig, params: dict, batch: Forced, whole: list[jax.Array]) -> jax.Array:
    """The cosine of each layer's states within the batch's plan with others, float32 [L, B, T]."""
    return jnp.stack([_cosine(*states) for states in zip(_generated_states(config, params, batch), whole)])


def _cosine(one: jax.Array, other: jax.Array) -> jax.Array:
    """Of vectors [..., D], float32 [...]; 0 where one of them is 0."""
    one, other = (each.astype(jnp.float32) for each in (one, other))
    norms = jnp.linalg.norm(one, axis=-1) * jnp.linalg.norm(other, axis=-1)
    return jnp.sum(one * other, axis=-1) / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)


def _by_text(cosines: jax.Array, present: np.ndarray) -> np.ndarray:
    """float64 [texts, L + 1]: of each text that has tokens the means of cosines [L, B, T] over them, by layer, and of the mean
    over the layers but the last. present: bool [B, T]."""
    counts = present.sum(axis=1)
    means = (np.asarray(cosines, np.float64) * present).sum(axis=2).T[counts > 0] / counts[counts > 0, None]
    return np.concatenate([means, means[:, :-1].mean(axis=1, keepdims=True)], axis=1)


def _point(cost: int, moments: Moments) -> dict:
    """What similarity.json says of one cost."""
    margin = moments.margin()
    margins = [None] * len(moments.mean) if margin is None else margin.tolist()
    *by_layer, intermediate = [{'mean': mean, 'margin': margin} for mean, margin in zip(moments.mean.tolist(), margins)]
    return {'cost': cost, 'final': by_layer[-1], 'intermediate': intermediate, 'by_layer': by_layer}
