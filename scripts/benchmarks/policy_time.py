"""Whether operations that a policy saves are seconds saved, and what the policy itself takes.

    python scripts/benchmarks/policy_time.py --checkpoint runs/policy/dialogsum/policy/model/best --input test.jsonl \\
        --source_field dialogue --batch_size 1 --batch_size 32 --output policy_time.json

Every text says --new_tokens tokens, under whatever plan, so that times are of the same work. Timed, interleaved, from texts to
texts: the full model; the policy at --level; the policy at a dial at which it runs everything, which is what planning takes;
and what tells the full model's parts apart, one token instead of all, and one decoder layer instead of all. From these come the
shares of its time of reading the source, of decoder layers and of the rest of a step. Predicted is Σ (share of time) ×
(operations of that part under the policy over all); measured is the ratio of seconds.
"""

import argparse
import dataclasses
import datetime
import json
import shlex
import statistics
import sys
from pathlib import Path

import jax
import numpy as np

import calm_jax as calm
from calm_jax.data.jsonl import Records, Template
from calm_jax.data.windows import decode_windows
from calm_jax.decoding.generate import program
from calm_jax.decoding.rules import Rules
from calm_jax.machine import processor
from calm_jax.metrics import cost
from calm_jax.speed import sample, time_decodings
from calm_jax.types import PrefillWork, Work

EVERYTHING = 0.9999999  # a dial below 1, so that the policy is asked


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--checkpoint', required=True)
    parser.add_argument('--input', required=True, help='JSONL')
    parser.add_argument('--source_field', required=True)
    parser.add_argument('--level', type=float, default=0.5, help='the dial of the policy (default .5)')
    parser.add_argument('--batch_size', type=int, action='append', metavar='B', help='repeatable (default 1 and 32)')
    parser.add_argument('--texts', type=int, help='that are timed (default: 16 batches, at most 256)')
    parser.add_argument('--new_tokens', type=int, default=32)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--output', type=Path, help='JSON to write')
    args = parser.parse_args()
    model, records, template = calm.load(args.checkpoint), Records(args.input), Template(args.source_field)
    texts = [template(records[i], records.where(i)) for i in range(len(records))]
    made = [measured(model, texts, size, args) for size in args.batch_size or (1, 32)]
    head = model.heads['policy']
    result = {
        'title': 'Seconds that a policy saves',
        'command': shlex.join(['python', *sys.argv]),
        'machine': processor(),
        'date': str(datetime.date.today()),
        'seed': 0,
        'parameters': size(head) / size(model.params),
        'rows': made,
    }
    for row in made:
        print(json.dumps(row))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1))


def size(tree):
    """Numbers in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def measured(model, texts, batch_size, args):
    """One batch size: medians over the rounds of ratios within each."""
    texts = sample(texts, args.texts or min(256, 16 * batch_size))
    policy = calm.PolicyPlan(**model.heads['policy'])
    plans = {
        'full': None,
        'policy': dataclasses.replace(policy, level=args.level),
        'everything': dataclasses.replace(policy, level=EVERYTHING),
        'thin': calm.Uniform(share=1 / model.config.num_decoder_layers),
    }
    decodings = {
        (name, length): calm.Decoding(limits=calm.Limits(max_new_tokens=length), rules=Rules(min_new_tokens=length), plan=plan)
        for name, plan in plans.items()
        for length in ((args.new_tokens, 1) if name in ('full', 'thin') else (args.new_tokens,))
    }
    timed = time_decodings(model, list(decodings.values()), texts, batch_size, args.rounds)
    seconds = dict(zip(decodings, timed.seconds.T))
    long, layers = args.new_tokens, model.config.num_decoder_layers
    median = {key: float(np.median(value)) for key, value in seconds.items()}
    steps, thin = ((median[name, long] - median[name, 1]) / (long - 1) for name in ('full', 'thin'))
    of_layers = (steps - thin) * layers / (layers - 1)
    parts = {'source': median['full', 1] - steps, 'layers': of_layers * long, 'rest': (steps - of_layers) * long}
    whole = sum(parts.values())
    units = model.config.sizes.units(policy.flops(model.config.sizes))
    full, early = (
        flops_by_part(model, model.generate(texts, decodings[name, long], batch_size=batch_size), units)
        for name in ('full', 'policy')
    )
    predicted = sum(parts[name] / whole * early[name] / full[name] for name in parts)
    ratios = seconds['policy', long] / seconds['full', long]
    planning = seconds['everything', long] / seconds['full', long] - 1
    return {
        'batch_size': batch_size,
        'texts': len(texts),
        'flops': sum(early.values()) / sum(full.values()),
        'shares': {name: value / whole for name, value in parts.items()},
        'flops_by_part': {name: early[name] / full[name] for name in parts},
        'predicted': predicted,
        'measured': statistics.median(ratios.tolist()),
        'least': float(ratios.min()),
        'greatest': float(ratios.max()),
        'planning': statistics.median(planning.tolist()),
        'memory': {name: memory(model, texts, decodings[name, long], batch_size) for name in ('full', 'policy')},
        'seconds': {f'{name} {length}': value for (name, length), value in median.items()},
    }


def memory(model, texts, decoding, batch_size):
    """The most bytes that the programs of a batch of the longest texts have beside their arguments, as compiled; within a
    policy as wide as all sources, of which the plans keep a part."""
    sources = sorted((model.encode(text) for text in texts), key=len)[-batch_size:]
    decoding = model.resolve(decoding)
    ((batch,),) = decode_windows(sources, batch_size, max_source_length=decoding.limits.max_source_length, **model.padding)
    inputs = model.config, model.decoding_params, batch.tokens, batch.mask
    run, arguments, settings = program(*inputs, decoding, outermost=True)
    return run.lower(*arguments, **settings).compile().memory_analysis().temp_size_in_bytes


def flops_by_part(model, outputs, units):
    """Operations of reading the source, of decoder layers, and of the rest, over all outputs; units: of what decides."""
    config, parts = model.config, dict.fromkeys(('source', 'layers', 'rest'), 0.0)
    for output in outputs:
        made = cost.exact(config, [output.source_tokens], *work_of(config, output, units))
        assert abs(made.total[0] - output.flops) <= 1e-6 * output.flops, (made.total[0], output.flops)
        parts['source'] += float((made.source + made.encoder_kv)[0])
        parts['layers'] += float((made.decoder + made.keys_values)[0])
        parts['rest'] += float((made.head + made.decisions)[0])
    return parts


def work_of(config, output, units):
    """`Work` and `PrefillWork` of an output without exits, [1, T] and [1]; units: of a policy's decisions, made at once."""
    plan, one = output.plan, np.ones((1, len(output.tokens)), int)
    layers, encoders = config.num_decoder_layers, config.num_encoder_layers
    runs = [layers] * 3 if plan is None else [sum(plan.self_attention), sum(plan.cross_attention), sum(plan.feed_forward)]
    read = [encoders] * 2 if plan is None else [sum(plan.encoder_attention), sum(plan.encoder_feed_forward)]
    across = 0 if config.decoder_only else runs[1]
    work = Work(*(count * one for count in (runs[0], across, runs[2], runs[0], 1, config.vocab_size, 0)))
    dropped = 0 if plan is None else len(plan.dropped)
    prompt = layers if config.decoder_only else 0
    decided = 0 if plan is None else units
    last = int(plan is not None and config.decoder_only)
    counts = (*read, across, prompt, prompt, prompt, last, decided, int(dropped > 0), dropped)
    return work, PrefillWork(*(np.full(1, count) for count in counts))


if __name__ == '__main__':
    main()
