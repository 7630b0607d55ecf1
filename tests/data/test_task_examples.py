"""Batches of tasks: where answers stand once texts are cut."""

import numpy as np
import pytest

from calm_jax.data.batching import Example
from calm_jax.data.padding import Buckets
from calm_jax.data.task_examples import collate_task
from calm_jax.tasks import Spans


@pytest.mark.parametrize('unanswerable', (False, True))
def test_a_prompt_without_an_answer_counts_however_much_of_it_is_cut(unanswerable):
    text, buckets = np.arange(3, 15), Buckets.for_limit(8)
    examples = [Example(text, np.array(target)) for target in ([0, 0], [0, 1], [9, 10])]
    batch = collate_task(examples, buckets, buckets, task=Spans(unanswerable), decoder_only=True)
    np.testing.assert_array_equal(batch['decoder_input_tokens'], [np.arange(7, 15)] * 3)
    np.testing.assert_array_equal(batch['task_weights'], [unanswerable, 0, 1])
    np.testing.assert_array_equal(batch['task_targets'], [[0, 0], [0, 0], [5, 6]])
