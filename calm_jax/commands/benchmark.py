"""Time a model on this machine: full depth against exits.

    calm benchmark --checkpoint DIR --input in.jsonl --source_field en --measure classifier --threshold 0.9 --threshold 0.6
    calm benchmark --checkpoint DIR --input in.jsonl --source_field en --certificate c.json --batch_size 1 --batch_size 32
    calm benchmark --checkpoint DIR                     # no texts, no measure: what each depth costs

Times the compiled decoding of the same inputs under every setting. Repeats are interleaved (each round runs every setting
once, every other round in reverse), the first round is a warm-up and dropped; reported are medians with the least and the
greatest. --output writes a results.json for `calm report`.
"""

import argparse
import dataclasses
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from calm_jax.calibration import Certificate
from calm_jax.commands import decode_flags
from calm_jax.commands.flag_types import positive
from calm_jax.commands.generate import certified_settings, model_fingerprints
from calm_jax.commands.provenance import data_of, provenance
from calm_jax.data import jsonl
from calm_jax.data.sources import open_records
from calm_jax.data.windows import DecodeBatch, decode_windows
from calm_jax.decoding.beam import beam_search
from calm_jax.decoding.constraints import Constraints
from calm_jax.decoding.generate import generate
from calm_jax.decoding.settings import Settings
from calm_jax.files import write_json
from calm_jax.model import load
from calm_jax.models.config import DEVICE_DTYPES
from calm_jax.outputs import check_file
from calm_jax.progress import progress

FULL = 'full depth'
RANDOM_SOURCE_LENGTH = 128

COLUMNS = [
    {'key': 'batch_size', 'name': 'batch', 'unit': ''},
    {'key': 'setting', 'name': 'setting', 'unit': ''},
    {'key': 'layers', 'name': 'layers', 'unit': 'per token'},
    {'key': 'executed', 'name': 'executed', 'unit': 'layers per step'},
    {'key': 'tokens', 'name': 'tokens', 'unit': ''},
    {'key': 'seconds', 'name': 'time', 'unit': 's'},
    {'key': 'seconds_least', 'name': 'least', 'unit': 's'},
    {'key': 'seconds_greatest', 'name': 'greatest', 'unit': 's'},
    {'key': 'step_ms', 'name': 'step', 'unit': 'ms'},
    {'key': 'tokens_per_second', 'name': 'tokens/s', 'unit': ''},
    {'key': 'speed_up', 'name': 'speed-up', 'unit': 'to full depth'},
    {'key': 'speed_up_least', 'name': 'least', 'unit': ''},
    {'key': 'speed_up_greatest', 'name': 'greatest', 'unit': ''},
    {'key': 'compile_seconds', 'name': 'compile', 'unit': 's'},
]


def add_arguments(parser):
    parser.add_argument('--checkpoint', required=True, metavar='DIR', help='native checkpoint (see `calm import`)')
    parser.add_argument(
        '--input',
        metavar='FILE',
        help='JSONL, plain, .gz or .xz, or seqio:TASK:SPLIT (default: random '
        f'tokens, {RANDOM_SOURCE_LENGTH} a row, that never end by themselves)',
    )
    parser.add_argument(
        '--source_field',
        default='source',
        metavar='FIELD',
        help="field that holds the input text, or a template such as 'translate: {en}' (default source)",
    )
    parser.add_argument(
        '--examples',
        type=positive,
        default=64,
        metavar='N',
        help='inputs decoded per round: the first of the file, in whole batches (default 64)',
    )
    parser.add_argument(
        '--batch_size', type=positive, action='append', metavar='N', help='rows decoded together; repeatable (default 1)'
    )
    parser.add_argument('--repeats', type=positive, default=5, metavar='N', help='rounds timed (default 5)')
    parser.add_argument(
        '--dtype', choices=DEVICE_DTYPES, help='of parameters and activations (default: as stored; float32 on a CPU)'
    )
    parser.add_argument('--quiet', action='store_true', help='no progress bar, no table')
    parser.add_argument('--output', metavar='FILE', help='JSON to write')
    parser.add_argument('--overwrite', action='store_true', help='replace the output if it exists')
    decode_flags.add_settings(parser, threshold=False)
    parser.add_argument(
        '--threshold', type=float, action='append', metavar='λ', help='repeatable: each is timed against full depth'
    )
    parser.add_argument(
        '--certificate',
        action='append',
        metavar='FILE',
        help='the settings and λ of a certificate; repeatable, instead of decoding flags',
    )


def run(args):
    if args.output:
        check_file(args.output, args.overwrite, [args.input, *(args.certificate or ())])
    model = load(args.checkpoint, args.dtype)
    compared = compared_settings(args, model)
    for settings in compared.values():
        settings.build(model.config, model.heads)  # what is wrong with one is said before any is timed
    sources, config, data = inputs(args, model, next(iter(compared.values())))
    rows = []
    for batch_size in args.batch_size or [1]:
        limit = next(iter(compared.values())).max_source_length
        windows = decode_windows(
            whole_batches(sources, batch_size),
            batch_size,
            max_source_length=limit,
            **{**model.padding, **({} if args.input else {'eos_id': None})},
        )
        batches = [batch for window in windows for batch in window]
        programs = {}
        timed = {
            name: Decoder(model, config, settings, batches, programs)
            for name, settings in progress(
                compared.items(), f'batch {batch_size}, compiling', quiet=args.quiet, unit='settings'
            )
        }
        rounds = interleaved(timed, 1 + args.repeats, f'batch {batch_size}', args.quiet)
        rows += [row(batch_size, name, decoder, rounds) for name, decoder in timed.items()]
    result = {
        'title': f'{Path(args.checkpoint).resolve().name}: full depth against exits',
        'columns': COLUMNS,
        'rows': rows,
        'provenance': provenance(
            'benchmark',
            args,
            seed=next(iter(compared.values())).seed,
            settings={name: dataclasses.asdict(settings) for name, settings in compared.items()},
            fingerprints=model_fingerprints(model),
            data=data,
        )
        | {'repeats': args.repeats},
    }
    if args.output:
        write_json(args.output, result, make_folders=True)
    if not args.quiet:
        Console().print(table(result))


def compared_settings(args, model):
    """Settings by name, full depth first.

    Raises ValueError for flags that contradict each other.
    """
    flags = argparse.Namespace(**{name: value for name, value in vars(args).items() if name != 'threshold'})
    said = decode_flags.given(flags)
    if args.certificate:
        if given := list(said) + ['threshold'] * bool(args.threshold):
            raise ValueError(f'--{given[0]}: a certificate fixes how its λ decodes; leave the flag out')
        read = {
            f'certificate {name}': Settings(**{**certified_settings(Certificate.load(name)), 'dtype': model.config.dtype})
            for name in args.certificate
        }
        full = {dataclasses.replace(each, measure=None, threshold=1.0) for each in read.values()}
        if len({each.max_new_tokens for each in full}) > 1 or len({each.max_source_length for each in full}) > 1:
            raise ValueError('the certificates differ in max_new_tokens or max_source_length; time them one by one')
        return {FULL: next(iter(full)), **read}
    thresholds = args.threshold or ([said['threshold']] if 'threshold' in said else [])
    if thresholds and 'measure' not in said:
        raise ValueError('--threshold needs --measure: what is compared with it')
    base = decode_flags.settings(flags, model)
    full = dataclasses.replace(base, measure=None, threshold=1.0)
    if base.num_beams > 1:
        greedy = dataclasses.replace(base, plan='full', num_beams=1)
        planned = {} if base.plan == 'full' else {f'{base.num_beams} beams, plan {base.plan}': base}
        return {FULL: greedy, f'{base.num_beams} beams': dataclasses.replace(base, plan='full'), **planned}
    if base.measure is None and base.plan != 'full':
        return {FULL: dataclasses.replace(full, plan='full'), f'plan {base.plan}': full}
    if base.measure is None:
        layers = model.config.num_decoder_layers
        depths = {f'{k} of {layers} layers': k / layers for k in (1, 2, 4, 8, 16, 32) if k < layers}
        never = 1 - 0.5 / layers  # nothing reaches it below the last layer
        static = {
            name: dataclasses.replace(full, measure='static', threshold=share)
            for name, share in {**depths, 'conditionals, no exit': never}.items()
        }
        return {FULL: full, **static}
    if not thresholds:
        raise ValueError(f'--measure {base.measure} needs --threshold, once or more: the λ to time')
    exits = {f'{base.measure} λ={each:.10g}': dataclasses.replace(base, threshold=each) for each in thresholds}
    return {FULL: dataclasses.replace(full, plan='full'), **exits}


def inputs(args, model, settings):
    """Source ids of the first examples, the configuration to decode them with, and what is said of the data."""
    if args.input:
        records, template = open_records(args.input), jsonl.Template(args.source_field)
        texts = [template(records[i], records.where(i)) for i in range(min(args.examples, len(records)))]
        data = data_of(records, args.source_field, len(texts))
        return [model.encode(text) for text in texts], model.config, data
    length = min(RANDOM_SOURCE_LENGTH, settings.max_source_length)
    tokens = np.random.default_rng(settings.seed).integers(2, model.config.vocab_size, (args.examples, length))
    # No text, so nothing to say when it is done: every row decodes to the maximum.
    return tokens.tolist(), dataclasses.replace(model.config, eos_id=-1, other_eos_ids=()), None


def whole_batches(sources, batch_size):
    """As many sources as fill whole batches; repeated to fill one."""
    return (sources * -(-batch_size // len(sources)))[: max(batch_size, len(sources) // batch_size * batch_size)]


class Decoded(NamedTuple):
    """What one pass over the batches gave: seconds of wall time, and counts that are the same in every pass."""

    seconds: float
    tokens: int
    steps: int
    layers: float
    executed: float


class Decoder:
    """All batches under one setting, compiled ahead. programs: shared, so that settings that differ in numbers alone are
    compiled once; `compile_seconds` counts tracing and compiling of those that were new."""

    def __init__(self, model, config, settings: Settings, batches: list[DecodeBatch], programs: dict):
        values = settings.build(config, model.heads)
        self.calls = []
        self.params, self.compile_seconds = model.params, 0.0
        for batch in batches:
            arguments = {'plan': None if values.plan is None else values.plan(batch.rows), 'constraints': values.constraints}
            if values.beam is None:
                function, arguments = (
                    generate,
                    {
                        **arguments,
                        'exit': values.exit,
                        'propagation': values.propagation,
                        'sampling': values.sampling,
                        'head_table': model.head_table(values.exit),
                        'example_ids': batch.rows.astype(np.int32),
                        'key': jax.random.key(settings.seed),
                    },
                )
            else:
                function, arguments = (
                    beam_search,
                    {**arguments, 'beam': values.beam, 'constraints': values.constraints or Constraints()},
                )
            name = batch.tokens.shape, jax.tree.structure(arguments)
            if name not in programs:
                start = time.perf_counter()
                programs[name] = function.lower(
                    config, self.params, batch.tokens, max_new_tokens=settings.max_new_tokens, **arguments
                ).compile()
                self.compile_seconds += time.perf_counter() - start
            self.calls.append((programs[name], batch, arguments))

    def decode(self) -> Decoded:
        """One pass."""
        start = time.perf_counter()
        traces = [jax.device_get(program(self.params, batch.tokens, **arguments)) for program, batch, arguments in self.calls]
        seconds = time.perf_counter() - start
        tokens = sum(int(trace.lengths.sum()) for trace in traces)
        visited = sum(int(trace.exit_layers.sum()) for trace in traces)
        steps = sum(int(trace.lengths.max()) for trace in traces)
        executed = sum(int(trace.executed.sum()) for trace in traces)
        return Decoded(seconds, tokens, steps, visited / max(1, tokens), executed / max(1, steps))


def interleaved(timed, rounds, description, quiet):
    """What each decoder gave in each round but the first, by name."""
    decoded = {name: [] for name in timed}
    for number in progress(range(rounds), description, quiet=quiet, unit='rounds'):
        for name in timed if number % 2 else reversed(timed):
            decoded[name].append(timed[name].decode())
    return {name: each[1:] for name, each in decoded.items()}


def row(batch_size, name, decoder, rounds):
    """One line of the result: medians over the rounds, and the ratio to full depth round by round."""
    seconds = [each.seconds for each in rounds[name]]
    median, one = statistics.median(seconds), rounds[name][0]
    result = {
        'batch_size': batch_size,
        'setting': name,
        'layers': one.layers,
        'executed': one.executed,
        'tokens': one.tokens,
        'seconds': median,
        'seconds_least': min(seconds),
        'seconds_greatest': max(seconds),
        'step_ms': 1e3 * median / max(1, one.steps),
        'tokens_per_second': one.tokens / median,
        'speed_up': None,
        'speed_up_least': None,
        'speed_up_greatest': None,
        'compile_seconds': decoder.compile_seconds,
        'rounds': seconds,
    }
    if name != FULL:
        ratios = [full.seconds / mine for full, mine in zip(rounds[FULL], seconds)]
        result |= {'speed_up': statistics.median(ratios), 'speed_up_least': min(ratios), 'speed_up_greatest': max(ratios)}
    return result


def table(result):
    """The rows, to be read in a terminal."""
    title = f'{result["title"]} (median of {result["provenance"]["repeats"]}, least–greatest)'
    drawn = Table(box=box.SIMPLE, pad_edge=False, title=title)
    for name in ('batch', 'setting', 'layers', 'executed', 'ms a step', 'tokens/s', 'speed-up', 'compile, s'):
        drawn.add_column(name, justify='left' if name == 'setting' else 'right', overflow='fold')
    for each in result['rows']:
        speed = (
            ''
            if each['speed_up'] is None
            else (f'×{each["speed_up"]:.2f} ({each["speed_up_least"]:.2f}–{each["speed_up_greatest"]:.2f})')
        )
        scale = each['step_ms'] / each['seconds']
        drawn.add_row(
            str(each['batch_size']),
            each['setting'],
            f'{each["layers"]:.2f}',
            f'{each["executed"]:.2f}',
            f'{each["step_ms"]:.2f} ({each["seconds_least"] * scale:.2f}–{each["seconds_greatest"] * scale:.2f})',
            f'{each["tokens_per_second"]:.0f}',
            speed,
            f'{each["compile_seconds"]:.1f}',
        )
    return drawn
