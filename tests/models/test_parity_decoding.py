"""The token loop, with its caches, generates what the reference implementation generated (tests/fixtures/parity)."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from calm_jax.checkpoints import huggingface
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'


@pytest.mark.parametrize('name', sorted(path.name for path in FIXTURES.iterdir()))
def test_the_token_loop_emits_the_references_64_greedy_tokens(name):
    checkpoint = huggingface.read(FIXTURES / name)
    reference = np.load(FIXTURES / name / 'reference.npz')
    config = dataclasses.replace(checkpoint.config, eos_id=-1, other_eos_ids=())  # End-of-sequence is a token like any other.
    source = np.where(reference['mask'], reference['source'], config.pad_id).astype(np.int32)
    trace = generate(config, checkpoint.params, source, reference['mask'], Decoding(limits=Limits(max_new_tokens=64)))
    np.testing.assert_array_equal(trace.tokens, reference['greedy'])
    np.testing.assert_array_equal(trace.exit_layers, config.num_decoder_layers)


def test_the_optimised_program_emits_them_too():
    """conftest.py turns XLA's optimiser off for the tests; what users run has it on. One process for both kinds of model."""
    test = test_the_token_loop_emits_the_references_64_greedy_tokens.__name__
    code = f'import runpy; test = runpy.run_path({__file__!r})[{test!r}]; test("gated_gelu"); test("llama_3")'
    environment = {key: value for key, value in os.environ.items() if key not in ('XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR')}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)
