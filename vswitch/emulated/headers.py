"""Ethernet, VLAN, IPv4, IPv6 and UDP headers: made, and taken apart without trusting them. No I/O.

Formats: IEEE 802.3 and 802.1Q, RFC 791, RFC 8200, RFC 768; the checksum is RFC 1071's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

Address = IPv4Address | IPv6Address

ETH_IPV4, ETH_ARP, ETH_VLAN, ETH_QINQ, ETH_IPV6 = 0x0800, 0x0806, 0x8100, 0x88A8, 0x86DD
ETH_LOCAL = 0x88B5
"""IEEE Std 802's "local experimental" EtherType."""
ICMP, UDP, ICMPV6 = 1, 17, 58
BROADCAST = b"\xff" * 6
ETH_SIZE, TAG_SIZE, IPV4_SIZE, IPV6_SIZE, UDP_SIZE = 14, 4, 20, 40, 8

_ETHERTYPE = struct.Struct(">H")
_TAG = struct.Struct(">HH")
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_UDP = struct.Struct(">HHHH")
_DONT_FRAGMENT = 0x4000
_FRAGMENT = 0x3FFF  # more fragments, or an offset
_MAX_TAGS = 2


def sum16(data: bytes | bytearray | memoryview) -> int:
    """The one's complement sum of 16-bit words that an internet checksum is made from, odd data padded with a zero."""
    # Folding carries is arithmetic modulo 65535, because 65536 is 1 there.
    number = int.from_bytes(data, "big") << (8 * (len(data) & 1))
    return number % 0xFFFF or (0xFFFF if number else 0)


def checksum(*parts: bytes | bytearray | memoryview) -> int:
    """The internet checksum over all parts; all but the last of even length; 0 over data with a right one in it."""
    total = sum(map(sum16, parts))
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def ethernet(dst: bytes, src: bytes, ethertype: int, tags: Sequence[int] = ()) -> bytes:
    """An Ethernet header; `tags` are VLAN ids, outermost first (802.1ad asks for 0x88A8 outside when there are two)."""
    outer = [ETH_QINQ] * (len(tags) - 1) + [ETH_VLAN] * bool(tags)
    stack = b"".join(_TAG.pack(kind, tag) for kind, tag in zip(outer, tags, strict=True))
    return dst + src + stack + _ETHERTYPE.pack(ethertype)


def ip(src: Address, dst: Address, protocol: int, size: int, hops: int = 64) -> bytes:
    """An IPv4 or IPv6 header before `size` bytes of payload; both addresses are of one family."""
    if isinstance(src, IPv4Address):
        fields = (0x45, 0, IPV4_SIZE + size, 0, _DONT_FRAGMENT, hops, protocol)
        bare = _IPV4.pack(*fields, 0, src.packed, dst.packed)
        return _IPV4.pack(*fields, checksum(bare), src.packed, dst.packed)
    return _IPV6.pack(6 << 28, size, protocol, hops, src.packed, dst.packed)


def pseudo(src: bytes, dst: bytes, protocol: int, size: int) -> bytes:
    """The pseudo-header of upper-layer checksums, of either family."""
    if len(src) == 4:
        return src + dst + struct.pack(">BBH", 0, protocol, size)
    return src + dst + struct.pack(">IHBB", size, 0, 0, protocol)


def udp(src: Address, dst: Address, src_port: int, dst_port: int, payload: bytes) -> bytes:
    """A UDP datagram with its checksum."""
    size = UDP_SIZE + len(payload)
    bare = _UDP.pack(src_port, dst_port, size, 0)
    total = checksum(pseudo(src.packed, dst.packed, UDP, size), bare, payload)
    return _UDP.pack(src_port, dst_port, size, total or 0xFFFF) + payload


class Ethernet(NamedTuple):
    """A frame's header. `tags` are VLAN ids, outermost first; `at` is where its payload begins."""

    dst: bytes
    src: bytes
    ethertype: int
    tags: tuple[int, ...]
    at: int


def parse_ethernet(frame: bytes) -> Ethernet | None:
    """Read the Ethernet header and two VLAN tags at most, None when the frame is too short for what it has."""
    at = 12
    tags: tuple[int, ...] = ()
    while True:
        if len(frame) < at + 2:
            return None
        (ethertype,) = _ETHERTYPE.unpack_from(frame, at)
        if ethertype not in (ETH_VLAN, ETH_QINQ) or len(tags) == _MAX_TAGS:
            return Ethernet(frame[:6], frame[6:12], ethertype, tags, at + 2)
        if len(frame) < at + 4:
            return None
        tags = (*tags, _TAG.unpack_from(frame, at)[1] & 0xFFF)
        at += 4


class Packet(NamedTuple):
    """An IP packet within a frame: addresses as bytes, the payload from `at` to `end` of the frame."""

    src: bytes
    dst: bytes
    protocol: int
    hops: int
    at: int
    end: int


def parse_ip(frame: bytes, ethernet: Ethernet) -> Packet | str:
    """The IP packet in a frame, or in a word why it is not one we take: "not-ip", "malformed", "bad-checksum",
    "fragment", "extension" (an IPv6 extension header).
    """
    if ethernet.ethertype == ETH_IPV4:
        return _parse_ipv4(frame, ethernet.at)
    return _parse_ipv6(frame, ethernet.at) if ethernet.ethertype == ETH_IPV6 else "not-ip"


def _parse_ipv4(frame: bytes, at: int) -> Packet | str:
    if len(frame) < at + IPV4_SIZE:
        return "malformed"
    first, _, total, _, fragment, hops, protocol, _, src, dst = _IPV4.unpack_from(frame, at)
    header = (first & 15) * 4
    if first >> 4 != 4 or header < IPV4_SIZE or not header <= total <= len(frame) - at:
        return "malformed"
    if checksum(frame[at : at + header]) != 0:
        return "bad-checksum"
    return "fragment" if fragment & _FRAGMENT else Packet(src, dst, protocol, hops, at + header, at + total)


def _parse_ipv6(frame: bytes, at: int) -> Packet | str:
    if len(frame) < at + IPV6_SIZE:
        return "malformed"
    first, size, protocol, hops, src, dst = _IPV6.unpack_from(frame, at)
    if first >> 28 != 6 or size > len(frame) - at - IPV6_SIZE:
        return "malformed"
    if protocol in (0, 43, 44, 60):  # hop-by-hop, routing, fragment, destination options
        return "fragment" if protocol == 44 else "extension"
    return Packet(src, dst, protocol, hops, at + IPV6_SIZE, at + IPV6_SIZE + size)


class Datagram(NamedTuple):
    """A UDP datagram within a frame: its payload is from `at` to `end`."""

    src_port: int
    dst_port: int
    at: int
    end: int


def parse_udp(frame: bytes, packet: Packet) -> Datagram | str:
    """The UDP datagram in a packet, or "malformed" or "bad-checksum"."""
    if packet.end - packet.at < UDP_SIZE:
        return "malformed"
    src_port, dst_port, size, check = _UDP.unpack_from(frame, packet.at)
    if not UDP_SIZE <= size <= packet.end - packet.at:
        return "malformed"
    if check == 0:
        if len(packet.src) == 16:
            return "bad-checksum"  # RFC 8200 8.1: IPv6 wants one
    elif checksum(pseudo(packet.src, packet.dst, UDP, size), frame[packet.at : packet.at + size]) != 0:
        return "bad-checksum"
    return Datagram(src_port, dst_port, packet.at + UDP_SIZE, packet.at + size)
