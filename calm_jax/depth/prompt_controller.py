"""A controller of whole sequences: from what the model has made of a prompt it says which of a few plans will do.

Glavas et al. 2024 (§3.3) show with an oracle that a plan chosen for each sequence could save most of a model, and leave the
choice itself open. Here it is linear: what each plan adds to the full model's loss is predicted from the prompt's last states,
which the prefill has made anyway, and the cheapest plan runs that is predicted to add no more than the dial allows.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from calm_jax.depth.dial import check_level, level_of
from calm_jax.depth.plans import WHOLE, PlanMaker
from calm_jax.options import array, option
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Context, Plan, Sizes


def features(states: Float[Array, 'B S D'], mask: Bool[Array, 'B S']) -> Float[Array, 'B 2*D']:
    """The mean of a text's states, and the last of them, each at a mean square of 1, so that no token outweighs others."""
    states = states.astype(jnp.float32)
    states = states * jax.lax.rsqrt(jnp.mean(jnp.square(states), axis=-1, keepdims=True) + 1e-6)
    there = mask[..., None]
    mean = jnp.sum(jnp.where(there, states, 0), axis=1) / jnp.maximum(jnp.sum(there, axis=1), 1)
    last = jnp.max(jnp.where(mask, jnp.arange(mask.shape[1]), 0), axis=1)
    return jnp.concatenate((mean, jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]), axis=-1)


@pytree
class PromptController(PlanMaker):
    """The cheapest of K plans that is predicted to add at most 1 − λ to the full model's loss.

    runs: bool [K, L, 2], which of the decoder's attentions and feed-forwards each plan runs, cheapest plan first, the last one
    everything. mean, scale: float32 [2·D], of the features. kernel: [2·D, K − 1], bias: [K − 1], of what each plan but the last
    adds to the loss, predicted of the features less their mean and over their scale.

    Raises ValueError for a level outside [0, 1].
    """

    after: ClassVar[int] = WHOLE
    dial: ClassVar[str | None] = 'level'
    head: ClassVar[str | None] = 'prompt_controller'

    runs: Array = array()
    mean: Array = array()
    scale: Array = array()
    kernel: Array = array()
    bias: Array = array()
    level: float = option(
        'a plan may be predicted to add 1 − λ to the loss: at 1 everything runs',
        default=0.99,
        flag='prompt_controller_level',
        metavar='X',
    )

    def __post_init__(self):
        check_level('prompt_controller_level', self.level)

    @classmethod
    def of(cls, text: str, sizes: Sizes) -> dict[str, float]:
        """What `--plan prompt_controller:λ` says. Raises ValueError for what is no number from 0 to 1."""
        return {'level': level_of(text, 'plan', 'prompt_controller')}

    def __call__(self, context: Context) -> Plan:
        assert context.hidden is not None  # asked after the prompt
        x = (features(context.hidden, context.mask) - jnp.asarray(self.mean)) / jnp.asarray(self.scale)
        adds = x @ jnp.asarray(self.kernel) + jnp.asarray(self.bias)
        will_do = jnp.concatenate((adds <= 1 - self.level, jnp.ones((len(adds), 1), bool)), axis=1)
        runs = jnp.asarray(self.runs, bool)[jnp.argmax(will_do, axis=1)]
        whole = jnp.ones((len(adds), context.sizes.encoder_layers), bool)
        return Plan(runs[..., 0], runs[..., 0], runs[..., 1], whole, whole)

    def flops(self, sizes: Sizes) -> int:
        return 4 * sizes.width * (len(self.runs) - 1)

    def check(self, sizes: Sizes) -> None:
        super().check(sizes)
        expected = (len(self.runs), sizes.layers, 2), (2 * sizes.width, len(self.runs) - 1)
        found = tuple(self.runs.shape), tuple(self.kernel.shape)
        if found != expected:
            raise ValueError(
                f'the prompt controller has plans {list(found[0])} and a kernel {list(found[1])}, of another model; expected '
                f'{list(expected[0])} and {list(expected[1])}'
            )
