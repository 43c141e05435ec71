"""What a UDP multicast bus is called."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from typing import NamedTuple

from .address import split_host_port

_BUS_PORT = 5544
_NUMBERED = "230.0."


class Bus(NamedTuple):
    """A UDP multicast bus in the lab's namespace: one datagram is one frame."""

    group: str
    port: int
    localaddr: str = "127.0.0.1"

    @classmethod
    def numbered(cls, number: int) -> Bus:
        """The bus with that number, from 0 to 65535, in its lab."""
        return cls(f"{_NUMBERED}{number >> 8}.{number & 255}", _BUS_PORT)

    @staticmethod
    def is_numbered(group: str) -> bool:
        """Whether `group` could be that of a numbered bus."""
        return group.startswith(_NUMBERED)


def parse_group(text: str) -> tuple[str, int]:
    """Split "address:port" of a multicast group. Raises ValueError, saying what is expected."""
    group, port = split_host_port(text)
    check_group(group)
    return group, port


def check_group(group: str) -> None:
    """Raise ValueError if `group` is not the address of a multicast group."""
    try:
        multicast = IPv4Address(group).is_multicast
    except AddressValueError:
        multicast = False
    if not multicast:
        raise ValueError(f"group {group} is not an IPv4 multicast address (224.0.0.0 to 239.255.255.255)")
