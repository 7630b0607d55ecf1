"""Beam search finds what the reference implementation found (tests/fixtures/parity): under the settings that BART's published
summarisers have, and under other rules for when to stop."""

import pathlib

import numpy as np
import pytest

from calm_jax.checkpoints import huggingface
from calm_jax.decoding.choice import Beam
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.decoding.rules import Rules

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'parity'
SETTINGS = {
    # min_length counts the start token
    'bart': (Beam(4, 2.0, True), Rules(no_repeat_ngram_size=3, min_new_tokens=11, forced_first_id=0, forced_last_id=2)),
    'short': (Beam(3, 0.6, False), Rules()),
    'never': (Beam(2, 1.0, 'never'), Rules(no_repeat_ngram_size=2)),
}


@pytest.mark.parametrize(
    'name, settings',
    [
        ('bart', 'bart'),
        ('bart', 'never'),
        ('gated_gelu', 'short'),
        ('gated_gelu', 'never'),
        ('t5_1_0', 'short'),
        ('llama_1', 'short'),
        ('llama_1', 'never'),
    ],
)
def test_beam_search_finds_the_references_sequences(name, settings):
    checkpoint = huggingface.read(FIXTURES / name)
    config, reference = checkpoint.config, np.load(FIXTURES / name / 'reference.npz')
    expected = reference[f'beam_{settings}']
    choice, rules = SETTINGS[settings]
    decoding = Decoding(limits=Limits(max_new_tokens=expected.shape[1]), choice=choice, rules=rules)
    source = np.where(reference['mask'], reference['source'], config.pad_id).astype(np.int32)
    trace = generate(config, checkpoint.params, source, reference['mask'], decoding)
    np.testing.assert_array_equal(np.where(np.arange(expected.shape[1]) < trace.lengths[:, None], trace.tokens, 0), expected)
    ends = [row.tolist().index(config.eos_id) + 1 if config.eos_id in row else len(row) for row in expected]
    np.testing.assert_array_equal(trace.lengths, ends)
