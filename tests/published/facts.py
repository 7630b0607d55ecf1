"""What popular published checkpoints say of themselves: every attribute of their config.json, the settings of their
generation_config.json, how their files name tensors, which further tensors they hold, and how these are stored; of some, what
stands beside their vocabulary.

Facts, written down one by one. `Evidence` says of each part of an entry where it comes from, or that it is unknown: then it
stands here as the family's other files have it. Sizes are the published ones: `build.py` makes tiny checkpoints of the same
form.
"""

from typing import Any, NamedTuple

# What may stand in `Evidence`, in order of strength.
SOURCES = {
    'digest': 'the part, written as such files are, has the SHA-256 of the published file in digests.py: every byte is right',
    'copy': 'a copy of the file in a public repository',
    'saved again': 'copies as later versions of transformers saved them: every value, and every name that these do not add',
    'quoted': 'a log, test, document or issue thread in a public repository that prints the file, or most of it',
    'counted': 'names, shapes and type give the published file its size to the byte, or its index the published SHA-256',
    'survey': 'a public survey that lists sizes and some attributes of the published file',
    'inventory': 'a public inventory lists the files of the model, and such a one is not among them',
    'reference': 'what transformers converts, writes or reads over',
    'unknown': 'not found, and not confirmed',
}


class Evidence(NamedTuple):
    """Where the parts of an entry come from, each a name in SOURCES."""

    config: str
    generation: str
    tensors: str
    tokenizer: str


class Tensors(NamedTuple):
    """How a checkpoint's files hold its tensors.

    prefix: before the names of the bare model's. head: whether `lm_head.weight` is there, and whether it is the embedding once
    more ('copy') or another matrix ('own'). copies: further names of the embedding. buffers: what no model reads, by layer
    ('{i}') or once. without: names that the form leaves out. files: 'safetensors', 'bin', 'shards', 'bin shards', or
    'stale index': one file beside the index of shards that are gone. dtype: as stored.
    """

    prefix: str = ''
    head: str = ''
    copies: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    files: str = 'safetensors'
    dtype: str = 'float32'


class Facts(NamedTuple):
    """A published checkpoint. generation: None where there is no such file, or none is known. tokenizer: {file: what it says},
    of the settings beside the vocabulary, as far as known."""

    name: str
    config: dict[str, Any]
    tensors: Tensors
    generation: dict[str, Any] | None
    evidence: Evidence
    tokenizer: dict[str, dict[str, Any]] = {}


def _t5(width, inner, heads, layers, head_dim=64, **more):
    return {'d_model': width, 'd_ff': inner, 'num_heads': heads, 'num_layers': layers, 'd_kv': head_dim} | more


_SUMMARY_OF_T5 = {
    'summarization': {
        'early_stopping': True,
        'length_penalty': 2.0,
        'max_length': 200,
        'min_length': 30,
        'no_repeat_ngram_size': 3,
        'num_beams': 4,
        'prefix': 'summarize: ',
    },
    'translation_en_to_de': {
        'early_stopping': True,
        'max_length': 300,
        'num_beams': 4,
        'prefix': 'translate English to German: ',
    },
    'translation_en_to_fr': {
        'early_stopping': True,
        'max_length': 300,
        'num_beams': 4,
        'prefix': 'translate English to French: ',
    },
    'translation_en_to_ro': {
        'early_stopping': True,
        'max_length': 300,
        'num_beams': 4,
        'prefix': 'translate English to Romanian: ',
    },
}
_T5 = {
    'architectures': ['T5ForConditionalGeneration'],
    'decoder_start_token_id': 0,
    'dropout_rate': 0.1,
    'eos_token_id': 1,
    'initializer_factor': 1.0,
    'is_encoder_decoder': True,
    'layer_norm_epsilon': 1e-06,
    'model_type': 't5',
    'pad_token_id': 0,
    'relative_attention_num_buckets': 32,
    'vocab_size': 32128,
}
_TASKS = {'task_specific_params': _SUMMARY_OF_T5}
_T5_1_0 = _T5 | _TASKS | {'n_positions': 512, 'output_past': True}
_FIRST = {'architectures': ['T5WithLMHeadModel']}  # the name until 2020
_T5_1_1 = _T5 | {'feed_forward_proj': 'gated-gelu', 'output_past': True, 'tie_word_embeddings': False}
_FLAN = _T5_1_1 | {
    'n_positions': 512,
    'relative_attention_max_distance': 128,
    'transformers_version': '4.23.1',
    'use_cache': True,
}
# What later versions write besides.
_LATER = {'dense_act_fn': 'gelu_new', 'is_gated_act': True, 'torch_dtype': 'float32'}
_GENERATION_T5 = {
    '_from_model_config': True,
    'decoder_start_token_id': 0,
    'eos_token_id': 1,
    'pad_token_id': 0,
    'transformers_version': '4.27.0.dev0',
}
# The first files came with a position bias of the decoder's first cross-attention.
_CROSS = ('decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight',)
_STACKS = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
_T5_FILES = Tensors(buffers=_CROSS)
_T5_PICKLED = Tensors(head='copy', copies=_STACKS, buffers=_CROSS, files='bin')
_UNTIED = Tensors(head='own')
_UNTIED_PICKLED = Tensors(head='own', copies=_STACKS, files='bin')
_UNKNOWN = Evidence('unknown', 'unknown', 'unknown', 'unknown')
_REFERENCE = _UNKNOWN._replace(tensors='reference')

T5 = (
    Facts(
        'google-t5/t5-small',
        _T5_1_0 | _t5(512, 2048, 8, 6),
        _T5_FILES,
        _GENERATION_T5,
        Evidence('digest', 'digest', 'counted', 'unknown'),
    ),
    Facts(
        'google-t5/t5-base',
        _T5_1_0 | _t5(768, 3072, 12, 12),
        _T5_FILES,
        _GENERATION_T5,
        Evidence('digest', 'unknown', 'reference', 'unknown'),
    ),
    Facts(
        'google-t5/t5-large',
        _T5_1_0 | _t5(1024, 4096, 16, 24),
        _T5_FILES,
        _GENERATION_T5,
        Evidence('copy', 'unknown', 'reference', 'unknown'),
    ),
    Facts(
        'google-t5/t5-3b',
        _T5_1_0 | _t5(1024, 16384, 32, 24, 128) | _FIRST,
        _T5_PICKLED,
        _GENERATION_T5,
        Evidence('quoted', 'unknown', 'reference', 'unknown'),
    ),
    Facts('google-t5/t5-11b', _T5_1_0 | _t5(1024, 65536, 128, 24, 128) | _FIRST, _T5_PICKLED, None, _REFERENCE),
    Facts(
        'google/t5-v1_1-small',
        _T5_1_1 | _t5(512, 1024, 6, 8, num_decoder_layers=8),
        _UNTIED_PICKLED,
        _GENERATION_T5,
        _REFERENCE,
    ),
    Facts(
        'google/t5-v1_1-base',
        _T5_1_1 | _t5(768, 2048, 12, 12, num_decoder_layers=12),
        _UNTIED_PICKLED,
        _GENERATION_T5,
        Evidence('quoted', 'unknown', 'reference', 'unknown'),
    ),
    Facts('google/t5-v1_1-xl', _T5_1_1 | _t5(2048, 5120, 32, 24, num_decoder_layers=24), _UNTIED_PICKLED, None, _REFERENCE),
    Facts(
        'google/t5-v1_1-xxl',
        _T5_1_1 | _t5(4096, 10240, 64, 24, num_decoder_layers=24),
        _UNTIED_PICKLED,
        None,
        Evidence('quoted', 'unknown', 'reference', 'unknown'),
    ),
    Facts(
        'google/flan-t5-small',
        _FLAN | _TASKS | _t5(512, 1024, 6, 8, num_decoder_layers=8),
        _UNTIED,
        _GENERATION_T5,
        Evidence('digest', 'digest', 'counted', 'unknown'),
    ),
    Facts(
        'google/flan-t5-base',
        _FLAN | _TASKS | _t5(768, 2048, 12, 12, num_decoder_layers=12),
        _UNTIED,
        _GENERATION_T5,
        Evidence('digest', 'digest', 'counted', 'unknown'),
    ),
    Facts(
        'google/flan-t5-large',
        _FLAN | _t5(1024, 2816, 16, 24, num_decoder_layers=24),
        _UNTIED,
        _GENERATION_T5,
        Evidence('digest', 'unknown', 'reference', 'unknown'),
    ),
    Facts(
        'google/flan-t5-xl',
        _FLAN | _LATER | _t5(2048, 5120, 32, 24, num_decoder_layers=24, classifier_dropout=0.0),
        Tensors(head='own', copies=_STACKS, files='shards'),
        _GENERATION_T5,
        Evidence('saved again', 'unknown', 'reference', 'unknown'),
    ),
    Facts(
        'google/flan-t5-xxl',
        _FLAN | _LATER | _t5(4096, 10240, 64, 24, num_decoder_layers=24),
        Tensors(head='own', copies=_STACKS, files='bin shards'),
        _GENERATION_T5,
        _REFERENCE,
    ),
)

_MT5_SMALL = _T5_1_1 | {
    'architectures': ['MT5ForConditionalGeneration'],
    'model_type': 'mt5',
    'tokenizer_class': 'T5Tokenizer',
    'vocab_size': 250112,
}
del _MT5_SMALL['output_past']
_MT5 = _MT5_SMALL | {
    '_name_or_path': '/home/patrick/hugging_face/t5/mt5-base',
    'output_past': True,
    'transformers_version': '4.10.0.dev0',
    'use_cache': True,
}
_TOKENS_MT5 = {'eos_token': '</s>', 'unk_token': '<unk>', 'pad_token': '<pad>'}
_BYT5 = _T5 | {
    '_name_or_path': '/home/patrick/t5/byt5-small',
    'feed_forward_proj': 'gated-gelu',
    'gradient_checkpointing': False,
    'tie_word_embeddings': False,
    'tokenizer_class': 'ByT5Tokenizer',
    'transformers_version': '4.7.0.dev0',
    'use_cache': True,
    'vocab_size': 384,
}
_CODET5 = (
    _T5
    | _TASKS
    | {
        'bos_token_id': 1,
        'eos_token_id': 2,
        'feed_forward_proj': 'relu',
        'gradient_checkpointing': False,
        'id2label': {'0': 'LABEL_0'},
        'label2id': {'LABEL_0': 0},
        'n_positions': 512,
        'output_past': True,
        'torch_dtype': 'float32',
        'transformers_version': '4.10.0.dev0',
        'use_cache': True,
        'vocab_size': 32100,
    }
)
_LONG = (
    _FLAN
    | _LATER
    | {
        'architectures': ['LongT5ForConditionalGeneration'],
        'encoder_attention_type': 'transient-global',
        'global_block_size': 16,
        'local_radius': 127,
        'model_type': 'longt5',
        'n_positions': 4096,
        'transformers_version': '4.20.0.dev0',
    }
)
_LONG_UNTIED = Tensors(head='own', copies=_STACKS, files='bin')
_SURVEYED = Evidence('survey', 'digest', 'unknown', 'unknown')

KIN = (
    Facts(
        'google/mt5-small',
        _MT5_SMALL | _t5(512, 1024, 6, 8, num_decoder_layers=8),
        _UNTIED_PICKLED,
        _GENERATION_T5,
        Evidence('digest', 'digest', 'reference', 'unknown'),
    ),
    Facts(
        'google/mt5-base',
        _MT5 | _t5(768, 2048, 12, 12, num_decoder_layers=12),
        _UNTIED_PICKLED,
        _GENERATION_T5,
        Evidence('digest', 'digest', 'reference', 'digest'),
        {'special_tokens_map.json': _TOKENS_MT5},
    ),
    Facts(
        'google/mt5-xxl',
        _MT5 | _t5(4096, 10240, 64, 24, num_decoder_layers=24, architectures=['T5ForConditionalGeneration']),
        _UNTIED_PICKLED._replace(files='bin shards'),
        _GENERATION_T5,
        Evidence('survey', 'digest', 'reference', 'digest'),
        {'special_tokens_map.json': _TOKENS_MT5},
    ),
    Facts(
        'csebuetnlp/mT5_multilingual_XLSum',
        _MT5
        | _t5(768, 2048, 12, 12, num_decoder_layers=12, length_penalty=0.6, max_length=84, num_beams=4, no_repeat_ngram_size=2),
        _UNTIED_PICKLED,
        None,
        _UNKNOWN,
    ),
    Facts(
        'mT5, trained on and saved by transformers 5',
        _MT5
        | _t5(512, 1024, 6, 8, num_decoder_layers=8)
        | {
            'classifier_dropout': 0.0,
            'dense_act_fn': 'gelu_new',
            'dtype': 'float32',
            'is_decoder': False,
            'is_gated_act': True,
            'relative_attention_max_distance': 128,
            'tie_word_embeddings': True,
            'transformers_version': '5.24.0',
        },
        _UNTIED,
        _GENERATION_T5,
        Evidence('reference', 'reference', 'reference', 'unknown'),
    ),
    Facts(
        'T5 1.1, trained on and saved by transformers 5',
        _FLAN
        | _LATER
        | _t5(512, 1024, 6, 8, num_decoder_layers=8, classifier_dropout=0.0)
        | {'dtype': 'bfloat16', 'is_decoder': False, 'scale_decoder_outputs': False, 'tie_word_embeddings': True},
        Tensors(head='own', dtype='bfloat16'),
        _GENERATION_T5,
        Evidence('reference', 'reference', 'reference', 'unknown'),
    ),
    Facts(
        'google/byt5-small',
        _BYT5 | _t5(1472, 3584, 6, 12, num_decoder_layers=4),
        _UNTIED_PICKLED,
        _GENERATION_T5,
        Evidence('digest', 'digest', 'reference', 'unknown'),
    ),
    Facts(
        'google/byt5-base',
        _BYT5
        | _t5(1536, 3968, 12, 18, num_decoder_layers=6, output_past=True)
        | {'_name_or_path': '/home/patrick/t5/byt5-base'},
        _UNTIED_PICKLED,
        _GENERATION_T5,
        Evidence('digest', 'digest', 'reference', 'unknown'),
    ),
    Facts(
        'Salesforce/codet5-small',
        _CODET5 | _t5(512, 2048, 8, 6, num_decoder_layers=6),
        _T5_PICKLED._replace(buffers=()),
        None,
        _UNKNOWN._replace(config='saved again'),
    ),
    Facts(
        'Salesforce/codet5-base',
        _CODET5 | _t5(768, 3072, 12, 12, num_decoder_layers=12),
        _T5_PICKLED._replace(buffers=()),
        None,
        _UNKNOWN._replace(config='saved again'),
    ),
    Facts(
        'Salesforce/codet5p-220m',
        _CODET5 | _t5(768, 3072, 12, 12, num_decoder_layers=12, is_gated_act=False, dense_act_fn='relu', torch_dtype='float16'),
        _T5_PICKLED._replace(buffers=(), dtype='float16'),
        None,
        _UNKNOWN,
    ),
    Facts(
        'google/madlad400-3b-mt',
        _FLAN
        | _LATER
        | _t5(1024, 8192, 16, 32, 128, num_decoder_layers=32)
        | {'eos_token_id': 2, 'pad_token_id': 1, 'task_specific_params': {}, 'vocab_size': 256000, '_name_or_path': 'madlad'},
        Tensors(head='own', copies=('decoder.embed_tokens.weight',), without=('shared.weight',)),
        {'_from_model_config': True, 'decoder_start_token_id': 0, 'eos_token_id': 2, 'pad_token_id': 1},
        _UNKNOWN._replace(tensors='counted'),
    ),
    Facts(
        'google/long-t5-local-base',
        {name: value for name, value in _LONG.items() if name != 'global_block_size'}
        | _t5(768, 2048, 12, 12, num_decoder_layers=12, encoder_attention_type='local'),
        _LONG_UNTIED,
        _GENERATION_T5,
        _SURVEYED,
    ),
    Facts(
        'google/long-t5-tglobal-base',
        _LONG | _t5(768, 2048, 12, 12, num_decoder_layers=12),
        _LONG_UNTIED,
        _GENERATION_T5,
        _SURVEYED,
    ),
    Facts(
        'google/long-t5-tglobal-large',
        _LONG | _t5(1024, 2816, 16, 24, num_decoder_layers=24),
        _LONG_UNTIED._replace(buffers=_CROSS),
        _GENERATION_T5,
        _SURVEYED,
    ),
    Facts(
        'pszemraj/long-t5-tglobal-base-16384-book-summary',
        _LONG
        | _t5(768, 2048, 12, 12, num_decoder_layers=12)
        | {
            'early_stopping': True,
            'encoder_no_repeat_ngram_size': 4,
            'length_penalty': 0.8,
            'max_length': 512,
            'min_length': 8,
            'no_repeat_ngram_size': 3,
            'num_beams': 2,
            'repetition_penalty': 3.5,
        },
        Tensors(head='own'),
        None,
        _UNKNOWN._replace(config='quoted'),
    ),
)


def _bart(width, inner, heads, encoder, decoder=None, **more):
    return (
        {'d_model': width, 'encoder_ffn_dim': inner, 'decoder_ffn_dim': inner, 'encoder_attention_heads': heads}
        | {'decoder_attention_heads': heads, 'encoder_layers': encoder, 'decoder_layers': decoder or encoder}
        | {'num_hidden_layers': encoder}
        | more
    )


_BART = {
    'activation_dropout': 0.0,
    'activation_function': 'gelu',
    'add_final_layer_norm': False,
    'architectures': ['BartForConditionalGeneration'],
    'attention_dropout': 0.0,
    'bos_token_id': 0,
    'classif_dropout': 0.0,
    'classifier_dropout': 0.0,
    'decoder_layerdrop': 0.0,
    'decoder_start_token_id': 2,
    'dropout': 0.1,
    'encoder_layerdrop': 0.0,
    'eos_token_id': 2,
    'forced_eos_token_id': 2,
    'gradient_checkpointing': False,
    'id2label': {'0': 'LABEL_0', '1': 'LABEL_1', '2': 'LABEL_2'},
    'init_std': 0.02,
    'is_encoder_decoder': True,
    'label2id': {'LABEL_0': 0, 'LABEL_1': 1, 'LABEL_2': 2},
    'max_position_embeddings': 1024,
    'model_type': 'bart',
    'normalize_before': False,
    'pad_token_id': 1,
    'scale_embedding': False,
    'transformers_version': '4.7.0.dev0',
    'use_cache': True,
    'vocab_size': 50265,
}
_CNN = {
    'early_stopping': True,
    'length_penalty': 2.0,
    'max_length': 142,
    'min_length': 56,
    'no_repeat_ngram_size': 3,
    'num_beams': 4,
}
_BART_PRETRAINED = _BART | {
    'activation_dropout': 0.1,
    'add_bias_logits': False,
    'architectures': ['BartModel'],
    'attention_dropout': 0.1,
    'classif_dropout': 0.1,
    'early_stopping': True,
    'forced_bos_token_id': 0,
    'no_repeat_ngram_size': 3,
    'num_beams': 4,
    'task_specific_params': {
        'summarization': {'length_penalty': 1.0, 'max_length': 128, 'min_length': 12, 'num_beams': 4},
        'summarization_cnn': {'length_penalty': 2.0, 'max_length': 142, 'min_length': 56, 'num_beams': 4},
        'summarization_xsum': {'length_penalty': 1.0, 'max_length': 62, 'min_length': 11, 'num_beams': 6},
    },
}
_SUMMARISER = (
    _BART
    | _CNN
    | {
        '_num_labels': 3,
        'forced_bos_token_id': 0,
        'prefix': ' ',
        'task_specific_params': {'summarization': _CNN},
        'vocab_size': 50264,
    }
)
_XSUM = {'max_length': 62, 'min_length': 11, 'num_beams': 6}
_DISTILLED = _SUMMARISER | {
    'add_bias_logits': False,
    'extra_pos_embeddings': 2,
    'force_bos_token_to_be_generated': True,
    'normalize_embedding': True,
    'output_past': True,
    'replacing_rate': 0,
    'static_position_embeddings': False,
    'student_decoder_layers': None,
    'student_encoder_layers': None,
}
_GENERATION_BART = {
    '_from_model_config': True,
    'bos_token_id': 0,
    'decoder_start_token_id': 2,
    'early_stopping': True,
    'eos_token_id': 2,
    'forced_eos_token_id': 2,
    'no_repeat_ngram_size': 3,
    'pad_token_id': 1,
    'transformers_version': '4.27.0.dev0',
}
_BART_COPIES = ('model.encoder.embed_tokens.weight', 'model.decoder.embed_tokens.weight')
_BARE_BART = Tensors(copies=('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'), without=('final_logits_bias',))
_BART_FILES = Tensors('model.', copies=_BART_COPIES)
_BART_PICKLED = Tensors('model.', head='copy', copies=_BART_COPIES, files='bin')
_VERSIONS = ('model.encoder.version', 'model.decoder.version')
_LENGTH = {'tokenizer_config.json': {'model_max_length': 1024}}

BART = (
    Facts(
        'facebook/bart-base',
        _BART_PRETRAINED
        | _bart(768, 3072, 12, 6)
        | {
            '_name_or_path': 'bart-base',
            'normalize_embedding': True,
            'torch_dtype': 'float32',
            'transformers_version': '4.12.0.dev0',
        },
        _BARE_BART,
        None,
        Evidence('digest', 'inventory', 'unknown', 'inventory'),
    ),
    Facts(
        'facebook/bart-large',
        _BART_PRETRAINED | _bart(1024, 4096, 16, 12),
        _BARE_BART,
        None,
        Evidence('digest', 'inventory', 'quoted', 'digest'),
        _LENGTH,
    ),
    Facts(
        'facebook/bart-large-cnn',
        _SUMMARISER | _bart(1024, 4096, 16, 12, output_past=True, force_bos_token_to_be_generated=True),
        Tensors('model.', copies=_BART_COPIES[1:], without=('shared.weight', 'final_logits_bias')),
        _GENERATION_BART | _CNN | {'forced_bos_token_id': 0},
        Evidence('digest', 'digest', 'counted', 'inventory'),
    ),
    Facts(
        'facebook/bart-large-xsum',
        {name: value for name, value in _SUMMARISER.items() if name not in ('forced_bos_token_id', 'length_penalty')}
        | _bart(1024, 4096, 16, 12)
        | _XSUM,
        _BART_FILES,
        _GENERATION_BART | _XSUM,
        Evidence('survey', 'digest', 'unknown', 'digest'),
        _LENGTH,
    ),
    Facts(
        'sshleifer/distilbart-cnn-12-6',
        _DISTILLED | _bart(1024, 4096, 16, 12, 6),
        _BART_PICKLED,
        None,
        Evidence('digest', 'inventory', 'unknown', 'digest'),
        _LENGTH,
    ),
    Facts(
        'sshleifer/distilbart-cnn-6-6',
        _DISTILLED | _bart(1024, 4096, 16, 6, 6, save_step=9),
        _BART_PICKLED._replace(buffers=_VERSIONS),
        None,
        _UNKNOWN,
    ),
    Facts(
        'sshleifer/distilbart-xsum-12-6',
        _DISTILLED | _bart(1024, 4096, 16, 12, 6, length_penalty=0.5, save_step=9) | _XSUM,
        _BART_PICKLED._replace(dtype='float16'),
        None,
        _UNKNOWN,
    ),
    Facts(
        'gogamza/kobart-base-v2',
        _BART
        | _bart(768, 3072, 16, 6)
        | {
            'add_bias_logits': False,
            'author': 'a name and an address',
            'bos_token_id': 1,
            'classif_dropout': 0.1,
            'classifier_dropout': 0.1,
            'decoder_start_token_id': 1,
            'do_blenderbot_90_layernorm': False,
            'eos_token_id': 1,
            'extra_pos_embeddings': 2,
            'force_bos_token_to_be_generated': False,
            'forced_eos_token_id': 1,
            'id2label': {'0': 'NEGATIVE', '1': 'POSITIVE'},
            'kobart_version': 2.0,
            'label2id': {'NEGATIVE': 0, 'POSITIVE': 1},
            'max_position_embeddings': 1026,
            'normalize_embedding': True,
            'pad_token_id': 3,
            'static_position_embeddings': False,
            'tokenizer_class': 'PreTrainedTokenizerFast',
            'vocab_size': 30000,
        },
        _BART_FILES,
        None,
        _UNKNOWN._replace(config='quoted'),
    ),
)

_MBART = _BART | {
    '_num_labels': 3,
    'add_bias_logits': False,
    'add_final_layer_norm': True,
    'architectures': ['MBartForConditionalGeneration'],
    'early_stopping': True,
    'max_length': 200,
    'model_type': 'mbart',
    'normalize_before': True,
    'normalize_embedding': True,
    'num_beams': 5,
    'output_past': True,
    'scale_embedding': True,
    'static_position_embeddings': False,
    'tokenizer_class': 'MBart50Tokenizer',
    'transformers_version': '4.9.0.dev0',
    'vocab_size': 250054,
}
# Of the first models: saved before many of these names were, with a language for the start.
_LATER_OF_MBART = (
    *('classifier_dropout', 'decoder_start_token_id', 'early_stopping', 'forced_eos_token_id', 'gradient_checkpointing'),
    *('tokenizer_class', 'transformers_version', 'use_cache'),
)
_MBART_25 = {name: value for name, value in _MBART.items() if name not in _LATER_OF_MBART} | {'vocab_size': 250027}
_GENERATION_MBART = {
    '_from_model_config': True,
    'bos_token_id': 0,
    'decoder_start_token_id': 2,
    'early_stopping': True,
    'eos_token_id': 2,
    'forced_eos_token_id': 2,
    'max_length': 200,
    'num_beams': 5,
    'pad_token_id': 1,
    'transformers_version': '4.27.0.dev0',
}
_PEGASUS = _BART | {
    'activation_dropout': 0.1,
    'activation_function': 'relu',
    'add_bias_logits': False,
    'add_final_layer_norm': True,
    'architectures': ['PegasusForConditionalGeneration'],
    'attention_dropout': 0.1,
    'decoder_start_token_id': 0,
    'eos_token_id': 1,
    'extra_pos_embeddings': 1,
    'forced_eos_token_id': 1,
    'length_penalty': 0.8,
    'model_type': 'pegasus',
    'normalize_before': True,
    'normalize_embedding': False,
    'num_beams': 8,
    'pad_token_id': 0,
    'scale_embedding': True,
    'static_position_embeddings': True,
    'vocab_size': 96103,
}
_PEGASUS_TUNED = {
    name: value for name, value in _PEGASUS.items() if name not in ('classifier_dropout', 'gradient_checkpointing')
}
_GENERATION_PEGASUS = {
    '_from_model_config': True,
    'bos_token_id': 0,
    'decoder_start_token_id': 0,
    'eos_token_id': 1,
    'forced_eos_token_id': 1,
    'length_penalty': 0.8,
    'num_beams': 8,
    'pad_token_id': 0,
    'transformers_version': '4.27.0.dev0',
}
_SINUSOIDS = ('encoder.embed_positions.weight', 'decoder.embed_positions.weight')


def _pegasus_task(length, positions, penalty=0.8):
    return {'length_penalty': penalty, 'max_length': length, 'max_position_embeddings': positions}


MBART = (
    Facts(
        'facebook/mbart-large-50-many-to-many-mmt',
        _MBART
        | _bart(1024, 4096, 16, 12)
        | {
            '_name_or_path': '/home/suraj/projects/mbart-50/hf_models/mbart-50-large-many-to-many/',
            'activation_function': 'relu',
        },
        _BART_FILES,
        _GENERATION_MBART,
        Evidence('digest', 'digest', 'unknown', 'digest'),
        {
            'tokenizer_config.json': {
                'src_lang': None,
                'tgt_lang': None,
                'eos_token': '</s>',
                'unk_token': '<unk>',
                'sep_token': '</s>',
                'cls_token': '<s>',
                'pad_token': '<pad>',
                'mask_token': {
                    'content': '<mask>',
                    'single_word': False,
                    'lstrip': True,
                    'rstrip': False,
                    'normalized': True,
                    '__type': 'AddedToken',
                },
                'bos_token': '<s>',
                'tokenizer_file': None,
                'language_codes': 'ML50',
                'special_tokens_map_file': '/home/suraj/projects/mbart-50/mbart-50/special_tokens_map.json',
                'name_or_path': '/home/suraj/projects/mbart-50/hf_models/mbart-50-large-many-to-many/',
            }
        },
    ),
    Facts(
        'facebook/mbart-large-50',
        _MBART | _bart(1024, 4096, 16, 12),
        _BART_FILES,
        _GENERATION_MBART,
        Evidence('survey', 'digest', 'unknown', 'unknown'),
    ),
    Facts(
        'facebook/mbart-large-cc25',
        _MBART_25
        | _bart(1024, 4096, 16, 12, task_specific_params={'translation_en_to_ro': {'decoder_start_token_id': 250020}}),
        _BART_PICKLED,
        {
            '_from_model_config': True,
            'bos_token_id': 0,
            'eos_token_id': 2,
            'forced_eos_token_id': 2,
            'max_length': 1024,
            'num_beams': 5,
            'pad_token_id': 1,
            'transformers_version': '4.27.0.dev0',
        },
        Evidence('survey', 'digest', 'unknown', 'inventory'),
    ),
    Facts(
        'facebook/mbart-large-en-ro',
        {name: value for name, value in _MBART_25.items() if name != 'architectures'}
        | _bart(1024, 4096, 16, 12)
        | {'attention_dropout': 0.1, 'decoder_start_token_id': 250020, 'extra_pos_embeddings': 2},
        _BART_PICKLED,
        None,
        Evidence('survey', 'inventory', 'unknown', 'inventory'),
    ),
    Facts(
        'google/pegasus-large',
        _PEGASUS
        | _bart(1024, 4096, 16, 16)
        | {
            '_name_or_path': 'google/pegasus-large',
            'force_bos_token_to_be_generated': False,
            'max_length': 256,
            'task_specific_params': {
                'summarization_aeslc': _pegasus_task(32, 512, 0.6),
                'summarization_arxiv': _pegasus_task(256, 1024),
                'summarization_big_patent': _pegasus_task(256, 1024, 0.7),
                'summarization_billsum': _pegasus_task(256, 1024, 0.6),
                'summarization_cnn_dailymail': _pegasus_task(128, 1024),
                'summarization_gigaword': _pegasus_task(32, 128, 0.6),
                'summarization_large': _pegasus_task(256, 1024),
                'summarization_multi_news': _pegasus_task(256, 1024),
                'summarization_newsroom': _pegasus_task(128, 512),
                'summarization_pubmed': _pegasus_task(256, 1024),
                'summarization_reddit_tifu': _pegasus_task(128, 512, 0.6),
                'summarization_wikihow': _pegasus_task(256, 512, 0.6),
                'summarization_xsum': _pegasus_task(64, 512),
            },
            'transformers_version': '4.11.0.dev0',
        },
        _BART_PICKLED,
        _GENERATION_PEGASUS | {'max_length': 256},
        Evidence('digest', 'digest', 'unknown', 'digest'),
        {'special_tokens_map.json': _TOKENS_MT5},
    ),
    Facts(
        'google/pegasus-xsum',
        _PEGASUS_TUNED | _bart(1024, 4096, 16, 16) | {'max_length': 64, 'max_position_embeddings': 512},
        _BART_PICKLED._replace(without=_SINUSOIDS),
        _GENERATION_PEGASUS | {'max_length': 64},
        _REFERENCE._replace(config='survey'),
    ),
    Facts(
        'google/pegasus-cnn_dailymail',
        _PEGASUS_TUNED | _bart(1024, 4096, 16, 16) | {'max_length': 128, 'min_length': 32},
        _BART_PICKLED,
        _GENERATION_PEGASUS | {'max_length': 128, 'min_length': 32},
        Evidence('saved again', 'saved again', 'unknown', 'unknown'),
    ),
)

_GPT2 = {
    'activation_function': 'gelu_new',
    'architectures': ['GPT2LMHeadModel'],
    'attn_pdrop': 0.1,
    'bos_token_id': 50256,
    'embd_pdrop': 0.1,
    'eos_token_id': 50256,
    'initializer_range': 0.02,
    'layer_norm_epsilon': 1e-05,
    'model_type': 'gpt2',
    'n_ctx': 1024,
    'n_embd': 768,
    'n_head': 12,
    'n_layer': 12,
    'n_positions': 1024,
    'resid_pdrop': 0.1,
    'summary_activation': None,
    'summary_first_dropout': 0.1,
    'summary_proj_to_labels': True,
    'summary_type': 'cls_index',
    'summary_use_proj': True,
    'task_specific_params': {'text-generation': {'do_sample': True, 'max_length': 50}},
    'vocab_size': 50257,
}
_MEDIUM = _GPT2 | {'n_embd': 1024, 'n_head': 16, 'n_layer': 24}
_LARGE = _GPT2 | {'n_embd': 1280, 'n_head': 20, 'n_layer': 36}
_DIALO = {'task_specific_params': {'conversational': {'max_length': 1000}}}
_GENERATION_GPT2 = {
    '_from_model_config': True,
    'bos_token_id': 50256,
    'eos_token_id': 50256,
    'transformers_version': '4.27.0.dev0',
}
_MASK = ('h.{i}.attn.bias',)
_MASKS = ('transformer.h.{i}.attn.bias', 'transformer.h.{i}.attn.masked_bias')
_DIALO_FILES = Tensors('transformer.', head='copy', buffers=_MASKS, files='bin')
_OF_GPT2 = Evidence('digest', 'digest', 'reference', 'digest')


def _added(content):
    return {'content': content, 'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': True}


GPT2 = (
    Facts(
        'openai-community/gpt2',
        _GPT2,
        Tensors(buffers=_MASK),
        {'bos_token_id': 50256, 'eos_token_id': 50256, 'transformers_version': '4.26.0.dev0', '_from_model_config': True},
        _OF_GPT2,
        _LENGTH,
    ),
    Facts(
        'openai-community/gpt2-medium',
        _MEDIUM | {'n_special': 0, 'predict_special_tokens': True},
        Tensors(head='copy', buffers=_MASK),
        _GENERATION_GPT2,
        _OF_GPT2,
        _LENGTH,
    ),
    Facts('openai-community/gpt2-large', _LARGE, Tensors(buffers=_MASK), _GENERATION_GPT2, _OF_GPT2, _LENGTH),
    Facts(
        'openai-community/gpt2-xl',
        _GPT2 | {'n_embd': 1600, 'n_head': 25, 'n_layer': 48, 'output_past': True},
        Tensors(buffers=_MASK),
        _GENERATION_GPT2,
        _OF_GPT2,
        _LENGTH,
    ),
    Facts(
        'distilbert/distilgpt2',
        _GPT2 | {'_num_labels': 1, 'id2label': {'0': 'LABEL_0'}, 'label2id': {'LABEL_0': 0}, 'n_layer': 6},
        Tensors('transformer.', buffers=_MASKS[:1]),
        _GENERATION_GPT2,
        _OF_GPT2._replace(tensors='counted'),
        _LENGTH,
    ),
    Facts('microsoft/DialoGPT-small', _GPT2 | _DIALO, _DIALO_FILES, None, _REFERENCE),
    Facts('microsoft/DialoGPT-medium', _MEDIUM | _DIALO, _DIALO_FILES, _GENERATION_GPT2, _REFERENCE),
    Facts(
        'microsoft/DialoGPT-large',
        _LARGE | _DIALO | {'gradient_checkpointing': False, 'n_inner': None},
        _DIALO_FILES._replace(dtype='float16'),
        _GENERATION_GPT2,
        Evidence('saved again', 'unknown', 'reference', 'saved again'),
        {
            'tokenizer_config.json': {
                'errors': 'replace',
                **{
                    role: {**_added('<|endoftext|>'), '__type': 'AddedToken'}
                    for role in ('unk_token', 'bos_token', 'eos_token')
                },
                'add_prefix_space': False,
            }
        },
    ),
)

_OPT = {
    'activation_dropout': 0.0,
    'activation_function': 'relu',
    'architectures': ['OPTForCausalLM'],
    'attention_dropout': 0.0,
    'bos_token_id': 2,
    'do_layer_norm_before': True,
    'dropout': 0.1,
    'eos_token_id': 2,
    'init_std': 0.02,
    'layerdrop': 0.0,
    'max_position_embeddings': 2048,
    'model_type': 'opt',
    'pad_token_id': 1,
    'prefix': '</s>',
    'torch_dtype': 'float16',
    'transformers_version': '4.21.0.dev0',
    'use_cache': True,
    'vocab_size': 50272,
}


def _opt(width, layers, heads, **more):
    return (
        {'hidden_size': width, 'ffn_dim': 4 * width, 'num_hidden_layers': layers, 'num_attention_heads': heads}
        | {'word_embed_proj_dim': width}
        | more
    )


_GENERATION_OPT = {
    '_from_model_config': True,
    'bos_token_id': 2,
    'eos_token_id': 2,
    'pad_token_id': 1,
    'transformers_version': '4.27.0.dev0',
}
_OPT_PICKLED = Tensors('model.', head='copy', files='bin', dtype='float16')
_OF_OPT = Evidence('digest', 'digest', 'unknown', 'digest')
_TOKENS_OPT = {
    'special_tokens_map.json': {
        **{role: _added('</s>') for role in ('bos_token', 'eos_token', 'unk_token')},
        'pad_token': _added('<pad>'),
    }
}

OPT = (
    Facts(
        'facebook/opt-125m',
        _OPT | _opt(768, 12, 12, _name_or_path='facebook/opt-125m'),
        _OPT_PICKLED,
        _GENERATION_OPT,
        _OF_OPT,
        _TOKENS_OPT,
    ),
    Facts(
        'facebook/opt-350m',
        _OPT
        | _opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False)
        | {'_name_or_path': 'opt-350m', 'transformers_version': '4.20.0.dev0'},
        Tensors('', files='bin', dtype='float16'),
        _GENERATION_OPT,
        _OF_OPT,
        _TOKENS_OPT,
    ),
    Facts(
        'facebook/opt-1.3b',
        _OPT | _opt(2048, 24, 32, _name_or_path='facebook/opt-1.3b'),
        _OPT_PICKLED._replace(prefix='', head=''),
        _GENERATION_OPT,
        _OF_OPT,
        _TOKENS_OPT,
    ),
    Facts(
        'facebook/opt-6.7b',
        _OPT | _opt(4096, 32, 32, _remove_final_layer_norm=False),
        _OPT_PICKLED._replace(prefix='', head='', files='bin shards'),
        _GENERATION_OPT,
        _OF_OPT,
        _TOKENS_OPT,
    ),
    Facts(
        'facebook/opt-13b',
        _OPT
        | _opt(5120, 40, 40, _remove_final_layer_norm=False)
        | {'_name_or_path': 'facebook/opt-13b', 'output_projection': True},
        _OPT_PICKLED._replace(prefix='', head='', files='bin shards'),
        _GENERATION_OPT,
        _OF_OPT,
        _TOKENS_OPT,
    ),
    Facts(
        'OPT, with the settings of KoboldAI',
        _OPT
        | _opt(768, 12, 12)
        | {
            'adventure': False,
            'antemplate': '[<|>]',
            'badwordsids': [[3], [4]],
            'dynamicscan': False,
            'formatoptns': {'frmttriminc': True},
            'newlinemode': 's',
            'nobreakmodel': False,
            'rep_pen': 1.1,
            'rep_pen_range': 1024,
            'rep_pen_slope': 0.7,
            'sampler_order': [6, 0, 1, 2, 3, 4, 5],
            'temp': 0.7,
            'tfs': 0.9,
            'top_a': 0.0,
            'typical': 1.0,
            'welcome': 'a greeting',
        },
        _OPT_PICKLED,
        None,
        Evidence('quoted', 'unknown', 'unknown', 'unknown'),
    ),
    Facts(
        'facebook/galactica-125m',
        {name: value for name, value in _OPT.items() if name not in ('prefix', 'activation_dropout')}
        | _opt(768, 12, 12, _remove_final_layer_norm=False)
        | {'activation_function': 'gelu', 'attention_dropout': 0.1, 'bos_token_id': 0, 'vocab_size': 50000}
        | {'learned_embeddings': True, 'scale_embeddings': False},
        _OPT_PICKLED,
        None,
        _UNKNOWN,
    ),
)


def _llama(width, inner, layers, heads, kv_heads=None, **more):
    return (
        {'hidden_size': width, 'intermediate_size': inner, 'num_hidden_layers': layers, 'num_attention_heads': heads}
        | ({'num_key_value_heads': kv_heads} if kv_heads else {})
        | more
    )


_LLAMA = {
    'architectures': ['LlamaForCausalLM'],
    'bos_token_id': 1,
    'eos_token_id': 2,
    'hidden_act': 'silu',
    'initializer_range': 0.02,
    'max_position_embeddings': 2048,
    'model_type': 'llama',
    'rms_norm_eps': 1e-06,
    'tie_word_embeddings': False,
    'torch_dtype': 'float16',
    'transformers_version': '4.28.0.dev0',
    'use_cache': True,
    'vocab_size': 32000,
}
_LLAMA_2 = _LLAMA | {
    'max_position_embeddings': 4096,
    'pretraining_tp': 1,
    'rms_norm_eps': 1e-05,
    'rope_scaling': None,
    'transformers_version': '4.31.0.dev0',
}
_LLAMA_3 = _LLAMA_2 | {
    'attention_bias': False,
    'attention_dropout': 0.0,
    'bos_token_id': 128000,
    'eos_token_id': 128001,
    'max_position_embeddings': 8192,
    'rope_theta': 500000.0,
    'torch_dtype': 'bfloat16',
    'transformers_version': '4.40.0.dev0',
    'vocab_size': 128256,
}
_WAVES = {
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192,
    'rope_type': 'llama3',
}
_LLAMA_3_1 = _LLAMA_3 | {
    'max_position_embeddings': 131072,
    'mlp_bias': False,
    'rope_scaling': _WAVES,
    'transformers_version': '4.42.3',
}
_LLAMA_3_2 = _LLAMA_3_1 | {
    'head_dim': 64,
    'rope_scaling': dict(sorted(_WAVES.items())) | {'factor': 32.0},
    'tie_word_embeddings': True,
    'transformers_version': '4.45.0.dev0',
}
_ENDS = [128001, 128008, 128009]
_SMOL = _LLAMA_2 | {
    'attention_bias': False,
    'attention_dropout': 0.0,
    'bos_token_id': 0,
    'eos_token_id': 0,
    'initializer_range': 0.041666666666666664,
    'is_llama_config': True,
    'max_position_embeddings': 8192,
    'rope_interleaved': False,
    'rope_theta': 100000,
    'tie_word_embeddings': True,
    'torch_dtype': 'bfloat16',
    'transformers_version': '4.40.1',
    'vocab_size': 49152,
}
_GENERATION_LLAMA = {'_from_model_config': True, 'bos_token_id': 1, 'eos_token_id': 2, 'transformers_version': '4.28.0.dev0'}
_ROTARY = ('model.layers.{i}.self_attn.rotary_emb.inv_freq',)
_HALF = Tensors('model.', head='own', files='shards', dtype='float16')
_OLD_HALF = _HALF._replace(files='bin shards', buffers=_ROTARY)
_NEW_HALF = _HALF._replace(buffers=_ROTARY)
_BRAIN = _HALF._replace(dtype='bfloat16')
_TIED = Tensors('model.', dtype='bfloat16')
_SEVEN = _llama(4096, 11008, 32, 32)

_CHAT = {'_name_or_path': 'meta-llama/Llama-2-7b-chat-hf', 'num_key_value_heads': 32, 'transformers_version': '4.32.0.dev0'}


def _token(content):
    return {'content': content, 'lstrip': False, 'normalized': False, 'rstrip': False, 'single_word': False}


_CACHE = {'q4f16': 'float16', 'fp16': 'float16'}
_SMOL_CHAT = {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 2, 'transformers_version': '4.42.3'}
_GENERATION_SMOL = {'_from_model_config': True} | _SMOL_CHAT
_TOKENS_SMOL = {
    'special_tokens_map.json': {
        'additional_special_tokens': ['<|im_start|>', '<|im_end|>'],
        **{
            f'{role}_token': _token(content)
            for role, content in (
                ('bos', '<|im_start|>'),
                ('eos', '<|im_end|>'),
                ('pad', '<|im_end|>'),
                ('unk', '<|endoftext|>'),
            )
        },
    }
}

LLAMA = (
    Facts(
        'LLaMA 1, as it was first converted',
        _LLAMA
        | _SEVEN
        | {
            'architectures': ['LLaMAForCausalLM'],
            'bos_token_id': 0,
            'eos_token_id': 1,
            'max_sequence_length': 2048,
            'pad_token_id': -1,
            'transformers_version': '4.27.0.dev0',
        },
        _OLD_HALF,
        {
            '_from_model_config': True,
            'bos_token_id': 0,
            'eos_token_id': 1,
            'pad_token_id': -1,
            'transformers_version': '4.27.0.dev0',
        },
        Evidence('quoted', 'copy', 'reference', 'quoted'),
        {'tokenizer_config.json': {'tokenizer_class': 'LLaMATokenizer'}},
    ),
    Facts(
        'huggyllama/llama-7b',
        _LLAMA | _SEVEN | {'max_sequence_length': 2048, 'pad_token_id': 0},
        _NEW_HALF,
        _GENERATION_LLAMA | {'pad_token_id': 0},
        _REFERENCE,
    ),
    Facts(
        'meta-llama/Llama-2-7b-hf',
        _LLAMA_2 | _SEVEN | {'_name_or_path': 'meta-llama/Llama-2-7b-hf', 'num_key_value_heads': 32},
        _NEW_HALF,
        {
            'bos_token_id': 1,
            'do_sample': True,
            'eos_token_id': 2,
            'pad_token_id': 0,
            'temperature': 0.6,
            'max_length': 4096,
            'top_p': 0.9,
            'transformers_version': '4.31.0.dev0',
        },
        Evidence('digest', 'digest', 'counted', 'saved again'),
        {
            'tokenizer_config.json': {
                'add_bos_token': True,
                'add_eos_token': False,
                **{
                    f'{role}_token': {'__type': 'AddedToken', **_token(content)}
                    for role, content in (('bos', '<s>'), ('eos', '</s>'), ('unk', '<unk>'))
                },
                'clean_up_tokenization_spaces': False,
                'legacy': False,
                'model_max_length': 1000000000000000019884624838656,
                'pad_token': None,
                'padding_side': 'right',
                'sp_model_kwargs': {},
                'tokenizer_class': 'LlamaTokenizer',
            },
            'special_tokens_map.json': {
                f'{role}_token': _token(content) for role, content in (('bos', '<s>'), ('eos', '</s>'), ('unk', '<unk>'))
            },
        },
    ),
    Facts(
        'NousResearch/Llama-2-7b-hf',
        _LLAMA_2 | _SEVEN | {'num_key_value_heads': 32, 'pad_token_id': 0},
        _NEW_HALF,
        _GENERATION_LLAMA | {'pad_token_id': 0},
        Evidence('digest', 'unknown', 'counted', 'unknown'),
    ),
    Facts(
        'meta-llama/Llama-2-7b-chat-hf',
        _LLAMA_2 | _SEVEN | _CHAT,
        _NEW_HALF,
        {
            'bos_token_id': 1,
            'do_sample': True,
            'eos_token_id': 2,
            'max_length': 4096,
            'pad_token_id': 0,
            'temperature': 0.6,
            'top_p': 0.9,
            'transformers_version': '4.32.0.dev0',
        },
        Evidence('digest', 'digest', 'counted', 'unknown'),
    ),
    Facts(
        'meta-llama/Llama-2-70b-hf',
        _LLAMA_2
        | _llama(8192, 28672, 80, 64, 8)
        | {'_name_or_path': 'meta-llama/Llama-2-70b-hf', 'pad_token_id': 0, 'transformers_version': '4.32.0.dev0'},
        _OLD_HALF,
        _GENERATION_LLAMA,
        Evidence('copy', 'unknown', 'saved again', 'unknown'),
    ),
    Facts(
        'lmsys/vicuna-7b-v1.5',
        _LLAMA_2 | _SEVEN | {'_name_or_path': 'vicuna-7b-v1.5', 'num_key_value_heads': 32, 'pad_token_id': 0},
        _OLD_HALF,
        _GENERATION_LLAMA | {'pad_token_id': 0, 'max_length': 4096, 'temperature': 0.9, 'top_p': 0.6},
        Evidence('quoted', 'quoted', 'reference', 'unknown'),
    ),
    Facts(
        'lmsys/vicuna-7b-v1.5-16k',
        _LLAMA_2
        | _SEVEN
        | {
            '_name_or_path': 'vicuna-7b-v1.5-16k',
            'max_sequence_length': 16384,
            'num_key_value_heads': 32,
            'pad_token_id': 0,
            'rope_scaling': {'factor': 4.0, 'type': 'linear'},
        },
        _OLD_HALF,
        _GENERATION_LLAMA | {'pad_token_id': 0},
        Evidence('quoted', 'unknown', 'reference', 'unknown'),
    ),
    Facts(
        'LLaMA 2 with a rotation that grows, as adapted to longer texts',
        _LLAMA_2 | _SEVEN | {'num_key_value_heads': 32, 'rope_scaling': {'factor': 2.0, 'type': 'dynamic'}},
        _HALF,
        _GENERATION_LLAMA,
        Evidence('reference', 'unknown', 'unknown', 'unknown'),
    ),
    Facts(
        'TinyLlama/TinyLlama-1.1B-Chat-v1.0',
        _LLAMA_2
        | _llama(2048, 5632, 22, 32, 4)
        | {
            'attention_bias': False,
            'max_position_embeddings': 2048,
            'rope_theta': 10000.0,
            'torch_dtype': 'bfloat16',
            'transformers_version': '4.35.0',
        },
        _BRAIN._replace(files='safetensors'),
        {'bos_token_id': 1, 'eos_token_id': 2, 'max_length': 2048, 'pad_token_id': 0, 'transformers_version': '4.35.0'},
        Evidence('digest', 'digest', 'counted', 'digest'),
        {
            'special_tokens_map.json': {
                f'{role}_token': _token(content)
                for role, content in (('bos', '<s>'), ('eos', '</s>'), ('pad', '</s>'), ('unk', '<unk>'))
            }
        },
    ),
    Facts(
        'meta-llama/Meta-Llama-3-8B',
        _LLAMA_3 | _llama(4096, 14336, 32, 32, 8),
        _BRAIN,
        {
            '_from_model_config': True,
            'bos_token_id': 128000,
            'do_sample': True,
            'eos_token_id': 128001,
            'max_length': 4096,
            'temperature': 0.6,
            'top_p': 0.9,
        },
        Evidence('digest', 'unknown', 'counted', 'unknown'),
    ),
    Facts(
        'meta-llama/Meta-Llama-3-8B-Instruct',
        _LLAMA_3 | _llama(4096, 14336, 32, 32, 8) | {'eos_token_id': 128009},
        _BRAIN,
        {
            'bos_token_id': 128000,
            'do_sample': True,
            'eos_token_id': [128001, 128009],
            'max_length': 4096,
            'temperature': 0.6,
            'top_p': 0.9,
        },
        Evidence('digest', 'unknown', 'counted', 'unknown'),
    ),
    Facts(
        'meta-llama/Llama-3.1-8B-Instruct',
        _LLAMA_3_1 | _llama(4096, 14336, 32, 32, 8) | {'eos_token_id': _ENDS},
        _BRAIN,
        {
            'bos_token_id': 128000,
            'do_sample': True,
            'eos_token_id': _ENDS,
            'temperature': 0.6,
            'top_p': 0.9,
            'transformers_version': '4.42.3',
        },
        Evidence('digest', 'digest', 'copy', 'unknown'),
    ),
    Facts(
        'meta-llama/Llama-3.2-1B',
        _LLAMA_3_2 | _llama(2048, 8192, 16, 32, 8),
        _TIED,
        {'bos_token_id': 128000, 'eos_token_id': 128001},
        Evidence('copy', 'unknown', 'counted', 'unknown'),
    ),
    Facts(
        'meta-llama/Llama-3.2-1B-Instruct',
        _LLAMA_3_2 | _llama(2048, 8192, 16, 32, 8) | {'eos_token_id': _ENDS},
        _TIED,
        {
            'bos_token_id': 128000,
            'do_sample': True,
            'eos_token_id': _ENDS,
            'temperature': 0.6,
            'top_p': 0.9,
            'transformers_version': '4.45.0.dev0',
        },
        Evidence('digest', 'digest', 'counted', 'digest'),
        {'special_tokens_map.json': {'bos_token': _token('<|begin_of_text|>'), 'eos_token': _token('<|eot_id|>')}},
    ),
    Facts(
        'unsloth/Llama-3.2-1B-Instruct',
        _LLAMA_3_2
        | _llama(2048, 8192, 16, 32, 8)
        | {
            'eos_token_id': 128009,
            'pad_token_id': 128004,
            'transformers_version': '4.52.0.dev0',
            'unsloth_fixed': True,
            'unsloth_version': '2024.9',
        },
        _TIED,
        {
            '_from_model_config': True,
            'bos_token_id': 128000,
            'eos_token_id': _ENDS,
            'max_length': 131072,
            'pad_token_id': 128004,
        },
        Evidence('quoted', 'unknown', 'unknown', 'unknown'),
    ),
    Facts(
        'unsloth/tinyllama-chat',
        _LLAMA_2
        | _llama(2048, 5632, 22, 32, 4)
        | {'max_position_embeddings': 2048, 'pad_token_id': 0, 'rope_theta': 10000.0, 'unsloth_version': '2024.8'},
        _BRAIN._replace(files='stale index'),
        None,
        _UNKNOWN,
    ),
    Facts(
        'HuggingFaceTB/SmolLM2-135M',
        _SMOL | _llama(576, 1536, 30, 9, 3),
        _TIED,
        {'_from_model_config': True, 'bos_token_id': 0, 'eos_token_id': 0},
        Evidence('digest', 'unknown', 'counted', 'unknown'),
    ),
    Facts(
        'HuggingFaceTB/SmolLM2-135M-Instruct',
        _SMOL
        | _llama(576, 1536, 30, 9, 3)
        | _SMOL_CHAT
        | {'mlp_bias': False, 'transformers.js_config': {'kv_cache_dtype': _CACHE}},
        _TIED,
        _GENERATION_SMOL,
        Evidence('digest', 'digest', 'counted', 'digest'),
        _TOKENS_SMOL,
    ),
    Facts(
        'HuggingFaceTB/SmolLM2-1.7B-Instruct',
        {name: value for name, value in _SMOL.items() if name not in ('is_llama_config', 'rope_interleaved')}
        | _llama(2048, 8192, 24, 32, 32)
        | _SMOL_CHAT
        | {
            'initializer_range': 0.02,
            'mlp_bias': False,
            'rope_theta': 130000,
            'transformers.js_config': {
                'dtype': 'q4',
                'kv_cache_dtype': _CACHE,
                'use_external_data_format': {'model.onnx': True, 'model_fp16.onnx': True},
            },
        },
        _TIED,
        _GENERATION_SMOL,
        Evidence('digest', 'digest', 'counted', 'digest'),
        _TOKENS_SMOL,
    ),
)

ALL = (*T5, *KIN, *BART, *MBART, *GPT2, *OPT, *LLAMA)
