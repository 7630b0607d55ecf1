"""Skip controllers: a small network at each layer says of every token whether it runs the layer, or which of its sub-layers
(Zeng et al. 2023; Glavas et al. 2024, §3.2).

The first and the last layer always run. A layer that is skipped still writes the token's keys and values, of the state that
enters it. What a controller reads is that state or, to tell what reading it is worth, the token's embedding, its position, or
nothing at all.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from calm_jax.depth.dial import check_level, level_of, tilt
from calm_jax.depth.gates import Gate
from calm_jax.options import array, option
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Context, Sizes

INPUTS = ('hidden', 'embedding', 'position', 'fixed')
"""What controllers read: the state that enters the layer, that which entered the first, where the token stands, ones."""


def encoded(position: Int[Array, '*B'], width: int) -> Float[Array, '*B D']:
    """Sines and cosines of positions, as wide as a state (Vaswani et al. 2017, §3.5)."""
    rates = jnp.exp(-jnp.log(10_000.0) * jnp.arange(0, width, 2) / width)
    angles = position[..., None].astype(jnp.float32) * rates
    return jnp.stack((jnp.sin(angles), jnp.cos(angles)), axis=-1).reshape(*position.shape, -1)[..., :width]


def scores(
    head: Mapping[str, Any],
    layer: int,
    hidden: Float[Array, '*B D'],
    embedding: Float[Array, '*B D'],
    position: Int[Array, '*B'],
) -> Float[Array, '*B O']:
    """Logits of running a layer (O = 1), or its attention and its feed-forward (O = 2).

    head: arrays as `SkipControllers` has them. position: generated tokens before this one.
    """
    parts = [hidden.astype(jnp.float32), embedding.astype(jnp.float32), encoded(position, hidden.shape[-1]), 1.0]
    x = sum(weight * part for weight, part in zip(jnp.asarray(head['inputs']), parts))
    if head.get('hidden_kernel') is not None:
        x = jax.nn.relu(x @ jnp.asarray(head['hidden_kernel'])[layer] + jnp.asarray(head['hidden_bias'])[layer])
    return x @ jnp.asarray(head['kernel'])[layer] + jnp.asarray(head['bias'])[layer]


@pytree(static=('drawn',))
class SkipControllers(Gate):
    """Trained skip controllers under their dial: κ = log(λ / (1 − λ)) is added to every logit.

    inputs: float32 [4], what is read, weights of `INPUTS`. kernel: [L, D, O], bias: [L, O]: one output for the layer, or two,
    for its attention and its feed-forward. hidden_kernel: [L, D, H], hidden_bias: [L, H]: of controllers with a hidden layer,
    whose kernel is [L, H, O]; else None. Those of the first and the last layer are not used.

    Raises ValueError for a level outside [0, 1].
    """

    dial: ClassVar[str | None] = 'level'
    head: ClassVar[str | None] = 'controllers'

    inputs: Array = array()
    kernel: Array = array()
    bias: Array = array()
    hidden_kernel: Array | None = array(optional=True)
    hidden_bias: Array | None = array(optional=True)
    level: float = option(
        'how much the controllers run: 1 everything, .5 what they were trained to, less below',
        default=0.5,
        flag='controllers_level',
        metavar='X',
    )
    drawn: bool = option(
        'draw each decision as likely as the controllers have it, as in their training, in place of the likelier one',
        default=False,
        flag='controllers_drawn',
    )

    def __post_init__(self):
        check_level('controllers_level', self.level)

    @classmethod
    def of(cls, text: str, sizes: Sizes) -> dict[str, float]:
        """What `--gate controllers:λ` says. Raises ValueError for what is no number from 0 to 1."""
        return {'level': level_of(text, 'gate', 'controllers')}

    def init(self, rows: int, sizes: Sizes) -> Array:
        """The state that entered the first layer, [B, D]."""
        return jnp.zeros((rows, sizes.width), sizes.state_dtype)

    def __call__(self, memory: Array, context: Context) -> tuple[Array, Bool[Array, 'B'] | Bool[Array, 'B 3']]:
        assert context.hidden is not None and context.layer is not None and context.position is not None  # of a gate
        embedding = context.hidden.astype(memory.dtype) if context.layer == 0 else memory
        if context.layer in (0, context.sizes.layers - 1):
            return embedding, jnp.ones(len(context.hidden), bool)
        position = jnp.broadcast_to(context.position, len(context.hidden))
        logits = scores(self._head(), context.layer, context.hidden, embedding, position) + tilt(self.level)
        if self.drawn:
            logits += jax.vmap(lambda key: jax.random.logistic(key, logits.shape[1:]))(context.keys)
        runs = logits >= 0
        return embedding, runs[:, 0] if runs.shape[1] == 1 else jnp.stack((runs[:, 0], runs[:, 0], runs[:, 1]), axis=1)

    def _head(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ('inputs', 'kernel', 'bias', 'hidden_kernel', 'hidden_bias')}

    def flops(self, layer: int, sizes: Sizes) -> int:
        if layer in (0, sizes.layers - 1):
            return 0
        outputs, hidden = self.kernel.shape[-1], 0 if self.hidden_kernel is None else self.hidden_kernel.shape[-1]
        return 2 * (sizes.width * hidden + hidden * outputs) if hidden else 2 * sizes.width * outputs

    def check(self, sizes: Sizes) -> None:
        kernel = self.kernel if self.hidden_kernel is None else self.hidden_kernel
        if kernel.shape[:2] != (sizes.layers, sizes.width):
            raise ValueError(
                f'the controllers are [{", ".join(map(str, kernel.shape))}], of another model; expected '
                f'[{sizes.layers}, {sizes.width}, …] for {sizes.layers} layers'
            )
