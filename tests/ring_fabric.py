"""A fabric process that serves ring ports, for tests that are clients of it. It is asked for things from any thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import resource
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vswitch.fabric.client import FabricClient, FabricEvent, PortStats
from vswitch.model.lab import PortSettings
from vswitch.ring import Ring

_T = TypeVar("_T")
TIMEOUT = 20.0
"""Seconds that anything may take which normally takes none."""


def mac(number: int) -> bytes:
    """The address of station `number`."""
    return bytes.fromhex("020000") + number.to_bytes(3, "big")


def numbered(to: int, source: int, number: int, size: int = 60) -> bytes:
    """A frame between two stations that carries a number."""
    return (mac(to) + mac(source) + b"\x88\xb5" + number.to_bytes(8, "big")).ljust(size, bytes([number & 0xFF]))


class Holdings(NamedTuple):
    """What a process holds of the kernel."""

    descriptors: int
    mappings: int
    threads: int
    resident: int
    """KiB"""

    @classmethod
    def of(cls, pid: int) -> Holdings:
        """Look at process `pid`. Mappings are those of rings: others are the allocator's business."""
        process = Path("/proc", str(pid))
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return cls(
            len(list((process / "fd").iterdir())),
            (process / "maps").read_text().count("memfd:vswitch-ring"),
            int(status["Threads"]),
            int(status["VmRSS"].split()[0]),
        )


def processor_time(pid: int) -> float:
    """Seconds that a process has computed so far."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class RingFabric:
    """A fabric with a switch `lan`, that serves rings at `path`. A context manager.

    `prefix` is put before its command: how to run it in a namespace.
    """

    def __init__(self, path: Path, prefix: Sequence[str] = ()) -> None:
        self.path = path
        self._prefix = prefix
        self.events: queue.Queue[FabricEvent] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> RingFabric:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # 1024 are not enough for some tests
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "vswitch.fabric", "--control-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )
        self._thread.start()
        self.client = FabricClient(ours, self.events.put)
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self.path))
        listener.listen(64)
        self.ask(self.client.open())
        self.ask(self.client.add_network("lan", "switch"))
        self.ask(self.client.listen_rings(listener))
        return self

    def __exit__(self, *error: object) -> None:
        self.ask(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        try:
            self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            self.process.wait()

    def ask(self, request: Coroutine[Any, Any, _T]) -> _T:
        """Do what one of the client's methods returned."""
        return asyncio.run_coroutine_threadsafe(request, self._loop).result(TIMEOUT)

    def declare(self, port: str, settings: PortSettings, **spec: int) -> None:
        """Have a ring port of `lan` wait for its client."""
        self.ask(self.client.add_outside_port("lan", port, {"type": "ring", **spec}, settings))

    def name(self, port: str) -> str:
        """What a client calls a port of `lan`."""
        return f"{self.path}:lan:{port}"

    def open(self, port: str, **options: Any) -> Ring:
        """Open a port of `lan`, and wait until the fabric has said so."""
        ring = Ring.open(self.name(port), **options)
        self.expect(port, "up")
        return ring

    def ports(self) -> dict[str, PortStats]:
        """Return the counters of all ports, by name."""
        return {row.port: row for row in self.ask(self.client.stats())}

    def expect(self, port: str, state: str) -> FabricEvent:
        """Wait for the event that says so, which has to be the next one of this port."""
        while True:
            event = self.events.get(timeout=TIMEOUT)
            if event.port == port:
                assert event.state == state, event
                return event

    def holdings(self) -> Holdings:
        """Look at what the process holds, after it has handled what it was sent."""
        self.ports()
        return Holdings.of(self.process.pid)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Ask the fabric for things until `condition` holds."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, "still not so"
            self.ports()


@contextlib.contextmanager
def ring_fabric() -> Iterator[RingFabric]:
    """A running fabric with a socket of its own."""
    with tempfile.TemporaryDirectory(prefix="vst-") as scratch, RingFabric(Path(scratch, "ring")) as fabric:
        yield fabric


class Pair:
    """Two stations, numbers 1 and 2, that exchange numbered frames and lose none. Nobody can take their addresses."""

    def __init__(self, fabric: RingFabric) -> None:
        self._rings = {}
        self._sent = {1: 0, 2: 0}
        for self_number, port in ((1, "innocent1"), (2, "innocent2")):
            text = mac(self_number).hex(":")
            fabric.declare(port, PortSettings(static_macs=(text,)), slots=1024)
            self._rings[self_number] = fabric.open(port)

    def exchange(self, n: int = 100) -> float:
        """Send `n` frames each way and wait for them; return the seconds this took."""
        begun = time.monotonic()
        for source, to in ((1, 2), (2, 1)):
            first = self._sent[source]
            frames = [numbered(to, source, number, 60 + number % 500) for number in range(first, first + n)]
            assert self._rings[source].send_all(frames, TIMEOUT) == n
            self._sent[source] += n
            got: list[bytes] = []
            while len(got) < n:
                assert self._rings[to].wait(timeout=TIMEOUT), f"{n - len(got)} of {n} frames are missing"
                got += [frame for frame in self._rings[to].receive() if frame[6:12] == mac(source)]
            assert got == frames
        for ring in self._rings.values():
            ring.receive()  # what others flood
        return time.monotonic() - begun

    def close(self) -> None:
        """Close both ports."""
        for ring in self._rings.values():
            ring.close()


def readable(fd: int, timeout: float = TIMEOUT) -> bool:
    """Whether `fd` becomes readable within `timeout` seconds."""
    return bool(select.select([fd], [], [], timeout)[0])


def raw_connection(fabric: RingFabric) -> socket.socket:
    """A connection to the fabric's ring socket over which nothing has been said."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(os.fspath(fabric.path))
    sock.settimeout(TIMEOUT)
    return sock
