"""How long a text is in a decode, on landings whose times are known by hand."""

import pathlib
import sys

import numpy as np
import pytest


@pytest.fixture
def latency(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[1] / 'scripts' / 'benchmarks'))
    import latency

    yield latency
    sys.modules.pop('latency')


def test_in_flight_a_row_is_timed_from_the_step_in_which_a_slot_became_free(latency):
    """Two slots. Rows 7 (2 tokens) and 8 (5) come in at step 0, row 9 (3) when 7 has left, row 3 (4) when 8 and 9 have."""
    landings = [
        latency.Landed({7: 2}, seconds=4.0, steps=2),  # until 9 is in, at 4 s
        latency.Landed({8: 5}, seconds=3.0, steps=3),  # until 3 is in, at 7 s
        latency.Landed({9: 3, 3: 4}, seconds=2.0, steps=4),  # until all have left, at 9 s
    ]
    to_last, to_host = latency.latencies([7, 8, 9, 3], landings, slots=2)
    np.testing.assert_allclose(to_last, [4, 7, 3, 2])
    np.testing.assert_allclose(to_host, [4, 7, 5, 2])  # 9 left beside 8, and is had at the end


def test_a_batch_is_had_when_its_longest_row_ends(latency):
    to_last, to_host = latency.latencies([0, 1], [latency.Landed({0: 2, 1: 8}, seconds=4.0, steps=8)], slots=2)
    np.testing.assert_allclose(to_last, [1, 4])
    np.testing.assert_allclose(to_host, [4, 4])


def test_of_rows_that_end_together_one_is_had_later(latency):
    """Two slots, both free after 2 steps: 9 comes in for 7, and the next flight lets 3 in for 8 without a step."""
    landings = [
        latency.Landed({7: 2}, seconds=4.0, steps=2),
        latency.Landed({8: 2}, seconds=1.0, steps=0),
        latency.Landed({9: 2, 3: 4}, seconds=4.0, steps=4),
    ]
    to_last, to_host = latency.latencies([7, 8, 9, 3], landings, slots=2)
    np.testing.assert_allclose(to_last, [4, 4, 2.5, 5])  # 4 steps from 4 s to 9 s, with what stood between
    np.testing.assert_allclose(to_host, [4, 5, 5, 5])
