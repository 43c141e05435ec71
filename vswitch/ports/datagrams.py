"""Sockets for ports whose peer gets each frame as a datagram of its own (datagram_port.c)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from ..errors import FabricError

_BUFFER = 2 << 20  # bytes: thousands of small frames, or 30 of the largest
_MOST_WAITING = 2 * _BUFFER // 512  # datagrams: the kernel keeps twice the buffer, and reckons with more for each
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


def enlarge_buffers(sock: socket.socket, *, send: int = _BUFFER, receive: int = _BUFFER) -> None:
    """Let the kernel keep more for `sock` than by default: as many bytes as wanted, or as anybody may have."""
    wanted = ((_SO_SNDBUFFORCE, socket.SO_SNDBUF, send), (_SO_RCVBUFFORCE, socket.SO_RCVBUF, receive))
    for force, ask, size in wanted:
        sock.setsockopt(socket.SOL_SOCKET, ask, size)
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, force, size)


def adopt_socket(fd: int) -> socket.socket:
    """Make a socket object of `fd`, which is taken over. Raises FabricError."""
    try:
        return socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise FabricError("fd is not a socket") from None


async def resolve_pair(
    local: tuple[str, int], remote: tuple[str, int]
) -> tuple[int, tuple[object, ...], tuple[object, ...]]:
    """Return an address family both have, and the socket addresses. Raises OSError."""
    loop = asyncio.get_running_loop()
    local_infos = await loop.getaddrinfo(*local, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    remote_infos = await loop.getaddrinfo(*remote, type=socket.SOCK_DGRAM)
    for remote_info in remote_infos:
        for local_info in local_infos:
            if remote_info[0] == local_info[0]:
                return remote_info[0], local_info[4], remote_info[4]
    raise OSError(97, f"{local[0]} and {remote[0]} are not of one address family")


def open_connected(
    family: int, kind: int, protocol: int, local: tuple[object, ...], remote: tuple[object, ...]
) -> socket.socket:
    """Return a non-blocking socket from `local` to `remote`, which takes what comes from there only. Raises OSError."""
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    try:
        enlarge_buffers(sock)
        sock.bind(local)
        sock.connect(remote)
        _discard_waiting(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _discard_waiting(sock: socket.socket) -> None:
    """Discard what came before `sock` was connected, from anybody. Raises OSError."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(_MOST_WAITING):  # not for as long as the peer sends
            sock.recv(1)
