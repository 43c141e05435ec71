"""A generator's frames: built once, patched with a probe's stamp and sequence number when they leave. No I/O."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from . import patterns, probe
from .headers import ETH_IPV4, ETH_IPV6, ETH_LOCAL, UDP, UDP_SIZE, ethernet, ip, pseudo, sum16
from .probe import SIZE, VARYING, VARYING_AT
from .settings import EmulatedSpec

MAX_FRAMES = 65536
MAX_BYTES = 64 << 20
MIN_POOL = 512
"""At least so many different buffers, so that frames of a batch never share one."""

_PORTS = struct.Struct(">HHHH")
_CHECKSUM = struct.Struct(">H")
_CHECKSUM_IN_UDP = 6


class FramePool:
    """The frames of one cycle of all of a generator's patterns and sizes, over and over.

    `spec` is what `targets.resolve` returned. Raises ValueError when there would be too many different frames.
    """

    def __init__(self, spec: EmulatedSpec, flow: int) -> None:
        dst, src = patterns.macs(spec.dst or ""), patterns.macs(spec.src or "")
        vlans = [(vlan,) for vlan in patterns.numbers(spec.vlan, 1, 4094)] if spec.vlan is not None else [()]
        src_ips = patterns.addresses(spec.src_ip) if spec.src_ip is not None else [None]
        dst_ips = patterns.addresses(spec.dst_ip) if spec.dst_ip is not None else [None]
        src_ports = patterns.numbers(spec.src_port or "0", 0, 65535)
        dst_ports = patterns.numbers(spec.dst_port or "0", 0, 65535)
        self.sizes = patterns.sizes(spec.size or str(patterns.MIN_FRAME))
        fields: list[Sequence[object]] = [dst, src, vlans, src_ips, dst_ips, src_ports, dst_ports]
        count = pool_size([len(values) for values in fields], self.sizes)
        version = None if dst_ips[0] is None else dst_ips[0].version
        self.offset = probe.room(tagged=spec.vlan is not None, version=version) - SIZE
        """Where the probe is in each frame."""
        self._checksummed = version == 6  # with IPv4 a UDP checksum may be left out, as 0
        self._partial: list[int] = []
        self.frames: list[bytearray] = []
        content = probe.pack(flow, 0, 0)
        for number in range(count):
            size = self.sizes[number % len(self.sizes)]
            tags: tuple[int, ...] = vlans[number % len(vlans)]
            source, target = src_ips[number % len(src_ips)], dst_ips[number % len(dst_ips)]
            macs = (dst[number % len(dst)], src[number % len(src)])
            if source is None or target is None:
                frame = ethernet(*macs, ETH_LOCAL, tags) + content
            else:
                head = ethernet(*macs, ETH_IPV6 if version == 6 else ETH_IPV4, tags)
                inside = size - self.offset + UDP_SIZE
                ports = (src_ports[number % len(src_ports)], dst_ports[number % len(dst_ports)])
                datagram = _PORTS.pack(*ports, inside, 0) + content
                frame = head + ip(source, target, UDP, inside) + datagram
                if self._checksummed:
                    total = sum16(pseudo(source.packed, target.packed, UDP, inside)) + sum16(datagram)
                    self._partial.append(total)
            self.frames.append(bytearray(frame.ljust(size, b"\0")))
        self._next = 0

    def take(self, most: int) -> list[bytearray]:
        """The next frames in turn, at most `most`, each a buffer of its own; `advance` says how many of them left."""
        return self.frames[self._next : self._next + most]

    def stamp(self, frames: Sequence[bytearray], sequence: int, stamp: int) -> None:
        """Write consecutive probes into `frames`, which `take` returned last."""
        at = self.offset + VARYING_AT
        pack = VARYING.pack_into
        high, low = probe.varying(stamp, sequence)
        if low + len(frames) > 0xFFFFFFFF or self._checksummed:
            self._stamp_slowly(frames, sequence, stamp)
            return
        for number, frame in enumerate(frames, low):
            pack(frame, at, high, number)

    def _stamp_slowly(self, frames: Sequence[bytearray], sequence: int, stamp: int) -> None:
        at = self.offset + VARYING_AT
        check_at = self.offset - UDP_SIZE + _CHECKSUM_IN_UDP
        for number, frame in enumerate(frames):
            high, low = probe.varying(stamp, sequence + number)
            VARYING.pack_into(frame, at, high, low)
            if self._checksummed:
                # The sum of the two numbers' 16-bit words is, modulo 65535, the numbers themselves. 0 is sent as 65535.
                total = (self._partial[self._next + number] + high + low) % 0xFFFF
                _CHECKSUM.pack_into(frame, check_at, 0xFFFF - total)

    def advance(self, count: int) -> None:
        """`count` frames of those last taken have left."""
        self._next = (self._next + count) % len(self.frames)


def pool_size(counts: Sequence[int], sizes: Sequence[int]) -> int:
    """How many frames make a whole number of cycles of every pattern, and of the sizes where that is not too many.

    `counts` are the patterns' numbers of values. Raises ValueError for too many, in number or bytes.
    """
    cycle = math.lcm(*counts)
    if cycle > MAX_FRAMES:
        raise ValueError(
            f"patterns of {', '.join(str(count) for count in counts if count > 1)} values go together in {cycle} ways, "
            f"more than {MAX_FRAMES}; use ranges of the same length, or one a multiple of the other"
        )
    whole = math.lcm(cycle, len(sizes))
    unit = whole if whole <= MAX_FRAMES else cycle
    count = unit * -(-max(MIN_POOL, len(sizes)) // unit)
    if count * sum(sizes) / len(sizes) > MAX_BYTES:
        raise ValueError(f"patterns and sizes make {count} different frames, more than {MAX_BYTES >> 20} MiB of them")
    return count


def check(spec: EmulatedSpec) -> None:
    """Raise the ValueError that a pool for `spec` would raise, without making it."""
    counts = [len(patterns.macs(text)) for text in (spec.dst, spec.src) if text is not None]
    counts += [len(patterns.addresses(text)) for text in (spec.src_ip, spec.dst_ip) if text is not None]
    for text in (spec.vlan, spec.src_port, spec.dst_port):
        counts += [len(patterns.numbers(text, 0, 65535))] if text is not None else []
    pool_size(counts, patterns.sizes(spec.size or str(patterns.MIN_FRAME)))
