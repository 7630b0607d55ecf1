"""Checkpoints of t5x, in both of its formats, with layers apart and stacked; runs with several of them; what t5x computes with
a model of `scalable_t5` (scripts/make_t5x_fixture.py), and the checkpoint that t5x itself is tested with."""

import dataclasses
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
from calm_jax.checkpoints.t5x_layers import layers_apart
from calm_jax.checkpoints.trees import put
from calm_jax.cli import main
from calm_jax.data.tokenizers import ByteTokenizer
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.models.transformer import Transformer

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'
SCALABLE = np.load(pathlib.Path(__file__).parents[1] / 'fixtures' / 't5x' / 'scalable_t5.npz')
PIECES = FIXTURES / 'gated_gelu'  # the folder of a vocabulary of 64 pieces
# What a run of t5x writes beside its checkpoints, in parts.
RUN = {
    'macros': r"""
from __gin__ import dynamic_registration
import __main__ as train_script
import seqio
from t5x import models
from t5x.examples.scalable_t5 import network

# Macros:
# ==============================================================================
DROPOUT_RATE = 0.05
VOCABULARY = @seqio.SentencePieceVocabulary()

# Parameters for train_script.train:
# ==============================================================================
train_script.train.infer_eval_dataset_cfg = None
train_script.train.model = @models.EncoderDecoderModel()

# Parameters for models.EncoderDecoderModel:
# ==============================================================================
models.EncoderDecoderModel.input_vocabulary = %VOCABULARY
models.EncoderDecoderModel.output_vocabulary = %VOCABULARY

# Parameters for network.T5Config:
# ==============================================================================
network.T5Config.dropout_rate = %DROPOUT_RATE
network.T5Config.dtype = 'bfloat16'
network.T5Config.emb_dim = 16
network.T5Config.head_dim = 6
network.T5Config.logits_via_embedding = False
""",
    'activations': "network.T5Config.mlp_activations = ('silu', 'linear')\n",
    'layers': """
network.T5Config.num_decoder_layers = 2
network.T5Config.num_encoder_layers = 3
network.T5Config.remat_policy = 'minimal'
network.T5Config.scan_layers = True
network.T5Config.vocab_size = 64
""",
    'vocabulary': r"""
# Parameters for seqio.SentencePieceVocabulary:
# ==============================================================================
seqio.SentencePieceVocabulary.sentencepiece_model_file = \
    'gs://bucket/vocabularies/of_a_long_name/sentencepiece.model'
""",
}
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


def stacked(change=None):
    """What t5x keeps of the model of the fixture, after `change` of {path: array}."""
    target = {name.removeprefix('target/'): SCALABLE[name] for name in SCALABLE if name.startswith('target/')}
    if change is not None:
        change(target)
    tree = {'target': {}, 'state': {'step': np.int32(7), 'param_states': None}}  # as of an optimizer that trains a part
    for name, array in target.items():
        put(tree['target'], name.split('/'), array)
    return tree


def write_run(directory, *saved, gin=RUN):
    """A run's folder with checkpoints of these steps, each {step: tree}, and what has no end yet."""
    directory.mkdir(exist_ok=True)
    for step, tree in saved:
        (directory / f'checkpoint_{step}').mkdir()
        write_legacy(directory / f'checkpoint_{step}', tree)
    (directory / 'checkpoint_99.tmp-1700000000').mkdir()
    (directory / 'config.gin').write_text(''.join(gin.values()))
    return directory


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


def test_stacked_layers_compute_what_t5x_computes(tmp_path):
    config, params, *_ = t5x.read(write_run(tmp_path / 'run', (20, stacked())), PIECES)
    assert (config.num_encoder_layers, config.num_decoder_layers, config.num_heads, config.head_dim) == (3, 2, 2, 6)
    assert (config.mlp_activations, config.dropout_rate) == (('silu', 'linear'), 0.05)

    @jax.jit
    def forward(source, mask, target):
        return Transformer(config).apply({'params': params}, source, target, mask)

    source, mask = SCALABLE['source'], SCALABLE['source'] != 0
    logits = forward(source, mask, SCALABLE['target_input'])
    np.testing.assert_allclose(logits, SCALABLE['logits'], atol=1e-4)
    endless = dataclasses.replace(config, eos_id=-1)
    greedy = SCALABLE['greedy']
    trace = generate(endless, params, source, mask, decoding=Decoding(Limits(max_new_tokens=greedy.shape[1])))
    np.testing.assert_array_equal(trace.tokens, greedy)


def first_axis(target):
    """Stacks layers along the first axis, as t5x does where it is told to."""
    for name in target:
        if name.startswith(('encoder/encoder/', 'decoder/decoder/')):
            target[name] = np.moveaxis(target[name], 1, 0)


def unstack(target):
    """Layers apart, as `scalable_t5` has them where it does not scan."""
    for stack in ('encoder', 'decoder'):
        for name in [name for name in target if name.startswith(f'{stack}/{stack}/')]:
            array = target.pop(name)
            for layer in range(array.shape[1]):
                target[f'{stack}/layers_{layer}/{name.removeprefix(f"{stack}/{stack}/")}'] = array[:, layer]


@pytest.mark.parametrize('change', [None, first_axis, unstack])
@pytest.mark.parametrize('write', [write_legacy, write_orbax])
def test_however_layers_are_laid_out_the_parameters_are_the_same(change, write, tmp_path):
    expected = {name: array for name, array in SCALABLE.items() if name.startswith('target/')}
    write(tmp_path, stacked(change))
    config, params, *_ = t5x.read(tmp_path, PIECES)
    assert config.relative_attention_per_layer and config.mlp_activations == ('gelu', 'linear')
    for layer in range(3):
        ours, theirs = params['encoder'][f'layers_{layer}'], 'target/encoder/encoder'
        for name in ('query', 'out'):
            kernel = expected[f'{theirs}/attention/{name}/kernel'][:, layer]
            np.testing.assert_array_equal(
                ours['attention'][name]['kernel'], kernel.reshape((-1, 12) if name == 'query' else (12, -1))
            )
        np.testing.assert_array_equal(
            ours['relpos_bias']['rel_embedding'], expected[f'{theirs}/relpos_bias/rel_embedding'][:, layer]
        )
        np.testing.assert_array_equal(
            ours['pre_mlp_layer_norm']['scale'], expected[f'{theirs}/pre_mlp_layer_norm/scale'][:, layer]
        )
    np.testing.assert_array_equal(
        params['decoder']['layers_1']['mlp']['wi_1']['kernel'], expected['target/decoder/decoder/mlp/wi_1/kernel'][:, 1]
    )


def test_stacked_layers_of_t5_1_0(tmp_path):
    def plain(target):
        del target['decoder/logits_dense/kernel']
        for stack in ('encoder', 'decoder'):
            target[f'{stack}/{stack}/mlp/wi/kernel'] = target.pop(f'{stack}/{stack}/mlp/wi_0/kernel')
            del target[f'{stack}/{stack}/mlp/wi_1/kernel']

    write_legacy(tmp_path, stacked(plain))
    config = t5x.read(tmp_path, PIECES).config
    assert (config.mlp_activations, config.tied_head, config.head_scale) == (('relu',), True, 16**-0.5)


class Tensor:
    def __init__(self, array):
        self.array, self.shape = np.asarray(array), np.shape(array)

    def read(self):
        return self.array


@pytest.mark.parametrize('axis, first', [(None, [0, 2]), (1, [0, 2]), (0, [0, 1])])
def test_as_many_layers_as_the_state_is_wide_stand_along_the_second_axis_unless_the_run_says_the_first(axis, first):
    name = 'encoder/encoder/pre_mlp_layer_norm/scale'
    tensors = {'token_embedder/embedding': Tensor(np.zeros((5, 2))), name: Tensor([[0, 1], [2, 3]])}
    apart = layers_apart('here', tensors, axis)
    assert apart['encoder/layers_0/pre_mlp_layer_norm/scale'].read().tolist() == first


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda target: target.update({'encoder/layers_0/mlp/wo/kernel': np.ones((20, 16))}), 'holds both encoder/layers_0'),
        (
            lambda target: target.pop('encoder/encoder/pre_mlp_layer_norm/scale'),
            'holds no encoder/encoder/pre_mlp_layer_norm/scale',
        ),
        (
            lambda target: target.update({'encoder/encoder/mlp/wo/kernel': np.ones((20, 4, 16), np.float32)}),
            r'encoder/encoder/mlp/wo/kernel is \[20, 4, 16\]; expected 3 layers along axis 1',
        ),
        (
            lambda target: target.update({'decoder/decoder/pre_mlp_layer_norm/scale': np.ones((9, 2), np.float32)}),
            r'scale is \[9, 2\]; expected layers of \[16\] along either axis',
        ),
        (lambda target: target.pop('decoder/decoder/mlp/wo/kernel'), 'decoder/layers_0/mlp/wo/kernel is missing'),
        (lambda target: target.update({'encoder/encoder/more': np.ones((2, 3))}), 'encoder/layers_0/more is unexpected'),
        (
            lambda target: target.pop('encoder/encoder/relpos_bias/rel_embedding'),
            'encoder/layers_0/relpos_bias/rel_embedding is',
        ),
        (lambda target: target.update({'token_embedder/embedding': np.ones(64)}), 'expected layers of|expected two axes'),
    ],
)
def test_a_tree_that_is_no_t5_is_refused_in_one_line(damage, message, tmp_path):
    write_legacy(tmp_path, stacked(damage))
    with pytest.raises(ValueError, match=message) as error:
        t5x.read(tmp_path, PIECES)
    assert '\n' not in str(error.value)


def test_of_a_run_the_newest_checkpoint_is_read_or_that_of_a_step(tmp_path, capsys):
    def other(target):
        target['encoder/encoder_norm/scale'] = target['encoder/encoder_norm/scale'] + 1

    run = write_run(tmp_path / 'run', (9, stacked(other)), (20, stacked()))
    scales = {}
    for name, folder, flags in (('newest', run, []), ('earlier', run, ['--step', '9']), ('named', run / 'checkpoint_9', [])):
        flags = [*flags, '--tokenizer', str(PIECES), '--output', str(tmp_path / name), '--quiet']
        assert main(['import', str(folder), *flags]) == 0
        checkpoint = native.load(tmp_path / name)
        assert checkpoint.config.mlp_activations == ('silu', 'linear')  # which the run alone says
        scales[name] = np.asarray(checkpoint.params['encoder']['encoder_norm']['scale']).tolist()
    assert scales['newest'] == SCALABLE['target/encoder/encoder_norm/scale'].tolist()
    assert scales['earlier'] == scales['named'] != scales['newest']
    (run / 'checkpoint_30').mkdir()
    for folder, flags, message in (
        (run, ['--step', '10'], 'holds no step 10; found steps 9, 20, 30'),
        (run, [], 'checkpoint_30: holds no checkpoint of t5x; copy it again, or choose another with --step'),
        (run / 'checkpoint_9', ['--step', '9'], 'no folder checkpoint_N to choose from'),
        (FIXTURES / 'gated_gelu', ['--step', '9'], 'no folder checkpoint_N to choose from'),
    ):
        assert main(['import', str(folder), *flags, '--tokenizer', str(PIECES), '--output', str(tmp_path / 'none')]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count('\n') == 1


@pytest.mark.parametrize(
    'part, text, message',
    [
        ('layers', 'network.T5Config.num_encoder_layers = 4\n', 'num_encoder_layers is 4, but the parameters are of 3'),
        ('layers', 'network.T5Config.num_heads = 4\n', 'num_heads is 4, but the parameters are of 2'),
        ('layers', 'network.T5Config.scan_layers = False\n', 'scan_layers is False, but the parameters are of True'),
        (
            'layers',
            'network.T5Config.logits_via_embedding = True\n',
            'logits_via_embedding is True, but the parameters are of False',
        ),
        ('layers', 'network.T5Config.param_scan_axis = 0\n', 'along axis 0, which its gin file says'),
        ('layers', 'network.T5Config.depth_scale = 2\n', 'T5Config.depth_scale is not understood'),
        ('layers', 'network.T5Config.dropout_rate = 2\n', 'dropout_rate is 2'),
        (
            'activations',
            "network.T5Config.mlp_activations = ('relu',)\n",
            r"mlp_activations is \('relu',\), but the parameters are of 2",
        ),
        ('activations', "network.T5Config.mlp_activations = ('tanh', 'linear')\n", 'expected as many of gelu, relu, silu'),
        ('layers', "include 't5x/examples/scalable_t5/t5_1_1/base.gin'\n", 'includes t5x/examples/scalable_t5/t5_1_1/base.gin'),
        ('layers', 'network.T5Config.emb_dim = = 3\n', 'cannot be read as gin'),
        (
            'macros',
            RUN['macros'].replace('SentencePiece', 'Byte'),
            'is a ByteVocabulary, but .* holds another kind of tokenizer',
        ),
        ('vocabulary', 'seqio.SentencePieceVocabulary.extra_ids = 300\n', 'has 300 extra_ids, but the tokenizer in .* 0; say'),
    ],
)
def test_a_run_that_says_other_than_its_parameters_is_refused_in_one_line(part, text, message, tmp_path):
    run = write_run(tmp_path / 'run', (20, stacked()), gin={**RUN, part: text})
    with pytest.raises(ValueError, match=message) as error:
        t5x.read(run, PIECES)
    assert '\n' not in str(error.value) and 'gin' in str(error.value)


def test_a_vocabulary_that_a_run_names_is_used_where_it_is_here(tmp_path):
    model = tmp_path / 'sentencepiece.model'
    model.write_bytes((PIECES / 'spiece.model').read_bytes())
    named = {**RUN, 'vocabulary': f'seqio.SentencePieceVocabulary.sentencepiece_model_file = {str(model)!r}\n'}
    run = write_run(tmp_path / 'run', (20, stacked()), gin=named)
    assert t5x.read(run, None).tokenizer.vocab_size == 64
    (run / 'config.gin').write_text(''.join(RUN.values()))
    with pytest.raises(ValueError, match='the vocabulary is gs://bucket/.*/sentencepiece.model; fetch it'):
        t5x.read(run, None)
    bytewise = RUN['macros'].replace('SentencePiece', 'Byte') + RUN['activations'] + 'network.T5Config.vocab_size = 260\n'
    (run / 'config.gin').write_text(bytewise)

    def wide(target):
        target['token_embedder/embedding'] = np.ones((260, 16), np.float32)
        target['decoder/logits_dense/kernel'] = np.ones((16, 260), np.float32)

    (run / 'checkpoint_21').mkdir()
    write_legacy(run / 'checkpoint_21', stacked(wide))
    assert t5x.read(run, None).tokenizer.fingerprint() == ByteTokenizer().fingerprint()


def test_position_biases_of_every_layer_are_published_and_read_again(tmp_path):
    write_legacy(tmp_path, stacked())
    checkpoint = t5x.read(tmp_path, PIECES)
    huggingface.write(tmp_path / 'published', checkpoint)
    assert json.loads((tmp_path / 'published' / 'config.json').read_text())['model_type'] == 'umt5'
    again = huggingface.read(tmp_path / 'published')
    assert native.fingerprint(again.params) == native.fingerprint(checkpoint.params)
    assert native.config_fingerprint(again.config) == native.config_fingerprint(checkpoint.config)
