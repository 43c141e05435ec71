"""Rings as a Python program uses them, rightly and wrongly, with a real fabric process at the other side."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.ring_fabric import TIMEOUT, RingFabric, numbered
from vswitch.model.lab import PortSettings
from vswitch.ring import Ring, RingError

from . import misuse


@pytest.mark.parametrize("case", misuse.CASES)
def test_program_that_misuses_a_ring_is_told_so_and_does_not_crash(fabric: RingFabric, case: str) -> None:
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "tests.unit.ring.misuse",
        case,
        fabric.name("p1"),
        str(fabric.path),
    ]
    result = subprocess.run(
        command,
        env={**os.environ, "MALLOC_PERTURB_": "165"},  # what is freed is overwritten
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


# --- sending ----------------------------------------------------------------------------------------------------------


def test_send_takes_frames_of_all_kinds_in_all_sequences(fabric: RingFabric) -> None:
    frames = [numbered(2, 1, number) for number in range(4)]
    mixed = [frames[0], bytearray(frames[1]), memoryview(frames[2]), frames[3]]
    with fabric.open("p1") as ring, fabric.open("p2") as other:
        for argument in (mixed, tuple(mixed), iter(mixed)):
            assert ring.send(argument) == 4  # type: ignore[arg-type]
            assert receive(other, 4) == frames


@pytest.mark.parametrize("good", [1, 255, 256, 257, 400])
@pytest.mark.parametrize(("bad", "error"), [("x", TypeError), (None, TypeError), (b"short", ValueError)])
def test_send_says_what_was_sent_before_it_met_what_is_no_frame(
    fabric: RingFabric, good: int, bad: bytes, error: type[Exception]
) -> None:
    """Then the caller, who goes on from there, is told what is wrong with it."""
    frames = [numbered(2, 1, number) for number in range(good)]
    with fabric.open("p1") as ring, fabric.open("p2") as other:
        mixed = [*frames, bad, *frames]
        sent = ring.send(mixed)
        assert sent <= good
        while sent < good:
            sent += ring.send(mixed[sent:])
        with pytest.raises(error):
            ring.send(mixed[sent:])
        assert receive(other, good) == frames
        assert other.receive() == []


@pytest.mark.parametrize("lengths", [[13], [-1], [1 << 70], [60, 13], [60] * 9, [2049]])
def test_commit_refuses_lengths_that_no_reserved_frame_has(fabric: RingFabric, lengths: list[int]) -> None:
    with fabric.open("p1") as ring, fabric.open("p2") as other:
        for view in ring.reserve(8):
            view[:60] = numbered(2, 1, 7)
        with pytest.raises(ValueError, match=r"a frame in one buffer|more lengths"):
            ring.commit(lengths)
        ring.commit([60])
        assert receive(other, 1) == [numbered(2, 1, 7)]


def receive(ring: Ring, n: int) -> list[bytes]:
    """Receive `n` frames."""
    got: list[bytes] = []
    while len(got) < n:
        assert ring.wait(timeout=TIMEOUT)
        got += ring.receive()
    return got


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, math.inf, 1e300, 30 * 86400.0, 1e-9, 0.0, -1.0, -math.inf, math.nan])
def test_wait_and_send_all_take_any_timeout(fabric: RingFabric, timeout: float | None) -> None:
    with fabric.open("p1") as ring, fabric.open("p2") as other:
        assert ring.wait(write=True, timeout=timeout)
        assert ring.send_all([numbered(2, 1, 0)], timeout) == 1
        receive(other, 1)
        if timeout is not None and not timeout > 1:
            assert not other.wait(timeout=timeout)


def test_wait_goes_on_after_the_longest_single_sleep(fabric: RingFabric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vswitch.ring._LONGEST", 0.02)
    with fabric.open("p1") as ring:
        begun = time.monotonic()
        assert not ring.wait(timeout=0.2)
        assert time.monotonic() - begun >= 0.2


# --- reopening --------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """What a signal's handler raises."""


@contextlib.contextmanager
def signalled(handler: Callable[[], None]) -> Iterator[None]:
    """Have `handler` called by a signal, in a moment and over and over."""
    over = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        while not over.wait(0.05):
            signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=send)
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


@contextlib.contextmanager
def hidden(fabric: RingFabric) -> Iterator[None]:
    """Nobody can connect to the fabric meanwhile."""
    elsewhere = fabric.path.with_name("hidden")
    fabric.path.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(fabric.path)


def interrupt() -> None:
    raise Interrupted


def test_reopening_ends_with_the_exception_of_a_signals_handler(fabric: RingFabric) -> None:
    with fabric.open("p1") as ring:
        with hidden(fabric), pytest.raises(Interrupted), signalled(interrupt):
            ring.reopen(3600)
        ring.reopen(TIMEOUT)
        assert ring.wait(write=True, read=False, timeout=0)


def test_reconnecting_wait_ends_with_the_exception_of_a_signals_handler(fabric: RingFabric) -> None:
    fabric.declare("door", PortSettings())
    with fabric.open("door", reconnect=3600) as ring:
        fabric.ask(fabric.client.remove_port("lan", "door"))
        with hidden(fabric), pytest.raises(Interrupted), signalled(interrupt):
            ring.wait()


def test_reopening_goes_on_after_signals_and_no_longer_than_it_may(fabric: RingFabric) -> None:
    calls: list[None] = []
    with fabric.open("p1") as ring, hidden(fabric), signalled(lambda: calls.append(None)):
        begun = time.monotonic()
        with pytest.raises(RingError, match="no fabric serves rings at"):
            ring.reopen(0.5)
        assert 0.4 < time.monotonic() - begun < TIMEOUT
        assert len(calls) > 1
