"""Times a step beside the matrix products that it runs, each alone at the rows that it ran for, in one process.

    python scripts/benchmarks/steps.py --shape t5_1_1 --batch_size 32 --depth 2 --measure state --output steps.json

Rows leave where a script says: geometric draws by row and step, --depth layers on average, so that what ran is known: which
layers at which width of the packing, how often the head, how many windows of skipped positions were filled. Every such product
is timed alone, over the kernels of all layers in turn, so that none stands in a cache that it would not have in the step. A
step is the difference of decoding all tokens and one, over the steps between. Settings are interleaved with full depth; the
first round is dropped. Printed: the step, the sum of its products, their ratio, and the step's share of full depth beside the
shares of multiply-adds and of weight bytes.
"""

import argparse
import datetime
import json
import platform
import shlex
import statistics
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import shapes
from flight import exit_of

from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import program
from calm_jax.decoding.packing import NEVER, Packing, measured
from calm_jax.depth.exits import MEASURES
from calm_jax.machine import processor
from calm_jax.models import transformer
from calm_jax.models.joined import join
from calm_jax.models.layers import product

ROUNDS_OF_A_PRODUCT = 8


class Product(NamedTuple):
    """A kernel that rows are multiplied with. name: of the parameter, or what stands for it; rows: how many."""

    name: str
    rows: int


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shape', choices=shapes.SHAPES, default='t5_1_1')
    parser.add_argument('--batch_size', type=int, action='append', metavar='B', help='repeatable (default 8, 32, 64)')
    parser.add_argument(
        '--measure', action='append', choices=tuple(MEASURES), help='repeatable (default state, classifier, softmax_gap)'
    )
    parser.add_argument(
        '--depth', type=float, action='append', metavar='D', help='mean layers; repeatable (default a quarter, half, all)'
    )
    parser.add_argument('--packing', type=Packing.parse, help='LAYERS:WIDTHS (default: the measured one)')
    parser.add_argument('--source_length', type=int, default=128)
    parser.add_argument('--new_tokens', type=int, default=64)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', metavar='FILE', help='JSON to write')
    args = parser.parse_args()
    shape = shapes.SHAPES[args.shape]()
    config = replace(shape.config, eos_id=-2)
    params = join(transformer.init_params(shape.config, jax.random.key(args.seed)), config)
    rows = []
    for batch_size in args.batch_size or [8, 32, 64]:
        rows += time_batch(args, shape, config, params, batch_size)
    result = {
        'title': f'Steps and their products, {shape.name}',
        'rows': rows,
        'provenance': {
            'command': shlex.join(['python', *sys.argv]),
            'machine': processor(),
            'date': datetime.date.today().isoformat(),
            'seed': args.seed,
            'python': platform.python_version(),
            'jax': jax.__version__,
            'repeats': args.repeats,
        },
    }
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1) + '\n')


def time_batch(args, shape, config, params, batch_size):
    """A row of results per measure and depth."""
    layers = config.num_decoder_layers
    packing = args.packing or measured(config.sizes, batch_size, jax.default_backend()).part(points=True, sub_layers=False)
    rng = np.random.default_rng(args.seed)
    tokens = rng.integers(3, config.vocab_size, (batch_size, args.source_length)).astype(np.int32)
    settings = {('full depth', float(layers)): Decoding(limits=Limits(max_new_tokens=args.new_tokens))}
    for measure in args.measure or ['state', 'classifier', 'softmax_gap']:
        for depth in args.depth or [layers / 4, layers / 2, float(layers)]:
            exit = exit_of(config, measure, depth, args.seed)
            settings[measure, depth] = replace(settings['full depth', float(layers)], exit=exit)
    seconds, counts = {name: [] for name in settings}, {}
    for number in range(1 + args.repeats):
        for name in settings if number % 2 else reversed(settings):
            step, counts[name] = time_step(args, config, params, tokens, settings[name], packing)
            seconds[name].append(step)
    ran = {name: products_of(args, config, decoding, counts[name], packing) for name, decoding in settings.items()}
    alone = time_products(args, config, params, {each for products in ran.values() for each in products})
    rows, full = [], None
    for name, products in ran.items():
        step = statistics.median(seconds[name][1:])
        total = sum(count * alone[each] for each, count in products.items())
        adds, read = multiply_adds(args, config, products), weight_bytes(config, products)
        full = full or (step, adds, read)
        row = {
            'batch_size': batch_size,
            'measure': name[0],
            'depth': name[1],
            'packing': str(packing),
            'step_ms': 1e3 * step,
            'products_ms': 1e3 * total,
            'over_products': step / total,
            'time_share': step / full[0],
            'multiply_add_share': adds / full[1],
            'weight_share': read / full[2],
            'step_rounds_ms': [1e3 * each for each in seconds[name][1:]],
        }
        rows.append(row)
        print(
            f'batch {batch_size:3d} {name[0]:12s} {name[1]:4.1f} layers: step {1e3 * step:6.2f} ms, '
            f'products {1e3 * total:6.2f} ms, × {step / total:.2f}; of full depth: time {row["time_share"]:.2f}, '
            f'multiply-adds {row["multiply_add_share"]:.2f}, weights {row["weight_share"]:.2f}',
            flush=True,
        )
    return rows


def time_step(args, config, params, tokens, decoding, packing):
    """(seconds of a step, the trace)."""

    def run(count):
        limited = replace(decoding, limits=Limits(max_new_tokens=count))
        options = {'capacity': args.new_tokens, 'packing': packing, 'outermost': True}
        function, arguments, settings = program(config, params, tokens, None, limited, **options)
        began = time.perf_counter()
        trace = jax.block_until_ready(function(*arguments, **settings))
        return time.perf_counter() - began, trace

    first, _ = run(1)
    whole, trace = run(args.new_tokens)
    return (whole - first) / (args.new_tokens - 1), jax.device_get(trace)


def products_of(args, config, decoding, trace, packing):
    """How often each product runs in a step, on average, by the exit layers of the trace [B, T]."""
    exits, layers = np.asarray(trace.exit_layers), config.num_decoder_layers
    batch, steps = exits.shape
    packing = packing if decoding.exit is not None else NEVER
    measure = decoding.exit and decoding.exit.measure
    runs, filled = Counter(), np.zeros((layers, batch), int)
    for step in range(steps):
        width = batch
        for layer in range(layers):
            inside = exits[:, step] > layer
            if layer in packing.points:
                width = next((each for each in (*packing.within(batch), batch) if each >= inside.sum()), batch)
            if not inside.any():
                continue
            parts = ['qkv', 'self_attention', 'out', 'wi', 'wo']
            parts += [] if config.decoder_only else ['cross_query', 'cross_attention', 'cross_out']
            runs.update(Product(part, width) for part in parts)
            lacks = int((step - filled[layer])[inside].sum())
            size = max(decoding.propagation.window, width)
            if decoding.exit is not None and packing:
                runs[Product('qkv', size)] += -(-lacks // size)
                filled[layer, inside] = step + 1
            elif decoding.exit is not None:
                window = decoding.propagation.window
                missing = step - filled[layer, 0]
                runs[Product('qkv', window * batch)] += (
                    0 if not missing else (step - 1) // window - filled[layer, 0] // window + 1
                )
                filled[layer] = step + 1
            if measure is not None and measure.reads_logits:
                runs[Product('head', width)] += 1
        if measure is None or not measure.predicts:
            runs[Product('head', batch)] += 1
    return {each: count / steps for each, count in runs.items()}


def kernels(config, params, name):
    """The arrays of all layers that a product of this name multiplies rows with."""
    layers = [params['decoder'][f'layers_{layer}'] for layer in range(config.num_decoder_layers)]
    attention = [each['self_attention'] for each in layers]
    if name == 'head':
        head = params['decoder']['logits_dense']
        return [head.get('tied_kernel', head.get('kernel'))] * 2
    if name in ('qkv', 'out'):
        part = {'qkv': 'query_key_value', 'out': 'out'}[name]
        return [each[part]['kernel'] for each in attention]
    if name in ('wi', 'wo'):
        part = 'wo' if name == 'wo' else 'wi_gated' if len(config.mlp_activations) > 1 else 'wi'
        return [each['mlp'][part]['kernel'] for each in layers]
    cross = [each['encoder_decoder_attention'] for each in layers]
    return [each[{'cross_query': 'query', 'cross_out': 'out'}[name]]['kernel'] for each in cross]


def time_products(args, config, params, products):
    """Seconds of each product alone: the median over rounds, of one run over all layers' kernels."""
    timed = {}
    for each in sorted(products):
        if each.name.endswith('_attention'):
            run, arguments, count = attention(args, config, each)
        else:
            arguments = kernels(config, params, each.name)
            run, count = partial(multiplied, config.vocab_size), len(arguments)
            arguments = (arguments, jnp.ones((each.rows, arguments[0].shape[0]), jnp.float32))
        compiled = jax.jit(run).lower(*arguments).compile()
        times = []
        for _ in range(1 + args.repeats):
            began = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            times.append((time.perf_counter() - began) / ROUNDS_OF_A_PRODUCT / count)
        timed[each] = statistics.median(times[1:])
    return timed


def multiplied(vocabulary, arrays, x):
    """Rows times each kernel in turn, some rounds of it; each reads a little of what the one before made."""

    def round_(_, x):
        for kernel in arrays:
            y = x @ kernel if kernel.shape[1] == vocabulary else product(x, kernel)
            x = x + 1e-9 * y[:, :1]
        return x

    return jax.lax.fori_loop(0, ROUNDS_OF_A_PRODUCT, round_, x)


def attention(args, config, product):
    """(function, arguments, how many it runs): scores and sums of one token's attention, a cache of its own each."""
    positions = args.source_length if product.name == 'cross_attention' else args.new_tokens
    heads = config.num_heads if product.name == 'cross_attention' else config.kv_heads
    shape = (product.rows * heads, positions, config.head_dim)
    caches = [(jnp.ones(shape), jnp.ones(shape)) for _ in range(config.num_decoder_layers)]
    queries = jnp.ones((shape[0], config.num_heads // heads, config.head_dim))

    def run(caches, queries):
        def round_(_, queries):
            for keys, values in caches:
                scores = jnp.einsum('gth,gsh->gts', queries, keys)
                queries = queries + 1e-9 * jnp.einsum('gts,gsh->gth', scores, values)
            return queries

        return jax.lax.fori_loop(0, ROUNDS_OF_A_PRODUCT, round_, queries)

    return run, (caches, queries), len(caches)


def multiply_adds(args, config, products):
    """Of a step."""
    total = 0
    for (name, rows), count in products.items():
        if name.endswith('_attention'):
            positions = args.source_length if name == 'cross_attention' else args.new_tokens
            total += count * 2 * rows * config.num_heads * config.head_dim * positions
        else:
            total += count * rows * weights(config, name)
    return total


def weight_bytes(config, products):
    """Of kernels, each time that one is read."""
    named = [(name, count) for (name, _), count in products.items() if not name.endswith('_attention')]
    return 4 * sum(count * weights(config, name) for name, count in named)


def weights(config, name):
    """Numbers in one layer's kernel of this name."""
    queries, keys = config.num_heads * config.head_dim, config.kv_heads * config.head_dim
    feed_forward = config.mlp_dim * len(config.mlp_activations)
    outputs = {'qkv': queries + 2 * keys, 'wi': feed_forward, 'wo': config.mlp_dim, 'head': config.vocab_size}
    return config.emb_dim * outputs.get(name, queries)


if __name__ == '__main__':
    main()
