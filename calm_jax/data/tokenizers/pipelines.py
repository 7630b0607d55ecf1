"""Pipelines of the tokenizers library, from the files that publish a vocabulary: what normalises a text, cuts it up, finds its
tokens, stands around them, and makes a text of them again.

They lay texts out as transformers 5 does. Of transformers 4, the slow tokenizer of `tokenizer.model` alone differs: it puts a
space before a text that begins with one.
"""

import itertools
import json
from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from calm_jax.data.tokenizers.classes import BEFORE, SPACES, WHOLE, WORDS
from calm_jax.data.tokenizers.piece_model import CONTROL, USER_DEFINED, PieceModel, parse
from calm_jax.data.tokenizers.settings import Settings

SPACE = '▁'  # how SentencePiece writes one
JSON, PAIRS, PIECES = (
    ('tokenizer.json',),
    ('vocab.json', 'merges.txt'),
    ('spiece.model', 'tokenizer.model', 'sentencepiece.bpe.model'),
)


def vocabulary_files(names: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """Which of the files of a folder hold the vocabulary. Raises FileNotFoundError where none does."""
    if settings.kind.bytewise:
        return ()
    kinds = (JSON, *((name,) for name in PIECES), PAIRS)
    for wanted in kinds:
        if set(wanted) <= set(names):
            return wanted
    raise FileNotFoundError(f'looked for {", or ".join(" with ".join(each) for each in kinds)}')


def pipeline(files: Mapping[str, bytes], settings: Settings) -> Tokenizer:
    """The pipeline of a vocabulary, {file name: content}, with its added tokens.

    Raises ValueError for a file that is damaged, a kind that these files do not make, and an added token that would get another
    id than is said.
    """
    names = tuple(files)
    try:
        if not files:
            made = _bytes_alone()
        elif names == JSON:
            made = _described(files[JSON[0]].decode(), settings)
        elif names == PAIRS:
            made = _byte_pairs(files[PAIRS[0]].decode(), files[PAIRS[1]].decode(), settings)
        else:
            made = _sentencepieces(parse(files[names[0]]), settings)
        _add_tokens(made, settings)
        if names != JSON or settings.kind.language:  # else it says itself what stands around a text
            _surround(made, settings)
    except Exception as error:  # The library raises bare exceptions.
        raise ValueError(f'{" with ".join(names) or settings.class_name}: {" ".join(str(error).split())}') from None
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = settings.flag('split_special_tokens', False)
    return made


def of_pieces(model: PieceModel, extra_ids: int, end_id: int) -> Tokenizer:
    """The pipeline that gives the ids of SentencePiece's own processor, with `extra_ids` sentinels counted down to the last,
    and the end of sequence; but special tokens that stand in a text are their ids."""
    sentinels = [(f'{SPACE}<extra_id_{n}>', 0.0) for n in reversed(range(extra_ids))]
    if not model.unigram:
        raise ValueError('a SentencePiece model of merged pairs is published as tokenizer.model alone')
    vocabulary = [(piece.text, piece.score) for piece in model.pieces] + sentinels
    made = Tokenizer(models.Unigram(vocabulary, model.unknown_id, model.byte_fallback))
    steps = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r'\A +| +\z'), ''), normalizers.Replace(Regex(' {2,}'), ' ')]
    steps += [normalizers.Prepend(SPACE)] if model.add_dummy_prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(' ', SPACE)])
    made.decoder = _pieces_decoder(model.add_dummy_prefix)
    made.add_tokens([AddedToken(name, normalized=True, special=False) for name, _ in sentinels])
    made.add_special_tokens([AddedToken(piece.text, normalized=False) for piece in model.pieces if piece.type == CONTROL])
    made.post_processor = processors.TemplateProcessing(
        single=['$A', model.pieces[end_id].text], special_tokens=[(model.pieces[end_id].text, end_id)]
    )
    return made


def _described(content: str, settings: Settings) -> Tokenizer:
    """What a tokenizer.json describes, whatever its class; whether a text of byte-level pairs begins with a space is said
    beside it."""
    made = Tokenizer.from_str(content)
    if settings.kind.spaced_beside and isinstance(made.pre_tokenizer, pre_tokenizers.ByteLevel):
        made.pre_tokenizer.add_prefix_space = settings.flag('add_prefix_space', False)
    return made


def _byte_pairs(vocabulary: str, merges: str, settings: Settings) -> Tokenizer:
    """Byte-level pairs (Radford et al. 2019)."""
    lines = [line for line in merges.splitlines() if line.strip() and not line.startswith('#version')]
    pairs = [(left, right) for left, right in (line.split(' ') for line in lines)]
    made = Tokenizer(models.BPE(json.loads(vocabulary), pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.flag('add_prefix_space', False))
    made.decoder = decoders.ByteLevel()
    return made


def _bytes_alone() -> Tokenizer:
    """Bytes of UTF-8 (Xue et al. 2022), after three special tokens."""
    vocabulary = {'<pad>': 0, '</s>': 1, '<unk>': 2} | {character: 3 + byte for character, byte in BYTES.items()}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, lstrip=True, rstrip=True) for name in ('<pad>', '</s>', '<unk>')])
    return made


def _sentencepieces(model: PieceModel, settings: Settings) -> Tokenizer:
    """A SentencePiece model, in the layout of the class."""
    if settings.kind.layout in (WORDS, SPACES):
        made = _words(model, settings)
    elif settings.kind.layout == WHOLE:
        made = _whole(model, settings)
    else:
        raise ValueError(f'a SentencePiece model of {settings.class_name}; save the tokenizer as tokenizer.json')
    control = [piece.text for piece in model.pieces if piece.type == CONTROL]
    made.add_special_tokens([AddedToken(name, normalized=False) for name in control if made.token_to_id(name) is not None])
    made.add_tokens(
        [AddedToken(piece.text, normalized=False, special=False) for piece in model.pieces if piece.type == USER_DEFINED]
    )
    return made


def _words(model: PieceModel, settings: Settings) -> Tokenizer:
    """The likeliest pieces (Kudo 2018) of each word by itself, special tokens before them, sentinels and others behind."""
    kind = settings.kind
    back = [*(f'<extra_id_{n}>' for n in reversed(range(settings.extra_ids))), *kind.languages, *kind.back]
    pieces = [(piece.text, piece.score) for piece in model.pieces[kind.replaced :]]
    vocabulary = [*kind.front, *pieces, *((token, 0.0) for token in back)]
    unknown = [token for token, _ in vocabulary].index(model.pieces[model.unknown_id].text)
    made = Tokenizer(models.Unigram(vocabulary, unknown, model.byte_fallback))
    if model.charsmap:
        made.normalizer = normalizers.Precompiled(model.charsmap)
    if kind.layout == SPACES:
        steps = [made.normalizer] if made.normalizer else []
        made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(' {2,}'), ' ')])
        made.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme='always', split=True)
    elif model.remove_extra_whitespaces:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme='always', split=True)]
        )
    else:
        steps = [made.normalizer] if made.normalizer else []
        made.normalizer = normalizers.Sequence([*steps, normalizers.Prepend(SPACE), normalizers.Replace(' ', SPACE)])
    made.decoder = (
        _pieces_decoder(True) if model.byte_fallback else decoders.Metaspace(SPACE, prepend_scheme='always', split=True)
    )
    special = [token for token in [*(token for token, _ in kind.front), *back] if token != '<unk>']
    made.add_special_tokens([AddedToken(name, normalized=False, lstrip=name == '<mask>') for name in special])
    return made


def _whole(model: PieceModel, settings: Settings) -> Tokenizer:
    """Pairs merged over all of a text, in the order of the pieces; what none spells is spelled in bytes."""
    prefix = settings.flag('add_prefix_space', True)
    scheme = ('always' if settings.flag('legacy', False) else 'first') if prefix else 'never'
    unknown = model.pieces[model.unknown_id].text
    if model.unigram:
        made = Tokenizer(models.Unigram([(p.text, p.score) for p in model.pieces], model.unknown_id, model.byte_fallback))
    else:
        vocabulary = {piece.text: place for place, piece in enumerate(model.pieces)}
        made = Tokenizer(
            models.BPE(vocabulary, model.merges(), unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback)
        )
    made.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    made.decoder = _pieces_decoder(prefix)
    return made


def _pieces_decoder(prefix: bool) -> decoders.Decoder:
    """Pieces to text, without the space that every text begins with."""
    steps = [decoders.Replace(SPACE, ' '), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(' ', 1, 0)] if prefix else steps)


def _add_tokens(made: Tokenizer, settings: Settings) -> None:
    """Adds the tokens that the settings name, those with an id in its order; what is there already gets their ways."""
    for number, token in sorted(settings.added.items()):
        made.add_special_tokens([token]) if token.special else made.add_tokens([token])
        if (place := made.token_to_id(token.content)) != number:
            raise ValueError(f'the added token {token.content!r} is said to be {number}, and comes to stand at {place}')
    there = {token.content for token in made.get_added_tokens_decoder().values()}
    named = settings.special_tokens(lambda token: made.token_to_id(token) is not None)
    made.add_special_tokens([token for token in named if token.content not in there])
    if settings.kind.bytewise:
        made.add_special_tokens([f'<extra_id_{n}>' for n in range(settings.extra_ids)])


def _surround(made: Tokenizer, settings: Settings) -> None:
    """Puts what the class says around a text: a token that starts it, one that ends it."""
    kind = settings.kind
    start = settings.token('bos_token') if settings.flag('add_bos_token', kind.start) else None
    end = settings.token('eos_token') if settings.flag('add_eos_token', kind.end) else None
    language = settings.language
    last = None if kind.language == BEFORE else language
    start = language if kind.language == BEFORE else start
    around = {token: number for token in (start, end, last) if token and (number := made.token_to_id(token)) is not None}
    parts = [start] * (start in around) + ['$A'] + [end] * (end in around) + [last] * (last in around)
    if around:
        made.post_processor = processors.TemplateProcessing(single=parts, special_tokens=list(around.items()))


def _byte_characters() -> dict[str, int]:
    """{character: byte} of byte-level vocabularies: printable bytes stand for themselves, the others for U+0100 and on."""
    printable = [*range(ord('!'), ord('~') + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = itertools.filterfalse(printable.__contains__, range(256))
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _byte_characters()
