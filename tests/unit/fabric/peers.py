"""Frames, and the far ends of stream ports, for tests of the data plane."""

from __future__ import annotations

import select
import socket
import struct

BROADCAST = bytes.fromhex("ffffffffffff")
TIMEOUT = 10.0


def mac(number: int) -> bytes:
    """The address of host `number`."""
    return bytes.fromhex("525400") + number.to_bytes(3, "big")


def frame(to: bytes, source: bytes, payload: bytes = b"", *, size: int = 60) -> bytes:
    """An Ethernet frame of an EtherType for experiments, padded to `size` bytes."""
    return (to + source + b"\x88\xb5" + payload).ljust(size, b"\0")


def framed(data: bytes) -> bytes:
    """A frame as it goes over a stream, behind its length."""
    return struct.pack(">I", len(data)) + data


class Peer:
    """The far end of a stream port. Waits for what it is asked for, at most `TIMEOUT` seconds."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(TIMEOUT)

    @classmethod
    def pair(cls) -> tuple[Peer, int]:
        """A peer, and the descriptor for its port."""
        ours, theirs = socket.socketpair()
        return cls(ours), theirs.detach()

    def send(self, data: bytes) -> None:
        """Send one frame."""
        self.sock.sendall(framed(data))

    def receive(self) -> bytes:
        """Return the next frame."""
        (length,) = struct.unpack(">I", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise EOFError(f"closed after {len(data)} of {size} bytes")
            data += piece
        return bytes(data)

    def silent(self) -> bool:
        """Whether nothing has arrived. Only means something once a later event has been waited for."""
        return not select.select([self.sock], [], [], 0)[0]

    def close(self) -> None:
        """Hang up."""
        self.sock.close()
