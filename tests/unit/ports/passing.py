"""Frames of every size, to and from a peer beyond a port."""

from __future__ import annotations

import os
import socket

from ..fabric.peers import BROADCAST, Peer, frame, mac

SIZES = (14, 42, 60, 64, 1514, 1518, 4096, 9014, 16000, 65507, 65535, 69632)
UDP_MAX = 65507


def free_udp_port(host: str = "127.0.0.1") -> int:
    """A port of `host` that was free a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


def assert_frames_pass(inside: Peer, beyond: Peer, sizes: tuple[int, ...]) -> None:
    """Frames of each size pass from `inside` the switch to the peer `beyond` its port, and back, unchanged."""
    for number, size in enumerate(sizes):
        there = frame(BROADCAST, mac(1), b"%d" % number if size > 20 else b"", size=size)
        inside.send(there)
        assert beyond.receive() == there
        back = frame(mac(1), mac(2), os.urandom(size - 14), size=size)
        beyond.send(back)
        assert inside.receive() == back
