"""The loop of an emulated node's process: frames from its rings to its role and back, and its commands.

One thread does it all. It sleeps in select(2), whose timeout is finer than poll's, and which is enough for the few
descriptors there are; nothing in it waits for anything else.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from .control import Control, ControlError
from .role import Frame, Reply, Role

BATCH = 256
MAX_FRAME = 69632
"""Bytes a ring takes at most, in several slots."""
_MAX_RECEIVE = 65536
_MAX_UNSENT = 1 << 20  # bytes of replies; above it no further command is read


class RingPort(Protocol):
    """What is used of a `vswitch.ring.Ring`."""

    def send(self, frames: Sequence[Frame]) -> int:
        """Send; return how many of the frames there was room for."""

    def receive(self, limit: int = ...) -> list[bytes]:
        """Frames that have come in."""

    def arm(self, *, read: bool = ..., write: bool = ...) -> bool:
        """Ask to be woken; True when there is no need to sleep, because it is ready already."""

    def disarm(self) -> None:
        """Silence the descriptor after sleeping. Raises RingError when the fabric is gone."""

    def fileno(self) -> int:
        """Readable when something has happened that was armed for."""


class _Port:
    """A ring, and the answers there was no room for yet: until they are sent, no more is received there."""

    def __init__(self, ring: RingPort) -> None:
        self.ring = ring
        self.unsent: deque[Frame] = deque()

    def flush(self) -> None:
        while self.unsent:
            taken = self.ring.send(list(self.unsent)[:BATCH])
            if taken == 0:
                return
            for _ in range(taken):
                self.unsent.popleft()


class Loop:
    """Runs `role` on `rings` until the control socket closes. Raises RingError when the fabric is gone."""

    def __init__(self, role: Role, rings: Sequence[RingPort], control: socket.socket) -> None:
        self._role = role
        self._ports = [_Port(ring) for ring in rings]
        self._socket = control
        self._control = Control(self._command)
        self._open = True
        self._blocked: int | None = None  # port whose ring had no room for what the role sends of itself
        control.setblocking(False)

    def run(self) -> None:
        """Serve until told to end."""
        self._write_control()
        self._role.begin(time.monotonic_ns())
        while self._open:
            if not self._pass_frames():
                self._sleep()

    def _command(self, argv: Sequence[str], reply: Reply) -> None:
        self._role.command(argv, reply, time.monotonic_ns())

    # --- frames -----------------------------------------------------------------------------------------------------

    def _pass_frames(self) -> bool:
        """Do one round; return whether there may be more to do at once."""
        busy = False
        for number, port in enumerate(self._ports):
            port.flush()
            if port.unsent:
                continue
            frames = port.ring.receive(BATCH)
            if frames:
                busy = True
                port.unsent.extend(self._role.handle(number, frames, time.monotonic_ns()))
                port.flush()
        due = self._role.due()
        if due is not None and due <= time.monotonic_ns() and self._blocked is None:
            busy = self._emit() or busy
        if busy:
            self._serve_control(0.0)
        return busy

    def _emit(self) -> bool:
        number, frames = self._role.emit(time.monotonic_ns(), BATCH)
        if not frames:
            return False
        if number >= len(self._ports):
            self._role.sent(len(frames), time.monotonic_ns())  # an interface in no link: a cable into nowhere
            return True
        port = self._ports[number]
        taken = 0 if port.unsent else port.ring.send(frames)
        self._role.sent(taken, time.monotonic_ns())
        if taken < len(frames):
            self._blocked = number
        return taken > 0

    # --- sleeping ---------------------------------------------------------------------------------------------------

    def _sleep(self) -> None:
        blocked, self._blocked = self._blocked, None
        ready = False
        for number, port in enumerate(self._ports):
            waits = bool(port.unsent) or number == blocked
            ready = port.ring.arm(read=not port.unsent, write=waits) or ready
        timeout = 0.0 if ready else self._timeout(blocked)
        try:
            self._serve_control(timeout)
        finally:
            for port in self._ports:
                port.ring.disarm()

    def _timeout(self, blocked: int | None) -> float | None:
        due = self._role.due()
        if due is None or blocked is not None:
            return None
        return max(due - time.monotonic_ns(), 0) / 1e9

    def _serve_control(self, timeout: float | None) -> None:
        """Wait at most so long (None: for ever) for frames or the control socket, and serve the latter."""
        reading = [port.ring.fileno() for port in self._ports] if timeout != 0.0 else []
        if len(self._control.output) < _MAX_UNSENT:
            reading.append(self._socket.fileno())
        writing = [self._socket.fileno()] if self._control.output else []
        readable, writable, _ = select.select(reading, writing, [], timeout)
        if self._socket.fileno() in readable:
            self._read_control()
        if self._control.output or writable:
            self._write_control()

    # --- control ----------------------------------------------------------------------------------------------------

    def _read_control(self) -> None:
        try:
            data = self._socket.recv(_MAX_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._open = False
            return
        try:
            self._control.received(data)
        except ControlError:
            self._open = False

    def _write_control(self) -> None:
        output = self._control.output
        try:
            while output:
                del output[: self._socket.send(output)]
        except BlockingIOError:
            pass
        except OSError:
            self._open = False
