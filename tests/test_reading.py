"""What a step reads, against arrays whose sizes are known."""

import dataclasses

import jax
import numpy as np
import pytest

from calm_jax import reading
from calm_jax.models import transformer
from calm_jax.models.config import TransformerConfig
from calm_jax.models.joined import join, split

CONFIG = TransformerConfig(
    vocab_size=40,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=2,
    mlp_activations=('gelu', 'linear'),
)


def sizes(config):
    """Bytes that a step of the model reads, laid out for decoding and under t5x's names."""
    params = jax.eval_shape(lambda key: transformer.init_params(config, key), jax.random.key(0))
    params = join(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params), config)
    return [sum(each.nbytes for each in reading.step_weights(tree, config)) for tree in (params, split(params, config))]


@pytest.mark.parametrize('tied', [False, True])
def test_a_step_reads_the_decoder_and_one_head(tied):
    norms = 3 * 8  # before each of the three parts
    attention = 4 * 8 * 8  # queries, keys, values and output
    cross = 2 * 8 * 8  # keys and values of the source are made before the first token
    feed_forward = 3 * 8 * 16
    head = 8 * 40  # tied or not, once
    floats = 2 * (norms + attention + cross + feed_forward) + 8 + head
    assert sizes(dataclasses.replace(CONFIG, tied_head=tied)) == [4 * floats] * 2


def test_of_a_decoder_alone_a_step_reads_no_table_of_positions():
    alone = dataclasses.replace(
        CONFIG, num_encoder_layers=0, positions='learned', max_positions=1000, pad_id=-1, norm='layer', attention_bias=True
    )
    floats = 2 * (2 * 2 * 8 + 4 * (8 * 8 + 8) + 3 * 8 * 16) + 2 * 8 + 8 * 40
    assert sizes(alone) == [4 * floats] * 2


def test_pieces_of_threads_are_the_arrays_once():
    arrays = [np.arange(7, dtype=np.float32).reshape(7, 1), np.arange(1, dtype=np.float32), np.ones((2, 3), np.float16)]
    for count in (1, 2, 3):
        parts = reading._parts(arrays, count)
        assert len(parts) == count and sum(each.nbytes for part in parts for each in part) == sum(a.nbytes for a in arrays)
        numbers = [each.view(np.float32) for part in parts for each in part if each.itemsize == 4]
        assert sorted(np.concatenate(numbers).tolist()) == [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_steps_are_timed_apart_from_what_precedes_them(monkeypatch):
    """On a clock that counts generated tokens, with 5 for the encoder, a step is 1 and reading takes 0.25."""
    clock, asked = [0.0], []

    def program(config, params, tokens, mask, decoding, capacity, outermost):
        assert config.eos_id == -1 and config.other_eos_ids == () and outermost

        def run():
            asked.append((decoding.limits.max_new_tokens, capacity))
            clock[0] += 5 + decoding.limits.max_new_tokens
            return ()

        return run, (), {}

    monkeypatch.setattr(reading, 'program', program)
    monkeypatch.setattr(reading, 'perf_counter', lambda: clock[0])
    monkeypatch.setattr(reading, 'read_seconds', lambda arrays: 0.25)
    params = {'decoder': {'layers_0': {'mlp': np.zeros(6, np.float32)}, 'logits_dense': {'kernel': np.zeros(2, np.float32)}}}
    timed = reading.time_step(CONFIG, params, np.zeros((1, 3)), np.ones((1, 3), bool), 9, rounds=2)
    assert timed.step.tolist() == [1, 1] and asked == [(1, 16), (9, 16)] * 3
    assert timed.as_dict() == {'step_ms': 1000, 'read_ms': 250, 'share': 0.25, 'weight_bytes': 32}
