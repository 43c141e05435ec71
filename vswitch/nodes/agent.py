"""The coordinator's end of the agent protocol: runs commands inside a node, over any connected stream socket.

The protocol is specified in agent.h; this is the whole of it once more, as the checks here see it. A frame is

    u32 length of payload, at most 65536 | u32 session | u8 type | payload          (little-endian)

and the first one a node sends is HELLO. For every EXEC the node sends any STDOUT, STDERR and ACK frames and, last, one
EXIT. It never has more than `WINDOW_OUT` bytes of a session's output unacknowledged, nor acknowledges input it was not
sent. A node is not trusted: the first frame that breaks a rule ends the channel, and only that node's.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import AgentError, MachineError
from . import __path__ as directories
from .driver import ExecRequest, ExecSession, Exit, Output

VERSION = 1
MAX_PAYLOAD = 65536
WINDOW_OUT = 256 * 1024
WINDOW_IN = 64 * 1024
WINDOW_LINE = 2048

_HEADER = struct.Struct("<IIB")
_EXEC = struct.Struct("<BHHHH")
_SIZE = struct.Struct("<HH")
_U32 = struct.Struct("<I")
_ACK_EVERY = WINDOW_OUT // 4
_MAX_PIECE = 16 * 1024
_MERGE_BELOW = 4096  # bytes; shorter pieces waiting to be read are joined, so that many tiny ones stay few objects
_MAX_WARNINGS = 16


class FrameType(IntEnum):
    """Types of frames; see agent.h for their payloads."""

    HELLO = 1
    EXEC = 2
    STDIN = 3
    STDIN_EOF = 4
    RESIZE = 5
    SIGNAL = 6
    CLOSE = 7
    ACK = 8
    STDOUT = 9
    STDERR = 10
    EXIT = 11
    TAKEN = 12


_STREAMS: dict[int, Literal["stdout", "stderr"]] = {FrameType.STDOUT: "stdout", FrameType.STDERR: "stderr"}


class Hello(NamedTuple):
    """What an agent says first: what it could not set up in the node, in words for the user."""

    version: int
    warnings: tuple[str, ...]


@functools.cache
def agent_program() -> Path:
    """Path of the vswitch-agent program. Raises MachineError when it has not been built."""
    for directory in directories:
        path = Path(directory) / "vswitch-agent"
        if path.exists():
            return path
    raise MachineError("the vswitch-agent program is not built; run: ./dev build")


class AgentChannel:
    """A connection to one node's agent.

    `on_lost`, if given, is called once with the reason when the channel ends without `close` having been called.
    On a serial `line`, at most `WINDOW_LINE` bytes are under way that the node has not said it has taken.
    """

    def __init__(self, on_lost: Callable[[str], None] | None = None, *, line: bool = False) -> None:
        self._on_lost = on_lost
        self._line = _LineWindow() if line else None
        self._wire = _Wire(self)
        self._buffer = bytearray()
        self._sessions: dict[int, AgentSession] = {}
        self._last_session = 0
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._lost: str | None = None

    async def open(self, sock: socket.socket) -> None:
        """Take over `sock`, a connected unix stream socket."""
        sock.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._wire, sock=sock)

    @property
    def hello(self) -> Hello | None:
        """The agent's greeting, None until it has come."""
        done = self._hello.done() and not self._hello.cancelled() and self._hello.exception() is None
        return self._hello.result() if done else None

    async def wait_hello(self) -> Hello:
        """Wait for the agent's greeting, without limit. Raises AgentError when the channel is lost before."""
        return await asyncio.shield(self._hello)

    async def exec(self, request: ExecRequest) -> AgentSession:
        """Start a command. Raises AgentError when the channel is lost or the request exceeds 64 KiB.

        A program that cannot be started ends as in a shell: the reason on stderr, and exit code 127 or 126.
        """
        rows, columns = request.tty or (0, 0)
        head = _EXEC.pack(request.tty is not None, rows, columns, len(request.argv), len(request.env))
        strings = [request.cwd or "", *request.argv, *(f"{name}={value}" for name, value in request.env.items())]
        encoded = [string.encode(errors="surrogateescape") for string in strings]
        if any(b"\0" in string for string in encoded):
            raise AgentError("a command, its directory and its environment cannot contain NUL")
        payload = head + b"".join(string + b"\0" for string in encoded)
        if len(payload) > MAX_PAYLOAD:
            raise AgentError(f"the command line and environment are {len(payload)} bytes long; at most {MAX_PAYLOAD}")
        await self._writable()
        self._last_session = self._last_session % 0xFFFFFFFF + 1
        session = AgentSession(self, self._last_session)
        self._sessions[session.number] = session
        self._send(session.number, FrameType.EXEC, payload)
        return session

    async def close(self) -> None:
        """Disconnect; sessions still open end with AgentError. Idempotent."""
        self._end("the channel was closed", report=False)
        if self._wire.transport is not None:
            await self._wire.closed.wait()

    # --- for AgentSession -------------------------------------------------------------------------------------------

    def _send(self, session: int, kind: FrameType, payload: bytes = b"") -> None:
        if self._lost is None and self._wire.transport is not None:
            frame = _HEADER.pack(len(payload), session, kind) + payload
            if self._line is None:
                self._wire.transport.write(frame)
            else:
                self._wire.transport.write(self._line.send(frame))
                self._pace()

    def _pace(self) -> None:
        """Have senders wait while more than a window's worth is waiting itself."""
        if self._line is not None and self._lost is None:
            if self._line.full:
                self._wire.writable.clear()
            else:
                self._wire.writable.set()

    async def _writable(self) -> None:
        """Wait until the node reads what it was sent. Raises AgentError when the channel is lost."""
        await self._wire.writable.wait()
        if self._lost is not None:
            raise AgentError(self._lost)

    # --- receiving --------------------------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _HEADER.size:
                length, session, kind = _HEADER.unpack_from(self._buffer, at)
                if length > MAX_PAYLOAD:
                    raise AgentError(f"sent a frame of {length} bytes; at most {MAX_PAYLOAD} are allowed")
                start = at + _HEADER.size
                if len(self._buffer) < start + length:
                    break
                at = start + length
                self._frame(session, kind, bytes(self._buffer[start:at]))
        except AgentError as error:
            self._end(f"the node's agent broke its protocol: it {error}")
            return
        del self._buffer[:at]

    def _frame(self, number: int, kind: int, payload: bytes) -> None:
        if not self._hello.done():
            self._greeted(number, kind, payload)
            return
        if kind == FrameType.TAKEN and number == 0 and len(payload) == _U32.size and self._line is not None:
            assert self._wire.transport is not None
            self._wire.transport.write(self._line.taken(*_U32.unpack(payload)))
            self._pace()
            return
        session = self._sessions.get(number)
        if session is None:
            raise AgentError(f"sent a frame of type {kind} for session {number}, which does not exist")
        if kind in _STREAMS:
            session._output(_STREAMS[kind], payload)
        elif kind == FrameType.ACK and len(payload) == _U32.size:
            session._acknowledged(*_U32.unpack(payload))
        elif kind == FrameType.EXIT and len(payload) == _U32.size:
            session._exited(*_U32.unpack(payload))
            del self._sessions[number]
        else:
            raise AgentError(f"sent a frame of type {kind} and {len(payload)} bytes, which means nothing")

    def _greeted(self, number: int, kind: int, payload: bytes) -> None:
        if kind != FrameType.HELLO or number != 0 or len(payload) < _U32.size:
            raise AgentError(f"began with a frame of type {kind} instead of a greeting")
        (version,) = _U32.unpack_from(payload)
        if version != VERSION:
            raise AgentError(f"speaks version {version}, not {VERSION}")
        words = payload[_U32.size :].decode(errors="replace").split("\0")[:-1]
        self._hello.set_result(Hello(version, tuple(words[:_MAX_WARNINGS])))

    def _end(self, reason: str, *, report: bool = True) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        self._buffer.clear()
        self._wire.writable.set()
        if self._wire.transport is not None:
            self._wire.transport.abort()
        if not self._hello.done():
            self._hello.set_exception(AgentError(reason))
            self._hello.exception()  # nobody need be waiting
        for session in self._sessions.values():
            session._lost(reason)
        self._sessions.clear()
        if report and self._on_lost is not None:
            self._on_lost(reason)


class _LineWindow:
    """Bytes waiting for room on a serial line, of which the node takes `WINDOW_LINE` at a time."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._under_way = 0

    @property
    def full(self) -> bool:
        """Whether a sender that can wait should."""
        return len(self._waiting) > MAX_PAYLOAD

    def send(self, data: bytes) -> bytes:
        """Queue `data`, and return what may be written now."""
        self._waiting += data
        room = WINDOW_LINE - self._under_way
        now = bytes(self._waiting[:room])
        del self._waiting[:room]
        self._under_way += len(now)
        return now

    def taken(self, count: int) -> bytes:
        """Note that the node has taken `count` bytes, and return what may be written now. Raises AgentError."""
        if count > self._under_way:
            raise AgentError(f"took {count} bytes of {self._under_way}")
        self._under_way -= count
        return self.send(b"")


class _Wire(asyncio.Protocol):
    """Passes what asyncio has to say on to the channel."""

    def __init__(self, channel: AgentChannel) -> None:
        self._channel = channel
        self.transport: asyncio.Transport | None = None
        self.writable = asyncio.Event()
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._channel._lost is None:
            self.writable.set()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._channel._lost is None:
            self._channel._received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()
        # A reset only tells that it went without reading all we sent.
        why = "" if error is None or isinstance(error, ConnectionError) else f": {error}"
        self._channel._end(f"the node's agent is gone{why}")

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


class AgentSession(ExecSession):
    """One command. Holds at most `WINDOW_OUT` bytes of its output; the node stops reading from it beyond that."""

    def __init__(self, channel: AgentChannel, number: int) -> None:
        self.number = number
        self._channel = channel
        self._events: deque[Output | Exit] = deque()
        self._news = asyncio.Event()
        self._unacknowledged = 0  # bytes the node has sent and we have not acknowledged
        self._taken = 0  # of these, bytes our reader has taken
        self._input_room = WINDOW_IN
        self._input_news = asyncio.Event()
        self._input_ended = False
        self._over = False  # EXIT came, or the channel is lost
        self._failure: str | None = None
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[Output | Exit]:
        while not self._closed:
            if self._events:
                event = self._events.popleft()
                if isinstance(event, Output):
                    self._take(len(event.data))
                yield event
                if isinstance(event, Exit):
                    return
            elif self._failure is not None:
                raise AgentError(self._failure)
            elif self._over:
                return
            else:
                self._news.clear()
                await self._news.wait()

    async def write(self, data: bytes) -> None:
        """Send `data` to the command's stdin, `b""` closes it. Raises AgentError when the channel is lost.

        What is sent to a command that has ended, or closed its stdin, is lost without a word, as in a pipe to `true`.
        """
        if not data and not self._input_ended:
            self._input_ended = True
            await self._send(FrameType.STDIN_EOF)
        at = 0
        while at < len(data) and not (self._over or self._closed or self._input_ended):
            if self._input_room == 0:
                self._input_news.clear()
                await self._input_news.wait()
                continue
            piece = data[at : at + min(_MAX_PIECE, self._input_room)]
            self._input_room -= len(piece)
            at += len(piece)
            await self._send(FrameType.STDIN, piece)
        if self._failure is not None:
            raise AgentError(self._failure)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the command's terminal its new size."""
        await self._send(FrameType.RESIZE, _SIZE.pack(rows & 0xFFFF, columns & 0xFFFF))

    async def signal(self, number: int) -> None:
        """Send signal `number` to the command's process group."""
        await self._send(FrameType.SIGNAL, bytes([number & 0xFF]))

    async def close(self) -> None:
        """Hang up: the command gets SIGHUP, half a second later SIGKILL. Does not wait for its end. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._events.clear()
        self._wake()
        if not self._over:
            self._channel._send(self.number, FrameType.CLOSE)

    async def _send(self, kind: FrameType, payload: bytes = b"") -> None:
        if not (self._over or self._closed):
            await self._channel._writable()
            self._channel._send(self.number, kind, payload)

    def _take(self, size: int) -> None:
        """Our reader has taken `size` bytes: acknowledge, a good many at once."""
        self._taken += size
        if self._taken >= _ACK_EVERY and not self._over:
            self._channel._send(self.number, FrameType.ACK, _U32.pack(self._taken))
            self._unacknowledged -= self._taken
            self._taken = 0

    def _wake(self) -> None:
        self._news.set()
        self._input_news.set()

    def _output(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        self._unacknowledged += len(data)
        if self._unacknowledged > WINDOW_OUT:
            raise AgentError(f"sent more than the {WINDOW_OUT} bytes of output it may send unacknowledged")
        if not data:
            raise AgentError("sent an empty piece of output")
        if self._closed:
            return  # hung up on; what was under way still counts against its window
        last = self._events[-1] if self._events else None
        if isinstance(last, Output) and last.stream == stream and len(last.data) < _MERGE_BELOW:
            self._events[-1] = Output(stream, last.data + data)
        else:
            self._events.append(Output(stream, data))
        self._news.set()

    def _acknowledged(self, size: int) -> None:
        if size > WINDOW_IN - self._input_room:
            raise AgentError("acknowledged more input than it was sent")
        self._input_room += size
        self._input_news.set()

    def _exited(self, code: int) -> None:
        if code > 255:
            raise AgentError(f"reported an exit code of {code}")
        self._over = True
        if not self._closed:
            self._events.append(Exit(code))
        self._wake()

    def _lost(self, reason: str) -> None:
        self._over = True
        self._failure = reason
        self._wake()
