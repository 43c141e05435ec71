"""Network namespaces for tests, and traffic between real Linux stacks."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from vswitch.namespace import visiting

TIMEOUT = 15.0


class Namespace:
    """A network namespace with `lo` up, kept by a process that waits for its end of a pipe to close."""

    def __init__(self) -> None:
        script = "ip link set lo up && echo && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"\n", "no network namespace"
        self.fd = os.open(f"/proc/{self._holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def pid(self) -> int:
        """The process that keeps it."""
        return self._holder.pid

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *error: Any) -> None:
        os.close(self.fd)
        self._holder.communicate(timeout=TIMEOUT)

    def ip(self, command: str) -> None:
        """Run `ip COMMAND` in it."""
        path = Path(f"/proc/{self.pid}/ns/net")
        subprocess.run(["nsenter", f"--net={path}", "ip", *command.split()], check=True, timeout=TIMEOUT)

    def wait_up(self, device: str) -> None:
        """Wait until `device` passes frames, which is a moment after it was set up."""
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "ip", "link", "show", device]
        deadline = time.monotonic() + TIMEOUT
        while b"state UP" not in subprocess.check_output(command):
            assert time.monotonic() < deadline, f"{device} does not come up"

    def bound(self, kind: socket.SocketKind, address: str) -> socket.socket:
        """A socket of it, bound to a free port of `address`."""
        with visiting(self.fd):
            sock = socket.socket(socket.AF_INET, kind)
        sock.settimeout(TIMEOUT)
        sock.bind((address, 0))
        return sock


def assert_tcp_works(source: Namespace, source_address: str, target: Namespace, target_address: str) -> None:
    """Move 8 MiB over a TCP connection and compare."""
    data = os.urandom(1 << 20) * 8
    received = hashlib.sha256()
    with target.bound(socket.SOCK_STREAM, target_address) as server:
        server.listen()

        def receive() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(TIMEOUT)
                while piece := connection.recv(1 << 16):
                    received.update(piece)

        receiver = threading.Thread(target=receive)
        receiver.start()
        with source.bound(socket.SOCK_STREAM, source_address) as client:
            client.connect(server.getsockname())
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            receiver.join(TIMEOUT)
    assert received.digest() == hashlib.sha256(data).digest()


def assert_udp_works(
    source: Namespace, source_address: str, target: Namespace, target_address: str, sizes: tuple[int, ...]
) -> None:
    """Send a datagram of each size and have it answered."""
    with (
        target.bound(socket.SOCK_DGRAM, target_address) as server,
        source.bound(socket.SOCK_DGRAM, source_address) as client,
    ):
        for size in sizes:
            data = os.urandom(size)
            client.sendto(data, server.getsockname())
            got, sender = server.recvfrom(65536)
            assert got == data
            server.sendto(got[::-1], sender)
            assert client.recv(65536) == data[::-1]
