"""`calm.load` and what a loaded model does: texts in, outputs with their depth and cost out."""

import itertools

import numpy as np
import pytest

import calm_jax as calm
from calm_jax.depth.plans import Uniform


@pytest.fixture(scope='module')
def model(checkpoint):
    return calm.load(checkpoint)


def test_outputs_are_a_sequence_decoded_when_asked_for(model):
    texts = ['a cat', 'a horse', 'bb']
    outputs = model.generate(texts, batch_size=2)
    assert len(outputs) == 3 and outputs[2].tokens == list(outputs)[-1].tokens
    assert [output.text for output in outputs[:2]] == [output.text for output in itertools.islice(outputs, 2)]
    with pytest.raises(IndexError):
        outputs[3]


def test_an_endless_stream_is_decoded_a_window_at_a_time(model):
    taken = []

    def texts():
        for i in itertools.count():
            taken.append(i)
            yield f'cat {i}'

    stream = model.stream(texts(), batch_size=1, max_new_tokens=2)
    assert next(stream).source_tokens == 6
    assert len(taken) <= 128


def test_an_output_is_the_same_wherever_its_text_stands(model):
    exit = calm.Exit(calm.SoftmaxGap(), threshold=0.02)
    texts = ['a cat', 'horse', 'bb bb', 'a', 'cat cat']
    forward = list(model.generate(texts, exit=exit, batch_size=5))
    backward = list(model.generate(texts[::-1], exit=exit, batch_size=5))[::-1]
    assert [output.tokens for output in forward] == [output.tokens for output in backward]
    assert [output.exit_layers for output in forward] == [output.exit_layers for output in backward]


def test_a_batch_that_is_not_full_decodes_only_its_rows(model):
    (only,) = model.generate(['a cat'], batch_size=4)
    assert only.executed == 3 and only.source_tokens == 6 and not only.truncated
    assert only.layers == 3 and len(only.tokens) == len(only.confidence)


def test_plans_and_threshold_one_are_counted_as_they_ran(model):
    full, planned, off = (
        model.generate(['a cat'], **decisions)[0]
        for decisions in (
            {},
            {'plan': Uniform(2, 3, 1)},
            {'plan': Uniform(2, 3, 1), 'exit': calm.Exit(calm.SoftmaxGap(), threshold=1.0)},
        )
    )
    assert set(planned.layers_run) == {2} and planned.flops / len(planned.tokens) < full.flops / len(full.tokens)
    assert off.tokens == full.tokens and off.flops == full.flops


def test_an_empty_text_is_decoded_too(model):
    assert model.generate([''])[0].source_tokens == 1


def test_saving_and_loading_changes_nothing(model, tmp_path):
    model.save(tmp_path / 'copy')
    again = calm.load(tmp_path / 'copy')
    assert again.config == model.config and again.generation == model.generation
    assert again.generate(['a cat'])[0].tokens == model.generate(['a cat'])[0].tokens
    np.testing.assert_array_equal(again.heads['exit_classifier']['kernel'], model.heads['exit_classifier']['kernel'])


def test_half_precision_on_disk_is_single_precision_on_a_cpu(model, tmp_path):
    model.save(tmp_path / 'half', dtype='float16')
    again = calm.load(tmp_path / 'half')
    assert again.config.dtype == 'float32' and again.params['token_embedder']['embedding'].dtype == np.float32


def test_bfloat16_decodes(checkpoint):
    output = calm.load(checkpoint, dtype='bfloat16').generate(['a cat'], exit=calm.Exit(calm.SoftmaxGap(), 0.02))[0]
    assert output.tokens and max(output.exit_layers) <= 3
