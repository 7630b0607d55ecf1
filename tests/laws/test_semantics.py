"""The semantics number: while it stands, decodes say what they said when it was set.

`tests/specimens/tokens.json` holds what the NumPy decoder of these laws says, with the margin of every token and decision.
Where a decode in float64 says otherwise, at margins above 1e-3, `calm_jax.formats.SEMANTICS` must rise, with a line in the
changelog, and `scripts/make_specimens.py` be run again.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.decoding import codec
from calm_jax.decoding.generate import generate
from calm_jax.formats import SEMANTICS

SPECIMEN = json.loads((pathlib.Path(__file__).parents[1] / 'specimens' / 'tokens.json').read_text())
LEAST_MARGIN = 1e-3


def test_the_specimen_is_of_the_semantics_that_stand():
    assert SPECIMEN['semantics'] == SEMANTICS, 'run scripts/make_specimens.py, and say in CHANGELOG.md what changed'


@pytest.mark.parametrize('case', SPECIMEN['cases'], ids=lambda case: case['name'])
def test_decodes_say_what_their_semantics_promise(config, params, sources, case):
    heads = {head: {name: np.asarray(array) for name, array in arrays.items()} for head, arrays in SPECIMEN['heads'].items()}
    with jax.enable_x64(True):
        cast = jax.tree.map(lambda x: jnp.asarray(x, 'float64'), params)
        wide = dataclasses.replace(config, dtype='float64')
        decoding = codec.from_json(case['decoding'], heads=heads)
        trace = jax.device_get(generate(wide, cast, sources, sources != config.pad_id, decoding))
    compared = 0
    for row, (tokens, exit_layers, margins) in enumerate(zip(case['tokens'], case['exit_layers'], case['margins'])):
        # Up to the first close call, which other arithmetic may decide otherwise.
        close = [i for i, margin in enumerate(margins) if margin < LEAST_MARGIN]
        sure = close[0] if close else len(tokens)
        assert trace.tokens[row, :sure].tolist() == tokens[:sure]
        assert trace.exit_layers[row, :sure].tolist() == exit_layers[:sure]
        assert close or trace.lengths[row] == len(tokens)
        compared += sure
    assert compared >= 20
