"""What one wrong token costs the rest of a sequence, by where it stands (Schuster et al. 2022, §3.3.2, Fig. 2a)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.analysis.forcing import teacher_forced, unwatched
from calm_jax.decoding.generate import generate
from calm_jax.models.transformer import Transformer

RANK = 10  # of the token that a sampling-based perturbation takes, from 1


def sensitivity(
    model, texts, metric, positions, *, max_new_tokens, max_source_length, batch_size=32, progress=unwatched
) -> dict:
    """Mean score against the full output after a perturbation at each position, all other tokens greedy at full depth.

    metric: (predictions, references) → [n]. positions: generated tokens before the perturbed one. Two perturbations:
    'sampling' takes the last layer's 10th-ranked token, 'layer' the first layer's prediction (often the same token).
    progress: as `calm_jax.progress.progress`, to show how far it is.
    Returns positions (those that any output reaches), the two lists of scores, and how many outputs reach each.
    """
    max_new_tokens, max_source_length = model.limits(max_new_tokens, max_source_length)
    scores = {kind: [[] for _ in positions] for kind in ('sampling', 'layer')}
    batches = teacher_forced(model, texts, max_new_tokens, max_source_length, batch_size, progress=progress)
    for batch in progress(batches, 'perturbing', unit='batches'):
        perturbed = jax.device_get(
            _perturbations(model.config, model.params, batch.source, batch.decoder_input, batch.mask, max_new_tokens)
        )
        full = [model.tokenizer.decode(row[there].tolist()) for row, there in zip(batch.tokens, batch.present)]
        for kind, tokens in zip(('sampling', 'layer'), perturbed):
            for at, position in enumerate(positions):
                reached = np.flatnonzero(batch.present[:, position]) if position < max_new_tokens else []
                if len(reached) == 0:
                    continue
                before = np.arange(max_new_tokens) < position
                forced = np.where(before, batch.tokens, -1)
                forced[:, position] = tokens[:, position]
                trace = jax.device_get(
                    generate(model.config, model.params, batch.source, max_new_tokens=max_new_tokens, forced=forced)
                )
                texts_after = [model.tokenizer.decode(trace.tokens[row, : trace.lengths[row]].tolist()) for row in reached]
                scores[kind][at].extend(metric(texts_after, [[full[row]] for row in reached]).tolist())
    reached = [at for at in range(len(positions)) if scores['layer'][at]]
    return {
        'positions': [positions[at] for at in reached],
        **{kind: [float(np.mean(columns[at])) for at in reached] for kind, columns in scores.items()},
        'examples': [len(scores['layer'][at]) for at in reached],
    }


@partial(jax.jit, static_argnames=('config', 'length'))
def _perturbations(config, params, source, decoder_input, mask, length):
    """Per position [B, T]: the last layer's RANK-th token, and the first layer's best."""
    model = Transformer(config)

    def call(*args, method):
        return model.apply({'params': params}, *args, method=method)

    encoded, source_mask = None, None
    if not config.decoder_only:
        encoded, source_mask = call(source, method='encode'), call(source, method='source_mask')
    states = [each[:, -length:] for each in call(encoded, source_mask, decoder_input, mask, method='decode')]
    ranked = jax.lax.top_k(call(states[-1], method='unembed'), min(RANK, config.vocab_size))[1][..., -1]
    return ranked.astype(jnp.int32), jnp.argmax(call(states[0], method='unembed'), axis=-1).astype(jnp.int32)
