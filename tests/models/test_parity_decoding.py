"""The token loop, with its caches, generates what the reference implementation generated (tests/fixtures/parity)."""

import dataclasses
import pathlib

import numpy as np
import pytest

from calm_jax.checkpoints import huggingface
from calm_jax.decoding.generate import generate

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'


@pytest.mark.parametrize('name', sorted(path.name for path in FIXTURES.iterdir()))
def test_the_token_loop_emits_the_references_64_greedy_tokens(name):
    checkpoint = huggingface.read(FIXTURES / name)
    reference = np.load(FIXTURES / name / 'reference.npz')
    config = dataclasses.replace(checkpoint.config, eos_id=-1, other_eos_ids=())  # End-of-sequence is a token like any other.
    source = np.where(reference['mask'], reference['source'], config.pad_id).astype(np.int32)
    trace = generate(config, checkpoint.params, source, max_new_tokens=64)
    np.testing.assert_array_equal(trace.tokens, reference['greedy'])
    np.testing.assert_array_equal(trace.exit_layers, config.num_decoder_layers)
