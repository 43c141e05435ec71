"""`lab stats`: rates, names of ports, and tables that fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.commands import stats
from vswitch.commands.listing import rows_as_text, scaled


def row(network: str, port: str, frames: int = 0, **more: Any) -> dict[str, Any]:
    counters = {"rx_frames": frames, "rx_bytes": frames * 60, "tx_frames": 0, "tx_bytes": 0, "drops": {}}
    words = {"network": network, "port": port, "type": "stream", "state": "up", "peer": "", "reason": ""}
    return {**words, **counters, **more}


def test_rates_are_what_was_added_by_the_second() -> None:
    (now,) = stats.rates([row("lan0", "a", 100)], [row("lan0", "a", 300)], 2.0)
    assert (now["rx_frames/s"], now["rx_bit/s"], now["tx_frames/s"]) == (100.0, 48000.0, 0.0)
    assert now["rx_frames"] == 300


def test_port_that_is_new_has_no_past_and_one_that_began_anew_counts_from_there() -> None:
    new, again = stats.rates([row("lan0", "b", 100)], [row("lan0", "a", 300), row("lan0", "b", 10)], 1.0)
    assert new["rx_frames/s"] == 0
    assert again["rx_frames/s"] == 10


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), ["a", "up#1", "up#2", "a2"]),
        (("lan0",), ["a", "up#1", "up#2"]),
        (("lan0/a",), ["a"]),
        (("up",), ["up#1", "up#2"]),
        (("lan0/up", "lan1"), ["up#1", "up#2", "a2"]),
        (("up#2",), ["up#2"]),
    ],
    ids=str,
)
def test_rows_are_chosen_by_network_port_or_both(names: tuple[str, ...], expected: list[str]) -> None:
    rows = [row("lan0", "a"), row("lan0", "up#1"), row("lan0", "up#2"), row("lan1", "a2")]
    assert [chosen["port"] for chosen in stats._wanted(rows, names)] == expected


@given(st.floats(0, 1e18))
def test_scaled_number_is_short_and_near(number: float) -> None:
    text = scaled(number)
    assert len(text) <= 6
    value = float(text.rstrip("MGTPE")) * {"M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}.get(text[-1], 1)
    assert value == pytest.approx(number, rel=0.06, abs=0.6)


@pytest.mark.parametrize("note", ["", "192.0.2.255:65535", "connecting to 192.0.2.255:65535: Connection refused"])
def test_totals_fit_a_terminal_of_80_columns_with_no_number_broken(note: str) -> None:
    """Counters as large as they get, names longer than usual, several reasons for drops."""
    names = {"network": "distribution-lan", "port": "router-north:eth0", "type": "raw-pipe", "state": "listening"}
    numbers = {key: scaled(123_456_789_012_345) for key in stats._TOTALS}
    drops = {"drops": {"nowhere": 12345, "overflow": 999999999999, "mac_limit": 3, "runt": 0}}
    dropped = {"dropped": stats._drops(drops, terminal=True)}
    rows = [{**names, **numbers, **dropped, "note": note}]
    text = rows_as_text(rows, stats.columns(rows, stats._TOTALS), width=80, numbers=stats._TOTALS)
    plain = "".join(text.split("\x1b[0m")).replace("\x1b[1m", "")
    assert max(map(len, plain.splitlines())) <= 80
    assert plain.count("123.5T") == 4
    assert "listening" in plain
    assert "runt" not in plain
    for part in ("nowhere=12345", "overflow=999999999999", "mac_limit=3"):
        assert part in plain


def test_note_says_who_is_there_or_why_nobody_is() -> None:
    """A network whose ports are all up and are those of nodes has a table as narrow as can be."""
    plain, peer = row("lan0", "a"), row("lan0", "b", peer="pid 1")
    waits, full = row("lan0", "c", state="connecting", reason="nobody there"), row("lan0", "d", reason="stale")
    told = [stats.in_words(each, terminal=False) for each in (plain, peer, waits, full)]
    assert [each["note"] for each in told] == ["", "pid 1", "nobody there", ""]
    assert stats.columns(told[:1], ["rx"]) == ["network", "port", "type", "state", "rx", "dropped"]
    assert stats.columns(told, ["rx"]) == ["network", "port", "type", "state", "rx", "dropped", "note"]


def test_table_for_a_file_has_one_line_per_row_and_whole_numbers() -> None:
    text = rows_as_text(
        [{"port": "p" * 200, "rx_frames": 123456789}], ["port", "rx_frames"], width=None, numbers=["rx_frames"]
    )
    assert len(text.splitlines()) == 2
    assert "123456789" in text
