"""The demonstration's tokenizer: one unigram model for both languages, digits apart."""

import io
import os
from collections.abc import Iterable

import sentencepiece

from calm_jax.data.tokenizers import SentencePieceTokenizer

VOCAB_SIZE = 640


def train(texts: Iterable[str], directory: str | os.PathLike) -> SentencePieceTokenizer:
    """Trains a unigram model (Kudo, 2018) of VOCAB_SIZE pieces and saves it in a folder.

    Every digit is a piece of its own, so that the two languages spell a number alike wherever they group it. Pad is 0,
    end-of-sequence 1, unknown 2; texts are taken as they are. One thread: the same texts give the same bytes.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type='unigram', vocab_size=VOCAB_SIZE,
        character_coverage=1.0, split_digits=True, normalization_rule_name='identity', pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    tokenizer = SentencePieceTokenizer(model.getvalue())
    tokenizer.save(directory)
    return tokenizer
