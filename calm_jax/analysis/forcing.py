"""Teacher forcing on the full model's own outputs: what it said, fed back to it in parallel."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from calm_jax.data.example_ids import ExampleIds
from calm_jax.data.windows import DecodeBatch, decode_windows
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import generate
from calm_jax.model import Model
from calm_jax.models.config import TransformerConfig
from calm_jax.types import Plan, Trace


class Forced(NamedTuple):
    """A batch that was decoded.

    source: int32 [B, S]; source_mask: bool [B, S], which of its tokens are there.
    tokens: int32 [B, T], the output; present: bool [B, T], where it has a token.
    decoder_input: int32 [B, R + T], the output shifted right, after the R = S − 1 prompt tokens before the last where there is
    no encoder, else R = 0; mask: bool [B, R + T], which of those are there, None for all. prompt: bool [B, R + T], which of
    them were read in full beside the plan; None: none.
    plan: sub-layers that the rows ran; None: all. example_ids: int32 [B], which texts the rows are.
    """

    source: np.ndarray
    source_mask: np.ndarray
    tokens: np.ndarray
    present: np.ndarray
    decoder_input: np.ndarray
    mask: np.ndarray | None
    prompt: np.ndarray | None
    plan: Plan | None
    example_ids: np.ndarray


def unwatched(iterable, description, **_):
    """In the place of a progress bar where nobody looks."""
    return iterable


def teacher_forced(
    model: Model, texts: Sequence[str], decoding: Decoding, batch_size: int, progress: Callable = unwatched
) -> list[Forced]:
    """Decodes the texts, and lays their outputs out to be read back in one pass. The last batch has as many rows as `Model`
    gives it; rows that fill it up have no tokens.

    decoding: with its limits as numbers; only its plan decides about depth. progress: as `calm_jax.progress.progress`.
    """
    example_ids = ExampleIds()
    ids = np.array([example_ids(text) for text in texts], np.int32)
    longest = decoding.limits.max_source_length
    assert longest is not None  # resolved
    windows = decode_windows(map(model.encode, texts), batch_size, max_source_length=longest, **model.padding)
    batches = (batch for window in windows for batch in window)
    total = -(-len(texts) // batch_size)
    forced = []
    for batch in progress(batches, 'decoding', total=total, unit='batches'):
        own = ids[np.maximum(batch.rows, 0)]
        trace = generate(model.config, model.decoding_params, batch.tokens, batch.mask, decoding, example_ids=own)
        forced.append(shifted(model.config, batch, jax.device_get(trace), own, decoding.plan_prompt == 'full'))
    return forced


def shifted(
    config: TransformerConfig, batch: DecodeBatch, trace: Trace, example_ids: np.ndarray, in_full: bool = True
) -> Forced:
    """A decoded batch with its outputs shifted right; trace: on the host. in_full: whether prompts were read in full."""
    rows, length = trace.tokens.shape
    read = batch.tokens.shape[1] - 1 if config.decoder_only else 0
    present = np.arange(length) < trace.lengths[:, None]
    before = batch.tokens if config.decoder_only else np.full((rows, 1), config.decoder_start_id, np.int32)
    outputs = np.where(present[:, 1:], trace.tokens[:, :-1], config.pad_id)
    return Forced(
        source=batch.tokens,
        source_mask=batch.mask,
        tokens=np.asarray(trace.tokens),
        present=present,
        decoder_input=np.concatenate([before, outputs], axis=1),
        mask=np.concatenate([batch.mask, present[:, 1:]], axis=1) if config.decoder_only else None,
        prompt=np.broadcast_to(np.arange(read + length) < read, (rows, read + length)) if read and in_full else None,
        plan=trace.plan,
        example_ids=example_ids,
    )
