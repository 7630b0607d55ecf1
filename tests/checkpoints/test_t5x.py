"""Checkpoints of t5x, in both of its formats, and the one that t5x itself is tested with."""

import json
import lzma
import os
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from flax import serialization

from calm_jax.checkpoints import huggingface, native, t5x
from calm_jax.cli import main
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'
DATA = pathlib.Path(os.environ.get('CALM_TEST_DATA', 'nowhere'))


def tree_of(checkpoint):
    """What t5x keeps: the parameters as `target`, and the optimizer's state, here of one parameter."""
    params = jax.tree.map(np.asarray, checkpoint.params)
    return {'target': params, 'state': {'step': np.int32(7), 'param_states': {'decoder': {'m': np.ones(3, np.float32)}}}}


def write_legacy(directory, tree, apart=()):
    """The msgpack file, and as zarr beside it the parameters of these paths, for which the file says where they are."""
    target = jax.tree.map(lambda x: x, tree['target'])
    for path in apart:
        *parents, leaf = path.split('/')
        node = target
        for name in parents:
            node = node[name]
        folder = f'target.{path.replace("/", ".")}'
        spec = {
            'driver': 'zarr',
            'kvstore': {'driver': 'file', 'path': str(directory / folder)},
            'metadata': {'shape': node[leaf].shape, 'dtype': '<f4', 'chunks': node[leaf].shape},
        }
        tensorstore.open(spec, create=True).result().write(node[leaf]).result()
        node[leaf] = {'driver': 'zarr', 'dtype': 'float32', 'kvstore': {'driver': 'gfile', 'path': folder}}
    (directory / 'checkpoint').write_bytes(
        serialization.msgpack_serialize({'version': 3, 'optimizer': {'target': target, 'state': tree['state']}})
    )


def write_orbax(directory, tree):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save((directory / 'state').absolute(), tree)


@pytest.fixture(params=['gated_gelu', 't5_1_0'])
def model(request):
    return FIXTURES / request.param, huggingface.read(FIXTURES / request.param)


@pytest.mark.parametrize('layout', ['legacy', 'legacy with arrays apart', 'orbax'])
def test_every_format_gives_the_parameters_back_and_the_configuration_that_they_imply(model, layout, tmp_path):
    folder, checkpoint = model
    if layout == 'orbax':
        write_orbax(tmp_path, tree_of(checkpoint))
    else:
        apart = ['token_embedder/embedding', 'decoder/layers_0/mlp/wo/kernel'] if 'apart' in layout else ()
        write_legacy(tmp_path, tree_of(checkpoint), apart)
    assert t5x.is_t5x(tmp_path)
    found = t5x.read(tmp_path, folder)
    assert native.fingerprint(found.params) == native.fingerprint(checkpoint.params)
    assert native.config_fingerprint(found.config) == native.config_fingerprint(checkpoint.config)


def test_a_checkpoint_becomes_a_native_one_by_command(model, tmp_path, capsys):
    folder, checkpoint = model
    write_legacy(tmp_path, tree_of(checkpoint))
    assert main(['import', str(tmp_path), '--output', str(tmp_path / 'out'), '--tokenizer', str(folder)]) == 0
    assert native.fingerprint(native.load(tmp_path / 'out').params) == native.fingerprint(checkpoint.params)
    assert main(['import', str(tmp_path), '--output', str(tmp_path / 'other')]) == 2
    assert 'name its folder with --tokenizer' in capsys.readouterr().err


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda tree: tree['target']['decoder'].pop('decoder_norm'), 'decoder/decoder_norm/scale is missing'),
        (lambda tree: tree['target'].update(more={'w': np.ones(2)}), 'more/w is unexpected'),
        (lambda tree: tree['target']['decoder'].pop('relpos_bias'), 'holds no decoder/relpos_bias'),
    ],
)
def test_what_is_missing_or_left_over_is_named(damage, message, tmp_path):
    tree = tree_of(huggingface.read(FIXTURES / 'gated_gelu'))
    damage(tree)
    write_legacy(tmp_path, tree)
    with pytest.raises(ValueError, match=message):
        t5x.read(tmp_path, FIXTURES / 'gated_gelu')


def test_damaged_files_are_one_line(tmp_path):
    tree = tree_of(huggingface.read(FIXTURES / 'gated_gelu'))
    write_legacy(tmp_path, tree, ['token_embedder/embedding'])
    (tmp_path / 'target.token_embedder.embedding').rename(tmp_path / 'moved')
    with pytest.raises(FileNotFoundError, match='lacks target.token_embedder.embedding'):
        t5x.read(tmp_path, FIXTURES / 'gated_gelu')
    (tmp_path / 'checkpoint').write_bytes((tmp_path / 'checkpoint').read_bytes()[:1000])
    with pytest.raises(ValueError, match='no checkpoint of t5x, or a damaged one') as error:
        t5x.read(tmp_path, FIXTURES / 'gated_gelu')
    assert '\n' not in str(error.value)


@pytest.mark.skipif(not DATA.is_dir(), reason='data outside the repository: $CALM_TEST_DATA/ckpt/t5x_tiny')
def test_the_checkpoint_that_t5x_is_tested_with_loads_and_decodes(tmp_path):
    packed = DATA / 'ckpt' / 't5x_tiny' / 'test_t5_tiny.checkpoint_0.xz'
    (tmp_path / 'checkpoint').write_bytes(lzma.decompress(packed.read_bytes()))
    (tmp_path / 'tokenizer').mkdir()
    (tmp_path / 'tokenizer' / 'spiece.model').write_bytes((DATA / 'vocab' / 't5' / 'spiece.model').read_bytes())
    found = t5x.read(tmp_path, tmp_path / 'tokenizer')
    config = found.config
    assert (config.num_encoder_layers, config.num_decoder_layers, config.emb_dim, config.vocab_size) == (2, 2, 8, 32128)
    assert found.tokenizer.vocab_size <= config.vocab_size and json.dumps(config.mlp_activations) == '["gelu", "linear"]'
    source = np.array([[*found.tokenizer.encode('A man rides a bicycle.'), 1]], np.int32)
    trace = generate(config, found.params, source, decoding=Decoding(Limits(max_new_tokens=4)))
    assert trace.lengths[0] >= 1 and trace.tokens.shape == (1, 4)
