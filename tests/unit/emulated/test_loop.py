"""The loop between rings, a role and the control socket, on rings in plain memory with little room."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import pytest

from vswitch.emulated.echo import Echo
from vswitch.emulated.loop import Loop
from vswitch.emulated.pktgen import Pktgen
from vswitch.emulated.role import Frame, Role
from vswitch.emulated.settings import EmulatedSpec
from vswitch.nodes.agent import FrameType

OWN, PEER = bytes.fromhex("02000000000b"), bytes.fromhex("02000000000a")


class MemoryRing:
    """A ring whose other side is the test. It holds `room` frames, and wakes the loop only for what that armed for.

    Without `room` it takes everything and forgets it.
    """

    def __init__(self, room: int | None) -> None:
        self.incoming: deque[bytes] = deque()
        self.outgoing: deque[bytes] = deque()
        self.received_at_once: list[int] = []
        self.full = threading.Event()
        self._room = room
        self._bell, self._rope = socket.socketpair()
        self._armed = (False, False)

    def send(self, frames: Sequence[Frame]) -> int:
        if self._room is None:
            return len(frames)
        taken = max(0, min(len(frames), self._room - len(self.outgoing)))
        self.outgoing.extend(bytes(frame) for frame in frames[:taken])
        if taken and len(self.outgoing) == self._room:
            self.full.set()
        return taken

    def receive(self, limit: int = 256) -> list[bytes]:
        taken = [self.incoming.popleft() for _ in range(min(limit, len(self.incoming)))]
        self.received_at_once.append(len(taken))
        return taken

    def arm(self, *, read: bool = True, write: bool = False) -> bool:
        self._armed = (read, write)
        return self._ready()

    def _ready(self) -> bool:
        read, write = self._armed
        return (read and bool(self.incoming)) or (write and (self._room is None or len(self.outgoing) < self._room))

    def disarm(self) -> None:
        self._bell.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)

    def fileno(self) -> int:
        return self._bell.fileno()

    def ring(self) -> None:
        """Something may have happened here."""
        if self._ready():
            self._rope.send(b"!")

    def close(self) -> None:
        self._bell.close()
        self._rope.close()


class Running:
    """A loop in a thread of its own."""

    def __init__(self, role: Role, ring: MemoryRing) -> None:
        self.ring = ring
        self.control, theirs = socket.socketpair()
        self.control.settimeout(10)
        self._theirs = theirs
        self._number = 0
        self._thread = threading.Thread(target=Loop(role, [ring], theirs).run, daemon=True)
        self._thread.start()
        self.frame()  # its greeting

    def frame(self) -> tuple[int, bytes]:
        size, _, kind = struct.unpack("<IIB", self._exactly(9))
        return kind, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.control.recv(size - len(data))
            assert piece
            data += piece
        return data

    def ask(self, command: str) -> str:
        """Run a command to its end and return its stdout."""
        self._number += 1
        payload = struct.pack("<BHHHH", 0, 0, 0, 1, 0) + b"\0" + command.encode() + b"\0"
        self.control.sendall(struct.pack("<IIB", len(payload), self._number, FrameType.EXEC) + payload)
        said = b""
        while True:
            kind, data = self.frame()
            if kind == FrameType.EXIT:
                return said.decode()
            said += data

    def end(self) -> None:
        self.control.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._theirs.close()
        self.ring.close()


@pytest.fixture
def running() -> Iterator[list[Running]]:
    made: list[Running] = []
    yield made
    for one in made:
        one.end()


def test_echo_with_little_room_loses_nothing_and_takes_no_more_than_it_can_answer(running: list[Running]) -> None:
    ring = MemoryRing(room=10)
    sent = [OWN + PEER + b"\x88\xb5" + struct.pack(">I", number).ljust(46, b"\0") for number in range(2000)]
    ring.incoming.extend(sent)
    node = Running(Echo([OWN]), ring)
    running.append(node)
    got: list[bytes] = []
    while len(got) < len(sent):
        node.ask("help")  # it answers whatever its rings do
        # Of what it has received, what is not echoed yet fits one batch.
        assert sum(ring.received_at_once) - len(got) <= 256 + 10
        while ring.outgoing:
            got.append(ring.outgoing.popleft())
        ring.ring()
    assert [frame[14:18] for frame in got] == [frame[14:18] for frame in sent]


def generator() -> Pktgen:
    return Pktgen(
        EmulatedSpec(role="pktgen", dst="02:00:00:00:00:0b", src="02:00:00:00:00:0a", size="60", rate="max"), 0
    )


def sent(node: Running) -> int:
    return int(json.loads(node.ask("stats"))["sent"])


def test_generator_at_full_speed_answers_commands(running: list[Running]) -> None:
    node = Running(generator(), MemoryRing(room=None))
    running.append(node)
    first = sent(node)
    assert sent(node) > first


def test_generator_without_room_sleeps_until_there_is_some(running: list[Running]) -> None:
    ring = MemoryRing(room=300)
    node = Running(generator(), ring)
    running.append(node)
    for _ in range(10):
        assert ring.full.wait(10), "it was not woken"
        ring.full.clear()
        rounds = len(ring.received_at_once)
        threading.Event().wait(0.02)  # in which nothing is to happen
        assert len(ring.received_at_once) - rounds <= 2, "it spins"
        assert len(ring.outgoing) == 300
        ring.outgoing.clear()
        ring.ring()


def test_loop_ends_when_the_control_socket_closes(running: list[Running]) -> None:
    node = Running(Echo([OWN]), MemoryRing(room=1))
    running.append(node)  # the fixture closes it, and insists
