"""UDP multicast buses, for port type `mcast` (mcast.c): every datagram to the group is one Ethernet frame."""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import AddressValueError, IPv4Address
from typing import Annotated

from msgspec import Meta

from ..errors import FabricError
from .bus import check_group, parse_group
from .datagrams import adopt_socket, enlarge_buffers
from .peer_name import peer_name
from .port import Attach, Descriptor, PortSpec, Status, attach_owned


def open_bus(group: str, port: int, localaddr: str, ttl: int = 1) -> tuple[int, int]:
    """Join the bus `group`:`port` on the interface that has `localaddr`; return (receiving, sending) descriptors.

    Options are set in the order of QEMU's `socket,mcast=`. The sender has a port of its own, unlike QEMU's, so that our
    echoes can be told from others' frames. With a `ttl` of 1 frames do not leave the network they are sent to. Works in
    a network namespace that has only `lo` up, without any route. Raises OSError.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as bus:
        enlarge_buffers(bus)
        bus.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bus.bind((group, port))
        membership = struct.pack("4s4s", socket.inet_aton(group), socket.inet_aton(localaddr))
        bus.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sender = _open_sender(group, port, localaddr, ttl)
        return bus.detach(), sender


def _open_sender(group: str, port: int, localaddr: str, ttl: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        enlarge_buffers(sender)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(localaddr))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        sender.bind((localaddr, 0))
        sender.connect((group, port))
        return sender.detach()


class McastSpec(PortSpec, frozen=True, kw_only=True, tag="mcast"):
    """A port on a multicast bus outside the lab: `group` is "address:port", `localaddr` an address of the interface.

    `fd` is a socket that has joined it already; `group` may be left out if it is bound to that. `ttl` says how far
    frames go: 1 is the local network.
    """

    group: str | None = None
    localaddr: str = "127.0.0.1"
    ttl: Annotated[int, Meta(ge=0, le=255)] = 1
    fd: Descriptor | None = None

    def problems(self) -> list[str]:
        """Check the addresses."""
        if self.group is None and self.fd is None:
            return ["give group, or fd"]
        try:
            if self.group is not None:
                parse_group(self.group)
        except ValueError as error:
            return [str(error)]
        try:
            several = IPv4Address(self.localaddr).is_unspecified
        except AddressValueError:
            return [f"localaddr {self.localaddr} is not an IPv4 address"]
        if several:
            return [f"localaddr {self.localaddr} is not an address of one interface"]
        return []

    async def serve(self, attach: Attach, status: Status) -> None:
        """Join the bus. Raises OSError, FabricError."""
        if self.fd is not None:
            fds = list(self._adopt(self.fd))
        else:
            assert self.group is not None
            try:
                fds = list(open_bus(*parse_group(self.group), self.localaddr, self.ttl))
            except OSError as error:
                raise FabricError(f"joining {self.group}: {self._why(error)}") from None
        status("joined")
        await attach_owned(attach, "mcast", fds, peer=_group_of(fds[1]))

    def _why(self, error: OSError) -> str:
        if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
            return f"no interface of this machine has localaddr {self.localaddr}; see: ip -4 addr"
        if error.errno == errno.EACCES:
            return f"{error.strerror}: ports below 1024 are for root (net.ipv4.ip_unprivileged_port_start)"
        return error.strerror or str(error)

    def _adopt(self, fd: int) -> tuple[int, int]:
        """Return the descriptors of a bus that `fd` has joined, which is taken over. Raises OSError, FabricError."""
        with adopt_socket(fd) as bus:
            if bus.family != socket.AF_INET or bus.type != socket.SOCK_DGRAM:
                raise FabricError("fd is not a UDP socket of IPv4")
            group, port = bus.getsockname() if self.group is None else parse_group(self.group)
            try:
                check_group(group)
            except ValueError:
                raise FabricError(f"fd is bound to {group}, which is no multicast group: say which by group") from None
            enlarge_buffers(bus)
            sender = _open_sender(group, port, self.localaddr, self.ttl)
            return bus.detach(), sender


def _group_of(fd: int) -> str:
    """Where the sending socket `fd` of a bus sends to."""
    with socket.socket(fileno=os.dup(fd)) as sender:
        return peer_name(sender)
