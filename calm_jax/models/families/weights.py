"""How one published tensor becomes one parameter, or several."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Weight(NamedTuple):
    """One line of a family's weight map.

    name: of the tensor in the published file.
    path: of the parameter, names joined by '/'; of several that the tensor holds side by side, joined by ' '.
    transpose: whether the published tensor is stored as [out, in] and the parameter as [in, out].
    duplicates: further names under which published files may hold the very same tensor. They may be absent; those that are
      there must be equal, and one of them may stand in for `name`. Never written.
    row: whether the published tensor has one more axis of length 1 before.
    absent: what every number of the parameter is in files that leave the tensor out, or what makes it of its shape; None: they
      may not.
    """

    name: str
    path: str
    transpose: bool = False
    duplicates: tuple[str, ...] = ()
    row: bool = False
    absent: float | Callable[[tuple[int, ...]], Any] | None = None

    @property
    def paths(self) -> list[str]:
        """Of the parameters, in the order in which the tensor holds them along its last axis (once transposed)."""
        return self.path.split()


def linear(name: str, path: str, bias: bool, transpose: bool = True) -> Iterator[Weight]:
    """The weight of a linear map, and its bias where there is one."""
    yield Weight(f'{name}.weight', _each(path, 'kernel'), transpose)
    if bias:
        yield Weight(f'{name}.bias', _each(path, 'bias'))


def norm(name: str, path: str, kind: str) -> Iterator[Weight]:
    """The scale of a norm, and the bias of one that subtracts the mean."""
    yield Weight(f'{name}.weight', f'{path}/scale')
    if kind == 'layer':
        yield Weight(f'{name}.bias', f'{path}/bias')


def _each(path, leaf):
    return ' '.join(f'{each}/{leaf}' for each in path.split())
