"""A file says what it is, and whatever cannot be read here is refused in one line that says what to do."""

import pytest

from calm_jax import formats

KINDS = ['certificate', 'records', 'checkpoint']


def refusal(content, kind: str) -> str:
    with pytest.raises(ValueError) as error:
        formats.check(content, kind, 'c.json')
    message = str(error.value)
    assert message.startswith('c.json: ') and '\n' not in message
    return message


def test_the_stamp_is_these_three_entries():
    assert formats.stamp('certificate') == {'format': 'calm_jax certificate', 'version': 2, 'semantics': 2}
    assert [formats.stamp(kind)['version'] for kind in KINDS] == [2, 2, 2] and list(formats.VERSIONS) == KINDS


@pytest.mark.parametrize('kind', KINDS)
def test_what_was_stamped_is_read_whatever_stands_beside_the_stamp(kind):
    formats.check(formats.stamp(kind), kind, 'c.json')
    formats.check({'settings': {}, 'input': 'ab', **formats.stamp(kind)}, kind, 'c.json')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('content', [None, [], 'text', 3, {}, {'format': 3}, {'format': 'pt'}, {'format': ['calm_jax']}])
def test_what_carries_no_stamp_is_no_file_of_this_kind(content, kind):
    expected = f'c.json: not a {kind} file; expected a JSON object with "format": "calm_jax {kind}"'
    assert refusal(content, kind) == expected


@pytest.mark.parametrize('kind', KINDS)
def test_no_kind_is_read_as_another(kind):
    for other in set(KINDS) - {kind}:
        assert f'not a {kind} file' in refusal(formats.stamp(other), kind)


@pytest.mark.parametrize(
    ('content', 'kind', 'remedy'),
    [
        ({'format': 'calm_jax certificate 1', 'threshold': 0.8}, 'certificate', 'calibrate again'),
        ({'input': 'ab', 'source_field': 'en', 'settings': {}, 'batch_size': 8}, 'records', 'decode again'),
        ({'settings': {}, 'num_layers': 8, 'fingerprints': {}, 'thresholds': [0.9]}, 'records', 'decode again'),
        ({'input': 'ab', 'settings': {}}, 'records', 'decode again'),
        ({'format': 'calm_jax', 'vocab_size': 512}, 'checkpoint', 'import again'),
    ],
)
def test_what_0_1_0_wrote_is_known_as_such(content, kind, remedy):
    assert refusal(content, kind) == f'c.json: written by calm_jax 0.1.0, whose {kind} format is no longer read: {remedy}'


@pytest.mark.parametrize('kind', KINDS)
def test_a_newer_version_asks_for_an_upgrade(kind):
    newer = {**formats.stamp(kind), 'version': 3, 'semantics': 7}
    assert refusal(newer, kind) == f'c.json: {kind} format version 3, and this calm_jax reads up to 2: upgrade calm_jax'


@pytest.mark.parametrize(('kind', 'remedy'), [('certificate', 'calibrate again'), ('records', 'decode again')])
def test_another_semantics_is_refused_with_the_reason(kind, remedy):
    expected = 'c.json: made under decoding semantics 1, and this calm_jax decodes under 2: its tokens may differ: ' + remedy
    assert refusal({**formats.stamp(kind), 'semantics': 1}, kind) == expected
    formats.check({**formats.stamp(kind), 'semantics': 1}, kind, 'c.json', shown=True)


def test_the_parameters_of_a_checkpoint_are_the_same_under_any_semantics():
    formats.check({**formats.stamp('checkpoint'), 'semantics': 1}, 'checkpoint', 'c.json')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ['version', 'semantics'])
@pytest.mark.parametrize('value', [None, 'two', 2.0, True, 0, ...])
def test_a_damaged_stamp_is_refused_by_name(kind, name, value):
    content = {**formats.stamp(kind), name: value}
    if value is ...:
        del content[name]
    assert f'no "{name}", or a damaged one' in refusal(content, kind)


def test_an_older_version_is_read_when_a_newer_one_is_written(monkeypatch):
    certificate = formats.stamp('certificate')
    monkeypatch.setitem(formats.VERSIONS, 'certificate', 3)
    formats.check(certificate, 'certificate', 'c.json')
