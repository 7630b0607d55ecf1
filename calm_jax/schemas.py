"""What result files hold, declared once for those who write them and for the report: points of a curve, outputs, examples,
plans.

Written as `dataclasses.asdict` has them; a field that is null counts as not there.
"""

import dataclasses

FULL_MODEL = 'full model'  # the label of its outputs
# The names of a policy's choices of source tokens, by what they drop, in the order of `calm_jax.depth.policy.TOKEN_CHOICES`.
TOKEN_CHOICES = ('none', 'last 10%', 'last 20%', 'evenly 25%', 'last 30%', 'evenly 33%', 'evenly 50%')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One setting of a curve: means over the examples, None where not measured. FLOPs are per token.

    decoding: its document. threshold: its λ, if it has one. layers: sub-layers run over those of a layer; exit_layers: the
    layers that tokens left after; both per token. loss: the largest mean over risks. p_value, rejected: where it was tested.
    """

    decoding: dict | None = None
    threshold: float | None = None
    layers: float
    exit_layers: float | None = None
    flops: float | None = None
    flops_elbayad: float | None = None
    quality: float | None = None
    consistency: float | None = None
    loss: float | None = None
    p_value: float | None = None
    rejected: bool | None = None


@dataclasses.dataclass(frozen=True)
class Output:
    """One generated text: its pieces, the layer each left at, 1…L, and the confidence there where recorded."""

    label: str
    pieces: tuple[str, ...]
    exit_layers: tuple[int, ...]
    confidence: tuple[float | None, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """One input with its reference, the full model's output and the early ones."""

    input: str
    reference: str | None
    full: Output
    early: tuple[Output, ...]

    @property
    def changed(self) -> bool:
        """Whether an early output is another than the full model's."""
        return any(output.pieces != self.full.pieces for output in self.early)
