"""Sizes, durations, rates, percentages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.model.units import UNITS, format_duration


@pytest.mark.parametrize(
    ("unit", "text", "value"),
    [
        ("size", "96M", 96 << 20),
        ("size", "1G", 1 << 30),
        ("size", "512KiB", 512 << 10),
        ("size", "1.5g", 3 << 29),
        ("size", "4096B", 4096),
        ("size", "2TB", 2 << 40),
        ("duration", "20ms", 0.02),
        ("duration", "5s", 5.0),
        ("duration", "1.5m", 90.0),
        ("duration", "2h", 7200.0),
        ("duration", "100us", 0.0001),
        ("duration", "0s", 0.0),
        ("rate", "100mbit", 1e8),
        ("rate", "1Gbit", 1e9),
        ("rate", "64kbit", 64e3),
        ("rate", "9600bit", 9600.0),
        ("percentage", "1%", 0.01),
        ("percentage", "0.5%", 0.005),
        ("percentage", "100%", 1.0),
    ],
)
def test_quantity_is_read_in_base_units(unit: str, text: str, value: float) -> None:
    assert UNITS[unit].read(text) == value


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("size", "96"),
        ("size", "M"),
        ("size", "1 G"),
        ("size", "-1M"),
        ("size", "1e3M"),
        ("size", "1MM"),
        ("size", "1M\n"),
        ("size", "9" * 40 + "M"),
        ("duration", "5"),
        ("duration", "5 s"),
        ("duration", "5sec"),
        ("duration", "1m30s"),
        ("duration", "٣s"),
        ("rate", "100"),
        ("rate", "100mbps"),
        ("percentage", "0.5"),
        ("percentage", "100.1%"),
        ("percentage", "-1%"),
    ],
)
def test_anything_else_is_refused(unit: str, text: str) -> None:
    with pytest.raises(ValueError):
        UNITS[unit].read(text)


@given(st.integers(0, 10**12), st.integers(0, 10**9 - 1), st.sampled_from(["us", "ms", "s", "m", "h"]))
def test_formatted_duration_reads_as_the_same_number(whole: int, billionths: int, unit: str) -> None:
    seconds = UNITS["duration"].read(f"{whole}.{billionths:09d}{unit}")
    assert UNITS["duration"].read(format_duration(seconds)) == seconds
