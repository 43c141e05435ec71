"""Reads capture files: pcap and pcapng, one frame at a time.

Own code, because nothing fits: scapy's reader brings all of scapy and its licence along, dpkt and python-pcapng have
had no release for years. A capture file is somebody else's: every length in it is checked.
Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

MAX_FRAME = 262144
"""Bytes; libpcap's own limit on a snapshot."""
_MAX_BLOCK = 1 << 24
_MIN_FRAME = 14
_ETHERNET = 1  # LINKTYPE_ETHERNET
_SECOND = 1_000_000_000

_PCAP = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # magic -> nanoseconds in a unit of its time stamps
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_BYTE_ORDER = 0x1A2B3C4D
_OPTION_END, _OPTION_RESOLUTION, _OPTION_OFFSET = 0, 9, 14


class CaptureError(ValueError):
    """The file is no capture of Ethernet frames, or broken."""


class Captured(NamedTuple):
    """One captured frame. `time` in nanoseconds since 1970; `size` is its length on the wire, `frame` may have less."""

    time: int
    frame: bytes
    size: int


def unfit(captured: Captured, longest: int) -> str | None:
    """Why a captured frame cannot be sent as it was, None if it can; `longest` is what may be sent, in bytes."""
    if len(captured.frame) < captured.size:
        return "cut_short"  # the capture has only its beginning
    if len(captured.frame) > longest:
        return "too_long"
    return "too_short" if len(captured.frame) < _MIN_FRAME else None


class _Interface(NamedTuple):
    link_type: int
    snap: int
    units: int  # of a second
    offset: int  # seconds


def read_capture(file: BinaryIO) -> Iterator[Captured]:
    """Yield the frames in a file. Raises CaptureError, also in the middle: what came before was right."""
    magic = file.read(4)
    if magic == _SECTION.to_bytes(4, "big"):  # the same either way round
        return _read_pcapng(file)
    for order in "<>":
        units = _PCAP.get(struct.unpack(f"{order}I", magic)[0]) if len(magic) == 4 else None
        if units is not None:
            return _read_pcap(file, order, units)
    raise CaptureError("it is neither a pcap nor a pcapng file")


def _exactly(file: BinaryIO, size: int, what: str) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise CaptureError(f"it ends in the middle of {what}")
    return data


def _check_link_type(link_type: int) -> None:
    if link_type != _ETHERNET:
        raise CaptureError(f"its frames are not Ethernet's (link type {link_type})")


def _read_pcap(file: BinaryIO, order: str, units: int) -> Iterator[Captured]:
    *_, network = struct.unpack(f"{order}HHiIII", _exactly(file, 20, "its header"))
    _check_link_type(network & 0xFFFF)
    header = struct.Struct(f"{order}IIII")
    while data := file.read(header.size):
        if len(data) < header.size:
            raise CaptureError("it ends in the middle of a frame's header")
        seconds, fraction, captured, size = header.unpack(data)
        if captured > MAX_FRAME:
            raise CaptureError(f"it has a frame of {captured} bytes")
        yield Captured(seconds * _SECOND + fraction * units, _exactly(file, captured, "a frame"), size)


def _read_pcapng(file: BinaryIO) -> Iterator[Captured]:
    order, interfaces, last = "<", list[_Interface](), 0
    kind = _SECTION
    while True:
        if kind == _SECTION:
            order, body = _section(file)
            interfaces = []
        else:
            size = struct.unpack(f"{order}I", _exactly(file, 4, "a block"))[0]
            body = _block_body(file, order, size, 8)
        if kind == _INTERFACE:
            interfaces.append(_interface(body, order))
        elif kind in (_ENHANCED, _OLD_PACKET, _SIMPLE):
            captured = _packet(kind, body, order, interfaces, last)
            last = captured.time
            yield captured
        data = file.read(4)
        if not data:
            return
        if len(data) < 4:
            raise CaptureError("it ends in the middle of a block")
        # A section may have another byte order than the one before; its kind reads the same in both.
        kind = _SECTION if data == _SECTION.to_bytes(4, "big") else struct.unpack(f"{order}I", data)[0]


def _section(file: BinaryIO) -> tuple[str, bytes]:
    raw = _exactly(file, 8, "a section's header")
    for order in "<>":
        size, magic = struct.unpack(f"{order}II", raw)
        if magic == _BYTE_ORDER:
            return order, _block_body(file, order, size, 12)
    raise CaptureError("a section of it has no byte order")


def _block_body(file: BinaryIO, order: str, size: int, taken: int) -> bytes:
    """The rest of a block of `size` bytes, of which `taken` have been read, without its trailing length."""
    if size % 4 or not taken + 4 <= size <= _MAX_BLOCK:
        raise CaptureError(f"it has a block of {size} bytes")
    data = _exactly(file, size - taken, "a block")
    if struct.unpack(f"{order}I", data[-4:])[0] != size:
        raise CaptureError("a block's two lengths differ")
    return data[:-4]


def _unpack(layout: str, body: bytes, what: str) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, body)
    except struct.error:
        raise CaptureError(f"{what} is too short") from None


def _interface(body: bytes, order: str) -> _Interface:
    link_type, _, snap = _unpack(f"{order}HHI", body, "an interface's description")
    units, offset, at = 1_000_000, 0, 8
    while at + 4 <= len(body):
        code, size = struct.unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + size]
        if code == _OPTION_END:
            break
        if len(value) < size:
            raise CaptureError("an interface's options are too long")
        if code == _OPTION_RESOLUTION and size == 1:
            units = 1 << (value[0] & 0x7F) if value[0] & 0x80 else 10 ** (value[0] & 0x7F)
        elif code == _OPTION_OFFSET and size == 8:
            (offset,) = struct.unpack(f"{order}q", value)
        at += 4 + (size + 3) // 4 * 4
    return _Interface(link_type, snap, units, offset)


def _packet(kind: int, body: bytes, order: str, interfaces: list[_Interface], last: int) -> Captured:
    stamp = 0
    if kind == _SIMPLE:
        number, at = 0, 4
        (size,) = _unpack(f"{order}I", body, "a packet")
    else:
        # The old block has 16 bits of interface and 16 of drops where the enhanced one has 32 bits of interface.
        layout = f"{order}IIIII" if kind == _ENHANCED else f"{order}HxxIIII"
        number, high, low, captured, size = _unpack(layout, body, "a packet")
        stamp, at = high << 32 | low, 20
    if number >= len(interfaces):
        raise CaptureError(f"a packet is from interface {number}, which it does not describe")
    interface = interfaces[number]
    _check_link_type(interface.link_type)
    if kind == _SIMPLE:  # it has no time stamp, and no captured length either
        captured = min(size, interface.snap or size)
        time = last
    else:
        time = interface.offset * _SECOND + stamp * _SECOND // interface.units
    if captured > min(len(body) - at, MAX_FRAME):
        raise CaptureError(f"it has a packet of {captured} bytes in a block of {len(body)}")
    return Captured(time, body[at : at + captured], size)
