"""Percentiles stay within the error that is stated."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from vswitch.emulated.histogram import RELATIVE_ERROR, Histogram

VALUES = st.integers(0, 300) | st.integers(0, 2**56 - 1) | st.integers(0, 55).map(lambda bits: 1 << bits)


@given(st.lists(VALUES, min_size=1, max_size=100), st.sampled_from([1, 50, 90, 99, 99.9, 100]))
def test_percentile_is_within_the_stated_error_of_the_true_one(values: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    true = sorted(values)[math.ceil(len(values) * percent / 100 - 1e-9) - 1]
    assert abs(histogram.percentile(percent) - true) <= true * RELATIVE_ERROR
    assert histogram.percentile(100) <= max(values)
    assert (histogram.count, histogram.total) == (len(values), sum(values))
    assert (histogram.smallest, histogram.largest) == (min(values), max(values))


def test_stated_error_is_the_documented_one() -> None:
    assert RELATIVE_ERROR < 0.008


def test_summary_is_in_microseconds_and_empty_without_values() -> None:
    histogram = Histogram()
    assert histogram.summary() == {}
    histogram.add(1_500, times=3)
    histogram.add(3_000)
    assert histogram.summary()["min"] == 1.5
    assert histogram.summary()["max"] == 3.0
    assert histogram.summary()["mean"] == 1.875
