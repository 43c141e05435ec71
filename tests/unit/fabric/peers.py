"""Frames, and the far ends of stream ports, for tests of the data plane."""

from __future__ import annotations

import random
import select
import socket
import struct
from collections.abc import Iterable

BROADCAST = bytes.fromhex("ffffffffffff")
TIMEOUT = 10.0
SIZES = (14, 42, 60, 64, 1514, 1518, 4096, 9014, 16000, 65535, 69632)
"""Of frames, in bytes: what every port type is tried with as far as it carries them."""


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


def join(listener: Peer, speaker: Peer) -> None:
    """Wait until what `speaker` sends arrives at `listener`: a program between them may take no frames at first."""
    while listener.silent():
        speaker.send(frame(BROADCAST, mac(1), b"hello"))
        select.select([listener.sock], [], [], 0.05)
    speaker.send(frame(BROADCAST, mac(1), b"begin"))
    while b"begin" not in listener.receive():
        pass


def exchange(inside: Peer, beyond: Peer, sizes: Iterable[int] = SIZES) -> None:
    """Send a frame of each size either way; each must arrive as it was sent, and no other."""
    for number, size in enumerate(sizes):
        for sender, receiver, to, source in ((beyond, inside, 2, 1), (inside, beyond, 1, 2)):
            sent = frame(mac(to), mac(source), random.Random(number).randbytes(size - 14), size=size)
            sender.send(sent)
            assert receiver.receive() == sent, f"{size} bytes"
    assert inside.silent()
    assert beyond.silent()
