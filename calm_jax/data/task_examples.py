"""Examples and batches of tasks: a text, and the number of its label, or where in it the answer stands."""

from collections.abc import Iterator, Sequence

import numpy as np

from calm_jax.data.batching import Batch, Example
from calm_jax.data.embedded import embedded
from calm_jax.data.jsonl import Records, Template
from calm_jax.data.padding import Buckets, places_left
from calm_jax.data.passage import answerable
from calm_jax.data.tokenizers import Tokenizer
from calm_jax.tasks import Labels, Spans, Task

ANSWER_START = 'answer_start'  # field of a record: where in the passage its answer begins, in characters
NOWHERE = -1  # in place of a token, where an answer was cut off with the end of its text


class TaskExamples:
    """Examples of records, tokenised in turn: sources without what ends them; targets [1], the label's number, or [2], the
    places of the answer's first and last token.

    source: its last field is the passage that is answered from. target: the label, or the answer, which is found where the
    record's `answer_start` says, else where it first stands; an empty one stands at the first token, where the task allows it.
    decoder_only: of a model that encodes nothing, whose texts end in nothing. vocab_size: the ids that the model embeds.

    Raises ValueError, naming the line, for a label that is not in the task's list, and an answer that is not in its passage.
    """

    def __init__(
        self,
        records: Records,
        source: Template,
        target: Template,
        tokenizer: Tokenizer,
        task: Task,
        decoder_only: bool,
        vocab_size: int,
    ):
        self.records, self.source, self.target, self.task = records, source, target, task
        self.tokenizer, self.decoder_only, self.vocab_size = tokenizer, decoder_only, vocab_size

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Example]:
        for index, record in enumerate(self.records):
            where = self.records.where(index)
            text, answer = self.source(record, where), self.target(record, where)
            source = self.tokenizer.encode(text)
            if not self.decoder_only:
                source = source[: len(source) - len(self.tokenizer.end_ids)]
            if isinstance(self.task, Labels):
                target = [self.task.number(answer, where)]
            else:
                target = self._span(text, answer, record.get(ANSWER_START), where)
            source = embedded(source, self.tokenizer, self.vocab_size, where)
            yield Example(np.asarray(source, np.int32), np.asarray(target, np.int32))

    def _span(self, text: str, answer: str, start: object, where: str) -> list[int]:
        assert not isinstance(self.task, Labels)  # checked
        if not answer:
            if self.task.unanswerable:
                return [0, 0]
            raise ValueError(f'{where}: there is no answer; expected one, or --gin.UNANSWERABLE=True')
        passage = answerable(text)
        if start is None:
            begins = text.find(answer, passage.start, passage.stop)
        elif isinstance(start, int) and not isinstance(start, bool):
            begins = passage.start + start
        else:
            raise ValueError(f'{where}: {ANSWER_START} is {start!r}; expected a number of characters')
        if begins < passage.start or begins + len(answer) > passage.stop or not text.startswith(answer, begins):
            at = '' if start is None else f' at {ANSWER_START} {start}'
            raise ValueError(f'{where}: the answer {answer!r} is not in its passage{at}; expected a part of it')
        ends = begins + len(answer)
        spelled = [place for place, (a, b) in enumerate(self.tokenizer.offsets(text)) if a < ends and b > begins and b > a]
        if not spelled:
            raise ValueError(f'{where}: the answer {answer!r} has no token of its own; expected a part of the passage')
        return [spelled[0], spelled[-1]]


def collate_task(
    examples: Sequence[Example | None],
    source_buckets: Buckets,
    target_buckets: Buckets,
    *,
    pad_id: int = 0,
    task: Task,
    source_end: Sequence[int] = (1,),
    target_end: Sequence[int] = (),
    decoder_start_id: int = 0,
    decoder_only: bool = False,
    start_ids: Sequence[int] = (),
) -> Batch:
    """The arrays of one batch of a task; an example given as None is a row of weight 0.

        encoder_input_tokens [B, S] int32, encoder_mask [B, S] bool: the text; not of a decoder-only model
        decoder_input_tokens [B, S] int32: the same, shifted right behind decoder_start_id, or where the task wraps behind its
            last token; of a decoder-only model as it is
        decoder_mask [B, S] bool: which of them are there
        task_targets [B, T] int32: the label's number, T = 1; of spans the places of first and last token, T = 2
        task_weights [B] float32: 1, but for a row that was filled up, or whose answer was cut off

    A text that is too long loses its end, a prompt its beginning, as in decoding. target_buckets, target_end: not read.
    """
    del target_buckets, target_end
    places, end = isinstance(task, Spans), () if decoder_only else tuple(source_end)
    limit, side = source_buckets.limit - len(end), 'left' if decoder_only else 'right'
    rows, targets, weights = [], [], []
    for example in examples:
        if example is None:
            rows.append([])
            targets.append(None)
            weights.append(0.0)
            continue
        left = places_left(example.source, limit, side, [start_ids])
        target = example.target.tolist()
        if isinstance(task, Spans):
            new = {place: number for number, place in enumerate(left)}
            # Where there is no answer the first token says so, whichever is left.
            nowhere = task.unanswerable and target == [0, 0]
            target = target if nowhere else [new.get(place, NOWHERE) for place in target]
        rows.append([*(int(example.source[place]) for place in left), *end])
        targets.append(target)
        weights.append(0.0 if NOWHERE in target else 1.0)
    count = 2 if places else 1
    width = source_buckets.length(max(max(map(len, rows)), 1))
    tokens = np.full((len(rows), width), max(pad_id, 0), np.int32)
    lengths = np.array([len(row) for row in rows])
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    mask = np.arange(width) < lengths[:, None]
    made = {
        'decoder_input_tokens': tokens,
        'decoder_mask': mask,
        'task_targets': np.array([[0] * count if None is each or NOWHERE in each else each for each in targets], np.int32),
        'task_weights': np.array(weights, np.float32),
    }
    if decoder_only:
        return made
    starts = np.full(len(rows), decoder_start_id, np.int32)
    if task.wraps:
        starts = tokens[np.arange(len(rows)), np.maximum(lengths - 1, 0)]
    shifted = np.concatenate([starts[:, None], tokens[:, :-1]], axis=1)
    return {**made, 'encoder_input_tokens': tokens, 'encoder_mask': mask, 'decoder_input_tokens': shifted}
