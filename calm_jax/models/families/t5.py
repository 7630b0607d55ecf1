"""T5 and its relatives (T5 1.1, mT5, ByT5, FLAN-T5): Raffel et al. 2020, Shazeer 2020, Xue et al. 2021; LongT5, whose encoder
looks further and at less: Guo et al. 2022; and UMT5, whose every layer has a relative position bias: Chung et al. 2023.

The published layout is that of Hugging Face transformers: linear weights are [out, in], a relative position bias lives in
the first block of each stack, or in every block, as [buckets, heads], and the embedding is stored as `shared.weight`, by some
files also under the encoder's and the decoder's own name.

T5 1.0 takes its head from the embedding and scales what it reads by 1/√D. Later models do not scale; files that hold no head
of theirs tie it all the same. mT5 never scales, whatever its file says of ties: recent ones say that all are.
"""

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
    published_as,
    published_eos,
    require,
)
from calm_jax.models.families.weights import Weight

MODEL_TYPES = ('t5', 'mt5', 'longt5', 'umt5')
PREFIX, OUTSIDE = '', frozenset()
# Published with the first files, and read by no model since: no position bias belongs to a cross-attention.
BUFFERS = re.compile(r'decoder\.block\.\d+\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight')
TOKENIZER = 'T5Tokenizer'

# Published attribute → our field, and the value a published file means when it leaves the attribute out (None: it may not).
_FIELDS = {
    'vocab_size': ('vocab_size', None),
    'd_model': ('emb_dim', None),
    'd_kv': ('head_dim', None),
    'd_ff': ('mlp_dim', None),
    'num_layers': ('num_encoder_layers', None),
    'num_heads': ('num_heads', None),
    'dropout_rate': ('dropout_rate', 0.1),
    'layer_norm_epsilon': ('norm_epsilon', 1e-6),
    'relative_attention_num_buckets': ('relative_attention_num_buckets', 32),
    'relative_attention_max_distance': ('relative_attention_max_distance', 128),
    'pad_token_id': ('pad_id', 0),
}
_LONG_FIELDS = {'local_radius': ('local_radius', 127), 'global_block_size': ('global_block_size', 16)}

# "gelu" is the tanh approximation in this family whenever it is gated.
_ACTIVATIONS = {
    'gated-gelu': ('gelu', 'linear'),
    'gated-silu': ('silu', 'linear'),
    'gated-relu': ('relu', 'linear'),
    'relu': ('relu',),
}
_LONG_ATTENTIONS = {'local': 'local', 'transient-global': 'transient_global'}
# The embedding's name, and those under which files may hold it besides.
_EMBEDDINGS = ('shared.weight', 'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
_ATTENTION_NAMES = {'full': 'SelfAttention', 'local': 'LocalSelfAttention', 'transient_global': 'TransientGlobalSelfAttention'}

# Attributes that change the computation and are supported at one value only.
_FIXED = {'is_encoder_decoder': True, 'is_decoder': False}

SYNONYMS = {'hidden_size': 'd_model', 'num_attention_heads': 'num_heads', 'num_hidden_layers': 'num_layers', 'head_dim': 'd_kv'}
# Attributes that follow from `feed_forward_proj`, or that no computation of generation reads.
INERT = {'dense_act_fn', 'is_gated_act', 'n_positions', 'max_position_embeddings', 'bos_token_id', 'scalable_attention'}
_BY_HAND = {
    'num_decoder_layers',
    'feed_forward_proj',
    'tie_word_embeddings',
    'scale_decoder_outputs',
    'decoder_start_token_id',
    'eos_token_id',
    'encoder_attention_type',
}
READ = frozenset((*_FIELDS, *_LONG_FIELDS, *_FIXED, *_BY_HAND))


def config_from_published(published: dict[str, Any], tensors: Mapping[str, Any]) -> TransformerConfig:
    """TransformerConfig of a published configuration (a dict), whose files hold these tensors.

    Raises ValueError where an attribute is missing, or has a value that this model does not compute.
    """
    is_long = published.get('model_type') == 'longt5'
    if not is_long and (others := sorted({'encoder_attention_type', *_LONG_FIELDS} & set(published))):
        raise ValueError(f'attributes of another model_type: {", ".join(others)}')
    fields = fields_of(published, _FIELDS | (_LONG_FIELDS if is_long else {}), fixed=_FIXED)
    # Where both are given, as recent files do, the first says what is computed and the second nothing.
    scaled = published.get('scale_decoder_outputs')
    scaled = published.get('tie_word_embeddings', True) if scaled is None else scaled
    scaled = scaled and published.get('model_type') != 'mt5'
    decoder_layers, start = published.get('num_decoder_layers'), published.get('decoder_start_token_id')
    attention = published.get('encoder_attention_type', 'local')
    return TransformerConfig(
        **fields,
        **eos_ids(published, 1),
        num_decoder_layers=fields['num_encoder_layers']
        if decoder_layers is None
        else number('num_decoder_layers', decoder_layers),
        mlp_activations=one_of('feed_forward_proj', published.get('feed_forward_proj', 'relu'), _ACTIVATIONS),
        # Files without a head tie it whatever they say.
        tied_head=head_is_embedding(tensors, 'lm_head.weight', _EMBEDDINGS)
        if tensors
        else bool(scaled or published.get('tie_word_embeddings', True)),
        head_scale=fields['emb_dim'] ** -0.5 if scaled else 1.0,
        encoder_attention=one_of('encoder_attention_type', attention, _LONG_ATTENTIONS) if is_long else 'full',
        relative_attention_per_layer=published.get('model_type') == 'umt5',
        decoder_start_id=fields['pad_id'] if start is None else number('decoder_start_token_id', start),
    )


def published_from_config(config: TransformerConfig) -> dict[str, Any]:
    """The published configuration (a dict) of a model with `config`.

    Raises ValueError where the family has no such model.
    """
    scaled = config.head_scale == config.emb_dim**-0.5
    require(
        config,
        norm='rms',
        norm_position='pre',
        final_norm=True,
        positions='relative',
        attention_scale=False,
        attention_bias=False,
        mlp_bias=False,
        embedding_scale=1.0,
        embedding_norm=False,
        embedding_dim=0,
        head_bias=False,
        num_kv_heads=(0, config.num_heads),
        head_scale=config.emb_dim**-0.5 if scaled else 1.0,
    )
    if config.decoder_only:
        raise ValueError('num_encoder_layers 0 cannot be published; expected an encoder')
    is_long = config.encoder_attention != 'full'
    name = 'LongT5' if is_long else 'UMT5' if config.relative_attention_per_layer else 'T5'
    return {
        'model_type': name.lower(),
        'architectures': [f'{name}ForConditionalGeneration'],
        **{name: getattr(config, field) for name, (field, _) in (_FIELDS | (_LONG_FIELDS if is_long else {})).items()},
        **(
            {'encoder_attention_type': published_as('encoder_attention', config.encoder_attention, _LONG_ATTENTIONS)}
            if is_long
            else {}
        ),
        'num_decoder_layers': config.num_decoder_layers,
        'feed_forward_proj': published_as('mlp_activations', config.mlp_activations, _ACTIVATIONS),
        'tie_word_embeddings': config.tied_head,
        'scale_decoder_outputs': scaled,
        'eos_token_id': published_eos(config),
        'decoder_start_token_id': config.decoder_start_id,
        'is_encoder_decoder': True,
    }


def weight_map(config: TransformerConfig) -> Iterator[Weight]:
    """Yields a `Weight` for every parameter of a model with `config`."""
    name, *copies = _EMBEDDINGS
    yield Weight(name, 'token_embedder/embedding', False, (*copies, *(['lm_head.weight'] if config.tied_head else [])))
    yield from _stack(
        'encoder',
        config.num_encoder_layers,
        config,
        ((_ATTENTION_NAMES[config.encoder_attention], 'attention', 'pre_attention_layer_norm'),),
    )
    yield from _stack(
        'decoder',
        config.num_decoder_layers,
        config,
        (
            ('SelfAttention', 'self_attention', 'pre_self_attention_layer_norm'),
            ('EncDecAttention', 'encoder_decoder_attention', 'pre_cross_attention_layer_norm'),
        ),
    )
    if not config.tied_head:
        yield Weight('lm_head.weight', 'decoder/logits_dense/kernel', True)


def _stack(stack, num_layers, config, attentions):
    own = attentions[0][0]
    first = f'{stack}.block.0.layer.0.{own}'
    if not config.relative_attention_per_layer:
        yield Weight(f'{first}.relative_attention_bias.weight', f'{stack}/relpos_bias/rel_embedding', True)
    sums = stack == 'encoder' and config.encoder_attention == 'transient_global'
    if sums:
        yield Weight(f'{first}.global_relative_attention_bias.weight', f'{stack}/side_relpos_bias/rel_embedding', True)
    for i in range(num_layers):
        block, layer = f'{stack}.block.{i}.layer', f'{stack}/layers_{i}'
        if config.relative_attention_per_layer:
            yield Weight(f'{block}.0.{own}.relative_attention_bias.weight', f'{layer}/relpos_bias/rel_embedding', True)
        for j, (theirs, ours, norm) in enumerate(attentions):
            for short, name in (('q', 'query'), ('k', 'key'), ('v', 'value'), ('o', 'out')):
                yield Weight(f'{block}.{j}.{theirs}.{short}.weight', f'{layer}/{ours}/{name}/kernel', True)
            if sums:
                yield Weight(
                    f'{block}.{j}.{theirs}.global_input_layer_norm.weight', f'{layer}/{ours}/global_input_layer_norm/scale'
                )
            yield Weight(f'{block}.{j}.layer_norm.weight', f'{layer}/{norm}/scale')
        last = len(attentions)
        projections = ['wi'] if len(config.mlp_activations) == 1 else [f'wi_{n}' for n in range(len(config.mlp_activations))]
        for name in (*projections, 'wo'):
            yield Weight(f'{block}.{last}.DenseReluDense.{name}.weight', f'{layer}/mlp/{name}/kernel', True)
        yield Weight(f'{block}.{last}.layer_norm.weight', f'{layer}/pre_mlp_layer_norm/scale')
    yield Weight(f'{stack}.final_layer_norm.weight', f'{stack}/{stack}_norm/scale')
