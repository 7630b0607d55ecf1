"""Lines of decoded files: what is written passes its check, and what would spoil results does not."""

import json
import types

import pytest

from calm_jax.data.record_schema import checked, record

OUTPUT = types.SimpleNamespace(
    text='a b',
    tokens=[3, 1],
    pieces=['a', ' b'],
    exit_layers=[1, 2],
    sub_layers=[3, 6],
    confidence=[0.12345678, 1.0],
    layers=1.5,
    flops=10.0,
    flops_elbayad=9.0,
    source_tokens=4,
    truncated=False,
    batch_seconds=0.1,
    plan=None,
)


def test_a_line_holds_no_time_and_passes_its_own_check():
    line = record('x', OUTPUT)
    assert checked(line, 'out:1') == line == record('x', types.SimpleNamespace(**{**vars(OUTPUT), 'batch_seconds': 7.0}))
    assert line['confidence'] == [0.123457, 1.0]


def test_a_confidence_that_json_has_no_name_for_is_null():
    sure = [float('nan'), 0.5, float('inf'), -float('inf')]
    line = record('x', types.SimpleNamespace(**{**vars(OUTPUT), 'confidence': sure}))
    assert line['confidence'] == [None, 0.5, None, None] and json.loads(json.dumps(line, allow_nan=False)) == line


@pytest.mark.parametrize(
    'name, value', [('text', None), ('tokens', 'ab'), ('layers', True), ('flops', '9'), ('exit_layers', 2)]
)
def test_a_field_of_another_type_or_none_at_all_is_named_with_its_line(name, value):
    line = record(0, OUTPUT)
    for damaged in ({**line, name: value}, {key: each for key, each in line.items() if key != name}):
        with pytest.raises(ValueError, match=rf'^out:7: no {name}, or a damaged one; decode again'):
            checked(damaged, 'out:7')


def test_an_id_may_be_anything_but_must_be_there():
    line = record(None, OUTPUT)
    assert checked(line, 'out:1')['id'] is None
    del line['id']
    with pytest.raises(ValueError, match='^out:7: no id; decode again'):
        checked(line, 'out:7')
