"""Outputs token by token, the early beside the full model's: what examples.json holds, for `calm report` to colour."""

from collections.abc import Mapping, Sequence

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
    return {
        'num_layers': num_layers,
        'examples': [
            {
                'input': text,
                'reference': reference,
                'full': {name: full[i][name] for name in ('pieces', 'exit_layers')},
                'early': [
                    {'label': label, **{name: records[i][name] for name in ('pieces', 'exit_layers', 'confidence')}}
                    for label, records in early.items()
                ],
            }
            for i, (text, reference) in enumerate(zip(inputs, references))
        ],
    }
