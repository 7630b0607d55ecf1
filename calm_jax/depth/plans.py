"""Makers of plans: which sub-layers each row runs for its whole sequence."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from calm_jax.options import option
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Context, Plan, Sizes

PLANNING = 0x706C616E  # a position that no token has: what plans are drawn with, beside the keys of positions

WHOLE = -1  # layers after which a maker is asked: the whole encoder; of a prompt all but the last, which makes no states


class PlanMaker:
    """What every maker of plans is: a pytree that is called once, before the first token, with a `Context`.

    after: after how many encoder layers, or layers over the prompt, it is asked; 0: from ids and tokens alone. Those layers
    run for every row, whatever the plan says; but where it is `WHOLE` a prompt is read in full, and the plan is of what
    follows. No row's plan may depend on its neighbours.
    dial: the field that turns it off at 1, if it has one; head: the head of a checkpoint that holds its trained arrays.
    choices: names of what it chooses from for the source tokens, everything first, which `Plan.choice` counts; () if nothing.
    layerwise: whether it is not called but asked to `decide`, after each layer about the next one.
    """

    after: ClassVar[int] = 0
    dial: ClassVar[str | None] = None
    head: ClassVar[str | None] = None
    choices: ClassVar[tuple[str, ...]] = ()

    @property
    def layerwise(self) -> bool:
        return False

    def __call__(self, context: Context) -> Plan:
        raise NotImplementedError

    def decide(self, layer: int, context: Context) -> Any:
        """`depth.policy.Decisions`, of which those about the layer after this one are taken, and after the first that about the
        source tokens. layer: static, counted through both stacks, the encoder's first. The context's hidden states and mask are
        those after this layer: of the source, of a prompt that is read in full, of a text that is read for a task, or of the
        first position of the decoder."""
        raise NotImplementedError

    def flops(self, sizes: Sizes) -> int:
        """Floating-point operations of planning for one row."""
        return 0

    def check(self, sizes: Sizes) -> None:
        """Raises ValueError where the model has fewer layers than it wants to see."""
        stack, layers = ('encoder', sizes.encoder_layers) if sizes.encoder_layers else ('decoder', sizes.layers)
        if self.after != WHOLE and not 0 <= self.after <= layers:
            raise ValueError(f'{type(self).__name__} is asked after {self.after} layers; the {stack} has {layers}')


@pytree(static=('share',))
class Uniform(PlanMaker):
    """C = ⌈share · L⌉ of the decoder's layers, evenly spaced; the encoder runs in full (Glavas et al. 2024, Eq. 2).

    Raises ValueError for a share outside (0, 1].
    """

    dial: ClassVar[str | None] = 'share'

    share: float = option(
        "the share of the decoder's layers that runs, evenly spaced", default=1.0, flag='uniform_share', metavar='X'
    )

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"uniform_share is {self.share}; expected a share of the decoder's layers, in (0, 1]")

    @classmethod
    def of(cls, text: str, sizes: Sizes) -> dict[str, float]:
        """What `--plan uniform:C` says: C of the decoder's layers, or a share of them below 1.

        Raises ValueError where C is none of 1…L.
        """
        return {'share': _share_of('uniform', text, sizes)}

    def __call__(self, context: Context) -> Plan:
        layers = uniform_layers(layers_of(self.share, context.sizes.layers), context.sizes.layers)
        return fixed(context.example_ids.shape[0], layers, np.ones(context.sizes.encoder_layers, bool))


@pytree(static=('first',))
class RandomLayers(PlanMaker):
    """C = ⌈share · L⌉ of the decoder's layers, drawn for each row anew by its own key, of seed and example id; the encoder runs
    in full. (Glavas et al. 2024, §3.1 and A.3.2, who draw once for a batch.)

    share: to within a ten-thousandth of a layer, as float32 has it. first: whether the first layer is always among them.
    Raises ValueError for a share outside (0, 1].
    """

    dial: ClassVar[str | None] = 'share'

    share: float = option(
        "the share of the decoder's layers that runs, drawn for each text", default=1.0, flag='random_share', metavar='X'
    )
    first: bool = option('the first layer is always among those drawn', default=True, flag='random_first')

    def __post_init__(self):
        if isinstance(self.share, int | float) and not 0 < self.share <= 1:
            raise ValueError(f"random_share is {self.share}; expected a share of the decoder's layers, in (0, 1]")

    @classmethod
    def of(cls, text: str, sizes: Sizes) -> dict[str, float]:
        """What `--plan random:C` says: C of the decoder's layers, or a share of them below 1.

        Raises ValueError where C is none of 1…L.
        """
        return {'share': _share_of('random', text, sizes)}

    def __call__(self, context: Context) -> Plan:
        rows, num_layers = context.example_ids.shape[0], context.sizes.layers
        count = jnp.maximum(1, jnp.ceil(jnp.asarray(self.share, jnp.float32) * num_layers - 1e-4))
        order = jax.vmap(self._order, (0, None))(context.keys, num_layers)
        return fixed(rows, order < count, np.ones(context.sizes.encoder_layers, bool))

    def _order(self, key: Array, num_layers: int) -> Array:
        """In which place each layer is drawn, int32 [L], from 0."""
        layers, drawn = jnp.arange(num_layers, dtype=jnp.int32), int(self.first)
        places = jax.random.permutation(jax.random.fold_in(key, PLANNING), layers[drawn:])
        return jnp.concatenate([layers[:drawn], places])


@pytree(static=('layers', 'share'))
class FixedLayers(PlanMaker):
    """Chosen layers of the decoder, the same for all rows; the encoder runs in full.

    layers: which, counted from 1. share: where it is more of the L layers than these, as many others run besides as make it
    ⌈share · L⌉, evenly spaced among them.
    Raises ValueError for no layers, one that is named twice or is none, and a share outside [0, 1].
    """

    dial: ClassVar[str | None] = 'share'

    layers: tuple[int, ...] = option("which of the decoder's layers run, counted from 1", default=(), flag=None)
    share: float = option(
        "the share of the decoder's layers that runs at least: besides those chosen, evenly spaced ones of the others",
        default=0.0,
        flag='layers_share',
        metavar='X',
    )

    def __post_init__(self):
        if isinstance(self.layers, list):  # JSON and gin give lists
            object.__setattr__(self, 'layers', tuple(self.layers))
        if not self.layers:
            raise ValueError('layers names none; expected decoder layers, counted from 1, as in layers:1,5,9')
        for layer in self.layers:
            if not isinstance(layer, int) or layer < 1:
                raise ValueError(f'layers names {layer}; expected decoder layers, counted from 1')
            if self.layers.count(layer) > 1:
                raise ValueError(f'layers names {layer} {self.layers.count(layer)} times; expected each decoder layer once')
        if not 0 <= self.share <= 1:
            raise ValueError(f"layers_share is {self.share}; expected a share of the decoder's layers, in [0, 1]")

    @classmethod
    def of(cls, text: str, sizes: Sizes) -> dict[str, list[int]]:
        """What `--plan layers:1,5,9` says. Raises ValueError for what is no list of decoder layers, each once."""
        numbers = [number.strip() for number in text.split(',')]
        layers = [int(number) for number in numbers if number.isdecimal()]
        if len(layers) < len(numbers) or not {*layers} <= {*range(1, sizes.layers + 1)} or len({*layers}) < len(layers):
            raise ValueError(
                f"plan is 'layers:{text}'; expected decoder layers from 1 to {sizes.layers}, each once, as in "
                f'layers:{",".join(map(str, range(1, sizes.layers + 1, 2)))}'
            )
        return {'layers': layers}

    def __call__(self, context: Context) -> Plan:
        runs = np.isin(np.arange(1, context.sizes.layers + 1), self.layers)
        others, more = np.flatnonzero(~runs), layers_of(self.share, context.sizes.layers) - len(self.layers)
        if more > 0:
            runs[others[uniform_layers(more, len(others))]] = True
        return fixed(context.example_ids.shape[0], runs, np.ones(context.sizes.encoder_layers, bool))

    def check(self, sizes: Sizes) -> None:
        super().check(sizes)
        if max(self.layers) > sizes.layers:
            raise ValueError(f'layers names {max(self.layers)}; the decoder has {sizes.layers} layers')


@pytree
class GivenPlan(PlanMaker):
    """The plan that it holds, arrays bool [B, ·] in the order of the batch's rows."""

    plan: Plan

    def __call__(self, context: Context) -> Plan:
        runs = jax.tree.map(lambda rows: jnp.asarray(rows, bool), self.plan._replace(choice=None))
        return runs._replace(choice=self.plan.choice)


def _share_of(name: str, text: str, sizes: Sizes) -> float:
    """The share of the decoder's layers that `--plan name:C` says. Raises ValueError where C is none of 1…L, nor a share."""
    number = text.strip()
    if number.isdecimal() and 1 <= int(number) <= sizes.layers:
        return int(number) / sizes.layers
    try:
        share = float(number)
    except ValueError:
        share = 0.0
    if number.isdecimal() or not 0 < share < 1:
        raise ValueError(
            f"plan is '{name}:{text}'; expected {name}:C with C from 1 to {sizes.layers} decoder layers, or a share below 1"
        )
    return share


def layers_of(share: float, num_layers: int) -> int:
    """⌈share · L⌉, at least 1: the layers in a share of them, so that C / L gives C whatever its rounding."""
    return max(1, int(np.ceil(share * num_layers - 1e-9)))


def fixed(rows: int, decoder_layers: ArrayLike, encoder_layers: ArrayLike) -> Plan:
    """Whole layers for every row, or for each its own: decoder_layers bool [L] or [B, L], encoder_layers likewise → Plan."""
    decoder, encoder = (
        jnp.broadcast_to(jnp.asarray(layers, bool), (rows, np.shape(layers)[-1])) for layers in (decoder_layers, encoder_layers)
    )
    return Plan(decoder, decoder, decoder, encoder, encoder)


def full(rows: int, sizes: Sizes) -> Plan:
    """Everything runs."""
    return fixed(rows, np.ones(sizes.layers, bool), np.ones(sizes.encoder_layers, bool))


def uniform_layers(count: int, num_layers: int) -> np.ndarray:
    """bool [L]: U(l, c) = 1[Σ_{k<l} U(k, c) ≤ (l − 1) c / L], layers from 1 (Glavas et al. 2024,
    Eq. 2): exactly c of them. Compared in integers, so that no rounding moves a layer.

    Raises ValueError when the count is outside 1…L.
    """
    if not 1 <= count <= num_layers:
        raise ValueError(f'uniform plan of {count} layers; expected 1 to {num_layers}, the layers the decoder has')
    runs = []
    for layer in range(num_layers):
        runs.append(sum(runs) * num_layers <= layer * count)
    return np.array(runs)
