"""The flags of every command that decodes, and the `Decoding` they make.

The flags of the group "decoding" are the options of `Decoding` and of every class that it may hold: none is named here but λ. A
class of the user's own, as in `--measure package.module:Class`, is imported before the command's flags are read, so that its
options are flags too.
"""

import argparse
import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from calm_jax.checks import check_type
from calm_jax.commands import gin_flags, option_flags
from calm_jax.commands.flag_types import moment, positive
from calm_jax.commands.option_flags import Flag
from calm_jax.decoding import partial
from calm_jax.decoding.codec import class_name, from_json, to_json
from calm_jax.decoding.decoding import Decoding, off
from calm_jax.decoding.layout import Layout, at
from calm_jax.model import Model
from calm_jax.models.config import DEVICE_DTYPES
from calm_jax.options import Place
from calm_jax.request import PACKS
from calm_jax.types import Sizes

# The parts of a decoding that full depth has not: where several decodings are made, theirs are the flags that may differ.
DECISIONS = ('exit', 'gate', 'plan', 'propagation')
# What is said of new tokens replaces what a checkpoint says of them and the prompt.
NEW_TOKENS = {'max_new_tokens': ('limits', 'max_length'), 'min_new_tokens': ('rules', 'min_length')}
MEASURE, THRESHOLD, CHOICE = ('exit', 'measure'), ('exit', 'threshold'), ('choice',)


@dataclasses.dataclass
class DecodeFlags:
    """What a command's flags can say of decoding, and what gin said.

    layout: with the classes of the user's that flags or gin name. flags: by name. bound: what gin says, a partial decoding
    document. unused: {class: {option: value}} that gin binds, of classes that nothing in `bound` names.
    """

    layout: Layout
    flags: dict[str, Flag]
    bound: dict = dataclasses.field(default_factory=dict)
    unused: dict[type, dict] = dataclasses.field(default_factory=dict)


def add_model(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--checkpoint, --batch_size, --dtype, --date, --quiet: which model, and how it is run."""
    parser.add_argument('--checkpoint', required=required, metavar='DIR', help='native checkpoint (see `calm import`)')
    parser.add_argument('--batch_size', type=positive, default=32, metavar='N', help='rows decoded together (default 32)')
    parser.add_argument(
        '--dtype', choices=DEVICE_DTYPES, help='of parameters and activations (default: as stored; float32 on a CPU)'
    )
    add_date(parser)
    parser.add_argument('--quiet', action='store_true', help='no progress bars, no summary')


def add_date(parser: argparse.ArgumentParser) -> None:
    """--date: what prompts that say a date say."""
    parser.add_argument(
        '--date',
        type=moment,
        metavar='DATE',
        help='what a chat template that asks for the date is told, YYYY-MM-DD (default: as recorded beside what is resumed or '
        'in the certificate, else now)',
    )


def check_date(args: argparse.Namespace, model: Model, texts: Iterable[str]) -> None:
    """Raises ValueError for a --date that none of the texts makes a prompt with."""
    if args.date is not None and model.dated(texts).date is None:
        raise ValueError('--date changes nothing: no input is a conversation whose chat template asks for the date')


class Candidate(NamedTuple):
    """One of several decodings. measure: the place of its measure among those that flags name, `none` not counted; None where
    they name none."""

    decoding: Decoding
    measure: int | None


def add_pack(parser: argparse.ArgumentParser) -> None:
    """--pack: how texts that are decoded together share their places."""
    parser.add_argument(
        '--pack',
        default=PACKS[0],
        metavar='auto|refill|none|LAYERS:WIDTHS',
        help='none: texts are decoded batch by batch; refill: a text that has ended gives its place to the next; 1,3:8,16: '
        'besides, after layers 1 and 3 rows that are still inside are packed into 8 or 16; sub_layers:8,16: for every '
        'sub-layer those rows are that run it within their plans, in prefills too; sub_layers: in prefills alone; auto '
        '(default): refill, and the packing that was measured best here, if any',
    )


def add_decoding(parser: argparse.ArgumentParser, threshold: bool = True, several: bool = False) -> None:
    """Everything that decides the output. A flag that is not given leaves no attribute: defaults are those of the options.

    threshold: whether there is --threshold; without it the command itself chooses λ. several: whether flags of exits, gates and
    plans may be repeated, for `candidates_of`.
    """
    group = parser.add_argument_group('decoding', argument_default=argparse.SUPPRESS)
    without = () if threshold else (THRESHOLD,)
    layout = Layout()
    known, repeatable = option_flags.flags(layout, without), DECISIONS if several else ()
    option_flags.add_arguments(group, known, layout, repeatable)
    gin_flags.add_arguments(parser)
    parse = parser.parse_known_args

    # Which flags there are depends on the classes that flags name: those are read first.
    def parse_known_args(args=None, namespace=None):
        made = _named(args, known, without)
        more = {name: flag for name, flag in made.flags.items() if name not in known}
        option_flags.add_arguments(group, more, made.layout, repeatable)
        known.update(more)
        namespace, others = parse(args, namespace)
        namespace.decode_flags = made
        return namespace, others

    parser.parse_known_args = parse_known_args


def given(args: argparse.Namespace) -> dict:
    """What was said of decoding, by gin and by flags, which win: a partial decoding document.

    Raises ValueError for flags that exclude each other or were given several times, and for what gin binds of a class where
    another is chosen.
    """
    for flag, values in _values(args):
        if len(values) > 1:
            raise ValueError(f'--{flag.name} is given {len(values)} times, and one decoding has one; leave the others out')
    flagged, made, _ = _combined([(flag, value) for flag, [value] in _values(args)], args.decode_flags, owned=False)
    return _said(flagged, made)


def _values(args: argparse.Namespace) -> list[tuple[Flag, list]]:
    """Every flag of decoding that was given, with its values."""
    flags = args.decode_flags.flags
    values = [(flag, getattr(args, name)) for name, flag in flags.items() if hasattr(args, name)]
    return [(flag, value if isinstance(value, list) else [value]) for flag, value in values]


def _said(flagged: dict, made: DecodeFlags, every: bool = True) -> dict:
    """What flags said, over gin. every: whether all that gin binds must be of a class that is chosen."""
    bound, selecting = copy.deepcopy(made.bound), [place.kind for place in made.layout.selecting()]
    for kind in [kind for kind in made.unused if kind in selecting]:
        partial.put(bound, made.layout.path_of(kind), made.unused[kind])
    said = partial.merged(partial.selected(bound, made.layout), partial.selected(flagged, made.layout))
    for kind in [kind for kind in made.unused if kind not in selecting]:
        if every or _chosen(said, kind, made):
            said = _with_unused(said, kind, made)
    return said


def decoding_of(args: argparse.Namespace, model: Any, by_record: bool = False) -> Decoding:
    """What the flags make of a model: its checkpoint's defaults, under gin, under flags, with its limits filled in.

    by_record: λ is each record's own, and --threshold need not say any. Raises ValueError for what is said and would change
    nothing, since its owner is not chosen, and for what the model cannot do.
    """
    return _decoding(given(args), args, model, by_record)


def candidates_of(args: argparse.Namespace, model: Any) -> list[Candidate]:
    """What the flags make of a model where those of exits, gates and plans may be repeated: one decoding for every combination
    of their values, in the order of the flags. An option is of every combination that has its owner; the first is there of
    combinations that decode alike, and full depth is none.

    Raises ValueError for what no combination has a use for, and what `decoding_of` raises.
    """
    values, made = _values(args), args.decode_flags
    measures = [value for flag, each in values if flag.path == MEASURE for value in each if value != option_flags.NONE]
    if all(len(each) == 1 for _, each in values):
        decoding = decoding_of(args, model)
        return [Candidate(decoding, 0 if measures and decoding.exit is not None else None)] if _decides(decoding) else []
    # By part, an option after its owner: measures are the outermost, and what skipped layers hold comes after exits.
    values.sort(key=lambda pair: (DECISIONS.index(part) if (part := pair[0].path[0]) in DECISIONS else -1, len(pair[0].path)))
    combinations = [*itertools.product(*([(flag, value) for value in values] for flag, values in values))]
    combined = [_combined(each, made, owned=True) for each in combinations]
    used = {value for _, _, used in combined for value in used}
    for flag, each in values:
        for value in each:
            if (flag.name, value) not in used:
                owners = ', '.join(dict.fromkeys(_name(place, made.layout) for place in flag.places))
                raise ValueError(f'--{flag.name} {value} changes nothing: it belongs to {owners}, which no candidate has')
    said = [_said(flagged, bound, every=False) for flagged, bound, _ in combined]
    for kind in made.unused:
        if not any(_chosen(each, kind, made) for each in said):
            _said(combined[0][0], combined[0][1])  # raises
    candidates, resolved = [], []
    for combination, document in zip(combinations, said):
        measure = next((value for flag, value in combination if flag.path == MEASURE), option_flags.NONE)
        decoding = _decoding(document, args, model)
        if _decides(decoding) and (decides := _without_off(decoding)) not in resolved:
            resolved.append(decides)
            candidates.append(Candidate(decoding, None if measure == option_flags.NONE else measures.index(measure)))
    return candidates


def _combined(
    combination: Sequence[tuple[Flag, Any]], made: DecodeFlags, owned: bool
) -> tuple[dict, DecodeFlags, set[tuple[str, Any]]]:
    """What flags say together, a partial decoding document; what gin said but for decisions of which flags say that there is
    none; and the flags that were of use, by name and value. owned: leaves out options whose owner is not chosen."""
    flagged, used = {}, set()
    for flag, value in combination:
        if value == option_flags.NONE and option_flags.optional(flag):
            made = dataclasses.replace(made, bound={name: each for name, each in made.bound.items() if name != flag.path[0]})
        elif not owned or _has_owner(flag, partial.merged(made.bound, flagged), made.layout):
            partial.put(flagged, flag.path, option_flags.content(flag, value))
        else:
            continue
        used.add((flag.name, value))
    return flagged, made, used


def _decides(decoding: Decoding) -> bool:
    """Whether anything may be skipped at some λ."""
    return decoding.exit is not None or not (off(decoding.gate) and off(decoding.plan))


def _without_off(decoding: Decoding) -> dict:
    """The document of what decides at some λ: without a gate or plan that is off."""
    gate, plan = (None if off(decision) else decision for decision in (decoding.gate, decoding.plan))
    return to_json(dataclasses.replace(decoding, gate=gate, plan=plan))


def _has_owner(flag: Flag, document: dict, layout: Layout) -> bool:
    """Whether a document has the class that a flag's option is of."""
    if flag.path[0] not in DECISIONS:
        return True
    if flag.path == ('propagation',):
        return 'class' in at(document, MEASURE)
    parent = flag.path[:-1]
    if not parent:
        return True
    if (kind := layout.place(parent).option.kind) is not None:
        return partial.missing(kind, at(document, parent)) in (None, flag.path[-1])
    chosen = layout.kinds(parent).get(layout.chosen(document, parent) or '')
    return at(document, parent[:1]) != {} and any(place.kind is chosen for place in flag.places)


def _name(place: Place, layout: Layout) -> str:
    """The name of the class that an option is of, as flags have it."""
    option = layout.place(place.path).option if place.path else None
    return class_name(place.kind, option.kinds if option else None) if option and option.kinds else '--measure'


def _decoding(said: dict, args: argparse.Namespace, model: Any, by_record: bool = False) -> Decoding:
    """The decoding of a model of which this was said."""
    layout, sizes = args.decode_flags.layout, model.config.sizes
    document = partial.merged(_defaults(said, model.generation), said)
    document = partial.completed(partial.unselected(document, layout), layout, sizes)
    _check_threshold(said, document, args.decode_flags, by_record)
    if 'class' not in at(document, MEASURE):  # λ is 1, and said of nothing
        said, document = _without_threshold(said), _without_threshold(document)
    partial.check_owned(said, document, layout)
    _check_changes(said, document)
    if model.task is not None and (
        lengths := [name for name in ('max_new_tokens', 'max_length') if name in at(said, ('limits',))]
    ):
        raise ValueError(f'{lengths[0]} with a model that answers with {model.task.kind}: it says no tokens')
    decoding = model.resolve(from_json(document, heads=model.heads, classes=layout.own))
    _check_plan(said, decoding)
    return decoding


def otherwise(args: argparse.Namespace, document: dict, sizes: Sizes) -> Iterator[tuple[str, Any, Any]]:
    """(name of the flag, what was said, what the document has) of what flags and gin say otherwise than a decoding document.

    sizes: of the model that it decodes with; they say what uniform:4 means.
    """
    layout = args.decode_flags.layout
    yield from partial.otherwise(partial.completed(given(args), layout, sizes), document, layout)


def _named(args: Sequence[str] | None, known: dict[str, Flag], without) -> DecodeFlags:
    """The flags there are with the classes of the user's that flags and gin name, which are imported."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    naming = {name: flag for name, flag in known.items() if flag.option.named}
    for name in naming:
        first.add_argument(f'--{name}', nargs='?', action='append')
    gin_flags.add_arguments(first)
    try:
        named, _ = first.parse_known_args(args)
    except argparse.ArgumentError:  # the command's own parser says what is wrong
        return DecodeFlags(Layout(), known)
    texts = [(flag, text or '') for name, flag in naming.items() for text in getattr(named, name) or ()]
    own = [option_flags.imported(text, flag) for flag, text in texts if option_flags.is_own(flag, text)]
    if not (named.gin_file or named.gin_binding):
        layout = Layout(own)
        return DecodeFlags(layout, option_flags.flags(layout, without))
    # Imported here: gin brings the training code with it, which most decoding does without.
    from calm_jax.commands import configuration

    folders = configuration.search_folders(named)
    said = configuration.decoding(named.gin_file, named.gin_binding, folders, Layout(own).own)
    layout = Layout([*own, *said.own])
    return DecodeFlags(layout, option_flags.flags(layout, without), said.document, said.unused)


def _chosen(said: dict, kind: type, made: DecodeFlags) -> bool:
    """Whether what was said chooses a class."""
    path = made.layout.path_of(kind)
    return made.layout.chosen(said, path) == class_name(kind, made.layout.place(path).option.kinds)


def _with_unused(said: dict, kind: type, made: DecodeFlags) -> dict:
    """What was said, over what gin binds of a class that is chosen elsewhere. Raises ValueError where it is not."""
    path, values = made.layout.path_of(kind), made.unused[kind]
    option = made.layout.place(path).option
    chosen = made.layout.chosen(said, path)
    if chosen != class_name(kind, option.kinds):
        instead = f'{option.flag or path[-1]} is {chosen}' if chosen else f'no {option.flag} is chosen'
        raise ValueError(f'{kind.__name__}.{next(iter(values))}, which gin binds, changes nothing: {instead}')
    below: dict = {}
    partial.put(below, path, values)
    return partial.merged(below, said)


def _defaults(said: dict, generation: dict) -> dict:
    """The checkpoint's own decoding document; without a beam search, which takes no exit or gate, where one is said, and
    without lengths with the prompt where new tokens are."""
    for new, (part, whole) in NEW_TOKENS.items():
        if new in at(said, (part,)) and whole in at(generation, (part,)):
            own = {name: value for name, value in generation[part].items() if name != whole}
            generation = {**generation, part: own}
    decides = 'class' in at(said, MEASURE) or 'class' in at(said, ('gate',))
    if decides and at(said, CHOICE).get('class') != 'beam' and at(generation, CHOICE).get('class') == 'beam':
        return {name: value for name, value in generation.items() if name != 'choice'}
    return generation


def _check_threshold(said: dict, document: dict, made: DecodeFlags, by_record: bool) -> None:
    """Raises ValueError for λ without a measure, for a measure without λ where there is a flag for it, and for λ said twice."""
    exit, kinds = at(document, ('exit',)), made.layout.place(MEASURE).option.kinds or {}
    measure = at(exit, ('measure',)).get('class')
    if 'threshold' in exit and measure is None:
        check_type('threshold', exit['threshold'], float)
        if exit['threshold'] < 1:
            raise ValueError(f'threshold is {exit["threshold"]} without a measure; name one of {", ".join(kinds)}')
    if by_record:
        if measure is None:
            raise ValueError('--threshold_field changes nothing without --measure')
        if 'threshold' in exit:
            raise ValueError('--threshold and --threshold_field both say λ; leave one of the two out')
    elif measure is not None and 'threshold' not in exit and 'threshold' in made.flags:
        raise ValueError(f'--measure {measure} without --threshold would decode at full depth; say λ')


def _check_plan(said: dict, decoding: Decoding) -> None:
    """Raises ValueError for a plan that is named without its dial, and so would leave nothing out."""
    plan = decoding.plan
    if plan is not None and plan.dial is not None and off(plan) and said.get('plan', {}).keys() == {'class'}:
        if ':' not in (name := said['plan']['class']):
            raise ValueError(f'--plan {name} would run everything; say how much, as in {name}:4')


def _without_threshold(document: dict) -> dict:
    """The document without λ, and without an exit of which it was all."""
    exit = {name: value for name, value in at(document, ('exit',)).items() if name != 'threshold'}
    others = {name: value for name, value in document.items() if name != 'exit'}
    return {**others, 'exit': exit} if exit or document.get('exit') == {} else others


def _check_changes(said: dict, document: dict) -> None:
    """Raises ValueError for what every decoding has and this one has no use for: what skipped layers hold where none leaves
    early, and the seed where nothing is drawn."""
    if 'propagation' in said and not at(document, ('exit',)):
        raise ValueError('--propagation changes nothing without --measure')
    decisions = [at(document, (name,)) for name in ('gate', 'plan')]
    own = any(':' in decision.get('class', '') for decision in decisions)
    draws = own or any(decision.get('drawn') or decision.get('class') == 'random' for decision in decisions)
    if 'seed' in said and at(document, CHOICE).get('class') != 'sampled' and not draws:
        raise ValueError('--seed changes nothing without --temperature')
