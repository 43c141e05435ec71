"""Port type `stream` facing outside: a server or client for QEMU's `stream` and `socket` netdevs; see stream.c."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import FabricError
from .address import split_host_port
from .port import Attach, PortSpec

MAX_CLIENTS = 256
"""Clients one listening port serves at a time; more are turned away."""
_BACKLOG = 64
_CONNECT_TIMEOUT = 10.0
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0
_ACCEPT_DELAY = 0.2


class StreamSpec(PortSpec, frozen=True, kw_only=True, tag="stream"):
    """Exactly one of `listen` and `connect`: "127.0.0.1:7001", "[::1]:7001" or "unix:/path".

    A listening port serves many clients, each a port NAME#1, NAME#2, ... of the network. A connecting one tries again,
    at growing intervals, whenever it is not connected.
    """

    listen: str | None = None
    connect: str | None = None

    def problems(self) -> list[str]:
        """Check that there is one address, and that it is one."""
        given = [address for address in (self.listen, self.connect) if address is not None]
        if len(given) != 1:
            return ["give exactly one of: listen, connect"]
        try:
            _check(given[0])
        except ValueError as error:
            return [str(error)]
        return []

    def many_peers(self) -> bool:
        """A listening port serves many clients."""
        return self.listen is not None

    async def serve(self, attach: Attach, status: Callable[[str], None]) -> None:
        """Listen or connect, for good. Raises FabricError when listening is impossible."""
        for problem in self.problems():
            raise FabricError(problem)
        if self.listen is not None:
            try:
                await _serve_clients(self.listen, attach, status)
            except OSError as error:
                raise FabricError(f"listening on {self.listen}: {error.strerror}") from None
        elif self.connect is not None:
            await _stay_connected(self.connect, attach, status)


def _check(address: str) -> None:
    """Raise ValueError if `address` is not one."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path.startswith("/") or len(os.fsencode(path)) > 107:
            raise ValueError(f"{address!r}: write unix: and an absolute path of at most 107 bytes")
    else:
        split_host_port(address)


async def _resolve(address: str, *, passive: bool) -> tuple[int, str | tuple[object, ...]]:
    """Return the address family and the socket address. Raises OSError."""
    if address.startswith("unix:"):
        return socket.AF_UNIX, address.removeprefix("unix:")
    host, port = split_host_port(address)
    flags = socket.AI_PASSIVE if passive else 0
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return infos[0][0], infos[0][4]


async def _serve_clients(address: str, attach: Attach, status: Callable[[str], None]) -> None:
    family, sockaddr = await _resolve(address, passive=True)
    with _listening(family, sockaddr) as listener:
        status("listening")
        numbers = itertools.count(1)
        clients: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    client, _ = await loop.sock_accept(listener)
                except OSError:  # out of descriptors, say: the client stays in the backlog
                    await asyncio.sleep(_ACCEPT_DELAY)
                    continue
                if len(clients) == MAX_CLIENTS:
                    client.close()
                    continue
                task = loop.create_task(_serve_client(client, attach, f"#{next(numbers)}"))
                clients.add(task)
                task.add_done_callback(clients.discard)
        finally:
            for task in clients:
                task.cancel()


async def _serve_client(client: socket.socket, attach: Attach, label: str) -> None:
    with contextlib.suppress(FabricError):  # it was gone before it was taken in
        await attach("stream", [client.detach()], label)


@contextlib.contextmanager
def _listening(family: int, sockaddr: str | tuple[object, ...]) -> Iterator[socket.socket]:
    """Bind and listen; a unix socket's file is removed afterwards, if it is still ours. Raises OSError."""
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
        if isinstance(sockaddr, str):
            _remove_stale(Path(sockaddr))
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(sockaddr)
        ours = Path(sockaddr).stat().st_ino if isinstance(sockaddr, str) else None
        try:
            listener.listen(_BACKLOG)
            yield listener
        finally:
            if isinstance(sockaddr, str):
                with contextlib.suppress(OSError):
                    if Path(sockaddr).stat().st_ino == ours:
                        Path(sockaddr).unlink()


def _remove_stale(path: Path) -> None:
    """Remove a socket nobody listens on any more. Raises FileExistsError for anything else that is in the way."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(17, f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except BlockingIOError:  # its backlog is full: somebody does listen
        pass
    raise FileExistsError(17, f"somebody else listens on {path}")


async def _stay_connected(address: str, attach: Attach, status: Callable[[str], None]) -> None:
    delay = _FIRST_DELAY
    while True:
        status("connecting")
        try:
            fd = await _connect(address)
        except OSError:
            delay = min(delay * 2, _LONGEST_DELAY)
        else:
            begun = asyncio.get_running_loop().time()
            with contextlib.suppress(FabricError):  # it was gone before it was taken in
                await attach("stream", [fd])
            lasted = asyncio.get_running_loop().time() - begun
            delay = _FIRST_DELAY if lasted > _LONGEST_DELAY else min(delay * 2, _LONGEST_DELAY)
        # Jitter keeps clients that lost the same server from coming back in step.
        await asyncio.sleep(delay * random.uniform(0.5, 1))


async def _connect(address: str) -> int:
    async with asyncio.timeout(_CONNECT_TIMEOUT):
        family, sockaddr = await _resolve(address, passive=False)
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            await asyncio.get_running_loop().sock_connect(sock, sockaddr)
            return sock.detach()
