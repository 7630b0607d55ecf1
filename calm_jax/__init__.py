"""Adaptive-depth text generation in JAX, with guarantees.

    import calm_jax as calm
    model = calm.load('DIR')
    outputs = model.generate(texts, exit=calm.Exit(calm.SoftmaxGap(), threshold=0.8), max_new_tokens=64)
    certificate = calm.calibrate(losses, thresholds, tolerance=0.1, epsilon=0.05)

Names are imported when first used: a report needs no JAX, and statistics need no model. `__version__` is the installed one.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING

try:
    __version__ = metadata.version('calm_jax')
except metadata.PackageNotFoundError:  # a checkout that was never installed runs too
    __version__ = 'not installed'

if TYPE_CHECKING:  # what editors and type checkers see; a test compares it with what Python finds, below
    from calm_jax.calibration import Certificate as Certificate
    from calm_jax.calibration import calibrate as calibrate
    from calm_jax.decoding.choice import Greedy as Greedy
    from calm_jax.decoding.choice import Sampled as Sampled
    from calm_jax.decoding.generate import generate as generate
    from calm_jax.depth.confidence import Classifier as Classifier
    from calm_jax.depth.confidence import Oracle as Oracle
    from calm_jax.depth.confidence import SoftmaxGap as SoftmaxGap
    from calm_jax.depth.confidence import SoftmaxMax as SoftmaxMax
    from calm_jax.depth.confidence import StateSimilarity as StateSimilarity
    from calm_jax.depth.confidence import StaticDepth as StaticDepth
    from calm_jax.depth.contrast import DivergentContrast as DivergentContrast
    from calm_jax.depth.contrast import WeightedContrast as WeightedContrast
    from calm_jax.depth.exits import Exit as Exit
    from calm_jax.depth.thresholds import Constant as Constant
    from calm_jax.depth.thresholds import Decaying as Decaying
    from calm_jax.depth.thresholds import ScaledDecaying as ScaledDecaying
    from calm_jax.depth.vocabulary import DecayingPruning as DecayingPruning
    from calm_jax.depth.vocabulary import FixedPruning as FixedPruning
    from calm_jax.depth.vocabulary import Whole as Whole
    from calm_jax.model import Model as Model
    from calm_jax.model import Output as Output
    from calm_jax.model import load as load
else:
    _NAMES = {
        'calm_jax.calibration': ('Certificate', 'calibrate'),
        'calm_jax.decoding.choice': ('Greedy', 'Sampled'),
        'calm_jax.decoding.generate': ('generate',),
        'calm_jax.depth.confidence': ('Classifier', 'Oracle', 'SoftmaxGap', 'SoftmaxMax', 'StateSimilarity', 'StaticDepth'),
        'calm_jax.depth.contrast': ('DivergentContrast', 'WeightedContrast'),
        'calm_jax.depth.exits': ('Exit',),
        'calm_jax.depth.thresholds': ('Constant', 'Decaying', 'ScaledDecaying'),
        'calm_jax.depth.vocabulary': ('DecayingPruning', 'FixedPruning', 'Whole'),
        'calm_jax.model': ('Model', 'Output', 'load'),
    }
    _MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
    __all__ = sorted(_MODULE_OF)

    def __getattr__(name):
        if name not in _MODULE_OF:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        return getattr(import_module(_MODULE_OF[name]), name)

    def __dir__():
        return ['__version__', *__all__]
