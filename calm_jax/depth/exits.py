"""The exit rule: a measure, and the threshold at which a token leaves."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from calm_jax.depth import confidence, contrast
from calm_jax.depth.adapters import ADAPTERS, ExitAdapters
from calm_jax.depth.confidence import Measure
from calm_jax.depth.thresholds import FORMS, Constant, ThresholdForm
from calm_jax.options import option
from calm_jax.pytrees import pytree
from calm_jax.types import Array, Sizes

# Those that come along. One of your own needs no line here: it is named by where it is, 'package.module:Class'.
MEASURES: dict[str, type[Measure]] = {
    'softmax_gap': confidence.SoftmaxGap,
    'softmax_max': confidence.SoftmaxMax,
    'state': confidence.StateSimilarity,
    'classifier': confidence.Classifier,
    'weighted_contrast': contrast.WeightedContrast,
    'divergent_contrast': contrast.DivergentContrast,
    'oracle': confidence.Oracle,
    'static': confidence.StaticDepth,
}


@pytree(static=('min_exit_layer', 'verify'))
class Exit:
    """Leave after the first layer whose confidence reaches λ_t (Eq. 4).

    measure: what the confidence is; threshold: λ in [0, 1], the dial, swept without compiling again; 1 is off.
    form: how λ becomes λ_t; min_exit_layer: layers that every token visits, 1…L. adapters: what the measure and the head read
    of a layer's state; None: the state itself. verify: W, how many tokens in a row leave early before one pass of the remaining
    layers says what full depth says of them; 0: what leaves is said.
    Raises TypeError where measure, form or adapters are none; ValueError for λ outside [0, 1] or a layer below 1.
    """

    measure: Measure = option(help='the confidence measure', metavar='NAME', kinds=MEASURES, named=True)
    threshold: float | Array = option('leave when the confidence reaches λ in [0, 1]; 1 is off', default=1.0, metavar='λ')
    form: ThresholdForm = option(
        'how λ becomes the threshold of a position', default=Constant(), flag='threshold_form', metavar='FORM', kinds=FORMS
    )
    min_exit_layer: int = option('layers that every token visits', default=1, metavar='J')
    adapters: ExitAdapters | None = option(
        'read early layers through the trained adapters of the checkpoint', default=None, metavar='NAME', kinds=ADAPTERS
    )

    verify: int = option(
        'tokens that leave are drafts: so many are verified together, and what is said is what full depth says; 0 is off',
        default=0,
        metavar='W',
    )

    dial: ClassVar[str] = 'threshold'

    def __post_init__(self):
        if not isinstance(self.measure, Measure):
            raise TypeError(f'measure is {self.measure!r}; expected a confidence measure, such as SoftmaxGap()')
        if not isinstance(self.form, ThresholdForm):
            raise TypeError(f'form is {self.form!r}; expected a form of the threshold, such as Constant()')
        if not isinstance(self.adapters, ExitAdapters | None):
            raise TypeError(f'adapters is {self.adapters!r}; expected exit adapters, or None')
        if isinstance(self.threshold, int | float) and not 0 <= self.threshold <= 1:
            raise ValueError(f'threshold is {self.threshold}; expected λ in [0, 1], where 1 is off')
        if not isinstance(self.verify, int) or self.verify < 0:
            raise ValueError(f'verify is {self.verify!r}; expected 1 or more drafts, or 0 for none')
        if not isinstance(self.min_exit_layer, int) or self.min_exit_layer < 1:
            raise ValueError(f'min_exit_layer is {self.min_exit_layer!r}; expected 1 or more')

    def check(self, sizes: Sizes) -> None:
        """Raises ValueError where the model has fewer layers or ids than the rule needs."""
        if self.min_exit_layer > sizes.layers:
            raise ValueError(f'min_exit_layer is {self.min_exit_layer}; the decoder has {sizes.layers} layers')
        if self.adapters is not None:
            self.adapters.check(sizes)
        if isinstance(self.measure, confidence.VocabularyMeasure):
            self.measure.vocabulary.check(sizes)

    def read(self, layer: int, hidden: Float[Array, 'B D']) -> Float[Array, 'B D']:
        """What the measure and the head read of the states after a layer (from 0; −1: of what enters the first)."""
        return hidden if self.adapters is None or layer < 0 else self.adapters(layer, hidden)

    def flops(self, layer: int, sizes: Sizes) -> int:
        """Floating-point operations of observing one row after a layer (from 0), besides the head."""
        flops = self.measure.flops(layer, sizes)
        if self.adapters is None:
            return flops
        before = self.adapters.flops(layer - 1, sizes) if self.measure.reads_previous and layer else 0
        return flops + self.adapters.flops(layer, sizes) + before

    def observes(self, layer: int) -> bool:
        """Whether the measure looks at this layer (from 0) at all."""
        return self.measure.starts(layer) or layer + 1 >= self.min_exit_layer

    def leaves(
        self, layer: int, confidence: Float[Array, 'B'], threshold: Any, position: Int[Array, 'B'], length: Int[Array, 'B']
    ) -> Bool[Array, 'B']:
        """Confidences that reach λ_t after this layer. threshold: λ, a number or [B]; length: N."""
        if layer + 1 < self.min_exit_layer:
            return jnp.zeros(confidence.shape, bool)
        return confidence >= self.form(threshold, position, length)
