"""seqio Tasks over small tfds datasets, written by tfds itself under the published names, features and versions."""

import functools
import json
import re
import shutil
import subprocess
import sys

import pytest

tfds = pytest.importorskip('tensorflow_datasets', reason='needs the extra [seqio]')
seqio = pytest.importorskip('seqio', reason='needs the extra [seqio]')

import tensorflow as tf  # noqa: E402

from calm_jax.cli import main  # noqa: E402
from calm_jax.data import seqio_tasks  # noqa: E402
from calm_jax.data.batching import tokenize  # noqa: E402
from calm_jax.data.jsonl import Template  # noqa: E402
from calm_jax.data.sources import open_records  # noqa: E402
from calm_jax.data.tokenizers import ByteTokenizer, load_tokenizer, train_sentencepiece  # noqa: E402

# After the examples of Raffel et al. (2020), appendix D, shortened.
PRINTED = {
    'glue_cola': (
        {'sentence': 'John made Bill master of himself.', 'label': 1},
        'cola sentence: John made Bill master of himself.',
        'acceptable',
    ),
    'glue_rte': (
        {
            'sentence1': "A smaller proportion of Yugoslavia's Italians were settled in Slovenia.",
            'sentence2': 'Slovenia has 3,000 inhabitants.',
            'label': 0,
        },
        "rte sentence1: A smaller proportion of Yugoslavia's Italians were settled in Slovenia. "
        'sentence2: Slovenia has 3,000 inhabitants.',
        'entailment',
    ),
    'glue_mnli': (
        {
            'hypothesis': 'The St. Louis Cardinals have always won.',
            'premise': 'yeah well losing is i mean i’m i’m originally from Saint Louis',
            'label': 2,
        },
        'mnli hypothesis: The St. Louis Cardinals have always won. '
        'premise: yeah well losing is i mean i’m i’m originally from Saint Louis',
        'contradiction',
    ),
    'glue_mrpc': (
        {'sentence1': 'We acted because we saw the evidence.', 'sentence2': 'Rather, he said.', 'label': 1},
        'mrpc sentence1: We acted because we saw the evidence. sentence2: Rather, he said.',
        'equivalent',
    ),
    'glue_qnli': (
        {'question': 'Where did Jebe die?', 'sentence': 'Genghis Khan recalled Subutai back to Mongolia.', 'label': 0},
        'qnli question: Where did Jebe die? sentence: Genghis Khan recalled Subutai back to Mongolia.',
        'entailment',
    ),
    'glue_qqp': (
        {
            'question1': 'What attributes would have made you highly desirable in ancient Rome?',
            'question2': 'How I GET OPPERTINUTY TO JOIN IT COMPANY AS A FRESHER?',
            'label': 0,
        },
        'qqp question1: What attributes would have made you highly desirable in ancient Rome? '
        'question2: How I GET OPPERTINUTY TO JOIN IT COMPANY AS A FRESHER?',
        'not_duplicate',
    ),
    'glue_sst2': (
        {'sentence': "it confirms fincher 's status as a film maker .", 'label': 1},
        "sst2 sentence: it confirms fincher 's status as a film maker .",
        'positive',
    ),
    'glue_stsb': (
        {
            'sentence1': 'Representatives for Puretunes could not immediately be reached for comment Wednesday.',
            'sentence2': 'Puretunes representatives could not be located Thursday to comment on the suit.',
            'label': 3.25,
        },
        'stsb sentence1: Representatives for Puretunes could not immediately be reached for comment Wednesday. '
        'sentence2: Puretunes representatives could not be located Thursday to comment on the suit.',
        '3.2',
    ),
    'squad': (
        {
            'question': "What does increased oxygen concentrations in the patient's lungs displace?",
            'context': 'Hyperbaric (high-pressure) medicine uses special oxygen chambers.',
            'answers': {'text': ['carbon monoxide', 'carbon-monoxide'], 'answer_start': [0, 0]},
            'id': 'q7',
            'title': 'Oxygen',
        },
        "question: What does increased oxygen concentrations in the patient ' s lungs displace ? "
        'context: Hyperbaric ( high - pressure ) medicine uses special oxygen chambers . ',
        'carbon monoxide',
    ),
    'cnn_dailymail': (
        {'article': 'marouane fellaini and adnan januzaj\ncontinue', 'highlights': 'the belgian duo .\nnew', 'id': 'c1'},
        'summarize: marouane fellaini and adnan januzaj\ncontinue',
        'the belgian duo .\nnew',
    ),
    'wmt15_enfr': (
        {'en': 'This image section from an infrared recording', 'fr': 'Ce détail d’une photographie infrarouge'},
        'translate English to French: This image section from an infrared recording',
        'Ce détail d’une photographie infrarouge',
    ),
    # The rest have no example in the paper; they follow its form.
    'glue_wnli': (
        {'sentence1': 'The dog ran.', 'sentence2': 'It ran.', 'label': 1},
        'wnli sentence1: The dog ran. sentence2: It ran.',
        'entailment',
    ),
    'glue_ax': ({'hypothesis': 'h', 'premise': 'p', 'label': -1}, 'mnli hypothesis: h premise: p', '<unk>'),
    'glue_mnli_matched': ({'hypothesis': 'h', 'premise': 'p', 'label': 1}, 'mnli hypothesis: h premise: p', 'neutral'),
    'glue_mnli_mismatched': ({'hypothesis': 'h', 'premise': 'p', 'label': 0}, 'mnli hypothesis: h premise: p', 'entailment'),
    'xsum': ({'document': 'It rained.\n\nA lot.', 'summary': 'Rain'}, 'summarize: It rained.\n\nA lot.', 'Rain'),
    'samsum': ({'dialogue': 'A: hi\r\nB: ho', 'summary': 'Greetings', 'id': 's1'}, 'summarize: A: hi\r\nB: ho', 'Greetings'),
    'multi_news': ({'document': 'one ||||| two', 'summary': 'both'}, 'summarize: one ||||| two', 'both'),
    'big_patent': ({'description': 'A wheel', 'abstract': 'Round'}, 'summarize: A wheel', 'Round'),
    'iwslt2017_deen': ({'de': 'Danke', 'en': 'Thanks'}, 'translate German to English: Danke', 'Thanks'),
    'iwslt2017_ende': ({'de': 'Danke', 'en': 'Thanks'}, 'translate English to German: Thanks', 'Danke'),
}
SPLIT = {'glue_ax': 'test', 'glue_mnli': 'validation_matched'}


def features_of(builder_name, data_dir):
    """The published features, from tfds' own builder; IWSLT 2017 has none."""
    if builder_name.startswith('iwslt2017'):
        return tfds.features.Translation(languages=('de', 'en'))
    return tfds.builder(builder_name, data_dir=data_dir).info.features


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder, empty = tmp_path_factory.mktemp('tfds'), tmp_path_factory.mktemp('empty')
    written = set()
    for task, (example, _, _) in PRINTED.items():
        tfds_name = seqio_tasks.seqio.TaskRegistry.get(task).source.tfds_dataset.name
        if tfds_name in written:
            continue
        written.add(tfds_name)
        builder_name, version = tfds_name.split(':')
        name, _, config = builder_name.partition('/')
        features = features_of(builder_name, empty)
        example = {**dict.fromkeys(set(features) - set(example), ''), **example}
        second = {**example, **{key: f'second {key}' for key, value in example.items() if isinstance(value, str)}}
        if 'idx' in example:
            example, second = {**example, 'idx': 40}, {**second, 'idx': 41, 'label': -1}
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            config=config or None,
            features=features,
            split_datasets={SPLIT.get(task, 'validation'): [(0, example), (1, second)]},
            data_dir=folder,
            disable_shuffling=True,
        )
    return folder


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tokenizer')
    texts = [text for _, *pair in PRINTED.values() for text in pair]
    return folder, train_sentencepiece(texts, 420, folder / 'spiece.model')


@pytest.fixture(scope='module', autouse=True)
def registered(data_dir, trained):
    seqio_tasks.register(seqio_tasks.vocabulary(trained[0]), data_dir)


def test_every_task_named_is_tested_here():
    assert sorted(PRINTED) == seqio_tasks.task_names()
    assert set(seqio_tasks.task_names()) <= set(seqio.TaskRegistry.names())


@pytest.mark.parametrize('task', PRINTED)
def test_texts_have_the_published_form(task):
    record, source, target = PRINTED[task]
    first, second = seqio_tasks.text_examples(task, SPLIT.get(task, 'validation'))
    assert (first['source'], first['target']) == (source, target)
    assert second['source'] != first['source']
    if task.startswith('glue'):
        assert (first['id'], second['id']) == (40, 41)
        assert second['target'] == ('-1.0' if task == 'glue_stsb' else '<unk>')
    else:
        assert first['id'] == record.get('id', 0)


@pytest.mark.parametrize('task', ['squad', 'glue_mnli', 'wmt15_enfr', 'cnn_dailymail'])
def test_tokenised_tasks_have_the_ids_of_the_checkpoint_s_tokenizer(task, trained):
    split = SPLIT.get(task, 'validation')
    dataset = seqio.get_mixture_or_task(task).get_dataset(None, split, shuffle=False)
    texts = seqio_tasks.text_examples(task, split)
    for example, text in zip(dataset.as_numpy_iterator(), texts, strict=True):
        assert example['inputs'].tolist() == [*trained[1].encode(text['source']), 1]
        assert example['targets'].tolist() == [*trained[1].encode(text['target']), 1]


def test_all_answers_of_a_question_are_kept():
    first, _ = seqio_tasks.text_examples('squad', 'validation')
    assert first['answers'] == ['carbon monoxide', 'carbon - monoxide']


def test_label_names_are_those_of_the_published_datasets(tmp_path):
    for name, labels in seqio_tasks.GLUE_LABELS.items():
        label = tfds.builder(f'glue/{name}', data_dir=tmp_path).info.features['label']
        assert labels == (tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else None) or name == 'stsb'


@pytest.mark.parametrize('label, text', [(0.0, '0.0'), (4.75, '4.8'), (5.0, '5.0'), (1.8, '1.8'), (2.09, '2.0'), (2.11, '2.2')])
def test_similarities_are_rounded_to_fifths(label, text):
    features = {'sentence1': '', 'sentence2': '', 'label': label, 'idx': 0}
    (example,) = seqio_tasks.score(tf.data.Dataset.from_tensors(features), 'stsb').as_numpy_iterator()
    assert example['targets'].decode() == text


def test_a_split_becomes_records_that_train_and_generate_read(tmp_path):
    path = tmp_path / 'new' / 'split.jsonl'
    records = seqio_tasks.task_records('wmt15_enfr', 'validation', path)
    _, source, target = PRINTED['wmt15_enfr']
    assert len(records) == 2 and records[0] == {'id': 0, 'source': source, 'target': target}
    assert [json.loads(line) for line in path.read_text().splitlines()] == list(records)
    examples = tokenize(records, Template('source'), Template('target'), ByteTokenizer())
    assert ByteTokenizer().decode(examples[0].target) == target
    fingerprint = records.fingerprint()
    assert seqio_tasks.task_records('wmt15_enfr', 'validation', path).fingerprint() == fingerprint
    assert sorted(p.name for p in path.parent.iterdir()) == ['split.jsonl']


def test_slices_of_a_split_are_splits():
    (only,) = seqio_tasks.text_examples('xsum', 'validation[1:]')
    assert only['source'] == 'summarize: second document'


def test_registering_again_puts_another_vocabulary_in_place(data_dir, trained):
    seqio_tasks.register(seqio.ByteVocabulary(), data_dir)
    (first, _) = seqio.get_mixture_or_task('samsum').get_dataset(None, 'validation', shuffle=False).as_numpy_iterator()
    assert first['targets'].tolist() == [*ByteTokenizer().encode('Greetings'), 1]
    seqio_tasks.register(seqio_tasks.vocabulary(trained[0]), data_dir)


def other_task(name, preprocessors):
    seqio.TaskRegistry.remove(name)
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
            {'inputs': ['a', 'b'], 'targets': ['c', 'd'], 'n': [[1, 2], [3, 4]], 'names': [['x', 'é'], ['y', 'z']]}
        ),
        splits=['train'],
    )
    vocabulary = seqio.SentencePieceVocabulary('/nowhere/sentencepiece.model')
    features = {name: seqio.Feature(vocabulary=vocabulary) for name in ('inputs', 'targets')}
    seqio.TaskRegistry.add(name, source=source, preprocessors=preprocessors, output_features=features)
    return name


def test_any_registered_task_gives_its_texts_without_its_vocabulary():
    @seqio.map_over_dataset
    def prefixed(example, output_features):
        assert set(output_features) == {'inputs', 'targets'}
        return {**example, 'inputs': tf.strings.join(['in: ', example['inputs']])}

    steps = [prefixed, seqio.CacheDatasetPlaceholder(), seqio.preprocessors.tokenize_and_append_eos]
    task = other_task('another', steps)
    assert list(seqio_tasks.text_examples(task, 'train')) == [
        {'id': 0, 'source': 'in: a', 'target': 'c', 'n': [1, 2], 'names': ['x', 'é']},
        {'id': 1, 'source': 'in: b', 'target': 'd', 'n': [3, 4], 'names': ['y', 'z']},
    ]


def prefix(text):
    """A preprocessor that puts a text before the inputs; its code is the same for every text."""

    @seqio.map_over_dataset
    def prefixed(example):
        return {**example, 'inputs': tf.strings.join([text, example['inputs']])}

    return prefixed


def suffix(example, text):
    return {**example, 'inputs': tf.strings.join([example['inputs'], text])}


def sources_of(task):
    return [record['source'] for record in open_records(f'seqio:{task}:train')]


@pytest.mark.parametrize(
    'first, second, texts',
    [
        ([prefix('x: ')], [prefix('y: ')], (['x: a', 'x: b'], ['y: a', 'y: b'])),
        ([prefix('x: ')], [prefix('x: '), prefix('y: ')], (['x: a', 'x: b'], ['y: x: a', 'y: x: b'])),
        (
            [functools.partial(seqio.map_over_dataset(suffix), text='!')],
            [functools.partial(seqio.map_over_dataset(suffix), text='?')],
            (['a!', 'b!'], ['a?', 'b?']),
        ),
        ([lambda data: data.take(1)], [lambda data: data.skip(1)], (['a'], ['b'])),
    ],
    ids=['closure', 'one more', 'arguments', 'code'],
)
def test_a_task_registered_again_with_other_preprocessors_is_read_again(first, second, texts, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    for steps, expected in zip((first, second), texts, strict=True):
        assert sources_of(other_task('again', [*steps, seqio.preprocessors.tokenize])) == expected
    monkeypatch.setattr(seqio_tasks, 'task_records', None)  # both are still there, and the first is found again
    assert sources_of(other_task('again', [*first, seqio.preprocessors.tokenize])) == texts[0]


def test_a_fingerprint_is_of_version_and_folder_and_not_of_the_vocabulary(data_dir, trained, tmp_path, monkeypatch):
    before = seqio_tasks.fingerprint('xsum')
    try:
        seqio_tasks.register(seqio.ByteVocabulary(), data_dir)
        assert seqio_tasks.fingerprint('xsum') == before != seqio_tasks.fingerprint('samsum')
        seqio_tasks.register(seqio.ByteVocabulary(), tmp_path)
        assert seqio_tasks.fingerprint('xsum') != before
        source = seqio_tasks._SOURCES['xsum']
        monkeypatch.setitem(seqio_tasks._SOURCES, 'xsum', source._replace(tfds_name='xsum:1.0.9'))
        seqio_tasks.register(seqio.ByteVocabulary(), data_dir)
        assert seqio_tasks.fingerprint('xsum') != before
    finally:
        monkeypatch.undo()
        seqio_tasks.register(seqio_tasks.vocabulary(trained[0]), data_dir)
    list(seqio_tasks.text_examples('xsum', 'validation'))
    assert seqio_tasks.fingerprint('xsum') == before


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path):
    def message(error, task, split='validation'):
        with pytest.raises(error) as caught:
            list(seqio_tasks.text_examples(task, split))
        assert '\n' not in str(caught.value)
        return str(caught.value)

    assert message(ValueError, 'cnn_dailymial') == "no seqio task 'cnn_dailymial'; did you mean cnn_dailymail?"
    assert 'import the module that registers it' in message(ValueError, 'zzz')
    assert "Unknown split 'train'" in message(ValueError, 'xsum', 'train')
    seqio.MixtureRegistry.remove('mixed')
    seqio.MixtureRegistry.add('mixed', ['xsum'], default_rate=1)
    assert message(ValueError, 'mixed') == "'mixed' is a seqio mixture: name one of its tasks"
    assert 'no seqio.preprocessors.tokenize step' in message(ValueError, other_task('texts', []))


def test_data_that_is_not_there_is_named(tmp_path, data_dir, trained):
    seqio_tasks.register(seqio_tasks.vocabulary(trained[0]), tmp_path)
    try:
        for task in ('xsum', 'iwslt2017_ende'):
            with pytest.raises(FileNotFoundError, match=f"seqio task '{task}': cannot read {task[:4]}") as error:
                list(seqio_tasks.text_examples(task, 'validation'))
            assert '\n' not in str(error.value)
            with pytest.raises(FileNotFoundError):
                seqio_tasks.task_records(task, 'validation', tmp_path / 'out.jsonl')
            assert not (tmp_path / 'out.jsonl').exists()
    finally:
        seqio_tasks.register(seqio_tasks.vocabulary(trained[0]), data_dir)


def test_a_folder_s_tokenizer_is_a_vocabulary_with_the_same_ids(tmp_path, trained):
    # seqio numbers sentinels by itself: an independent reference for ours.
    (tmp_path / 'spiece.model').write_bytes(trained[1].model)
    ours, theirs = load_tokenizer(tmp_path), seqio_tasks.vocabulary(tmp_path)
    assert ours.extra_ids == 100 and theirs.vocab_size == ours.vocab_size == 520
    for text in ('Thank you <extra_id_0> me <extra_id_1> week.', 'a<extra_id_99>', '<extra_id_7>', ' two  spaces '):
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))
    ByteTokenizer(extra_ids=5).save(tmp_path / 'bytes')
    theirs = seqio_tasks.vocabulary(tmp_path / 'bytes')
    assert theirs.vocab_size == ByteTokenizer(extra_ids=5).vocab_size
    assert theirs.encode('é') == ByteTokenizer().encode('é')


def test_the_package_and_the_other_files_of_data_import_neither_seqio_nor_tensorflow():
    files = ['batching', 'jsonl', 'padding', 'tokenizers', 'windows']
    code = ''.join(f'import calm_jax.data.{name}\n' for name in files)
    code += 'import sys; print({"tensorflow", "seqio", "torch", "grain"} & set(sys.modules))'
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r'set\(\)\s*', found)


def test_a_command_reads_a_task_by_name_and_keeps_its_texts(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    output = tmp_path / 'out.jsonl'
    command = [
        'generate',
        '--checkpoint',
        checkpoint,
        '--input',
        'seqio:xsum:validation',
        '--source_field',
        'source',
        '--output',
        str(output),
        '--batch_size',
        '2',
        '--quiet',
    ]
    assert main(command) == 0
    assert len(output.read_text().splitlines()) == 2
    (cached,) = (tmp_path / 'cache' / 'calm_jax' / 'tasks').iterdir()
    assert re.fullmatch(r'xsum-validation-[0-9a-f]{16}\.jsonl', cached.name)
    kept = open_records(cached)
    assert [kept[0]['source'], kept[0]['target']] == list(PRINTED['xsum'][1:])
    assert open_records('seqio:xsum:validation')[1] == kept[1]
    for name, message in (
        ('seqio:xsun:validation', 'did you mean xsum'),
        ('seqio:xsum', 'seqio:TASK:SPLIT'),
        ('seqio:xsum:tset', 'tset'),
    ):
        assert main([*command[:4], name, *command[5:-1], '--overwrite', '--quiet']) == 2
        assert message in capsys.readouterr().err


def test_a_task_that_cannot_be_read_is_one_line_and_leaves_nothing_behind(
    checkpoint, data_dir, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    damaged = shutil.copytree(data_dir, tmp_path / 'damaged')
    for record in (damaged / 'xsum').rglob('*.tfrecord*'):
        record.write_bytes(record.read_bytes()[:-5])
    seqio_tasks.register(seqio_tasks.vocabulary(trained[0]), damaged)
    try:
        for name, message in (('seqio:xsm:validation', 'did you mean xsum'), ('seqio:xsum:validation', 'damaged')):
            assert (
                main(['generate', '--checkpoint', checkpoint, '--input', name, '--output', str(tmp_path / 'out'), '--quiet'])
                == 2
            )
            error = capsys.readouterr().err.strip()
            assert message in error and len(error.splitlines()) == 1
            assert not list((tmp_path / 'cache').rglob('*.*'))
    finally:
        seqio_tasks.register(seqio_tasks.vocabulary(trained[0]), data_dir)


def test_predictions_are_scored_against_a_task(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    predictions = tmp_path / 'out.jsonl'
    predictions.write_text(''.join(json.dumps({'text': text}) + '\n' for text in ('Rain', 'x')))
    assert (
        main(
            [
                'evaluate',
                '--predictions',
                str(predictions),
                '--references',
                'seqio:xsum:validation',
                '--reference_field',
                'target',
                '--metric',
                'exact_match',
                '--quiet',
            ]
        )
        == 0
    )
    assert '0.5000' in capsys.readouterr().out
