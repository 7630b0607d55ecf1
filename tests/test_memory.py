"""What a decode needs is counted from shapes, and is what its arrays and its program take."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from calm_jax.decoding import generate
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.packing import Packing
from calm_jax.depth.confidence import SoftmaxGap, StateSimilarity
from calm_jax.depth.contrast import WeightedContrast
from calm_jax.depth.exits import Exit
from calm_jax.depth.vocabulary import FixedPruning
from calm_jax.memory import Held, check_memory, decode_bytes, prefill_bytes, state_bytes, step_bytes
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import init_params

SIZES = {'emb_dim': 32, 'num_heads': 2, 'head_dim': 16, 'mlp_dim': 64, 'num_decoder_layers': 2, 'vocab_size': 4096}
ENCODER_DECODER = TransformerConfig(**SIZES, num_encoder_layers=1)
DECODER_ONLY = TransformerConfig(**SIZES, num_encoder_layers=0, num_kv_heads=1, positions='rotary')
EARLY = Decoding(Limits(64, 24), Exit(StateSimilarity(), 0.9))


def arguments(config, rows, width):
    params = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    shapes = ((rows, width), jnp.int32), ((rows, width), jnp.bool_), ((rows,), jnp.int32)
    return config, params, *(jax.ShapeDtypeStruct(*each) for each in shapes)


def size(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


VERIFIED = dataclasses.replace(EARLY, exit=dataclasses.replace(EARLY.exit, verify=6))


@pytest.mark.parametrize('early', [EARLY, VERIFIED], ids=['early', 'verified'])
@pytest.mark.parametrize('config', [ENCODER_DECODER, DECODER_ONLY], ids=['encoder_decoder', 'decoder_only'])
def test_the_state_is_counted_to_the_byte(config, early):
    _, params, *inputs = arguments(config, 5, 24)
    decoding, rows, settings = generate.resolved(early, None, None)
    options = {'forced': None, 'head_table': None, 'log_probabilities': False, 'cursor': None, **settings}
    options |= {'packing': Packing(), 'kept': None}

    def begin(params, *inputs):
        decided = generate.decide_program(config, params, *inputs, decoding)
        return generate.prefill_program(config, params, decided, decoding, rows=rows, **options)

    inputs, carry = jax.eval_shape(begin, params, *inputs)
    held = (carry.cache.layers, carry.cache.exit_states, inputs.cross_kv, carry.table, carry.confidence)
    assert state_bytes(Held(config, early, 24, 24), 5, 24) == size(held)


@pytest.mark.parametrize('early', [EARLY, VERIFIED], ids=['early', 'verified'])
def test_a_batch_takes_what_was_counted(early):
    """XLA's own account of the program, its fullest moment being the logits."""
    config, params, *inputs = arguments(ENCODER_DECODER, 32, 16)
    decoding, rows, settings = generate.resolved(early, None, None)
    options = {'forced': None, 'head_table': None, 'log_probabilities': False, 'packing': Packing(), **settings}
    program = generate.generate_program.plain.lower(config, params, *inputs, decoding, rows=rows, **options).compile()
    taken = program.memory_analysis().temp_size_in_bytes
    assert 0.7 < decode_bytes(Held(config, early, 16, 24), 32) / taken < 1.4


def test_what_grows_with_rows_widths_ids_and_packing_is_counted():
    def step(measure, **more):
        return step_bytes(Held(ENCODER_DECODER, Decoding(exit=Exit(measure, 0.5)), 64, 24, **more), 8)

    logits = 8 * 4096 * 4
    assert step(StateSimilarity()) == step(SoftmaxGap()) == 3 * logits
    assert step(SoftmaxGap(FixedPruning(keep=512))) > logits + 8 * 512 * 32 * 4
    assert step(WeightedContrast()) > 2 * logits
    assert step(SoftmaxGap(), beams=4) == 4 * 3 * logits
    held = Held(ENCODER_DECODER, EARLY, 64, 24)
    assert prefill_bytes(held._replace(width=128), 8) > 2 * prefill_bytes(held, 8)  # scores of every pair
    flight = held._replace(flight=True)
    slots, waiting = state_bytes(held, 8, 64), state_bytes(held, 4, 64)  # two groups of a quarter
    assert decode_bytes(flight, 8) >= slots + waiting + step_bytes(held, 8)
    assert decode_bytes(flight._replace(narrower=56), 8) > decode_bytes(flight, 8)
    few = TransformerConfig(**{**SIZES, 'vocab_size': 8}, num_encoder_layers=1)
    packings = Packing(), Packing((1,), (4,)), Packing((1,), (2,))
    none, half, quarter = [step_bytes(Held(few, EARLY, 64, 24, packing=packing), 8) for packing in packings]
    assert quarter > none == half  # half of the rows attend in place, nothing is copied


def test_what_is_said_to_fit_fits(monkeypatch):
    held = Held(ENCODER_DECODER, EARLY, 64, 24, flight=True)
    free = decode_bytes(held, 13)
    monkeypatch.setattr('calm_jax.memory.free_bytes', lambda: free)
    check_memory(held, 13)
    with pytest.raises(ValueError, match='^14 rows need .* of memory for 64 tokens of source and 24 new ones, .* at most 13$'):
        check_memory(held, 14)
    monkeypatch.setattr('calm_jax.memory.free_bytes', lambda: 10)
    with pytest.raises(ValueError, match='lower the limits: not even one row fits'):
        check_memory(held, 14)
