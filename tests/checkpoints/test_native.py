import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import formats
from calm_jax.checkpoints import native, trees
from calm_jax.data.tokenizers import ByteTokenizer, SentencePieceTokenizer


@pytest.fixture
def copy(saved, tmp_path):
    """A native checkpoint to break."""
    shutil.copytree(saved, tmp_path / 'copy')
    return tmp_path / 'copy'


def edit(path, **changes):
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in {**fields, **changes}.items() if value is not None}))


def test_every_part_comes_back(checkpoint, saved):
    loaded = native.load(saved, dtype=None)
    assert loaded.config == checkpoint.config
    assert native.fingerprint(loaded.params) == native.fingerprint(checkpoint.params)
    assert native.fingerprint(loaded.heads) == native.fingerprint(checkpoint.heads)
    assert loaded.tokenizer.fingerprint() == checkpoint.tokenizer.fingerprint()
    assert loaded.generation == {'limits': {'max_source_length': 40, 'max_new_tokens': 7}}


def test_heads_and_generation_may_be_absent(checkpoint, tmp_path):
    native.save(tmp_path / 'model', *checkpoint[:3])
    loaded = native.load(tmp_path / 'model')
    assert loaded.heads is None and loaded.generation == {}


def test_parameters_stored_in_half_precision_are_loaded_as_float32(checkpoint, tmp_path):
    native.save(tmp_path / 'model', *checkpoint, dtype='float16')
    stored, loaded = native.load(tmp_path / 'model', dtype=None), native.load(tmp_path / 'model')
    assert {leaf.dtype for leaf in jax.tree.leaves(stored.params)} == {jnp.dtype('float16')}
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {jnp.dtype('float32')}
    assert native.fingerprint(loaded.params) == native.fingerprint(jax.tree.map(jnp.float32, stored.params))
    assert native.fingerprint(loaded.heads) == native.fingerprint(checkpoint.heads)  # Heads keep their type.


def test_a_checkpoint_is_replaced_only_when_asked(checkpoint, copy):
    with pytest.raises(FileExistsError, match='--overwrite'):
        native.save(copy, *checkpoint[:3])
    native.save(copy, *checkpoint[:3], overwrite=True)
    assert native.load(copy).heads is None


def test_a_save_that_fails_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch):
    def full(self, directory):
        raise OSError('disk full')

    monkeypatch.setattr(type(checkpoint.tokenizer), 'save', full)
    with pytest.raises(OSError, match='disk full'):
        native.save(tmp_path / 'model', *checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_no_checkpoint_is_told_what_was_found_and_expected(tmp_path, published):
    with pytest.raises(FileNotFoundError, match='does not exist; expected a calm_jax checkpoint'):
        native.load(tmp_path / 'nothing')
    with pytest.raises(FileNotFoundError, match='found nothing; expected config.json'):
        native.load(tmp_path)
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(FileNotFoundError, match='found notes.txt; expected config.json'):
        native.load(tmp_path)
    with pytest.raises(FileNotFoundError, match='is a file'):
        native.load(tmp_path / 'notes.txt')
    with pytest.raises(ValueError, match='published t5 model; run `calm import`'):
        native.load(published / 'gated_gelu')
    (tmp_path / 'config.json').write_text('{"lr": 1}')
    with pytest.raises(ValueError, match='not a checkpoint file; expected a JSON object with "format": "calm_jax checkpoint"'):
        native.load(tmp_path)
    (tmp_path / 'config.json').write_text('{"format": "calm_jax", "vocab_size": 8}')
    with pytest.raises(ValueError, match='config.json: written by calm_jax 0.1.0, .*: import again'):
        native.load(tmp_path)
    (tmp_path / 'config.json').write_text('[')
    with pytest.raises(ValueError, match='not valid JSON'):
        native.load(tmp_path)


@pytest.mark.parametrize('part', ('generation.json', 'params', 'spiece.model'))
def test_a_missing_part_is_named(copy, part):
    path = copy / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=part):
        native.load(copy)


@pytest.mark.parametrize(
    'changes, message',
    (
        ({'emb_dim': 24}, r'has shape \(16, 16\), expected \(24, 16\).*and \d+ more'),
        ({'num_decoder_layers': 1}, 'decoder/layers_1/.* is unexpected'),
        ({'num_encoder_layers': 2}, 'encoder/layers_1/.* is missing'),
        ({'num_heads': 0}, 'num_heads is 0'),
        ({'vocab_size': None}, 'vocab_size'),
        ({'alibi': True}, 'unknown fields alibi'),
    ),
    ids=('width', 'a layer less', 'a layer more', 'not positive', 'a field less', 'a field more'),
)
def test_a_configuration_that_does_not_match_the_parameters_is_refused(copy, changes, message):
    edit(copy / 'config.json', **changes)
    with pytest.raises(ValueError, match=message) as error:
        native.load(copy)
    assert '\n' not in str(error.value)


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(checkpoint, copy):
    with pytest.raises(ValueError, match='259 tokens but the model embeds only 96'):
        native.save(copy.parent / 'other', checkpoint.config, checkpoint.params, ByteTokenizer())
    ByteTokenizer(extra_ids=5).save(copy)
    with pytest.raises(ValueError, match='264 tokens but the model embeds only 96'):
        native.load(copy)


def test_a_tokenizer_with_another_end_of_sequence_is_refused_unless_it_was_published_so(checkpoint, copy):
    edit(copy / 'config.json', eos_id=2)
    loaded = native.load(copy)
    assert loaded.tokenizer.eos_id == 1
    with pytest.raises(ValueError, match='eos_id 1, the model 2'):
        native.save(copy.parent / 'other', loaded.config, loaded.params, SentencePieceTokenizer(_model_of(checkpoint)))


def _model_of(checkpoint):
    return checkpoint.tokenizer.files['spiece.model']


def test_a_classifier_for_another_width_is_refused(checkpoint, tmp_path):
    heads = {'exit_classifier': {'kernel': jnp.zeros((17, 1)), 'bias': jnp.zeros(1)}}
    with pytest.raises(ValueError, match='exit classifier'):
        native.save(tmp_path / 'model', *checkpoint[:3], heads)


@pytest.mark.parametrize('ids', [[3, 96], [-1, 3], [3, 3], [], [0.5], [[1, 2]]])
def test_frequent_ids_that_are_no_list_of_the_models_are_refused(checkpoint, tmp_path, ids):
    with pytest.raises(ValueError, match='no list of distinct ids below 96; count them again'):
        native.save(tmp_path / 'model', *checkpoint[:3], {'frequent_ids': {'ids': np.array(ids)}})
    assert not (tmp_path / 'model').exists()


def test_damaged_parameters_and_heads_are_one_line(copy):
    for part in ('heads', 'params'):
        file = copy / part / '0' / '_METADATA'
        file.write_bytes(file.read_bytes()[:-10])
        with pytest.raises(ValueError, match=f'{part}: the file .* bytes, expected') as error:
            native.load(copy)
        assert '\n' not in str(error.value)
        shutil.rmtree(copy / 'heads', ignore_errors=True)


def test_a_checkpoint_loads_by_a_relative_path_and_after_being_moved(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / 'elsewhere')
    monkeypatch.chdir(tmp_path)
    assert native.fingerprint(native.load('elsewhere').params) == native.fingerprint(native.load(saved).params)


def test_the_configuration_file_says_what_it_is(checkpoint, saved):
    fields = json.loads((saved / 'config.json').read_text())
    assert {name: fields.pop(name) for name in formats.stamp('checkpoint')} == formats.stamp('checkpoint')
    assert set(fields) == {field.name for field in dataclasses.fields(checkpoint.config)}
    assert native.is_native(saved) and not native.is_native(saved / 'params')


def test_expected_shapes_are_those_of_the_parameters(checkpoint):
    found = {'/'.join(path): leaf.shape for path, leaf in trees.flatten(checkpoint.params)}
    assert dict(native.parameter_shapes(checkpoint.config)) == found


def test_every_field_of_the_configuration_but_dtype_is_in_its_fingerprint(checkpoint):
    config = checkpoint.config
    assert native.config_fingerprint(dataclasses.replace(config, dtype='bfloat16')) == native.config_fingerprint(config)
    other = {
        'mlp_activations': ('silu',),
        'norm_epsilon': 0.5,
        'dropout_rate': 0.5,
        'norm': 'layer',
        'norm_position': 'post',
        'positions': 'rotary',
        'rotary_scaling': (8.0, 1.0, 4.0, 64.0),
        'encoder_attention': 'local',
        'other_eos_ids': (7,),
        **{field.name: not getattr(config, field.name) for field in dataclasses.fields(config) if field.type is bool},
    }
    seen = {native.config_fingerprint(config)}
    for field in dataclasses.fields(config):
        if field.name != 'dtype':
            value = other.get(field.name, getattr(config, field.name))
            changed = dataclasses.replace(config, **{field.name: value if field.name in other else value + 1})
            seen.add(native.config_fingerprint(changed))
    assert len(seen) == len(dataclasses.fields(config))


def test_the_fingerprint_of_a_configuration_survives_its_file(checkpoint, saved):
    assert native.config_fingerprint(native.read_config(saved)) == native.config_fingerprint(checkpoint.config)
