"""Teacher forcing on the full model's own outputs: what it said, fed back to it in parallel."""

from typing import NamedTuple

import numpy as np

from calm_jax.data.windows import decode_windows


class Forced(NamedTuple):
    """source: int32 [B, S]; tokens: int32 [B, T], the full model's output; present: bool [B, T], where it has a token;
    decoder_input: int32 [B, R + T], the output shifted right, after the R = S − 1 prompt tokens before the last where the
    decoder is alone, else R = 0; mask: bool [B, R + T], which of those are there, or None for all;
    rows: int [B], input indices, −1 for a row that fills up the batch."""

    source: np.ndarray
    decoder_input: np.ndarray
    mask: np.ndarray | None
    tokens: np.ndarray
    present: np.ndarray
    rows: np.ndarray


def unwatched(iterable, description, **_):
    """In the place of a progress bar where nobody looks."""
    return iterable


def teacher_forced(model, texts, max_new_tokens, max_source_length, batch_size, plan=None, progress=unwatched) -> list[Forced]:
    """Decodes the texts without exits, within a plan if there is one; returns them in batches with their outputs.

    progress: as `calm_jax.progress.progress`, to show how far it is.
    """
    config = model.config
    max_new_tokens, max_source_length = model.limits(max_new_tokens, max_source_length)
    settings = {'max_new_tokens': max_new_tokens, 'max_source_length': max_source_length, 'batch_size': batch_size}
    decoded = progress(model.stream(texts, plan=plan, **settings), 'decoding', total=len(texts), unit='examples')
    outputs = [output.tokens for output in decoded]
    forced = []
    for window in decode_windows(map(model.encode, texts), batch_size, max_source_length=max_source_length, **model.padding):
        for batch in window:
            tokens = np.full((batch_size, max_new_tokens), config.pad_id, np.int32)
            present = np.zeros(tokens.shape, bool)
            for row, index in enumerate(batch.rows.tolist()):
                if index >= 0:
                    tokens[row, : len(outputs[index])] = outputs[index]
                    present[row, : len(outputs[index])] = True
            before = batch.tokens if config.decoder_only else np.full((batch_size, 1), config.decoder_start_id, np.int32)
            shifted = np.where(present[:, 1:], tokens[:, :-1], config.pad_id)
            mask = None
            if config.decoder_only:
                mask = np.concatenate([batch.tokens != config.pad_id, present[:, 1:]], axis=1)
            forced.append(Forced(batch.tokens, np.concatenate([before, shifted], axis=1), mask, tokens, present, batch.rows))
    return forced
