"""The payload a generator puts into its frames, from which a sink tells loss, order, duplicates and latency. No I/O.

18 bytes, big-endian, where the payload begins (after Ethernet and VLAN tags, or after UDP), so that a frame of 60 bytes
has room for it with a VLAN tag, or with IPv4 and UDP:

    0   u32  magic "VSWP"
    4   u16  bit 15: echoed; bits 0-14: the flow, one per generator and run
    6   u56  stamp: CLOCK_MONOTONIC of the generator in nanoseconds, modulo 2**56 (two years)
    13  u40  sequence number, modulo 2**40

Fields from 6 on begin at an even offset, so that a checksum over them is a matter of adding two numbers.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .headers import ETH_IPV4, ETH_IPV6, ETH_LOCAL, ETH_QINQ, ETH_SIZE, ETH_VLAN, IPV4_SIZE, IPV6_SIZE, UDP, UDP_SIZE

MAGIC = b"VSWP"
SIZE = 18
ECHOED = 0x8000
MAX_FLOW = 0x7FFF
SEQUENCE_MODULUS = 1 << 40
STAMP_MODULUS = 1 << 56

VARYING = struct.Struct(">QI")
"""Stamp and sequence number together, as `varying` gives them."""
VARYING_AT = 6

_FLOW = struct.Struct(">H")
_TYPES = {ETH_VLAN.to_bytes(2, "big"), ETH_QINQ.to_bytes(2, "big")}
_LOCAL, _IPV4, _IPV6 = (kind.to_bytes(2, "big") for kind in (ETH_LOCAL, ETH_IPV4, ETH_IPV6))


class Probe(NamedTuple):
    """What one frame carried."""

    flow: int
    sequence: int
    stamp: int
    echoed: bool


def varying(stamp: int, sequence: int) -> tuple[int, int]:
    """What `VARYING` packs for a stamp and a sequence number."""
    sequence %= SEQUENCE_MODULUS
    return (stamp % STAMP_MODULUS) << 8 | sequence >> 32, sequence & 0xFFFFFFFF


def pack(flow: int, sequence: int, stamp: int) -> bytes:
    """A whole probe."""
    return MAGIC + _FLOW.pack(flow & MAX_FLOW) + VARYING.pack(*varying(stamp, sequence))


def find(frame: bytes) -> int:
    """Where in a frame its probe is, -1 when there is none."""
    at = 12
    kind = frame[12:14]
    while kind in _TYPES and at < 20:
        at += 4
        kind = frame[at : at + 2]
    at += 2
    if kind == _LOCAL:
        pass
    elif kind == _IPV4:
        if len(frame) <= at + 9 or frame[at + 9] != UDP:
            return -1
        at += (frame[at] & 15) * 4 + UDP_SIZE
    elif kind == _IPV6:
        if len(frame) <= at + 6 or frame[at + 6] != UDP:
            return -1
        at += IPV6_SIZE + UDP_SIZE
    else:
        return -1
    return at if len(frame) >= at + SIZE and frame[at : at + 4] == MAGIC else -1


def unpack(frame: bytes, at: int) -> Probe:
    """The probe at `at`, as `find` gave it."""
    (flow,) = _FLOW.unpack_from(frame, at + 4)
    high, low = VARYING.unpack_from(frame, at + VARYING_AT)
    return Probe(flow & MAX_FLOW, (high & 0xFF) << 32 | low, high >> 8, bool(flow & ECHOED))


def mark_echoed(frame: bytearray, at: int) -> None:
    """Note in the probe at `at` that the frame is on its way back; whoever has checksums over it has to mend them."""
    frame[at + 4] |= ECHOED >> 8


def room(*, tagged: bool, version: int | None) -> int:
    """Bytes of the shortest frame with a probe in it; `version` is that of IP, None without."""
    inside = 0 if version is None else UDP_SIZE + (IPV4_SIZE if version == 4 else IPV6_SIZE)
    return ETH_SIZE + (4 if tagged else 0) + inside + SIZE
