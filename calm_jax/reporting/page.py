"""The report as one self-contained HTML page, with its figures written as PNG files beside it."""

import base64
import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import jinja2

from calm_jax.files import write_text
from calm_jax.reporting import depths, oracles, plans, sensitivity, similarity, tradeoffs, training, validity
from calm_jax.reporting.figures import Drawing, Panel, Rendered, hues, render
from calm_jax.reporting.grids import Grid, grid
from calm_jax.reporting.numerals import number
from calm_jax.reporting.palette import layer_swatches
from calm_jax.reporting.promises import beside_sentence, promise, summary
from calm_jax.reporting.run import Results, Run
from calm_jax.reporting.tokens import Coloured, colour, plain
from calm_jax.schemas import Example, Output

_INTRODUCTIONS = {
    'tradeoffs': ('Quality against cost', 'What each way of leaving early costs in quality. Up and to the left is better.'),
    'validity': (
        'Does the guarantee hold?',
        'Calibration repeated on random splits of the data, each time measured on what was left out.',
    ),
    'sensitivity': ('Sensitivity to single tokens', 'How far one wrong token spoils the rest, by where it stands.'),
    'depths': ('What each layer knows', 'How early the last layer’s token can be seen, and whether confidence tells.'),
    'similarity': ('With fewer layers', 'How far states drift from the full model’s, by what is left out.'),
    'oracles': ('How far a choice by text could go', 'The best plan for each text, chosen by someone who knows the scores.'),
    'plans': ('What plans run', 'Which sub-layers and source tokens each text needs, as its plan has it.'),
    'training': ('Training', 'How the loss fell.'),
}
_FIGURE_NAMES = re.compile(r'(tradeoff|validity|sensitivity|ranks|confidence|similarity|oracle|plans|training)(_\w+)?\.png')


class Picture(NamedTuple):
    """A drawing, and what the page shows of it on light and on dark screens, as data URIs."""

    drawing: Drawing
    light: str
    dark: str


class Section(NamedTuple):
    """A part of the page made of figures."""

    name: str
    title: str
    introduction: str
    panels: list[tuple[Panel, list[Picture], Grid]]


class ShownExample(NamedTuple):
    """An example with the full output's text and the coloured early outputs."""

    example: Example
    full: str
    outputs: list[Coloured]


class ExampleSet(NamedTuple):
    """Examples of one model of `num_layers` decoder layers, and the name of the file they are from, where it is known."""

    num_layers: int
    data: str | None
    shown: list[ShownExample]


class Written(NamedTuple):
    """What `write` left on disk."""

    page: pathlib.Path
    figures: list[pathlib.Path]


def write(run: Run, output: str | pathlib.Path, overwrite: bool = False) -> Written:
    """Writes the page to `output` and its figures to the folder `<stem>_figures` beside it.

    Raises `FileExistsError` where either exists and `overwrite` is not set. With it, figures of an earlier report are
    removed from the folder first; files that no report writes are left alone.
    """
    output = pathlib.Path(output)
    folder = output.with_name(f'{output.stem}_figures')
    if output.is_dir():
        raise IsADirectoryError(f'{output}: a folder; --output names the page to write, such as {output / "page.html"}')
    for path in (output, folder):
        if path.exists() and not overwrite:
            raise FileExistsError(f'{path}: exists already; name another --output or pass --overwrite')
    html, images = compose(run)
    output.parent.mkdir(parents=True, exist_ok=True)
    for path in folder.glob('*.png'):
        if _FIGURE_NAMES.fullmatch(path.name):
            path.unlink()
    for name, image in images.items():
        folder.mkdir(exist_ok=True)
        (folder / f'{name}.png').write_bytes(image)
    write_text(output, html)
    return Written(output, [folder / f'{name}.png' for name in images])


def compose(run: Run) -> tuple[str, dict[str, bytes]]:
    """The page's HTML, and its figures as PNG by name. The same files give the same page: no clock is read."""
    colours = hues(run.curves, run.trials)
    panels = {
        'tradeoffs': tradeoffs.panels(run.curves, colours),
        'validity': validity.panels(run.trials, colours),
        'sensitivity': sensitivity.panels(run.sensitivities),
        'depths': depths.panels(run.ranks, run.confidences),
        'similarity': similarity.panels(run.similarities),
        'oracles': oracles.panels(run.oracles),
        'plans': plans.panels(run.plans),
        'training': training.panels(run.trainings),
    }
    rendered = {drawing.name: render(drawing) for group in panels.values() for panel in group for drawing in panel.drawings}
    promises = [promise(certificate, run.curves) for certificate in run.certificates]
    lead, examples = _without_lead(_examples(run))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('calm_jax.reporting', ''),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template('page.html.jinja').render(
        title=run.results[0].title if len(run.results) == 1 else run.directory.resolve().name,
        run=run,
        promises=promises,
        summary=summary(promises),
        beside_sentence=beside_sentence,
        results=_results(run),
        sections=[
            Section(name, *_INTRODUCTIONS[name], [_shown(panel, rendered) for panel in group])
            for name, group in panels.items()
            if group
        ],
        lead=lead,
        examples=examples,
        scales={
            depth: list(zip(layer_swatches(depth), layer_swatches(depth, dark=True)))
            for depth in sorted({each.num_layers for each in run.examples})
        },
        number=number,
    )
    return html, {name: each.png for name, each in rendered.items()}


def _results(run: Run) -> list[tuple[Results, Grid, list[tuple[str, str]]]]:
    """Each table as it was read and as it is printed, and (columns, what they mean), where that is said."""
    return [
        (
            table,
            grid(
                [(column.name, column.unit) for column in table.columns],
                [[row[column.key] for column in table.columns] for row in table.rows],
            ),
            [(f'{column.name} {column.unit}'.strip(), column.meaning) for column in table.columns if column.meaning],
        )
        for table in run.results
    ]


def _shown(panel: Panel, rendered: Mapping[str, Rendered]) -> tuple[Panel, list[Picture], Grid]:
    pictures = [
        Picture(drawing, _data_uri(rendered[drawing.name].light), _data_uri(rendered[drawing.name].dark))
        for drawing in panel.drawings
    ]
    return panel, pictures, grid([(heading, '') for heading in panel.table.headings], panel.table.rows)


def _examples(run: Run) -> list[ExampleSet]:
    """The sets of examples. Files that differ in early outputs alone, as of several measures on one data set, are one set."""
    sets: dict[tuple, list[tuple[Output, ...]]] = {}
    for each in run.examples:
        key = each.num_layers, each.data, tuple(dataclasses.replace(example, early=()) for example in each.examples)
        early = sets.setdefault(key, [()] * len(each.examples))
        early[:] = [before + example.early for before, example in zip(early, each.examples, strict=True)]
    return [
        ExampleSet(
            num_layers,
            data,
            [
                ShownExample(
                    dataclasses.replace(example, early=outputs),
                    plain(example.full.pieces),
                    [colour(each, example.full, num_layers) for each in outputs],
                )
                for example, outputs in zip(examples, early, strict=True)
            ],
        )
        for (num_layers, data, examples), early in sets.items()
    ]


def _without_lead(sets: list[ExampleSet]) -> tuple[ExampleSet | None, list[ExampleSet]]:
    """An example whose output changed, as a set of its own, and the others: the shortest of the first set that has one, whose
    file stands uppermost in the folder."""
    for place in range(len(sets)):
        chosen = [each for each in sets[place].shown if each.example.changed]
        if chosen:
            lead = min(chosen, key=lambda each: len(each.example.input) + len(each.full))
            rest = sets[place]._replace(shown=[each for each in sets[place].shown if each is not lead])
            others = [*sets[:place], *([rest] if rest.shown else []), *sets[place + 1 :]]
            return sets[place]._replace(shown=[lead]), others
    return None, sets


def _data_uri(svg: bytes) -> str:
    return f'data:image/svg+xml;base64,{base64.b64encode(svg).decode("ascii")}'
