"""Windows of decoding batches: every source once, in few shapes, as a function of order and settings."""

import itertools

import numpy as np
import pytest

from calm_jax.data.windows import decode_windows, row_bucket

SETTINGS = {'max_source_length': 64, 'pad_id': 0, 'eos_id': 1, 'window': 4}


def made_sources(count, seed=0, longest=80):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 99, rng.integers(0, longest)).tolist() for _ in range(count)]


SOURCES = made_sources(150)


def windows(sources=SOURCES, batch_size=8, **settings):
    return list(decode_windows(sources, batch_size, **{**SETTINGS, **settings}))


def flat(windows_):
    return [batch for window in windows_ for batch in window]


@pytest.mark.parametrize('left', [False, True])
@pytest.mark.parametrize('eos_id', [1, None])
def test_every_source_is_once_in_the_rows_that_name_it(left, eos_id):
    found = {}
    for batch in flat(windows(left=left, eos_id=eos_id)):
        assert batch.tokens.dtype == np.int32 and batch.tokens.shape == batch.mask.shape
        assert batch.tokens.shape[0] == len(batch.rows) == len(batch.truncated) == 8
        for tokens, mask, row, truncated in zip(*(each.tolist() for each in batch)):
            if row >= 0:
                assert row not in found
                ids = SOURCES[row][: 64 - (eos_id is not None)] + [1] * (eos_id is not None)
                padding = [0] * (len(tokens) - len(ids))
                assert tokens == (padding + ids if left else ids + padding)
                there, absent = [True] * len(ids), [False] * len(padding)
                assert mask == (absent + there if left else there + absent)
                found[row] = truncated
    assert sorted(found) == list(range(150))
    assert [found[row] for row in range(150)] == [len(ids) > 64 - (eos_id is not None) for ids in SOURCES]
    assert 0 < sum(found.values()) < 150


def test_a_window_holds_the_next_inputs_and_sorts_them_by_length_keeping_ties_in_order():
    for number, window in enumerate(windows()):
        rows = [row for batch in window for row in batch.rows.tolist() if row >= 0]
        assert sorted(rows) == list(range(number * 32, min((number + 1) * 32, 150)))
        assert rows == sorted(sorted(rows), key=lambda row: min(len(SOURCES[row]), 63))


def test_batches_are_full_and_only_the_last_is_filled_up():
    batches = flat(windows())
    assert len(batches) == 19
    assert all((batch.rows >= 0).all() for batch in batches[:-1])
    assert (batches[-1].rows >= 0).tolist() == [True] * 6 + [False] * 2
    assert not batches[-1].truncated[6:].any()


@pytest.mark.parametrize('left', [False, True])
@pytest.mark.parametrize('eos_id', [7, None])
def test_rows_that_fill_up_hold_nothing_but_padding(left, eos_id):
    ((batch,),) = windows([[5, 6]] * 3, 4, left=left, eos_id=eos_id)
    assert batch.rows.tolist() == [0, 1, 2, -1]
    assert (batch.tokens[3] == 0).all() and not batch.mask[3].any() and batch.mask[:3].any(axis=1).all()


@pytest.mark.parametrize('left', [False, True])
def test_a_token_that_is_the_one_that_pads_is_there_where_its_text_says_it(left):
    ((batch,),) = windows([[5, 0, 6]], 8, left=left, eos_id=None)
    assert batch.mask.sum() == 3 and batch.tokens[batch.mask].tolist() == [5, 0, 6]


def test_what_is_too_long_loses_ids_on_its_side_but_keeps_its_start_and_says_so():
    long, other, short = [3, 4, *range(20, 40)], list(range(20, 42)), [3, 4, 9]
    settings = {'max_source_length': 8, 'pad_id': 0, 'eos_id': None, 'starts': [(3, 4)]}
    ((batch,),) = decode_windows([long, other, short], 4, side='left', left=True, **settings)
    rows = {int(number): batch.tokens[row][batch.mask[row]].tolist() for row, number in enumerate(batch.rows) if number >= 0}
    assert rows == {0: [3, 4, *range(34, 40)], 1: list(range(34, 42)), 2: short}
    lost = {int(number): bool(batch.truncated[row]) for row, number in enumerate(batch.rows) if number >= 0}
    assert lost == {0: True, 1: True, 2: False}
    ((batch,),) = decode_windows([long], 1, **settings)
    assert batch.tokens[0].tolist() == long[:8]
    ((batch,),) = decode_windows([long], 1, **settings, ends=[(7, 6), (38, 39)])  # an end of sequence and a language
    assert batch.tokens[0].tolist() == [*long[:6], 38, 39]


@pytest.mark.parametrize('count, rows', [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 10), (10, 10)])
def test_a_batch_that_is_not_full_has_the_next_power_of_two_of_rows(count, rows):
    ((batch,),) = windows(SOURCES[:count], 10)
    assert len(batch.tokens) == rows == row_bucket(count, 10) and (batch.rows >= 0).sum() == count


def test_a_batch_may_be_larger_than_can_be_counted():
    (window,) = windows(batch_size=10**23)
    assert len(window) == 1 and sum(row >= 0 for row in window[0].rows) == len(SOURCES)


def test_batches_are_a_function_of_order_and_settings_and_read_one_window_at_a_time():
    read = []
    lazily = decode_windows((read.append(i) or ids for i, ids in enumerate(SOURCES)), 8, **SETTINGS)
    first = next(lazily)
    assert len(read) == 32
    for one, other in zip(itertools.chain(first, flat(lazily)), flat(windows()), strict=True):
        assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize('limit', [1, 8, 60, 64, 100, 512, 1000])
def test_a_run_meets_at_most_eight_lengths_none_much_beyond_its_limit(limit):
    sources = [[5] * length for length in range(0, 1100, 3)]
    lengths = {batch.tokens.shape[1] for batch in flat(windows(sources, 2, max_source_length=limit))}
    assert len(lengths) <= 8
    assert all(length % 8 == 0 for length in lengths)
    assert limit <= max(lengths) < limit + 8


def test_nothing_in_gives_nothing_out():
    assert windows([]) == []


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'batch_size': 0}, 'windows of 4 batches of 0'),
        ({'window': 0}, 'windows of 0 batches of 8'),
        ({'max_source_length': 0}, 'length limit 0'),
    ],
)
def test_settings_that_make_no_windows_are_refused_before_anything_is_read(settings, message):
    with pytest.raises(ValueError, match=message):
        decode_windows(iter(SOURCES), **{'batch_size': 8, **SETTINGS, **settings})


def test_sources_of_one_width_come_by_what_is_known_of_their_depth():
    lengths, depths = [3, 9, 4, 2, 10, 5], [2, 1, 1, 3, 0, 2]
    sources = [[5] * length for length in lengths]
    options = {'max_source_length': 16, 'pad_id': 0, 'eos_id': 1, 'length_multiple': 8}
    (window,) = decode_windows(sources, 2, **options, depth=depths.__getitem__)
    assert [batch.rows.tolist() for batch in window] == [[2, 0], [5, 3], [4, 1]]
