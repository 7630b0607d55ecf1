"""References: one meaning of a field, a template, a list and an empty one, whoever asks."""

import pytest

from calm_jax.data.jsonl import Template
from calm_jax.data.references import references

RECORD = {'one': 'a', 'several': ['b', 'c'], 'none': [], 'label': 1, 'labels': [2, True], 'missing': None, 'holes': ['d', None]}


@pytest.mark.parametrize(
    'fields, expected',
    [
        (['one'], ['a']),
        (['{one}'], ['a']),
        (['several'], ['b', 'c']),
        (['{several}'], ['b', 'c']),
        (['say {one}'], ['say a']),
        (['label'], ['1']),
        (['labels'], ['2', 'true']),
        (['several', 'one'], ['b', 'c', 'a']),
        (['none', 'one'], ['a']),
    ],
)
def test_every_reference_is_a_text_in_the_order_of_the_fields(fields, expected):
    assert references([Template(field) for field in fields], RECORD) == expected


@pytest.mark.parametrize(
    'field, message',
    [
        ('none', 'in.jsonl:3: the list of references is empty; expected at least one'),
        ('missing', "in.jsonl:3: field 'missing' is a JSON null, expected a string"),
        ('holes', "in.jsonl:3: field 'holes' is a JSON null, expected a string"),
        ('say {several}', "in.jsonl:3: field 'several' is a JSON array, expected a string"),
        ('ones', "in.jsonl:3: no field 'ones'"),
    ],
)
def test_a_record_without_a_reference_is_named_with_its_line(field, message):
    with pytest.raises(ValueError, match=rf'^{message}'):
        references([Template(field)], RECORD, 'in.jsonl:3')
