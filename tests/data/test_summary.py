"""What a run says of its speed."""

import types

import pytest

from calm_jax.data.summary import Summary
from calm_jax.output import DecodeReport


def report(seconds, tokens, compile_seconds=0.0):
    return DecodeReport(seconds, 1, tokens, tokens, tokens, tokens, frozenset([16]), compile_seconds)


@pytest.mark.parametrize(
    'reports, rate',
    [
        ([report(5, 10, 30.0), report(2, 40), report(2, 20)], 15),  # warm: after the first
        ([report(5, 10, 30.0), report(2, 32, 1.0)], 6),  # never warm: all, without what compiling took
        ([], 0),
    ],
)
def test_the_speed_is_of_the_time_after_compiling_and_never_holds_any(reports, rate):
    summary = Summary()
    for each in reports:
        summary.report(each)
    said = summary.as_dict()
    assert said['tokens_per_second'] == rate
    assert said['compile_seconds'] == sum(each.compile_seconds for each in reports)


def test_the_times_of_examples_are_those_of_their_outputs():
    summary = Summary()
    outputs = [
        types.SimpleNamespace(tokens=[1, 2], layers=2.0, truncated=False, flops=1.0, batch_seconds=each) for each in (1, 3)
    ]
    assert list(summary.passing(outputs)) == outputs
    said = summary.as_dict()
    assert said['decode_seconds'] == 4 and said['seconds_per_example_mean'] == 2 and said['timed_examples'] == 2
