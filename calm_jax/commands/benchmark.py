"""Time a model on this machine: full depth against exits.

    calm benchmark --checkpoint DIR --input in.jsonl --source_field en --measure classifier --threshold 0.9 --threshold 0.6
    calm benchmark --checkpoint DIR --input in.jsonl --source_field en --certificate c.json --batch_size 1 --batch_size 32
    calm benchmark --checkpoint DIR                     # no texts, no measure: what each depth costs

Texts are decoded as `calm generate` decodes them, full depth among the settings: in flight, refilled and packed as --pack says,
timed from texts to texts. Without texts compiled batches of equal length are timed, for what each depth costs. Repeats are
interleaved (each round runs every setting once, every other round in reverse), the first round is a warm-up and dropped;
reported are medians with the least and the greatest; ms/step is all the time there was, encoder or prompt included, over the
steps. At batch 1 a step at full depth by itself stands beside the time that reading its weights takes, measured in the same
rounds. --output writes a results.json for `calm report`.
"""

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

from calm_jax import certified
from calm_jax.calibration import Certificate
from calm_jax.commands import decode_flags
from calm_jax.commands.flag_types import positive
from calm_jax.commands.provenance import provenance
from calm_jax.compilation import use_compilation_cache
from calm_jax.data import jsonl
from calm_jax.data.sources import SOURCE_FIELD, data_of, open_records
from calm_jax.data.windows import DecodeBatch, decode_windows, row_bucket
from calm_jax.decoding import ahead
from calm_jax.decoding.choice import Beam, Greedy
from calm_jax.decoding.codec import describe, to_json
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import of_use, program
from calm_jax.decoding.layout import at
from calm_jax.decoding.packing import Packing
from calm_jax.depth.confidence import StaticDepth
from calm_jax.depth.exits import Exit
from calm_jax.files import write_json
from calm_jax.metrics import cost
from calm_jax.model import Model, load
from calm_jax.models.config import DEVICE_DTYPES, TransformerConfig
from calm_jax.output_rows import beams
from calm_jax.outputs import check_file
from calm_jax.progress import progress
from calm_jax.reading import time_step
from calm_jax.request import PACKS, check_packs
from calm_jax.speed import BATCHES, time_decodings
from calm_jax.tasks import check_says_tokens

FULL = 'full depth'
EXAMPLES = 64
RANDOM_SOURCE_LENGTH = 128
MOST_SHARE = 1.25  # of a step that reading its weights can seem to take
STEPS = 32  # that the time of one, beside the reading of its weights, is the mean of

COLUMNS = [
    {'key': 'batch_size', 'name': 'batch', 'unit': ''},
    {'key': 'setting', 'name': 'setting', 'unit': ''},
    {'key': 'pack', 'name': 'pack', 'unit': ''},
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
    {'key': 'lower_seconds', 'name': 'lower', 'unit': 's'},
    {'key': 'compile_seconds', 'name': 'compile or read', 'unit': 's'},  # what an earlier run compiled is read
    {'key': 'memory_mib', 'name': 'memory', 'unit': 'MiB'},
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
        default=SOURCE_FIELD,
        metavar='FIELD',
        help="field that holds the input text, or a template such as 'translate: {en}' (default source)",
    )
    parser.add_argument(
        '--examples',
        type=positive,
        metavar='N',
        help=f'inputs decoded per round: the first of the file (default {EXAMPLES}, or {BATCHES} batches where that is more)',
    )
    parser.add_argument(
        '--batch_size', type=positive, action='append', metavar='N', help='rows decoded together; repeatable (default 1)'
    )
    decode_flags.add_pack(parser)
    parser.add_argument('--repeats', type=positive, default=5, metavar='N', help='rounds timed (default 5)')
    parser.add_argument(
        '--dtype', choices=DEVICE_DTYPES, help='of parameters and activations (default: as stored; float32 on a CPU)'
    )
    decode_flags.add_date(parser)
    parser.add_argument('--quiet', action='store_true', help='no progress bar, no table')
    parser.add_argument('--output', metavar='FILE', help='JSON to write')
    parser.add_argument('--overwrite', action='store_true', help='replace the output if it exists')
    decode_flags.add_decoding(parser, threshold=False)
    parser.add_argument(
        '--threshold', type=float, action='append', metavar='λ', help='repeatable: each is timed against full depth'
    )
    parser.add_argument(
        '--certificate',
        action='append',
        metavar='FILE',
        help='the decoding of a certificate; repeatable, instead of decoding flags',
    )


def run(args):
    if args.output:
        check_file(args.output, args.overwrite, [args.input, *(args.certificate or ())])
    use_compilation_cache()
    model = load(args.checkpoint, args.dtype).at(args.date)
    check_says_tokens(model.task, args.checkpoint)
    compared = compared_decodings(args, model)
    full = next(iter(compared.values()))
    sizes = args.batch_size or [1]
    check_pack(args, model, compared, sizes)
    examples = args.examples or max(EXAMPLES, BATCHES * max(sizes) if args.input else 0)
    texts, records = inputs(args, examples)
    decode_flags.check_date(args, model, texts)
    model = model.dated(texts)
    sources = random_sources(model, full, examples) if records is None else [model.encode(text) for text in texts]
    rows, reading = [], None
    for batch_size in sizes:
        if records is not None:
            rows += time_texts(args, model, compared, texts, batch_size, len(records))
        else:
            rows += time_batches(args, model, compared, sources, batch_size)
        if batch_size == 1:
            reading = read_share(model, full, sources[0], args.repeats)
    result = {
        'title': f'{Path(args.checkpoint).resolve().name}: full depth against exits',
        'columns': [each for each in COLUMNS if any(row[each['key']] is not None for row in rows)],
        'rows': rows,
        'step_reading': reading,
        'provenance': provenance(
            'benchmark',
            args,
            seed=int(full.seed),
            settings={name: to_json(decoding) for name, decoding in compared.items()},
            fingerprints=model.fingerprints,
            data=None if records is None else data_of(records, args.source_field, texts, model.date),
        )
        | {'repeats': args.repeats},
    }
    if args.output:
        write_json(args.output, result, make_folders=True)
    if not args.quiet:
        Console().print(table(result))
        if reading is not None:
            print(in_words(reading))


def check_pack(args, model: Model, compared: dict[str, Decoding], sizes: list[int]) -> None:
    """Raises ValueError for a packing that cannot be had at one of the batch sizes, and for one of what is not packed."""
    if args.pack != PACKS[0] and not args.input:
        raise ValueError(f'--pack {args.pack} is of texts, which end one by one; pass --input, or leave it out')
    for batch_size in sizes:
        packing = model.packing(batch_size, 1, args.pack)
        if packing and not any(of_use(packing, each) for each in compared.values()):
            check_packs(packing, next(iter(compared.values())), None)


def time_texts(args, model: Model, compared: dict[str, Decoding], texts: list[str], batch_size: int, count: int) -> list[dict]:
    """A row of each decoding of the texts, packed as the `count` of the file would be."""
    pack = model.pack_of(count, batch_size, args.pack)
    timed = time_decodings(model, list(compared.values()), texts, batch_size, args.repeats, args.quiet, pack)
    slots, per_layer = row_bucket(len(texts), batch_size), cost.sub_layers(model.config)
    rows = []
    for seconds, reports, (name, decoding) in zip(timed.seconds.T.tolist(), timed.reports, compared.items()):
        tokens, places, needed, executed = (
            sum(getattr(each, part) for each in reports) for part in ('tokens', 'places', 'needed', 'executed')
        )
        layers, ran = needed / per_layer / max(1, tokens), executed / per_layer / beams(decoding) / max(1, places)
        packed = str((of_use(pack, decoding) or 'refill') if isinstance(pack, Packing) else pack)
        decoded = [Decoded(each, tokens, places / slots, layers, ran) for each in seconds]
        rows.append(row(batch_size, name, decoded, rows[0] if rows else None) | {'pack': packed})
    return rows


def time_batches(args, model: Model, compared: dict[str, Decoding], sources: list[list[int]], batch_size: int) -> list[dict]:
    """A row of each decoding of random sources in compiled batches, whose rows never end by themselves."""
    # No text, so nothing to say when it is done: every row decodes to the maximum.
    config = dataclasses.replace(model.config, eos_id=-1, other_eos_ids=())
    windows = decode_windows(whole_batches(sources, batch_size), batch_size, **layout(model, compared[FULL], ends=False))
    batches = [batch for window in windows for batch in window]
    programs = {}
    timed = {
        name: Decoder(model, config, decoding, batches, programs)
        for name, decoding in progress(compared.items(), f'batch {batch_size}, compiling', quiet=args.quiet, unit='decodings')
    }
    rounds = interleaved(timed, 1 + args.repeats, f'batch {batch_size}', args.quiet)
    rows = []
    for name, decoder in timed.items():
        rows.append(row(batch_size, name, rounds[name], rows[0] if rows else None) | decoder.compiled())
    return rows


def read_share(model: Model, full: Decoding, source: list[int], rounds: int) -> dict | None:
    """A step at batch 1 beside the reading of its weights (`calm_jax.reading.StepReading`); None where a text is one token."""
    limit = full.limits.max_new_tokens
    assert limit is not None  # resolved
    if int(limit) < 2:
        return None
    ((batch,),) = decode_windows([source], 1, **layout(model, full))
    count = min(int(limit), 1 + STEPS)
    return time_step(model.config, model.decoding_params, batch.tokens, batch.mask, count, rounds).as_dict()


def in_words(reading: dict) -> str:
    """'step = 9.01 ms, weights read in 5.20 ms, share 0.58'; or that so small a model's step is lost in what calls take."""
    if not 0 < reading['share'] <= MOST_SHARE:
        return (
            f'batch 1, full depth: a step and reading its {reading["weight_bytes"] / 1e6:.3g} MB of weights are too short here '
            'to be told from what a call takes'
        )
    return (
        f'batch 1, full depth: step = {reading["step_ms"]:.2f} ms, weights read in {reading["read_ms"]:.2f} ms, '
        f'share {reading["share"]:.2f}'
    )


def layout(model: Model, full: Decoding, ends: bool = True) -> dict:
    """How sources are laid out; ends: whether an end of sequence follows where the model reads one."""
    padding = model.padding if ends else {**model.padding, 'eos_id': None}
    return {**padding, 'max_source_length': full.limits.max_source_length}


def compared_decodings(args, model: Model) -> dict[str, Decoding]:
    """Decodings by name, full depth first.

    Raises ValueError for flags that contradict each other, and for what the model cannot do.
    """
    if args.certificate:
        return _certified(args, model)
    said = decode_flags.given(args)
    thresholds = args.threshold or ([at(said, ('exit',))['threshold']] if 'threshold' in at(said, ('exit',)) else [])
    if thresholds and 'measure' not in at(said, ('exit',)):
        raise ValueError('--threshold needs --measure: what is compared with it')
    base = decode_flags.decoding_of(args, model)
    full = base.full()
    if base.exit is not None:
        return {FULL: full, **_exits(base, base.exit, thresholds)}
    if isinstance(base.choice, Beam):
        unplanned = dataclasses.replace(base, plan=None)
        return {FULL: dataclasses.replace(full, choice=Greedy())} | {label(each): each for each in (unplanned, base)}
    if base.plan is not None or base.gate is not None:
        return {FULL: full, label(base): base}
    return {FULL: full, **_static_depths(full, model.config.num_decoder_layers)}


def _certified(args, model) -> dict[str, Decoding]:
    """Full depth, and the decodings of certificates, whose limits are the same."""
    if args.threshold:
        raise ValueError('--threshold: a certificate fixes λ; leave the flag out')
    compared = {}
    for path in args.certificate:
        certificate = Certificate.load(path)
        for name, value, covered in decode_flags.otherwise(args, certificate.decoding, model.config.sizes):
            raise ValueError(f'--{name} {value}: the certificate {path} says {covered}; leave the flag out')
        decoding = certified.decoding_of(certificate, model.heads, args.decode_flags.layout.own)
        compared[f'certificate {path}'] = model.resolve(decoding)
    first, *others = compared.values()
    if any(each.limits != first.limits for each in others):
        raise ValueError('the certificates differ in max_new_tokens or max_source_length; time them one by one')
    return {FULL: first.full(), **compared}


def _exits(base: Decoding, exit: Exit, thresholds) -> dict[str, Decoding]:
    """The decoding at each λ of its exit."""
    without = dataclasses.replace(exit, threshold=1.0)
    name = label(dataclasses.replace(base, exit=without))
    if not thresholds:
        raise ValueError(f'--measure needs --threshold, once or more: the λ at which {name} is timed')
    at_each = {each: dataclasses.replace(without, threshold=each) for each in thresholds}
    return {f'{name}, λ={each:.10g}': dataclasses.replace(base, exit=rule) for each, rule in at_each.items()}


def _static_depths(full: Decoding, layers: int) -> dict[str, Decoding]:
    """The decoding after 1, 2, 4, … layers, and with the conditionals of an exit that never happens."""
    shares = {f'{k} of {layers} layers': k / layers for k in (1, 2, 4, 8, 16, 32) if k < layers}
    shares['conditionals, no exit'] = 1 - 0.5 / layers  # nothing reaches it below the last layer
    return {name: dataclasses.replace(full, exit=Exit(StaticDepth(), share)) for name, share in shares.items()}


def label(decoding: Decoding) -> str:
    """A decoding in a few words, whatever its limits, rules and seed."""
    return describe(to_json(decoding))


def inputs(args, examples: int) -> tuple[list[str], jsonl.Records | None]:
    """The first texts of --input, and its records; none where there is no input."""
    if not args.input:
        return [], None
    records, template = open_records(args.input), jsonl.Template(args.source_field)
    return [template(records[i], records.where(i)) for i in range(min(examples, len(records)))], records


def random_sources(model: Model, full: Decoding, examples: int) -> list[list[int]]:
    """Ids that stand in for no input, by the decoding's seed."""
    longest = full.limits.max_source_length
    assert longest is not None  # resolved
    length = min(RANDOM_SOURCE_LENGTH, longest)
    return np.random.default_rng(int(full.seed)).integers(2, model.config.vocab_size, (examples, length)).tolist()


def whole_batches(sources, batch_size):
    """As many sources as fill whole batches; repeated to fill one."""
    return (sources * -(-batch_size // len(sources)))[: max(batch_size, len(sources) // batch_size * batch_size)]


class Decoded(NamedTuple):
    """What one pass over the inputs gave: seconds of wall time, and counts that are the same in every pass.

    layers: that a token ran; executed: that the batch ran at a step; both of sub-layers, over those of a layer. steps: of the
    batch, where in flight each has as many places as there are slots.
    """

    seconds: float
    tokens: int
    steps: float
    layers: float
    executed: float


class Decoder:
    """All batches under one decoding, compiled ahead. programs: shared, so that decodings that differ in numbers alone are
    compiled once; `lower_seconds` and `compile_seconds` are of those that were new, `memory_bytes` of the largest."""

    def __init__(self, model: Model, config: TransformerConfig, decoding: Decoding, batches: list[DecodeBatch], programs: dict):
        self.config, self.calls = config, []
        self.lower_seconds, self.compile_seconds, self.memory_bytes = 0.0, 0.0, None
        for batch in batches:
            call = program(
                config,
                model.decoding_params,
                batch.tokens,
                batch.mask,
                decoding,
                example_ids=batch.rows,
                head_table=model.head_table(decoding),
                outermost=True,
            )
            key = ahead.key(*call)
            if key not in programs:
                programs[key] = ahead.compile_program(*call)
                self.lower_seconds += programs[key].lower_seconds
                self.compile_seconds += programs[key].compile_seconds
            if programs[key].memory_bytes is not None:
                self.memory_bytes = max(self.memory_bytes or 0, programs[key].memory_bytes)
            _, arguments, settings = call
            self.calls.append((programs[key].call, *ahead.inputs(arguments, settings)))

    def compiled(self) -> dict:
        """What compiling took, and memory, as a row has them."""
        return {
            'lower_seconds': self.lower_seconds,
            'compile_seconds': self.compile_seconds,
            'memory_mib': None if self.memory_bytes is None else self.memory_bytes / 2**20,
        }

    def decode(self) -> Decoded:
        """One pass."""
        start = time.perf_counter()
        traces = [jax.device_get(call(*arguments, **settings)) for call, arguments, settings in self.calls]
        seconds = time.perf_counter() - start
        tokens = sum(int(trace.lengths.sum()) for trace in traces)
        steps = sum(max(int(trace.lengths.max()), int(np.count_nonzero(trace.executed))) for trace in traces)
        layers = sum(float(cost.layers(self.config, trace.work).sum()) for trace in traces)
        executed = sum(int(trace.executed.sum()) / len(trace.lengths) for trace in traces) / cost.sub_layers(self.config)
        return Decoded(seconds, tokens, steps, layers / max(1, tokens), executed / max(1, steps))


def interleaved(timed, rounds, description, quiet):
    """What each decoder gave in each round but the first, by name."""
    decoded = {name: [] for name in timed}
    for number in progress(range(rounds), description, quiet=quiet, unit='rounds'):
        for name in timed if number % 2 else reversed(timed):
            decoded[name].append(timed[name].decode())
    return {name: each[1:] for name, each in decoded.items()}


def row(batch_size: int, name: str, rounds: list[Decoded], full: dict | None) -> dict:
    """One line of the result: medians over the rounds, and the ratio to full depth, where there is a row of it, round by
    round."""
    seconds = [each.seconds for each in rounds]
    median, one = statistics.median(seconds), rounds[0]
    result = {
        'batch_size': batch_size,
        'setting': name,
        'pack': None,
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
        'lower_seconds': None,
        'compile_seconds': None,
        'memory_mib': None,
        'rounds': seconds,
    }
    if full is not None:
        ratios = [full / mine for full, mine in zip(full['rounds'], seconds)]
        result |= {'speed_up': statistics.median(ratios), 'speed_up_least': min(ratios), 'speed_up_greatest': max(ratios)}
    return result


def table(result: dict) -> Table:
    """The rows, to be read in a terminal of 80 columns; the JSON has more."""
    title = f'{result["title"]} (median of {result["provenance"]["repeats"]}, least–greatest)'
    drawn = Table(box=box.SIMPLE, pad_edge=False, title=title)
    for name in ('batch', 'setting', 'layers', 'run', 'ms/step', 'tokens/s', 'speed-up'):
        left = name == 'setting'
        drawn.add_column(name, justify='left' if left else 'right', overflow='fold', no_wrap=not left)
    for each in result['rows']:
        speed = (
            ''
            if each['speed_up'] is None
            else f'×{each["speed_up"]:.2f} ({each["speed_up_least"]:.2f}–{each["speed_up_greatest"]:.2f})'
        )
        drawn.add_row(
            str(each['batch_size']),
            each['setting'],
            f'{each["layers"]:.2f}',
            f'{each["executed"]:.2f}',
            f'{each["step_ms"]:.2f}',
            f'{each["tokens_per_second"]:.0f}',
            speed,
        )
    return drawn
