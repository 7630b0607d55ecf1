"""Training and evaluation batches: arrays of token ids, as functions of the examples, the settings and a step number."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from calm_jax.data.jsonl import Records, Template
from calm_jax.data.tokenizers import Tokenizer

Batch = dict[str, np.ndarray]


class Example(NamedTuple):
    """Token ids of one source and one target, int32, without end-of-sequence ids."""

    source: np.ndarray
    target: np.ndarray


class TokenizedRecords(Sequence):
    """Examples made of records, tokenised when asked for: for more records than memory holds.

    `records` is anything with `len`, `[index] → dict` and `where(index) → str` (jsonl.Records; a seqio split).
    """

    def __init__(self, records: Records, source: Template, target: Template, tokenizer: Tokenizer):
        self.records = records
        self.source = source
        self.target = target
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        if index >= len(self):
            raise IndexError(f'example {index} of {len(self)}')
        record, where = self.records[index], self.records.where(index)
        texts = self.source(record, where), self.target(record, where)
        return Example(*(np.asarray(self.tokenizer.encode(text), np.int32) for text in texts))


def tokenize(records: Records, source: Template, target: Template, tokenizer: Tokenizer) -> list[Example]:
    """All examples at once, in memory: 4 bytes a token, and some 250 an example."""
    return list(TokenizedRecords(records, source, target, tokenizer))


class TrainingBatches:
    """`batches[step]` for step = 0, 1, 2, …: a pure function of examples, settings and step, whatever was read before.

    A run is resumed from its step number alone. Each epoch of `steps_per_epoch = N // batch_size` steps goes through a new
    permutation of the N examples (a function of seed and epoch) and leaves out its last `N mod batch_size`. The permutation is
    cut into windows of `window` batches; within a window examples are sorted by length and cut into batches, whose order is
    permuted again. So padding is small and lengths stay mixed over the steps.

    A batch holds B rows, B = batch_size / process_count:
        encoder_input_tokens [B, S] int32: source ids, the end of sequence, padding
        decoder_target_tokens [B, T] int32: target ids, the end of sequence, padding
        decoder_input_tokens [B, T] int32: the targets shifted right, after decoder_start_id
        decoder_loss_weights [B, T] float32: 1 on targets, the end of sequence included; 0 on padding
    S and T are the smallest multiples of `length_multiple` that hold the longest row of the whole batch (all processes'), so a
    run sees at most ceil(limit / length_multiple) values of each. A source longer than `max_source_length` ids, or a target longer
    than `max_target_length`, the end of sequence included, loses its end: it keeps the limit's first ids less one, and ends as usual.

    Process p of P takes rows p, p + P, … of the batch; lengths are those of the whole batch, so shapes agree everywhere.

    Raises ValueError for fewer examples than a batch, and for a batch size that processes do not divide.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        *,
        max_source_length: int,
        max_target_length: int,
        seed: int = 0,
        window: int = 64,
        length_multiple: int = 8,
        pad_id: int = 0,
        eos_id: int = 1,
        decoder_start_id: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ):
        _check(batch_size, process_index, process_count)
        if len(examples) < batch_size:
            raise ValueError(f'{len(examples)} examples do not fill one batch of {batch_size}: lower the batch size or add data')
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self.window = window
        self.steps_per_epoch = len(examples) // batch_size
        self._rows = slice(process_index, None, process_count)
        self._collate = functools.partial(
            collate,
            max_source_length=max_source_length,
            max_target_length=max_target_length,
            length_multiple=length_multiple,
            pad_id=pad_id,
            eos_id=eos_id,
            decoder_start_id=decoder_start_id,
        )
        # Caches, so that steps taken in order do each piece of work once; what they hold never depends on the past.
        self._permutation = functools.lru_cache(maxsize=1)(self._permutation)
        self._window_batches = functools.lru_cache(maxsize=2)(self._window_batches)

    def __getitem__(self, step: int) -> Batch:
        if step < 0:
            raise IndexError(f'step {step}: steps count from 0')
        epoch, step = divmod(int(step), self.steps_per_epoch)
        window, place = divmod(step, self.window)
        batch = self._window_batches(epoch, window)[place]
        return {name: array[self._rows] for name, array in self._collate(batch).items()}

    def epoch_of(self, step: int) -> float:
        """Epochs done before this step."""
        return step / self.steps_per_epoch

    def indices(self, epoch: int) -> np.ndarray:
        """Indices of the examples of an epoch, in the order its windows are cut from, [steps_per_epoch · batch_size]."""
        return self._permutation(epoch)[: self.steps_per_epoch * self.batch_size]

    def _permutation(self, epoch: int) -> np.ndarray:
        # Raw bits of a bit generator are the same in every version of NumPy; Generator.permutation is not promised to be.
        bits = np.random.PCG64([self.seed, epoch]).random_raw(len(self.examples))
        return np.argsort(bits, kind='stable')

    def _window_batches(self, epoch: int, window: int) -> list[list[Example]]:
        size = self.window * self.batch_size
        examples = [self.examples[int(i)] for i in self.indices(epoch)[window * size : (window + 1) * size]]
        examples.sort(key=lambda example: (max(map(len, example)), len(example.target)))
        order = np.argsort(np.random.PCG64([self.seed, epoch, window]).random_raw(len(examples) // self.batch_size))
        return [examples[i * self.batch_size : (i + 1) * self.batch_size] for i in order]


def evaluation_batches(
    examples: Sequence[Example],
    batch_size: int,
    *,
    max_source_length: int,
    max_target_length: int,
    length_multiple: int = 8,
    pad_id: int = 0,
    eos_id: int = 1,
    decoder_start_id: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every example once, in order, as TrainingBatches lays them out; the last batch is filled with rows of padding and weight 0.

    Raises as TrainingBatches does, but for few examples.
    """
    _check(batch_size, process_index, process_count)
    for start in range(0, len(examples), batch_size):
        rows = [examples[i] for i in range(start, min(start + batch_size, len(examples)))]
        batch = collate(
            rows,
            max_source_length=max_source_length,
            max_target_length=max_target_length,
            length_multiple=length_multiple,
            pad_id=pad_id,
            eos_id=eos_id,
            decoder_start_id=decoder_start_id,
            num_rows=batch_size,
        )
        yield {name: array[process_index::process_count] for name, array in batch.items()}


def collate(
    examples: Sequence[Example],
    *,
    max_source_length: int,
    max_target_length: int,
    length_multiple: int = 8,
    pad_id: int = 0,
    eos_id: int = 1,
    decoder_start_id: int = 0,
    num_rows: int | None = None,
) -> Batch:
    """The arrays of one batch (see TrainingBatches), with rows of padding and weight 0 after the examples up to `num_rows`."""
    num_rows = num_rows or len(examples)
    sources = pad_rows([e.source for e in examples], max_source_length, num_rows, length_multiple, pad_id, eos_id)
    targets = pad_rows([e.target for e in examples], max_target_length, num_rows, length_multiple, pad_id, eos_id)
    weights = np.zeros(targets.shape, np.float32)
    for row, example in enumerate(examples):
        weights[row, : min(len(example.target) + 1, max_target_length)] = 1
    inputs = np.full_like(targets, pad_id)
    inputs[:, 0] = decoder_start_id
    # An end of sequence is a target, never an input: what follows it has weight 0.
    inputs[:, 1:] = np.where(weights[:, 1:] > 0, targets[:, :-1], pad_id)
    return {
        'encoder_input_tokens': sources,
        'decoder_input_tokens': inputs,
        'decoder_target_tokens': targets,
        'decoder_loss_weights': weights,
    }


def pad_rows(
    rows: Sequence[Sequence[int]],
    limit: int,
    num_rows: int,
    length_multiple: int = 8,
    pad_id: int = 0,
    eos_id: int = 1,
) -> np.ndarray:
    """[num_rows, S] int32: each row cut to `limit − 1` ids, then the end of sequence, then padding; S a multiple of length_multiple."""
    longest = max((min(len(row) + 1, limit) for row in rows), default=1)
    padded = np.full((num_rows, round_up(longest, length_multiple)), pad_id, np.int32)
    for place, row in enumerate(rows):
        length = min(len(row), limit - 1)
        padded[place, :length] = row[:length]
        padded[place, length] = eos_id
    return padded


def count_truncated(examples: Sequence[Example], max_source_length: int, max_target_length: int) -> dict[str, int]:
    """How many sources and targets lose ids to the limits, the end of sequence counted: {'source': …, 'target': …}."""
    counts = {'source': 0, 'target': 0}
    for example in examples:
        counts['source'] += len(example.source) + 1 > max_source_length
        counts['target'] += len(example.target) + 1 > max_target_length
    return counts


def round_up(length: int, multiple: int) -> int:
    """The smallest multiple that is at least `length`."""
    return -(-length // multiple) * multiple


def _check(batch_size: int, process_index: int, process_count: int) -> None:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f'batch size {batch_size}: expected a positive multiple of the number of processes, {process_count}')
    if not 0 <= process_index < process_count:
        raise ValueError(f'process {process_index} of {process_count}: expected an index from 0 to {process_count - 1}')
