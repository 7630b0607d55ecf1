"""Tokens that a tokenizer has and its model does not embed: a mask, a padding, sentinels that were added to the one alone."""

from collections.abc import Sequence

from calm_jax.data.tokenizers import Tokenizer


def embedded(ids: Sequence[int], tokenizer: Tokenizer, vocab_size: int, where: str = 'a text') -> Sequence[int]:
    """The ids of a text, every one of which a model of `vocab_size` embeds. Raises ValueError, which names `where`, for a text
    that spells another token out."""
    if tokenizer.vocab_size > vocab_size and (beyond := [each for each in ids if each >= vocab_size]):
        (piece,) = tokenizer.pieces(beyond[:1])
        raise ValueError(f'{where} holds {piece!r}, token {beyond[0]}: the tokenizer has it, but the model embeds {vocab_size}')
    return ids
