"""The type checker of tests: what annotations say of the functions of `decoding` and `depth`, shapes included."""

from beartype import beartype


def checked(function):
    """The function with its arguments and result checked; makers of values refuse what is wrong in words of their own."""
    return function if function.__name__ == '__init__' else beartype(function)
