"""Paths chosen on tuning data: which points are worth testing, and in which order (Pareto testing)."""

import math
from collections.abc import Sequence


def pareto_path(costs: Sequence[float], unsafe: Sequence, below: float = math.inf) -> list[int]:
    """The indices of the Pareto front of points, from the safest, which costs most, to the cheapest.

    costs, unsafe: what each point costs, and how unsafe it is, on tuning data; `unsafe` may be numbers or anything that
    compares, as tuples do. On the front are those that no other point beats: whatever costs no more is less safe. Of equals it
    is the first. below: what must be undercut, such as the cost of full depth, which is always valid.

    With `fixed_sequence` along this path the choice among all points is covered at ε: the path is a function of tuning data
    alone. Bad tuning data lose power, never the guarantee (Laufer-Goldshtein, Fisch, Barzilay and Jaakkola, "Efficiently
    Controlling Multiple Risks with Pareto Testing", 2023, Algorithm 1).
    """
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda index: (costs[index], unsafe[index])):
        if costs[index] < below and (not front or unsafe[index] < unsafe[front[-1]]):
            front.append(index)
    return front[::-1]
