"""What may be said, and what is said less gladly: rules over the tokens before, applied to scores ahead of any choice.

In the order of Hugging Face transformers 5 (`generation/logits_process.py`), each with its meaning there: biases, penalties,
bans, forced tokens, lengths, suppressed tokens.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from calm_jax.options import option
from calm_jax.pytrees import pytree
from calm_jax.types import Array

# The logit of ids that pruning has dropped: below all others, above those that a rule forbids. Beyond the bound no logit is
# one of the model's.
DROPPED, BOUND = -1e30, 1e20


class Spoken(NamedTuple):
    """What rules look at, rows first.

    history: int32 [B, H], the start token or prompt and what has been said, anything after; length: int32 [B], how many of
    them there are; begins: int32 [B], where a row's own prompt begins in it, after its padding. position: int32 [B], generated
    tokens so far; limit: int32 [B], the most of them. source: int32 [B, S], what was read; mask: bool [B, S], which of it is
    there.
    """

    history: Array
    length: Array
    begins: Array
    position: Array
    limit: Array
    source: Array
    mask: Array


@pytree
class Rules:
    """Rules with the meaning that they have in Hugging Face transformers, but that padding counts for nothing.

    sequence_bias: ((ids, bias), …), what is added to the score of a sequence's last token where the ones before it were said.
    encoder_repetition_penalty: tokens that the source or prompt holds are made likelier, by dividing through 1 / it;
        repetition_penalty: those that stand in the prompt or were said less likely; 1 is off.
    no_repeat_ngram_size: no run of so many tokens occurs twice, the start token or prompt counted;
        encoder_no_repeat_ngram_size: no run of so many that the source or prompt holds is said; 0 is off.
    bad_words_ids: sequences that are never said; a single end of sequence is none.
    min_length: no end of sequence before so many tokens, the start token or prompt counted; min_new_tokens: before so many are
        said; 0 is off.
    forced_first_id, forced_last_id: the first token, and the last that the limit leaves room for; −1 is off.
    remove_invalid_values: what is no number scores 0, infinities the largest and smallest numbers.
    exponential_decay_length_penalty: (start, factor): n tokens after so many an end of sequence with score s gains
        |s| (factorⁿ − 1).
    suppress_tokens: ids that are never said; begin_suppress_tokens: not as the first token (as the second, where the first is
        forced).

    In a decode state each is an array with rows first, another number for each row if need be, or None where no row has the
    rule. Raises ValueError for numbers that neither mean something nor off, and for lists of another form.
    """

    no_repeat_ngram_size: Any = option('no N tokens in a row occur twice (0: off)', default=0, metavar='N')
    min_new_tokens: Any = option('no end of sequence before T tokens (0: off)', default=0, metavar='T')
    forced_first_id: Any = option('the first token (-1: free)', default=-1, metavar='ID')
    forced_last_id: Any = option('the last token that the limit leaves room for (-1: free)', default=-1, metavar='ID')
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] | Array = option(
        'added to the score of sequences of ids, as [[[12, 64], -10.0], …]', default=(), metavar='JSON'
    )
    encoder_repetition_penalty: Any = option(
        'tokens of the source or prompt are made likelier by P (1: off)', default=1.0, metavar='P'
    )
    repetition_penalty: Any = option(
        'tokens that stand there already are made unlikelier by P (1: off)', default=1.0, metavar='P'
    )
    encoder_no_repeat_ngram_size: Any = option(
        'no N tokens in a row of the source or prompt are said (0: off)', default=0, metavar='N'
    )
    bad_words_ids: tuple[tuple[int, ...], ...] | Array = option(
        'sequences of ids never said, as [[12, 64], [65]]', default=(), metavar='LIST'
    )
    min_length: Any = option(
        'no end of sequence before T tokens, the start token or prompt counted (0: off)', default=0, metavar='T'
    )
    remove_invalid_values: Any = option('a score that is no number is 0', default=False, metavar='BOOL')
    exponential_decay_length_penalty: tuple[float, ...] | Array = option(
        'after START tokens the end of sequence gains by FACTOR, as [START, FACTOR]', default=(), metavar='JSON'
    )
    suppress_tokens: tuple[int, ...] | Array = option('ids never said, as [64, 65]', default=(), metavar='LIST')
    begin_suppress_tokens: tuple[int, ...] | Array = option(
        'ids that nothing begins with, as [64, 65]', default=(), metavar='LIST'
    )

    def __post_init__(self):
        for name, form in _LISTS.items():
            value = _tuples(getattr(self, name))  # JSON and gin give lists
            if not _compiled(value) and not (isinstance(value, tuple) and (not value or form.fits(value))):
                raise ValueError(f'{name} is {_lists(value)}; expected {form.example}')
            if name == 'sequence_bias' and not _compiled(value):  # of a sequence that is there twice, the last
                value = tuple((ids, float(bias)) for ids, bias in dict(value).items())
            object.__setattr__(self, name, value)
        for name, (least, words) in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, int | float) and not value >= least:
                raise ValueError(f'{name} is {value}; expected {words}')
        for name in ('repetition_penalty', 'encoder_repetition_penalty'):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 < value < float('inf'):
                raise ValueError(f'{name} is {value}; expected a positive number (1 is off)')

    def check(self, vocabulary: int) -> None:
        """Raises ValueError for an id that the vocabulary does not have; suppressed ones change nothing."""
        for name in ('forced_first_id', 'forced_last_id'):
            if getattr(self, name) >= vocabulary:
                raise ValueError(f'{name} is {getattr(self, name)}; the vocabulary has {vocabulary} ids')
        words = [('bad_words_ids', word) for word in self.bad_words_ids]
        words += [('sequence_bias', word) for word, _ in self.sequence_bias]
        for name, word in words:
            if max(word) >= vocabulary:
                raise ValueError(f'{name} holds {max(word)}; the vocabulary has {vocabulary} ids')

    def resolved(self) -> 'Rules':
        """The rules with None for those that are off, and lists as arrays with room for some more: what is compiled for one
        number or list is compiled for others."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _OFF}
        values = {name: None if _is_off(value, _OFF[name]) else value for name, value in values.items()}
        for name, form in _LISTS.items():
            if isinstance(values[name], tuple) and not _compiled(values[name]):
                values[name] = form.array(values[name])
        return _made(values)

    def by_row(self, rows: int, first_id: Any = None) -> 'Rules | None':
        """The rules that are on as arrays [B, …], of one for all rows or of one for each; None where none is. first_id: int
        [B], the first token of each row, below 0 where it is what the rule says."""
        if first_id is None and not jax.tree.leaves(self):
            return None
        values: dict[str, Any] = {name: getattr(self, name) for name in _OFF}

        def repeated(value, axes):
            value = jnp.asarray(value)
            dtypes = {jnp.bool_: jnp.bool_, jnp.integer: jnp.int32, jnp.floating: jnp.float32}
            dtype = next(dtype for kind, dtype in dtypes.items() if jnp.issubdtype(value.dtype, kind))
            return jnp.broadcast_to(value.astype(dtype), (rows, *value.shape[value.ndim - axes :]))

        for name, value in values.items():
            axes = _LISTS[name].axes if name in _LISTS else 0
            if name == 'sequence_bias' and value is not None:
                values[name] = tuple(repeated(each, count) for each, count in zip(value, (axes, axes - 1)))
            elif value is not None:
                values[name] = repeated(value, axes)
        if first_id is not None:
            first_id, forced = jnp.asarray(first_id, jnp.int32), values['forced_first_id']
            values['forced_first_id'] = jnp.where(first_id >= 0, first_id, -1 if forced is None else forced)
        return _made(values)

    def verdict(self, spoken: Spoken, eos_ids: tuple[int, ...], vocabulary: int) -> 'Verdict':
        """What the rules of each row say of every token that may come next."""
        rules: Any = self  # by row
        position = spoken.position
        ends = among(jnp.asarray(eos_ids, jnp.int32)[None], vocabulary)
        place = jnp.arange(spoken.history.shape[1])
        there = (place >= spoken.begins[:, None]) & (place < spoken.length[:, None])
        forbidden, suppressed, bias, forced, gain = [], [], None, None, None
        if rules.sequence_bias is not None:
            sequences, values = rules.sequence_bias
            bias = biases(spoken, sequences, values, vocabulary)
        if rules.no_repeat_ngram_size is not None:
            forbidden.append(followers(spoken.history, there, spoken, rules.no_repeat_ngram_size, vocabulary))
        if rules.encoder_no_repeat_ngram_size is not None:
            size = rules.encoder_no_repeat_ngram_size
            forbidden.append(followers(spoken.source, spoken.mask, spoken, size, vocabulary))
        if rules.bad_words_ids is not None:
            words, last = rules.bad_words_ids, rules.bad_words_ids[..., -1]
            alone = jnp.all(words[..., :-1] < 0, axis=-1) & jnp.isin(last, jnp.asarray(eos_ids))
            forbidden.append(biases(spoken, words, jnp.where(alone, 0.0, 1.0), vocabulary) > 0)
        if rules.min_length is not None:
            forbidden.append(ends & (spoken.length - spoken.begins < rules.min_length)[:, None])
        if rules.min_new_tokens is not None:
            forbidden.append(ends & (position < rules.min_new_tokens)[:, None])
        for token, at in ((rules.forced_first_id, 0), (rules.forced_last_id, spoken.limit - 1)):
            if token is not None:
                free = jnp.full_like(position, -1) if forced is None else forced
                forced = jnp.where((position == at) & (token >= 0), token, free)
        if rules.exponential_decay_length_penalty is not None:
            start, factor = jnp.split(rules.exponential_decay_length_penalty, 2, axis=1)
            later = position[:, None] - start
            gain = jnp.where(ends & (later > 0), jnp.minimum(jnp.power(factor, later), BOUND) - 1, 0.0)
        if rules.suppress_tokens is not None:
            suppressed.append(among(rules.suppress_tokens, vocabulary))
        if rules.begin_suppress_tokens is not None:
            # As the second token, where the first is forced.
            begin = 0 if rules.forced_first_id is None else (rules.forced_first_id >= 0).astype(jnp.int32)
            suppressed.append(among(rules.begin_suppress_tokens, vocabulary) & (position == begin)[:, None])
        reading, repeating = rules.encoder_repetition_penalty, rules.repetition_penalty
        return Verdict(
            bias=bias,
            read=None if reading is None else among(jnp.where(spoken.mask, spoken.source, -1), vocabulary),
            reward=None if reading is None else 1 / reading,
            seen=None if repeating is None else among(jnp.where(there, spoken.history, -1), vocabulary),
            penalty=repeating,
            forbidden=functools.reduce(jnp.logical_or, forbidden) if forbidden else None,
            forced=forced,
            remove_invalid=rules.remove_invalid_values,
            gain=gain,
            suppressed=functools.reduce(jnp.logical_or, suppressed) if suppressed else None,
        )


class Verdict(NamedTuple):
    """What rules say of every token that may come next, rows first; None where no rule does.

    bias: float32 [B, V], what is added. read, seen: bool [B, V], tokens of the source, and those there were before; reward,
    penalty: float32 [B], what they are made unlikelier by. forbidden: bool [B, V]; forced: int32 [B], the only token, −1 where
    it is free. remove_invalid: bool [B]. gain: float32 [B, V], of its size, that a score grows by. suppressed: bool [B, V],
    forbidden even where it is forced.
    """

    bias: Array | None
    read: Array | None
    reward: Array | None
    seen: Array | None
    penalty: Array | None
    forbidden: Array | None
    forced: Array | None
    remove_invalid: Array | None
    gain: Array | None
    suppressed: Array | None

    def at(self, ids: Int[Array, 'B ids']) -> 'Verdict':
        """What rules say of some tokens of each row."""

        def columns(value):
            return None if value is None else jnp.take_along_axis(value, ids, axis=1)

        columned = ('bias', 'read', 'seen', 'forbidden', 'gain', 'suppressed')
        return self._replace(**{name: columns(getattr(self, name)) for name in columned})

    def __call__(self, scores: Float[Array, 'B ids'], ids: Int[Array, 'B ids'] | None = None) -> Float[Array, 'B ids']:
        """Scores as the rules have them, −∞ where a token may not be said. ids: of the tokens; None: all."""
        if self.bias is not None:
            scores = scores + self.bias.astype(scores.dtype)
        for tokens, penalty in ((self.read, self.reward), (self.seen, self.penalty)):
            if tokens is not None and penalty is not None:
                scores = jnp.where(tokens, penalised(scores, penalty), scores)
        if self.forbidden is not None:
            scores = jnp.where(self.forbidden, -jnp.inf, scores)
        if self.forced is not None:
            tokens = jnp.arange(scores.shape[-1]) if ids is None else ids
            alone = jnp.where(tokens == self.forced[:, None], 0.0, -jnp.inf)
            scores = jnp.where((self.forced >= 0)[:, None], alone, scores)
        if self.remove_invalid is not None:
            scores = jnp.where(self.remove_invalid[:, None], jnp.nan_to_num(scores), scores)
        if self.gain is not None:
            grown = scores + jnp.abs(scores) * self.gain.astype(scores.dtype)
            scores = jnp.where(jnp.abs(scores) < BOUND, grown, scores)
        if self.suppressed is not None:
            scores = jnp.where(self.suppressed, -jnp.inf, scores)
        return scores


def followers(
    text: Int[Array, 'B T'], there: Bool[Array, 'B T'], spoken: Spoken, size: Int[Array, 'B'], vocabulary: int
) -> Bool[Array, 'B V']:
    """Tokens that would complete a run of `size` tokens (0: none) that a text holds. there: which of its tokens are its own,
    one stretch."""
    rows, most = text.shape
    place, first = jnp.arange(most), jnp.argmax(there, axis=1)

    def follows(k, same):
        # Whether text[i − 1 − k] is history[length − 1 − k], for every i.
        last = jnp.take_along_axis(spoken.history, jnp.maximum(spoken.length - 1 - k, 0)[:, None], axis=1)
        shifted = jnp.roll(text, k + 1, axis=1)
        return same & ((shifted == last) | (k >= size - 1)[:, None])

    enough = (size > 0) & (spoken.length - spoken.begins >= size - 1)
    begins = there & (place >= (first + size - 1)[:, None]) & enough[:, None]
    ends = jax.lax.fori_loop(0, jnp.max(size) - 1, follows, begins)
    return among(jnp.where(ends, text, -1), vocabulary)


def biases(spoken: Spoken, sequences: Int[Array, 'B N L'], values: Float[Array, 'B N'], vocabulary: int) -> Float[Array, 'B V']:
    """What is added to the score of each token: of every sequence, −1 before its first, whose other tokens were just said."""
    rows, length = sequences.shape[0], sequences.shape[-1]
    before, last = sequences[..., :-1], sequences[..., -1]
    places = spoken.length[:, None] - jnp.arange(length - 1, 0, -1)
    recent = jnp.take_along_axis(spoken.history, jnp.maximum(places, 0), axis=1)
    recent = jnp.where(places >= spoken.begins[:, None], recent, -2)
    said = jnp.all((before < 0) | (before == recent[:, None]), axis=-1) & (last >= 0)
    ids = jnp.where(said, last, vocabulary)  # a column past the end for those that change nothing
    none = jnp.zeros((rows, vocabulary + 1), values.dtype)
    return none.at[jnp.arange(rows)[:, None], ids].add(jnp.where(said, values, 0.0))[:, :vocabulary]


def among(ids: Int[Array, 'rows N'], vocabulary: int) -> Bool[Array, 'rows V']:
    """Which tokens are among these; ids that are none, below 0 or past the end, are passed over."""
    ids = jnp.where((ids >= 0) & (ids < vocabulary), ids, vocabulary)
    none = jnp.zeros((ids.shape[0], vocabulary + 1), bool)
    return none.at[jnp.arange(ids.shape[0])[:, None], ids].set(True)[:, :vocabulary]


def penalised(scores: Float[Array, 'B V'], penalty: Float[Array, ' B']) -> Float[Array, 'B V']:
    """Scores of tokens that are made unlikelier: above 1 (Keskar et al. 2019)."""
    penalty = penalty[:, None].astype(scores.dtype)
    return jnp.where(scores < 0, scores * penalty, scores / penalty)


class _Form(NamedTuple):
    """How a list is written: a test of it and an example. array: what is compiled of it, with so many axes."""

    fits: Callable[[tuple], bool]
    example: str
    array: Callable[[tuple], Any]
    axes: int = 1


def _made(values: dict[str, Any]) -> Rules:
    """Rules of what is compiled, which is not what their fields are written as."""
    made = object.__new__(Rules)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def _id(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 0)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _word(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(_id, value))


def _ids(value: tuple) -> Any:
    """int32 [N], −1 behind the last."""
    return _stacked([*value, *[-1] * (_room(len(value)) - len(value))], np.int32)


def _words(value: tuple) -> Any:
    """int32 [N, L], −1 before the first id of each and in those that there are not."""
    length = _room(max(map(len, value)))
    made = [[-1] * (length - len(word)) + list(word) for word in value]
    return _stacked(made + [[-1] * length] * (_room(len(made)) - len(made)), np.int32)


def _biased(value: tuple) -> Any:
    """(int32 [N, L] as words, float32 [N])."""
    words = _words(tuple(word for word, _ in value))
    return words, _stacked([bias for _, bias in value] + [0.0] * (words.shape[0] - len(value)), np.float32)


def _stacked(values: list, dtype: Any) -> Any:
    """An array, of the host where the values are numbers already."""
    traced = any(isinstance(each, Tracer) for each in jax.tree.leaves(values))
    return (jnp if traced else np).asarray(values, dtype)


def _room(count: int) -> int:
    """The least power of two from a count on."""
    return 1 << (count - 1).bit_length()


def _tuples(value: Any) -> Any:
    """Lists in lists as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _lists(value: Any) -> Any:
    return list(map(_lists, value)) if isinstance(value, tuple) else value


def _compiled(value: Any) -> bool:
    """Whether a list is made of arrays: it is what is compiled already."""
    return any(getattr(each, 'ndim', 0) for each in jax.tree.leaves(value))


def _is_off(value: Any, off: Any) -> bool:
    return isinstance(value, bool | int | float | tuple) and bool(value == off)


_LISTS = {
    'sequence_bias': _Form(
        lambda value: all(isinstance(each, tuple) and len(each) == 2 and _word(each[0]) and _number(each[1]) for each in value),
        'a list of sequences of ids and what is added, such as [[[12, 64], -10.0]]',
        _biased,
        axes=2,
    ),
    'bad_words_ids': _Form(
        lambda value: all(map(_word, value)), 'a list of sequences of ids, such as [[12, 64], [65]]', _words, axes=2
    ),
    'exponential_decay_length_penalty': _Form(
        lambda value: len(value) == 2 and _id(value[0]) and _number(value[1]) and value[1] > 0,
        'a start and a factor, such as [20, 1.1]',
        lambda value: _stacked(list(value), np.float32),
    ),
    'suppress_tokens': _Form(lambda value: all(map(_id, value)), 'a list of ids, such as [64, 65]', _ids),
    'begin_suppress_tokens': _Form(lambda value: all(map(_id, value)), 'a list of ids, such as [64, 65]', _ids),
}
_OFF: dict[str, Any] = {
    **dict.fromkeys(_LISTS, ()),
    **dict.fromkeys(('encoder_repetition_penalty', 'repetition_penalty'), 1.0),
    **dict.fromkeys(('no_repeat_ngram_size', 'encoder_no_repeat_ngram_size', 'min_length', 'min_new_tokens'), 0),
    **dict.fromkeys(('forced_first_id', 'forced_last_id'), -1),
    'remove_invalid_values': False,
}
_LEAST = {
    **dict.fromkeys(
        ('no_repeat_ngram_size', 'encoder_no_repeat_ngram_size', 'min_length', 'min_new_tokens'), (0, '0 (off) or more')
    ),
    **dict.fromkeys(('forced_first_id', 'forced_last_id'), (-1, 'a token, or −1 (off)')),
}
