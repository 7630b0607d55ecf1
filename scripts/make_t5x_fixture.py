"""Makes tests/fixtures/t5x/scalable_t5.npz: a small random model of t5x's `examples/scalable_t5`, and what t5x computes with
it.

    python scripts/make_t5x_fixture.py [--output FILE]

Needs t5x; the tests that read the fixture do not. It holds:

    target/PATH              each parameter, under t5x's name, layers stacked
    source [B, S]            token ids of the source, rows of unequal length, 0 behind them
    target_input [B, T]      decoder input ids, the first of each row 0
    logits [B, T, V]         of the decoder at each of them
    greedy [B, 12]           greedy tokens, end-of-sequence being a token like any other, by forward passes over all of a row

The first seed at which no greedy step is a near tie and the greedy tokens vary.
"""

import argparse
import pathlib

import jax
import numpy as np
from flax import traverse_util
from t5x.examples.scalable_t5 import network

GREEDY_TOKENS = 12
CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=3,
    num_decoder_layers=2,
    head_dim=6,
    mlp_dim=20,
    mlp_activations=('silu', 'linear'),
    dropout_rate=0.0,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    output = pathlib.Path(__file__).parents[1] / 'tests/fixtures/t5x/scalable_t5.npz'
    parser.add_argument('--output', default=output, type=pathlib.Path)
    args = parser.parse_args()
    seed, arrays = next((seed, arrays) for seed in range(200) if (arrays := make(seed)))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.output, **arrays)
    print(f'{args.output}: seed {seed}, {args.output.stat().st_size / 1e3:.0f} kB')


module = network.Transformer(CONFIG)


@jax.jit
def forward(params, source, target_input):
    # Targets only say which positions are padding: none.
    return module.apply({'params': params}, source, target_input, 1 + 0 * target_input, enable_dropout=False)


def make(seed):
    """The arrays; None where the greedy tokens are no good test."""
    random = np.random.default_rng(seed)
    source = random.integers(2, 64, (3, 40)).astype(np.int32)
    for row, length in enumerate((40, 17, 4)):
        source[row, length:] = 0
    target_input = random.integers(2, 64, (3, 30)).astype(np.int32)
    target_input[:, 0] = 0
    params = module.init(jax.random.key(seed), source, target_input, target_input, enable_dropout=False)['params']
    # Of a spread at which every part matters, scales of norms among them.
    params = jax.tree.map(lambda x: np.asarray(x + 0.4 * random.standard_normal(x.shape), np.float32), params)
    tokens, margins = np.zeros((3, 1 + GREEDY_TOKENS), np.int32), []
    for place in range(GREEDY_TOKENS):
        logits = np.asarray(forward(params, source, np.pad(tokens, ((0, 0), (0, 30 - tokens.shape[1])))))[:, place]
        least, most = np.sort(logits, axis=1)[:, -2:].T
        margins.append(most - least)
        tokens[:, place + 1] = logits.argmax(axis=1)
    if np.min(margins) < 0.01 or min(len(set(row)) for row in tokens.tolist()) < 6:
        return None
    stored = {f'target/{path}': array for path, array in traverse_util.flatten_dict(params, sep='/').items()}
    logits = np.asarray(forward(params, source, target_input))
    return {**stored, 'source': source, 'target_input': target_input, 'logits': logits, 'greedy': tokens[:, 1:]}


if __name__ == '__main__':
    main()
