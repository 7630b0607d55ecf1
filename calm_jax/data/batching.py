"""Training and evaluation batches: arrays of token ids, as functions of examples, settings and a batch's number."""

import functools
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from calm_jax.data.embedded import embedded
from calm_jax.data.grouping import TokenBuckets, Windows
from calm_jax.data.jsonl import Records, Template
from calm_jax.data.padding import Buckets, pad_rows, shortened
from calm_jax.data.tokenizers import Tokenizer

Batch = dict[str, np.ndarray]


class Example(NamedTuple):
    """Token ids of one source and one target, int32, without those that end them."""

    source: np.ndarray
    target: np.ndarray


class TokenizedRecords(Sequence):
    """Examples made of records, tokenised when asked for: for more records than memory holds.

    `records` is a `jsonl.Records` or anything else with `len`, `[index] → dict` and `where(index) → str`. decoder_only: whether
    a target goes on where its source ends. target_start: ids that every target begins with; None: those that the tokenizer
    starts a text with, unless it goes on. vocab_size: the ids that the model embeds, where the tokenizer may have more; a text
    that spells one of those is refused.
    """

    def __init__(
        self,
        records: Records,
        source: Template,
        target: Template,
        tokenizer: Tokenizer,
        decoder_only: bool = False,
        vocab_size: int | None = None,
        target_start: Sequence[int] | None = None,
    ):
        self.records = records
        self.decoder_only = decoder_only
        start = () if decoder_only else tokenizer.start_ids
        self.target_start = start if target_start is None else target_start
        self.vocab_size = tokenizer.vocab_size if vocab_size is None else vocab_size
        self.source = source
        self.target = target
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        return self._example(self.records[index], self.records.where(index))

    def __iter__(self) -> Iterator[Example]:
        return (self._example(record, self.records.where(index)) for index, record in enumerate(self.records))

    def _example(self, record: dict, where: str) -> Example:
        source = self.tokenizer.encode(self.source(record, where))
        if not self.decoder_only:
            source = source[: len(source) - len(self.tokenizer.end_ids)]
        target = [*self.target_start, *self.tokenizer.encode(self.target(record, where), add_special=False)]
        sides = (embedded(ids, self.tokenizer, self.vocab_size, where) for ids in (source, target))
        return Example(*(np.asarray(ids, np.int32) for ids in sides))


class PackedExamples(Sequence):
    """Examples in memory, end to end: 4 bytes a token, and 8 an example and side for where it ends.

    Those it gives are views of what it holds, not to be written to.
    """

    def __init__(self, examples: Iterable[Example]):
        tokens, ends = [array('i'), array('i')], [array('q', [0]), array('q', [0])]
        for example in examples:
            for side, ids in enumerate(example):
                tokens[side].frombytes(np.ascontiguousarray(ids, np.int32).data.cast('B'))
                ends[side].append(len(tokens[side]))
        self._tokens = [np.frombuffer(each, np.int32) for each in tokens]
        self._ends = [np.frombuffer(each, np.int64) for each in ends]
        for each in self._tokens:
            each.flags.writeable = False

    def __len__(self) -> int:
        return len(self._ends[0]) - 1

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f'example {index} of {len(self)}')
        index %= len(self)
        return Example(*(tokens[ends[index] : ends[index + 1]] for tokens, ends in zip(self._tokens, self._ends)))


def tokenize(
    records: Records,
    source: Template,
    target: Template,
    tokenizer: Tokenizer,
    watch: Callable[[Iterable[Example]], Iterable[Example]] = iter,
    decoder_only: bool = False,
    vocab_size: int | None = None,
    target_start: Sequence[int] | None = None,
) -> PackedExamples:
    """All examples at once, in memory. They pass through `watch` on their way, such as a progress bar."""
    return PackedExamples(watch(TokenizedRecords(records, source, target, tokenizer, decoder_only, vocab_size, target_start)))


class TrainingBatches:
    """`batches[number]` for number = 0, 1, 2, …: a pure function of examples, settings and number, whatever was read before.

    A run is resumed from that number alone. A batch has `batch_size` rows (`grouping.Windows`: an epoch leaves out the few
    examples that fill none), or as many as `batch_tokens` allows for their length (`grouping.TokenBuckets`: an epoch holds
    every example once); exactly one of the two is given. An epoch is `batches_per_epoch` batches.

    A batch holds B = rows / process_count rows:
        encoder_input_tokens [B, S] int32: source ids, `source_end`, padding
        encoder_mask [B, S] bool: which of them are there; told by lengths, as a text may hold the id that pads
        decoder_target_tokens [B, T] int32: target ids, `target_end`, padding
        decoder_input_tokens [B, T] int32: the targets shifted right, after decoder_start_id
        decoder_loss_weights [B, T] float32: 1 on targets, `target_end` included; 0 on padding
    With `decoder_only` there is nothing of an encoder, the source's ids stand before the target's in one sequence (after
    decoder_start_id where there are none), and only the target's count; S + T is what one row may hold.
    With `batch_size`, S and T are each the smallest multiple of `length_multiple` that holds the longest row of the batch over
    all processes, so that shapes agree everywhere. Its default is the smallest multiple of 8 that leaves at most eight
    lengths up to the limit. With `batch_tokens`, rows times the longer of S and T are no more than that, in at most as many
    shapes as there are lengths. A source of more than `max_source_length` ids, or a target of more than `max_target_length`,
    what ends them counted, loses its last ids and still ends so (`count_truncated` says how many do); a prompt loses its
    beginning, behind `start_ids`, as in decoding.

    Process p of P takes rows p, p + P, … of the batch.

    window: batches of `batch_size` whose examples are sorted by length. row_multiple: what the rows of every batch of
    `batch_tokens` are a multiple of, such as the number of devices. lay_out: what makes other arrays of a batch, called as
    `collate` is.

    Raises ValueError for fewer examples than a batch, for a batch size that the processes do not divide, for a number of tokens
    that holds no batch, and for limits, windows or multiples below 1; IndexError for a negative number.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int | None = None,
        *,
        batch_tokens: int | None = None,
        max_source_length: int,
        max_target_length: int,
        seed: int = 0,
        window: int = 64,
        length_multiple: int | None = None,
        row_multiple: int = 1,
        pad_id: int = 0,
        source_end: Sequence[int] = (1,),
        target_end: Sequence[int] = (1,),
        decoder_start_id: int = 0,
        decoder_only: bool = False,
        start_ids: Sequence[int] = (),
        lay_out: Callable[..., Batch] | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        check_exclusive(batch_size, batch_tokens)
        _check_processes(process_index, process_count)
        self.examples = examples
        self._source_buckets = Buckets.for_limit(max_source_length, length_multiple)
        self._target_buckets = Buckets.for_limit(max_target_length, length_multiple)
        self.source_end, self.target_end = source_end, target_end
        self._ids = {'pad_id': pad_id, 'decoder_start_id': decoder_start_id, 'target_end': target_end}
        self._collate = lay_out or _collating(decoder_only, start_ids, source_end)
        self._process_rows = slice(process_index, None, process_count)
        if batch_size is not None:
            _check_rows(batch_size, process_count)
            self.groups = Windows(examples, batch_size, window, self._sort_key, seed)
        else:
            assert batch_tokens is not None  # one of the two
            # A prompt and its target are one sequence, which is the longer side.
            whole = Buckets.for_limit(max_source_length + max_target_length, length_multiple)
            axes = (whole if decoder_only else self._source_buckets), self._target_buckets
            sides = np.array([self._sides(example, decoder_only) for example in examples], np.int64).reshape(-1, 2)
            rows = math.lcm(row_multiple, process_count)
            self.groups = TokenBuckets(examples, batch_tokens, sides, axes, length_multiple, rows, seed)
        self.batches_per_epoch, self.row_counts = self.groups.batches, self.groups.row_counts

    def __getitem__(self, number: int) -> Batch:
        if number < 0:
            raise IndexError(f'batch {number}: batches count from 0')
        examples, lengths = self.groups.group(*divmod(int(number), self.batches_per_epoch))
        buckets = [self._source_buckets, self._target_buckets]
        if lengths is not None:
            buckets = [bucket._replace(step=length) for bucket, length in zip(buckets, lengths)]
        batch = self._collate(examples, *buckets, **self._ids)
        return {name: array[self._process_rows] for name, array in batch.items()}

    def once(self) -> Iterator[Batch]:
        """Every example once, those of like length together; rows that fill up the last batch have weights 0."""
        if isinstance(self.groups, TokenBuckets):
            yield from (self[number] for number in range(self.batches_per_epoch))
            return
        for examples in _filled_batches(sorted(self.examples, key=self._sort_key), *self.row_counts):
            batch = self._collate(examples, self._source_buckets, self._target_buckets, **self._ids)
            yield {name: array[self._process_rows] for name, array in batch.items()}

    def token_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the source, or the prompt, and of the target of every example in a batch, int64 [N] each."""
        sides = (self._source_buckets.limit, self.source_end), (self._target_buckets.limit, self._ids['target_end'])
        lengths = np.array([[len(side) for side in example] for example in self.examples])
        # A prompt of nothing is the id that decoding starts from.
        source, target = (np.clip(lengths[:, at] + len(end), 1, limit) for at, (limit, end) in enumerate(sides))
        return source, target

    def _sort_key(self, example: Example) -> tuple[int, int]:
        # The larger of the two bucket numbers first: on translation data it pads as little as sorting by the source's
        # bucket and then the target's length, and meets a third fewer (S, T) shapes.
        source, target = len(example.source) + len(self.source_end), len(example.target) + len(self.target_end)
        return max(self._source_buckets.number(source), self._target_buckets.number(target)), source

    def _sides(self, example: Example, joined: bool) -> tuple[int, int]:
        """Lengths of source and target as they are laid out, cut and ended; where they are joined, of both and the target."""
        source = min(len(example.source) + len(self.source_end), self._source_buckets.limit)
        target = min(len(example.target) + len(self.target_end), self._target_buckets.limit)
        return (max(source, 1) + target - 1 if joined else source), target


def evaluation_batches(
    examples: Sequence[Example],
    batch_size: int,
    *,
    max_source_length: int,
    max_target_length: int,
    length_multiple: int | None = None,
    pad_id: int = 0,
    source_end: Sequence[int] = (1,),
    target_end: Sequence[int] = (1,),
    decoder_start_id: int = 0,
    decoder_only: bool = False,
    start_ids: Sequence[int] = (),
    lay_out: Callable[..., Batch] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every example once, in order, laid out as by TrainingBatches; rows that fill up the last batch have weights 0.

    Raises ValueError as TrainingBatches does, except that few examples are welcome.
    """
    _check_processes(process_index, process_count)
    _check_rows(batch_size, process_count)
    buckets = [Buckets.for_limit(limit, length_multiple) for limit in (max_source_length, max_target_length)]
    ids = {'pad_id': pad_id, 'decoder_start_id': decoder_start_id, 'target_end': target_end}
    lay_out = lay_out or _collating(decoder_only, start_ids, source_end)
    return (
        {name: array[process_index::process_count] for name, array in lay_out(rows, *buckets, **ids).items()}
        for rows in _filled_batches(examples, batch_size)
    )


def collate(
    examples: Sequence[Example | None],
    source_buckets: Buckets,
    target_buckets: Buckets,
    *,
    pad_id: int = 0,
    source_end: Sequence[int] = (1,),
    target_end: Sequence[int] = (1,),
    decoder_start_id: int = 0,
) -> Batch:
    """The five arrays of one batch, as TrainingBatches lists them; an example given as None is a row of weights 0."""
    sources = [() if example is None else example.source for example in examples]
    targets = [() if example is None else example.target for example in examples]
    lengths = [0 if example is None else len(example.target) + len(target_end) for example in examples]
    source_tokens = pad_rows(sources, source_buckets, len(examples), pad_id=pad_id, end=source_end)
    target_tokens = pad_rows(targets, target_buckets, len(examples), pad_id=pad_id, end=target_end)
    lengths = np.minimum(lengths, target_buckets.limit)
    source_lengths = [0 if example is None else len(example.source) + len(source_end) for example in examples]
    source_lengths = np.minimum(source_lengths, source_buckets.limit)
    weights = (np.arange(target_tokens.shape[1]) < lengths[:, None]).astype(np.float32)
    # What is last is a target and never an input: nothing is predicted after it.
    inputs = np.full_like(target_tokens, pad_id)
    inputs[:, 1:] = np.where(weights[:, 1:] > 0, target_tokens[:, :-1], pad_id)
    inputs[:, 0] = decoder_start_id
    return {
        'encoder_input_tokens': source_tokens,
        'encoder_mask': np.arange(source_tokens.shape[1]) < source_lengths[:, None],
        'decoder_input_tokens': inputs,
        'decoder_target_tokens': target_tokens,
        'decoder_loss_weights': weights,
    }


def collate_prompts(
    examples: Sequence[Example | None],
    source_buckets: Buckets,
    target_buckets: Buckets,
    *,
    pad_id: int = -1,
    target_end: Sequence[int] = (1,),
    decoder_start_id: int = 0,
    start_ids: Sequence[int] = (),
) -> Batch:
    """The three arrays of one batch of a decoder-only model: prompts that go on as targets, as TrainingBatches lists them."""
    limit = source_buckets.limit + target_buckets.limit
    rows, weights = [], []
    for example in examples:
        if example is None:
            rows.append([])
            weights.append([])
            continue
        prompt = list(shortened(example.source, source_buckets.limit, 'left', [start_ids])) or [decoder_start_id]
        target = [*example.target[: target_buckets.limit - len(target_end)], *target_end]
        rows.append([*prompt, *target])
        weights.append([0.0] * (len(prompt) - 1) + [1.0] * len(target))
    buckets = Buckets.for_limit(limit, source_buckets.step)
    length = buckets.length(max(max(len(row) - 1 for row in rows), 1))
    inputs, targets = (np.full((len(rows), length), pad_id, np.int32) for _ in range(2))
    counted = np.zeros((len(rows), length), np.float32)
    for place, (row, counts) in enumerate(zip(rows, weights)):
        inputs[place, : len(counts)], targets[place, : len(counts)], counted[place, : len(counts)] = row[:-1], row[1:], counts
    return {'decoder_input_tokens': inputs, 'decoder_target_tokens': targets, 'decoder_loss_weights': counted}


def _collating(decoder_only: bool, start_ids: Sequence[int], source_end: Sequence[int]) -> Callable[..., Batch]:
    """What lays out a batch."""
    if decoder_only:
        return functools.partial(collate_prompts, start_ids=start_ids)
    return functools.partial(collate, source_end=source_end)


def count_truncated(
    examples: Sequence[Example],
    max_source_length: int,
    max_target_length: int,
    source_end: Sequence[int] = (1,),
    target_end: Sequence[int] = (1,),
) -> dict[str, int]:
    """How many sources and targets the limits shorten, what ends them counted: {'source': …, 'target': …}."""
    counts = {'source': 0, 'target': 0}
    for example in examples:
        counts['source'] += len(example.source) + len(source_end) > max_source_length
        counts['target'] += len(example.target) + len(target_end) > max_target_length
    return counts


def read_ahead(batches: TrainingBatches, start: int, stop: int, buffer_size: int = 8) -> Iterator[Batch]:
    """`batches[number]` for number in start … stop − 1, prepared by a grain thread while the caller computes."""
    import grain  # Two seconds to import, and of use only here.

    numbered = grain.MapDataset.range(start, stop).map(batches.__getitem__)
    yield from numbered.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=buffer_size))


def _filled_batches(examples: Sequence[Example], batch_size: int) -> Iterator[list[Example | None]]:
    for start in range(0, len(examples), batch_size):
        rows = [examples[i] for i in range(start, min(start + batch_size, len(examples)))]
        yield rows + [None] * (batch_size - len(rows))


def check_exclusive(batch_size: int | None, batch_tokens: int | None) -> None:
    """Raises ValueError unless exactly one of the two is given, and the tokens are a positive number."""
    if (batch_size is None) == (batch_tokens is None):
        raise ValueError(f'batch_size is {batch_size} and batch_tokens is {batch_tokens}; expected one of the two to be None')
    if batch_tokens is not None and batch_tokens < 1:
        raise ValueError(f'batch_tokens is {batch_tokens}; expected at least 1')


def _check_processes(process_index: int, process_count: int) -> None:
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(f'process {process_index} of {process_count}: expected an index from 0 to the count less one')


def _check_rows(batch_size: int, process_count: int) -> None:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f'batch size {batch_size}: expected a positive multiple of the {process_count} processes')
