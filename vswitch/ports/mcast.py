"""UDP multicast buses, for port type `mcast` (mcast.c): every datagram to the group is one Ethernet frame."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address

from .address import split_host_port
from .port import Attach, PortSpec


def open_bus(group: str, port: int, localaddr: str) -> tuple[int, int]:
    """Join the bus `group`:`port` on the interface that has `localaddr`; return (receiving, sending) descriptors.

    Options are set in the order of QEMU's `socket,mcast=`. The sender has a port of its own, unlike QEMU's, so that our
    echoes can be told from others' frames. Works in a network namespace that has only `lo` up, without any route.
    Raises OSError.
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as bus,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
    ):
        local = socket.inet_aton(localaddr)
        bus.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bus.bind((group, port))
        bus.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4s", socket.inet_aton(group), local))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local)
        sender.bind((localaddr, 0))
        sender.connect((group, port))
        return bus.detach(), sender.detach()


class McastSpec(PortSpec, frozen=True, kw_only=True, tag="mcast"):
    """A port on a multicast bus outside the lab: `group` is "address:port", `localaddr` an address of the interface."""

    group: str
    localaddr: str = "127.0.0.1"

    def problems(self) -> list[str]:
        """Check the addresses."""
        try:
            host, _ = split_host_port(self.group)
            if not IPv4Address(host).is_multicast:
                return [f"group {host} is not an IPv4 multicast address (224.0.0.0 to 239.255.255.255)"]
            IPv4Address(self.localaddr)
        except ValueError as error:
            return [str(error)]
        return []

    async def serve(self, attach: Attach, status: Callable[[str], None]) -> None:
        """Join the bus. Raises OSError."""
        host, port = split_host_port(self.group)
        fds = list(open_bus(host, port, self.localaddr))
        status("joined")
        await attach("mcast", fds)
