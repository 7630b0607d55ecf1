"""LLaMA 1, 2 and 3: Touvron et al. 2023, Grattafiori et al. 2024."""

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

MODEL_TYPES = ('llama',)
# Files of the bare decoder leave the prefix out. Old ones hold the rotations' frequencies, which are no weights.
PREFIX, OUTSIDE = 'model.', frozenset(('lm_head.weight',))
BUFFERS = re.compile(r'model\.(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)')
TOKENIZER = 'LlamaTokenizer'

_FIELDS = {
    'vocab_size': ('vocab_size', 32000),
    'hidden_size': ('emb_dim', 4096),
    'intermediate_size': ('mlp_dim', 11008),
    'num_hidden_layers': ('num_decoder_layers', 32),
    'num_attention_heads': ('num_heads', 32),
    'max_position_embeddings': ('max_positions', 2048),
    'rms_norm_eps': ('norm_epsilon', 1e-6),
}
_ACTIVATIONS = {
    'silu': ('silu', 'linear'),
    'gelu': ('gelu_exact', 'linear'),
    'gelu_pytorch_tanh': ('gelu', 'linear'),
    'relu': ('relu', 'linear'),
}
# What the reference implementation does not compute in this family, whatever other programs do.
_FIXED = {'rope_interleaved': False, 'partial_rotary_factor': 1.0, 'is_llama_config': True}
SYNONYMS = {}
INERT = {'is_decoder', 'is_encoder_decoder'}
_BY_HAND = {
    'hidden_act',
    'num_key_value_heads',
    'head_dim',
    'rope_theta',
    'rope_scaling',
    'rope_parameters',
    'original_max_position_embeddings',
    'attention_bias',
    'mlp_bias',
    'eos_token_id',
    'bos_token_id',
    'pad_token_id',
    'tie_word_embeddings',
}
READ = frozenset((*_FIELDS, *_FIXED, *_BY_HAND))
# The numbers of each kind of rotation, in our order. A dynamic one's original length is what the model counts as its longest.
_ORIGINAL = 'original_max_position_embeddings'
_SCALINGS = {
    'default': (),
    'linear': ('factor',),
    'dynamic': ('factor', _ORIGINAL),
    'llama3': ('factor', 'low_freq_factor', 'high_freq_factor', _ORIGINAL),
}


def config_from_published(published: dict[str, Any], tensors: Mapping[str, Any]) -> TransformerConfig:
    """TransformerConfig of a published configuration (a dict). Raises ValueError for what is not computed."""
    fields = fields_of(published, _FIELDS, fixed=_FIXED)
    ends = eos_ids(published, 2)
    heads, head_dim = published.get('num_key_value_heads'), published.get('head_dim')
    return TransformerConfig(
        **fields,
        **ends,
        **_rotation(published),
        num_encoder_layers=0,
        head_dim=fields['emb_dim'] // fields['num_heads'] if head_dim is None else number('head_dim', head_dim),
        num_kv_heads=0 if heads is None else number('num_key_value_heads', heads),
        mlp_activations=one_of('hidden_act', published.get('hidden_act', 'silu'), _ACTIVATIONS),
        positions='rotary',
        attention_scale=True,
        attention_bias=published.get('attention_bias', False),
        mlp_bias=published.get('mlp_bias', False),
        tied_head=published.get('tie_word_embeddings', False)
        and head_is_embedding(tensors, 'lm_head.weight', ['model.embed_tokens.weight']),
        pad_id=pad_id(published, ends['eos_id'], fields['vocab_size']),
        decoder_start_id=number('bos_token_id', published.get('bos_token_id', 1)),
    )


def _rotation(published) -> dict[str, Any]:
    """Our fields of the rotation; recent files keep all of it in `rope_parameters`, older ones in `rope_scaling` and beside."""
    length = published.get('original_max_position_embeddings', published.get('max_position_embeddings', 2048))
    rotation = {
        'rope_theta': published.get('rope_theta', 10_000.0),
        **(published.get('rope_scaling') or published.get('rope_parameters') or {}),
    }
    kind = rotation.pop('rope_type', rotation.get('type', 'default'))
    rotation.pop('type', None)
    theta = number('rope_theta', rotation.pop('rope_theta'), float)
    if not isinstance(kind, str) or kind not in _SCALINGS:
        raise ValueError(f'rope_type is {kind!r}; expected one of {", ".join(_SCALINGS)}')
    if rotation.pop('partial_rotary_factor', 1.0) != 1.0:
        raise ValueError('partial_rotary_factor is not 1; the whole of a head is turned here')
    names = _SCALINGS[kind]
    if unknown := sorted(set(rotation) - set(names)):
        raise ValueError(f'attributes of the rotation not understood: {", ".join(unknown)}')
    if kind == 'llama3':
        rotation.setdefault(_ORIGINAL, length)
    if kind == 'dynamic':
        rotation[_ORIGINAL] = published.get('max_position_embeddings', 2048)
    if missing := [name for name in names if name not in rotation]:
        raise ValueError(f'attributes of the rotation missing: {", ".join(missing)}')
    return {'rotary_theta': theta, 'rotary_scaling': tuple(number(name, rotation[name], float) for name in names)}


def published_from_config(config: TransformerConfig) -> dict[str, Any]:
    """The published configuration (a dict) of a model with `config`. Raises ValueError where the family has none."""
    require(
        config,
        num_encoder_layers=0,
        norm='rms',
        norm_position='pre',
        final_norm=True,
        positions='rotary',
        attention_scale=True,
        embedding_scale=1.0,
        embedding_norm=False,
        embedding_dim=0,
        head_scale=1.0,
        head_bias=False,
    )
    kind = next(kind for kind, names in _SCALINGS.items() if len(names) == len(config.rotary_scaling))
    scaling = {'rope_type': kind, **dict(zip(_SCALINGS[kind], config.rotary_scaling))}
    original = int(scaling.pop(_ORIGINAL, 0))
    if kind == 'llama3':
        scaling[_ORIGINAL] = original
    if kind == 'dynamic' and original != config.max_positions:
        raise ValueError(
            f'rotary_scaling {config.rotary_scaling} cannot be published; expected {config.max_positions} positions'
        )
    return {
        'model_type': 'llama',
        'architectures': ['LlamaForCausalLM'],
        **{name: getattr(config, field) for name, (field, _) in _FIELDS.items()},
        'num_key_value_heads': config.kv_heads,
        'head_dim': config.head_dim,
        'hidden_act': published_as('mlp_activations', config.mlp_activations, _ACTIVATIONS),
        'rope_theta': config.rotary_theta,
        'rope_scaling': scaling if config.rotary_scaling else None,
        'attention_bias': config.attention_bias,
        'mlp_bias': config.mlp_bias,
        'tie_word_embeddings': config.tied_head,
        'bos_token_id': config.decoder_start_id,
        'eos_token_id': published_eos(config),
        'pad_token_id': None if config.pad_id < 0 else config.pad_id,
    }


def weight_map(config: TransformerConfig) -> Iterator[Weight]:
    """Yields a `Weight` for every parameter of a model with `config`."""
    yield Weight(
        'model.embed_tokens.weight', 'token_embedder/embedding', False, ('lm_head.weight',) if config.tied_head else ()
    )
    for i in range(config.num_decoder_layers):
        block, layer = f'model.layers.{i}', f'decoder/layers_{i}'
        yield from norm(f'{block}.input_layernorm', f'{layer}/pre_self_attention_layer_norm', 'rms')
        for short, name in (('q', 'query'), ('k', 'key'), ('v', 'value'), ('o', 'out')):
            yield from linear(f'{block}.self_attn.{short}_proj', f'{layer}/self_attention/{name}', config.attention_bias)
        yield from norm(f'{block}.post_attention_layernorm', f'{layer}/pre_mlp_layer_norm', 'rms')
        for theirs, ours in (('gate_proj', 'wi_0'), ('up_proj', 'wi_1'), ('down_proj', 'wo')):
            yield from linear(f'{block}.mlp.{theirs}', f'{layer}/mlp/{ours}', config.mlp_bias)
    yield from norm('model.norm', 'decoder/decoder_norm', 'rms')
    if not config.tied_head:
        yield Weight('lm_head.weight', 'decoder/logits_dense/kernel', True)
