"""Settings of single rows of a batch, beside the `Decoding` that all share."""

from typing import Any

from calm_jax.pytrees import pytree


@pytree
class Rows:
    """Settings of each row, arrays [B]; None where all rows do as the `Decoding` says.

    One compiled batch so holds certified, full and static requests. No row's tokens depend on another row's settings.
    threshold: λ of the exit rule, 1 is off. depth: the row leaves after so many layers, 1…L; 0 is off.
    limit: the most tokens that the row generates, at most those of the limits; it is also N of a decaying threshold.
    start_id: the token before the first, of a model that encodes; None: the configuration's. first_id: the first token itself,
    −1 where it is free, or what the rules force. These two beams take as well.
    """

    threshold: Any = None
    depth: Any = None
    limit: Any = None
    start_id: Any = None
    first_id: Any = None
