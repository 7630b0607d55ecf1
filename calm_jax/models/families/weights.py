"""How one published tensor becomes one parameter."""

from typing import NamedTuple


class Weight(NamedTuple):
    """One line of a family's weight map.

    name: of the tensor in the published file.
    path: of the parameter, names joined by '/'.
    transpose: whether the published tensor is stored as [out, in] and the parameter as [in, out].
    duplicates: further names under which published files may hold the very same tensor. They may be absent; those that are
      there must be equal, and one of them may stand in for `name`. Never written.
    """

    name: str
    path: str
    transpose: bool
    duplicates: tuple[str, ...] = ()
