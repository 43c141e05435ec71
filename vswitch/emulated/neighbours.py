"""Finding the MAC address of a neighbour, and being found: ARP (RFC 826) and neighbour discovery (RFC 4861). No I/O."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from .headers import (
    BROADCAST,
    ETH_ARP,
    ETH_IPV6,
    ICMPV6,
    Address,
    Ethernet,
    Packet,
    checksum,
    ethernet,
    ip,
    pseudo,
)

ARP_REQUEST, ARP_REPLY = 1, 2
SOLICITATION, ADVERTISEMENT = 135, 136
ALL_NODES = IPv6Address("ff02::1")
UNSPECIFIED = IPv6Address("::")

_ARP = struct.Struct(">HHBBH6s4s6s4s")
_ARP_HEAD = (1, 0x0800, 6, 4)  # Ethernet, IPv4, and the sizes of their addresses
_NDP = struct.Struct(">BBHI16s")
_SOLICITED, _OVERRIDE = 0x40000000, 0x20000000
_SOURCE_LINK, _TARGET_LINK = 1, 2
_HOPS = 255  # RFC 4861: proof that no router was between


class Arp(NamedTuple):
    """An ARP packet about IPv4 over Ethernet."""

    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes


def parse_arp(frame: bytes, header: Ethernet) -> Arp | None:
    """The ARP packet in a frame, None when it is none about IPv4 over Ethernet."""
    if header.ethertype != ETH_ARP or len(frame) < header.at + _ARP.size:
        return None
    *head, operation, sender_mac, sender, target_mac, target = _ARP.unpack_from(frame, header.at)
    return Arp(operation, sender_mac, sender, target_mac, target) if tuple(head) == _ARP_HEAD else None


def arp(arp: Arp, dst: bytes, tags: Sequence[int] = ()) -> bytes:
    """A frame with an ARP packet in it."""
    return ethernet(dst, arp.sender_mac, ETH_ARP, tags) + _ARP.pack(*_ARP_HEAD, *arp)


class Discovery(NamedTuple):
    """A neighbour solicitation or advertisement. `link` is the link-layer address it tells, if any."""

    kind: int
    target: bytes
    link: bytes | None


def parse_discovery(frame: bytes, packet: Packet) -> Discovery | None:
    """The neighbour discovery message in an ICMPv6 packet whose checksum is right, None when it is none or invalid."""
    body = frame[packet.at : packet.end]
    if packet.hops != _HOPS or len(body) < _NDP.size:
        return None
    kind, code, _, _, target = _NDP.unpack_from(body)
    if kind not in (SOLICITATION, ADVERTISEMENT) or code != 0 or target[0] == 0xFF:
        return None
    wanted, link, at = _SOURCE_LINK if kind == SOLICITATION else _TARGET_LINK, None, _NDP.size
    while at < len(body):
        if at + 2 > len(body) or body[at + 1] == 0 or at + 8 * body[at + 1] > len(body):
            return None
        if body[at] == wanted and body[at + 1] == 1:
            link = body[at + 2 : at + 8]
        at += 8 * body[at + 1]
    return Discovery(kind, target, link)


def solicited_node(address: IPv6Address) -> IPv6Address:
    """The multicast address that whoever has `address` listens to."""
    return IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[13:])


def multicast_mac(address: IPv6Address) -> bytes:
    """The MAC address of an IPv6 multicast address (RFC 2464)."""
    return b"\x33\x33" + address.packed[12:]


def link_local(mac: bytes) -> IPv6Address:
    """The link-local address that a MAC address makes (RFC 4291, appendix A)."""
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])


def icmpv6(src: IPv6Address, dst: IPv6Address, message: bytes) -> bytes:
    """`message` (an ICMPv6 message whose checksum is 0) with its checksum."""
    total = checksum(pseudo(src.packed, dst.packed, ICMPV6, len(message)), message)
    return message[:2] + total.to_bytes(2, "big") + message[4:]


def _discovery(
    mac: bytes, src: IPv6Address, dst: IPv6Address, dst_mac: bytes, message: bytes, tags: Sequence[int]
) -> bytes:
    body = icmpv6(src, dst, message)
    return ethernet(dst_mac, mac, ETH_IPV6, tags) + ip(src, dst, ICMPV6, len(body), _HOPS) + body


def ask(mac: bytes, src: Address, target: Address, tags: Sequence[int] = ()) -> bytes:
    """A frame that asks who has `target`, on behalf of `src`, an address of the same family."""
    if isinstance(src, IPv4Address):
        return arp(Arp(ARP_REQUEST, mac, src.packed, bytes(6), target.packed), BROADCAST, tags)
    assert isinstance(target, IPv6Address)
    group = solicited_node(target)
    message = _NDP.pack(SOLICITATION, 0, 0, 0, target.packed) + bytes([_SOURCE_LINK, 1]) + mac
    return _discovery(mac, src, group, multicast_mac(group), message, tags)


def announce(mac: bytes, address: Address, tags: Sequence[int] = ()) -> bytes:
    """A frame that tells everybody, unasked, who has `address`."""
    if isinstance(address, IPv4Address):
        return arp(Arp(ARP_REQUEST, mac, address.packed, bytes(6), address.packed), BROADCAST, tags)
    return advertise(mac, address, None, multicast_mac(ALL_NODES), tags)


def advertise(
    mac: bytes, address: IPv6Address, asker: IPv6Address | None, dst_mac: bytes, tags: Sequence[int] = ()
) -> bytes:
    """The answer to a solicitation for `address`; without an asker that has an address, it goes to everybody."""
    flags = _OVERRIDE | (_SOLICITED if asker is not None else 0)
    message = _NDP.pack(ADVERTISEMENT, 0, 0, flags, address.packed) + bytes([_TARGET_LINK, 1]) + mac
    return _discovery(mac, address, asker or ALL_NODES, dst_mac, message, tags)
