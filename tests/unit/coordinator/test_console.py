"""Console output: kept as a tail, logged up to a bound, shown live."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from vswitch.coordinator import console
from vswitch.coordinator.console import ConsoleLog


def test_tail_gives_the_last_lines_without_control_characters(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "n" / "console.log")
    log.write(b"one\r\n\x1b[31mtwo\x07\r\n\r\nthree")
    assert log.tail(2) == ["[31mtwo", "three"]
    log.close()
    assert (tmp_path / "n" / "console.log").read_bytes() == b"one\r\n\x1b[31mtwo\x07\r\n\r\nthree"


def test_file_stops_growing_at_its_bound_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LOG_SIZE", 100)
    log = ConsoleLog(tmp_path / "console.log")
    for _ in range(50):
        log.write(b"0123456789")
    log.close()
    text = (tmp_path / "console.log").read_bytes()
    assert text.startswith(b"0123456789" * 10 + b"\n[vswitch: console log full")
    assert len(text) < 250


def test_attached_watcher_gets_the_tail_then_what_follows(tmp_path: Path) -> None:
    async def scenario() -> list[bytes]:
        log = ConsoleLog(tmp_path / "console.log")
        log.write(b"before")
        watcher = log.attach()
        seen = [await anext(watcher)]
        log.write(b"after")
        seen.append(await anext(watcher))
        log.close()
        return seen

    assert asyncio.run(scenario()) == [b"before", b"after"]


def test_watcher_that_does_not_read_never_holds_the_node_up(tmp_path: Path) -> None:
    async def scenario() -> bytes:
        log = ConsoleLog(tmp_path / "console.log")
        watcher = log.attach()
        log.write(b"first")
        await anext(watcher)
        for number in range(2000):
            log.write(b"%d " % number)
        log.close()
        last = b""
        while not last.endswith(b"1999 "):
            last = await anext(watcher)
        return last

    assert asyncio.run(scenario()) == b"1999 "
