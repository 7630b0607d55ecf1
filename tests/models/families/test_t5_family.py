"""T5's published configuration and weight map; what the weights compute is in tests/models/test_parity.py."""

from typing import NamedTuple

import numpy as np
import pytest

from calm_jax.checkpoints import native
from calm_jax.models import families
from calm_jax.models.config import TransformerConfig
from calm_jax.models.families import t5


class Held(NamedTuple):
    """A tensor in memory, where others are in files."""

    array: np.ndarray

    @property
    def shape(self):
        return self.array.shape

    def read(self):
        return self.array


# The attributes of google/t5-v1_1-small's config.json.
SMALL = {
    'architectures': ['T5ForConditionalGeneration'],
    'd_ff': 1024,
    'd_kv': 64,
    'd_model': 512,
    'decoder_start_token_id': 0,
    'dropout_rate': 0.1,
    'eos_token_id': 1,
    'feed_forward_proj': 'gated-gelu',
    'initializer_factor': 1.0,
    'is_encoder_decoder': True,
    'layer_norm_epsilon': 1e-06,
    'model_type': 't5',
    'num_decoder_layers': 8,
    'num_heads': 6,
    'num_layers': 8,
    'output_past': True,
    'pad_token_id': 0,
    'relative_attention_num_buckets': 32,
    'tie_word_embeddings': False,
    'vocab_size': 32128,
}

# Files whose head is not the embedding.
OWN_HEAD = {name: Held(np.full((2, 2), n)) for n, name in enumerate(('shared.weight', 'lm_head.weight'))}


def test_a_published_configuration_names_every_dimension():
    assert families.config_from_published(SMALL) == TransformerConfig(
        vocab_size=32128,
        emb_dim=512,
        num_heads=6,
        head_dim=64,
        mlp_dim=1024,
        num_encoder_layers=8,
        num_decoder_layers=8,
        mlp_activations=('gelu', 'linear'),
        dropout_rate=0.1,
        norm_epsilon=1e-6,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        pad_id=0,
        eos_id=1,
        decoder_start_id=0,
    )


def test_publishing_a_configuration_and_reading_it_again_changes_nothing():
    config = TransformerConfig(
        vocab_size=100,
        emb_dim=16,
        num_heads=3,
        head_dim=8,
        mlp_dim=24,
        num_encoder_layers=2,
        num_decoder_layers=5,
        mlp_activations=('silu', 'linear'),
        dropout_rate=0.25,
        norm_epsilon=1e-5,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=64,
        pad_id=3,
        eos_id=4,
        decoder_start_id=5,
    )
    assert families.config_from_published(t5.published_from_config(config)) == config
    assert families.family_for(config) is t5


def test_unequal_depths_and_defaults_that_files_leave_out():
    published = {**SMALL, 'num_layers': 3, 'num_decoder_layers': None}
    assert families.config_from_published(published).num_decoder_layers == 3
    assert families.config_from_published({**SMALL, 'num_decoder_layers': 2}).num_encoder_layers == 8
    del published['decoder_start_token_id']
    assert families.config_from_published({**published, 'pad_token_id': 7}).decoder_start_id == 7


@pytest.mark.parametrize(
    'changes, message',
    (
        ({'feed_forward_proj': 'gated-swish'}, "feed_forward_proj is 'gated-swish'; expected one of gated-gelu"),
        ({'feed_forward_proj': ['gelu']}, r"feed_forward_proj is \['gelu'\]; expected one of gated-gelu"),
        ({'relative_attention_num_buckets': 2}, 'relative_attention_num_buckets is 2; expected 4 or more'),
        ({'is_decoder': True}, 'is_decoder is True; expected False'),
        ({'alibi': 1, 'yarn': 2}, 'attributes not understood: alibi, yarn; .* --ignore_attributes alibi,yarn$'),
        ({'encoder_attention_type': 'local'}, 'attributes of another model_type: encoder_attention_type'),
        ({'d_kv': None, 'd_ff': None}, 'attributes missing: d_kv, d_ff'),
        ({'vocab_size': '32128'}, "vocab_size is '32128'; expected a number"),
        ({'num_heads': 6.5}, 'num_heads is 6.5; expected a number'),
        ({'model_type': 'bert'}, "model_type is 'bert'; expected one of t5"),
        ({'quantization_config': {'bits': 4}}, 'quantization_config: quantised weights are not read'),
    ),
)
def test_what_would_compute_something_else_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        families.config_from_published({**SMALL, **changes})


@pytest.mark.parametrize(
    'changes', [{'tie_word_embeddings': True}, {'tie_word_embeddings': None}, {'scale_decoder_outputs': True}]
)
def test_the_first_version_scales_what_its_tied_head_reads(changes):
    config = families.config_from_published({**SMALL, **changes})
    assert config.tied_head and config.head_scale == 512**-0.5
    assert families.config_from_published(t5.published_from_config(config)) == config


def test_recent_files_say_with_scale_decoder_outputs_that_the_head_is_its_own():
    published = {**SMALL, 'tie_word_embeddings': True, 'scale_decoder_outputs': False}
    assert families.config_from_published(published, OWN_HEAD) == families.config_from_published(SMALL, OWN_HEAD)
    tied = families.config_from_published(published)
    assert tied.tied_head and tied.head_scale == 1
    assert families.config_from_published(t5.published_from_config(tied)) == tied


def test_a_head_of_its_own_is_one_whatever_the_file_says_of_ties():
    published = {**SMALL, 'tie_word_embeddings': True}
    config = families.config_from_published(published, OWN_HEAD)
    assert not config.tied_head and config.head_scale == 512**-0.5
    assert families.config_from_published(published, {**OWN_HEAD, 'lm_head.weight': OWN_HEAD['shared.weight']}).tied_head
    assert families.config_from_published(SMALL, {'shared.weight': OWN_HEAD['shared.weight']}).tied_head


def test_the_multilingual_model_never_scales():
    published = {**SMALL, 'model_type': 'mt5', 'tie_word_embeddings': True}
    assert families.config_from_published(published).head_scale == 1


def test_other_names_of_an_attribute_count_as_the_reference_counts_them():
    config = families.config_from_published({**SMALL, 'hidden_size': 24, 'num_hidden_layers': 3, 'head_dim': 8})
    assert (config.emb_dim, config.num_encoder_layers, config.head_dim) == (24, 3, 8)


def test_attributes_that_no_computation_reads_are_read_over():
    inert = {
        '_num_labels': 1,
        'unsloth_version': '2024.9',
        'initializer_range': 0.02,
        'n_positions': 512,
        'classif_dropout': 0.1,
    }
    inert |= {'tie_encoder_decoder': False}
    assert families.config_from_published({**SMALL, **inert}) == families.config_from_published(SMALL)


def test_an_attribute_is_ignored_when_asked_for_unless_the_computation_reads_it():
    named = {**SMALL, 'alibi': 1}
    assert families.config_from_published(named, ignored=['alibi']) == families.config_from_published(SMALL)
    with pytest.raises(ValueError, match='change what is computed cannot be ignored: d_kv, num_heads$'):
        families.config_from_published(SMALL, ignored=['num_heads', 'd_kv', 'alibi'])


def test_a_feed_forward_that_the_family_does_not_have_cannot_be_published():
    config = TransformerConfig(
        vocab_size=8,
        emb_dim=4,
        num_heads=1,
        head_dim=4,
        mlp_dim=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
        mlp_activations=('linear', 'gelu'),
    )
    with pytest.raises(ValueError, match='mlp_activations .* cannot be published'):
        families.family_for(config)


@pytest.mark.parametrize('activations', (('gelu', 'linear'), ('relu',)))
def test_the_weight_map_names_every_parameter_and_every_tensor_once(activations):
    config = TransformerConfig(
        vocab_size=8,
        emb_dim=4,
        num_heads=1,
        head_dim=4,
        mlp_dim=4,
        num_encoder_layers=2,
        num_decoder_layers=3,
        mlp_activations=activations,
    )
    weights = list(t5.weight_map(config))
    assert sorted(weight.path for weight in weights) == sorted(native.parameter_shapes(config))
    names = [name for weight in weights for name in (weight.name, *weight.duplicates)]
    assert len(names) == len(set(names))


def test_matrices_that_multiply_are_transposed_and_tables_that_are_looked_up_are_not():
    config = families.config_from_published({**SMALL, 'num_layers': 1, 'num_decoder_layers': 1})
    for weight in t5.weight_map(config):
        assert weight.transpose == weight.path.endswith(('kernel', 'rel_embedding')), weight
