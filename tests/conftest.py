"""For every test: programs compile quickly rather than well, and commands keep them in the test cache, not in a home."""

import os

# Tiny models run for milliseconds and compile for seconds.
os.environ.setdefault('XLA_FLAGS', '--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0')


def pytest_configure(config):
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(config.cache.mkdir('compiled')))
