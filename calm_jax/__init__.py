"""Adaptive-depth text generation in JAX, with guarantees."""
