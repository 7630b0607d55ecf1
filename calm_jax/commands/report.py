"""Turns the JSON files of a run into one HTML page that opens anywhere, offline.

RUN is searched at any depth for certificate*.json, results.json, curve.json, trials.json, sensitivity.json, ranks.json,
confidence.json, similarity.json, oracle.json, examples.json and metrics.jsonl; certificates, tables and analyses are also found
under other names, and so are files that `calm generate --plan` decoded. The page shows a section for each kind it finds: the
guarantees in words, result tables, quality against cost, validity over random splits, sensitivity, ranks and confidence by
layer, states with fewer layers, oracles over plans, what plans run and drop, training, and outputs with every token coloured by
the layer it left at. Figures are also written as PNG to a folder beside the page: page.html and page_figures/.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `calm report`."""
    parser.add_argument('run', metavar='RUN', help='folder that earlier stages wrote their JSON files to')
    parser.add_argument(
        '--output', required=True, metavar='PAGE.html', help='page to write; figures go to PAGE_figures/ beside it'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace a page written earlier')
    parser.add_argument('--quiet', action='store_true', help='do not say what was written')


def run(args: argparse.Namespace) -> None:
    """Reads RUN, writes the page and its figures, and says where they are."""
    from calm_jax.outputs import check_apart
    from calm_jax.reporting import page
    from calm_jax.reporting.reader import read

    found = read(args.run)
    check_apart(args.output, [found.directory / path for path in found.files])
    written = page.write(found, args.output, args.overwrite)
    if not args.quiet:
        message = f'{written.page}: from {_counted(len(found.files), "file")}'
        if written.figures:
            message += f', {_counted(len(written.figures), "figure")} in {written.figures[0].parent}'
        print(message)


def _counted(count: int, noun: str) -> str:
    return f'{count} {noun}{"" if count == 1 else "s"}'
