"""A window of texts read for a task, a batch at a time: those whose plans need like room, and run like sub-layers, together."""

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from calm_jax.arrivals import arrivals, planned_arrivals, plans_by_input
from calm_jax.data.windows import DecodeBatch
from calm_jax.decoding.decoding import Decoding
from calm_jax.decoding.generate import read
from calm_jax.decoding.readout import Readout
from calm_jax.models.config import TransformerConfig
from calm_jax.output import DecodeReport
from calm_jax.tasks import Spans, Task
from calm_jax.types import Plan


class Reading(NamedTuple):
    """Texts that were read together. rows: int64 [n], their indices in the input; tokens: the ids of each; truncated: bool [n].
    readout: of these rows, on the host, scores of all places by their tokens, the first at 0. report: what they took."""

    rows: np.ndarray
    tokens: list[np.ndarray]
    truncated: np.ndarray
    readout: Readout
    report: DecodeReport


def read_window(
    config: TransformerConfig,
    params: dict,
    head: Mapping[str, Any],
    batches: Sequence[DecodeBatch],
    decoding: Decoding,
    task: Task,
    *,
    example_ids: Callable[[np.ndarray], np.ndarray],
    wanted: Collection[int],
) -> Iterator[Reading]:
    """The readings of a window's batches that hold a wanted row.

    head: of the task. example_ids: of the rows with these indices in the input.
    """
    batches = [batch for batch in batches if any(row in wanted for row in batch.rows.tolist())]
    if not batches:
        return
    place_of = {row: (batch, place) for batch in batches for place, row in enumerate(batch.rows.tolist()) if row >= 0}
    arrive = planned_arrivals if plans_by_input(decoding) else arrivals
    # The decoder goes over the whole width of the texts, so that those of one width stay among themselves.
    alike = (list(each) for _, each in itertools.groupby(batches, key=lambda batch: batch.tokens.shape[1]))
    arriving = (arrive(config, params, some, decoding, example_ids) for some in alike)
    began = time.perf_counter()
    for arrival in itertools.chain.from_iterable(arriving):
        decided = arrival.decided
        readout = read(config, params, head, decided, decoding, task=task, kept=arrival.room, outermost=True)
        readout, mask = jax.device_get((readout, decided.mask))
        there = np.flatnonzero(arrival.rows >= 0)
        rows, (height, width) = arrival.rows[there], mask.shape
        readout = jax.tree.map(lambda each, there=there: each[there], readout)
        if isinstance(task, Spans) and config.decoder_only:  # padding stands before
            starts = width - mask[there].sum(axis=1)
            turned = [np.roll(row, -start, axis=0) for row, start in zip(readout.scores, starts)]
            readout = readout._replace(scores=np.stack(turned))
        sources = [place_of[row] for row in rows.tolist()]
        ran = (readout.work.self_attention, readout.work.cross_attention, readout.work.feed_forward)
        ended = time.perf_counter()
        yield Reading(
            rows=rows,
            tokens=[batch.tokens[place][batch.mask[place]] for batch, place in sources],
            truncated=np.array([batch.truncated[place] for batch, place in sources]),
            readout=readout,
            report=DecodeReport(
                seconds=ended - began,
                sequences=len(rows),
                places=height * width,
                tokens=int(mask[there].sum()),
                executed=_executed(config, readout.plan) * height * width,
                needed=sum(int(np.sum(each, dtype=np.int64)) for each in ran),
                widths=frozenset([width if arrival.room is None else arrival.room]),
            ),
        )
        began = ended


def _executed(config: TransformerConfig, plan: Plan | None) -> int:
    """Sub-layers of the decoder that some row ran, which are computed for all."""
    kinds = 2 if config.decoder_only else 3
    if plan is None:
        return kinds * config.num_decoder_layers
    parts = (plan.self_attention, plan.feed_forward, plan.cross_attention)[:kinds]
    return sum(int(np.any(part, axis=0).sum()) for part in parts)
