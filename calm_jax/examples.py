"""Outputs token by token, the early beside the full model's: what examples.json holds, for `calm report` to colour."""

import dataclasses
from collections.abc import Mapping, Sequence

from calm_jax.schemas import FULL_MODEL, Example, Output

COUNT = 12  # enough to see what early exits change, few enough to read


def telling(full: Sequence[str], early: Sequence[str], count: int = COUNT) -> list[int]:
    """The places of a few outputs that show what early exits do, ascending: a third of them changed, where so many did."""
    changed = [i for i, (one, other) in enumerate(zip(full, early)) if one != other]
    others = [i for i in range(len(full)) if i not in set(changed)]
    most = max(-(-count // 3), count - len(others))
    return sorted([*changed[:most], *others[: count - len(changed[:most])]])


def examples(
    inputs: Sequence[str],
    references: Sequence[str | None],
    full: Sequence[dict],
    early: Mapping[str, Sequence[dict]],
    num_layers: int,
    data: str | None = None,
) -> dict:
    """The content of examples.json: one example for each input.

    references: one text or None per input. full: the records of the full model, pieces among their fields; early: those of
    other ways to decode, by label. All in the order of the inputs; there may be more of them. data: the name of their file.
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
    named = {} if data is None else {'data': data}
    return {**named, 'num_layers': num_layers, 'examples': [dataclasses.asdict(example) for example in shown]}
