"""Optimizers and learning-rate schedules, built from one small description."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from calm_jax.checks import check_types


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adafactor or AdamW with warm-up, decay and gradient clipping.

    The learning rate rises linearly from 0 to `learning_rate` over the warm-up, then follows `decay`:
      constant: stays.
      linear: falls to 0 at `total_steps`.
      cosine: falls to 0 at `total_steps` along half a cosine.
      inverse_square_root: learning_rate · √(warm-up / step).

    name: 'adafactor' (factored second moments, update relative to each parameter's size: the T5 recipe; learning rates of 1e-3
    to fine-tune and 1e-2 from scratch are usual) or 'adamw' (1e-4 to 1e-3).
    learning_rate: the peak, per optimizer step.
    warmup_steps: optimizer steps of linear warm-up, but a third of `total_steps` at most; 0 starts at the peak.
    decay: see above.
    total_steps: optimizer steps at which linear and cosine decay reach 0, warm-up included; None: those of the run.
    weight_decay: AdamW: decoupled, multiplied by the learning rate, on matrices only. Adafactor: subtracted as a share of the
    parameter each step. 0 is off.
    clip_norm: gradients are scaled down to this global L2 norm; 0 is off.
    b1: AdamW's decay of the first moment.
    b2: AdamW's decay of the second moment.

    Raises ValueError for whatever is unknown, of the wrong type or out of range.
    """

    name: Literal['adafactor', 'adamw'] = 'adafactor'
    learning_rate: float = 1e-3
    warmup_steps: int = 1000
    decay: Literal['constant', 'linear', 'cosine', 'inverse_square_root'] = 'constant'
    total_steps: int | None = None
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999

    def __post_init__(self):
        check_types(self, 'Optimizer.')
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f'learning_rate is {self.learning_rate}; it must be positive')
        if self.warmup_steps < 0:
            raise ValueError(f'warmup_steps is {self.warmup_steps}; it must be 0 or more optimizer steps')
        for name in ('weight_decay', 'clip_norm'):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be 0 (off) or more')
        for name in ('b1', 'b2'):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be at least 0 and less than 1')
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(f'total_steps is {self.total_steps}; it must be 1 or more optimizer steps')

    def of(self, steps: int) -> 'Optimizer':
        """The optimizer of a run of so many steps: with its own total, where it has one."""
        return self if self.total_steps is not None else dataclasses.replace(self, total_steps=steps)

    @property
    def warmup(self) -> int:
        """Optimizer steps of warm-up, bent to a run that is short."""
        return self.warmup_steps if self.total_steps is None else min(self.warmup_steps, self.total_steps // 3)

    def rate(self, step: ArrayLike) -> jax.Array:
        """The learning rate of optimizer step `step`, counted from 0; float32 [].

        Step s uses the schedule at s + 1, so that the first update already moves. Raises ValueError for a decay to 0 where no
        total is known.
        """
        done = jnp.asarray(step, jnp.float32) + 1
        warmup = jnp.minimum(done / max(self.warmup, 1), 1.0)
        if self.decay == 'constant':
            return self.learning_rate * warmup
        if self.decay == 'inverse_square_root':
            start = max(self.warmup, 1)
            return self.learning_rate * warmup * jnp.sqrt(start / jnp.maximum(done, start))
        if self.total_steps is None:
            raise ValueError(f'{self.decay} decay needs total_steps, at which it reaches 0')
        share = jnp.clip((done - self.warmup) / (self.total_steps - self.warmup), 0.0, 1.0)
        left = 1 - share if self.decay == 'linear' else 0.5 * (1 + jnp.cos(jnp.pi * share))
        return self.learning_rate * warmup * left

    def build(self) -> optax.GradientTransformation:
        """The optax transformation: clipping, then the optimizer at `rate`."""
        if self.name == 'adafactor':
            update = optax.adafactor(self.rate, weight_decay_rate=self.weight_decay or None)
        else:
            update = optax.adamw(self.rate, self.b1, self.b2, weight_decay=self.weight_decay, mask=_matrices)
        clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        return optax.chain(clip, update)


def _matrices(params):
    """True for matrices: scales and biases are not decayed."""
    return jax.tree.map(lambda param: param.ndim > 1, params)
