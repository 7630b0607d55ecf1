"""seqio Tasks over TensorFlow Datasets in text-to-text form, and the examples of any Task as records.

Behind the extra [seqio]: the only file that imports seqio and, with it, TensorFlow. Importing it registers the Tasks
of `task_names()` under the public 32,000-piece vocabulary, which is fetched when a Task is first tokenised and never
by the functions below that read texts; `register` puts another vocabulary, or another folder of prepared data, in
their place.

Texts are those of Raffel et al. (2020), appendix D: `summarize: …`, `translate English to French: …`, `question: …
context: …` with punctuation set off by spaces, and for GLUE the benchmark's name and its named fields in alphabetical
order, with the label's name as target. Summarisation sets that are not in that paper take the same prefix.
"""

import functools
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from calm_jax.data.definition import digest
from calm_jax.data.jsonl import Records
from calm_jax.data.tokenizers import ByteTokenizer, PublishedTokenizer, SentencePieceTokenizer, load_tokenizer
from calm_jax.files import whole
from calm_jax.nearest import did_you_mean

PUBLIC_VOCABULARY = 'gs://t5-data/vocabs/cc_all.32000/sentencepiece.model'

LANGUAGES = {'de': 'German', 'en': 'English', 'fr': 'French'}

# Names of the labels 0, 1, … of each benchmark. 'stsb' is a similarity from 0 to 5; test labels are −1.
GLUE_LABELS = {
    'cola': ('unacceptable', 'acceptable'),
    'sst2': ('negative', 'positive'),
    'mrpc': ('not_equivalent', 'equivalent'),
    'qqp': ('not_duplicate', 'duplicate'),
    'stsb': None,
    'mnli': ('entailment', 'neutral', 'contradiction'),
    'mnli_mismatched': ('entailment', 'neutral', 'contradiction'),
    'mnli_matched': ('entailment', 'neutral', 'contradiction'),
    'qnli': ('entailment', 'not_entailment'),
    'rte': ('entailment', 'not_entailment'),
    'wnli': ('not_entailment', 'entailment'),
    'ax': ('entailment', 'neutral', 'contradiction'),
}


class _Source(NamedTuple):
    """Where a Task's examples come from and how they become texts."""

    tfds_name: str
    to_texts: Callable


@seqio.map_over_dataset
def summarize(example: dict, article: str, summary: str) -> dict:
    """`summarize: {article}` → summary."""
    return {**_identity(example), 'inputs': tf.strings.join(['summarize: ', example[article]]), 'targets': example[summary]}


@seqio.map_over_dataset
def translate(example: dict, source: str, target: str) -> dict:
    """`translate English to French: {sentence}` → its translation; languages by their codes."""
    prefix = f'translate {LANGUAGES[source]} to {LANGUAGES[target]}: '
    return {**_identity(example), 'inputs': tf.strings.join([prefix, example[source]]), 'targets': example[target]}


@seqio.map_over_dataset
def answer(example: dict) -> dict:
    """`question: {question} context: {context}` → the first answer; all of them are kept as `answers`."""
    question, context, answers = (
        _with_spaced_punctuation(text) for text in (example['question'], example['context'], example['answers']['text'])
    )
    inputs = tf.strings.join(['question:', question, 'context:', context], separator=' ')
    return {
        **_identity(example),
        'inputs': tf.strings.regex_replace(inputs, r'\s+', ' '),
        'targets': answers[0],
        'answers': answers,
    }


@seqio.map_over_dataset
def classify(example: dict, benchmark: str, labels: tuple[str, ...]) -> dict:
    """`{benchmark} {field}: {text} …`, fields in alphabetical order → the label's name, `<unk>` for a label of −1."""
    # Index 0 is the label −1.
    label = tf.gather(['<unk>', *labels], example['label'] + 1)
    return {**_identity(example), 'inputs': _named_fields(benchmark, example), 'targets': label}


@seqio.map_over_dataset
def score(example: dict, benchmark: str) -> dict:
    """As `classify`, with the label rounded to the nearest 0.2 and written with one digit."""
    label = tf.strings.as_string(tf.round(example['label'] * 5) / 5, precision=1)
    return {**_identity(example), 'inputs': _named_fields(benchmark, example), 'targets': label}


def _glue(name: str) -> Callable:
    labels = GLUE_LABELS[name]
    if labels is None:
        return functools.partial(score, benchmark=name)
    # The diagnostic set and the two halves of the validation data are the same task as MNLI.
    benchmark = 'mnli' if name == 'ax' or name.startswith('mnli') else name
    return functools.partial(classify, benchmark=benchmark, labels=labels)


# Versions are those of tensorflow-datasets 4.9. It has no builder for IWSLT 2017: that set, with the fields 'de' and
# 'en', must have been written under this name (tfds.dataset_builders.store_as_tfds_dataset does it).
_SOURCES = {
    'cnn_dailymail': _Source('cnn_dailymail:3.4.0', functools.partial(summarize, article='article', summary='highlights')),
    'xsum': _Source('xsum:1.1.0', functools.partial(summarize, article='document', summary='summary')),
    'samsum': _Source('samsum:1.0.0', functools.partial(summarize, article='dialogue', summary='summary')),
    'multi_news': _Source('multi_news:2.1.0', functools.partial(summarize, article='document', summary='summary')),
    'big_patent': _Source('big_patent/all:2.1.2', functools.partial(summarize, article='description', summary='abstract')),
    'wmt15_enfr': _Source('wmt15_translate/fr-en:1.0.0', functools.partial(translate, source='en', target='fr')),
    'iwslt2017_deen': _Source('iwslt2017/de-en:1.0.0', functools.partial(translate, source='de', target='en')),
    'iwslt2017_ende': _Source('iwslt2017/de-en:1.0.0', functools.partial(translate, source='en', target='de')),
    'squad': _Source('squad/v1.1:3.0.0', answer),
    **{f'glue_{name}': _Source(f'glue/{name}:2.0.0', _glue(name)) for name in GLUE_LABELS},
}


def task_names() -> list[str]:
    """Names of the Tasks that this module registers."""
    return sorted(_SOURCES)


def register(vocabulary: seqio.Vocabulary | None = None, data_dir: str | os.PathLike | None = None) -> None:
    """Registers every Task with a vocabulary (default: the public one), in place of what this module registered before.

    With `data_dir`, data is read as it was prepared there and nothing is downloaded; without, TensorFlow Datasets
    looks in its usual places (the environment variable TFDS_DATA_DIR) and prepares what it does not find.
    """
    vocabulary = vocabulary or seqio.SentencePieceVocabulary(PUBLIC_VOCABULARY, extra_ids=100)
    for name, source in _SOURCES.items():
        seqio.TaskRegistry.remove(name)
        seqio.TaskRegistry.add(
            name,
            source=seqio.TfdsDataSource(  # pyright: ignore[reportArgumentType]  # seqio's protocol is stricter than its sources
                tfds_name=source.tfds_name,
                tfds_data_dir=None if data_dir is None else os.fspath(data_dir),
                read_only=data_dir is not None,
            ),
            preprocessors=[
                source.to_texts,
                seqio.preprocessors.tokenize,
                seqio.CacheDatasetPlaceholder(),
                seqio.preprocessors.append_eos_after_trim,
            ],
            output_features={feature: seqio.Feature(vocabulary=vocabulary) for feature in ('inputs', 'targets')},
        )


def vocabulary(directory: str | os.PathLike) -> seqio.Vocabulary:
    """The tokenizer stored in a folder, as a seqio vocabulary with the same ids. Raises as `load_tokenizer` does."""
    tokenizer = load_tokenizer(directory)
    published = isinstance(tokenizer, PublishedTokenizer)
    path = os.path.join(directory, SentencePieceTokenizer.FILES[0])
    if isinstance(tokenizer, SentencePieceTokenizer) or (published and SentencePieceTokenizer.FILES[0] in tokenizer.files):
        return seqio.SentencePieceVocabulary(path, extra_ids=tokenizer.extra_ids)
    if isinstance(tokenizer, ByteTokenizer) or (published and not tokenizer.files):
        return seqio.ByteVocabulary(extra_ids=tokenizer.extra_ids)
    raise ValueError(f'{directory}: a {type(tokenizer).__name__} has no seqio vocabulary')


def text_examples(task: str, split: str) -> Iterator[dict[str, Any]]:
    """The texts of any registered Task: {'id', 'source', 'target'} and what else its preprocessors keep, in a fixed
    order.

    Runs the Task's preprocessors up to its `seqio.preprocessors.tokenize`; its vocabulary is not needed. The id is the
    example's `id` or `idx`, or else its place.

    Raises ValueError for a Task that is not registered or has no such step, and for a split it does not have;
    FileNotFoundError where its data is not there and cannot be had. Reading an example raises ValueError where the data is
    damaged.
    """
    texts = _text_task(task)
    return _examples(texts, split, _dataset(texts, split))


def fingerprint(task: str) -> str:
    """sha256 (hex) over what a registered Task makes texts of: its source with its parameters and version, and the
    preprocessors up to its tokenisation with their code. Its vocabulary changes no text, and is not looked at.

    Raises ValueError as `text_examples` does.
    """
    texts = _text_task(task)
    return digest(texts.source, texts.preprocessors)


def task_records(task: str, split: str, path: str | os.PathLike) -> Records:
    """Random access to the texts of a Task's split: writes `text_examples` to `path`, a .jsonl, and opens it.

    Raises as `text_examples` does, and leaves nothing behind then. What was at `path` is replaced, once the whole split is
    written.
    """
    examples = text_examples(task, split)
    path = Path(path)
    own = path.with_name(f'{path.name}.{secrets.token_hex(4)}')  # another process may be writing the same
    with whole(own, make_folders=True) as lines:
        for example in examples:
            lines.write(json.dumps(example, ensure_ascii=False) + '\n')
    own.replace(path)
    return Records(path)


def _text_task(name: str) -> seqio.Task:
    """The Task up to its tokenisation."""
    if name in seqio.MixtureRegistry.names():
        raise ValueError(f'{name!r} is a seqio mixture: name one of its tasks')
    if name not in seqio.TaskRegistry.names():
        hint = did_you_mean(name, seqio.TaskRegistry.names()) or '; import the module that registers it'
        raise ValueError(f'no seqio task {name!r}{hint}')
    task = seqio.TaskRegistry.get(name)
    steps = [getattr(step, 'func', step) for step in task.preprocessors]
    tokenizing = (seqio.preprocessors.tokenize, seqio.preprocessors.tokenize_and_append_eos)
    places = [place for place, step in enumerate(steps) if step in tokenizing]
    if not places:
        raise ValueError(f'seqio task {name!r} has no seqio.preprocessors.tokenize step before which to read its texts')
    text = seqio.Feature(seqio.PassThroughVocabulary(size=0), add_eos=False, dtype=tf.string, rank=0)
    before = [step for step in task.preprocessors[: places[0]] if not isinstance(step, seqio.CacheDatasetPlaceholder)]
    return seqio.Task(name, task.source, {'inputs': text, 'targets': text}, before)


def _examples(task: seqio.Task, split: str, dataset: tf.data.Dataset) -> Iterator[dict[str, Any]]:
    for place, example in enumerate(_read(task, split, dataset)):
        fields = {name: _plain(value) for name, value in example.items()}
        identity = fields.pop('id', fields.get('idx', place))
        source, target = fields.pop('inputs'), fields.pop('targets')
        yield {'id': identity, 'source': source, 'target': target, **fields}


def _read(task: seqio.Task, split: str, dataset: tf.data.Dataset) -> Iterator[Any]:
    """The examples of a dataset as arrays; what TensorFlow says of damaged data in one line."""
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        reason = ' '.join(str(error.message).split())
        raise ValueError(
            f'seqio task {task.name!r}: cannot read split {split!r}, its data is damaged or does not fit the task: {reason}'
        ) from None


def _dataset(task: seqio.Task, split: str) -> tf.data.Dataset:
    try:
        # Opened once by itself: what fails here is the data, and any of three libraries may be the one to say so.
        task.source.get_dataset(split, shuffle=False)
    except Exception as error:
        reason = str(error).strip().split('\n')[0]
        if reason.startswith('Unknown split'):
            raise ValueError(f'seqio task {task.name!r}: {reason}') from None
        source = getattr(getattr(task.source, 'tfds_dataset', None), 'name', task.source)
        raise FileNotFoundError(f'seqio task {task.name!r}: cannot read {source}: {reason}') from error
    return task.get_dataset(split=split, shuffle=False, seed=0, try_in_mem_cache=False)


def _identity(example: dict) -> dict:
    return {name: example[name] for name in ('id', 'idx') if name in example}


def _named_fields(benchmark: str, example: dict) -> tf.Tensor:
    fields = [name for name in sorted(example) if name not in ('idx', 'label')]
    named = [part for name in fields for part in (f'{name}:', example[name])]
    return tf.strings.join([benchmark, *named], separator=' ')


def _with_spaced_punctuation(text: tf.Tensor) -> tf.Tensor:
    spaced = tf.strings.regex_replace(text, r'(\W)', r' \1 ')
    return tf.strings.regex_replace(spaced, r'\s+', ' ')


def _plain(value: Any) -> Any:
    """What JSON can write of a NumPy value: bytes become text."""
    if isinstance(value, bytes):
        return value.decode('utf-8')
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


register()
