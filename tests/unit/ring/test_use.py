"""vswitch.ring: what a Python client can do, and what it is told when it cannot."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ring_fabric import TIMEOUT, RingFabric, mac, numbered, processor_time, raw_connection, readable
from vswitch.errors import LabError
from vswitch.ring import Ring, RingError

HUGE = 69632
"""Bytes of the longest frame."""


@pytest.fixture
def a(fabric: RingFabric) -> Iterator[Ring]:
    with fabric.open("a") as ring:
        yield ring
    fabric.expect("a", "closed")


@pytest.fixture
def b(fabric: RingFabric) -> Iterator[Ring]:
    with fabric.open("b") as ring:
        yield ring
    fabric.expect("b", "closed")


def receive(ring: Ring, n: int) -> list[bytes]:
    """Wait for `n` frames."""
    got: list[bytes] = []
    while len(got) < n:
        assert ring.wait(timeout=TIMEOUT), f"{n - len(got)} of {n} frames are missing"
        got += ring.receive()
    return got


# --- sending and receiving --------------------------------------------------------------------------------------------


def test_frames_of_any_buffer_type_arrive_unchanged_and_in_order(a: Ring, b: Ring) -> None:
    frames = [numbered(2, 1, number, 60 + number) for number in range(4)]
    assert a.send([frames[0], bytearray(frames[1]), memoryview(frames[2])]) == 3
    assert a.send((frames[3],)) == 1
    assert receive(b, 4) == frames
    assert b.receive() == []


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(14, 9000) | st.sampled_from([2048, 2049, 65535, HUGE]), min_size=1, max_size=30))
def test_frames_of_any_size_arrive_unchanged(shared: RingFabric, sizes: list[int]) -> None:
    with Ring.open(shared.name("p{1")) as one, Ring.open(shared.name("p}1")) as other:
        frames = [os.urandom(size) for size in sizes]
        assert one.send_all(frames[:5], TIMEOUT) == len(frames[:5])
        assert receive(other, len(frames[:5])) == frames[:5]


def test_send_takes_what_there_is_room_for_and_send_all_waits_for_more(a: Ring, b: Ring) -> None:
    frames = [numbered(0x99, 1, number) for number in range(2000)]
    sent = a.send(frames)
    assert 511 <= sent < 2000
    assert a.send_all(frames[sent:], TIMEOUT) == 2000 - sent
    assert a.send([]) == a.send_all([]) == 0


def test_send_all_gives_up_after_its_time(fabric: RingFabric) -> None:
    """Nobody takes anything out of a pipe that has one end."""
    with Ring.open(fabric.name("p{1"), slots=64) as ring:
        begun = time.monotonic()
        assert ring.send_all([bytes(60)] * 100, 0.2) == 63
        assert 0.15 < time.monotonic() - begun < 5


@pytest.mark.parametrize("size", [0, 13, HUGE + 1, 1 << 20])
def test_frame_of_no_valid_size_is_refused(a: Ring, size: int) -> None:
    with pytest.raises(ValueError, match="14 to 69632 bytes"):
        a.send([bytes(size)])
    assert a.send([numbered(0x99, 1, 0), bytes(size)]) == 1, "those before it are sent"


def test_what_is_no_frame_is_refused(a: Ring) -> None:
    for wrong in (["text"], [None], [memoryview(bytes(100))[::2]], None, 7):
        with pytest.raises((TypeError, BufferError)):
            a.send(wrong)  # type: ignore[arg-type]
    assert a.send([numbered(0x99, 1, 0)]) == 1


def test_receive_returns_no_more_than_is_asked_for(a: Ring, b: Ring) -> None:
    frames = [numbered(2, 1, number) for number in range(300)]
    a.send(frames)
    got: list[bytes] = []
    while len(got) < 7:
        assert b.wait(timeout=TIMEOUT)
        got += b.receive(1)
    assert got == frames[:7]
    assert receive(b, 293) == frames[7:]
    a.send(frames)
    got = []
    while len(got) < 300:
        b.wait(timeout=TIMEOUT)
        part = b.receive(1000)
        assert len(part) <= 256
        got += part
    assert got == frames


def test_buffers_are_written_in_place_and_sent(a: Ring, b: Ring) -> None:
    views = a.reserve(3)
    assert [len(view) for view in views] == [a.buf_size] * 3
    frames = [numbered(2, 1, number, 60 + number) for number in range(2)]
    for view, frame in zip(views, frames, strict=False):
        view[: len(frame)] = frame
    a.commit([len(frame) for frame in frames])
    assert receive(b, 2) == frames
    assert len(a.reserve(100000)) == a.slots - 1
    a.commit([])


@pytest.mark.parametrize("lengths", [[13], [2049], [-1], [2**70], [60, 60]])
def test_commit_refuses_what_was_not_reserved_or_is_no_frame(a: Ring, lengths: list[int]) -> None:
    a.reserve(1)
    with pytest.raises(ValueError):
        a.commit(lengths)
    with pytest.raises(TypeError):
        a.commit(["60"])  # type: ignore[list-item]
    a.send([numbered(0x99, 1, 0)])
    with pytest.raises(ValueError, match="more lengths than buffers were reserved"):
        a.commit([60])


def test_borrowed_views_are_read_only_and_show_the_frame_until_it_is_given_back(a: Ring, b: Ring) -> None:
    a.send([numbered(2, 1, number, 100) for number in range(2)])
    seen = 0
    while seen < 2:
        assert b.wait(timeout=TIMEOUT)
        for view in b.borrow():
            assert view == numbered(2, 1, seen, 100)
            assert view.readonly
            with pytest.raises(TypeError):
                view[0] = 1
            seen += 1
    b.release()
    b.release()


def test_views_outlive_their_ring(fabric: RingFabric) -> None:
    """The memory stays as long as somebody looks at it."""
    with fabric.open("c") as sender:
        ring = fabric.open("d")
        sender.send([numbered(2, 1, 7)])
        assert ring.wait(timeout=TIMEOUT)
        (view,) = ring.borrow()
        (reserved,) = ring.reserve(1)
        part = view[6:12]
        ring.close()
        fabric.expect("d", "closed")
        del ring
        assert view == numbered(2, 1, 7)
        assert part == mac(1)
        reserved[:4] = b"over"
        del view, reserved
        assert bytes(part) == mac(1)
    fabric.expect("c", "closed")


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_wait_says_whether_something_came_in_time(a: Ring, b: Ring) -> None:
    begun = time.monotonic()
    assert b.wait(timeout=0.05) is False
    assert time.monotonic() - begun >= 0.05
    assert b.wait(timeout=0) is False
    assert b.wait(read=False, write=True, timeout=0) is True
    a.send([numbered(2, 1, 0)])
    assert b.wait(timeout=TIMEOUT) is True
    assert b.wait(timeout=0) is True, "it is still there"


@pytest.mark.parametrize("timeout", [None, 1e9, math.inf])
def test_wait_may_be_told_to_wait_for_ever(a: Ring, b: Ring, timeout: float | None) -> None:
    sending = threading.Timer(0.05, lambda: a.send([numbered(2, 1, 0)]))
    sending.start()
    assert b.wait(timeout=timeout) is True
    sending.join()


def test_wait_goes_on_after_a_signal_whose_handler_returns(a: Ring, b: Ring) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    sender = threading.Timer(0.3, lambda: a.send([numbered(2, 1, 0)]))
    interrupter = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        sender.start()
        interrupter.start()
        assert b.wait(timeout=TIMEOUT) is True
    finally:
        sender.join()
        interrupter.join()
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


PROGRAM = """
import sys
from vswitch.ring import Ring
with Ring.open(sys.argv[1], linger=float(sys.argv[2]), reconnect=100) as ring:
    try:
        print("open", flush=True)
        ring.wait()
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize(("linger", "reconnecting"), [(0, False), (1.0, False), (0, True)])
def test_wait_is_interrupted_by_ctrl_c(tmp_path: Path, linger: float, reconnecting: bool) -> None:
    """Whether it sleeps, looks before it will sleep, or tries to reach a fabric that has gone."""
    with RingFabric(tmp_path / "ring") as fabric:
        command = [sys.executable, "-c", PROGRAM, fabric.name("a"), str(linger)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            descriptors = Path("/proc", str(process.pid), "fd")
            before = len(list(descriptors.iterdir()))
            if linger:
                begun = processor_time(process.pid)
                end = time.monotonic() + linger / 2
                while processor_time(process.pid) == begun and time.monotonic() < end:
                    pass  # until it can only be looking
            if reconnecting:
                fabric.process.kill()
                fabric.process.wait()
                status = Path("/proc", str(process.pid), "stat")
                while len(list(descriptors.iterdir())) == before or ") S " not in status.read_text():
                    pass  # until it has seen that, and sleeps before the next try
            process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=5)
            finally:
                process.kill()
        assert output == "interrupted\n"


def test_ring_closed_by_another_thread_while_one_waits_does_no_harm(fabric: RingFabric) -> None:
    """It is not meant to be, but memory must not go from under it."""
    ring = fabric.open("c")
    closing = threading.Timer(0.1, ring.close)
    closing.start()

    def wait() -> None:
        while ring.wait(timeout=0.2) is False:
            pass

    with pytest.raises(RingError):
        wait()
    closing.join()


def test_descriptor_tells_a_loop_of_its_own_when_to_look(a: Ring, b: Ring) -> None:
    async def body() -> list[bytes]:
        loop = asyncio.get_running_loop()
        rung = asyncio.Event()
        loop.add_reader(b.fileno(), rung.set)
        got: list[bytes] = []
        sent = 0
        while len(got) < 3:
            got += b.receive()
            b.release()
            if not b.arm():
                if sent == len(got):  # and not after a bell for nothing
                    loop.call_soon(a.send, [numbered(2, 1, sent)])
                    sent += 1
                async with asyncio.timeout(TIMEOUT):
                    await rung.wait()
            b.disarm()
            rung.clear()
        loop.remove_reader(b.fileno())
        return got

    assert asyncio.run(body()) == [numbered(2, 1, number) for number in range(3)]
    assert not readable(b.fileno(), 0)


def test_arm_says_that_there_is_something_already(a: Ring, b: Ring) -> None:
    assert b.arm() is False
    a.send([numbered(2, 1, 0)])
    assert readable(b.fileno())
    b.disarm()
    assert not readable(b.fileno(), 0)
    assert b.arm() is True
    b.disarm()
    assert b.arm(read=False, write=True) is True
    b.disarm()


def test_polling_client_needs_no_waiting(a: Ring, b: Ring) -> None:
    for number in range(20):
        a.send([numbered(2, 1, number)])
        a.sync()
        got: list[bytes] = []
        while not got:
            b.sync()
            got = b.receive()
        assert got == [numbered(2, 1, number)]


# --- opening, closing, errors -----------------------------------------------------------------------------------------


def test_ring_has_the_shape_that_was_asked_for(fabric: RingFabric) -> None:
    with fabric.open("c", rings=3, slots=100, buf_size=4096) as ring:
        assert (ring.rings, ring.slots, ring.buf_size) == (3, 100, 4096)
        assert ring.name == fabric.name("c")
    with fabric.open("d") as ring:
        assert (ring.rings, ring.slots, ring.buf_size) == (1, 512, 2048)


def test_closed_ring_refuses_everything_but_closing(fabric: RingFabric) -> None:
    with fabric.open("c") as ring:
        before = ring.closed
    assert (before, ring.closed) == (False, True)
    ring.close()
    uses: list[Callable[[], object]] = [
        ring.fileno,
        ring.receive,
        ring.borrow,
        ring.release,
        ring.sync,
        ring.wait,
        ring.arm,
        ring.disarm,
        ring.reopen,
        lambda: ring.slots,
        lambda: ring.send([bytes(60)]),
        lambda: ring.reserve(1),
        lambda: ring.commit([]),
    ]
    for use in uses:
        with pytest.raises(RingError, match="the ring is closed"):
            use()


def test_context_closes_the_ring_also_after_an_exception(fabric: RingFabric) -> None:
    with pytest.raises(ZeroDivisionError), fabric.open("c"):
        _ = 1 / 0
    fabric.expect("c", "closed")


def test_ring_that_is_forgotten_gives_its_port_up(fabric: RingFabric) -> None:
    ring = fabric.open("c")
    del ring
    fabric.expect("c", "closed")


def test_ring_whose_port_was_removed_says_so(fabric: RingFabric) -> None:
    """What came before is still to be had."""
    with fabric.open("c") as ring, fabric.open("d") as other:
        other.send([numbered(2, 1, 5)])
        fabric.wait_until(lambda: fabric.ports()["c"].tx_frames == 1)
        fabric.ask(fabric.client.remove_port("lan", "c"))
        assert ring.wait(timeout=TIMEOUT)
        assert ring.receive() == [numbered(2, 1, 5)]
        for use in (lambda: ring.wait(timeout=TIMEOUT), ring.disarm):
            with pytest.raises(RingError, match="the other side has gone"):
                use()
        ring.reopen(1)
        assert fabric.expect("c", "up")
        other.send([numbered(2, 1, 6)])
        assert receive(ring, 1) == [numbered(2, 1, 6)]


def test_ring_is_not_reopened_while_views_of_it_are_held(fabric: RingFabric) -> None:
    with fabric.open("c") as ring, fabric.open("d") as other:
        other.send([numbered(2, 1, 5)])
        assert ring.wait(timeout=TIMEOUT)
        views = ring.borrow()
        with pytest.raises(BufferError, match="views of frames are still held"):
            ring.reopen(0.1)
        assert views == [numbered(2, 1, 5)]
        views.clear()
        ring.reopen(1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "a port's name is LAB/NETWORK:PORT"),
        ("lan", "a port's name is LAB/NETWORK:PORT"),
        ("lan:p1", "say which lab: LAB/lan:p1"),
        ("nolab/lan:p1", "no lab of that name is up"),
        ("/nowhere/ring:lan:p1", "no fabric serves rings at /nowhere/ring: No such file"),
        ("/nowhere", "a port's name is"),
        ("/nowhere:lan", "after the socket's path comes :NETWORK:PORT"),
        ("/" + "n" * 150 + ":lan:p1", "File name too long"),
        ("/" + "n" * 400 + ":lan:p1", "after the socket's path comes"),
        ("\xe4/lan:p1", "no lab of that name is up"),
    ],
)
def test_name_that_leads_nowhere_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, reason: str
) -> None:
    monkeypatch.delenv("VSWITCH_LAB", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(RingError, match=reason) as caught:
        Ring.open(name)
    assert isinstance(caught.value, LabError)


def test_name_longer_than_a_request_holds_is_refused(fabric: RingFabric) -> None:
    with pytest.raises(RingError, match="a name has at most 127 bytes"):
        Ring.open(f"{fabric.path}:lan:{'p' * 200}")


def test_reason_cut_in_the_middle_of_a_letter_is_still_one(fabric: RingFabric) -> None:
    with pytest.raises(RingError, match="this is no port's name"):
        Ring.open(f"{fabric.path}:lan:" + "\xe4" * 60)


def test_fabric_that_has_stopped_is_given_up_on_in_time(tmp_path: Path) -> None:
    """Whether or not there is still room in its queue of connections."""
    with RingFabric(tmp_path / "ring") as fabric:
        fabric.process.send_signal(signal.SIGSTOP)
        try:
            silent: list[socket.socket] = []
            while True:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
                silent.append(sock)
                if len(silent) == 10:
                    with pytest.raises(RingError, match=r"did not answer: .*timed out"):
                        Ring.open(fabric.name("a"), timeout=0.1)
                try:
                    sock.connect(os.fspath(fabric.path))
                except BlockingIOError:
                    break
            begun = time.monotonic()
            with pytest.raises(RingError, match="timed out"):
                Ring.open(fabric.name("a"), timeout=0.1)
            assert time.monotonic() - begun < 5
        finally:
            for sock in silent:
                sock.close()
            fabric.process.send_signal(signal.SIGCONT)


def test_connection_that_is_no_fabrics_is_refused() -> None:
    for said in (b"", b"nonsense", bytes(272)):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.send(said) if said else theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(RingError, match="the fabric did not answer"):
                Ring.from_fd(ours.detach())


def test_descriptor_that_is_no_socket_is_refused() -> None:
    with pytest.raises(RingError):
        Ring.from_fd(os.open("/dev/null", os.O_RDWR))


def test_unfinished_use_of_the_socket_leaves_the_fabric_alone(fabric: RingFabric) -> None:
    with raw_connection(fabric):
        pass
    assert fabric.ports() == {}
