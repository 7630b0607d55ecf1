"""The classes that tokenizers are published under, and what each takes for granted: facts of transformers."""

import dataclasses
from collections.abc import Mapping

WORDS, WHOLE = 'words', 'whole'  # how a class cuts a text before it looks for the pieces of SentencePiece


@dataclasses.dataclass(frozen=True)
class TokenizerClass:
    """What a class of transformers is where its settings say nothing.

    tokens: special ones by role. extra_ids: sentinels behind the vocabulary. start, end: whether a text gets them. encodes:
    whether it is of models that encode their source, which ends in any case. layout: of a SentencePiece model; None where the
    class numbers its pieces in ways of its own, or has none. bytewise: whether the vocabulary is bytes, without a file.
    spaced_beside: whether its settings say, and not tokenizer.json, that a text begins with a space. stated: settings that are
    always written, as versions of transformers do not agree on what they are else.
    """

    tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra_ids: int = 0
    start: bool = False
    end: bool = False
    encodes: bool = False
    layout: str | None = None
    bytewise: bool = False
    spaced_beside: bool = False
    stated: Mapping[str, bool] = dataclasses.field(default_factory=dict)


_ENDS = {'eos_token': '</s>', 'unk_token': '<unk>'}
_PADDED = {**_ENDS, 'pad_token': '<pad>'}
_MASKED = {**_PADDED, 'bos_token': '<s>', 'sep_token': '</s>', 'cls_token': '<s>', 'mask_token': '<mask>'}
_ROBERTA = TokenizerClass(_MASKED, start=True, end=True, encodes=True, spaced_beside=True)
_T5 = TokenizerClass(_PADDED, extra_ids=100, end=True, encodes=True, layout=WORDS)
# By name, without the `Fast` that one may end in.
_CLASSES = {
    'T5Tokenizer': _T5,
    'MT5Tokenizer': _T5,
    'ByT5Tokenizer': TokenizerClass(_PADDED, extra_ids=125, end=True, encodes=True, bytewise=True),
    'RobertaTokenizer': _ROBERTA,
    'BartTokenizer': _ROBERTA,
    'LlamaTokenizer': TokenizerClass(
        {**_ENDS, 'bos_token': '<s>'},
        start=True,
        layout=WHOLE,
        stated={'add_bos_token': True, 'add_eos_token': False, 'legacy': False},
    ),
    'GPT2Tokenizer': TokenizerClass(
        dict.fromkeys(('bos_token', 'eos_token', 'unk_token'), '<|endoftext|>'), spaced_beside=True
    ),
}
BYTES, PIECES, PAIRS, DESCRIBED = 'ByT5Tokenizer', 'LlamaTokenizer', 'GPT2Tokenizer', 'PreTrainedTokenizerFast'


def class_of(name: str) -> TokenizerClass:
    """The class of that name; one that takes nothing for granted, where it is not known, and tokenizer.json says all."""
    return _CLASSES.get(name.removesuffix('Fast'), TokenizerClass())
