"""OPT: Zhang et al. 2022, 125m to 66b; 350m norms sums instead of inputs and embeds narrower than it computes."""

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

MODEL_TYPES = ('opt',)
# Files of the bare decoder leave the prefix out.
PREFIX, OUTSIDE = 'model.', frozenset(('lm_head.weight',))
BUFFERS = re.compile(r'model\.decoder\.version')
TOKENIZER = 'GPT2Tokenizer'

_FIELDS = {
    'vocab_size': ('vocab_size', 50272),
    'hidden_size': ('emb_dim', 768),
    'num_hidden_layers': ('num_decoder_layers', 12),
    'ffn_dim': ('mlp_dim', 3072),
    'num_attention_heads': ('num_heads', 12),
    'max_position_embeddings': ('max_positions', 2048),
    'dropout': ('dropout_rate', 0.1),
}
_ACTIVATIONS = {'relu': ('relu',), 'gelu': ('gelu_exact',), 'gelu_new': ('gelu',)}
_FIXED = {
    'enable_bias': True,
    'layer_norm_elementwise_affine': True,
    # Of two that only the conversion's program knew.
    'learned_embeddings': True,
    'scale_embeddings': False,
}
SYNONYMS = {}
INERT = {'is_decoder', 'is_encoder_decoder'}
_BY_HAND = {
    'activation_function',
    'do_layer_norm_before',
    '_remove_final_layer_norm',
    'word_embed_proj_dim',
    'eos_token_id',
    'bos_token_id',
    'pad_token_id',
    'tie_word_embeddings',
}
READ = frozenset((*_FIELDS, *_FIXED, *_BY_HAND))
# Rows of the position table before the first: the reference reads position p from row p + 2.
_OFFSET = 2


def config_from_published(published: dict[str, Any], tensors: Mapping[str, Any]) -> TransformerConfig:
    """TransformerConfig of a published configuration (a dict). Raises ValueError for what is not computed."""
    fields = fields_of(published, _FIELDS, fixed=_FIXED)
    ends = eos_ids(published, 2)
    width, before = fields['emb_dim'], published.get('do_layer_norm_before', True)
    narrow = published.get('word_embed_proj_dim')
    narrow = width if narrow is None else number('word_embed_proj_dim', narrow)
    return TransformerConfig(
        **fields,
        **ends,
        num_encoder_layers=0,
        head_dim=width // fields['num_heads'],
        mlp_activations=one_of('activation_function', published.get('activation_function', 'relu'), _ACTIVATIONS),
        norm='layer',
        norm_position='pre' if before else 'post',
        norm_epsilon=1e-5,
        final_norm=bool(before and not published.get('_remove_final_layer_norm', False)),
        positions='learned',
        position_offset=_OFFSET,
        attention_scale=True,
        attention_bias=True,
        mlp_bias=True,
        embedding_dim=0 if narrow == width else narrow,
        tied_head=published.get('tie_word_embeddings', True)
        and head_is_embedding(tensors, 'lm_head.weight', ['model.decoder.embed_tokens.weight']),
        pad_id=pad_id({'pad_token_id': 1, **published}, ends['eos_id'], fields['vocab_size']),
        decoder_start_id=number('bos_token_id', published.get('bos_token_id', 2)),
    )


def published_from_config(config: TransformerConfig) -> dict[str, Any]:
    """The published configuration (a dict) of a model with `config`. Raises ValueError where the family has none."""
    require(
        config,
        num_encoder_layers=0,
        norm='layer',
        norm_epsilon=1e-5,
        positions='learned',
        position_offset=_OFFSET,
        attention_scale=True,
        attention_bias=True,
        mlp_bias=True,
        embedding_scale=1.0,
        embedding_norm=False,
        head_scale=1.0,
        head_bias=False,
        num_kv_heads=(0, config.num_heads),
        head_dim=config.emb_dim // config.num_heads,
        final_norm=(True, False) if config.norm_position == 'pre' else False,
    )
    before = config.norm_position == 'pre'
    return {
        'model_type': 'opt',
        'architectures': ['OPTForCausalLM'],
        **{name: getattr(config, field) for name, (field, _) in _FIELDS.items()},
        'activation_function': published_as('mlp_activations', config.mlp_activations, _ACTIVATIONS),
        'do_layer_norm_before': before,
        '_remove_final_layer_norm': before and not config.final_norm,
        'word_embed_proj_dim': config.embedding_dim or config.emb_dim,
        'tie_word_embeddings': config.tied_head,
        'bos_token_id': config.decoder_start_id,
        'eos_token_id': published_eos(config),
        'pad_token_id': None if config.pad_id < 0 else config.pad_id,
    }


def weight_map(config: TransformerConfig) -> Iterator[Weight]:
    """Yields a `Weight` for every parameter of a model with `config`."""
    stack, place = 'model.decoder', config.norm_position
    yield Weight(
        f'{stack}.embed_tokens.weight', 'token_embedder/embedding', False, ('lm_head.weight',) if config.tied_head else ()
    )
    yield Weight(f'{stack}.embed_positions.weight', 'decoder/position_embedder/embedding')
    if config.embedding_dim:
        yield from linear(f'{stack}.project_in', 'decoder/project_in', False)
        yield from linear(f'{stack}.project_out', 'decoder/project_out', False)
    for i in range(config.num_decoder_layers):
        block, layer = f'{stack}.layers.{i}', f'decoder/layers_{i}'
        for short, name in (('q', 'query'), ('k', 'key'), ('v', 'value'), ('out', 'out')):
            yield from linear(f'{block}.self_attn.{short}_proj', f'{layer}/self_attention/{name}', True)
        yield from norm(f'{block}.self_attn_layer_norm', f'{layer}/{place}_self_attention_layer_norm', 'layer')
        yield from linear(f'{block}.fc1', f'{layer}/mlp/wi', True)
        yield from linear(f'{block}.fc2', f'{layer}/mlp/wo', True)
        yield from norm(f'{block}.final_layer_norm', f'{layer}/{place}_mlp_layer_norm', 'layer')
    if config.final_norm:
        yield from norm(f'{stack}.final_layer_norm', 'decoder/decoder_norm', 'layer')
    if not config.tied_head:
        yield Weight('lm_head.weight', 'decoder/logits_dense/kernel', True)
