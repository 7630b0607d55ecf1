"""What a SentencePiece file says: its pieces, and how it makes a text ready for them."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # `ModelProto.SentencePiece.Type`
_UNIGRAM = 1  # `TrainerSpec.ModelType`
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types of protocol buffers


class Piece(NamedTuple):
    """One entry of the vocabulary; its place is its id."""

    text: str
    score: float
    type: int


class PieceModel(NamedTuple):
    """A `ModelProto` of sentencepiece_model.proto, as far as it decides the ids of a text.

    unigram: whether the likeliest pieces are taken, or else pairs merged by their scores. charsmap: the compiled normalisation
    rule, empty for none. add_dummy_prefix: whether a text begins with a space. remove_extra_whitespaces: whether spaces at its
    ends go, and runs of them become one. byte_fallback: whether what no piece spells is spelled in bytes.
    """

    pieces: tuple[Piece, ...]
    unigram: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    byte_fallback: bool

    @property
    def unknown_id(self) -> int:
        """The piece of what no piece spells."""
        return next((place for place, piece in enumerate(self.pieces) if piece.type == UNKNOWN), 0)

    def merges(self) -> list[tuple[str, str]]:
        """Every pair of pieces that makes a third, the earliest such piece first, of shorter beginnings before longer ones."""
        ids = {piece.text: place for place, piece in enumerate(self.pieces)}
        normal = ((place, piece.text) for place, piece in enumerate(self.pieces) if piece.type == NORMAL)
        pairs = (
            (place, text[:split], text[split:])
            for place, text in normal
            for split in range(1, len(text))
            if text[:split] in ids and text[split:] in ids
        )
        ranked = sorted(pairs, key=lambda pair: (pair[0], len(pair[1]), ids[pair[1]]))
        return [(left, right) for _, left, right in ranked]


def parse(model: bytes) -> PieceModel:
    """The model in the bytes of a SentencePiece file. Raises ValueError for what is none."""
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for number, value in _fields(model):
            if number == 1 and isinstance(value, bytes):
                piece = dict(_fields(value))
                score = struct.unpack('<f', _bytes(piece.get(2, bytes(4))))[0]
                pieces.append(Piece(_bytes(piece[1]).decode(), score, int(piece.get(3, NORMAL))))
            elif number in (2, 3) and isinstance(value, bytes):
                (trainer if number == 2 else normalizer).update(_fields(value))
    except (IndexError, KeyError, ValueError, TypeError, struct.error):
        raise ValueError(f'not a SentencePiece model ({len(model)} bytes)') from None
    if not pieces:
        raise ValueError(f'not a SentencePiece model ({len(model)} bytes)')
    return PieceModel(
        tuple(pieces),
        unigram=trainer.get(3, _UNIGRAM) == _UNIGRAM,
        charsmap=_bytes(normalizer.get(2, b'')),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        byte_fallback=any(piece.type == BYTE for piece in pieces),
    )


def user_defined_piece(text: str) -> bytes:
    """One entry of `ModelProto.pieces`, to be appended to a model: piece (1), score 0 (2, float), type (3)."""
    name = text.encode()
    body = b'\x0a' + bytes([len(name)]) + name + b'\x15' + struct.pack('<f', 0.0) + b'\x18' + bytes([USER_DEFINED])
    return b'\x0a' + bytes([len(body)]) + body


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protocol buffer, one after the other; numbers of fixed size as their bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == _LENGTH:
            length, place = _varint(message, place)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f'wire type {wire}')
        if place + length > len(message):
            raise ValueError('cut short')
        yield number, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The number that begins at a place, seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[place]
        value, place, shift = value | (byte & 0x7F) << shift, place + 1, shift + 7
        if not byte & 0x80:
            return value, place


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(value)
    return value
