"""What one wrong token costs the rest of a sequence, by where it stands (Schuster et al. 2022, §3.3.2, Fig. 2a)."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.analysis.confidences import planned_states
from calm_jax.analysis.forcing import Forced, teacher_forced, unwatched
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import generate
from calm_jax.model import Model
from calm_jax.models.bound import bound
from calm_jax.models.config import TransformerConfig

RANK = 10  # of the token that a sampling-based perturbation takes, from 1


def sensitivity(
    model: Model,
    texts: Sequence[str],
    metric: Callable,
    positions: Sequence[int],
    decoding: Decoding,
    *,
    batch_size: int = 32,
    progress: Callable = unwatched,
) -> dict:
    """Mean score against the full output after a perturbation at each position, all other tokens at full depth.

    metric: (predictions, references) → [n]. positions: generated tokens before the perturbed one. decoding: its limits as
    numbers, no beam search, which takes no token from outside. Two perturbations: 'sampling' takes the last layer's 10th-ranked
    token, 'layer' the first layer's prediction (often the same token). progress: as `calm_jax.progress.progress`.
    Returns positions (those that any output reaches), the two lists of scores, and how many outputs reach each.
    """
    decoding = decoding.full()
    assert decoding.limits.max_new_tokens is not None  # resolved
    length = int(decoding.limits.max_new_tokens)
    scores = {kind: [[] for _ in positions] for kind in ('sampling', 'layer')}
    batches = teacher_forced(model, texts, decoding, batch_size, progress)
    for batch in progress(batches, 'perturbing', unit='batches'):
        perturbed = jax.device_get(_perturbations(model.config, model.decoding_params, batch))
        full = [model.tokenizer.decode(row[present].tolist()) for row, present in zip(batch.tokens, batch.present)]
        for kind, tokens in zip(('sampling', 'layer'), perturbed):
            for at, position in enumerate(positions):
                reached = np.flatnonzero(batch.present[:, position]) if position < length else []
                if len(reached) == 0:
                    continue
                forced = np.where(np.arange(length) < position, batch.tokens, -1)
                forced[:, position] = tokens[:, position]
                after = _outputs(model, batch, decoding, forced)
                references = [[full[row]] for row in reached]
                scores[kind][at].extend(metric([after[row] for row in reached], references).tolist())
    reached = [at for at in range(len(positions)) if scores['layer'][at]]
    return {
        'positions': [positions[at] for at in reached],
        **{kind: [float(np.mean(columns[at])) for at in reached] for kind, columns in scores.items()},
        'examples': [len(scores['layer'][at]) for at in reached],
    }


def _outputs(model, batch, decoding, forced) -> list[str]:
    """The texts of a batch where some of its tokens are forced, int32 [B, T], −1 where they are not."""
    source, params = (batch.source, batch.source_mask), model.decoding_params
    trace = jax.device_get(generate(model.config, params, *source, decoding, example_ids=batch.example_ids, forced=forced))
    return [model.tokenizer.decode(row[:count].tolist()) for row, count in zip(trace.tokens, trace.lengths)]


@partial(jax.jit, static_argnames=('config',))
def _perturbations(config: TransformerConfig, params: dict, batch: Forced):
    """Per position [B, T]: the last layer's RANK-th token, and the first layer's best."""
    call = bound(config, params)
    states = [state[:, -batch.tokens.shape[1] :] for state in planned_states(call, config, batch)]
    first, last = states[1], states[-1]
    ranked = jax.lax.top_k(call(last, method='unembed'), min(RANK, config.vocab_size))[1][..., -1]
    return ranked.astype(jnp.int32), jnp.argmax(call(first, method='unembed'), axis=-1).astype(jnp.int32)
