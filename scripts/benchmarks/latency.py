"""How long a text is in a decode: from its insertion to its last token, and until the host has it."""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Landed(NamedTuple):
    """Rows that the host got together. lengths: {row: its tokens}; seconds: since others were got, or since the decode began;
    steps: that were run meanwhile."""

    lengths: dict[int, int]
    seconds: float
    steps: int


# Measured are the times at which the host has rows: when a batch is done, or in flight when a part of the slots has been
# refilled. In which step a row came in and left follows from the lengths, as a row takes the first slot that is free and a step
# gives each row a token; between two measured times steps are taken as equally long. So the resolution is a step as far as
# those between two landings are alike, and at worst the time between the two. A batch's own prefill is in its steps' time, in
# flight that of the rows that come next.
def latencies(order: Sequence[int], landings: Sequence[Landed], slots: int) -> tuple[np.ndarray, np.ndarray]:
    """(seconds from insertion to last token, seconds from insertion until the host has it), float64 [n], of rows that share
    slots, in the order in which they come in."""
    times = np.cumsum([0.0, *(each.seconds for each in landings)])
    # A flight that finds slots free runs no step: a step is done when it was first.
    steps, done = np.unique(np.cumsum([0, *(each.steps for each in landings)]), return_index=True)
    lengths = {row: length for each in landings for row, length in each.lengths.items()}
    landing = {row: times[1 + number] for number, each in enumerate(landings) for row in each.lengths}
    free, came, left = [0] * slots, [], []
    for row in order:
        came.append(heapq.heappop(free))
        left.append(came[-1] + lengths[row])
        heapq.heappush(free, left[-1])
    first, last = np.interp(came, steps, times[done]), np.interp(left, steps, times[done])
    return last - first, np.array([landing[row] for row in order]) - first
