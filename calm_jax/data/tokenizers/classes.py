"""The classes that tokenizers are published under, and what each takes for granted: facts of transformers."""

import dataclasses
from collections.abc import Mapping

# How a class cuts a text before it looks for the pieces of SentencePiece: at white space, at spaces, not at all.
WORDS, SPACES, WHOLE = 'words', 'spaces', 'whole'
BEFORE, BEHIND = 'before', 'behind'  # where the language of a text stands
LANGUAGE = 'en_XX'  # where none is said


@dataclasses.dataclass(frozen=True)
class TokenizerClass:
    """What a class of transformers is where its settings say nothing.

    tokens: special ones by role. extra_ids: sentinels behind the vocabulary. start, end: whether a text gets them. encodes:
    whether it is of models that encode their source, which ends in any case.
    layout: of a SentencePiece model; None where the class numbers its pieces in ways of its own, or has none. front: what
    stands in the place of the first `replaced` pieces, with its scores; languages, back: special tokens behind the last, codes
    of languages before others. language: where that of a text stands. bytewise: whether the vocabulary is bytes, without a
    file. spaced_beside: whether its settings say, and not tokenizer.json, that a text begins with a space. stated: settings
    that are always written, as versions of transformers do not agree on what they are else.
    """

    tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra_ids: int = 0
    start: bool = False
    end: bool = False
    encodes: bool = False
    layout: str | None = None
    front: tuple[tuple[str, float], ...] = ()
    replaced: int = 0
    back: tuple[str, ...] = ()
    language: str | None = None
    languages: tuple[str, ...] = ()
    bytewise: bool = False
    spaced_beside: bool = False
    stated: Mapping[str, bool | str] = dataclasses.field(default_factory=dict)


_ENDS = {'eos_token': '</s>', 'unk_token': '<unk>'}
_PADDED = {**_ENDS, 'pad_token': '<pad>'}
_MASKED = {**_PADDED, 'bos_token': '<s>', 'sep_token': '</s>', 'cls_token': '<s>', 'mask_token': '<mask>'}
_ROBERTA = TokenizerClass(_MASKED, start=True, end=True, encodes=True, spaced_beside=True)
_T5 = TokenizerClass(_PADDED, extra_ids=100, end=True, encodes=True, layout=WORDS)
_25 = (
    'ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX ro_RO '
    'ru_RU si_LK tr_TR vi_VN zh_CN'
)
_50 = (
    f'{_25} af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN '
    'te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI'
)
_FAIRSEQ = tuple((token, 0.0) for token in ('<s>', '<pad>', '</s>', '<unk>'))
_PEGASUS = (
    *((token, 0.0) for token in ('<pad>', '</s>', '<mask_1>', '<mask_2>')),
    *((f'<unk_{n}>', -100.0) for n in range(2, 103)),
)
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
    'MBartTokenizer': TokenizerClass(
        _MASKED,
        end=True,
        encodes=True,
        layout=WORDS,
        front=_FAIRSEQ,
        replaced=3,
        back=('<mask>',),
        language=BEHIND,
        languages=tuple(_25.split()),
    ),
    'MBart50Tokenizer': TokenizerClass(
        {role: token for role, token in _MASKED.items() if role != 'bos_token'},
        end=True,
        encodes=True,
        layout=SPACES,
        front=_FAIRSEQ,
        replaced=3,
        back=('<mask>',),
        language=BEFORE,
        languages=tuple(_50.split()),
    ),
    'PegasusTokenizer': TokenizerClass(
        {**_PADDED, 'mask_token': '<mask_2>'},
        end=True,
        encodes=True,
        layout=SPACES,
        front=_PEGASUS,
        replaced=2,
        stated={'mask_token_sent': '<mask_1>'},
    ),
    'GPT2Tokenizer': TokenizerClass(
        dict.fromkeys(('bos_token', 'eos_token', 'unk_token'), '<|endoftext|>'), spaced_beside=True
    ),
}
# Names that classes had, and that files still say.
RENAMED = {'LLaMATokenizer': 'LlamaTokenizer'}
BYTES, PIECES, PAIRS, DESCRIBED = 'ByT5Tokenizer', 'LlamaTokenizer', 'GPT2Tokenizer', 'PreTrainedTokenizerFast'


def class_of(name: str) -> TokenizerClass:
    """The class of that name; one that takes nothing for granted, where it is not known, and tokenizer.json says all."""
    return _CLASSES.get(name.removesuffix('Fast'), TokenizerClass())
