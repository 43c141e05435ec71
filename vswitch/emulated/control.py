"""The node's side of the agent protocol (nodes/agent.h): commands come in, their output and exit codes go out. No I/O.

The same protocol as in a VM or a netns host, so that the coordinator needs nothing of its own for emulated nodes; but
what is run are a role's commands, not programs. `sh -c LINE`, which is how a lab file's checks run, means LINE.
"""

from __future__ import annotations

import shlex
import signal
import struct
from collections import deque
from collections.abc import Callable, Sequence

from ..nodes.agent import MAX_PAYLOAD, VERSION, WINDOW_OUT, FrameType
from .role import INTERRUPTED, USAGE, Reply

MAX_OUTPUT = 4 << 20
"""Bytes of one command's output that wait for a slow reader; a command with more is ended."""

_HEADER = struct.Struct("<IIB")
_EXEC = struct.Struct("<BHHHH")
_U32 = struct.Struct("<I")
_PIECE = 16 * 1024
_CTRL_C = b"\x03"
_ENDING = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL}


class ControlError(Exception):
    """The other side does not keep to the protocol."""


class _Session(Reply):
    """One command under way."""

    def __init__(self, send: Callable[[FrameType, bytes], None], *, tty: bool) -> None:
        self._send = send
        self._tty = tty
        self._pending: deque[tuple[FrameType, bytes]] = deque()
        self._pending_size = 0
        self._window = WINDOW_OUT
        self._code: int | None = None
        self.finished = False  # EXIT has been sent

    def out(self, text: str) -> None:
        self._write(FrameType.STDOUT, text)

    def err(self, text: str) -> None:
        self._write(FrameType.STDERR, text)

    def _write(self, kind: FrameType, text: str) -> None:
        if self._code is not None:
            return
        data = (text.replace("\n", "\r\n") if self._tty else text).encode(errors="replace")
        if self._pending_size + len(data) > MAX_OUTPUT:
            self.cancel()
            self.exit(1)
            return
        for at in range(0, len(data), _PIECE):
            self._pending.append((kind, data[at : at + _PIECE]))
        self._pending_size += len(data)
        self.flush()

    def exit(self, code: int = 0) -> None:
        if self._code is None:
            self._code = code
            self.flush()

    def cancel(self) -> None:
        """Whoever asked has hung up or interrupted."""
        cancelled, self.cancelled = self.cancelled, None
        if cancelled is not None and self._code is None:
            cancelled()

    def interrupt(self) -> None:
        """End the command as SIGINT does; it may have last words."""
        self.cancel()
        self.exit(INTERRUPTED)

    def hang_up(self) -> None:
        """Nobody reads any more."""
        self._pending.clear()
        self._pending_size = 0
        self.interrupt()
        self._pending.clear()
        self.flush()

    def acknowledged(self, size: int) -> None:
        """The reader has taken `size` bytes."""
        self._window = min(self._window + size, WINDOW_OUT)
        self.flush()

    def flush(self) -> None:
        """Send what the window allows, and the exit code after everything else."""
        while self._pending and self._window >= len(self._pending[0][1]):
            kind, data = self._pending.popleft()
            self._window -= len(data)
            self._pending_size -= len(data)
            self._send(kind, data)
        if self._code is not None and not self._pending and not self.finished:
            self.finished = True
            self._send(FrameType.EXIT, _U32.pack(self._code))


class Control:
    """One connection. `run(argv, reply)` is called for every command; `output` is what to send."""

    def __init__(self, run: Callable[[Sequence[str], Reply], None], warnings: Sequence[str] = ()) -> None:
        self._run = run
        self._in = bytearray()
        self._out = bytearray()
        self._sessions: dict[int, _Session] = {}
        greeting = _U32.pack(VERSION) + b"".join(warning.encode() + b"\0" for warning in warnings)
        self._frame(0, FrameType.HELLO, greeting)

    @property
    def output(self) -> bytearray:
        """Bytes waiting to be sent; whoever sends some deletes them from it."""
        return self._out

    def received(self, data: bytes) -> None:
        """Take what came in. Raises ControlError."""
        self._in += data
        while len(self._in) >= _HEADER.size:
            size, number, kind = _HEADER.unpack_from(self._in)
            if size > MAX_PAYLOAD:
                raise ControlError(f"a frame of {size} bytes")
            if len(self._in) < _HEADER.size + size:
                break
            payload = bytes(self._in[_HEADER.size : _HEADER.size + size])
            del self._in[: _HEADER.size + size]
            self._take(number, kind, payload)

    def _frame(self, number: int, kind: FrameType, payload: bytes) -> None:
        self._out += _HEADER.pack(len(payload), number, kind) + payload

    def _take(self, number: int, kind: int, payload: bytes) -> None:
        session = self._sessions.get(number)
        if kind == FrameType.EXEC:
            self._exec(number, payload)
        elif session is None:
            return  # it has ended meanwhile
        elif kind == FrameType.ACK and len(payload) == _U32.size:
            session.acknowledged(*_U32.unpack(payload))
        elif kind == FrameType.STDIN:
            self._frame(number, FrameType.ACK, _U32.pack(len(payload)))  # no command reads it
            if _CTRL_C in payload:
                session.interrupt()
        elif kind == FrameType.SIGNAL:
            if payload and payload[0] in _ENDING:
                session.interrupt()
        elif kind == FrameType.CLOSE:
            session.hang_up()

    def _exec(self, number: int, payload: bytes) -> None:
        if number in self._sessions or len(payload) < _EXEC.size:
            raise ControlError("a command that makes no sense")
        tty, _, _, argc, _ = _EXEC.unpack_from(payload)
        words = payload[_EXEC.size :].decode(errors="surrogateescape").split("\0")[1 : 1 + argc]

        def send(kind: FrameType, data: bytes) -> None:
            self._frame(number, kind, data)
            if kind == FrameType.EXIT:
                self._sessions.pop(number, None)

        session = self._sessions[number] = _Session(send, tty=bool(tty))
        try:
            argv = shlex.split(words[2]) if words[:2] == ["sh", "-c"] and len(words) == 3 else words
        except ValueError as error:
            session.err(f"{words[2][:60]!r}: {error}\n")
            session.exit(USAGE)
            return
        self._run(argv, session)
