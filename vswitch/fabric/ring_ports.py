"""Opening ring ports: the handshake of netmap_ring.h, over a socket in the lab's directory or one handed to a child.

A client asks for a port by name; it gets the port's memory and the means to wake the fabric, and the port exists until
the last descriptor of its socket is closed. Clients are not trusted: how many may ask at once is bounded, as are the
time they may take and what they may say.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .. import _ring
from ..errors import FabricError
from ..ports.ring import RingSpec

log = logging.getLogger(__name__)

_OPEN = struct.Struct("=IIIIII128s")
_OPENED = struct.Struct("=IIII256s")
_MAGIC, _VERSION = 0x52535756, 1
_MAX_ASKING = 128
_PATIENCE = 5.0  # s
_OUT_OF_DESCRIPTORS = 0.5  # s until the next try
_MAX_PORTS = 1024  # that clients may open on one network, as in a lab file (model/settings.py)
_MAX_PIPES = 1024  # waiting for their other end
_MAX_MEMORY = min(4 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
"""Bytes of buffers that clients may have of a fabric at a time, beyond what the lab gives them anyway."""
_DEFAULT = RingSpec()
_NAME = re.compile(
    r"(?P<network>[A-Za-z0-9][A-Za-z0-9_.-]{0,62}):(?P<port>[A-Za-z0-9][A-Za-z0-9_.-]{0,62})"
    r"(?:(?P<end>[{}])(?P<pipe>[A-Za-z0-9_]{1,16}))?"
)
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred

PortName = tuple[str, str]
"""Network and port."""


class Request(NamedTuple):
    """What a client asks for; 0 leaves the choice to us."""

    rings: int
    slots: int
    buf_size: int
    name: str


class _Pipe(NamedTuple):
    """A pipe of which one end has been opened: its memory and the other end's socket."""

    memory: int
    sock: socket.socket
    end: str
    uid: int
    geometry: RingSpec
    beyond: int


class RingPorts:
    """All ring ports of a fabric.

    `attach(network, port, fds)` makes the engine's port, with descriptors it takes over, and raises FabricError;
    `detach(network, port)` removes it; `changed(network, port, state, reason)` hears of every port that comes or goes;
    `exists(network)` tells which networks there are.
    """

    def __init__(
        self,
        attach: Callable[[str, str, list[int]], None],
        detach: Callable[[str, str], None],
        changed: Callable[[str, str, str, str], None],
        exists: Callable[[str], bool],
    ) -> None:
        self._attach = attach
        self._detach = detach
        self._changed = changed
        self._exists = exists
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._asking: dict[socket.socket, asyncio.TimerHandle] = {}
        self._declared: dict[PortName, RingSpec] = {}
        self._handed_down: dict[PortName, socket.socket] = {}
        self._open: dict[PortName, socket.socket] = {}
        self._beyond: dict[PortName, int] = {}
        """Bytes of open ports that count towards `_MAX_MEMORY`."""
        self._pipes: dict[str, _Pipe] = {}
        self._pipe_ends: dict[socket.socket, str] = {}
        self._generations = 0

    # --- what exists --------------------------------------------------------------------------------------------------

    def __contains__(self, name: PortName) -> bool:
        """Whether the name is taken, by a port that is open or declared."""
        return name in self._declared or name in self._handed_down or name in self._open

    def waiting(self) -> list[PortName]:
        """Ports that are declared but not open."""
        return [name for name in (*self._declared, *self._handed_down) if name not in self._open]

    def listen(self, listener: socket.socket) -> None:
        """Serve `listener`, a listening SOCK_SEQPACKET socket, which is ours from now on."""
        listener.setblocking(False)
        self._listener = listener
        self._listen()

    def declare(self, network: str, port: str, spec: RingSpec) -> None:
        """Have a port wait for a client that opens it by name."""
        self._declared[network, port] = spec

    def hand_down(self, network: str, port: str, sock: socket.socket) -> None:
        """Have a port wait for a client at the other end of `sock`, which is ours from now on."""
        name = (network, port)
        sock.setblocking(False)
        self._handed_down[name] = sock
        self._loop.add_reader(sock.fileno(), self._asked_below, name)

    def hand_down_pipe(self, name: str, ends: tuple[socket.socket, socket.socket]) -> None:
        """Have a pipe wait for the clients at the other ends of two sockets, which are ours from now on."""
        for sock, end in zip(ends, "{}", strict=True):
            sock.setblocking(False)
            self._pipe_ends[sock] = name
            self._loop.add_reader(sock.fileno(), self._asked_for_pipe, sock, end)

    def remove_pipe(self, name: str) -> None:
        """Forget what is still waited for of a pipe that was handed down."""
        for sock in [sock for sock, pipe in self._pipe_ends.items() if pipe == name]:
            del self._pipe_ends[sock]
            self._drop(sock)
        if name in self._pipes:
            self._forget_pipe(name)

    def remove(self, network: str, port: str) -> bool:
        """Forget a port, open or waiting; its client is hung up on. Return whether there was one."""
        name = (network, port)
        known = name in self
        self._declared.pop(name, None)
        handed_down = self._handed_down.pop(name, None)
        if name in self._open:
            self._hang_up(name)
        elif handed_down is not None:
            self._drop(handed_down)
        return known

    def remove_network(self, network: str) -> None:
        """Forget all ports of a network."""
        for name in [*self._declared, *self._handed_down, *self._open]:
            if name[0] == network:
                self.remove(*name)

    def port_ended(self, network: str, port: str) -> None:
        """Note that the engine has ended a port: the client hears of it by its socket."""
        sock = self._open.get((network, port))
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Hang up on everybody."""
        if self._listener is not None:
            self._drop(self._listener)
            self._listener = None
        for sock in list(self._asking):
            self._forget_asking(sock)
        for name in list({*self._declared, *self._handed_down, *self._open}):
            self.remove(*name)
        for pipe in {*self._pipes, *self._pipe_ends.values()}:
            self.remove_pipe(pipe)

    # --- sockets ------------------------------------------------------------------------------------------------------

    def _drop(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        sock.close()

    def _listen(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # gone again, or we are out of descriptors
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(_OUT_OF_DESCRIPTORS, self._listen)
            return
        if len(self._asking) >= _MAX_ASKING:  # whoever has waited longest says it now or never
            self._asked(next(iter(self._asking)))
        sock.setblocking(False)
        self._asking[sock] = self._loop.call_later(_PATIENCE, self._forget_asking, sock)
        self._loop.add_reader(sock.fileno(), self._asked, sock)

    def _forget_asking(self, sock: socket.socket) -> None:
        self._asking.pop(sock).cancel()
        self._drop(sock)

    def _asked(self, sock: socket.socket) -> None:
        """A client that has connected has sent its request, or has gone."""
        self._asking.pop(sock).cancel()
        self._loop.remove_reader(sock.fileno())
        needed = False
        with _answering(sock):
            request = _receive(sock)
            needed = request is not None and self._serve(sock, request)
        if not needed:
            sock.close()

    def _asked_below(self, name: PortName) -> None:
        """The client of a socket that was handed down has sent its request, or has gone."""
        sock = self._handed_down[name]
        self._loop.remove_reader(sock.fileno())
        with _answering(sock):
            request = _receive(sock)
            if request is not None:  # else whoever has made the port removes it
                self._open_port(sock, request, name, _DEFAULT, given=_DEFAULT.buffer_bytes())

    def _serve(self, sock: socket.socket, request: Request) -> bool:
        """Do what a request by name asks for. Return whether the socket is still needed."""
        match = _NAME.fullmatch(request.name)
        if match is None:
            raise FabricError(f"this is no port's name (NETWORK:PORT, such as vale0:p1): {request.name!r}")
        if match["pipe"]:
            if not self._exists(match["network"]):
                raise FabricError(f"{request.name}: there is no network {match['network']} in the fabric")
            pipe = match["network"] + ":" + match["port"] + ":" + match["pipe"]
            self._open_pipe(sock, request, pipe, match["end"], given=0)
            return False
        name = (match["network"], match["port"])
        if name in self._open or name in self._handed_down:
            raise FabricError(f"{request.name}: somebody has this port open already")
        if name not in self._declared and sum(open_name[0] == name[0] for open_name in self._open) >= _MAX_PORTS:
            raise FabricError(
                f"{request.name}: clients have opened {_MAX_PORTS} ports of this network; that is the most"
            )
        declared = self._declared.get(name)
        self._open_port(sock, request, name, declared or _DEFAULT, given=declared.buffer_bytes() if declared else 0)
        return True

    # --- ports --------------------------------------------------------------------------------------------------------

    def _create(self, name: str, geometry: RingSpec, halves: int) -> int:
        self._generations += 1
        return _ring.create(name, geometry.rings, geometry.slots, geometry.buf_size, halves, self._generations)

    def _take(self, geometry: RingSpec, given: int) -> int:
        """Return how many bytes `geometry` has beyond `given`. Raises FabricError where that is too many."""
        for problem in geometry.problems():
            raise FabricError(problem)
        beyond = max(0, geometry.buffer_bytes() - given)
        taken = sum(self._beyond.values()) + sum(pipe.beyond for pipe in self._pipes.values())
        if taken + beyond > _MAX_MEMORY:
            raise FabricError(
                f"clients have {_mib(taken)} of buffers of this lab's fabric; {_mib(beyond)} more would be beyond "
                f"the most they may have, {_mib(_MAX_MEMORY)}"
            )
        return beyond

    def _open_port(self, sock: socket.socket, request: Request, name: PortName, spec: RingSpec, *, given: int) -> None:
        """Make a port with what the request leaves open as `spec` has it, and `given` bytes of buffers for nothing."""
        geometry = _wanted(request, spec)
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as undo:
            memory = self._create(name[1], geometry, halves=1)
            ours.callback(os.close, memory)
            beyond = self._take(geometry, given)
            kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            ours.callback(os.close, kick)
            # The engine reads the memory's geometry before anybody else can write to it.
            self._attach(*name, _copies(kick, memory, sock.fileno()))
            undo.callback(self._detach, *name)
            socket.send_fds(sock, [_OPENED.pack(_MAGIC, _VERSION, 0, 0, b"")], [memory, kick])
            undo.pop_all()
        self._open[name] = sock
        self._beyond[name] = beyond
        self._loop.add_reader(sock.fileno(), self._hung_up, name)
        self._changed(*name, "up", "")

    def _hung_up(self, name: PortName) -> None:
        """The last descriptor of the client's socket has been closed, or it says something it has no business to."""
        self._hang_up(name)
        self._changed(*name, "closed", "the client closed it")

    def _hang_up(self, name: PortName) -> None:
        self._drop(self._open.pop(name))
        del self._beyond[name]
        self._handed_down.pop(name, None)
        self._detach(*name)

    # --- pipes --------------------------------------------------------------------------------------------------------

    def _asked_for_pipe(self, sock: socket.socket, end: str) -> None:
        name = self._pipe_ends.pop(sock)
        with _answering(sock):
            request = _receive(sock)
            if request is not None:
                self._open_pipe(sock, request, name, end, given=_DEFAULT.buffer_bytes())
        self._drop(sock)

    def _open_pipe(self, sock: socket.socket, request: Request, name: str, end: str, *, given: int) -> None:
        """Give out one end of a pipe: memory, and a socket to the other end. Afterwards it is none of our business."""
        waiting = self._pipes.get(name)
        uid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
        if waiting is None:
            if len(self._pipes) >= _MAX_PIPES:
                raise FabricError(f"{_MAX_PIPES} pipes wait for their other ends; that is the most")
            geometry = _wanted(request, _DEFAULT)
            memory = self._create(name, geometry, halves=2)
            try:
                beyond = self._take(geometry, given)
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except (FabricError, OSError):
                os.close(memory)
                raise
            self._pipes[name] = _Pipe(memory, ours, end, uid, geometry, beyond)
            self._loop.add_reader(ours.fileno(), self._pipe_readable, name)
            with theirs:
                _give_pipe(sock, memory, theirs, end)
            return
        if waiting.end == end:
            raise FabricError(f"this end of pipe {name} is open already; the other one is not")
        if waiting.uid != uid:
            raise FabricError(f"the other end of pipe {name} belongs to another user")
        asked = (request.rings, request.slots, request.buf_size)
        there = (waiting.geometry.rings, waiting.geometry.slots, waiting.geometry.buf_size)
        if any(wanted not in (0, has) for wanted, has in zip(asked, there, strict=True)):
            raise FabricError(
                f"the other end of pipe {name} has {there[0]} rings of {there[1]} slots of {there[2]} bytes"
            )
        _give_pipe(sock, waiting.memory, waiting.sock, end)
        self._forget_pipe(name)

    def _pipe_readable(self, name: str) -> None:
        """The one end that is open has been closed, or rung its bell: the other end will look without hearing it."""
        try:
            rung = self._pipes[name].sock.recv(1, socket.MSG_DONTWAIT)
        except OSError:
            rung = b""
        if not rung:
            self._forget_pipe(name)

    def _forget_pipe(self, name: str) -> None:
        pipe = self._pipes.pop(name)
        os.close(pipe.memory)
        self._drop(pipe.sock)


@contextlib.contextmanager
def _answering(sock: socket.socket) -> Iterator[None]:
    """Tell the client of `sock` why what it asked for failed. Even a mistake of ours is to cost this client alone."""
    try:
        yield
    except (FabricError, ValueError, OSError) as error:
        _refuse(sock, _reason(error))
    except Exception as error:
        log.exception("what a ring client asked for")
        _refuse(sock, f"internal error: {error!r}")


def _receive(sock: socket.socket) -> Request | None:
    """Read a request; None when there is none that could be answered."""
    try:
        data = sock.recv(_OPEN.size + 1)
    except OSError:
        return None
    if len(data) != _OPEN.size:
        return None
    magic, version, rings, slots, buf_size, _, name = _OPEN.unpack(data)
    if magic != _MAGIC:
        return None
    if version != _VERSION:
        _refuse(sock, f"this lab's fabric speaks version {_VERSION} of rings, not {version}")
        return None
    return Request(rings, slots, buf_size, name.split(b"\0")[0].decode(errors="replace"))


def _wanted(request: Request, spec: RingSpec) -> RingSpec:
    """What a request asks for, and where it leaves the choice to us, `spec`."""
    return RingSpec(
        rings=request.rings or spec.rings,
        slots=request.slots or spec.slots,
        buf_size=request.buf_size or spec.buf_size,
    )


def _mib(n: int) -> str:
    return f"{n / (1 << 20):.1f} MiB"


def _refuse(sock: socket.socket, reason: str) -> None:
    text = reason.encode()[:255].decode(errors="ignore").encode()  # cut between characters
    with contextlib.suppress(OSError):
        sock.send(_OPENED.pack(_MAGIC, _VERSION, 0, 0, text))


def _copies(*fds: int) -> list[int]:
    """Duplicate descriptors: all of them, or none where one fails. Raises OSError."""
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))
    except OSError:
        for fd in copies:
            os.close(fd)
        raise
    return copies


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _give_pipe(sock: socket.socket, memory: int, peer: socket.socket, end: str) -> None:
    half = 0 if end == "{" else 1
    socket.send_fds(sock, [_OPENED.pack(_MAGIC, _VERSION, half, 0, b"")], [memory, peer.fileno()])
