"""Adaptive-depth text generation in JAX, with guarantees.

    import calm_jax as calm
    model = calm.load('DIR')
    outputs = model.generate(texts, exit=calm.Exit(calm.SoftmaxGap(), threshold=0.8), max_new_tokens=64)
    certificate = calm.calibrate(losses, thresholds, tolerance=0.1, epsilon=0.05)

Names are imported when first used: a report needs no JAX, and statistics need no model.
"""

import importlib

_HOMES = {
    'calm_jax.model': ('Model', 'Output', 'load'),
    'calm_jax.decoding.generate': ('generate',),
    'calm_jax.decoding.sampling': ('Greedy', 'Sampled'),
    'calm_jax.depth.confidence': ('Classifier', 'Oracle', 'SoftmaxGap', 'SoftmaxMax', 'StateSimilarity', 'StaticDepth'),
    'calm_jax.depth.contrast': ('DivergentContrast', 'WeightedContrast'),
    'calm_jax.depth.vocabulary': ('Pruned', 'Whole'),
    'calm_jax.depth.thresholds': ('Constant', 'Decaying', 'Exit', 'ScaledDecaying'),
    'calm_jax.calibration': ('Certificate', 'calibrate'),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name):
    if name not in _HOME_OF:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__():
    return __all__
