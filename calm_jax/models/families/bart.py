"""BART: Lewis et al. 2020. Sums are normed, and so are embeddings; positions are learned; the head is the embedding, and a
bias."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from calm_jax.models.config import TransformerConfig
from calm_jax.models.families.attributes import (
    eos_ids,
    fields_of,
    head_is_embedding,
    one_of,
    published_as,
    published_eos,
    require,
)
from calm_jax.models.families.weights import Weight, linear, norm

MODEL_TYPES = ('bart',)
# Files of the bare model leave the prefix out, and the head's bias.
PREFIX, OUTSIDE = 'model.', frozenset(('lm_head.weight', 'final_logits_bias'))
BUFFERS = re.compile(r'model\.(encoder|decoder)\.version')
TOKENIZER = 'BartTokenizer'

FIELDS = {
    'vocab_size': ('vocab_size', 50265),
    'max_position_embeddings': ('max_positions', 1024),
    'd_model': ('emb_dim', 1024),
    'encoder_layers': ('num_encoder_layers', 12),
    'decoder_layers': ('num_decoder_layers', 12),
    'encoder_attention_heads': ('num_heads', 16),
    'encoder_ffn_dim': ('mlp_dim', 4096),
    'dropout': ('dropout_rate', 0.1),
    'pad_token_id': ('pad_id', 1),
    'decoder_start_token_id': ('decoder_start_id', 2),
}
# Both stacks are alike here.
SAME = {'decoder_attention_heads': ('encoder_attention_heads', 16), 'decoder_ffn_dim': ('encoder_ffn_dim', 4096)}
ACTIVATIONS = {'gelu': ('gelu_exact',), 'relu': ('relu',), 'gelu_new': ('gelu',), 'silu': ('silu',)}
_FIXED = {
    'is_encoder_decoder': True,
    'is_decoder': False,
    'normalize_before': False,
    'normalize_embedding': True,
    'add_final_layer_norm': False,
    'add_bias_logits': False,
    'extra_pos_embeddings': 2,
    'static_position_embeddings': False,
    'do_blenderbot_90_layernorm': False,
}
SYNONYMS = {'hidden_size': 'd_model', 'num_attention_heads': 'encoder_attention_heads', 'num_hidden_layers': 'encoder_layers'}
INERT = {'bos_token_id'}
_BY_HAND = {'activation_function', 'scale_embedding', 'eos_token_id', 'tie_word_embeddings', *SAME}
READ = frozenset((*FIELDS, *_FIXED, *_BY_HAND))
# Rows of the position table before the first: the reference reads position p from row p + 2.
OFFSET = 2
EMBEDDINGS = ('model.shared.weight', 'model.encoder.embed_tokens.weight', 'model.decoder.embed_tokens.weight')


def config_from_published(published: dict[str, Any], tensors: Mapping[str, Any]) -> TransformerConfig:
    """TransformerConfig of a published configuration (a dict). Raises ValueError for what is not computed."""
    fields = fields_of(published, FIELDS, fixed=_FIXED)
    check_alike(published)
    width = fields['emb_dim']
    return TransformerConfig(
        **fields,
        **eos_ids(published, 2),
        head_dim=width // fields['num_heads'],
        mlp_activations=one_of('activation_function', published.get('activation_function', 'gelu'), ACTIVATIONS),
        norm='layer',
        norm_position='post',
        norm_epsilon=1e-5,
        final_norm=False,
        positions='learned',
        position_offset=OFFSET,
        attention_scale=True,
        attention_bias=True,
        mlp_bias=True,
        embedding_scale=width**0.5 if published.get('scale_embedding', False) else 1.0,
        embedding_norm=True,
        tied_head=published.get('tie_word_embeddings', True) and head_is_embedding(tensors, 'lm_head.weight', EMBEDDINGS),
        head_bias=True,
    )


def check_alike(published: dict[str, Any]) -> None:
    """Raises ValueError where a published configuration's stacks are not alike in heads and inner width."""
    for name, (other, default) in SAME.items():
        if published.get(name, default) != published.get(other, default):
            raise ValueError(f'{name} is {published.get(name)!r}; expected {published.get(other, default)!r} as {other}')


def published_from_config(config: TransformerConfig) -> dict[str, Any]:
    """The published configuration (a dict) of a model with `config`. Raises ValueError where the family has none."""
    # As the published ones say of norms: other programs ask.
    norms = {'normalize_before': False, 'normalize_embedding': True, 'add_final_layer_norm': False}
    kind = published_kind(config, norm_position='post', final_norm=False, position_offset=OFFSET, embedding_norm=True)
    return {'model_type': 'bart', 'architectures': ['BartForConditionalGeneration'], **kind, **norms}


def published_kind(config: TransformerConfig, **wanted: Any) -> dict[str, Any]:
    """What the published configurations of BART and its kin have alike (a dict), of a model with `config`; wanted: fields that
    set one of them apart. Raises ValueError where `config` is of none, or has another value of those."""
    scaled = config.embedding_scale == config.emb_dim**0.5
    require(
        config,
        **wanted,
        norm='layer',
        norm_epsilon=1e-5,
        positions='learned',
        attention_scale=True,
        attention_bias=True,
        mlp_bias=True,
        embedding_scale=config.emb_dim**0.5 if scaled else 1.0,
        embedding_dim=0,
        head_scale=1.0,
        head_bias=True,
        num_kv_heads=(0, config.num_heads),
        encoder_attention='full',
        head_dim=config.emb_dim // config.num_heads,
    )
    if config.decoder_only:
        raise ValueError('num_encoder_layers 0 cannot be published; expected an encoder')
    return {
        **{name: getattr(config, field) for name, (field, _) in FIELDS.items()},
        'decoder_attention_heads': config.num_heads,
        'decoder_ffn_dim': config.mlp_dim,
        'activation_function': published_as('mlp_activations', config.mlp_activations, ACTIVATIONS),
        'scale_embedding': scaled,
        'eos_token_id': published_eos(config),
        'is_encoder_decoder': True,
        'tie_word_embeddings': config.tied_head,
    }


def weight_map(config: TransformerConfig) -> Iterator[Weight]:
    """Yields a `Weight` for every parameter of a model with `config`."""
    name, *copies = EMBEDDINGS
    yield Weight(name, 'token_embedder/embedding', False, (*copies, *(['lm_head.weight'] if config.tied_head else [])))
    yield from _stack(config, 'encoder', config.num_encoder_layers, (('self_attn', 'attention', 'attention'),))
    yield from _stack(
        config,
        'decoder',
        config.num_decoder_layers,
        (('self_attn', 'self_attention', 'self_attention'), ('encoder_attn', 'encoder_decoder_attention', 'cross_attention')),
    )
    if not config.tied_head:
        yield Weight('lm_head.weight', 'decoder/logits_dense/kernel', True)
    yield Weight('final_logits_bias', 'decoder/logits_dense/bias', row=True, absent=0.0)


def _stack(config, stack, num_layers, attentions):
    place = config.norm_position
    yield Weight(f'model.{stack}.embed_positions.weight', f'{stack}/position_embedder/embedding')
    if config.embedding_norm:
        yield from norm(f'model.{stack}.layernorm_embedding', f'{stack}/embedding_norm', 'layer')
    for i in range(num_layers):
        block, layer = f'model.{stack}.layers.{i}', f'{stack}/layers_{i}'
        for theirs, ours, named in attentions:
            for short, name in (('q', 'query'), ('k', 'key'), ('v', 'value'), ('out', 'out')):
                yield from linear(f'{block}.{theirs}.{short}_proj', f'{layer}/{ours}/{name}', True)
            yield from norm(f'{block}.{theirs}_layer_norm', f'{layer}/{place}_{named}_layer_norm', 'layer')
        yield from linear(f'{block}.fc1', f'{layer}/mlp/wi', True)
        yield from linear(f'{block}.fc2', f'{layer}/mlp/wo', True)
        yield from norm(f'{block}.final_layer_norm', f'{layer}/{place}_mlp_layer_norm', 'layer')
