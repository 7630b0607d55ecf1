"""Teacher forcing on the full model's own outputs: what it said, fed back to it in parallel."""

from typing import NamedTuple

import numpy as np

from calm_jax.data.windows import decode_windows


class Forced(NamedTuple):
    """source: int32 [B, S]; decoder_input, tokens: int32 [B, T], the full model's output shifted right and as it is;
    present: bool [B, T], where it has a token; rows: int [B], input indices, −1 for a row that fills up the batch."""

    source: np.ndarray
    decoder_input: np.ndarray
    tokens: np.ndarray
    present: np.ndarray
    rows: np.ndarray


def unwatched(iterable, description, **_):
    """In the place of a progress bar where nobody looks."""
    return iterable


def teacher_forced(
        model, texts, max_new_tokens, max_source_length, batch_size, plan=None, progress=unwatched) -> list[Forced]:
    """Decodes the texts without exits, within a plan if there is one; returns them in batches with their outputs.

    progress: as `calm_jax.progress.progress`, to show how far it is.
    """
    config = model.config
    settings = {'max_new_tokens': max_new_tokens, 'max_source_length': max_source_length, 'batch_size': batch_size}
    decoded = progress(model.stream(texts, plan=plan, **settings), 'decoding', total=len(texts), unit='examples')
    outputs = [output.tokens for output in decoded]
    sources = (model.tokenizer.encode(text) for text in texts)
    forced = []
    for window in decode_windows(sources, batch_size, max_source_length=max_source_length, pad_id=config.pad_id,
                                 eos_id=config.eos_id):
        for batch in window:
            tokens = np.full((batch_size, max_new_tokens), config.pad_id, np.int32)
            present = np.zeros(tokens.shape, bool)
            for row, index in enumerate(batch.rows.tolist()):
                if index >= 0:
                    tokens[row, :len(outputs[index])] = outputs[index]
                    present[row, :len(outputs[index])] = True
            shifted = np.concatenate([np.full((batch_size, 1), config.decoder_start_id, np.int32), tokens[:, :-1]], axis=1)
            forced.append(Forced(batch.tokens, np.where(present, shifted, config.pad_id), tokens, present, batch.rows))
    return forced
