"""What a search for a plan writes under its folder, and says."""

import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from calm_jax.depth.search import Route, Step
from calm_jax.files import write_text
from calm_jax.progress import progress

EVALUATIONS = 'evaluations.jsonl'  # in state/


class SearchRun:
    """A search under a folder, which goes on with what it finds there: losses that were measured are not measured again.

    quiet: no progress on standard error.
    """

    def __init__(self, model_dir: str | os.PathLike, quiet: bool):
        self._model_dir = pathlib.Path(model_dir)
        bars = not quiet and sys.stderr.isatty()
        self._lines = not quiet and not bars
        self._bar = progress(itertools.repeat(None), 'searching', quiet=not bars, unit='plans')

    def remembered(self, loss_of: Callable[[Any], float]) -> Callable[[Any], float]:
        """The same losses of plans, tuples that JSON holds, each on disk as soon as it is known."""
        path = self._model_dir / 'state' / EVALUATIONS
        losses = _losses(path)
        # A line that was torn goes, so that the next one stands alone.
        lines = (_line(plan, loss) for plan, loss in losses.items())
        write_text(path, ''.join(lines), make_folders=True)

        def loss(plan):
            key = json.dumps(plan)
            if key not in losses:
                losses[key] = loss_of(plan)
                with open(path, 'a', encoding='utf-8') as file:
                    file.write(_line(key, losses[key]))
            next(self._bar)
            return losses[key]

        return loss

    def dropped(self, step: Step) -> None:
        """Says what a step dropped."""
        if self._lines:
            measured = '' if step.measured else ' as estimated'
            line = f'{step.dropped} dropped: cost {step.cost:.4f}, loss {step.loss:.4f}{measured}'
            print(line, file=sys.stderr, flush=True)

    def end(self, route: Route, report: dict[str, Any] | None) -> None:
        """Writes metrics.jsonl: the route, and the report of evaluation data if there is any."""
        self._bar.close()
        full, *steps = route.steps
        records: list[dict] = [
            {
                'step': number,
                'loss': step.loss,
                'full_loss': full.loss,
                'cost': step.cost,
                'dropped': step.dropped,
                'measured': step.measured,
            }
            for number, step in enumerate(steps, start=1)
        ]
        if report is not None:
            records.append({'step': max(len(steps), 1), 'eval': report})
        write_text(self._model_dir / 'metrics.jsonl', ''.join(json.dumps(record) + '\n' for record in records))


def _line(plan: str, loss: float) -> str:
    return f'{{"plan": {plan}, "loss": {json.dumps(loss)}}}\n'


def _losses(path: pathlib.Path) -> dict[str, float]:
    """{plan: loss} of the whole lines of a file, if there is one."""
    losses = {}
    for line in path.read_text(encoding='utf-8').splitlines(keepends=True) if path.is_file() else ():
        if line.endswith('\n'):
            record = json.loads(line)
            losses[json.dumps(record['plan'])] = record['loss']
    return losses
