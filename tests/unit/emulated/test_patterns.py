"""What a lab file may write for values that vary."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.emulated import patterns


def test_mac_pattern_counts_in_hexadecimal_last_range_fastest() -> None:
    found = patterns.macs("02:00:00:00:{0e-0f}:{09-0b}")
    assert [mac.hex(":") for mac in found[:4]] == [
        "02:00:00:00:0e:09",
        "02:00:00:00:0e:0a",
        "02:00:00:00:0e:0b",
        "02:00:00:00:0f:09",
    ]
    assert len(found) == 6


def test_address_patterns_count_in_their_familys_base() -> None:
    assert patterns.addresses("10.0.0.{9-11}") == [IPv4Address(f"10.0.0.{last}") for last in (9, 10, 11)]
    assert patterns.addresses("fd00::{9-b}") == [IPv6Address(f"fd00::{last}") for last in ("9", "a", "b")]


@given(st.integers(0, 65535), st.integers(0, 300))
def test_number_range_has_every_number_once(low: int, more: int) -> None:
    high = min(low + more, 65535)
    assert patterns.numbers(f"{{{low}-{high}}}", 0, 65535) == list(range(low, high + 1))


@pytest.mark.parametrize(
    ("read", "text", "what"),
    [
        (patterns.macs, "02:00:00:00:00:{00-1ff}", "'02:00:00:00:00:0' (from"),
        (patterns.macs, "{00-ff}:{00-ff}:{00-01}:00:00:00", "more than 65536 values"),
        (patterns.macs, "02:00:00:00:00:{05-01}", "ends before it begins"),
        (patterns.addresses, "10.0.0.{250-260}", "'10.0.0.256' (from '10.0.0.{250-260}') is not an IPv4 address"),
        (patterns.addresses, "10.0.0.{a-c}", "not a range of decimal numbers"),
        (patterns.addresses, "10.0.0.{1-}", "not part of a range"),
        (patterns.sizes, "59", "size '59' is not a number of bytes from 60 to 65535"),
        (patterns.sizes, "100-60", "ends before it begins"),
        (patterns.sizes, {}, "at least one size"),
        (patterns.rate, "0pps", "is not a rate such as"),
        (patterns.rate, "10kbps", "is not a rate such as"),
    ],
)
def test_mistake_is_named(read: object, text: object, what: str) -> None:
    assert callable(read)
    with pytest.raises(ValueError) as caught:
        read(text)
    assert what in str(caught.value)


def test_mix_has_each_size_as_often_as_its_weight_and_spreads_them() -> None:
    cycle = patterns.sizes("imix")
    assert Counter(cycle) == {60: 7, 590: 4, 1514: 1}
    assert all(cycle[at : at + 3] != [590, 590, 590] for at in range(10))
    assert Counter(patterns.sizes({"60": 20, "100": 10})) == {60: 2, 100: 1}
    assert patterns.sizes("60-63") == [60, 61, 62, 63]


def test_rates_are_frames_or_bits_per_second() -> None:
    assert patterns.rate("100kpps").frames_per_second([60]) == 100_000
    assert patterns.rate("1.5mpps").frames_per_second([60]) == 1_500_000
    assert patterns.rate("8Mbit").frames_per_second([100, 300]) == 5000
    assert patterns.rate("max").frames_per_second([60]) is None
