"""Port type `dgram` facing outside: a peer of QEMU's `dgram` and `socket,udp=` netdevs, over UDP or unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from ipaddress import ip_address
from pathlib import Path

from ..errors import FabricError
from .address import check_address, family_mistake, own_address, split_host_port, unix_address, unix_path
from .backoff import Backoff, pause
from .datagrams import adopt_socket, enlarge_buffers, open_connected, resolve_pair
from .peer_name import peer_name
from .port import Attach, Descriptor, PortSpec, Status, attach_owned
from .unix_file import bound_unix, remove_dead

_FIRST_DELAY, _LONGEST_DELAY = 0.05, 1.0
_LOOK_INTERVAL = 0.5
"""Seconds between looks at who has the peer's unix socket: nothing tells when one goes and another comes."""


class DgramSpec(PortSpec, frozen=True, kw_only=True, tag="dgram"):
    """`local` and `remote`, each "host:port", "[v6]:port" or "unix:/path"; or `fd`, a connected datagram socket.

    Each frame is a datagram. What does not come from `remote` is not taken. A unix peer may come later than we, go, and
    come again.
    """

    local: str | None = None
    remote: str | None = None
    fd: Descriptor | None = None

    def problems(self) -> list[str]:
        """Check that there is either a descriptor, or two addresses of one kind."""
        if self.fd is not None:
            return ["give either fd, or local and remote"] if self.local is not None or self.remote is not None else []
        if self.local is None or self.remote is None:
            return ["give both local and remote, or fd"]
        try:
            check_address(self.local)
            check_address(self.remote)
        except ValueError as error:
            return [str(error)]
        if (unix_path(self.local) is None) != (unix_path(self.remote) is None):
            return ["local and remote are to be of one kind: two unix sockets, or two of host:port"]
        if self.local == self.remote:
            return ["local and remote are the same"]
        if unix_path(self.remote) is None:
            mistake = family_mistake(split_host_port(self.local)[0], split_host_port(self.remote)[0])
            if mistake is not None:
                return [mistake]
            with contextlib.suppress(ValueError):  # not a number: a name
                if ip_address(split_host_port(self.remote)[0]).is_multicast:
                    return [f"remote {self.remote} is a multicast group: use type: mcast"]
        return []

    def exclusive(self) -> dict[str, str]:
        """Our own address."""
        return {} if self.local is None else {"local": own_address(self.local, "UDP")}

    def remove_left(self) -> None:
        """Remove our own socket."""
        path = None if self.local is None else unix_path(self.local)
        if path is not None:
            remove_dead(path, socket.SOCK_DGRAM)

    async def serve(self, attach: Attach, status: Status) -> None:
        """Open the socket; with a unix one, for good. Raises OSError, FabricError."""
        if self.fd is not None:
            with adopt_socket(self.fd) as sock:
                await _serve_descriptor(sock, attach, status)
            return
        assert self.local is not None
        assert self.remote is not None
        local, remote = unix_path(self.local), unix_path(self.remote)
        if local is not None and remote is not None:
            await _serve_unix(local, remote, attach, status)
        else:
            await _serve_udp(self.local, self.remote, attach, status)


async def _serve_descriptor(sock: socket.socket, attach: Attach, status: Status) -> None:
    if sock.type != socket.SOCK_DGRAM:
        raise FabricError("fd is not a datagram socket")
    try:
        sock.getpeername()
    except OSError:
        raise FabricError("fd is a socket that is not connected: anybody could send to it") from None
    enlarge_buffers(sock)
    status("open")
    await _attach_copy(sock, attach)


async def _serve_udp(local: str, remote: str, attach: Attach, status: Status) -> None:
    family, here, there = await resolve_pair(split_host_port(local), split_host_port(remote))
    try:
        sock = open_connected(family, socket.SOCK_DGRAM, 0, here, there)
    except OSError as error:
        raise FabricError(f"from {local} to {remote}: {error.strerror}") from None
    status("open")
    peer = peer_name(sock)
    await attach_owned(attach, "dgram", [sock.detach()], peer=peer)


async def _serve_unix(local: str, remote: str, attach: Attach, status: Status) -> None:
    try:
        with bound_unix(local, socket.SOCK_DGRAM) as sock:
            enlarge_buffers(sock)
            while True:
                status("connecting")
                await _connect_unix(sock, remote, status)
                await _attach_while_same(sock, remote, attach)
                await pause(_FIRST_DELAY)
    except OSError as error:
        raise FabricError(f"from {unix_address(local)}: {error.strerror}") from None


async def _connect_unix(sock: socket.socket, remote: str, status: Status) -> None:
    """Connect `sock` to the socket at `remote`, once there is one."""
    backoff = Backoff(_FIRST_DELAY, _LONGEST_DELAY)
    while True:
        try:
            sock.connect(remote)
        except OSError as error:  # it is not there, or it has a peer that is not us
            status("connecting", f"connecting to {unix_address(remote)}: {error.strerror}")
            await backoff.wait()
        else:
            return


async def _attach_while_same(sock: socket.socket, remote: str, attach: Attach) -> None:
    """Attach `sock` until the engine finds its peer gone, or another has taken its place at `remote`."""
    port = asyncio.ensure_future(_attach_copy(sock, attach))
    try:
        peer = _identity(remote)
        while not port.done() and _is_served(remote) and _identity(remote) in (peer, None):
            await asyncio.wait([port], timeout=_LOOK_INTERVAL)
        if port.done():
            port.result()
    finally:
        port.cancel()
        with contextlib.suppress(asyncio.CancelledError, FabricError):
            await port


async def _attach_copy(sock: socket.socket, attach: Attach) -> None:
    """Attach a descriptor of its own of `sock`."""
    try:
        fds = [os.dup(sock.fileno())]
    except OSError:  # out of descriptors: as if the peer were not there
        await pause(_LONGEST_DELAY)
        return
    await attach_owned(attach, "dgram", fds, peer=peer_name(sock))


def _identity(path: str) -> tuple[int, int, int] | None:
    """Tell one socket at `path` from the next; None when there is none now. Inode numbers alone come again."""
    if path.startswith("\0"):
        return None
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _is_served(path: str) -> bool:
    """Whether some process has the socket at `path` open, as far as one can tell."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        return False
    except OSError:
        pass
    return True
