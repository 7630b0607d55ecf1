"""A tiny transformer, and records that it can learn, for the tests of training."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.data.batching import Example, TrainingBatches, evaluation_batches
from calm_jax.data.tokenizers import ByteTokenizer
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import init_params
from calm_jax.training.train_state import Stage, of_loss

LENGTHS = {'max_source_length': 8, 'max_target_length': 8}


@pytest.fixture(scope='session')
def config():
    return TransformerConfig(
        vocab_size=ByteTokenizer().vocab_size,
        emb_dim=16,
        num_heads=2,
        head_dim=8,
        mlp_dim=24,
        num_encoder_layers=1,
        num_decoder_layers=2,
        dropout_rate=0.1,
    )


@pytest.fixture(scope='session')
def params(config):
    # The shapes of a real initialisation with NumPy's numbers, which need no compilation.
    random = np.random.RandomState(0)
    shapes = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    return jax.tree.map(
        lambda leaf: np.ones(leaf.shape, np.float32) if leaf.ndim == 1 else (random.randn(*leaf.shape) / 4).astype(np.float32),
        shapes,
    )


@pytest.fixture(scope='session')
def deeper(config, params):
    """(configuration, parameters) with a second encoder layer, so that source tokens may be dropped."""
    other = jax.tree.map(lambda leaf: np.roll(leaf, 1, axis=0), params['encoder']['layers_0'])
    encoder = {**params['encoder'], 'layers_1': other}
    return dataclasses.replace(config, num_encoder_layers=2, dropout_rate=0.0), {**params, 'encoder': encoder}


@pytest.fixture(scope='session')
def tokenizer():
    return ByteTokenizer()


@pytest.fixture(scope='session')
def examples():
    """Letters to be copied in upper case; 24 of them."""
    random = np.random.RandomState(0)
    sources = [random.randint(0, 8, size=random.randint(2, 7)) + 3 + ord('a') for _ in range(24)]
    return [Example(source.astype(np.int32), (source - 32).astype(np.int32)) for source in sources]


def toy_stage(noise=0.1):
    """A vector w [259] that learns each target token's number of hundreds, with dropout-like noise; compiles at once."""

    def error(params, batch, noise):
        wanted = batch['decoder_target_tokens'] / 100
        return jnp.square(params['w'][batch['decoder_target_tokens']] + noise - wanted) * batch['decoder_loss_weights']

    def loss(params, frozen, batch, key):
        drawn = noise * jax.random.normal(key, batch['decoder_target_tokens'].shape)
        return jnp.sum(error(params, batch, drawn)), jnp.sum(batch['decoder_loss_weights'])

    def measure(params, frozen, batch):
        return {'loss': jnp.sum(error(params, batch, 0.0)), 'tokens': jnp.sum(batch['decoder_loss_weights'])}

    def export(params, directory):
        directory.mkdir(exist_ok=True)
        np.save(directory / 'w.npy', params['w'])

    def report(sums):
        return {'loss': float(sums['loss'] / sums['tokens'])}

    return Stage({'w': np.zeros(259, np.float32)}, {}, of_loss(loss), measure, report, ('loss',), export)


@pytest.fixture
def toy():
    return toy_stage()


@pytest.fixture
def batches(examples):
    return TrainingBatches(examples, 4, **LENGTHS)


@pytest.fixture
def eval_batches(examples):
    return list(evaluation_batches(examples[:6], 4, **LENGTHS))


@pytest.fixture(scope='session')
def lines(examples, tokenizer):
    """The examples as JSONL with fields en and fr."""
    return ''.join(
        json.dumps({'en': tokenizer.decode(example.source), 'fr': tokenizer.decode(example.target)}) + '\n'
        for example in examples
    )


@pytest.fixture
def jsonl(tmp_path, lines):
    """Path of the examples."""
    path = tmp_path / 'train.jsonl'
    path.write_text(lines)
    return path


@pytest.fixture
def arguments(tmp_path, tokenizer, jsonl):
    """Flags of a run in a folder that holds its data and tokenizer, of the smallest transformer with an exit."""
    tokenizer.save(tmp_path / 'tokenizer')
    return [
        'train',
        '--gin_file=models/tiny.gin',
        '--gin_file=runs/train.gin',
        f"--gin.MODEL_DIR='{tmp_path}/model'",
        f"--gin.TRAIN_DATA='{tmp_path}/train.jsonl'",
        f"--gin.EVAL_DATA='{tmp_path}/train.jsonl'",
        "--gin.SOURCE='{en}'",
        '--gin.TARGET="fr"',
        f"--gin.TOKENIZER='{tmp_path}/tokenizer'",
        '--gin.MAX_SOURCE_LENGTH=8',
        '--gin.MAX_TARGET_LENGTH=8',
        '--gin.TransformerConfig.num_encoder_layers=1',
        "--gin.OPTIMIZER='adamw'",
        '--gin.TransformerConfig.emb_dim=16',
        '--gin.TransformerConfig.head_dim=8',
        '--gin.TransformerConfig.mlp_dim=24',
        "--gin.TransformerConfig.mlp_activations=('relu',)",
        '--gin.DROPOUT_RATE=0.2',
        '--gin.SAMPLED_EXITS=True',
        '--steps=2',
        '--batch_size=8',
        '--learning_rate=0.01',
        '--quiet',
    ]
