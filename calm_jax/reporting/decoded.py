"""Decoded files, as far as a report draws them: the plans of their records."""

import json
import pathlib
from collections import Counter
from collections.abc import Iterator

from calm_jax import formats
from calm_jax.reporting.document import Document, load, search
from calm_jax.reporting.run import CutSource, Plans
from calm_jax.schemas import TOKEN_CHOICES

HEADER = '.config.json'  # follows the name of a decoded file in that of its header
SHOWN = 6  # texts whose dropped tokens are shown

_ENCODER = {'encoder_attention': 'encoder attention', 'encoder_feed_forward': 'encoder feed-forward'}
_DECODER = {'self_attention': 'decoder self-attention', 'cross_attention': 'decoder cross-attention'}
_NAMES = {**_ENCODER, **_DECODER, 'feed_forward': 'decoder feed-forward'}


def planned_files(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """The decoded files under a directory whose header has a plan, but for those that a calibration keeps beside its
    records.json."""
    for header in search(directory, f'*{HEADER}'):
        path = header.with_name(header.name.removesuffix(HEADER))
        if path.name.endswith('.partial') or not path.is_file() or (header.parent / 'records.json').exists():
            continue
        try:
            content = load(header).value
        except ValueError:
            continue
        if isinstance(content, dict) and content.get('format') == 'calm_jax records' and not content.get('plain'):
            if isinstance(decoding := content.get('decoding'), dict) and isinstance(decoding.get('plan'), dict):
                yield path


def plans(path: pathlib.Path, relative: pathlib.Path) -> Plans | None:
    """The plans of a decoded file's records; None where they hold none, as with a dial at 1.

    Raises ValueError naming file and line for what is no record with a plan of the same layers as those before it.
    """
    header = load(path.with_name(path.name + HEADER))
    formats.check(header.value, 'records', str(header.path), shown=True)
    counts, choices, cut = Counter(), Counter(), {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = Document(path, json.loads(line), f'line {number}')
        except ValueError as error:
            raise ValueError(f'{path}: not valid JSON at line {number}: {error}') from None
        if not record.has('plan'):
            continue
        plan = record.at('plan')
        runs = tuple(_runs(plan, name) for name in _NAMES)
        if counts and [*map(len, runs)] != [*map(len, next(iter(counts)))]:
            raise plan.error('is of other layers than those before it')
        counts[runs] += 1
        if (choice := plan.optional_text('choice')) is not None:
            choices[choice] += 1
        if plan.has('dropped') and len(shown := cut.setdefault(choice, [])) < SHOWN:
            shown.append(_cut(record, plan, choice))
    if not counts:
        return None
    names, counts = _of_kinds(counts)
    return Plans(
        path=relative,
        label=_label(header.at('decoding').at('plan').object()),
        sub_layers=tuple(zip(names, map(len, next(iter(counts))))),
        counts=tuple(sorted(counts.items(), reverse=True)),
        choices={name: choices[name] for name in dict.fromkeys((*TOKEN_CHOICES, *choices))} if choices else {},
        cut=tuple(_in_turn(cut)),
    )


def _runs(plan: Document, name: str) -> str:
    """Of each layer 1 or 0; '' where there are no such sub-layers."""
    text = plan.optional_text(name) or ''
    if set(text) - set('01'):
        raise plan.at(name).error(f'is {text!r}: expected a 0 or a 1 for each layer')
    return text


def _of_kinds(counts: Counter) -> tuple[list[str], Counter]:
    """The kinds of sub-layers that there are, and the plans by these: one for both attentions where they always go together."""
    names = dict(enumerate(_NAMES.values()))
    inner, cross = list(_NAMES).index('self_attention'), list(_NAMES).index('cross_attention')
    if all(runs[cross] in ('', runs[inner]) for runs in counts):
        names[inner] = 'decoder attention'
        del names[cross]
    there = [place for place in names if next(iter(counts))[place]]
    joined = Counter()
    for runs, count in counts.items():
        joined[tuple(runs[place] for place in there)] += count
    return [names[place] for place in there], joined


def _cut(record: Document, plan: Document, choice: str | None) -> CutSource:
    pieces = tuple(piece.text() for piece in plan.items('source'))
    dropped = frozenset(place.integer(low=0, high=len(pieces) - 1) for place in plan.items('dropped'))
    return CutSource(str(record.at('id').value), pieces, dropped, choice, record.text('text'))


def _in_turn(cut: dict[str | None, list[CutSource]]) -> Iterator[CutSource]:
    """Some of them all: of each choice the first, of each the second, and so on."""
    order = sorted(cut, key=lambda choice: (*TOKEN_CHOICES, choice).index(choice))
    turns = [cut[choice][place] for place in range(SHOWN) for choice in order if place < len(cut[choice])]
    yield from turns[:SHOWN]


def _label(plan: dict) -> str:
    """The plan maker's name, with those of its settings that are numbers or set."""
    settings = [
        name if value is True else f'{name} {value:g}'
        for name, value in plan.items()
        if value is True or (isinstance(value, int | float) and not isinstance(value, bool))
    ]
    return ', '.join([str(plan.get('class')), *settings])
