"""Vocabularies of SentencePiece's own processor: trained here, or read beside checkpoints of t5x."""

import hashlib
import io
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sentencepiece

from calm_jax.data.tokenizers.piece_model import parse, user_defined_piece
from calm_jax.data.tokenizers.pipelines import JSON, of_pieces
from calm_jax.data.tokenizers.settings import SETTINGS, number_of_extra_ids
from calm_jax.data.tokenizers.tokenizer import before_end
from calm_jax.files import read_json, write_json


class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson, 2018), with the `extra_ids` sentinels of span-corruption pretraining.

    Sentinel n, written `<extra_id_n>`, has the id `pieces + extra_ids - 1 − n` (Raffel et al., 2020: they count down
    from the last id); its text encodes to that id and the id decodes to its text. Models often have a few more output
    ids than the tokenizer has pieces (a multiple of 128): those decode to nothing and show as `<id>`.

    Stored as `spiece.model`, the model's own bytes, and the number of sentinels as `extra_ids` in
    `tokenizer_config.json`.
    """

    FILES = ('spiece.model',)
    start_ids = end_ids = ()
    truncation_side = 'right'
    chat = None
    languages = MappingProxyType({})

    def __init__(self, model: bytes, extra_ids: int = 0):
        self.model = model
        self.extra_ids = extra_ids
        sentinels = b''.join(user_defined_piece(f'▁<extra_id_{n}>') for n in reversed(range(extra_ids)))
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            # Protocol buffers concatenate: pieces appended to the bytes are appended to the model's list of pieces.
            self._processor.LoadFromSerializedProto(model + sentinels)
        except RuntimeError:
            raise ValueError(f'not a SentencePiece model ({len(model)} bytes)') from None
        self.vocab_size: int = self._processor.vocab_size()
        self.base_size: int = self.vocab_size
        self.eos_id: int = self._processor.eos_id()
        if self.eos_id < 0:
            raise ValueError('the SentencePiece model has no end-of-sequence piece: train it with eos_id=1')
        self.pad_id: int = max(self._processor.pad_id(), 0)
        self._silent = {self._processor.pad_id(), self._processor.bos_id(), self.eos_id}

    @classmethod
    def load(cls, directory: str | os.PathLike) -> 'SentencePieceTokenizer':
        """From a folder. Without `tokenizer_config.json`, or without `extra_ids` in it, there are 100 sentinels, as
        in the published models that store a `spiece.model`."""
        path = Path(directory) / cls.FILES[0]
        extra_ids = number_of_extra_ids(Path(directory) / SETTINGS, 100)
        try:
            return cls(path.read_bytes(), extra_ids)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        return self._processor.encode(text)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        encoded: Any = self._processor.encode(text, out_type='proto')
        # Told in bytes of UTF-8.
        character = [place for place, each in enumerate(text) for _ in each.encode()] + [len(text)]
        return [(character[piece.begin], character[piece.end]) for piece in encoded.pieces]

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([i for i in before_end(ids, self.eos_id) if self._has_text(i)])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._piece(int(i)) for i in ids]

    def _piece(self, token: int) -> str:
        if 0 <= token < self.vocab_size:
            return self._processor.id_to_piece(token).replace('▁', ' ')
        return f'<{token}>'

    def fingerprint(self) -> str:
        return hashlib.sha256(self.model + b'extra_ids=%d' % self.extra_ids).hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / self.FILES[0]).write_bytes(self.model)
        path = directory / SETTINGS
        settings = read_json(path) if path.is_file() else {}
        write_json(path, {**settings, 'extra_ids': self.extra_ids})

    def publish(self, directory: str | os.PathLike) -> None:
        """As a pipeline with the same ids: T5's class would take the text for words, and bytes for nothing."""
        of_pieces(parse(self.model), self.extra_ids, self.eos_id).save(str(Path(directory) / JSON[0]))
        special = {'eos_token': self.eos_id, 'unk_token': self._processor.unk_id(), 'pad_token': self._processor.pad_id()}
        named = {role: self._processor.id_to_piece(number) for role, number in special.items() if number >= 0}
        write_json(Path(directory) / SETTINGS, {'tokenizer_class': 'PreTrainedTokenizerFast', **named})

    def _has_text(self, token: int) -> bool:
        return 0 <= token < self.vocab_size and token not in self._silent


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    output_path: str | os.PathLike,
    seed: int = 0,
    byte_fallback: bool = True,
    character_coverage: float = 1.0,
) -> SentencePieceTokenizer:
    """Trains a unigram model (Kudo, 2018) with pad 0, end-of-sequence 1, unknown 2, no beginning, and no sentinels.

    Text is taken as it is: no normalisation, runs of spaces kept. With `byte_fallback`, characters outside the
    vocabulary are spelled in bytes, so every text without U+2581 (the piece of a space) round-trips. Writes the model
    at `output_path` (name it `spiece.model`) and `tokenizer_config.json` beside it, so that `load_tokenizer` reads
    the folder. The same texts, in the same order, give the same bytes.

    Raises ValueError where the texts cannot fill a vocabulary of that size, need a larger one, or are empty.
    """
    output_path = Path(output_path)
    output_path.parent.mkdir(parents=True, exist_ok=True)
    lines = (line for text in texts for line in text.split('\n') if line)
    first = next(lines, None)
    if first is None:
        raise ValueError('cannot train a vocabulary on no text')
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], lines),
            model_writer=model,
            model_type='unigram',
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=byte_fallback,
            normalization_rule_name='identity',
            remove_extra_whitespaces=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=2,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = ' '.join(str(error).split()).rpartition('] ')[2]
        raise ValueError(f'cannot train a vocabulary of {vocab_size} pieces: {reason}') from None
    tokenizer = SentencePieceTokenizer(model.getvalue())
    output_path.write_bytes(tokenizer.model)
    write_json(output_path.parent / SETTINGS, {'extra_ids': 0})
    return tokenizer
