"""Rows on their way into the slots: in which order, which together, and what was decided of them before.

Where plans are made of what inputs say, rows wait for their plans, and come in with others that keep as many source tokens and
run the same sub-layers; else as they stand in the window.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from calm_jax.data.padding import Buckets
from calm_jax.data.windows import DecodeBatch
from calm_jax.decoding.begin import Decided
from calm_jax.decoding.choice import Beam
from calm_jax.decoding.decoding import Decoding, off
from calm_jax.decoding.generate import chosen_program, decide, joined_program
from calm_jax.models.config import TransformerConfig
from calm_jax.types import Array, Plan

GROUPS = 4  # prefills that fill the slots
DECIDED = 8  # batches of one width whose plans are made before their rows come in


class Arrival(NamedTuple):
    """Rows that come in together. rows: int64 [n], their indices in the input, −1 for those that fill up. room: for the source
    tokens that their plans keep; None: for all."""

    rows: np.ndarray
    decided: Decided
    room: int | None


def arrivals(
    config: TransformerConfig, params: dict, groups: Sequence[DecodeBatch], decoding: Decoding, example_ids: Callable
) -> Iterator[Arrival]:
    """Groups in their order."""
    for group in groups:
        decided = decide(config, params, group.tokens, group.mask, decoding, example_ids(group.rows), outermost=True)
        yield Arrival(group.rows, decided, None)


def planned_arrivals(
    config: TransformerConfig, params: dict, groups: Sequence[DecodeBatch], decoding: Decoding, example_ids: Callable
) -> Iterator[Arrival]:
    """Plans are made for some groups of one width at a time. Their rows come in by how many source tokens they keep, and like
    plans together, so that sub-layers that nobody runs are skipped; the room for sources only grows."""
    widest, size, most = groups[-1].tokens.shape[1], len(groups[0].rows), 0
    for block in _blocks(groups, GROUPS * DECIDED):
        decided = joined_program.way(True)(
            [
                decide(config, params, group.tokens, group.mask, decoding, example_ids(group.rows), outermost=True)
                for group in block
            ]
        )
        plans = jax.device_get(decided.plan)
        rows = np.concatenate([group.rows for group in block])
        order = np.array(
            sorted(np.flatnonzero(rows >= 0).tolist(), key=lambda place: _likeness(plans, place, widest)), np.int64
        )
        for start in range(0, len(order), size):
            places = np.pad(order[start : start + size], (0, max(0, start + size - len(order))), constant_values=-1)
            there = places[places >= 0]
            needed = room_of(None if plans.source is None else plans.source[there], widest)
            most = max(most, needed or 0)
            room = None if needed is None else most
            width = block[0].tokens.shape[1] if room is None else widest
            chosen = chosen_program.way(True)(decided, places.astype(np.int32), width=width)
            yield Arrival(np.where(places >= 0, rows[places], -1), chosen, room)


def plans_by_input(decoding: Decoding) -> bool:
    """Whether plans are made of what inputs say, so that rows are of different ones, which the state of a decode waits for; a
    search has none that leaves it."""
    plan = decoding.plan
    return plan is not None and not off(plan) and plan.after != 0 and not isinstance(decoding.choice, Beam)


def room_of(kept: Array | None, width: int) -> int | None:
    """Room for the source tokens that plans keep, bool [n, S] on the host: one of few lengths up to `width`; None where they
    keep all, and say nothing of it."""
    if kept is None:
        return None
    return Buckets.for_limit(width).length(max(1, int(np.sum(kept, axis=1).max(initial=0))))


def groups_of(batches: Sequence[DecodeBatch], slots: int, wanted: Collection[int] | None = None) -> Iterator[DecodeBatch]:
    """The wanted rows as they are prefilled, a part of the slots at a time, as wide as their batches; rows that fill up come
    last. None: all rows."""
    size = max(1, slots // GROUPS)
    for batch in batches:
        places = np.flatnonzero([row >= 0 and (wanted is None or row in wanted) for row in batch.rows.tolist()])
        for start in range(0, len(places), size):
            chosen = places[start : start + size]
            missing = size - len(chosen)
            yield DecodeBatch(
                tokens=np.pad(batch.tokens[chosen], ((0, missing), (0, 0))),
                mask=np.pad(batch.mask[chosen], ((0, missing), (0, 0))),
                rows=np.pad(batch.rows[chosen], (0, missing), constant_values=-1),
                truncated=np.pad(batch.truncated[chosen], (0, missing)),
            )


def _likeness(plans: Plan, place: int, width: int) -> tuple:
    """What rows are sorted by: those that need like room, then those that run like sub-layers, stand together."""
    kept = None if plans.source is None else plans.source[place : place + 1]
    return room_of(kept, width) or 0, [part[place].tolist() for part in plans[:5]]


def _blocks(groups: Sequence[DecodeBatch], most: int) -> Iterator[list[DecodeBatch]]:
    """Groups that follow each other and are of one width: so many, or a smaller power of two of them, so that few programs join
    them. most: a power of two."""
    for _, alike in itertools.groupby(groups, key=lambda group: group.tokens.shape[1]):
        left = list(alike)
        while left:
            size = min(most, 1 << (len(left).bit_length() - 1))
            yield left[:size]
            left = left[size:]
