"""Heads of tasks as they are published beside the families' models: …ForSequenceClassification, …ForQuestionAnswering.

A label's head stands behind the decoder's last state: two maps where there is an encoder (Lewis et al. 2019), else one without
a bias. An answer's is one map of every state. Some classes call the bare model `transformer` in their files.
"""

from collections.abc import Mapping
from typing import Any

from calm_jax.models.families.weights import Weight, linear
from calm_jax.tasks import Labels, Spans, Task

_CLASSES = {'ForSequenceClassification': Labels, 'ForQuestionAnswering': Spans}
# The names that the models of the families go by, of which there are such classes: neither LongT5 nor Pegasus has any.
_HAVE = ('T5', 'MT5', 'UMT5', 'Bart', 'MBart', 'GPT2', 'OPT', 'Llama')
_DENSE = (*linear('classification_head.dense', 'dense', True), *linear('classification_head.out_proj', 'out', True))
_BARE, _SPANS = (Weight('score.weight', 'out/kernel', True),), tuple(linear('qa_outputs', 'out', True))
_OURS = {'dense/kernel': 'dense_kernel', 'dense/bias': 'dense_bias', 'out/kernel': 'kernel', 'out/bias': 'bias'}
_CALLED_TRANSFORMER = {('T5', Labels), ('MT5', Labels), ('UMT5', Labels), ('Llama', Spans)}
# Of a model that goes on, and of no other: what makes logits of the vocabulary.
_OF_LOGITS = frozenset(('lm_head.weight', 'final_logits_bias'))


_WRAPS = ('mbart',)  # whose decoder starts from its source's last token


def task_of(published: Mapping[str, Any]) -> Task | None:
    """The task of a published configuration (a dict); None where its model goes on.

    Raises ValueError for a class of another task, and for labels that are no single choice.
    """
    named = published.get('architectures') or ()
    kinds = [kind for ending, kind in _CLASSES.items() if any(str(name).endswith(ending) for name in named)]
    if not kinds:
        return None
    wraps = published.get('model_type') in _WRAPS
    if kinds[0] is Spans:
        return Spans(wraps=wraps)
    problem = published.get('problem_type')
    if problem not in (None, 'single_label_classification'):
        raise ValueError(f'problem_type is {problem!r}; expected single_label_classification')
    names = published.get('id2label')
    if names is None:
        names = {number: f'LABEL_{number}' for number in range(published.get('num_labels', 2))}
    if not isinstance(names, Mapping) or sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise ValueError(f'id2label is {names!r}; expected a label for each number from 0')
    by_number = {int(number): name for number, name in names.items()}
    return Labels(tuple(by_number[number] for number in range(len(by_number))), wraps)


def weights_of(task: Task, encodes: bool) -> dict[str, Weight]:
    """{name of ours: `Weight`} of a task's head; encodes: whether the model does."""
    weights = _SPANS if isinstance(task, Spans) else _DENSE if encodes else _BARE
    return {_OURS[weight.path]: weight for weight in weights}


def without_head(task: Task, tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors {name: tensor} of the model alone, under the names of one that goes on; prefix: of those."""
    heads = {weight.name for encodes in (True, False) for weight in weights_of(task, encodes).values()}
    body = {name: tensor for name, tensor in tensors.items() if name not in heads}
    if prefix == 'transformer.':
        return body
    return {
        prefix + name.removeprefix('transformer.') if name.startswith('transformer.') else name: tensor
        for name, tensor in body.items()
    }


def published_task(task: Task, architecture: str) -> dict[str, Any]:
    """What the published configuration says of a task, of a model that goes on as `architecture`. Raises ValueError where there
    is no such class."""
    family = _family(architecture)
    ending = next(ending for ending, kind in _CLASSES.items() if isinstance(task, kind))
    if task.wraps != (family.lower() in _WRAPS):
        raise ValueError(f'{task.kind} of {family}: its decoder {"starts" if task.wraps else "does not start"} from the text')
    if family not in _HAVE:
        raise ValueError(f'{task.kind} of {family} cannot be published; there is no {family}{ending}')
    made: dict[str, Any] = {'architectures': [family + ending]}
    if isinstance(task, Labels):
        made['id2label'] = {str(number): name for number, name in enumerate(task.names)}
        made['label2id'] = {name: number for number, name in enumerate(task.names)}
    return made


def published_weights(
    task: Task, head: Mapping[str, Any], architecture: str, prefix: str, weights: list[Weight]
) -> list[Weight]:
    """The `Weight` of every parameter of a model with a task, the head's being task/…, of those of the one that goes on as
    `architecture`. prefix: of the bare model's names.

    Raises ValueError for a head that is not as published.
    """
    called = 'transformer.' if (_family(architecture), type(task)) in _CALLED_TRANSFORMER else prefix
    body = [
        weight._replace(name=called + weight.name.removeprefix(prefix)) for weight in weights if weight.name not in _OF_LOGITS
    ]
    published = next((each for each in (_SPANS, _DENSE, _BARE) if {_OURS[weight.path] for weight in each} == set(head)), ())
    if published not in ((_SPANS,) if isinstance(task, Spans) else (_DENSE, _BARE)):
        raise ValueError(f'a head of {", ".join(sorted(head))} cannot be published for {task.kind}')
    return [*body, *(weight._replace(path=f'task/{_OURS[weight.path]}') for weight in published)]


def _family(architecture: str) -> str:
    for ending in ('ForConditionalGeneration', 'ForCausalLM', 'LMHeadModel'):
        architecture = architecture.removesuffix(ending)
    return architecture
