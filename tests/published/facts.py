"""What popular published checkpoints say of themselves: every attribute of their config.json, the settings of their
generation_config.json, how their files name tensors, which further tensors they hold, and how these are stored.

Facts, written down one by one from model cards, documentation and the files themselves as others quote them; `unknown` names
what could not be confirmed, and stands here as the family's other files have it. Sizes are the published ones: `build.py`
makes tiny checkpoints of the same form.
"""

from typing import Any, NamedTuple


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
    """A published checkpoint."""

    name: str
    config: dict[str, Any]
    tensors: Tensors = Tensors()
    generation: dict[str, Any] | None = None
    unknown: tuple[str, ...] = ()


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
_T5_1_0 = _T5 | {'n_positions': 512, 'output_past': True, 'task_specific_params': _SUMMARY_OF_T5}
_T5_1_1 = _T5 | {'feed_forward_proj': 'gated-gelu', 'output_past': True, 'tie_word_embeddings': False}
_FLAN = _T5_1_1 | {
    'n_positions': 512,
    'relative_attention_max_distance': 128,
    'torch_dtype': 'float32',
    'transformers_version': '4.23.1',
    'use_cache': True,
}
_FLAN_SMALL = _FLAN | {'classifier_dropout': 0.0, 'dense_act_fn': 'gelu_new', 'is_gated_act': True}
_GENERATION_T5 = {
    '_from_model_config': True,
    'decoder_start_token_id': 0,
    'eos_token_id': 1,
    'pad_token_id': 0,
    'transformers_version': '4.27.0',
}
# The first files came with a position bias of the decoder's first cross-attention.
_CROSS = ('decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight',)
_STACKS = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
_T5_FILES = Tensors(buffers=_CROSS)
_T5_PICKLED = Tensors(head='copy', copies=_STACKS, buffers=_CROSS, files='bin')
_UNTIED = Tensors(head='own')
_UNTIED_PICKLED = Tensors(head='own', copies=_STACKS, files='bin')

T5 = (
    Facts('google-t5/t5-small', _T5_1_0 | _t5(512, 2048, 8, 6), _T5_FILES, _GENERATION_T5),
    Facts('google-t5/t5-base', _T5_1_0 | _t5(768, 3072, 12, 12), _T5_FILES, _GENERATION_T5),
    Facts('google-t5/t5-large', _T5_1_0 | _t5(1024, 4096, 16, 24), _T5_FILES, _GENERATION_T5),
    Facts('google-t5/t5-3b', _T5_1_0 | _t5(1024, 16384, 32, 24, 128), _T5_PICKLED, _GENERATION_T5),
    Facts('google-t5/t5-11b', _T5_1_0 | _t5(1024, 65536, 128, 24, 128), _T5_PICKLED, None, ('tensors',)),
    Facts('google/t5-v1_1-small', _T5_1_1 | _t5(512, 1024, 6, 8, num_decoder_layers=8), _UNTIED_PICKLED, _GENERATION_T5),
    Facts('google/t5-v1_1-base', _T5_1_1 | _t5(768, 2048, 12, 12, num_decoder_layers=12), _UNTIED_PICKLED, _GENERATION_T5),
    Facts('google/t5-v1_1-xl', _T5_1_1 | _t5(2048, 5120, 32, 24, num_decoder_layers=24), _UNTIED_PICKLED, None),
    Facts('google/t5-v1_1-xxl', _T5_1_1 | _t5(4096, 10240, 64, 24, num_decoder_layers=24), _UNTIED_PICKLED, None),
    Facts('google/flan-t5-small', _FLAN_SMALL | _t5(512, 1024, 6, 8, num_decoder_layers=8), _UNTIED, _GENERATION_T5),
    Facts('google/flan-t5-base', _FLAN | _t5(768, 2048, 12, 12, num_decoder_layers=12), _UNTIED, _GENERATION_T5),
    Facts('google/flan-t5-large', _FLAN | _t5(1024, 2816, 16, 24, num_decoder_layers=24), _UNTIED, _GENERATION_T5),
    Facts(
        'google/flan-t5-xl',
        _FLAN | _t5(2048, 5120, 32, 24, num_decoder_layers=24),
        Tensors(head='own', copies=_STACKS, files='shards'),
        _GENERATION_T5,
    ),
    Facts(
        'google/flan-t5-xxl',
        _FLAN | _t5(4096, 10240, 64, 24, num_decoder_layers=24),
        Tensors(head='own', copies=_STACKS, files='bin shards'),
        _GENERATION_T5,
    ),
)

_MT5 = _T5_1_1 | {
    'architectures': ['MT5ForConditionalGeneration'],
    'model_type': 'mt5',
    'tokenizer_class': 'T5Tokenizer',
    '_name_or_path': '/home/patrick/hugging_face/t5/mt5-small',
    'transformers_version': '4.10.0.dev0',
    'use_cache': True,
    'vocab_size': 250112,
}
_BYT5 = _T5_1_1 | {
    '_name_or_path': '/home/patrick/t5/byt5-small',
    'gradient_checkpointing': False,
    'tokenizer_class': 'ByT5Tokenizer',
    'transformers_version': '4.7.0.dev0',
    'use_cache': True,
    'vocab_size': 384,
}
_CODET5 = _T5 | {
    'bos_token_id': 1,
    'eos_token_id': 2,
    'feed_forward_proj': 'relu',
    'gradient_checkpointing': False,
    'id2label': {'0': 'LABEL_0'},
    'label2id': {'LABEL_0': 0},
    'n_positions': 512,
    'output_past': True,
    'task_specific_params': _SUMMARY_OF_T5,
    'torch_dtype': 'float32',
    'transformers_version': '4.10.0.dev0',
    'use_cache': True,
    'vocab_size': 32100,
}
_LONG = _FLAN_SMALL | {
    'architectures': ['LongT5ForConditionalGeneration'],
    'encoder_attention_type': 'transient-global',
    'global_block_size': 16,
    'local_radius': 127,
    'model_type': 'longt5',
    'n_positions': 4096,
    'transformers_version': '4.20.0.dev0',
}
_LONG_UNTIED = Tensors(head='own', copies=_STACKS, files='bin')

KIN = (
    Facts('google/mt5-small', _MT5 | _t5(512, 1024, 6, 8, num_decoder_layers=8), _UNTIED_PICKLED, _GENERATION_T5),
    Facts('google/mt5-base', _MT5 | _t5(768, 2048, 12, 12, num_decoder_layers=12), _UNTIED_PICKLED, _GENERATION_T5),
    Facts(
        'csebuetnlp/mT5_multilingual_XLSum',
        _MT5
        | _t5(768, 2048, 12, 12, num_decoder_layers=12, length_penalty=0.6, max_length=84, num_beams=4, no_repeat_ngram_size=2),
        _UNTIED_PICKLED,
        None,
        ('tensors',),
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
    ),
    Facts(
        'T5 1.1, trained on and saved by transformers 5',
        _FLAN_SMALL
        | _t5(512, 1024, 6, 8, num_decoder_layers=8)
        | {'dtype': 'bfloat16', 'is_decoder': False, 'scale_decoder_outputs': False, 'tie_word_embeddings': True},
        Tensors(head='own', dtype='bfloat16'),
        _GENERATION_T5,
    ),
    Facts('google/byt5-small', _BYT5 | _t5(1472, 3584, 6, 12, num_decoder_layers=4), _UNTIED_PICKLED, _GENERATION_T5),
    Facts('google/byt5-base', _BYT5 | _t5(1536, 3968, 12, 18, num_decoder_layers=6), _UNTIED_PICKLED, _GENERATION_T5),
    Facts('Salesforce/codet5-small', _CODET5 | _t5(512, 2048, 8, 6, num_decoder_layers=6), _T5_PICKLED._replace(buffers=())),
    Facts('Salesforce/codet5-base', _CODET5 | _t5(768, 3072, 12, 12, num_decoder_layers=12), _T5_PICKLED._replace(buffers=())),
    Facts(
        'Salesforce/codet5p-220m',
        _CODET5 | _t5(768, 3072, 12, 12, num_decoder_layers=12, is_gated_act=False, dense_act_fn='relu', torch_dtype='float16'),
        _T5_PICKLED._replace(buffers=(), dtype='float16'),
        None,
        ('tensors',),
    ),
    Facts(
        'google/madlad400-3b-mt',
        _FLAN_SMALL
        | _t5(1024, 8192, 16, 32, 128, num_decoder_layers=32)
        | {'eos_token_id': 2, 'pad_token_id': 1, 'task_specific_params': {}, 'vocab_size': 256000, '_name_or_path': 'madlad'},
        Tensors(head='own'),
        {'_from_model_config': True, 'decoder_start_token_id': 0, 'eos_token_id': 2, 'pad_token_id': 1},
        ('generation',),
    ),
    Facts(
        'google/long-t5-local-base',
        _LONG | _t5(768, 2048, 12, 12, num_decoder_layers=12, encoder_attention_type='local'),
        _LONG_UNTIED,
        None,
        ('tensors',),
    ),
    Facts(
        'google/long-t5-tglobal-base', _LONG | _t5(768, 2048, 12, 12, num_decoder_layers=12), _LONG_UNTIED, None, ('tensors',)
    ),
    Facts(
        'google/long-t5-tglobal-large',
        _LONG | _t5(1024, 2816, 16, 24, num_decoder_layers=24),
        _LONG_UNTIED._replace(buffers=_CROSS),
        None,
        ('tensors',),
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
        ('tensors',),
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
    '_num_labels': 3,
    'activation_dropout': 0.0,
    'activation_function': 'gelu',
    'add_bias_logits': False,
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
    'architectures': ['BartModel'],
    'early_stopping': True,
    'forced_bos_token_id': 0,
    'no_repeat_ngram_size': 3,
    'normalize_embedding': True,
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
    | {'forced_bos_token_id': 0, 'prefix': ' ', 'task_specific_params': {'summarization': _CNN}, 'vocab_size': 50264}
)
_DISTILLED = (
    _BART
    | _CNN
    | {
        'extra_pos_embeddings': 2,
        'force_bos_token_to_be_generated': True,
        'normalize_embedding': True,
        'output_past': True,
        'prefix': ' ',
        'save_step': 9,
        'static_position_embeddings': False,
        'task_specific_params': {'summarization': _CNN},
        'vocab_size': 50264,
    }
)
_GENERATION_CNN = _CNN | {
    '_from_model_config': True,
    'bos_token_id': 0,
    'decoder_start_token_id': 2,
    'eos_token_id': 2,
    'forced_bos_token_id': 0,
    'forced_eos_token_id': 2,
    'pad_token_id': 1,
    'transformers_version': '4.27.0.dev0',
}
_BART_COPIES = ('model.encoder.embed_tokens.weight', 'model.decoder.embed_tokens.weight')
_BARE_BART = Tensors(copies=('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'), without=('final_logits_bias',))
_BART_FILES = Tensors('model.', copies=_BART_COPIES)
_BART_PICKLED = Tensors('model.', head='copy', copies=_BART_COPIES, files='bin')
_VERSIONS = ('model.encoder.version', 'model.decoder.version')

BART = (
    Facts('facebook/bart-base', _BART_PRETRAINED | _bart(768, 3072, 12, 6), _BARE_BART, _GENERATION_CNN, ('generation',)),
    Facts(
        'facebook/bart-large',
        _BART_PRETRAINED
        | _bart(1024, 4096, 16, 12)
        | {'activation_dropout': 0.1, 'attention_dropout': 0.1, 'classif_dropout': 0.1, 'add_bias_logits': False},
        _BARE_BART,
        _GENERATION_CNN,
        ('generation',),
    ),
    Facts(
        'facebook/bart-large-cnn',
        _SUMMARISER | _bart(1024, 4096, 16, 12, output_past=True, force_bos_token_to_be_generated=True),
        _BART_FILES,
        _GENERATION_CNN,
    ),
    Facts(
        'facebook/bart-large-xsum',
        _SUMMARISER | _bart(1024, 4096, 16, 12, max_length=62, min_length=11, num_beams=6, length_penalty=1.0),
        _BART_FILES,
        _GENERATION_CNN | {'max_length': 62, 'min_length': 11, 'num_beams': 6, 'length_penalty': 1.0},
    ),
    Facts('sshleifer/distilbart-cnn-12-6', _DISTILLED | _bart(1024, 4096, 16, 12, 6), _BART_PICKLED, None),
    Facts(
        'sshleifer/distilbart-cnn-6-6',
        _DISTILLED | _bart(1024, 4096, 16, 6, 6),
        _BART_PICKLED._replace(buffers=_VERSIONS),
        None,
        ('tensors',),
    ),
    Facts(
        'sshleifer/distilbart-xsum-12-6',
        _DISTILLED | _bart(1024, 4096, 16, 12, 6, max_length=62, min_length=11, num_beams=6, length_penalty=0.5),
        _BART_PICKLED._replace(dtype='float16'),
        None,
        ('tensors',),
    ),
    Facts(
        'gogamza/kobart-base-v2',
        _BART
        | _bart(768, 3072, 16, 6)
        | {
            'author': 'a name and an address',
            'bos_token_id': 1,
            'decoder_start_token_id': 1,
            'do_blenderbot_90_layernorm': False,
            'eos_token_id': 1,
            'extra_pos_embeddings': 2,
            'force_bos_token_to_be_generated': False,
            'forced_eos_token_id': 1,
            'kobart_version': 2.0,
            'max_position_embeddings': 1026,
            'normalize_embedding': True,
            'pad_token_id': 3,
            'static_position_embeddings': False,
            'tokenizer_class': 'PreTrainedTokenizerFast',
            'vocab_size': 30000,
        },
        _BART_FILES,
        None,
        ('tensors',),
    ),
)

_MBART = {name: value for name, value in _BART.items() if name not in ('forced_eos_token_id', 'decoder_start_token_id')} | {
    'activation_function': 'gelu',
    'add_final_layer_norm': True,
    'architectures': ['MBartForConditionalGeneration'],
    'forced_eos_token_id': 2,
    'max_length': 200,
    'model_type': 'mbart',
    'normalize_before': True,
    'normalize_embedding': True,
    'num_beams': 5,
    'output_past': True,
    'scale_embedding': True,
    'static_position_embeddings': False,
    'tokenizer_class': 'MBart50Tokenizer',
    'vocab_size': 250054,
}
_PEGASUS = {name: value for name, value in _BART.items() if name != 'classif_dropout'} | {
    'activation_dropout': 0.1,
    'activation_function': 'relu',
    'add_final_layer_norm': True,
    'architectures': ['PegasusForConditionalGeneration'],
    'decoder_start_token_id': 0,
    'eos_token_id': 1,
    'extra_pos_embeddings': 1,
    'force_bos_token_to_be_generated': False,
    'forced_eos_token_id': 1,
    'length_penalty': 0.6,
    'max_length': 64,
    'max_position_embeddings': 512,
    'model_type': 'pegasus',
    'normalize_before': True,
    'normalize_embedding': False,
    'num_beams': 8,
    'pad_token_id': 0,
    'scale_embedding': True,
    'static_position_embeddings': True,
    'vocab_size': 96103,
}
_SINUSOIDS = ('encoder.embed_positions.weight', 'decoder.embed_positions.weight')

MBART = (
    Facts(
        'facebook/mbart-large-50-many-to-many-mmt',
        _MBART | _bart(1024, 4096, 16, 12) | {'decoder_start_token_id': 2},
        _BART_FILES,
        {'_from_model_config': True, 'bos_token_id': 0, 'decoder_start_token_id': 2, 'eos_token_id': 2, 'pad_token_id': 1},
        ('generation',),
    ),
    Facts('facebook/mbart-large-50', _MBART | _bart(1024, 4096, 16, 12), _BART_FILES, None, ('tensors',)),
    Facts(
        'facebook/mbart-large-en-ro',
        _MBART | _bart(1024, 4096, 16, 12) | {'decoder_start_token_id': 250020, 'vocab_size': 250027},
        _BART_PICKLED,
        None,
        ('tensors',),
    ),
    Facts(
        'google/pegasus-xsum',
        _PEGASUS | _bart(1024, 4096, 16, 16),
        _BART_PICKLED._replace(without=_SINUSOIDS),
        {'_from_model_config': True, 'bos_token_id': 0, 'decoder_start_token_id': 0, 'eos_token_id': 1, 'pad_token_id': 0},
        ('tensors', 'generation'),
    ),
    Facts('google/pegasus-cnn_dailymail', _PEGASUS | _bart(1024, 4096, 16, 16), _BART_FILES, None, ('tensors',)),
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
    'transformers_version': '4.26.0.dev0',
}
_MASK = ('h.{i}.attn.bias',)
_MASKS = ('transformer.h.{i}.attn.bias', 'transformer.h.{i}.attn.masked_bias')

GPT2 = (
    Facts('openai-community/gpt2', _GPT2, Tensors(buffers=_MASK), _GENERATION_GPT2),
    Facts(
        'openai-community/gpt2-medium',
        _MEDIUM | {'n_special': 0, 'predict_special_tokens': True},
        Tensors(head='copy', buffers=_MASK),
        _GENERATION_GPT2,
    ),
    Facts('openai-community/gpt2-large', _LARGE, Tensors(buffers=_MASK), _GENERATION_GPT2),
    Facts(
        'openai-community/gpt2-xl',
        _GPT2 | {'n_embd': 1600, 'n_head': 25, 'n_layer': 48, 'output_past': True},
        Tensors(buffers=_MASK),
        _GENERATION_GPT2,
    ),
    Facts(
        'distilbert/distilgpt2',
        _GPT2 | {'_num_labels': 1, 'id2label': {'0': 'LABEL_0'}, 'label2id': {'LABEL_0': 0}, 'n_layer': 6},
        Tensors('transformer.', buffers=_MASKS[:1]),
        _GENERATION_GPT2,
    ),
    Facts('microsoft/DialoGPT-small', _GPT2 | _DIALO, Tensors('transformer.', head='copy', buffers=_MASKS, files='bin')),
    Facts(
        'microsoft/DialoGPT-medium',
        _MEDIUM | _DIALO,
        Tensors('transformer.', head='copy', buffers=_MASKS, files='bin'),
        _GENERATION_GPT2,
    ),
    Facts(
        'microsoft/DialoGPT-large',
        _LARGE | _DIALO,
        Tensors('transformer.', head='copy', buffers=_MASKS, files='bin', dtype='float16'),
        _GENERATION_GPT2,
        ('tensors',),
    ),
)

_OPT = {
    '_name_or_path': 'opt-125m',
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
    '_remove_final_layer_norm': False,
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

OPT = (
    Facts('facebook/opt-125m', _OPT | _opt(768, 12, 12), _OPT_PICKLED, _GENERATION_OPT),
    Facts(
        'facebook/opt-350m',
        {name: value for name, value in _OPT.items() if name != '_remove_final_layer_norm'}
        | _opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False),
        Tensors('', files='bin', dtype='float16'),
        _GENERATION_OPT,
    ),
    Facts('facebook/opt-1.3b', _OPT | _opt(2048, 24, 32), _OPT_PICKLED._replace(prefix='', head=''), _GENERATION_OPT),
    Facts(
        'facebook/opt-6.7b',
        _OPT | _opt(4096, 32, 32),
        _OPT_PICKLED._replace(prefix='', head='', files='bin shards'),
        _GENERATION_OPT,
    ),
    Facts(
        'facebook/galactica-125m',
        {name: value for name, value in _OPT.items() if name not in ('prefix', 'activation_dropout')}
        | _opt(768, 12, 12)
        | {'activation_function': 'gelu', 'attention_dropout': 0.1, 'bos_token_id': 0, 'vocab_size': 50000}
        | {'learned_embeddings': True, 'scale_embeddings': False},
        _OPT_PICKLED,
        None,
        ('tensors',),
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
    'high_freq_factor': 4.0,
    'low_freq_factor': 1.0,
    'original_max_position_embeddings': 8192,
    'rope_type': 'llama3',
}
_LLAMA_3_1 = _LLAMA_3 | {'max_position_embeddings': 131072, 'mlp_bias': False, 'rope_scaling': _WAVES}
_LLAMA_3_2 = _LLAMA_3_1 | {'head_dim': 64, 'rope_scaling': _WAVES | {'factor': 32.0}, 'tie_word_embeddings': True}
_ENDS = [128001, 128008, 128009]
_SMOL = _LLAMA_2 | {
    'attention_bias': False,
    'attention_dropout': 0.0,
    'bos_token_id': 0,
    'eos_token_id': 0,
    'initializer_range': 0.041666666666666664,
    'is_llama_config': True,
    'max_position_embeddings': 8192,
    'mlp_bias': False,
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
_BRAIN = _HALF._replace(dtype='bfloat16')
_TIED = Tensors('model.', dtype='bfloat16')
_SEVEN = _llama(4096, 11008, 32, 32)

LLAMA = (
    Facts(
        'huggyllama/llama-7b',
        _LLAMA | _SEVEN | {'max_sequence_length': 2048, 'pad_token_id': 0},
        _HALF._replace(buffers=_ROTARY),
        _GENERATION_LLAMA | {'pad_token_id': 0},
    ),
    Facts(
        'meta-llama/Llama-2-7b-hf',
        _LLAMA_2 | _SEVEN | {'num_key_value_heads': 32},
        _HALF,
        _GENERATION_LLAMA | {'pad_token_id': 0},
    ),
    Facts(
        'meta-llama/Llama-2-7b-chat-hf',
        _LLAMA_2 | _SEVEN | {'num_key_value_heads': 32},
        _HALF,
        _GENERATION_LLAMA | {'pad_token_id': 0, 'do_sample': True, 'max_length': 4096, 'temperature': 0.6, 'top_p': 0.9},
    ),
    Facts(
        'meta-llama/Llama-2-70b-hf',
        _LLAMA_2 | _llama(8192, 28672, 80, 64, 8),
        _HALF._replace(files='bin shards', buffers=_ROTARY),
        _GENERATION_LLAMA,
        ('tensors',),
    ),
    Facts(
        'lmsys/vicuna-7b-v1.5',
        _LLAMA_2 | _SEVEN | {'_name_or_path': 'vicuna-7b-v1.5', 'num_key_value_heads': 32, 'pad_token_id': 0},
        _HALF._replace(files='bin shards', buffers=_ROTARY),
        _GENERATION_LLAMA | {'pad_token_id': 0, 'max_length': 4096, 'temperature': 0.9, 'top_p': 0.6},
    ),
    Facts(
        'lmsys/vicuna-7b-v1.5-16k',
        _LLAMA_2
        | _SEVEN
        | {
            'max_sequence_length': 16384,
            'num_key_value_heads': 32,
            'pad_token_id': 0,
            'rope_scaling': {'factor': 4.0, 'type': 'linear'},
        },
        _HALF._replace(files='bin shards', buffers=_ROTARY),
        _GENERATION_LLAMA | {'pad_token_id': 0},
    ),
    Facts(
        'LLaMA 2 with a rotation that grows, as adapted to longer texts',
        _LLAMA_2 | _SEVEN | {'num_key_value_heads': 32, 'rope_scaling': {'factor': 2.0, 'type': 'dynamic'}},
        _HALF,
        _GENERATION_LLAMA,
        ('tensors', 'generation'),
    ),
    Facts(
        'TinyLlama/TinyLlama-1.1B-Chat-v1.0',
        _LLAMA_2
        | _llama(2048, 5632, 22, 32, 4)
        | {'attention_bias': False, 'max_position_embeddings': 2048, 'rope_theta': 10000.0, 'torch_dtype': 'bfloat16'},
        _BRAIN._replace(files='safetensors'),
        {'bos_token_id': 1, 'eos_token_id': 2, 'max_length': 2048, 'pad_token_id': 0, 'transformers_version': '4.35.0'},
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
    ),
    Facts(
        'meta-llama/Llama-3.1-8B-Instruct',
        _LLAMA_3_1 | _llama(4096, 14336, 32, 32, 8) | {'eos_token_id': _ENDS},
        _BRAIN,
        {'bos_token_id': 128000, 'do_sample': True, 'eos_token_id': _ENDS, 'temperature': 0.6, 'top_p': 0.9},
    ),
    Facts(
        'meta-llama/Llama-3.2-1B',
        _LLAMA_3_2 | _llama(2048, 8192, 16, 32, 8),
        _TIED,
        {'bos_token_id': 128000, 'eos_token_id': 128001},
    ),
    Facts(
        'unsloth/Llama-3.2-1B-Instruct',
        _LLAMA_3_2
        | _llama(2048, 8192, 16, 32, 8)
        | {'eos_token_id': 128009, 'pad_token_id': 128004, 'unsloth_fixed': True, 'unsloth_version': '2024.9'},
        _TIED,
        {
            '_from_model_config': True,
            'bos_token_id': 128000,
            'eos_token_id': _ENDS,
            'max_length': 131072,
            'pad_token_id': 128004,
        },
    ),
    Facts(
        'unsloth/tinyllama-chat',
        _LLAMA_2
        | _llama(2048, 5632, 22, 32, 4)
        | {'max_position_embeddings': 2048, 'pad_token_id': 0, 'rope_theta': 10000.0, 'unsloth_version': '2024.8'},
        _BRAIN._replace(files='stale index'),
        None,
        ('tensors', 'generation'),
    ),
    Facts(
        'HuggingFaceTB/SmolLM2-135M',
        _SMOL | _llama(576, 1536, 30, 9, 3),
        _TIED,
        {'_from_model_config': True, 'bos_token_id': 0, 'eos_token_id': 0},
    ),
    Facts(
        'HuggingFaceTB/SmolLM2-135M-Instruct',
        _SMOL
        | _llama(576, 1536, 30, 9, 3)
        | {
            'bos_token_id': 1,
            'eos_token_id': 2,
            'pad_token_id': 2,
            'transformers.js_config': {'kv_cache_dtype': {'q4f16': 'float16'}},
        },
        _TIED,
        {'_from_model_config': True, 'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 2},
    ),
    Facts(
        'HuggingFaceTB/SmolLM2-1.7B-Instruct',
        _SMOL
        | _llama(2048, 8192, 24, 32, 32)
        | {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 2, 'rope_theta': 130000, 'initializer_range': 0.02},
        _TIED._replace(head='copy'),
        {'_from_model_config': True, 'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 2},
        ('tensors',),
    ),
)

ALL = (*T5, *KIN, *BART, *MBART, *GPT2, *OPT, *LLAMA)
