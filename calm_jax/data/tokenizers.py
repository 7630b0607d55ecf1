"""Tokenizers: text to ids and back. Each kind is a class that knows the file it is stored in."""

import hashlib
import io
import itertools
import json
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import tokenizers

from calm_jax.files import read_json, write_json


class Tokenizer(Protocol):
    """What the library asks of a tokenizer.

    A class becomes loadable by `load_tokenizer` when it also has `FILES` (the file names that mark a folder as
    holding one, all of which must be there) and `load(directory)`, and is listed in `_KINDS`.
    """

    vocab_size: int
    pad_id: int
    eos_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without an end-of-sequence id."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids before the first end-of-sequence; never raises: ids without a text are dropped."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One printable string for each id, to be shown side by side; spaces are spaces."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides the ids of a text."""
        ...

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the files that `load_tokenizer(directory)` reads."""


class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson, 2018), with the `extra_ids` sentinels of span-corruption pretraining.

    Sentinel n, written `<extra_id_n>`, has the id `pieces + extra_ids - 1 − n` (Raffel et al., 2020: they count down
    from the last id); its text encodes to that id and the id decodes to its text. Models often have a few more output
    ids than the tokenizer has pieces (a multiple of 128): those decode to nothing and show as `<id>`.

    Stored as `spiece.model`, the model's own bytes, and the number of sentinels as `extra_ids` in
    `tokenizer_config.json`.
    """

    FILES = ('spiece.model',)

    def __init__(self, model: bytes, extra_ids: int = 0):
        self.model = model
        self.extra_ids = extra_ids
        sentinels = b''.join(_user_defined_piece(f'▁<extra_id_{n}>') for n in reversed(range(extra_ids)))
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            # Protocol buffers concatenate: pieces appended to the bytes are appended to the model's list of pieces.
            self._processor.LoadFromSerializedProto(model + sentinels)
        except RuntimeError:
            raise ValueError(f'not a SentencePiece model ({len(model)} bytes)') from None
        self.vocab_size: int = self._processor.vocab_size()
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
        extra_ids = _extra_ids(Path(directory) / 'tokenizer_config.json', 100)
        try:
            return cls(path.read_bytes(), extra_ids)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([i for i in _before_end(ids, self.eos_id) if self._has_text(i)])

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
        path = directory / 'tokenizer_config.json'
        write_json(path, {**_settings(path), 'extra_ids': self.extra_ids})

    def _has_text(self, token: int) -> bool:
        return 0 <= token < self.vocab_size and token not in self._silent


class PromptSentencePieceTokenizer(SentencePieceTokenizer):
    """A SentencePiece model whose texts start with its beginning of sequence, as some decoders alone want them.

    Stored as `tokenizer.model`.
    """

    FILES = ('tokenizer.model',)

    def __init__(self, model: bytes):
        super().__init__(model)
        self._start = self._processor.bos_id()
        if self._start < 0:
            raise ValueError('the SentencePiece model has no beginning of sequence')
        if self._processor.pad_id() < 0:
            self.pad_id = -1

    @classmethod
    def load(cls, directory: str | os.PathLike) -> 'PromptSentencePieceTokenizer':
        """From a folder."""
        path = Path(directory) / cls.FILES[0]
        try:
            return cls(path.read_bytes())
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None

    def encode(self, text: str) -> list[int]:
        return [self._start, *super().encode(text)]

    def fingerprint(self) -> str:
        return hashlib.sha256(self.model + b'after the beginning').hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / self.FILES[0]).write_bytes(self.model)


class ByteTokenizer:
    """Bytes of UTF-8 as ids: `id = byte + 3`, after pad 0, end-of-sequence 1 and unknown 2 (Xue et al., 2022).

    `extra_ids` more ids follow the 256 bytes (published models have 125); they have no text. Bytes that are not
    UTF-8, as a sequence cut inside a character ends in, decode to U+FFFD. Stored as `byte_tokenizer.json`.
    """

    FILES = ('byte_tokenizer.json',)
    OFFSET = 3

    def __init__(self, extra_ids: int = 0):
        self.extra_ids = extra_ids
        self.vocab_size = self.OFFSET + 256 + extra_ids
        self.pad_id, self.eos_id = 0, 1

    @classmethod
    def load(cls, directory: str | os.PathLike) -> 'ByteTokenizer':
        """From a folder."""
        return cls(_extra_ids(Path(directory) / cls.FILES[0], 0))

    def encode(self, text: str) -> list[int]:
        return [byte + self.OFFSET for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        values = (i - self.OFFSET for i in _before_end(ids, self.eos_id))
        return bytes(value for value in values if 0 <= value < 256).decode(errors='replace')

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._piece(int(i)) for i in ids]

    def _piece(self, token: int) -> str:
        special = {0: '<pad>', 1: '</s>', 2: '<unk>'}
        byte = token - self.OFFSET
        if token in special:
            return special[token]
        if 32 <= byte < 127:
            return chr(byte)
        return f'<0x{byte:02X}>' if 0 <= byte < 256 else f'<{token}>'

    def fingerprint(self) -> str:
        return hashlib.sha256(b'bytes+%d extra_ids=%d' % (self.OFFSET, self.extra_ids)).hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / self.FILES[0], {'extra_ids': self.extra_ids})


class JsonTokenizer:
    """Whatever `tokenizer.json` describes (the format of the tokenizers library): byte-level pairs, unigrams, words.

    Ids of a text come with what the file puts before it (`<s>`), and without the end of sequence that it may put after.
    Stored as `tokenizer.json`; its `tokenizer_config.json` names the tokens that end and pad.
    """

    FILES = ('tokenizer.json',)

    def __init__(self, tokenizer: tokenizers.Tokenizer, eos_token: str, pad_token: str | None = None):
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.eos_token, self.pad_token = eos_token, pad_token
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        names = dict.fromkeys(name for name in (eos_token, pad_token) if name is not None)
        ids = {name: number for name in names if (number := tokenizer.token_to_id(name)) is not None}
        if missing := [name for name in names if name not in ids]:
            raise ValueError(f'{", ".join(missing)} is not in the vocabulary')
        self.eos_id: int = ids[eos_token]
        self.pad_id: int = -1 if pad_token is None or pad_token == eos_token else ids[pad_token]

    @classmethod
    def load(cls, directory: str | os.PathLike) -> 'JsonTokenizer':
        """From a folder. The tokens that end and pad are those that its settings name."""
        directory = Path(directory)
        path = directory / cls.FILES[0]
        try:
            return cls(tokenizers.Tokenizer.from_str(path.read_text(encoding='utf-8')), *_ending_and_padding(directory))
        except Exception as error:  # The library raises bare exceptions.
            raise ValueError(f'{path}: {" ".join(str(error).split())}') from None

    def encode(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text).ids
        return ids[:-1] if len(ids) > 1 and ids[-1] == self.eos_id else ids

    def decode(self, ids: Sequence[int]) -> str:
        known = [i for i in _before_end(ids, self.eos_id) if 0 <= i < self.vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=True)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._piece(int(i)) for i in ids]

    def _piece(self, token: int) -> str:
        name = self._tokenizer.id_to_token(token) if token >= 0 else None
        if name is None:
            return f'<{token}>'
        if isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel) and all(each in _BYTES for each in name):
            return bytes(_BYTES[each] for each in name).decode(errors='replace')
        return name.replace('▁', ' ')

    def fingerprint(self) -> str:
        named = json.dumps([self.eos_token, self.pad_token])
        return hashlib.sha256((self._tokenizer.to_str() + named).encode()).hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / self.FILES[0]).write_text(self._tokenizer.to_str(pretty=True) + '\n', encoding='utf-8')
        path = directory / 'tokenizer_config.json'
        named = {'eos_token': self.eos_token, **({} if self.pad_token is None else {'pad_token': self.pad_token})}
        settings = {'tokenizer_class': 'PreTrainedTokenizerFast', **_settings(path), **named}
        write_json(path, settings)


class BytePairTokenizer(JsonTokenizer):
    """Byte-level pairs (Radford et al. 2019) as `vocab.json` and `merges.txt`; stored as `tokenizer.json`."""

    FILES = ('vocab.json', 'merges.txt')

    @classmethod
    def load(cls, directory: str | os.PathLike, special: tuple[str | None, str, str | None] = (None, '<|endoftext|>', None)):
        """A JsonTokenizer from a folder. special: the tokens that start, end and pad a text, as the model's family has them;
        what `tokenizer_config.json` says wins, and tokens that the vocabulary lacks are none."""
        directory = Path(directory)
        paths = [str(directory / name) for name in cls.FILES]
        try:
            model = tokenizers.models.BPE.from_file(*paths)
        except Exception as error:  # The library raises bare exceptions.
            raise ValueError(f'{paths[0]}: {" ".join(str(error).split())}') from None
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        settings = _settings(directory / 'tokenizer_config.json')
        start, end, pad = special
        end, pad = _token(settings, 'eos_token') or end, _token(settings, 'pad_token') or pad
        if settings.get('add_bos_token'):
            start = _token(settings, 'bos_token') or start
        start, pad = (name if name and tokenizer.token_to_id(name) is not None else None for name in (start, pad))
        named = dict.fromkeys(name for name in (start, pad, end, '<unk>', '<mask>') if name)
        tokenizer.add_special_tokens(
            [tokenizers.AddedToken(name, special=True) for name in named if tokenizer.token_to_id(name) is not None]
        )
        if start is not None:
            tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
                single=f'{start} $A', special_tokens=[(start, tokenizer.token_to_id(start))]
            )
        try:
            return JsonTokenizer(tokenizer, end, pad)
        except ValueError as error:
            raise ValueError(f'{paths[0]}: {error}') from None


def _ending_and_padding(directory):
    """The tokens that end and pad, as the settings beside a tokenizer name them. ValueError where none ends."""
    named = {}
    for name in ('special_tokens_map.json', 'tokenizer_config.json'):
        settings = _settings(directory / name)
        named |= {key: token for key in ('eos_token', 'pad_token') if (token := _token(settings, key)) is not None}
    if 'eos_token' not in named:
        raise ValueError('no eos_token in tokenizer_config.json or special_tokens_map.json beside it: what ends a text?')
    return named['eos_token'], named.get('pad_token')


def _token(settings, key):
    """A token by its role; published as a text, or as an object that holds it."""
    token = settings.get(key)
    return token.get('content') if isinstance(token, dict) else token


def _byte_characters():
    """{character: byte} of byte-level vocabularies: printable bytes stand for themselves, the others for U+0100 and on."""
    printable = [*range(ord('!'), ord('~') + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_characters()
_KINDS = (SentencePieceTokenizer, ByteTokenizer, JsonTokenizer, PromptSentencePieceTokenizer, BytePairTokenizer)


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
    """The tokenizer stored in a folder, its kind told by its files.

    Raises FileNotFoundError for a folder that is not there or holds no tokenizer, listing the files looked for, and
    ValueError for a file that cannot be read as one.
    """
    return kind_of(directory).load(directory)


def kind_of(directory: str | os.PathLike) -> type:
    """The class of the tokenizer that a folder holds. Raises FileNotFoundError as `load_tokenizer`."""
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f'{directory} is not a folder: expected one that holds a tokenizer')
    for kind in _KINDS:
        if all((directory / name).is_file() for name in kind.FILES):
            return kind
    wanted = ', or '.join(' with '.join(kind.FILES) for kind in _KINDS)
    raise FileNotFoundError(f'no tokenizer in {directory}: looked for {wanted}')


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
    write_json(output_path.parent / 'tokenizer_config.json', {'extra_ids': 0})
    return tokenizer


def _before_end(ids: Sequence[int], eos_id: int) -> list[int]:
    ids = [int(i) for i in ids]
    return ids[: ids.index(eos_id)] if eos_id in ids else ids


def _user_defined_piece(text: str) -> bytes:
    """One entry of `ModelProto.pieces`: piece (field 1), score 0 (field 2, float), type USER_DEFINED = 4 (field 3)."""
    name = text.encode()
    body = b'\x0a' + bytes([len(name)]) + name + b'\x15' + struct.pack('<f', 0.0) + b'\x18\x04'
    return b'\x0a' + bytes([len(body)]) + body


def _extra_ids(path: Path, default: int) -> int:
    found = _settings(path).get('extra_ids', default)
    if not isinstance(found, int) or found < 0:
        raise ValueError(f'{path}: "extra_ids" is {json.dumps(found)}; expected a whole number of 0 or more')
    return found


def _settings(path: Path) -> dict:
    """The settings in a file; none where there is no file."""
    return read_json(path) if path.is_file() else {}
