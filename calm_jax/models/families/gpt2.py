"""GPT-2: Radford et al. 2019. Linear weights are published as [in, out], query, key and value side by side."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from calm_jax.models.config import TransformerConfig
from calm_jax.models.families.attributes import (
    eos_ids,
    fields_of,
    head_is_embedding,
    number,
    one_of,
    pad_id,
    published_as,
    published_eos,
    require,
)
from calm_jax.models.families.weights import Weight, linear, norm

MODEL_TYPES = ('gpt2',)
# Files of the bare decoder leave the prefix out. Old ones hold causal masks, which are no weights.
PREFIX, OUTSIDE = 'transformer.', frozenset(('lm_head.weight',))
BUFFERS = re.compile(r'transformer\.h\.\d+\.attn\.(bias|masked_bias)')
TOKENIZER = 'GPT2Tokenizer'

_FIELDS = {
    'vocab_size': ('vocab_size', 50257),
    'n_positions': ('max_positions', 1024),
    'n_embd': ('emb_dim', 768),
    'n_layer': ('num_decoder_layers', 12),
    'n_head': ('num_heads', 12),
    'resid_pdrop': ('dropout_rate', 0.1),
    'layer_norm_epsilon': ('norm_epsilon', 1e-5),
}
_ACTIVATIONS = {
    'gelu_new': ('gelu',),
    'gelu_pytorch_tanh': ('gelu',),
    'gelu': ('gelu_exact',),
    'relu': ('relu',),
    'silu': ('silu',),
}
_FIXED = {'scale_attn_weights': True, 'scale_attn_by_inverse_layer_idx': False, 'add_cross_attention': False}
SYNONYMS = {
    'hidden_size': 'n_embd',
    'max_position_embeddings': 'n_positions',
    'num_attention_heads': 'n_head',
    'num_hidden_layers': 'n_layer',
}
INERT = {'n_ctx', 'n_special', 'predict_special_tokens', 'reorder_and_upcast_attn', 'is_decoder', 'is_encoder_decoder'}
_BY_HAND = {'n_inner', 'activation_function', 'eos_token_id', 'bos_token_id', 'pad_token_id', 'tie_word_embeddings'}
READ = frozenset((*_FIELDS, *_FIXED, *_BY_HAND))


def config_from_published(published: dict[str, Any], tensors: Mapping[str, Any]) -> TransformerConfig:
    """TransformerConfig of a published configuration (a dict). Raises ValueError for what is not computed."""
    fields = fields_of(published, _FIELDS, fixed=_FIXED)
    ends = eos_ids(published, 50256)
    width, inner = fields['emb_dim'], published.get('n_inner')
    return TransformerConfig(
        **fields,
        **ends,
        num_encoder_layers=0,
        head_dim=width // fields['num_heads'],
        mlp_dim=4 * width if inner is None else number('n_inner', inner),
        mlp_activations=one_of('activation_function', published.get('activation_function', 'gelu_new'), _ACTIVATIONS),
        norm='layer',
        positions='learned',
        attention_scale=True,
        attention_bias=True,
        mlp_bias=True,
        tied_head=published.get('tie_word_embeddings', True)
        and head_is_embedding(tensors, 'lm_head.weight', ['transformer.wte.weight']),
        pad_id=pad_id(published, ends['eos_id'], fields['vocab_size']),
        decoder_start_id=number('bos_token_id', published.get('bos_token_id', ends['eos_id'])),
    )


def published_from_config(config: TransformerConfig) -> dict[str, Any]:
    """The published configuration (a dict) of a model with `config`. Raises ValueError where the family has none."""
    require(
        config,
        num_encoder_layers=0,
        norm='layer',
        norm_position='pre',
        final_norm=True,
        positions='learned',
        position_offset=0,
        attention_scale=True,
        attention_bias=True,
        mlp_bias=True,
        embedding_scale=1.0,
        embedding_norm=False,
        embedding_dim=0,
        head_scale=1.0,
        head_bias=False,
        num_kv_heads=(0, config.num_heads),
        head_dim=config.emb_dim // config.num_heads,
    )
    return {
        'model_type': 'gpt2',
        'architectures': ['GPT2LMHeadModel'],
        **{name: getattr(config, field) for name, (field, _) in _FIELDS.items()},
        'n_inner': config.mlp_dim,
        'activation_function': published_as(
            'mlp_activations',
            config.mlp_activations,
            {name: value for name, value in _ACTIVATIONS.items() if name != 'gelu_pytorch_tanh'},
        ),
        'tie_word_embeddings': config.tied_head,
        'bos_token_id': config.decoder_start_id,
        'eos_token_id': published_eos(config),
        'pad_token_id': None if config.pad_id < 0 else config.pad_id,
    }


def weight_map(config: TransformerConfig) -> Iterator[Weight]:
    """Yields a `Weight` for every parameter of a model with `config`."""
    yield Weight('transformer.wte.weight', 'token_embedder/embedding', False, ('lm_head.weight',) if config.tied_head else ())
    yield Weight('transformer.wpe.weight', 'decoder/position_embedder/embedding')
    for i in range(config.num_decoder_layers):
        block, layer = f'transformer.h.{i}', f'decoder/layers_{i}'
        yield from norm(f'{block}.ln_1', f'{layer}/pre_self_attention_layer_norm', 'layer')
        three = ' '.join(f'{layer}/self_attention/{name}' for name in ('query', 'key', 'value'))
        yield from linear(f'{block}.attn.c_attn', three, True, False)
        yield from linear(f'{block}.attn.c_proj', f'{layer}/self_attention/out', True, False)
        yield from norm(f'{block}.ln_2', f'{layer}/pre_mlp_layer_norm', 'layer')
        yield from linear(f'{block}.mlp.c_fc', f'{layer}/mlp/wi', True, False)
        yield from linear(f'{block}.mlp.c_proj', f'{layer}/mlp/wo', True, False)
    yield from norm('transformer.ln_f', 'decoder/decoder_norm', 'layer')
    if not config.tied_head:
        yield Weight('lm_head.weight', 'decoder/logits_dense/kernel', True)
