"""Port type `stream` facing outside: a server or client for QEMU's `stream` and `socket` netdevs; see stream.c."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from typing import Literal

from ..errors import FabricError
from ..model.spec import Duration
from .accept import accept
from .address import check_address, own_address, split_host_port, unix_path
from .backoff import LONGEST, Backoff
from .peer_name import peer_name
from .port import Attach, Descriptor, PortSpec, Status, attach_owned
from .unix_file import bound_unix, remove_dead

MAX_CLIENTS = 256
"""Clients one listening port serves at a time; more are turned away."""
_BACKLOG = 64
_CONNECT_TIMEOUT = 10.0
_ACCEPT_DELAY = 0.2
_KEEPALIVE = 10.0
_KEEP_COUNT = 3

_LONGEST_TIME = 3600.0  # s


class StreamSpec(PortSpec, frozen=True, kw_only=True, tag="stream"):
    """Exactly one of `listen`, `connect` and `fd`, a socket that either is connected or listens.

    Addresses are "127.0.0.1:7001", "[::1]:7001", "unix:/path" or, abstract, "unix:@name". A listening port serves many
    clients, each a port NAME#1, NAME#2, ... of the network, or `one` at a time, as the port NAME. A connecting one
    tries again whenever it is not connected, at intervals that grow up to `reconnect` (5s; 0s: never again). A TCP peer
    that has vanished is noticed about 3 x `keepalive` (10s; 0s: not looked after) later.
    """

    listen: str | None = None
    connect: str | None = None
    fd: Descriptor | None = None
    clients: Literal["many", "one"] | None = None
    reconnect: Duration | None = None
    keepalive: Duration | None = None

    def problems(self) -> list[str]:
        """Check that there is one address, that it is one, and that what else is said is about its sort."""
        addresses = [address for address in (self.listen, self.connect) if address is not None]
        if len(addresses) + (self.fd is not None) != 1:
            return ["give exactly one of: listen, connect, fd"]
        found = []
        for address in addresses:
            try:
                check_address(address)
            except ValueError as error:
                found.append(str(error))
        if self.clients is not None and self.connect is not None:
            found.append("clients is for a port that listens")
        if self.reconnect is not None and self.connect is None:
            found.append("reconnect is for a port that connects")
        if max(self.reconnect or 0, self.keepalive or 0) > _LONGEST_TIME:
            found.append("reconnect and keepalive are at most 1h")
        return found

    def many_peers(self) -> bool:
        """A listening port serves many clients, unless it is told otherwise; of an `fd` one cannot know before."""
        return self.clients == "many" or (self.listen is not None and self.clients is None)

    def exclusive(self) -> dict[str, str]:
        """The address listened at."""
        return {} if self.listen is None else {"listen": own_address(self.listen, "TCP")}

    def remove_left(self) -> None:
        """Remove the socket that was listened at."""
        path = None if self.listen is None else unix_path(self.listen)
        if path is not None:
            remove_dead(path, socket.SOCK_STREAM)

    async def serve(self, attach: Attach, status: Status) -> None:
        """Listen or connect, for good. Raises FabricError when listening is impossible."""
        if self.fd is not None:
            await self._serve_descriptor(self.fd, attach, status)
        elif self.listen is not None:
            try:
                family, sockaddr = (await _resolve(self.listen, passive=True))[0]
                with _listening(family, sockaddr) as listener:
                    await self._serve_clients(listener, attach, status)
            except OSError as error:
                raise FabricError(f"listening on {self.listen}: {error.strerror}") from None
        elif self.connect is not None:
            await self._stay_connected(self.connect, attach, status)

    async def _serve_descriptor(self, fd: int, attach: Attach, status: Status) -> None:
        with _socket_of(fd) as sock:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                await self._serve_clients(sock, attach, status)
                return
            if self.clients is not None:
                raise FabricError("clients is for a port that listens; this fd is connected")
            try:
                sock.getpeername()
            except OSError:
                raise FabricError("the fd is a socket that neither listens nor is connected") from None
            self._tune(sock)
            status("connected")
            peer = peer_name(sock)
            await attach("stream", [sock.detach()], peer=peer)

    async def _serve_clients(self, listener: socket.socket, attach: Attach, status: Status) -> None:
        listener.setblocking(False)
        status("listening")
        numbers = itertools.count(1)
        clients: set[asyncio.Task[None]] = set()

        def client_gone(task: asyncio.Task[None]) -> None:
            clients.discard(task)
            if len(clients) == MAX_CLIENTS - 1:
                status("listening")

        async with asyncio.TaskGroup() as group:
            while True:
                client = await _accept(listener, status)
                try:
                    self._tune(client)
                except OSError:  # it is gone already
                    client.close()
                    continue
                if self.clients == "one":  # others wait in the backlog
                    await _serve_client(client, attach, "")
                    status("listening")
                    continue
                if len(clients) == MAX_CLIENTS:
                    client.close()
                    status("full", f"{MAX_CLIENTS} clients are connected; more are turned away")
                    continue
                task = group.create_task(_serve_client(client, attach, f"#{next(numbers)}"))
                clients.add(task)
                task.add_done_callback(client_gone)

    async def _stay_connected(self, address: str, attach: Attach, status: Status) -> None:
        longest = LONGEST if self.reconnect is None else self.reconnect
        backoff = Backoff(longest=longest)
        if longest:
            status("connecting")
        while True:
            try:
                sock = await _connect(address)
            except OSError as error:
                reason = f"connecting to {address}: {_why(error)}"
                if not longest:
                    raise FabricError(reason) from None
                status("connecting", reason)
            else:
                if not longest:
                    status("connected")
                begun = asyncio.get_running_loop().time()
                with contextlib.suppress(OSError):
                    self._tune(sock)
                await _serve_client(sock, attach, "")
                if not longest:
                    return
                backoff.lasted(asyncio.get_running_loop().time() - begun)
                status("connecting")
            await backoff.wait()

    def _tune(self, sock: socket.socket) -> None:
        """Have TCP send at once, and notice a peer that has vanished without a word. Raises OSError."""
        if sock.family == socket.AF_UNIX:
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        idle = _KEEPALIVE if self.keepalive is None else self.keepalive
        if not idle:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(idle)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(idle / 2)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEP_COUNT)
        # The same limit for what it owes us an acknowledgement of, when probes are not sent.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1000, round(idle * 3000)))


def _socket_of(fd: int) -> socket.socket:
    """Make a socket object of `fd`, which is closed if that cannot be. Raises FabricError."""
    sock = None
    try:
        sock = socket.socket(fileno=fd)
        if sock.type == socket.SOCK_STREAM:
            return sock
    except OSError:
        with contextlib.suppress(OSError):
            socket.close(fd)
    else:
        sock.close()
    raise FabricError("the fd is not a stream socket")


async def _resolve(address: str, *, passive: bool) -> list[tuple[int, str | tuple[object, ...]]]:
    """Return the address family and the socket address, all there are. Raises OSError."""
    path = unix_path(address)
    if path is not None:
        return [(socket.AF_UNIX, path)]
    host, port = split_host_port(address)
    flags = socket.AI_PASSIVE if passive else 0
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(info[0], info[4]) for info in infos]


async def _accept(listener: socket.socket, status: Status) -> socket.socket:
    """Return the next client, however long that takes; what is wrong with accepting meanwhile is told."""
    troubled = False
    while True:
        if troubled and _can_open():
            troubled = False
            status("listening")
        try:
            client = await accept(listener)
        except OSError as error:  # out of descriptors, say: the client stays in the backlog
            troubled = True
            status("listening", f"cannot accept a client: {error.strerror}")
            await asyncio.sleep(_ACCEPT_DELAY)
        else:
            return client


def _can_open() -> bool:
    """Whether there is a descriptor to be had."""
    try:
        os.close(os.open("/", os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return False
    return True


async def _serve_client(client: socket.socket, attach: Attach, label: str) -> None:
    peer = peer_name(client)
    with contextlib.suppress(FabricError):  # it was gone before it was taken in
        await attach_owned(attach, "stream", [client.detach()], label, peer=peer)


@contextlib.contextmanager
def _listening(family: int, sockaddr: str | tuple[object, ...]) -> Iterator[socket.socket]:
    """Bind and listen; a unix socket's file is removed afterwards. Raises OSError."""
    with contextlib.ExitStack() as stack:
        if isinstance(sockaddr, str):
            listener = stack.enter_context(bound_unix(sockaddr, socket.SOCK_STREAM))
        else:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(sockaddr)
        listener.listen(_BACKLOG)
        yield listener


def _why(error: OSError) -> str:
    """What went wrong with connecting; asyncio's own text has the address once more, and not the reason."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or "no answer"


async def _connect(address: str) -> socket.socket:
    """Return a connected socket, of the first address that answers. Raises OSError, with the last one's reason."""
    async with asyncio.timeout(_CONNECT_TIMEOUT):
        refused: OSError | None = None
        for family, sockaddr in await _resolve(address, passive=False):
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                await asyncio.get_running_loop().sock_connect(sock, sockaddr)
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError):
                    raise
                refused = error
            else:
                return sock
        raise refused or OSError("it has no address")
