"""Rows that run a layer, or a sub-layer, packed: fewer rows through what not everybody enters.

A layer that any row enters is computed for all of them, however many have left: with tokens that need 2 of 8 layers on average,
a batch of 32 runs 6.3. After some layers the states that are still inside are gathered to the front instead, and the layers
up to the next such point run at the least of a few static widths that holds them; each width is a conditional with nothing on
its other side, because XLA copies what a conditional of several branches carries. Within plans every sub-layer is such a point.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Int

from calm_jax.types import Array, Sizes

SUB_LAYERS = 'sub_layers'


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where rows are packed, and how.

    points: layers after which it is done for those that are still inside, ascending, from 1. widths: into how many rows,
    ascending; a batch of no more rows is not packed into them. sub_layers: whether it is done for every sub-layer besides, for
    the rows that a plan or gate has run it: in a step into the widths, if there are any, and in a prefill some rows at a time.
    Nothing in any: never.
    Raises ValueError for what is not so.
    """

    points: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    sub_layers: bool = False

    def __post_init__(self):
        for name in ('points', 'widths'):
            numbers = getattr(self, name)
            if any(not isinstance(each, int) or each < 1 for each in numbers) or list(numbers) != sorted(set(numbers)):
                raise ValueError(f'{name} are {numbers}; expected whole numbers from 1 on, ascending')
        if self.points and not self.widths or self.widths and not self:
            raise ValueError(f'packing after layers {self.points} into {self.widths} rows: expected both or neither')

    @classmethod
    def parse(cls, text: str) -> 'Packing':
        """Of '1,3:8,16': after layers 1 and 3 into 8 or 16 rows; 'sub_layers:8,16': at every sub-layer; 'sub_layers,1,3:8,16':
        both; 'sub_layers': in prefills alone. Raises ValueError for what is not so."""
        points, colon, widths = text.partition(':')
        names = points.split(',')
        try:
            layers = tuple(int(each) for each in names if each != SUB_LAYERS)
            return cls(layers, tuple(map(int, widths.split(','))) if colon else (), SUB_LAYERS in names)
        except ValueError as error:
            more = f' ({error})' if colon and 'invalid literal' not in str(error) else ''
            raise ValueError(f'packing {text!r}: expected LAYERS:WIDTHS, such as 1,3:8,16{more}') from None

    def __str__(self) -> str:
        points = [*([SUB_LAYERS] if self.sub_layers else []), *map(str, self.points)]
        return ','.join(points) + (':' + ','.join(map(str, self.widths)) if self.widths else '')

    def __bool__(self) -> bool:
        return bool(self.points) or self.sub_layers

    def part(self, points: bool, sub_layers: bool) -> 'Packing':
        """That at points alone, at sub-layers alone, or never."""
        kept = Packing(self.points, self.widths) if points and self.points else NEVER
        return dataclasses.replace(self, points=kept.points) if sub_layers and self.sub_layers else kept

    def within(self, rows: int) -> tuple[int, ...]:
        """The widths below this number of rows."""
        return tuple(width for width in self.widths if width < rows)


NEVER = Packing()


def measured(sizes: Sizes, rows: int, backend: str) -> Packing:
    """The packing that was fastest for such a model and batch (`docs/results.md`); none where none was faster, or where
    compiling it takes longer than a quarter of a minute.

    On a CPU products of fewer rows take less time, and packing after layers 1 and 3 into an eighth, a quarter or half of the
    rows was never slower; each width is compiled for every layer. Within plans whose rows each draw half of the sub-layers,
    packing for every sub-layer took .55 of full depth's time in prefills, and .81 in the layers of a step, which without it
    are about as long as at full depth. On a GPU a step of these sizes waits for launches and conditionals, not for products:
    packing took longer there.
    """
    if backend != 'cpu' or sizes.width < 256 or not 4 <= sizes.layers <= 12 or rows % 8:
        return NEVER
    return Packing((1, 3), (rows // 8, rows // 4, rows // 2), sub_layers=True)


def gathers(rows: int, count: int) -> bool:
    """Whether keys and values of some of `count` rows are gathered before they are attended to: where it takes fewer bytes to
    read, write and read them again than to read everybody's."""
    return 3 * rows < count


def taken(tree: Any, rows: Int[Array, ' w'], count: int) -> Any:
    """Of arrays whose first axis goes through `count` rows, some places a row, those of some rows."""

    def take(leaf):
        size = leaf.shape[0] // count
        if size == 1:
            return jnp.take(leaf, rows, axis=0, mode='clip')
        by_row = leaf.reshape(count, size, *leaf.shape[1:])
        return jnp.take(by_row, rows, axis=0, mode='clip').reshape(-1, *leaf.shape[1:])

    return jax.tree.map(take, tree)


def put(tree: Any, rows: Int[Array, ' w'], new: Any, count: int) -> Any:
    """The arrays with those of some rows replaced; arrays that grew on the way are filled up with zeros for the others."""

    def replace(leaf, piece):
        size = piece.shape[0] // rows.shape[0]
        shape = (count * size, *piece.shape[1:])
        if leaf.shape != shape:
            leaf = fitted(leaf, shape)
        if size == 1:
            return leaf.at[rows].set(piece)
        by_row = leaf.reshape(count, size, *shape[1:])
        return by_row.at[rows].set(piece.reshape(-1, size, *shape[1:])).reshape(shape)

    return jax.tree.map(replace, tree, new)


def fitted(old: Array, shape: tuple[int, ...]) -> Array:
    """An array cut, or filled up with zeros, to a shape."""
    if old.shape == shape:
        return old
    cut = old[tuple(map(slice, shape))]
    return jnp.pad(cut, [(0, new - each) for each, new in zip(cut.shape, shape)])
