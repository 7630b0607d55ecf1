"""Tokenizers as they are published: vocabulary files and settings, of which a pipeline is made."""

import copy
import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers

from calm_jax.data.tokenizers.chat import ChatTemplate
from calm_jax.data.tokenizers.pipelines import BYTES, SPACE, pipeline, vocabulary_files
from calm_jax.data.tokenizers.settings import ROLES, SETTINGS, TOKENS, Settings, contents, describe, read_settings
from calm_jax.data.tokenizers.tokenizer import Tokenizer
from calm_jax.files import write_json

_SENTINEL = re.compile(r'▁?<extra_id_\d+>')  # special, and yet a part of the text
_PROBES = ('a', '0', '.')  # texts that any vocabulary spells in some way
# What transformers makes of the spaces in a text of words when `clean_up_tokenization_spaces` asks for it, in this order.
_CLEANED = {f' {mark}': mark for mark in '.?!,'} | {" ' ": "'"} | {f' {end}': end for end in ("n't", "'m", "'s", "'ve", "'re")}


class PublishedTokenizer:
    """A published tokenizer: ids of a text, and text of ids, are those of transformers.

    files: the vocabulary, {name: content}; none for bytes. settings: what stands beside it. encodes: whether the model encodes
    its source, and so wants no end of sequence of `encode`; None for what the settings say.

    Special tokens that stand in a text are their ids. Their ids have no text, but for sentinels, `<extra_id_0>`, which are what
    a model that fills gaps says. Stored as the same files, the settings as one `tokenizer_config.json`.
    """

    def __init__(self, files: dict[str, bytes], settings: Settings, encodes: bool | None = None):
        self.files = files
        self._tokenizer = pipeline(files, settings)
        self._added = self._tokenizer.get_added_tokens_decoder()
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size: int = 1 + max(ids)
        self.base_size: int = 1 + max(filter(lambda number: number not in self._added, ids), default=-1)
        self.eos_token, self.pad_token = settings.token('eos_token'), settings.token('pad_token')
        self.eos_id: int = self._id(self.eos_token)
        self.pad_id: int = -1 if self.pad_token == self.eos_token else self._id(self.pad_token)
        self.start_ids, self._behind = _around(self._tokenizer)
        ends = bool(self._behind) and self._behind[-1] == self.eos_id
        if encodes is False and ends:
            settings = dataclasses.replace(settings, fields={**settings.fields, 'add_eos_token': True})
        self.settings = settings
        self._around_by_pipeline = True
        self._dropped = len(self._behind)  # of what the pipeline gives
        if ends and (settings.kind.encodes or not settings.flag('add_eos_token', False)):
            self._behind = self._behind[:-1]
        self.end_ids = self._behind
        self.truncation_side = 'left' if settings.fields.get('truncation_side') == 'left' else 'right'
        self._silent = {
            number for number, token in self._added.items() if token.special and not _SENTINEL.fullmatch(token.content)
        }

    @classmethod
    def load(cls, directory: str | os.PathLike) -> 'PublishedTokenizer':
        """From a folder."""
        return read_published(directory)

    @property
    def extra_ids(self) -> int:
        """The sentinels behind the vocabulary."""
        return self.settings.extra_ids

    @property
    def chat(self) -> ChatTemplate | None:
        return self._chat

    @functools.cached_property
    def _chat(self):
        template = self.settings.fields.get('chat_template')
        tokens = {role: token for role in ROLES if (token := self.settings.token(role)) is not None}
        return None if template is None else ChatTemplate.read(template, tokens)

    @property
    def languages(self) -> Mapping[str, Tokenizer]:
        return self._languages

    @functools.cached_property
    def _languages(self):
        codes = {code: number for code in self.settings.kind.languages if (number := self._id(code)) >= 0}
        return {code: self._in_language(number) for code, number in codes.items()}

    def _in_language(self, number: int) -> 'PublishedTokenizer':
        """The tokenizer of texts in the language with this token."""
        own, other = self._id(self.settings.language), copy.copy(self)
        sides = ([number if each == own else each for each in side] for side in (self.start_ids, self.end_ids))
        other.start_ids, other.end_ids = map(tuple, sides)
        other._around_by_pipeline = False
        return other

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        if not add_special:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self._around_by_pipeline:
            return [*self.start_ids, *self.encode(text, add_special=False), *self.end_ids]
        ids = self._tokenizer.encode(text).ids
        return ids[: len(ids) - self._dropped] + list(self._behind)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        # A space put before a text spells none of its characters, whichever it is told to lie on.
        blank = [not piece.strip() for piece in self.pieces(encoded.ids)]
        inner = [(a, a) if spells_nothing else (a, b) for spells_nothing, (a, b) in zip(blank, encoded.offsets)]
        return [*[(0, 0)] * len(self.start_ids), *inner, *[(0, 0)] * len(self.end_ids)]

    def decode(self, ids: Sequence[int]) -> str:
        spoken = [i for i in map(int, ids) if 0 <= i < self.vocab_size and i not in self._silent]
        text = self._tokenizer.decode(spoken, skip_special_tokens=False) if self.files else self._decode_bytes(spoken)
        merged = isinstance(self._tokenizer.model, tokenizers.models.BPE) and self.files
        if not merged and self.settings.flag('clean_up_tokenization_spaces', False):
            for spaced, cleaned in _CLEANED.items():
                text = text.replace(spaced, cleaned)
        return text

    def _decode_bytes(self, ids):
        names = ((i in self._added, self._tokenizer.id_to_token(i) or '') for i in ids)
        return b''.join(name.encode() if added else bytes([BYTES[name]]) for added, name in names).decode(errors='ignore')

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._piece(int(i)) for i in ids]

    def _piece(self, token):
        name = self._tokenizer.id_to_token(token) if token >= 0 else None
        if name is None:
            return f'<{token}>'
        bytewise = isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel) and token not in self._added
        if bytewise and all(each in BYTES for each in name):
            return bytes(BYTES[each] for each in name).decode(errors='replace')
        return name.replace(SPACE, ' ')

    def fingerprint(self) -> str:
        cleaned = self.settings.flag('clean_up_tokenization_spaces', False)
        template = self.settings.fields.get('chat_template')
        told = json.dumps([self.eos_token, self.pad_token, self._behind, cleaned, self.truncation_side, template])
        return hashlib.sha256((self._tokenizer.to_str() + told).encode()).hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)
        kind = self.settings.kind
        tokens = {role: token for role, token in kind.tokens.items() if self._tokenizer.token_to_id(token) is not None}
        defaults = {**tokens, **kind.stated, **({'extra_ids': kind.extra_ids} if kind.extra_ids else {})}
        added = {str(number): describe(token) for number, token in sorted(self._added.items())}
        fields = {name: contents(value) if name in TOKENS else value for name, value in self.settings.fields.items()}
        write_json(directory / SETTINGS, {**defaults, **fields, 'added_tokens_decoder': added}, sort_keys=True)

    def publish(self, directory: str | os.PathLike) -> None:
        self.save(directory)

    def _id(self, token):
        number = None if token is None else self._tokenizer.token_to_id(token)
        return -1 if number is None else number


def read_published(
    directory: str | os.PathLike, class_name: str | None = None, encodes: bool | None = None
) -> PublishedTokenizer:
    """The tokenizer that a folder publishes.

    class_name: the class, where the folder names none. encodes: whether the model encodes its source.

    Raises FileNotFoundError where no vocabulary is there, ValueError for files that are damaged or do not belong together.
    """
    directory = Path(directory)
    settings = read_settings(directory, class_name)
    try:
        names = vocabulary_files([path.name for path in directory.iterdir()], settings)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'no tokenizer in {directory}: {error}') from None
    try:
        return PublishedTokenizer({name: (directory / name).read_bytes() for name in names}, settings, encodes)
    except ValueError as error:
        raise ValueError(f'{directory / str(error)}') from None


def _around(made: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids before and behind the ids of any text."""
    for probe in _PROBES:
        inner, whole = (made.encode(probe, add_special_tokens=special).ids for special in (False, True))
        for start in range(len(whole) - len(inner) + 1) if inner else ():
            if whole[start : start + len(inner)] == inner:
                return tuple(whole[:start]), tuple(whole[start + len(inner) :])
    return tuple(made.encode('').ids), ()
