"""`calm count`: the list of frequent ids, and measures that look at these alone."""

import collections
import json

import numpy as np
import pytest

from calm_jax.checkpoints import native
from calm_jax.cli import main
from calm_jax.counting import count_file
from calm_jax.data.tokenizers import ByteTokenizer
from calm_jax.model import load


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope='module')
def counted(checkpoint, data, tmp_path_factory):
    """(records of full depth, the checkpoint with the ids that they hold)."""
    folder = tmp_path_factory.mktemp('counted')
    decoded, output = folder / 'full.jsonl', folder / 'model'
    common = ['--checkpoint', checkpoint, '--quiet', '--output']
    assert main(['generate', '--input', data, '--source_field', 'en', *common, str(decoded)]) == 0
    assert main(['count', '--predictions', str(decoded), *common, str(output)]) == 0
    return decoded, output


def test_the_list_is_by_falling_frequency_and_the_rest_of_the_checkpoint_as_it_was(checkpoint, counted):
    decoded, output = counted
    counts = collections.Counter(token for line in lines(decoded) for token in line['tokens'])
    before, after = native.load(checkpoint, dtype=None), native.load(output, dtype=None)
    ids = after.heads['frequent_ids']['ids']
    assert sorted(ids.tolist()) == sorted(counts) and ids.dtype == np.int32 and len(ids) > 2
    falling = [counts[each] for each in ids.tolist()]
    assert falling == sorted(falling, reverse=True)
    assert all(one < other for one, other in zip(ids, ids[1:]) if counts[int(one)] == counts[int(other)])
    assert native.fingerprint(after.params) == native.fingerprint(before.params) and after.generation == before.generation
    np.testing.assert_array_equal(after.heads['exit_classifier']['kernel'], before.heads['exit_classifier']['kernel'])
    # The list is a part of the model: a certificate of one without it is of another.
    old, new = load(checkpoint).fingerprints, load(output).fingerprints
    assert {name for name in old if old[name] != new[name]} == {'heads'}


def test_texts_are_counted_with_their_ends(checkpoint, tmp_path, capsys):
    texts, output = tmp_path / 'texts.jsonl', tmp_path / 'model'
    texts.write_text('{"fr": "aab"}\n{"fr": ["a", "b"]}\n')
    flags = ['count', '--checkpoint', checkpoint, '--data', str(texts), '--target_field', 'fr', '--output', str(output)]
    assert main(flags) == 0
    a, b = ByteTokenizer().encode('ab')
    end = ByteTokenizer().eos_id
    assert native.load(output).heads['frequent_ids']['ids'].tolist() == [end, a, b]
    first, second = capsys.readouterr().out.splitlines()
    assert first == f'{texts}: tokens of 3 ids' and second.startswith(f'{output}: written, ')
    # In place, where that is asked for; another list takes the first one's place.
    texts.write_text('{"fr": "bba"}\n')
    flags = [*flags[:2], str(output), *flags[3:]]
    assert main(flags) == 2 and 'exists and is not empty' in capsys.readouterr().err
    assert main([*flags, '--overwrite', '--quiet']) == 0 and capsys.readouterr() == ('', '')
    heads = native.load(output).heads
    assert heads['frequent_ids']['ids'].tolist() == [b, end, a] and 'exit_classifier' in heads


@pytest.mark.parametrize(
    'flags, message',
    [
        ('', '--predictions and --data both say what to count; pass one'),
        ('--predictions {data} --data {data} --target_field en', '--predictions and --data both say what to count; pass one'),
        ('--data {data}', '--target_field is of --data'),
        ('--data {data} --target_field english', "no field 'english'"),
        ('--predictions {data}', 'in.jsonl:1: no tokens, or none of the 259 ids of this model'),
        ('--predictions {folder}/high.jsonl', 'high.jsonl:1: no tokens, or none of the 259 ids'),
        ('--predictions {folder}/other.jsonl', 'other.jsonl: decoded with another tokenizer'),
        ('--predictions {folder}/silent.jsonl', 'no list of distinct ids'),
        ('--predictions {folder}/none.jsonl', 'none.jsonl'),
    ],
)
def test_what_cannot_be_counted_is_one_line_and_nothing_is_written(checkpoint, data, counted, tmp_path, capsys, flags, message):
    (tmp_path / 'high.jsonl').write_text('{"tokens": [1, 259]}\n')
    (tmp_path / 'silent.jsonl').write_text('{"tokens": []}\n')
    decoded, _ = counted
    (tmp_path / 'other.jsonl').write_bytes(decoded.read_bytes())
    header = json.loads(decoded.with_name('full.jsonl.config.json').read_text())
    (tmp_path / 'other.jsonl.config.json').write_text(json.dumps({**header, 'tokenizer': 'another'}))
    output = tmp_path / 'model'
    asked = flags.format(data=data, folder=tmp_path).split()
    assert main(['count', '--checkpoint', checkpoint, '--output', str(output), *asked]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1 and not output.exists()


def test_of_records_and_texts_one_is_counted(checkpoint, counted, tmp_path):
    for flags in ({}, {'data': counted[0]}, {'predictions': counted[0], 'target_field': 'text'}):
        with pytest.raises(ValueError, match='give one of the two'):
            count_file(checkpoint, tmp_path / 'model', **flags)
    shares = count_file(checkpoint, tmp_path / 'model', predictions=counted[0]).shares
    tokens = [token for line in lines(counted[0]) for token in line['tokens']]
    first = native.load(tmp_path / 'model').heads['frequent_ids']['ids'][:2].tolist()
    np.testing.assert_allclose(shares[[0, 1, -1]], [np.mean(np.isin(tokens, first[:n])) for n in (1, 2)] + [1])


def test_a_checkpoint_is_written_over_nothing_that_is_read(checkpoint, counted, tmp_path, capsys):
    decoded, _ = counted
    flags = ['count', '--checkpoint', checkpoint, '--predictions', str(decoded), '--output', str(decoded.parent), '--overwrite']
    assert main(flags) == 2 and 'which is read' in capsys.readouterr().err


@pytest.fixture
def generate(data, tmp_path):
    """Decodes within a measure of frequent ids; gives its exit code, the header and the records."""

    def run(model, *flags):
        output = tmp_path / f'{"_".join(flags)}.jsonl'
        code = main(
            ['generate', '--checkpoint', str(model), '--input', data, '--source_field', 'en', '--measure', 'softmax_gap']
            + ['--threshold', '0.4', '--output', str(output), '--quiet', *flags]
        )
        return code, *((json.loads((tmp_path / f'{output.name}.config.json').read_text()), lines(output)) if not code else ())

    return run


def test_frequent_ids_are_asked_for_by_name_and_number_and_named_by_their_head(counted, generate):
    code, header, records = generate(counted[1], '--vocabulary', 'frequent:3')
    document = {'class': 'frequent', 'ids': {'head': 'frequent_ids'}, 'count': 3}
    assert code == 0 and header['decoding']['exit']['measure'] == {'class': 'softmax_gap', 'vocabulary': document}
    assert len({layer for record in records for layer in record['exit_layers']}) > 1
    code, other, same = generate(counted[1], '--vocabulary', 'frequent', '--frequent_count', '3')
    assert code == 0 and same == records and other == header


@pytest.mark.parametrize(
    'flags, message',
    [
        ('frequent:0', "vocabulary is 'frequent:0'; expected frequent:K with K from 1 to the 259 ids of the model"),
        ('frequent:260', 'K from 1 to the 259 ids of the model'),
        ('frequent:many', 'K from 1 to the 259 ids of the model'),
        ('frequent', 'frequent_count is 1024; the vocabulary has 259 ids'),
        ('frequent --frequent_count 0', 'count is 0; expected how many of the frequent ids'),
        ('frequent:200', 'frequent_count is 200; the list has {listed} frequent ids'),
        ('frequent:3 --frequent_count 3', '--vocabulary frequent:3 and count both say how much'),
        ('fixed --frequent_count 3', '--frequent_count belongs to frequent; --vocabulary is fixed'),
        ('frequent:3 --keep 3', '--keep belongs to fixed; --vocabulary is frequent'),
    ],
)
def test_ids_that_are_not_there_are_said_in_one_line(counted, generate, capsys, flags, message):
    listed = len(native.load(counted[1]).heads['frequent_ids']['ids'])
    assert generate(counted[1], '--vocabulary', *flags.split()) == (2,)
    error = capsys.readouterr().err
    assert message.format(listed=listed) in error and error.count('\n') == 1


def test_a_checkpoint_without_a_list_says_how_one_is_made(checkpoint, generate, capsys):
    assert generate(checkpoint, '--vocabulary', 'frequent:3') == (2,)
    assert 'the checkpoint holds no frequent ids; count them (`calm count`), or use another class' in capsys.readouterr().err


def test_a_contrast_of_listed_ids_says_the_models_tokens_alone(counted, generate, capsys):
    flags = ['--vocabulary', 'frequent:3', '--emits', 'dola']
    assert generate(counted[1], *flags, '--measure', 'weighted_contrast') == (2,)
    assert "emits is 'dola', which has no score for ids outside a list of frequent ones" in capsys.readouterr().err


def test_gin_names_the_list_and_its_length(counted, generate):
    flags = ['--gin.SoftmaxGap.vocabulary=@FrequentIds()', '--gin.FrequentIds.count=3', '--gin.Exit.measure=@SoftmaxGap()']
    code, header, records = generate(counted[1], *flags)
    assert code == 0 and header['decoding']['exit']['measure']['vocabulary']['count'] == 3
    assert records == generate(counted[1], '--vocabulary', 'frequent:3')[2]
