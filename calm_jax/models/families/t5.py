"""T5 1.1 and its relatives (mT5, ByT5, FLAN-T5): Raffel et al. 2020, Shazeer 2020, Xue et al. 2021.

The published layout is that of Hugging Face transformers: linear weights are [out, in], one relative position bias lives in
the first block of each stack as [buckets, heads], and the embedding is stored as `shared.weight`, by some files also under
the encoder's and the decoder's own name.

T5 1.0 ties the head to the embedding and scales it by 1/√D. It is refused: its outputs would be wrong, not just different.
"""

from calm_jax.models.config import TransformerConfig
from calm_jax.models.families.weights import Weight

MODEL_TYPES = ('t5', 'mt5')

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
    'eos_token_id': ('eos_id', 1),
}

# "gelu" is the tanh approximation in this family whenever it is gated.
_ACTIVATIONS = {'gated-gelu': ('gelu', 'linear'), 'gated-silu': ('silu', 'linear'), 'gated-relu': ('relu', 'linear'),
                'relu': ('relu',)}

# Attributes that change the computation and are supported at one value only.
_FIXED = {'is_encoder_decoder': True, 'is_decoder': False, 'scale_decoder_outputs': False}

# Attributes that follow from `feed_forward_proj`, or that no computation of generation reads.
_WITHOUT_EFFECT = {'dense_act_fn', 'is_gated_act', 'initializer_factor', 'classifier_dropout', 'n_positions', 'output_past'}

_READ_BY_HAND = {'model_type', 'num_decoder_layers', 'feed_forward_proj', 'tie_word_embeddings', 'decoder_start_token_id'}


def config_from_published(published):
    """TransformerConfig of a published configuration (a dict).

    Raises:
      ValueError: an attribute is missing, unknown, or has a value that this model does not compute.
    """
    known = {*_FIELDS, *_FIXED, *_WITHOUT_EFFECT, *_READ_BY_HAND}
    unknown = sorted(set(published) - known)
    if unknown:
        raise ValueError(f'attributes not understood: {", ".join(unknown)}')
    missing = [name for name, (_, default) in _FIELDS.items() if default is None and published.get(name) is None]
    if missing:
        raise ValueError(f'attributes missing: {", ".join(missing)}')
    # Where both are given, as recent files do, the first says what is computed and the second how it is stored.
    if published.get('scale_decoder_outputs') is None and published.get('tie_word_embeddings', True):
        raise ValueError('tie_word_embeddings is true (T5 1.0, the head is the scaled embedding); expected false (T5 1.1)')
    for name, value in _FIXED.items():
        if published.get(name, value) != value:
            raise ValueError(f'{name} is {published[name]!r}; expected {value!r}')
    activation = published.get('feed_forward_proj', 'relu')
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise ValueError(f'feed_forward_proj is {activation!r}; expected one of {", ".join(_ACTIVATIONS)}')
    fields = {}
    for name, (field, default) in _FIELDS.items():
        fields[field] = default if published.get(name) is None else published[name]
        number = float if field in ('dropout_rate', 'norm_epsilon') else int
        if isinstance(fields[field], bool) or not isinstance(fields[field], (int, number)):
            raise ValueError(f'{name} is {fields[field]!r}; expected a number')
        fields[field] = number(fields[field])
    decoder_layers, start = published.get('num_decoder_layers'), published.get('decoder_start_token_id')
    return TransformerConfig(
        **fields,
        num_decoder_layers=fields['num_encoder_layers'] if decoder_layers is None else decoder_layers,
        mlp_activations=_ACTIVATIONS[activation],
        decoder_start_id=fields['pad_id'] if start is None else start)


def published_from_config(config):
    """The published configuration (a dict) of a model with `config`.

    Raises:
      ValueError: the family has no such feed-forward.
    """
    names = {value: name for name, value in _ACTIVATIONS.items()}
    if config.mlp_activations not in names:
        raise ValueError(f'mlp_activations {config.mlp_activations} cannot be published; expected one of '
                         f'{", ".join(map(str, names))}')
    return {
        'model_type': MODEL_TYPES[0],
        'architectures': ['T5ForConditionalGeneration'],
        **{name: getattr(config, field) for name, (field, _) in _FIELDS.items()},
        'num_decoder_layers': config.num_decoder_layers,
        'feed_forward_proj': names[config.mlp_activations],
        'tie_word_embeddings': False,
        'decoder_start_token_id': config.decoder_start_id,
        'is_encoder_decoder': True,
    }


def weight_map(config):
    """Yields a `Weight` for every parameter of a model with `config`."""
    yield Weight('shared.weight', 'token_embedder/embedding', False,
                 ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'))
    yield from _stack('encoder', config.num_encoder_layers, config, (
        ('SelfAttention', 'attention', 'pre_attention_layer_norm'),))
    yield from _stack('decoder', config.num_decoder_layers, config, (
        ('SelfAttention', 'self_attention', 'pre_self_attention_layer_norm'),
        ('EncDecAttention', 'encoder_decoder_attention', 'pre_cross_attention_layer_norm')))
    yield Weight('lm_head.weight', 'decoder/logits_dense/kernel', True)


def _stack(stack, num_layers, config, attentions):
    """The encoder's or decoder's weights; `attentions`: (published name, our name, name of the norm before it)."""
    yield Weight(f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
                 f'{stack}/relpos_bias/rel_embedding', True)
    for i in range(num_layers):
        block, layer = f'{stack}.block.{i}.layer', f'{stack}/layers_{i}'
        for j, (theirs, ours, norm) in enumerate(attentions):
            for short, name in (('q', 'query'), ('k', 'key'), ('v', 'value'), ('o', 'out')):
                yield Weight(f'{block}.{j}.{theirs}.{short}.weight', f'{layer}/{ours}/{name}/kernel', True)
            yield Weight(f'{block}.{j}.layer_norm.weight', f'{layer}/{norm}/scale', False)
        last = len(attentions)
        projections = ['wi'] if len(config.mlp_activations) == 1 else [f'wi_{n}' for n in range(len(config.mlp_activations))]
        for name in (*projections, 'wo'):
            yield Weight(f'{block}.{last}.DenseReluDense.{name}.weight', f'{layer}/mlp/{name}/kernel', True)
        yield Weight(f'{block}.{last}.layer_norm.weight', f'{layer}/pre_mlp_layer_norm/scale', False)
    yield Weight(f'{stack}.final_layer_norm.weight', f'{stack}/{stack}_norm/scale', False)
