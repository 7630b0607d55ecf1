"""Trains a prompt controller: ridge regression of what each plan adds to the loss, on the states of prompts.

Closed form, and so is what it would have predicted of each prompt without having seen it, by which the penalty is chosen, and
what the controller is worth is told.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.data.windows import DecodeBatch
from calm_jax.depth.prompt_controller import features
from calm_jax.models import planned
from calm_jax.models.bound import bound
from calm_jax.models.config import TransformerConfig
from calm_jax.models.positions import standing

PENALTIES = tuple(10.0**power for power in np.arange(-1, 7.5, 0.5))


def prompt_features(config: TransformerConfig, params: Any, batches: Sequence[DecodeBatch]) -> np.ndarray:
    """float32 [n, 2·D], by the rows' indices in the input, of prompts or sources as the controller will see them."""

    @jax.jit
    def of_batch(params, tokens, mask):
        call = bound(config, params)
        if not config.decoder_only:
            context, x = call(mask, method='encoder_context'), call(tokens, method='embed_source')
            return features(planned.encode(call, range(config.num_encoder_layers), x, context), mask)
        positions, bias = standing(tokens.shape[1], mask), call(tokens.shape[1], mask, method='causal_bias')
        x = call(tokens, positions, method='embed')
        for layer in range(config.num_decoder_layers - 1):
            x, _ = planned.decoder_layer(call, layer, x, positions, bias)
        return features(x, mask)

    made = {}
    for batch in batches:
        rows = np.asarray(of_batch(params, jnp.asarray(batch.tokens), jnp.asarray(batch.mask)))
        made |= {int(row): rows[place] for place, row in enumerate(batch.rows.tolist()) if row >= 0}
    return np.stack([made[row] for row in sorted(made)])


class Fitted(NamedTuple):
    """head: mean, scale [F], kernel [F, K − 1], bias [K − 1], as `PromptController` has them. penalty: that was chosen.
    unseen: float64 [n, K − 1], what is predicted of each prompt by a fit without it."""

    head: dict[str, np.ndarray]
    penalty: float
    unseen: np.ndarray


def fitted(given: np.ndarray, adds: np.ndarray, penalties: Sequence[float] = PENALTIES) -> Fitted:
    """Ridge regression of what plans add to the loss, float [n, K − 1], on features, float [n, F]; of the penalties that which
    predicts best what it has not seen (Allen 1974, PRESS). Raises ValueError for fewer than three prompts."""
    if len(given) < 3:
        raise ValueError(f'a controller of {len(given)} prompts; expected 3 or more')
    x = np.asarray(given, np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = (x - mean) / scale
    bias, wanted = adds.mean(axis=0), adds - adds.mean(axis=0)
    left, values, right = np.linalg.svd(x, full_matrices=False)
    best = None
    for penalty in penalties:
        shrunk = values**2 / (values**2 + penalty)
        predicted = left @ (shrunk[:, None] * (left.T @ wanted))
        # A fit without a row: what it misses, over what the row itself had no part in.
        own = 1 / len(x) + np.sum(left**2 * shrunk, axis=1)
        missed = (wanted - predicted) / np.maximum(1 - own, 1e-9)[:, None]
        error = float(np.sum(missed**2))
        if best is None or error < best[0]:
            kernel = right.T @ ((values / (values**2 + penalty))[:, None] * (left.T @ wanted))
            best = error, penalty, kernel, adds - missed
    assert best is not None
    _, penalty, kernel, unseen = best
    arrays = {'mean': mean, 'scale': scale, 'kernel': kernel, 'bias': bias}
    return Fitted({name: each.astype(np.float32) for name, each in arrays.items()}, penalty, unseen)


class Curve(NamedTuple):
    """levels: λ [m], falling; costs, losses: [m], means over prompts of the plans that a controller chooses there."""

    levels: np.ndarray
    costs: np.ndarray
    losses: np.ndarray


def curve(unseen: np.ndarray, losses: np.ndarray, costs: np.ndarray) -> Curve:
    """What a controller chooses of plans at every dial where a choice changes, by predictions of what it has not seen.

    unseen: [n, K − 1], as `Fitted` has it. losses, costs: [n, K] and [K], of each plan, cheapest first.
    """
    allowed = np.unique(np.concatenate(([0.0], unseen[(unseen > 0) & (unseen < 1)], [1.0])))
    rows = np.arange(len(losses))
    points = []
    for allowance in allowed:
        will_do = np.concatenate((unseen <= allowance, np.ones((len(unseen), 1), bool)), axis=1)
        chosen = np.argmax(will_do, axis=1)
        points.append((1 - allowance, costs[chosen].mean(), losses[rows, chosen].mean()))
    return Curve(*map(np.array, zip(*points)))
