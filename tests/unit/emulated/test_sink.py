"""A sink's report, and its bounds."""

from __future__ import annotations

import json

import pytest

from vswitch.emulated import meter, probe
from vswitch.emulated.sink import Sink

from .asking import ask

HEAD = bytes.fromhex("02000000000b 02000000000a 88b5")


def frame(flow: int, sequence: int, stamp: int = 0) -> bytes:
    return (HEAD + probe.pack(flow, sequence, stamp)).ljust(60, b"\0")


def test_report_tells_flows_apart_by_generator_and_run() -> None:
    sink = Sink({0: "gen", 1: "other"})
    sink.handle(0, [frame(3, 0), frame(3, 2), frame(17, 0), HEAD + bytes(46)], 1000)
    report = json.loads(ask(sink, "report", "-f", "json")[1])
    assert report["flows"].keys() == {"gen/3", "other/1"}
    assert report["flows"]["gen/3"]["lost"] == 1
    assert report["total"]["received"] == 3
    assert report["other"] == 1
    table = ask(sink, "report")[1].splitlines()
    assert table[0].split()[:3] == ["flow", "received", "lost"]
    assert table[1].split()[:3] == ["gen/3", "2", "1"]
    assert "other frames: 1" in table[-1]


def test_expectations_hold_or_say_what_is_so() -> None:
    sink = Sink()
    sink.handle(0, [frame(0, n, 0) for n in (0, 1, 3)], 2_000_000)
    assert ask(sink, "expect", "received=3", "lost<=1", "p99<=2.1ms", "max>=2ms")[0] == 0
    code, _, err = ask(sink, "expect", "lost=0", "p50<=1ms")
    assert code == 1
    assert err.splitlines() == ["lost=0: it is 1", "p50<=1ms: it is 0.002 s"]


@pytest.mark.parametrize("wrong", ["lost", "lost=x", "last=0", "p42<=1ms", "lost=1ms", "p99<=5", ""])
def test_expectation_that_makes_no_sense_is_a_usage_error(wrong: str) -> None:
    code, _, err = ask(Sink(), "expect", wrong)
    assert (code, "usage: expect" in err) == (2, True)


def test_flows_beyond_the_limit_are_counted_and_take_no_memory() -> None:
    sink = Sink()
    sink.handle(0, [frame(flow, 0) for flow in range(meter.MAX_FLOWS + 10)], 0)
    stats = sink.stats()
    assert stats["untracked"] == 10
    assert len(json.loads(ask(sink, "stats")[1])["flows"]) == meter.MAX_FLOWS


def test_after_a_reset_a_running_flow_is_measured_from_there() -> None:
    sink = Sink()
    sink.handle(0, [frame(0, n) for n in (0, 5)], 0)
    assert ask(sink, "reset")[0] == 0
    assert "no probe has arrived" in ask(sink, "report")[1]
    sink.handle(0, [frame(0, n) for n in (8, 9)], 0)
    assert ask(sink, "expect", "received=2", "lost=0", "missed_before=2", "flows=1")[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00" * 13,
        "ff" * 12 + "8100",
        "ff" * 12 + "8100000a",
        "ff" * 12 + "0800" + "45" + "00" * 8 + "11",
        "ff" * 12 + "0800" + "4f" + "00" * 8 + "11" + "00" * 30,
        "ff" * 12 + "86dd" + "60" + "00" * 5 + "11",
        "ff" * 12 + "88b5" + "56535750",
    ],
)
def test_frame_cut_off_anywhere_is_no_probe(text: str) -> None:
    sink = Sink()
    sink.handle(0, [bytes.fromhex(text)], 0)
    assert sink.stats()["other"] == 1
