"""Published heads of tasks score what the reference implementation scores (tests/fixtures/tasks), and are written as they came.

The fixtures are published directories made by scripts/make_task_fixtures.py; neither torch nor transformers is needed here.
"""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.checkpoints import huggingface, native
from calm_jax.checkpoints.tensor_files import tensors_of
from calm_jax.decoding.generate import decide, read
from calm_jax.tasks import Labels, Spans

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'tasks'
NAMES = sorted(path.name for path in FIXTURES.iterdir())


def scores_of(checkpoint, tokens, lengths):
    """Of all rows together, padded as the model has it; of places, those of the tokens, the first at 0."""
    config, width = checkpoint.config, tokens.shape[1]
    left = config.decoder_only
    rows = [np.roll(row, width - length) if left else row for row, length in zip(tokens, lengths)]
    mask = np.arange(width) >= width - lengths[:, None] if left else np.arange(width) < lengths[:, None]
    decided = decide(config, checkpoint.params, np.array(rows), mask)
    head = checkpoint.heads['task']
    scores = np.asarray(read(config, checkpoint.params, head, decided, task=checkpoint.task).scores)
    if isinstance(checkpoint.task, Spans) and left:
        scores = np.array([np.roll(row, length - width, axis=0) for row, length in zip(scores, lengths)])
    return scores


@pytest.mark.parametrize('name', NAMES)
def test_rows_together_score_what_the_reference_scores_of_each_alone(name):
    checkpoint, reference = huggingface.read(FIXTURES / name), np.load(FIXTURES / name / 'reference.npz')
    scores, expected = scores_of(checkpoint, reference['tokens'], reference['lengths']), reference['scores']
    for row, length in enumerate(reference['lengths']):
        places = slice(None) if isinstance(checkpoint.task, Labels) else slice(length)
        np.testing.assert_allclose(scores[row][places], expected[row][places], atol=1e-4, rtol=1e-4)
        assert np.ptp(expected[row][places]) > 0.1
    if isinstance(checkpoint.task, Labels):
        assert checkpoint.task.names == ('contradiction', 'neutral', 'entailment')


@pytest.mark.parametrize('name', NAMES)
def test_what_is_written_is_what_was_read_tensor_by_tensor(name, tmp_path):
    checkpoint = huggingface.read(FIXTURES / name)
    huggingface.write(tmp_path / 'again', checkpoint)
    ours, theirs = tensors_of(tmp_path / 'again'), tensors_of(FIXTURES / name)
    assert ours.keys() == theirs.keys()
    for each in ours:
        np.testing.assert_array_equal(ours[each].read(), theirs[each].read(), err_msg=each)
    said, wanted = (json.loads((path / 'config.json').read_text()) for path in (tmp_path / 'again', FIXTURES / name))
    for field in ('architectures', 'id2label', 'model_type'):
        assert said.get(field) == wanted.get(field)


def test_the_reference_implementation_reads_what_is_written(tmp_path):
    torch = pytest.importorskip('torch', reason='needs torch')
    transformers = pytest.importorskip('transformers')
    for name in ('umt5_labels', 'llama_spans'):
        reference = np.load(FIXTURES / name / 'reference.npz')
        huggingface.write(tmp_path / name, huggingface.read(FIXTURES / name))
        (architecture,) = json.loads((tmp_path / name / 'config.json').read_text())['architectures']
        model, loading = getattr(transformers, architecture).from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(loading[each] for each in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
        length = reference['lengths'][0]
        with torch.no_grad():
            output = model.eval()(input_ids=torch.as_tensor(reference['tokens'][:1, :length], dtype=torch.long))
        made = output.logits if 'labels' in name else torch.stack([output.start_logits, output.end_logits], -1)
        np.testing.assert_allclose(made[0].numpy(), reference['scores'][0][: len(made[0])], atol=1e-4)


def test_a_native_checkpoint_keeps_its_task_and_misses_no_part_of_it(tmp_path):
    checkpoint = huggingface.read(FIXTURES / 'bart_labels')
    native.save(tmp_path / 'model', *checkpoint)
    loaded = native.load(tmp_path / 'model')
    assert loaded.task == checkpoint.task
    for name, leaf in checkpoint.heads['task'].items():
        np.testing.assert_array_equal(loaded.heads['task'][name], leaf)
    (tmp_path / 'model' / 'task.json').write_text('{"task": "labels", "names": ["a", "b"]}')
    with pytest.raises(ValueError, match=r'the head of the task has .*; expected '):
        native.load(tmp_path / 'model')
    (tmp_path / 'model' / 'task.json').write_text('{"task": "poems"}')
    with pytest.raises(ValueError, match='is no task; expected an object with "task", one of labels, spans'):
        native.load(tmp_path / 'model')
    (tmp_path / 'model' / 'task.json').unlink()
    with pytest.raises(ValueError, match='there is a head of a task, and not task.json'):
        native.load(tmp_path / 'model')


@pytest.mark.parametrize(
    'change, message',
    [
        ({'problem_type': 'regression'}, 'problem_type is .regression.; expected single_label_classification'),
        ({'id2label': {'0': 'a', '2': 'b'}}, 'id2label is .*; expected a label for each number from 0'),
        ({'id2label': {'0': 'a', '1': 'a', '2': 'b'}}, "labels holds 'a' twice"),
        ({'id2label': {'0': 'a', '1': 'b'}}, r'the head of the task has .*; expected '),
    ],
    ids=str,
)
def test_labels_that_are_none_are_refused(change, message, tmp_path):
    for path in (FIXTURES / 'bart_labels').iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message):
        huggingface.read(tmp_path)


def test_a_family_without_such_a_class_is_not_published_with_it(tmp_path):
    checkpoint = huggingface.read(FIXTURES.parent / 'parity' / 'longt5_local')
    head = {'kernel': jnp.zeros((checkpoint.config.emb_dim, 2)), 'bias': jnp.zeros(2)}
    with pytest.raises(ValueError, match='spans of LongT5 cannot be published; there is no LongT5ForQuestionAnswering'):
        huggingface.write(tmp_path / 'out', checkpoint._replace(heads={'task': head}, task=Spans()))
