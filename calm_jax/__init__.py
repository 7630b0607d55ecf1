"""Adaptive-depth text generation in JAX, with guarantees.

    import calm_jax as calm
    model = calm.load('DIR')
    outputs = model.generate(texts, exit=calm.Exit(calm.SoftmaxGap(), threshold=0.8), max_new_tokens=64)
    certificate = calm.calibrate(losses, thresholds, tolerance=0.1, epsilon=0.05)
"""

from calm_jax.calibration import Certificate, calibrate
from calm_jax.decoding.generate import generate
from calm_jax.decoding.sampling import Greedy, Sampled
from calm_jax.depth.confidence import Classifier, Oracle, SoftmaxGap, SoftmaxMax, StateSimilarity, StaticDepth
from calm_jax.depth.thresholds import Constant, Decaying, Exit, ScaledDecaying
from calm_jax.model import Model, Output, load

__all__ = [
    'Certificate', 'Classifier', 'Constant', 'Decaying', 'Exit', 'Greedy', 'Model', 'Oracle', 'Output', 'Sampled',
    'ScaledDecaying', 'SoftmaxGap', 'SoftmaxMax', 'StateSimilarity', 'StaticDepth', 'calibrate', 'generate', 'load',
]
