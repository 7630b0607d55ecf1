"""What a model is asked where it is not asked to go on: which label a text has, or which part of it is the answer."""

import dataclasses
from typing import Any, ClassVar

from calm_jax.checks import check_types


@dataclasses.dataclass(frozen=True)
class Labels:
    """Sequence classification: one of these labels, from the decoder's state at a text's last token; where there is an encoder,
    at its last end of sequence.

    wraps: whether the decoder starts from the text's last token, and not from the model's start token (Liu et al. 2020).
    Raises ValueError for fewer than two labels, one that is empty, and one that is there twice.
    """

    kind: ClassVar[str] = 'labels'

    names: tuple[str, ...]
    wraps: bool = False

    def __post_init__(self):
        object.__setattr__(self, 'names', tuple(self.names))  # JSON and gin give lists
        if len(self.names) < 2:
            raise ValueError(f'labels is {list(self.names)}; expected two or more')
        for place, name in enumerate(self.names):
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f'labels holds {name!r}; expected texts')
            if name in self.names[:place]:
                raise ValueError(f'labels holds {name!r} twice; expected each once')

    @property
    def outputs(self) -> int:
        """Scores of a position."""
        return len(self.names)

    def scored_alike(self, other: 'Task') -> bool:
        """Whether a head of the other task says what one of this says."""
        return isinstance(other, Labels) and self.names == other.names

    def number(self, label: str, where: str = 'record') -> int:
        """The place of a label in the list. Raises ValueError for one that is not in it."""
        if label not in self.names:
            raise ValueError(f'{where}: the label is {label!r}; expected one of {", ".join(map(repr, self.names))}')
        return self.names.index(label)


@dataclasses.dataclass(frozen=True)
class Spans:
    """Extractive question answering: the first and the last token of the answer, from the decoder's state at every token.

    unanswerable: whether a text may hold no answer (SQuAD 2.0), which the first token says. longest: tokens of an answer.
    wraps: as `Labels`.
    Raises ValueError for a longest answer below 1.
    """

    kind: ClassVar[str] = 'spans'

    unanswerable: bool = False
    longest: int = 30
    wraps: bool = False

    def __post_init__(self):
        check_types(self)
        if self.longest < 1:
            raise ValueError(f'longest is {self.longest}; expected 1 or more tokens of an answer')

    @property
    def outputs(self) -> int:
        """Scores of a position: that an answer begins there, and that one ends there."""
        return 2

    def scored_alike(self, other: 'Task') -> bool:
        """Whether a head of the other task says what one of this says."""
        return isinstance(other, Spans)


Task = Labels | Spans
KINDS: dict[str, type[Labels] | type[Spans]] = {each.kind: each for each in (Labels, Spans)}


def check_says_tokens(task: Task | None, checkpoint: Any) -> None:
    """Raises ValueError where a checkpoint, named in the message, has a task, and says no tokens."""
    if task is not None:
        raise ValueError(f'{checkpoint}: the model answers with {task.kind}; expected one that says tokens, which leave early')


def to_json(task: Task) -> dict[str, Any]:
    """{'task': 'labels', 'names': […]}"""
    return {'task': task.kind, **dataclasses.asdict(task)}


def from_json(fields: Any, where: str) -> Task:
    """The task that `to_json` made a document of; `where` names the file. Raises ValueError for what is none."""
    kind = KINDS.get(str(fields.get('task'))) if isinstance(fields, dict) else None
    if kind is None:
        raise ValueError(f'{where}: is no task; expected an object with "task", one of {", ".join(KINDS)}')
    try:
        return kind(**{name: value for name, value in fields.items() if name != 'task'})
    except (TypeError, ValueError) as error:
        raise ValueError(f'{where}: {str(error).splitlines()[0]}') from None
