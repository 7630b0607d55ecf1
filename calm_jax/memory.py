"""What a decode holds in memory, and what there is: known from shapes, before anything is compiled.

Parameters, and what is made of the head once for a model, are not in it: they are there when what is free is read.
"""

import bisect
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.arrivals import DECIDED, GROUPS, plans_by_input
from calm_jax.decoding.begin import layers_run
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import capacity_of
from calm_jax.decoding.packing import NEVER, Packing, gathers
from calm_jax.depth.vocabulary import Pruned
from calm_jax.models.config import TransformerConfig
from calm_jax.types import Work

GIB, MIB = 2**30, 2**20
WAITING = 2  # groups that are prefilled: one that comes in, and the next


class Held(NamedTuple):
    """What a decode is of, as far as its memory goes.

    width: of the widest sources or prompts, narrower: of those before slots were widened for them, 0 where they never are.
    new_tokens: the limit of any row. beams: sequences of a row. flight: whether rows come and go, or batches stay together.
    packing: of rows that are still inside.
    """

    config: TransformerConfig
    decoding: Decoding
    width: int
    new_tokens: int
    narrower: int = 0
    beams: int = 1
    flight: bool = False
    packing: Packing = NEVER


def decode_bytes(held: Held, rows: int) -> int:
    """Bytes that so many rows need beside the parameters. In flight: the slots, the groups that wait, and the largest of a
    step, a prefill and the slots before they were widened. A batch: its prefill, or its state and a step.

    Beside what XLA's CPU backend says of its programs (`compiled.memory_analysis()`: arguments but the parameters, and
    temporaries), it is .94 to 1.11 of that on twelve shapes of float32: encoder-decoder and decoder-only models of 4 layers,
    widths of 256 and 512, vocabularies of 8,192 to 50,257; 8 to 256 rows, sources of 64 to 512; full depth, state, gap, pruned,
    packed, beams. What the compiler itself needs is in neither.
    """
    state, step = state_bytes(held, rows, held.width), step_bytes(held, rows)
    planned = planned_bytes(held, rows)
    if not held.flight:
        return planned + max(_cross_bytes(held, rows, held.width) + prefill_bytes(held, rows), state + step)
    group = max(1, rows // GROUPS)
    waiting = WAITING * state_bytes(held, group, held.width)
    widened = state_bytes(held, rows, held.narrower) if held.narrower else 0
    return planned + state + waiting + max(step, prefill_bytes(held, group), widened)


def planned_bytes(held: Held, rows: int) -> int:
    """Bytes of what waits for plans that are made of inputs: the states of first layers, twice where groups of them are joined,
    with keys and values of a decoder-only model; of a batch alone, the state that the prefill has left, too."""
    config, decoding = held.config, held.decoding
    if not plans_by_input(decoding):
        return 0
    assert decoding.plan is not None
    run = layers_run(config, decoding.plan)
    read = config.emb_dim if run else 0
    if config.decoder_only:
        read += 2 * run * config.kv_heads * config.head_dim
    waiting = 2 * DECIDED * rows if held.flight else rows
    left = 0 if held.flight else state_bytes(held, rows, held.width)
    return waiting * held.width * read * _itemsize(config) + left


def state_bytes(held: Held, rows: int, width: int) -> int:
    """Bytes of what so many rows hold from step to step: keys and values, exit states, and what is written down of tokens."""
    config, decoding, capacity = held.config, held.decoding, capacity_of(held.new_tokens) + _drafts(held)
    ring = (width - 1 if config.decoder_only else 0) + capacity
    ring += -ring % decoding.propagation.window
    own = ring * (2 * config.num_decoder_layers * config.kv_heads * config.head_dim + config.emb_dim)
    written = 4 * capacity * (3 + len(Work._fields))
    return rows * held.beams * (own * _itemsize(config) + written) + _cross_bytes(held, rows, width)


def step_bytes(held: Held, rows: int) -> int:
    """Bytes of a step at its fullest: logits, of all positions of a round, with what is made of them; or the rows of the head
    that pruning keeps; or the keys and values of packed rows, a layer's at a time; or those that beams exchange."""
    config, sizes, size = held.config, held.config.sizes, _itemsize(held.config)
    rows_, measure = rows * held.beams, held.decoding.exit and held.decoding.exit.measure
    logits = rows_ * max(1, _drafts(held)) * config.vocab_size * max(4, size)
    remembered = jax.eval_shape(lambda: measure.init(rows_, sizes)) if measure is not None else None
    memory = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(remembered))
    vocabulary = getattr(measure, 'vocabulary', None)
    if isinstance(vocabulary, Pruned):
        kept = vocabulary.count(vocabulary.pruning_layer, sizes.layers, sizes.vocabulary)
        memory += rows_ * kept * sizes.embedding * size
    capacity, position = capacity_of(held.new_tokens), 2 * config.kv_heads * config.head_dim * size
    gathered = max((width for width in held.packing.within(rows) if gathers(width, rows)), default=0)
    packed = gathered * (capacity + held.width) * position
    ring = capacity + held.width if config.decoder_only else capacity
    exchanged = rows_ * config.num_decoder_layers * ring * position if held.beams > 1 else 0
    return max(3 * logits, memory + logits, packed, exchanged)


def _drafts(held: Held) -> int:
    """Positions of a round, 0 where nothing is verified."""
    return 0 if held.decoding.exit is None else held.decoding.exit.verify


def prefill_bytes(held: Held, rows: int) -> int:
    """Bytes of a layer of the encoder, or of a prompt's, at its fullest: the scores of its attention, or the inputs of its
    feed-forward."""
    config = held.config
    keys = held.width
    if config.encoder_attention != 'full':
        keys = min(keys, 3 * (config.local_radius + 1) + held.width // config.global_block_size)
    attention = 3 * config.num_heads * keys * max(4, _itemsize(config)) + 5 * config.emb_dim * _itemsize(config)
    feed_forward = 3 * len(config.mlp_activations) * config.mlp_dim * _itemsize(config)
    return rows * held.width * max(attention, feed_forward)


def check_memory(held: Held, rows: int) -> None:
    """Raises ValueError where what so many rows need is more than the memory that is free, with how many would fit."""
    free = free_bytes()
    if free is None or (needed := decode_bytes(held, rows)) <= free:
        return
    fits = bisect.bisect_right(range(1, rows), free, key=lambda count: decode_bytes(held, count))
    advice = f'pass a batch size of at most {fits}' if fits else 'lower the limits: not even one row fits'
    raise ValueError(
        f'{rows} rows need {_words(needed)} of memory for {held.width} tokens of source and {held.new_tokens} new ones, and '
        f'{_words(free)} are free; {advice}'
    )


def free_bytes() -> int | None:
    """Bytes that are free on the device, or in the machine where it is its processor; None where nobody says."""
    stats = jax.devices()[0].memory_stats()
    if stats and 'bytes_limit' in stats:
        return stats['bytes_limit'] - stats.get('bytes_in_use', 0)
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')), None)


def _cross_bytes(held: Held, rows: int, width: int) -> int:
    """Keys and values of the encoder's output."""
    config = held.config
    if config.decoder_only:
        return 0
    one = 2 * config.num_decoder_layers * config.kv_heads * config.head_dim
    return rows * held.beams * width * one * _itemsize(config)


def _itemsize(config: TransformerConfig) -> int:
    return jnp.dtype(config.dtype).itemsize


def _words(count: int) -> str:
    return f'{count / GIB:.1f} GiB' if count >= GIB / 10 else f'{count / MIB:.2f} MiB'
