"""`python -m calm_jax` is `calm`."""

from calm_jax.cli import console

if __name__ == '__main__':
    console()
