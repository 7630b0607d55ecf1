"""A progress bar with rate and remaining time, on standard error."""

import sys
from collections.abc import Generator, Iterable, Sized

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Steps finished per second, in the task's own unit."""

    def render(self, task):
        return Text(f'{task.speed:.1f} {task.fields["unit"]}/s' if task.speed else '', style='cyan')


def progress(
    iterable: Iterable, description: str, total: int | None = None, quiet: bool = False, unit: str = 'it', initial: int = 0
) -> Generator:
    """Yields from `iterable` and shows how far it is; says nothing when `quiet`, or where standard error is no terminal, so
    that logs stay readable.

    `initial` counts what an earlier run finished.
    """
    console = Console(file=sys.stderr)
    if quiet or not console.is_terminal:
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = initial + len(iterable)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, completed=initial, unit=unit)
        for item in iterable:
            yield item
            bar.advance(task)
