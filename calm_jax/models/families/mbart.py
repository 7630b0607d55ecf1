"""mBART (Liu et al. 2020) and Pegasus (Zhang et al. 2020): BART whose sub-layers norm what they read, with one more norm at the
end of each stack. mBART norms embeddings besides; Pegasus has sinusoids for positions, which files may leave out."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from calm_jax.models.config import TransformerConfig
from calm_jax.models.families import bart
from calm_jax.models.families.attributes import eos_ids, fields_of, head_is_embedding, number, one_of
from calm_jax.models.families.weights import Weight, norm

MODEL_TYPES = ('mbart', 'pegasus')
PREFIX, OUTSIDE, BUFFERS, SYNONYMS = bart.PREFIX, bart.OUTSIDE, bart.BUFFERS, bart.SYNONYMS
TOKENIZER = 'MBartTokenizer'

_STARTS = {'pad_token_id', 'decoder_start_token_id'}
_FIELDS = {name: value for name, value in bart.FIELDS.items() if name not in _STARTS}
# What leaving an id out means, of mBART and of Pegasus.
_IDS = {'mbart': {'pad': 1, 'eos': 2}, 'pegasus': {'pad': 0, 'eos': 1}}
_FIXED = {
    'is_encoder_decoder': True,
    'is_decoder': False,
    'normalize_before': True,
    'add_final_layer_norm': True,
    'add_bias_logits': False,
}
_FIXED_OF = {
    'mbart': {'normalize_embedding': True, 'static_position_embeddings': False},
    'pegasus': {'normalize_embedding': False, 'static_position_embeddings': True},
}
# No program reads how many rows a table of sinusoids has besides.
INERT = {'extra_pos_embeddings'}
READ = frozenset(
    (*bart.FIELDS, *_FIXED, *_FIXED_OF['mbart'], *bart.SAME)
    + ('activation_function', 'scale_embedding', 'eos_token_id', 'bos_token_id', 'tie_word_embeddings')
)


def config_from_published(published: dict[str, Any], tensors: Mapping[str, Any]) -> TransformerConfig:
    """TransformerConfig of a published configuration (a dict). Raises ValueError for what is not computed."""
    kind = published['model_type']
    fields = fields_of(published, _FIELDS, fixed={**_FIXED, **_FIXED_OF[kind]})
    bart.check_alike(published)
    width, ids = fields['emb_dim'], _IDS[kind]
    pad = number('pad_token_id', published.get('pad_token_id', ids['pad']))
    start = published.get('decoder_start_token_id', 0 if kind == 'pegasus' else published.get('bos_token_id', 0))
    return TransformerConfig(
        **fields,
        **eos_ids(published, ids['eos']),
        pad_id=pad,
        decoder_start_id=number('decoder_start_token_id', start),
        head_dim=width // fields['num_heads'],
        mlp_activations=one_of('activation_function', published.get('activation_function', 'gelu'), bart.ACTIVATIONS),
        norm='layer',
        norm_epsilon=1e-5,
        positions='learned',
        position_offset=bart.OFFSET if kind == 'mbart' else 0,
        attention_scale=True,
        attention_bias=True,
        mlp_bias=True,
        embedding_scale=width**0.5 if published.get('scale_embedding', False) else 1.0,
        embedding_norm=kind == 'mbart',
        tied_head=published.get('tie_word_embeddings', True) and head_is_embedding(tensors, 'lm_head.weight', bart.EMBEDDINGS),
        head_bias=True,
    )


def published_from_config(config: TransformerConfig) -> dict[str, Any]:
    """The published configuration (a dict) of a model with `config`. Raises ValueError where the family has none."""
    kind = 'mbart' if config.embedding_norm else 'pegasus'
    offset = bart.OFFSET if kind == 'mbart' else 0
    return {
        'model_type': kind,
        'architectures': [{'mbart': 'MBartForConditionalGeneration', 'pegasus': 'PegasusForConditionalGeneration'}[kind]],
        **bart.published_kind(config, norm_position='pre', final_norm=True, position_offset=offset),
        'normalize_before': True,
        'add_final_layer_norm': True,
        **_FIXED_OF[kind],
    }


def weight_map(config: TransformerConfig) -> Iterator[Weight]:
    """Yields a `Weight` for every parameter of a model with `config`."""
    for weight in bart.weight_map(config):
        positions = weight.path.endswith('position_embedder/embedding')
        yield weight._replace(absent=_sinusoids) if positions and not config.embedding_norm else weight
    for stack in ('encoder', 'decoder'):
        yield from norm(f'model.{stack}.layer_norm', f'{stack}/{stack}_norm', 'layer')


def _sinusoids(shape: tuple[int, ...]) -> np.ndarray:
    """The table [P, D]: sines of position / 10000^(2i/D) in the first half of a row, cosines in the second (Vaswani et al.
    2017, their columns in another order)."""
    angles = np.arange(shape[0])[:, None] / 10_000 ** (np.arange(0, shape[1], 2) / shape[1])
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, : shape[1]]
