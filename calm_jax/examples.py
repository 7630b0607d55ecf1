"""Outputs token by token, the early beside the full model's: what examples.json holds, for `calm report` to colour."""

import dataclasses
from collections.abc import Mapping, Sequence

from calm_jax.schemas import FULL_MODEL, Example, Output

COUNT = 12  # enough to see what early exits change, few enough to read


def examples(
    inputs: Sequence[str],
    references: Sequence[str | None],
    full: Sequence[dict],
    early: Mapping[str, Sequence[dict]],
    num_layers: int,
) -> dict:
    """The content of examples.json: one example for each input.

    references: one text or None per input. full: the records of the full model, pieces among their fields; early: those of
    other ways to decode, by label. All in the order of the inputs; there may be more of them.
    """
    shown = [
        Example(
            input=text,
            reference=reference,
            full=Output(FULL_MODEL, full[i]['pieces'], full[i]['exit_layers']),
            early=tuple(
                Output(label, records[i]['pieces'], records[i]['exit_layers'], records[i]['confidence'])
                for label, records in early.items()
            ),
        )
        for i, (text, reference) in enumerate(zip(inputs, references))
    ]
    return {'num_layers': num_layers, 'examples': [dataclasses.asdict(example) for example in shown]}
