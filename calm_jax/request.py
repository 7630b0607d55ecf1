"""What is asked of a model beside the texts, checked before anything is decoded."""

import dataclasses
import datetime
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import jax
import numpy as np

from calm_jax.calibration import Certificate
from calm_jax.data.conversation import Conversation, Messages
from calm_jax.data.jsonl import Template, is_unicode
from calm_jax.decoding.choice import Beam, Choice, Greedy, Sampled
from calm_jax.decoding.decoding import Decoding, Limits, off
from calm_jax.decoding.generate import of_use
from calm_jax.decoding.packing import SUB_LAYERS, Packing
from calm_jax.decoding.rows import Rows
from calm_jax.depth.exits import Exit
from calm_jax.depth.gates import Gate
from calm_jax.depth.plans import PlanMaker
from calm_jax.languages import Languages, Named
from calm_jax.nearest import did_you_mean
from calm_jax.tasks import Task
from calm_jax.types import Sizes

BATCH_SIZE = 32  # rows decoded together where nothing says how many
PACKS = ('auto', 'refill', 'none')  # how rows are kept together, beside a `Packing`; the first is the default


class Options(TypedDict, total=False):
    """What `Model.generate` and its like take by name, beside the texts and a whole `decoding`.

    Parts of the checkpoint's own decoding to replace, where no `decoding` is passed: exit, when a token leaves; gate, which
    layers it enters; plan, which sub-layers its row runs; limits; choice, how a token is chosen. An exit, a gate or another
    choice ends a beam search that is the checkpoint's default.

    certificate: a `Certificate` or its path: decode as it says, and only where it covers this model; the decoding is its own,
        and its batch size the default; where it is of conversations, a text is what a user says in one. classes: those of the
        user's that it names.
    rows: settings of each text, arrays as long as the texts.
    source_language, target_language: of the texts, and of what is said, for models that have languages: a code, such as
        'ro_RO', or a list of one for each text; None: as the checkpoint says.
    batch_size: rows decoded together (default: the certificate's, else 32).
    pack: how rows are kept together. 'none': texts stay in the batch that they were put in until the last of it has ended.
        'refill': a row that has ended gives its slot to the next text, where there are more texts than rows and nothing
        searches with beams. A `Packing`, or '1,3:8,16': besides, after layers 1 and 3 rows that are still inside are packed
        into 8 or 16; 'sub_layers:8,16': rows that run a sub-layer within their plan are, for it, and a prefill computes it for
        these alone; 'sub_layers': in prefills. 'auto', the default: 'refill', and the packing that was measured best for such a
        model here (`calm_jax.decoding.packing.measured`), if any, where there are 16 batches or more.
    num_return_sequences: how many draws of each text, text by text; for `Sampled` alone.
    log_probabilities: whether outputs hold those of their tokens.
    """

    exit: Exit | None
    gate: Gate | None
    plan: PlanMaker | None
    limits: Limits | None
    choice: Choice | None
    certificate: Certificate | str | os.PathLike | None
    classes: Sequence[type]
    rows: Rows | None
    source_language: Named
    target_language: Named
    batch_size: int | None
    pack: str | Packing
    num_return_sequences: int
    log_probabilities: bool


PARTS = ('exit', 'gate', 'plan', 'limits', 'choice')  # of a `Decoding`, that options replace


_OWNERS = (('exit', Exit), ('limits', Limits), ('choice', Sampled), ('choice', Beam), ('decoding', Decoding))


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked call. decoding: with its limits as numbers. languages: of the texts. rows: of the texts, numpy arrays, or None.
    sequences: for each text. template: what makes a text of a record, where there is one. date: what a chat template is told,
    None: the moment."""

    decoding: Decoding
    languages: Languages
    batch_size: int = BATCH_SIZE
    rows: Rows | None = None
    sequences: int = 1
    log_probabilities: bool = False
    pack: str | Packing = PACKS[0]
    template: Template | None = None
    date: datetime.datetime | None = None

    @property
    def source_length(self) -> int:
        """Tokens of an input, longer ones being cut."""
        length = self.decoding.limits.max_source_length
        assert length is not None  # resolved
        return length

    @property
    def new_tokens(self) -> int:
        """The most tokens of any output."""
        length = self.decoding.limits.max_new_tokens
        assert length is not None  # resolved
        return int(length)

    @property
    def depth(self) -> Callable[[int], float] | None:
        """What is known of how deep a row's tokens go before it is decoded, by its index: its own depth or λ; None: nothing."""
        if self.rows is None:
            return None
        known = self.rows.threshold if self.rows.depth is None else self.rows.depth
        return None if known is None else lambda row: float(known[min(row // self.sequences, len(known) - 1)])

    def rows_at(self, texts: np.ndarray) -> Rows | None:
        """The settings of a batch: of the texts with these indices, int [B]; below 0, of rows that fill it up, the first's.

        Raises ValueError for a text that no settings are of.
        """
        begin = self.languages.begin(texts)
        if self.rows is None:
            return None if begin is None else Rows(start_id=begin[0], first_id=begin[1])
        for name, value in _fields(self.rows):
            if value is not None and texts.max() >= len(value):
                raise ValueError(f'rows.{name} has {len(value)} numbers, and there are more texts; expected one for each')
        own = {name: value if value is None else value[np.maximum(texts, 0)] for name, value in _fields(self.rows)}
        return Rows(**own) if begin is None else Rows(**{**own, 'start_id': begin[0], 'first_id': begin[1]})

    def text(self, text: str | Mapping | Messages, index: int) -> str:
        """The text itself, what the template makes of a record, or the conversation of a list of messages.

        Raises TypeError for what is neither, ValueError for what is not Unicode.
        """
        if isinstance(text, Mapping) and self.template is not None:
            text = self.template(dict(text), f'texts[{index}]')
        if isinstance(text, list | tuple):
            text = Conversation(text, f'texts[{index}]')
        if not isinstance(text, str):
            more = ''
            if isinstance(text, Mapping):
                more = ' (records need a certificate, whose template makes texts of them)'
                if 'role' in text:
                    more = '; one conversation is a list of messages, in a list of texts'
            raise TypeError(f'texts[{index}] is {_short(text)}; expected a text{more}')
        if not is_unicode(text):
            raise ValueError(f'texts[{index}] is not text; it holds half of a surrogate pair')
        if self.template is not None and self.template.chat and not isinstance(text, Conversation):
            return Conversation.of_user(text)
        return text


def check_names(function: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises TypeError for an option that a function does not have; one of a class says which."""
    for name in options:
        if name not in known:
            where = {field: f'; it is of {part}={kind.__name__}({field}=…)' for part, kind in _OWNERS for field in _names(kind)}
            raise TypeError(f'{function}() has no option {name!r}{where.get(name) or did_you_mean(name, [*known, *where])}')


def chosen_decoding(default: Callable[[], Decoding], decoding: Decoding | None, options: Options) -> Decoding:
    """The decoding that is passed, or else the default with the parts that options replace.

    Raises ValueError where both are passed, TypeError where a decoding is none.
    """
    parts: dict[str, Any] = {name: value for name, value in options.items() if name in PARTS and value is not None}
    if decoding is None:
        decoding = default()
        if isinstance(decoding.choice, Beam) and ('exit' in parts or 'gate' in parts):
            parts = {'choice': Greedy(), **parts}
        return dataclasses.replace(decoding, **parts)
    if parts:
        name = next(iter(parts))
        raise ValueError(f'a decoding and {name}: a decoding says all of it; pass dataclasses.replace(decoding, {name}=…)')
    if not isinstance(decoding, Decoding):
        raise TypeError(f'decoding is {_short(decoding)}; expected a Decoding, such as Decoding(exit=Exit(…)), or exit=…')
    return decoding


def check_certificate_alone(decoding: Decoding | None, options: Options) -> None:
    """Raises ValueError where a certificate is passed beside what it says itself."""
    names = (*PARTS, 'rows', 'source_language', 'target_language')
    others = ['decoding'] if decoding is not None else [name for name in names if options.get(name) is not None]
    if others:
        raise ValueError(f'certificate and {others[0]}: the certificate says how to decode; leave one of the two out')


def check_count(name: str, value: Any) -> int:
    """Raises TypeError for what is no whole number, ValueError below 1."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f'{name} is {_short(value)}; expected a whole number')
    if value < 1:
        raise ValueError(f'{name} is {value}; expected 1 or more')
    return int(value)


def checked_pack(value: Any, num_layers: int, batch_size: int) -> str | Packing:
    """One of `PACKS`, or a packing. Raises ValueError for what is neither, for layers that the model does not have, and for
    widths that are not below the batch, or after layers do not divide it."""
    if value in PACKS:
        return value
    packing = value
    if not isinstance(packing, Packing):
        if not isinstance(value, str) or not (':' in value or value == SUB_LAYERS):
            raise ValueError(
                f'pack is {_short(value)}; expected {", ".join(map(repr, PACKS))} or LAYERS:WIDTHS, such as 1,3:8,16 or '
                f'{SUB_LAYERS}:8,16'
            )
        packing = Packing.parse(value)
    if any(point >= num_layers for point in packing.points):
        raise ValueError(f'pack {packing} packs after layer {packing.points[-1]}; the decoder has {num_layers} layers')
    for width in packing.widths:
        if width >= batch_size or (packing.points and batch_size % width):
            words = 'which do not divide' if packing.points else 'no fewer than'
            raise ValueError(f'pack {packing} packs into {width} rows, {words} a batch of {batch_size}')
    return packing


def check_packs(pack: str | Packing, decoding: Decoding, rows: Rows | None) -> None:
    """Raises ValueError for a packing of a decoding whose rows are never packed."""
    if isinstance(pack, Packing) and not of_use(pack, decoding, rows):
        raise ValueError(
            f'pack {pack} changes nothing: rows are packed after layers where tokens leave early and skipped layers wait '
            '(lazy), and by sub_layers within a plan or behind a gate'
        )


def check_combination(decoding: Decoding, sequences: int, log_probabilities: bool) -> None:
    """Raises ValueError for sequences of what draws nothing, and for log-probabilities that nothing computes."""
    if sequences > 1 and not isinstance(decoding.choice, Sampled):
        raise ValueError(
            f'num_return_sequences is {sequences}, and nothing is drawn: every sequence would be the same; '
            'pass choice=Sampled(…)'
        )
    if not log_probabilities:
        return
    if isinstance(decoding.choice, Beam):
        raise ValueError('log_probabilities with beam search: its scores are of sequences; leave one of the two out')
    if not off(decoding.exit) and decoding.exit is not None and decoding.exit.measure.prunes:
        raise ValueError(
            'log_probabilities with a vocabulary that is pruned: not all ids have a score; leave one of the two out'
        )


def check_reads(task: Task, decoding: Decoding, options: Options) -> None:
    """Raises ValueError for what a model that reads a text for a task, and says no tokens, has no use for."""
    said = {
        'exit': None if off(decoding.exit) else decoding.exit,
        'gate': None if off(decoding.gate) else decoding.gate,
        'choice': None if isinstance(decoding.choice, Greedy) else decoding.choice,
        'rules': decoding.rules if jax.tree.leaves(decoding.rules.resolved()) else None,
        'stop_strings': decoding.limits.stop_strings or None,
        **{name: options.get(name) for name in ('rows', 'source_language', 'target_language', 'log_probabilities')},
        'pack': None if options.get('pack', PACKS[0]) in PACKS else options.get('pack'),
    }
    for name, value in said.items():
        if value:
            raise ValueError(f'{name} with a model that answers with {task.kind}: it reads each text in one pass, under a plan')


def checked_rows(rows: Rows | None, decoding: Decoding, sizes: Sizes, count: int | None) -> Rows | None:
    """The settings of rows as arrays of numbers.

    sizes: of the model. count: how many texts there are; None where that is not known. Raises TypeError or ValueError for what
    is none, has another length, or says something that the decoding or the model does not have.
    """
    if rows is None:
        return None
    if not isinstance(rows, Rows):
        raise TypeError(f'rows is {_short(rows)}; expected Rows(threshold=[…])')
    if isinstance(decoding.choice, Beam) and any(each is not None for each in (rows.threshold, rows.depth, rows.limit)):
        raise ValueError('beam search takes no rows, but for what they begin with; pass choice=Greedy() or another choice')
    if rows.start_id is not None and not sizes.encoder_layers:
        raise ValueError('rows.start_id: the model continues its prompts, and starts with no other token; leave it out')
    if rows.threshold is not None and decoding.exit is None:
        raise ValueError('rows.threshold without an exit: the thresholds of a measure; pass exit=Exit(measure)')
    bounds = {
        'threshold': (np.float32, 0, 1),
        'depth': (np.int32, 0, sizes.layers),
        'limit': (np.int32, 1, decoding.limits.max_new_tokens),
        'start_id': (np.int32, 0, sizes.vocabulary - 1),
        'first_id': (np.int32, -1, sizes.vocabulary - 1),
    }
    arrays = {}
    for name, value in _fields(rows):
        dtype, least, most = bounds[name]
        if value is None:
            arrays[name] = None
            continue
        array = np.asarray(value)
        if array.ndim != 1 or array.dtype.kind not in ('iu' if dtype is np.int32 else 'iuf'):
            raise TypeError(f'rows.{name} is {_short(value)}; expected a list of numbers, one for each text')
        if count is not None and len(array) != count:
            raise ValueError(f'rows.{name} has {len(array)} numbers for {count} texts; expected one for each')
        outside = array[~((array >= least) & (array <= most))]
        if outside.size:
            raise ValueError(f'rows.{name} holds {outside[0]}; expected numbers from {least} to {most}')
        arrays[name] = array.astype(dtype)
    return Rows(**arrays)


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _fields(rows: Rows) -> list[tuple[str, Any]]:
    return [(name, getattr(rows, name)) for name in _names(type(rows))]


def _short(value: Any) -> str:
    text = repr(value)
    return ' '.join((text if len(text) <= 60 else text[:56] + ' …').split())
