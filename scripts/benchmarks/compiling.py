"""How long a checkpoint takes to load, and its programs to be made: traced, lowered and compiled, with no program kept.

    python scripts/benchmarks/compiling.py --checkpoint runs/smollm2 --output compiling.json

One shape for each way to decode: a text at batch 1, and 16 tokens. `scripts/results_page.py --compiling FILE` writes the page.
"""

import argparse
import datetime
import json
import pathlib
import shlex
import sys
import time

import jax

import calm_jax as calm
from calm_jax.compilation import compile_seconds
from calm_jax.files import write_json
from calm_jax.machine import processor

LIMITS = calm.Limits(max_new_tokens=16)
TEXT = 'The capital of France is'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkpoint', required=True, type=pathlib.Path)
    parser.add_argument('--output', type=pathlib.Path, help='JSON to write')
    args = parser.parse_args()
    jax.config.update('jax_enable_compilation_cache', False)
    jax.numpy.zeros(1).block_until_ready()  # the devices are there before anything is timed
    began = time.perf_counter()
    model = calm.load(args.checkpoint)
    jax.block_until_ready(model.params)
    result = {'title': args.checkpoint.name, 'layers': model.config.num_decoder_layers, 'load': time.perf_counter() - began}
    ways = {
        'full depth': calm.Decoding(limits=LIMITS),
        'softmax gap': calm.Decoding(limits=LIMITS, exit=calm.Exit(calm.SoftmaxGap(), 0.9)),
        'uniform plan, two thirds of the layers': calm.Decoding(limits=LIMITS, plan=calm.Uniform(2 / 3)),
    }
    result['rows'] = [{'way': name, **first(model, decoding)} for name, decoding in ways.items()]
    result['provenance'] = {
        'command': shlex.join(['python', *sys.argv]),
        'machine': processor(),
        'date': str(datetime.date.today()),
        'jax': jax.__version__,
    }
    print(json.dumps(result, indent=1))
    if args.output:
        write_json(args.output, result)


def first(model, decoding):
    """Seconds of the first text: of making its programs, and in all; and of the next, whose programs are there."""
    before, began = compile_seconds(), time.perf_counter()
    list(model.generate([TEXT], decoding, batch_size=1))
    made, whole = compile_seconds() - before, time.perf_counter() - began
    began = time.perf_counter()
    list(model.generate([TEXT], decoding, batch_size=1))
    return {'compile': made, 'first': whole, 'next': time.perf_counter() - began}


if __name__ == '__main__':
    main()
