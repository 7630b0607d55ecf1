"""The flags of gin, as t5x spells them; `configuration` reads what they name."""

import argparse
import re
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--gin_file, --gin_search_paths and --gin.NAME=VALUE, as t5x spells them."""
    parser.add_argument(
        '--gin_file',
        action='append',
        default=[],
        metavar='FILE',
        help='gin file, such as runs/train.gin; repeat it to stack files, later ones win',
    )
    parser.add_argument(
        '--gin_search_paths',
        default='',
        metavar='DIRS',
        help='comma-separated folders searched for gin files after the current one and before those of the library',
    )
    parser.add_argument(
        '--gin_binding',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help='one gin binding; also spelled --gin.NAME=VALUE. Strings need quotes that survive the shell: '
        '--gin.MODEL_DIR="\'runs/a\'"',
    )
    parse = parser.parse_known_args

    # argparse has no flags with open names; those of gin are respelled just before it parses.
    def parse_known_args(args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        return parse([re.sub(r'^--gin\.(?=[^=]+=)', '--gin_binding=', arg) for arg in args], namespace)

    parser.parse_known_args = parse_known_args
