"""Training and evaluation batches: functions of the step, each example once an epoch, little padding."""

import json
import tracemalloc

import grain
import numpy as np
import pytest

from calm_jax.data.batching import (
    Example,
    PackedExamples,
    TokenizedRecords,
    TrainingBatches,
    count_truncated,
    evaluation_batches,
    read_ahead,
    tokenize,
)
from calm_jax.data.jsonl import Records, Template
from calm_jax.data.tokenizers import ByteTokenizer

LIMITS = {'max_source_length': 40, 'max_target_length': 24}


def made_examples(count, seed=0, longest=30):
    """Examples whose first ids, of source and target, say which one it is; their two lengths go together."""
    rng = np.random.default_rng(seed)
    examples = []
    for index in range(count):
        length = int(rng.integers(1, longest))
        target_length = int(np.clip(length + rng.integers(-3, 4), 1, 22))
        source, target = rng.integers(3, 50, length), rng.integers(3, 50, target_length)
        source[0] = target[0] = 1000 + index
        examples.append(Example(source.astype(np.int32), target.astype(np.int32)))
    return examples


EXAMPLES = made_examples(509)
KEYS = ['encoder_input_tokens', 'encoder_mask', 'decoder_input_tokens', 'decoder_target_tokens', 'decoder_loss_weights']


def made_batches(examples=EXAMPLES, batch_size=16, **settings):
    return TrainingBatches(examples, batch_size, **{'window': 4, **LIMITS, **settings})


def names(batch):
    """Which examples a batch holds, and that sources sit beside their targets."""
    sources, targets = batch['encoder_input_tokens'][:, 0], batch['decoder_target_tokens'][:, 0]
    np.testing.assert_array_equal(sources, targets)
    return (sources - 1000).tolist()


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


def test_a_batch_is_a_function_of_its_step_whatever_was_read_before():
    in_order = made_batches()
    expected = [in_order[step] for step in range(70)]
    jumping = made_batches()
    for step in np.random.default_rng(0).permutation(70):
        assert_same(jumping[step], expected[step])
    for step in (0, 30, 31, 69):
        assert_same(made_batches()[step], expected[step])


@pytest.mark.parametrize('count, batch_size, window', [(509, 16, 4), (512, 16, 4), (64, 16, 64), (20, 16, 1), (7, 1, 3)])
def test_every_epoch_has_each_example_once_but_for_the_last_n_mod_b_of_its_order(count, batch_size, window):
    examples = EXAMPLES[:count] if count <= 509 else made_examples(count)
    batches = made_batches(examples, batch_size, window=window)
    assert batches.batches_per_epoch == count // batch_size
    epochs = []
    for epoch in range(3):
        steps = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        seen = [name for step in steps for name in names(batches[step])]
        assert len(seen) == len(set(seen)) == count - count % batch_size
        assert set(seen) == set(batches.groups.order(epoch).tolist())
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_what_an_epoch_leaves_out_changes_with_the_epoch():
    batches = made_batches(EXAMPLES[:31])
    left_out = [frozenset(range(31)) - set(batches.groups.order(epoch).tolist()) for epoch in range(8)]
    assert all(len(rest) == 15 for rest in left_out)
    assert len(set(left_out)) == 8


def test_seeds_and_epochs_give_unlike_orders_and_the_same_seed_the_same():
    orders = [tuple(made_batches(seed=seed).groups.order(epoch)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    assert orders[:4] == [tuple(made_batches(seed=0).groups.order(epoch)) for epoch in range(4)]


def test_each_place_of_the_order_is_uniform_over_examples():
    # Over 600 epochs each of 10 examples is expected first 60 times: chi-square with 9 degrees, 99.9% quantile 27.9.
    batches = made_batches(EXAMPLES[:10], 10)
    orders = np.array([batches.groups.order(epoch) for epoch in range(600)])
    for place in (0, 4, 9):
        counts = np.bincount(orders[:, place], minlength=10)
        assert ((counts - 60) ** 2 / 60).sum() < 27.9


def test_lengths_stay_mixed_over_the_steps():
    batches = made_batches(made_examples(2048), window=64)
    lengths = [batches[step]['encoder_input_tokens'].shape[1] for step in range(64)]
    rises = sum(b > a for a, b in zip(lengths, lengths[1:]))
    falls = sum(b < a for a, b in zip(lengths, lengths[1:]))
    assert min(rises, falls) > 8


def test_the_order_of_a_window_s_batches_is_drawn_anew_for_each_window_epoch_and_seed():
    examples = [Example(np.full(3 + i, 5), np.array([5])) for i in range(64)]

    def orders(seed):
        batches = TrainingBatches(examples, 2, max_source_length=99, max_target_length=9, window=8, seed=seed)
        longest = [(batches[step]['encoder_input_tokens'] > 0).sum(axis=1).max() for step in range(64)]
        return [tuple(np.argsort(longest[start : start + 8])) for start in range(0, 64, 8)]

    assert len({*orders(0), *orders(1)}) == 16


def test_rows_hold_source_end_and_padding_and_inputs_are_targets_shifted_right():
    batches = made_batches()
    for step in range(batches.batches_per_epoch):
        batch = batches[step]
        for row, name in enumerate(names(batch)):
            source, target = (ids.tolist() for ids in EXAMPLES[name])
            encoder, mask, inputs, targets, weights = (batch[key][row].tolist() for key in KEYS)
            assert mask == [each != 0 for each in encoder]
            assert encoder == source + [1] + [0] * (len(encoder) - len(source) - 1)
            padding = [0] * (len(targets) - len(target) - 1)
            assert targets == target + [1] + padding
            assert inputs == [0] + target + padding
            assert weights == [1] * (len(target) + 1) + padding
        assert [batch[key].dtype for key in KEYS] == [np.int32, bool, np.int32, np.int32, np.float32]


def test_other_special_ids_are_put_where_they_belong():
    (batch,) = evaluation_batches(
        [Example(np.array([5]), np.array([6, 7]))], 1, **LIMITS, pad_id=9, source_end=(8,), target_end=(8,), decoder_start_id=2
    )
    assert batch['encoder_input_tokens'].tolist() == [[5, 8] + [9] * 6]
    assert batch['decoder_input_tokens'].tolist() == [[2, 6, 7] + [9] * 5]
    assert batch['decoder_target_tokens'].tolist() == [[6, 7, 8] + [9] * 5]


def test_a_token_that_is_the_one_that_pads_is_read_where_its_text_says_it():
    examples = [Example(np.array(source), np.array([6])) for source in ([5, 9, 7], [9])]
    (batch,) = evaluation_batches(examples, 2, **LIMITS, pad_id=9, source_end=(8,), target_end=(8,))
    assert batch['encoder_mask'].sum(axis=1).tolist() == [4, 2]


def test_a_prompt_that_is_too_long_keeps_its_start_and_its_end():
    limits = {**LIMITS, 'max_source_length': 8, 'decoder_only': True, 'start_ids': (3, 4)}
    long, short = np.array([3, 4, *range(20, 40)]), np.array([3, 4, 9])
    (batch,) = evaluation_batches([Example(each, np.array([6])) for each in (long, long[2:], short)], 3, **limits)
    rows = batch['decoder_input_tokens'].tolist()
    assert [rows[0][:9], rows[1][:9], rows[2][:4]] == [[3, 4, *range(34, 40), 6], [*range(32, 40), 6], [3, 4, 9, 6]]


def test_lengths_are_the_smallest_multiples_that_hold_the_longest_row():
    batches = made_batches()
    for step in range(batches.batches_per_epoch):
        batch = batches[step]
        for key in ('encoder_input_tokens', 'decoder_target_tokens'):
            longest = int((batch[key] != 0).sum(axis=1).max())
            assert batch[key].shape == (16, (longest + 7) // 8 * 8)


@pytest.mark.parametrize('limit, least, values', [(64, 8, 8), (512, 64, 8), (100, 16, 7), (8, 8, 1), (3, 8, 1), (1024, 128, 8)])
def test_lengths_have_at_most_eight_values_by_default(limit, least, values):
    examples = [Example(np.full(length, 5), np.array([5])) for length in range(limit + 10)]
    batches = TrainingBatches(examples, 1, max_source_length=limit, max_target_length=4)
    lengths = {batches[step]['encoder_input_tokens'].shape[1] for step in range(batches.batches_per_epoch)}
    assert len(lengths) == values <= 8
    assert all(length % 8 == 0 for length in lengths)
    assert max(lengths) == -(-limit // 8) * 8 and min(lengths) == least


def test_windows_of_similar_lengths_pad_little():
    examples = made_examples(4096, longest=38)
    real = sum(len(e.source) + len(e.target) + 2 for e in examples)

    def share_of_padding(**settings):
        batches = TrainingBatches(examples, 32, **LIMITS, **settings)
        arrays = [batches[step] for step in range(batches.batches_per_epoch)]
        return 1 - real / sum(a['encoder_input_tokens'].size + a['decoder_target_tokens'].size for a in arrays)

    # Rounding 2…39 up to multiples of 8 pads 17% by itself.
    assert share_of_padding(window=64) < 0.22
    assert share_of_padding(window=1) > 0.35


def test_what_the_limits_cut_is_counted_and_still_ends():
    examples = [Example(np.arange(3, 3 + n), np.arange(3, 3 + m)) for n, m in [(5, 2), (6, 3), (30, 4), (7, 40)]]
    limits = {'max_source_length': 7, 'max_target_length': 4}
    assert count_truncated(examples, **limits) == {'source': 2, 'target': 2}
    (batch,) = evaluation_batches(examples, 4, **limits)
    assert batch['encoder_input_tokens'].tolist() == [
        [3, 4, 5, 6, 7, 1, 0, 0],
        [3, 4, 5, 6, 7, 8, 1, 0],
        [3, 4, 5, 6, 7, 8, 1, 0],
        [3, 4, 5, 6, 7, 8, 1, 0],
    ]
    assert batch['decoder_target_tokens'][:, :5].tolist() == [[3, 4, 1, 0, 0]] + [[3, 4, 5, 1, 0]] * 3
    assert batch['decoder_loss_weights'].sum(axis=1).tolist() == [3, 4, 4, 4]


@pytest.mark.parametrize('count', [1, 2, 4])
def test_processes_share_out_the_rows_of_one_batch_at_one_shape(count):
    whole = made_batches()
    parts = [made_batches(process_index=index, process_count=count) for index in range(count)]
    for step in range(40):
        for name, array in whole[step].items():
            joined = np.stack([part[step][name] for part in parts], axis=1).reshape(array.shape)
            np.testing.assert_array_equal(joined, array)


def test_evaluation_has_every_example_once_in_order_and_fills_up_with_weightless_rows():
    batches = list(evaluation_batches(EXAMPLES[:37], 16, **LIMITS))
    assert [len(batch['encoder_input_tokens']) for batch in batches] == [16, 16, 16]
    seen = [name for batch in batches for name in names(batch)]
    assert seen[:37] == list(range(37))
    assert (batches[-1]['decoder_loss_weights'].sum(axis=1) > 0).tolist() == [True] * 5 + [False] * 11
    # A row that is all padding would leave attention nothing to look at.
    assert (batches[-1]['encoder_input_tokens'][5:, 0] == 1).all()
    total = sum(batch['decoder_loss_weights'].sum() for batch in batches)
    assert total == sum(len(example.target) + 1 for example in EXAMPLES[:37])
    for index in range(2):
        part = list(evaluation_batches(EXAMPLES[:37], 16, **LIMITS, process_index=index, process_count=2))
        for one, all_rows in zip(part, batches, strict=True):
            assert_same(one, {name: array[index::2] for name, array in all_rows.items()})


def test_records_are_tokenised_alike_at_once_and_when_asked_for(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text(''.join(json.dumps({'en': f'text {i}', 'n': i}) + '\n' for i in range(9)))
    parts = Records(path), Template('say: {en}'), Template('n'), ByteTokenizer()
    at_once, lazily = tokenize(*parts), TokenizedRecords(*parts)
    assert len(at_once) == len(lazily) == 9
    for index in range(9):
        for one, other in zip(at_once[index], lazily[index], strict=True):
            assert one.dtype == other.dtype == np.int32
            np.testing.assert_array_equal(one, other)
    assert ByteTokenizer().decode(lazily[4].source) == 'say: text 4'
    assert ByteTokenizer().decode(lazily[4].target) == '4'
    for step in range(8):
        assert_same(made_batches(at_once, 2)[step], made_batches(lazily, 2)[step])
    with pytest.raises(ValueError, match=f"{path}:1: no field 'de'"):
        tokenize(parts[0], Template('de'), parts[2], parts[3])
    with pytest.raises(ValueError, match=f"{path}:1 holds 'y', token 124: the tokenizer has it, but the model embeds 124"):
        tokenize(*parts, vocab_size=124)


def test_reading_ahead_gives_the_same_batches_in_order():
    batches = made_batches()
    ahead = list(read_ahead(batches, 29, 40))
    assert len(ahead) == 11
    for step, batch in zip(range(29, 40), ahead):
        assert_same(batch, batches[step])


def test_reading_ahead_passes_errors_on(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text('{"en": "a"}\n{"en": 3\n')
    batches = made_batches(TokenizedRecords(Records(path), Template('en'), Template('en'), ByteTokenizer()), 2)
    with pytest.raises(ValueError, match=f'{path}:2: not JSON'):
        list(read_ahead(batches, 0, 1))


def test_records_are_a_source_for_grain(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text(''.join(f'{{"n": {i}}}\n' for i in range(20)))
    dataset = grain.MapDataset.source(Records(path)).shuffle(seed=1).map(lambda record: record['n']).batch(4)
    assert sorted(n for i in range(len(dataset)) for n in dataset[i].tolist()) == list(range(20))


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'batch_size': 1000}, '509 examples do not fill a batch of 1000'),
        ({'batch_size': 0}, 'batch size 0'),
        ({'process_count': 3}, 'batch size 16: expected a positive multiple of the 3 processes'),
        ({'process_index': 2, 'process_count': 2}, 'process 2 of 2'),
        ({'window': 0}, 'window of 0 batches'),
        ({'max_source_length': 0}, 'length limit 0'),
        ({'length_multiple': 0}, 'length multiple 0'),
        ({'batch_tokens': 64}, 'batch_size is 16 and batch_tokens is 64; expected one of the two to be None'),
        ({'batch_size': None}, 'batch_size is None and batch_tokens is None; expected one of the two to be None'),
        ({'batch_size': None, 'batch_tokens': 0}, 'batch_tokens is 0; expected at least 1'),
        (
            {'batch_size': None, 'batch_tokens': 70, 'row_multiple': 2, 'process_count': 4},
            'batch_tokens is 70; expected 128 or more, 4 rows of 32 tokens, padding included, or shorter texts',
        ),
        ({'examples': [], 'batch_size': None, 'batch_tokens': 64}, '0 examples fill no batch'),
    ],
)
def test_settings_that_make_no_batches_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        made_batches(**settings)


def by_tokens(examples=EXAMPLES, batch_tokens=256, **settings):
    return made_batches(examples, None, batch_tokens=batch_tokens, **settings)


def test_a_batch_of_tokens_holds_as_many_rows_of_like_length_as_the_limit_allows_in_few_shapes():
    batches, shapes, rows = by_tokens(), set(), 0
    for number in range(batches.batches_per_epoch):
        batch = batches[number]
        (count, source), (_, target) = (batch[key].shape for key in (KEYS[0], KEYS[3]))
        shapes.add((count, source, target))
        assert count * max(source, target) <= 256 < (count + 1) * max(source, target)
        there = batch['decoder_loss_weights'].any(axis=1)
        rows += there.sum()
        longer = np.maximum(batch['encoder_mask'].sum(axis=1), batch['decoder_loss_weights'].sum(axis=1))[there]
        assert (longer > max(source, target) - 8).all()  # no row would do with a bucket less
    assert rows == len(EXAMPLES)
    assert {count for count, *_ in shapes} == set(batches.row_counts) and len(shapes) == len(batches.row_counts) == 4
    assert batches.batches_per_epoch < len(EXAMPLES) / 8  # mostly full: with 8 rows each, the longest fit too


@pytest.mark.parametrize('decoder_only', (False, True))
def test_every_epoch_of_batches_of_tokens_has_each_example_once_in_an_order_of_its_own(decoder_only):
    batches = by_tokens(decoder_only=decoder_only, pad_id=-1)
    orders, companies = [], set()
    for epoch in range(3):
        numbers = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        targets = [batches[number]['decoder_target_tokens'] for number in numbers]
        seen = [int(each) for rows in targets for each in rows[rows >= 1000]]
        companies |= {frozenset(rows[rows >= 1000].tolist()) for rows in targets}
        assert [batch.size <= 256 for batch in targets] == [True] * len(targets)
        assert sorted(seen) == [1000 + index for index in range(len(EXAMPLES))]
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert len(companies) > 2.8 * batches.batches_per_epoch  # examples meet others in every epoch
    other = by_tokens(decoder_only=decoder_only, pad_id=-1, seed=1)[0]['decoder_target_tokens']
    assert other.shape != batches[0]['decoder_target_tokens'].shape or (other != batches[0]['decoder_target_tokens']).any()


def test_batches_of_tokens_are_a_function_of_their_number_whatever_was_read_before():
    batches, jumping = by_tokens(), by_tokens()
    numbers = range(2 * batches.batches_per_epoch)
    expected = [batches[number] for number in numbers]
    for number in np.random.default_rng(0).permutation(numbers)[:20]:
        assert_same(jumping[number], expected[number])
    assert_same(by_tokens()[numbers[-1]], expected[-1])


def test_short_and_long_batches_of_tokens_are_mixed_and_rows_that_fill_up_have_no_weight():
    batches = by_tokens()
    epoch = [batches[number] for number in range(batches.batches_per_epoch)]
    lengths = [batch['encoder_input_tokens'].shape[1] for batch in epoch]
    changes = sum(one != other for one, other in zip(lengths, lengths[1:]))
    assert changes > len(lengths) / 3
    filling = [int((~batch['decoder_loss_weights'].any(axis=1)).sum()) for batch in epoch]
    assert 0 < sum(filling) < sum(batches.row_counts) and sum(count > 0 for count in filling) <= len(batches.row_counts)


def test_what_no_bucket_holds_is_cut_to_the_limits():
    examples = [Example(np.arange(3, 3 + n), np.arange(3, 3 + m)) for n, m in [(60, 2), (2, 60), (60, 60)]]
    epoch = by_tokens(examples, 80)
    assert epoch.row_counts == (1, 2)  # the second is no longer than its target's limit, 24
    (rows,) = [batch for batch in (epoch[0], epoch[1], epoch[2])[: epoch.batches_per_epoch] if len(batch[KEYS[0]]) == 2]
    assert rows['encoder_input_tokens'].shape == (2, 40) and (rows['encoder_input_tokens'][:, -1] == 1).all()
    assert sorted(rows['decoder_loss_weights'].sum(axis=1)) == [3, 24]


@pytest.mark.parametrize('count', (1, 2, 4))
def test_processes_share_out_the_rows_of_a_batch_of_tokens_too(count):
    parts = [by_tokens(process_index=index, process_count=count) for index in range(count)]
    whole = by_tokens(row_multiple=count)
    assert all(rows % count == 0 for rows in whole.row_counts)
    for number in range(8):
        for name, array in whole[number].items():
            joined = np.stack([part[number][name] for part in parts], axis=1).reshape(array.shape)
            np.testing.assert_array_equal(joined, array)


def test_numbers_count_from_zero():
    with pytest.raises(IndexError):
        made_batches()[-1]


def test_examples_in_memory_are_packed_end_to_end_and_read_only():
    examples = [*EXAMPLES, Example(np.zeros(0, np.int32), np.zeros(0, np.int32)), Example([5, 6], [7])]
    packed = PackedExamples(examples)
    assert len(packed) == 511
    for index in (*range(511), -1, -511):
        for one, other in zip(packed[index], examples[index], strict=True):
            assert one.dtype == np.int32
            np.testing.assert_array_equal(one, other)
    for index in (511, -512):
        with pytest.raises(IndexError):
            packed[index]
    with pytest.raises(ValueError, match='read-only'):
        packed[0].source[0] = 1
    assert len(PackedExamples([])) == 0


def test_packed_examples_take_4_bytes_a_token_and_8_an_example_and_side():
    count, source, target = 20_000, 7, 3
    tracemalloc.start()
    packed = PackedExamples(Example(np.full(source, i, np.int32), np.full(target, i, np.int32)) for i in range(count))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    wanted = count * (4 * (source + target) + 8 * 2)
    assert len(packed) == count and wanted <= held < 1.15 * wanted  # arrays that grow have spare places


def test_tokenising_can_be_watched(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text(''.join(f'{{"n": {i}}}\n' for i in range(5)))
    seen = []

    def watch(examples):
        assert len(examples) == 5  # so that a bar knows its end
        for example in examples:
            seen.append(len(example.source))
            yield example

    tokenize(Records(path), Template('n'), Template('n'), ByteTokenizer(), watch)
    assert seen == [1] * 5


def test_of_a_decoder_alone_the_prompt_stands_before_the_target_and_only_the_target_counts():
    examples = [
        Example(np.array([5, 6]), np.array([7])),
        Example(np.array([], int), np.array([8, 9])),
        Example(np.arange(2, 30), np.arange(30, 60)),
    ]
    (batch,) = evaluation_batches(
        examples, 4, max_source_length=8, max_target_length=8, pad_id=-1, decoder_start_id=4, decoder_only=True
    )
    assert sorted(batch) == ['decoder_input_tokens', 'decoder_loss_weights', 'decoder_target_tokens']
    inputs, targets, weights = (batch[f'decoder_{name}'].tolist() for name in ('input_tokens', 'target_tokens', 'loss_weights'))
    assert inputs[0][:4] == [5, 6, 7, -1] and targets[0][:4] == [6, 7, 1, -1] and weights[0][:4] == [0, 1, 1, 0]
    assert inputs[1][:4] == [4, 8, 9, -1] and targets[1][:4] == [8, 9, 1, -1] and weights[1][:4] == [1, 1, 1, 0]
    assert targets[2][7:15] == [*range(30, 37), 1] and weights[2][:15] == [0] * 7 + [1] * 8  # both cut to their limits
    assert set(inputs[3]) == {-1} and set(weights[3]) == {0}
    counted = count_truncated([Example(np.arange(8), np.arange(3))], 8, 8, source_end=())
    assert counted == {'source': 0, 'target': 0}  # a prompt of the limit's length is whole
    assert batch['decoder_loss_weights'].dtype == np.float32 and batch['decoder_input_tokens'].dtype == np.int32
