"""Print the folder of this package's gin files, for t5x's --gin_search_paths."""

from calm_jax.commands.configuration import gin_folder


def add_arguments(parser):
    parser.set_defaults(quiet=False)


def run(args):
    print(gin_folder())
