"""Settings of single rows of a batch, beside the `Decoding` that all share."""

from typing import Any

from calm_jax.pytrees import pytree


@pytree
class Rows:
    """Settings of each row, arrays [B]; None where all rows do as the `Decoding` says.

    One compiled batch so holds certified, full and static requests. No row's tokens depend on another row's settings.
    threshold: λ of the exit rule, 1 is off. depth: the row leaves after so many layers, 1…L; 0 is off.
    limit: the most tokens that the row generates, at most those of the limits; it is also N of a decaying threshold.
    """

    threshold: Any = None
    depth: Any = None
    limit: Any = None
