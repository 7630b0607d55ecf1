"""What decoding a text gives: the text, and of each token its depth and cost."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload


@dataclasses.dataclass(frozen=True)
class SequencePlan:
    """What the plan of one sequence ran, and what it dropped of its source.

    self_attention, cross_attention, feed_forward: of each decoder layer, whether it ran; encoder_attention,
    encoder_feed_forward: of each encoder layer. Those that the model does not have are empty.
    dropped: places of the source tokens that were dropped, rising, from 0; source: a printable string for each of its tokens
    where any was, else empty. choice: the name of what was chosen for the source, None where the plan maker names none.
    """

    self_attention: list[bool]
    cross_attention: list[bool]
    feed_forward: list[bool]
    encoder_attention: list[bool]
    encoder_feed_forward: list[bool]
    dropped: list[int] = dataclasses.field(default_factory=list)
    source: list[str] = dataclasses.field(default_factory=list)
    choice: str | None = None


@dataclasses.dataclass(frozen=True)
class Output:
    """One decoded sequence.

    text; tokens: ids, end-of-sequence included; pieces: one printable string per token. What a text is read for is one token:
    the label's number, or the place in the source where the answer begins, 0 where there is none; and its text.
    exit_layers: layers visited per token, 1…L; sub_layers: sub-layers run per token; confidence: at each exit.
    layers: mean over the tokens of the sub-layers run, in layers (sub-layers over those of one layer).
    flops, flops_elbayad: of the whole example, exact and as the paper counts (`calm_jax.metrics.cost`).
    source_tokens: with the end-of-sequence; truncated: whether the input was longer than the limit.
    batch_seconds: wall time of the batch it was decoded in, over the batch's sequences; in flight, the time since others left
        their slots, over the sequences that left then. Time that went into compiling is left out.
    log_probabilities: of each token under the model's own logits at its exit, before rules and temperature; None where they
    were not asked for. text_index: which of the texts it is of, sequence: which of the text's sequences it is, both from 0.
    plan: what ran, where there is a plan and its dial does not stand at 1; else None: everything.
    """

    text: str
    tokens: list[int]
    pieces: list[str]
    exit_layers: list[int]
    sub_layers: list[int]
    confidence: list[float]
    layers: float
    flops: float
    flops_elbayad: float
    source_tokens: int
    truncated: bool
    batch_seconds: float
    log_probabilities: list[float] | None = None
    sequence: int = 0
    text_index: int = 0
    plan: SequencePlan | None = None


class DecodeReport(NamedTuple):
    """What decoding some sequences took: those of a batch, or those that left their slots together.

    seconds, without those of compiling; sequences: how many (rows that fill up left out). places: steps times rows; tokens:
    those of them that were used. executed: sub-layers of each step times rows; needed: those of them that the sequences ran.
    widths: of the sources. compile_seconds: what compiling took meanwhile. Of drafts that were verified, rounds; drafted,
    accepted: how many there were at each position of a round, and how many of them full depth says too; () without any.
    """

    seconds: float
    sequences: int
    places: int
    tokens: int
    executed: int
    needed: int
    widths: frozenset[int]
    compile_seconds: float = 0.0
    rounds: int = 0
    drafted: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()


class Outputs(Sequence[Output]):
    """Outputs that are decoded when they are first asked for, by index or in turn.

    After a failure those decoded before it are still there, and asking for any other raises RuntimeError, each time, with
    the failure as its cause.
    """

    def __init__(self, stream: Iterator[Output], length: int) -> None:
        self._stream, self._length = stream, length
        self._decoded: list[Output] = []
        self._failure: BaseException | None = None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Output]:
        return (self[i] for i in range(self._length))

    def __repr__(self) -> str:
        return f'Outputs({self._length}, {len(self._decoded)} of them decoded)'

    @overload
    def __getitem__(self, index: int) -> Output: ...

    @overload
    def __getitem__(self, index: slice) -> list[Output]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(f'output {index} of {self._length}')
        index %= self._length
        self._decode(index + 1)
        return self._decoded[index]

    def _decode(self, count: int) -> None:
        """Decodes until there are `count` outputs."""
        if count <= len(self._decoded):
            return
        if self._failure is not None:
            raise RuntimeError(f'decoding failed after {len(self._decoded)} outputs: {self._failure!r}') from self._failure
        try:
            for output in itertools.islice(self._stream, count - len(self._decoded)):
                self._decoded.append(output)
            if len(self._decoded) < count:
                raise RuntimeError(f'{len(self._decoded)} outputs were decoded, of {self._length}')
        except BaseException as failure:
            self._failure = failure
            raise
