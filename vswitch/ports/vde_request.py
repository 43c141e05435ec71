"""What a VDE client and its switch say to each other once, before frames move: a request, and an address as the answer.

Both are C structs in the machine's byte order (datasock.c of vde_switch and libvdeplug have them):

    version 3:  u32 magic | u32 3 | i32 type | sockaddr_un | description
    version 1:  u32 magic | i32 type | 6 bytes that mean nothing now | sockaddr_un | description

The low byte of `type` says what is asked for, the rest is the number of the port, 0 where any will do. The address is
that of a datagram socket the client has bound, in the answer that of the switch's own. Whatever a client sends is
untrusted.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

MAX_REQUEST = 256
"""Bytes of a request, its description included."""
MAX_PORT = 65535
ADDRESS_SIZE = 110
"""Bytes of a `struct sockaddr_un`, the whole of which an answer is."""
MAX_PATH = ADDRESS_SIZE - 2 - 1

_MAGIC = 0xFEEDFACE
_VERSION = 3
_NEW_CONTROL, _NEW_PORT0 = 0, 1
_WORDS = struct.Struct("=III")
_ADDRESS = struct.Struct("=H108s")
_V3_ADDRESS_AT = _WORDS.size
_V1_ADDRESS_AT = 4 + 4 + 6


class VdeRequest(NamedTuple):
    """A client's wish: to be plugged into port `port` (None: any), its datagram socket being at `path`."""

    port: int | None
    path: str


def parse_request(data: bytes) -> VdeRequest | None:
    """Return what a client asks for, None when more has to come. Raises ValueError for what is no request."""
    if data[:4] != struct.pack("=I", _MAGIC)[: len(data[:4])]:
        raise ValueError("it does not begin as a VDE request does")
    if len(data) < _WORDS.size:
        return None
    _, second, third = _WORDS.unpack_from(data)
    if second == _VERSION:
        kind, address_at = third, _V3_ADDRESS_AT
    elif second & 0xFF in (_NEW_CONTROL, _NEW_PORT0):  # no version word
        kind, address_at = second, _V1_ADDRESS_AT
    else:
        raise ValueError(f"it is of version {second}; known are 1 and {_VERSION}")
    port = _port(kind)
    if len(data) < address_at + ADDRESS_SIZE:
        return None
    return VdeRequest(port, parse_address(data[address_at : address_at + ADDRESS_SIZE]))


def _port(kind: int) -> int | None:
    port = kind >> 8
    if port > MAX_PORT:
        raise ValueError(f"it asks for port {port}; the highest is {MAX_PORT}")
    if kind & 0xFF == _NEW_PORT0:
        return 0
    if kind & 0xFF != _NEW_CONTROL:
        raise ValueError(f"it is of type {kind & 0xFF}; known are {_NEW_CONTROL} and {_NEW_PORT0}")
    return port or None


def make_request(request: VdeRequest, description: str) -> bytes:
    """Return the bytes of a request, `description` cut to what fits."""
    kind = _NEW_PORT0 if request.port == 0 else (request.port or 0) << 8 | _NEW_CONTROL
    data = _WORDS.pack(_MAGIC, _VERSION, kind) + make_address(request.path)
    return data + description.encode()[: MAX_REQUEST - len(data)]


def parse_address(data: bytes) -> str:
    """Return the path a `struct sockaddr_un` holds. Raises ValueError when that is not an absolute path."""
    family: int
    raw: bytes
    family, raw = _ADDRESS.unpack(data)
    path, end, _ = raw.partition(b"\0")
    if family != socket.AF_UNIX or not end or not path.startswith(b"/"):
        raise ValueError("the address in it is not the absolute path of a socket")
    return path.decode(errors="surrogateescape")


def make_address(path: str) -> bytes:
    """Return `path` (at most MAX_PATH bytes) as a `struct sockaddr_un`."""
    return _ADDRESS.pack(socket.AF_UNIX, path.encode(errors="surrogateescape"))
