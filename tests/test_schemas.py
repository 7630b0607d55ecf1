"""What is written is what the report reads: every field of a point, an output and an example."""

import dataclasses

import pytest

from calm_jax.depth.policy import PolicyPlan
from calm_jax.examples import examples, telling
from calm_jax.files import write_json
from calm_jax.reporting import reader
from calm_jax.schemas import FULL_MODEL, TOKEN_CHOICES, Example, Output, Point


def test_every_field_of_a_point_is_read_as_it_was_written(tmp_path):
    values = {field.name: 0.1 * (at + 1) for at, field in enumerate(dataclasses.fields(Point))}
    whole = Point(**{**values, 'decoding': {'exit': {'threshold': 0.5}}, 'rejected': True})
    bare = Point(layers=2.0)
    curve = {'label': 'state', 'kind': 'measure', 'num_layers': 3, 'metric': 'rougeL'}
    points = [dataclasses.asdict(point) for point in (whole, bare)]
    write_json(tmp_path / 'curve.json', {**curve, 'points': points, 'full': points[1]})
    (read,) = reader.read(tmp_path).curves
    assert read.points == (whole, bare) and read.full == bare


def test_choices_of_tokens_have_the_names_that_a_policy_gives_them():
    assert TOKEN_CHOICES == PolicyPlan.choices


def test_examples_are_read_as_they_were_written(tmp_path):
    full = [{'pieces': ['a', 'b'], 'exit_layers': [3, 3]}, {'pieces': [], 'exit_layers': []}, {}]
    early = [{'pieces': ['a'], 'exit_layers': [1], 'confidence': [0.25]}, {'pieces': [], 'exit_layers': [], 'confidence': []}]
    write_json(tmp_path / 'examples.json', examples(['x', 'y'], ['z', None], full, {'state, δ = 0.1': early}, 3, 'a.jsonl'))
    (read,) = reader.read(tmp_path).examples
    assert (read.num_layers, read.data) == (3, 'a.jsonl')
    assert [each.changed for each in read.examples] == [True, False]
    assert read.examples == (
        Example('x', 'z', Output(FULL_MODEL, ('a', 'b'), (3, 3)), (Output('state, δ = 0.1', ('a',), (1,), (0.25,)),)),
        Example('y', None, Output(FULL_MODEL, (), ()), (Output('state, δ = 0.1', (), (), ()),)),
    )


@pytest.mark.parametrize(
    'changed, count, places',
    [
        ([], 3, [0, 1, 2]),
        ([1, 4, 5, 7], 6, [0, 1, 2, 3, 4, 6]),  # a third of them changed
        ([7], 3, [0, 1, 7]),  # one at least, wherever it stands
        (range(8), 3, [0, 1, 2]),
        ([0, 1, 2, 3, 4, 5, 6], 6, [0, 1, 2, 3, 4, 7]),
        ([], 20, list(range(8))),
    ],
)
def test_examples_show_what_changed_and_what_did_not(changed, count, places):
    full = [f'text {i}' for i in range(8)]
    assert telling(full, ['other' if i in changed else text for i, text in enumerate(full)], count) == places
