"""The switch's side of VDE: clients ask at a control directory, and get a pair of connected datagram sockets each.

A client's port exists until its control stream ends, which the kernel sees to when it dies. A frame is a datagram; the
engine's port type `dgram` moves them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from ..errors import FabricError
from .accept import accept
from .background import running
from .datagrams import enlarge_buffers
from .in_thread import Threads
from .peer_name import peer_credentials, peer_name
from .vde_directory import ControlDirectory
from .vde_request import MAX_PORT, MAX_REQUEST, VdeRequest, make_address, parse_request

MAX_CLIENTS = 256
"""Clients a directory serves at a time, those included that have not said yet what they want."""
_PATIENCE = 5.0  # s for a request
_ACCEPT_DELAY = 0.2  # s
_LOOK_UPS = 16  # at a time
_TELL_PAUSE = 1.0  # s
_BUFFER = 4 << 20  # bytes

Plug = Callable[[int, socket.socket, str], Coroutine[Any, Any, object]]
"""Is given a port's number, its connected datagram socket, to detach, and who the client is. Returns when the port has
ended; cancelled when the client has gone. Raises FabricError when there can be no such port."""


class _Refused(Exception):
    """A client cannot have what it asks for."""


def open_data_socket() -> socket.socket:
    """Return a datagram socket for frames, with large buffers."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    enlarge_buffers(sock, send=_BUFFER, receive=_BUFFER)
    return sock


class VdeServer:
    """Serves many clients at `directory`, each on a port of its own, which `plug` makes.

    `mode` and `group` are those of the directory's sockets. `refused(reason)` hears of clients that were turned away,
    once a second at most. Raises OSError.
    """

    def __init__(
        self,
        directory: Path,
        plug: Plug,
        refused: Callable[[str], None],
        *,
        mode: int = 0o600,
        group: int | None = None,
    ) -> None:
        self._directory = ControlDirectory(directory, mode=mode, group=group)
        self._plug = plug
        self._tell_refused = refused
        self._told_at = -_TELL_PAUSE
        self._taken: set[int] = set()
        self._threads = Threads(_LOOK_UPS)

    def close(self) -> None:
        """Remove the directory, if nobody serves it. Idempotent."""
        self._directory.close()

    async def serve(self) -> None:
        """Serve until cancelled; then all clients are hung up on, and the directory is removed."""
        clients: set[asyncio.Task[None]] = set()
        with contextlib.closing(self):
            async with asyncio.TaskGroup() as group:
                while True:
                    try:
                        control = await accept(self._directory.listener)
                    except OSError:  # out of descriptors, say: the client stays in the backlog
                        await asyncio.sleep(_ACCEPT_DELAY)
                        continue
                    if len(clients) == MAX_CLIENTS:
                        control.close()
                        self._refused(f"there are {MAX_CLIENTS} already")
                        continue
                    task = group.create_task(self._serve_client(control))
                    clients.add(task)
                    task.add_done_callback(clients.discard)

    async def _serve_client(self, control: socket.socket) -> None:
        with control:
            try:
                async with asyncio.timeout(_PATIENCE):
                    request, received = await _receive_request(control)
                with self._number(request.port) as number:
                    async with self._connected(number, request, control) as (data, path):
                        await self._plugged(number, data, path, control, received)
            except TimeoutError:
                self._refused("it did not say in time what it wants, or its socket is where nothing answers")
            except _Refused as refusal:
                self._refused(str(refusal))
            except FabricError as error:
                self._refused(str(error))
            except OSError as error:
                self._refused(error.strerror or str(error))

    def _refused(self, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= _TELL_PAUSE:
            self._told_at = now
            self._tell_refused(f"a client was refused: {reason}")

    @contextlib.contextmanager
    def _number(self, wanted: int | None) -> Iterator[int]:
        """A port's number, taken for as long as it exists."""
        if wanted in self._taken:
            raise _Refused(f"port {wanted} is taken")
        number = next(n for n in range(1, MAX_PORT) if n not in self._taken) if wanted is None else wanted
        self._taken.add(number)
        try:
            yield number
        finally:
            self._taken.discard(number)

    @contextlib.asynccontextmanager
    async def _connected(
        self, number: int, request: VdeRequest, control: socket.socket
    ) -> AsyncIterator[tuple[socket.socket, Path]]:
        """The datagram socket of a port, connected to its client's, and its path."""
        _, uid = peer_credentials(control)
        with open_data_socket() as data, self._directory.data_socket(data, number) as path:
            await self._connect(data, request.path, uid)
            try:
                yield data, path
            finally:
                self._directory.remove_left(Path(request.path))

    async def _connect(self, data: socket.socket, path: str, uid: int) -> None:
        """Connect `data` to a client's socket; what one that has gone meanwhile left is removed."""
        try:
            async with asyncio.timeout(_PATIENCE):  # the path may lead to a file system that hangs
                await self._threads.run(lambda: connect_to_client(data, path, uid))
        except _Refused:
            self._directory.remove_dead(Path(path))
            raise

    async def _plugged(
        self, number: int, data: socket.socket, path: Path, control: socket.socket, received: int
    ) -> None:
        """Have the port exist until it ends or its client goes."""
        async with (
            running(self._plug(number, data, peer_name(control))) as plug,
            running(hang_up(control, received)) as gone,
        ):
            await asyncio.sleep(0)  # begun, it has failed or not
            if not plug.done():
                await asyncio.get_running_loop().sock_sendall(control, make_address(str(path)))
            await asyncio.wait({plug, gone}, return_when=asyncio.FIRST_COMPLETED)
            if plug.done():
                plug.result()


async def _receive_request(control: socket.socket) -> tuple[VdeRequest, int]:
    """Return what the client asks for and how many bytes it took to say. Raises _Refused."""
    data = b""
    while True:
        piece = await asyncio.get_running_loop().sock_recv(control, MAX_REQUEST - len(data))
        if not piece:
            raise _Refused("it went before it had said what it wants")
        data += piece
        try:
            request = parse_request(data)
        except ValueError as error:
            raise _Refused(f"{error}") from None
        if request is not None:
            return request, len(data)


async def hang_up(control: socket.socket, received: int = 0) -> None:
    """Return when the peer has gone, or talks where there is nothing more to say: a late description at most."""
    while received <= MAX_REQUEST:
        try:
            piece = await asyncio.get_running_loop().sock_recv(control, MAX_REQUEST)
        except OSError:
            return
        if not piece:
            return
        received += len(piece)


def connect_to_client(data: socket.socket, path: str, uid: int) -> None:
    """Connect `data` to the datagram socket at `path` that user `uid` has named. Raises _Refused or OSError.

    It must be that user's own: a client could else have frames sent to any socket we may write to. What was looked at
    is what is connected to, whatever happens to the path. A client may make its socket inaccessible (libvdeplug does
    when told mode 0), which counts for others, not for the user that it and we are.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        raise _Refused(f"its socket {path!r}: {error.strerror}") from None
    try:
        there = os.fstat(fd)
        if not stat.S_ISSOCK(there.st_mode):
            raise _Refused(f"{path!r} is not a socket")
        if uid not in (0, there.st_uid):
            raise _Refused(f"socket {path!r} belongs to another user")
        if there.st_uid == os.geteuid() and not there.st_mode & stat.S_IWUSR:
            Path(f"/proc/self/fd/{fd}").chmod(stat.S_IMODE(there.st_mode) | stat.S_IWUSR)
        try:
            data.connect(f"/proc/self/fd/{fd}")
        except OSError as error:
            raise _Refused(f"connecting to its socket {path!r}: {error.strerror}") from None
    finally:
        os.close(fd)


class VdeCable(VdeServer):
    """A control directory for one client, whose frames have a socket before it comes: a VM's cable.

    `fd` is that datagram socket, for the engine's port type `dgram`, which has no peer until the client asks. A node
    driver does so:

        cable = VdeCable(directory)                         # in open_port()
        end = FabricEnd("dgram", (os.dup(cable.fd),))
        serving = spawn_task(cable.serve())                 # before QEMU is started with vde,sock=DIRECTORY
        serving.cancel()                                    # in stop(), then wait for it: the directory is removed
        cable.close()                                       # instead, where it was never served

    One client at a time is served. After it has gone, another may come, unless a frame was sent to the one that has
    gone: the engine's port ends then. `plugged` is set while a client is there. Raises OSError.
    """

    def __init__(self, directory: Path) -> None:
        self.plugged = asyncio.Event()
        super().__init__(directory, self._stay, lambda reason: None)
        self._data = open_data_socket()
        self._closing = contextlib.ExitStack()
        try:
            self._closing.callback(super().close)
            self._closing.enter_context(self._data)
            self._path = self._closing.enter_context(self._directory.data_socket(self._data, 1))
        except BaseException:
            self._closing.close()
            raise

    @property
    def fd(self) -> int:
        """The datagram socket, which stays the cable's own."""
        return self._data.fileno()

    def close(self) -> None:
        """Remove the directory, if nobody serves it. Idempotent."""
        self._closing.close()

    @contextlib.contextmanager
    def _number(self, wanted: int | None) -> Iterator[int]:
        if self._taken:
            raise _Refused("another is there")
        with super()._number(wanted) as number:
            yield number

    @contextlib.asynccontextmanager
    async def _connected(
        self, number: int, request: VdeRequest, control: socket.socket
    ) -> AsyncIterator[tuple[socket.socket, Path]]:
        _, uid = peer_credentials(control)
        await self._connect(self._data, request.path, uid)
        try:
            yield self._data, self._path
        finally:
            self._directory.remove_left(Path(request.path))

    async def _stay(self, number: int, data: socket.socket, peer: str) -> None:
        self.plugged.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.plugged.clear()
