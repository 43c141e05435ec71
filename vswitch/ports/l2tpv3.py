"""Port type `l2tpv3` facing outside: Ethernet in a static L2TPv3 session, as of Linux and QEMU; see l2tpv3.c."""

from __future__ import annotations

import socket
import struct
from typing import Annotated, NamedTuple

from msgspec import Meta

from ..errors import FabricError
from .address import family_mistake, own_address, split_host_port
from .datagrams import adopt_socket, enlarge_buffers, open_connected, resolve_pair
from .port import Attach, Descriptor, PortSpec, Status, attach_owned

_IP_PROTOCOL = 115
_MAX_OFFSET = 256

Session = Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
"""A session's number; 0 is that of messages between L2TP daemons."""
Offset = Annotated[int, Meta(ge=0, le=_MAX_OFFSET)]
"""Bytes of padding before a frame."""


class Header(NamedTuple):
    """What stands before each frame that is sent (tx) and expected before each that is received (rx)."""

    tx_session: int
    rx_session: int
    tx_cookie: int | None = None
    rx_cookie: int | None = None
    cookie64: bool = False
    counter: bool = False
    pincounter: bool = False
    offset: int = 0

    def pack(self) -> bytes:
        """Return the options of a port of type `l2tpv3`: `struct options` in l2tpv3.c."""
        size = 8 if self.cookie64 else 4
        return struct.pack(
            "=IIQQ4BHH",
            self.tx_session,
            self.rx_session,
            self.tx_cookie or 0,
            self.rx_cookie or 0,
            0 if self.tx_cookie is None else size,
            0 if self.rx_cookie is None else size,
            self.counter,
            self.pincounter,
            self.offset,
            0,
        )


def open_l2tpv3(
    local: tuple[object, ...], remote: tuple[object, ...], header: Header, *, udp: bool = True
) -> tuple[int, bytes]:
    """Return a socket between two numeric addresses, as (host, port, ...), and the options of a port of type `l2tpv3`.

    Without `udp` the ports do not count, and it needs the right to open raw sockets. Raises OSError.
    """
    family = socket.AF_INET6 if ":" in str(local[0]) else socket.AF_INET
    if udp:
        return open_connected(family, socket.SOCK_DGRAM, 0, local, remote).detach(), header.pack()
    # A socket that is connected to port 0 does not count as connected; IPv6 wants the protocol there, IPv4 anything.
    local = (local[0], 0, *local[2:])
    remote = (remote[0], _IP_PROTOCOL, *remote[2:])
    return open_connected(family, socket.SOCK_RAW, _IP_PROTOCOL, local, remote).detach(), header.pack()


class L2tpv3Spec(PortSpec, frozen=True, kw_only=True, tag="l2tpv3"):
    """A session between `local` and `remote`, each "host:port" or "[v6]:port", or, with `udp: false`, an address alone.

    `fd` is a socket that is connected so already, instead of both.

    The session's number is `tx_session` in what we send and `rx_session` (the same) in what we take. `tx_cookie` and
    `rx_cookie` are 32 bits, with `cookie64` 64. With `counter` there is one before each frame, with `pincounter` it
    stays 0. `offset` bytes of padding come last. Both sides have to agree on all this.
    """

    local: str | None = None
    remote: str | None = None
    fd: Descriptor | None = None
    tx_session: Session
    rx_session: Session | None = None
    udp: bool = True
    tx_cookie: str | None = None  # a number; those of 64 bits are more than a lab file's numbers may be
    rx_cookie: str | None = None
    cookie64: bool = False
    counter: bool = False
    pincounter: bool = False
    offset: Offset = 0

    def problems(self) -> list[str]:
        """Check the addresses, and what of the header does not go together."""
        found = self._address_problems()
        bits = 64 if self.cookie64 else 32
        for key, text in (("tx_cookie", self.tx_cookie), ("rx_cookie", self.rx_cookie)):
            try:
                cookie = _number(text) or 0
            except ValueError:
                found.append(f"{key}: {text!r} is not a number, like 0x1234abcd")
                continue
            if cookie < 0:
                found.append(f"{key} is below 0")
            elif cookie >> bits:
                found.append(f"{key} has more than {bits} bits" + ("" if self.cookie64 else "; see cookie64"))
        if self.cookie64 and self.tx_cookie is None and self.rx_cookie is None:
            found.append("cookie64 needs a cookie: tx_cookie, rx_cookie, or both")
        if self.pincounter and not self.counter:
            found.append("pincounter needs counter: without, there is none that could stay 0")
        return found

    def _address_problems(self) -> list[str]:
        if self.fd is not None:
            ours = self.local is not None or self.remote is not None or not self.udp
            return ["a socket given by descriptor has its addresses; leave out local, remote and udp"] if ours else []
        if self.local is None or self.remote is None:
            return ["give both local and remote, or fd"]
        try:
            mistake = family_mistake(self._split(self.local)[0], self._split(self.remote)[0])
        except ValueError as error:
            return [str(error)]
        return [] if mistake is None else [mistake]

    def _split(self, address: str) -> tuple[str, int]:
        """Return host and port, 0 where there is none. Raises ValueError."""
        if self.udp:
            return split_host_port(address)
        host = address[1:-1] if address.startswith("[") and address.endswith("]") else address
        if not host or host.count(":") == 1 or any(mark in host for mark in "[]/ "):
            raise ValueError(f"{address!r}: with udp: false, write an address without a port")
        return host, 0

    def exclusive(self) -> dict[str, str]:
        """Our own address; of raw IP any number of sessions may have one."""
        return {"local": own_address(self.local, "UDP")} if self.udp and self.local is not None else {}

    def header(self) -> Header:
        """What this says about the header."""
        return Header(
            tx_session=self.tx_session,
            rx_session=self.tx_session if self.rx_session is None else self.rx_session,
            tx_cookie=_number(self.tx_cookie),
            rx_cookie=_number(self.rx_cookie),
            cookie64=self.cookie64,
            counter=self.counter,
            pincounter=self.pincounter,
            offset=self.offset,
        )

    async def serve(self, attach: Attach, status: Status) -> None:
        """Open the socket. Raises FabricError."""
        if self.fd is not None:
            fd = _given_socket(self.fd)
            status("open")
            await attach_owned(attach, "l2tpv3", [fd], options=self.header().pack())
            return
        assert self.local is not None
        assert self.remote is not None
        try:
            _, here, there = await resolve_pair(self._split(self.local), self._split(self.remote))
            fd, options = open_l2tpv3(here, there, self.header(), udp=self.udp)
        except PermissionError as error:
            if self.udp:
                raise FabricError(f"from {self.local} to {self.remote}: {error.strerror}") from None
            raise FabricError("raw IP needs root (CAP_NET_RAW); with udp, anybody may") from None
        except OSError as error:
            raise FabricError(f"from {self.local} to {self.remote}: {error.strerror}") from None
        status("open")
        await attach_owned(attach, "l2tpv3", [fd], options=options, peer=self.remote)


def _given_socket(fd: int) -> int:
    """`fd`, which is taken over, made ready. Raises FabricError unless it is a socket such as open_l2tpv3() makes."""
    with adopt_socket(fd) as sock:
        ip = sock.family in (socket.AF_INET, socket.AF_INET6)
        if not ip or (sock.type, sock.proto) not in (
            (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
            (socket.SOCK_RAW, _IP_PROTOCOL),
        ):
            raise FabricError(f"fd is neither a UDP socket nor a raw one of IP protocol {_IP_PROTOCOL}")
        try:
            sock.getpeername()
        except OSError:
            raise FabricError("fd is a socket that is not connected: anybody could send to it") from None
        enlarge_buffers(sock)
        return sock.detach()


def _number(text: str | None) -> int | None:
    """Return the number that `text` is, None if there is none. Raises ValueError."""
    return None if text is None else int(text, 0)
