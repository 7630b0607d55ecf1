"""Tasks by command: a model learns its labels or its answers, says them within a policy's plans, and mistakes are one line."""

import json
import pathlib

import numpy as np
import pytest

from calm_jax.checkpoints import huggingface, native
from calm_jax.cli import main
from calm_jax.data.jsonl import Template
from calm_jax.decoding.choice import Greedy
from calm_jax.model import load
from calm_jax.tasks import Labels, Spans
from calm_jax.training import jobs
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_loop import LoopOptions

TEXTS = ['a cat', 'the horse', 'a bb', 'one cat', 'bb horse', 'cat a', 'horse one', 'bb']
SPANS = '{question}?{context}'
FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'tasks'


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope='module')
def tasks(tmp_path_factory, checkpoint):
    """A folder with data of both tasks, and a model of each that knows its training data by heart."""
    folder = tmp_path_factory.mktemp('tasks')
    labelled = [{'id': i, 'text': text, 'label': 'pet' if 'cat' in text else 'no'} for i, text in enumerate(TEXTS)]
    asked = [
        {
            'id': i,
            'question': 'w',
            'context': text,
            'answer': text.split()[-1],
            'answer_start': len(text) - len(text.split()[-1]),
        }
        for i, text in enumerate(TEXTS)
    ]
    asked = [{**each, 'answers': [each['answer'], 'another']} for each in asked]
    for name, records in (('labels', labelled), ('spans', asked)):
        (folder / f'{name}.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in records))
        fields = ['text', 'label'] if name == 'labels' else [SPANS, 'answer']
        assert main(train(folder, checkpoint, name, *fields, '--steps', '60', '--output', str(folder / name))) == 0
    return folder


def train(folder, checkpoint, name, source, target, *flags):
    data = str(folder / f'{name}.jsonl')
    sizes = ['--batch_size', '8', '--max_source_length', '16', '--learning_rate', '.02', '--quiet']
    return ['train', '--stage', name, '--checkpoint', str(checkpoint), '--train_data', data, '--eval_data', data] + [
        *('--source', source, '--target', target, *sizes, *flags)
    ]


@pytest.mark.parametrize(
    'name, field, reference, metrics',
    [('labels', 'text', 'label', ['accuracy']), ('spans', SPANS, 'answers', ['exact_match', 'token_f1'])],
)
def test_what_was_learned_by_heart_is_said(tasks, name, field, reference, metrics, tmp_path):
    out, data = tmp_path / 'out.jsonl', str(tasks / f'{name}.jsonl')
    files = ['--input', data, '--source_field', field, '--output', str(out), '--quiet']
    assert main(['generate', '--checkpoint', str(tasks / name / 'best'), *files, '--batch_size', '4']) == 0
    scored = ['evaluate', '--predictions', str(out), '--references', data, '--reference_field', reference, '--quiet']
    flags = [flag for each in metrics for flag in ('--metric', each)]
    assert main([*scored, *flags, '--output', str(tmp_path / 'scores.json')]) == 0
    (row,) = json.loads((tmp_path / 'scores.json').read_text())['rows']
    assert all(row[metric] == 1 for metric in metrics)
    for each in lines(out):
        assert each['layers'] == 3 and each['flops'] > 0 and each['pieces'] == [each['text']]
        assert len(each['confidence']) == len(each['tokens']) == 1  # so that what is of a token is of a text
    assert load(tasks / name / 'best').generate([lines(tasks / f'{name}.jsonl')[0]['context' if name == 'spans' else 'text']])


def test_a_policy_over_labels_is_trained_calibrated_and_decoded_within_its_certificate(tasks, tmp_path, capsys):
    data, policy = str(tasks / 'labels.jsonl'), str(tmp_path / 'policy')
    fields = ['--source', 'text', '--target', 'label', '--max_source_length', '16', '--batch_size', '8', '--quiet']
    stage = ['train', '--stage', 'policy', '--checkpoint', str(tasks / 'labels' / 'best'), '--train_data', data]
    assert main([*stage, *fields, '--steps', '3', '--learning_rate', '.01', '--output', policy]) == 0
    begun, made = native.load(tasks / 'labels' / 'best'), native.load(tmp_path / 'policy' / 'last')
    assert made.task == begun.task == Labels(('no', 'pet'))
    for name, leaf in begun.heads['task'].items():
        np.testing.assert_array_equal(made.heads['task'][name], leaf)
    certificate = str(tmp_path / 'c.json')
    grid = [flag for level in ('.9', '.5', '.1') for flag in ('--plan', f'policy:{level}')]
    wanted = ['--metric', 'accuracy', '--tolerance', '.9', '--output', certificate, '--records', str(tmp_path / 'r')]
    where = ['--checkpoint', f'{policy}/last', '--data', data, '--source_field', 'text', '--quiet', '--batch_size', '4']
    assert main(['calibrate', *where, *grid, *wanted]) == 0
    out = tmp_path / 'out.jsonl'
    decode = ['--input', data, '--source_field', 'text', '--output', str(out), '--certificate', certificate, '--quiet']
    assert main(['generate', '--checkpoint', f'{policy}/last', *decode]) == 0
    assert {each['text'] for each in lines(out)} <= {'no', 'pet'}
    (tmp_path / 'policy' / 'last' / 'task.json').write_text('{"task": "labels", "names": ["pet", "no"]}')
    assert main(['generate', '--checkpoint', f'{policy}/last', *decode, '--overwrite']) == 2
    assert 'does not cover this run: task is ' in capsys.readouterr().err


def test_the_backbone_stays_as_it_was_where_it_is_frozen(tasks, checkpoint, tmp_path):
    flags = ['--steps', '2', '--gin.FROZEN=True', '--output', str(tmp_path / 'frozen')]
    assert main(train(tasks, checkpoint, 'labels', 'text', 'label', *flags)) == 0
    before, after = native.load(checkpoint), native.load(tmp_path / 'frozen' / 'last')
    assert native.fingerprint(before.params) == native.fingerprint(after.params)
    assert set(after.heads) == {'exit_classifier', 'task'}
    learned = native.load(tasks / 'labels' / 'last')
    assert native.fingerprint(before.params) != native.fingerprint(learned.params)


def test_a_text_without_an_answer_is_learned_where_that_may_be(tasks, checkpoint, tmp_path, capsys):
    records = lines(tasks / 'spans.jsonl')
    records = [{**each, 'answer': '', 'answer_start': None} if i % 2 else each for i, each in enumerate(records)]
    (tmp_path / 'spans.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in records))
    begin = train(tmp_path, checkpoint, 'spans', SPANS, 'answer', '--steps', '60', '--output', str(tmp_path / 'model'))
    assert main(begin) == 2
    assert 'spans.jsonl:2: there is no answer; expected one' in capsys.readouterr().err
    assert main([*begin, '--gin.UNANSWERABLE=True']) == 0
    model = load(tmp_path / 'model' / 'best')
    assert model.task == Spans(unanswerable=True)
    said = [each.text for each in model.generate([Template(SPANS)(each) for each in records])]
    assert said == [each['answer'] for each in records]


@pytest.mark.parametrize(
    'record, message',
    [
        ({'answer': 'dog'}, "spans.jsonl:1: the answer 'dog' is not in its passage; expected a part of it"),
        ({'answer': 'cat', 'answer_start': 1}, "the answer 'cat' is not in its passage at answer_start 1"),
        ({'answer': 'cat', 'answer_start': 'x'}, "answer_start is 'x'; expected a number of characters"),
        ({'answer': 'w'}, "the answer 'w' is not in its passage"),
    ],
    ids=str,
)
def test_an_answer_that_is_not_in_its_context_is_refused(checkpoint, record, message, tmp_path, capsys):
    (tmp_path / 'spans.jsonl').write_text(json.dumps({'question': 'w', 'context': 'a cat', **record}) + '\n')
    assert main(train(tmp_path, checkpoint, 'spans', SPANS, 'answer', '--output', str(tmp_path / 'model'))) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--labels', 'pet,cat'], "labels.jsonl:2: the label is 'no'; expected one of 'pet', 'cat'"),
        (['--labels', 'pet'], "labels is ['pet']; expected two or more"),
        (['--labels', 'no,pet,no'], "labels holds 'no' twice"),
    ],
    ids=str,
)
def test_labels_that_do_not_do_are_refused(tasks, checkpoint, flags, message, tmp_path, capsys):
    begin = train(tasks, checkpoint, 'labels', 'text', 'label', '--output', str(tmp_path / 'model'), *flags)
    assert main(begin) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize(
    'flags, name',
    [
        (['--measure', 'softmax_gap', '--threshold', '.5'], 'exit'),
        (['--num_beams', '2'], 'choice'),
        (['--stop', 'x'], 'stop_strings'),
        (['--repetition_penalty', '2'], 'rules'),
        (['--pack', '1:8'], 'pack'),
        (['--max_new_tokens', '4'], 'max_new_tokens'),
    ],
    ids=str,
)
def test_what_says_tokens_is_refused_of_a_model_that_answers(tasks, flags, name, tmp_path, capsys):
    files = ['--input', str(tasks / 'labels.jsonl'), '--source_field', 'text', '--output', str(tmp_path / 'out.jsonl')]
    assert main(['generate', '--checkpoint', str(tasks / 'labels' / 'best'), *files, *flags]) == 2
    assert f'{name} with a model that answers with labels' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def labelled(tmp_path):
    """The folder of a model that answers with a label of three, begun by others, and of one text with its label."""
    assert main(['import', str(FIXTURES / 'bart_labels'), '--output', str(tmp_path / 'begun'), '--quiet']) == 0
    (tmp_path / 'data.jsonl').write_text(json.dumps({'text': 'a cat', 'label': 'neutral'}) + '\n')
    return tmp_path


def begin(folder, *flags):
    data = ['--train_data', str(folder / 'data.jsonl'), '--source', 'text', '--target', 'label', '--steps', '1']
    return ['train', '--checkpoint', str(folder / 'begun'), *data, '--output', str(folder / 'model'), '--quiet', *flags]


def test_an_exit_classifier_of_a_model_that_answers_is_refused_before_it_is_trained(labelled, capsys):
    assert main(begin(labelled, '--stage', 'classifier')) == 2
    assert 'begun: the model answers with labels; expected one that says tokens' in capsys.readouterr().err
    assert not (labelled / 'model').exists()


def test_what_is_published_of_how_tokens_are_said_is_no_matter_of_a_model_that_answers(tmp_path):
    for path in (FIXTURES / 'bart_labels').iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    said = json.loads((tmp_path / 'config.json').read_text())
    said |= {'num_beams': 4, 'early_stopping': True, 'no_repeat_ngram_size': 3}
    (tmp_path / 'config.json').write_text(json.dumps(said))
    assert main(['import', str(tmp_path), '--output', str(tmp_path / 'model'), '--quiet']) == 0
    model = load(tmp_path / 'model')
    model.check()
    assert model.decoding.choice == Greedy() and model.generation == {}


def test_a_text_that_is_read_may_have_all_positions(tmp_path):
    assert main(['import', str(FIXTURES / 'gpt2_labels'), '--output', str(tmp_path / 'model'), '--quiet']) == 0
    model = load(tmp_path / 'model')
    assert model.config.max_positions == model.limits()[1] == 32


@pytest.mark.parametrize('task', ('@Spans()', '@Labels()'))
def test_a_policy_is_of_the_task_of_its_checkpoint(labelled, task, capsys):
    assert main(begin(labelled, '--stage', 'policy', f'--gin.TASK={task}', "--gin.Labels.names=['a', 'b']")) == 2
    assert "begun answers with Labels(names=('contradiction', 'neutral', 'entailment')" in capsys.readouterr().err
    assert not (labelled / 'model').exists()


def test_a_policy_of_a_frozen_model_has_no_new_head(labelled, checkpoint, capsys):
    flags = ['--stage', 'policy', '--gin.TASK=@Spans()', '--checkpoint', str(checkpoint)]
    assert main(begin(labelled, *flags)) == 2
    assert 'has no head of it: train one first, or the model with the policy' in capsys.readouterr().err
    assert not (labelled / 'model').exists()


def test_a_head_is_trained_on_where_only_what_is_made_of_its_scores_differs(labelled, tmp_path, monkeypatch):
    begun = huggingface.read(FIXTURES / 'mbart_spans')
    native.save(tmp_path / 'spans', *begun)
    made = []
    monkeypatch.setattr(jobs, 'task_stage', lambda *given, heads, **_: made.append((given[3], heads)))
    monkeypatch.setattr(jobs.PairedText, 'batches', lambda *_: None)
    monkeypatch.setattr(jobs, '_fit_head', lambda *_: None)
    data = jobs.PairedText(str(labelled / 'data.jsonl'), 'text', 'label')
    for task in (Spans(unanswerable=True, longest=5), Labels(('a', 'b'))):
        jobs.train_task(tmp_path, data, Optimizer(), LoopOptions(1), tmp_path / 'spans', task)
    (spans, kept), (labels, begun_anew) = made
    assert spans == Spans(unanswerable=True, longest=5, wraps=True) and labels == Labels(('a', 'b'), wraps=True)
    np.testing.assert_array_equal(kept['task']['kernel'], begun.heads['task']['kernel'])
    assert begun_anew == {}


@pytest.mark.parametrize(
    'command', (['analyze', 'ranks', '--data'], ['benchmark', '--input'], ['count', '--predictions']), ids=str
)
def test_what_looks_at_tokens_is_refused_of_a_model_that_answers(tasks, command, tmp_path, capsys):
    fields = [] if command[0] == 'count' else ['--source_field', 'text']
    where = ['--checkpoint', str(tasks / 'labels' / 'best'), '--output', str(tmp_path / 'out')]
    assert main([*command, str(tasks / 'labels.jsonl'), *fields, *where]) == 2
    assert 'the model answers with labels; expected one that says tokens' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
