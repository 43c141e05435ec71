"""Our switch, put through a script (bridge_oracle.py): an engine in this process, and the far ends of its ports."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

from vswitch import _ring
from vswitch.fabric import core
from vswitch.ring import Ring

from .bridge_oracle import (
    N_PORTS,
    Configure,
    Flush,
    Link,
    Pin,
    Received,
    Script,
    Send,
    Settings,
    State,
    Step,
    Unpin,
    Wait,
)

TIMEOUT = 10.0
_OPENED = struct.Struct("=IIII256s")  # netmap_ring.h: the answer to a client that opens a ring
_RING_MAGIC, _RING_VERSION = 0x52535756, 1
_FDB_LIMIT = 8192
_FORWARD, _DROP = 0, 1


class FarEnd(Protocol):
    """The station's side of a port."""

    port_type: str
    """What `core.Engine.add_port` calls it."""
    outlives_link: bool
    """Whether the port, and so its static entries, stays when the link has gone, until it is replaced."""

    def connect(self) -> list[int]:
        """Make both ends; return the descriptors for the port."""

    def connected(self) -> None:
        """Take note that the port exists."""

    def send(self, frames: Sequence[bytes]) -> None:
        """Send frames at once."""

    def receive(self) -> list[bytes]:
        """Return the frames that have arrived."""

    def hang_up(self) -> None:
        """Take the link away. Idempotent."""


class StreamEnd(FarEnd):
    """A stream socket."""

    port_type = "stream"
    outlives_link = True

    def connect(self) -> list[int]:
        self._sock, port = socket.socketpair()
        self._rest = b""
        return [port.detach()]

    def connected(self) -> None:
        pass

    def send(self, frames: Sequence[bytes]) -> None:
        self._sock.sendall(b"".join(struct.pack(">I", len(frame)) + frame for frame in frames))

    def receive(self) -> list[bytes]:
        try:
            while data := self._sock.recv(1 << 18, socket.MSG_DONTWAIT):
                self._rest += data
        except BlockingIOError:
            pass
        frames = []
        while len(self._rest) >= 4:
            (size,) = struct.unpack_from(">I", self._rest)
            frames.append(self._rest[4 : 4 + size])
            self._rest = self._rest[4 + size :]
        return frames

    def hang_up(self) -> None:
        self._sock.close()


class RingEnd(FarEnd):
    """A ring, as fabric/ring_ports.py gives one to a client."""

    port_type = "ring"
    outlives_link = False

    def connect(self) -> list[int]:
        client, self._server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._client = client.detach()
        self._memory = _ring.create("oracle", 1, 64, 2048, 1, 1)
        self._kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return [os.dup(self._kick), os.dup(self._memory), os.dup(self._server.fileno())]

    def connected(self) -> None:
        answer = _OPENED.pack(_RING_MAGIC, _RING_VERSION, 0, 0, b"")
        socket.send_fds(self._server, [answer], [self._memory, self._kick])
        os.close(self._memory)
        os.close(self._kick)
        self._ring = Ring.from_fd(self._client)  # finds the answer waiting
        self._server.recv(4096)  # its request

    def send(self, frames: Sequence[bytes]) -> None:
        assert self._ring.send(frames) == len(frames)

    def receive(self) -> list[bytes]:
        frames: list[bytes] = []
        while more := self._ring.receive():
            frames += more
        return frames

    def hang_up(self) -> None:
        self._ring.close()
        self._server.close()


class OurSwitch:
    """A switch with `N_PORTS` ports, each with a far end of class `end`, for one script."""

    def __init__(self, script: Script, end: type[StreamEnd] | type[RingEnd]) -> None:
        self._engine = core.Engine()
        self._switch = self._engine.add_switch(False, script.ageing, _FDB_LIMIT)
        self._engine.configure_switch(
            self._switch,
            ageing=script.ageing,
            fdb_limit=_FDB_LIMIT,
            vlan_filtering=script.filtering,
            vlan_protocol=script.protocol,
            reserved=bytes(_FORWARD if script.forwarded >> n & 1 else _DROP for n in range(16)),
        )
        self._ends: list[FarEnd] = [end() for _ in range(N_PORTS)]
        self._ids = {port: self._connect(port) for port in range(N_PORTS)}

    def __enter__(self) -> OurSwitch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()
        for end in self._ends:
            end.hang_up()

    def do(self, state: State, step: Step) -> Received:
        """Do a step, given the state before it; return what came out of each port, when all has."""
        match step:
            case Send():
                return self._send(step)
            case Configure():
                if state.up[step.port]:
                    self._configure(self._ids[step.port], step.settings)
            case Pin():
                self._engine.fdb_add(self._switch, int(step.address, 16), step.vlan, self._ids[step.port])
            case Unpin():
                self._engine.fdb_remove(self._switch, int(step.address, 16), step.vlan)
            case Flush():
                self._engine.fdb_flush(self._switch, self._ids[step.port], None)
            case Link():
                self._link_up(state, step.port) if step.up else self._link_down(step.port)
            case Wait():
                threading.Event().wait(step.ms / 1000)  # nothing tells that an entry has aged but that it has
        return {}

    def _connect(self, port: int) -> int:
        end = self._ends[port]
        made = self._engine.add_port(self._switch, end.port_type, end.connect())
        end.connected()
        return made

    def _configure(self, port_id: int, settings: Settings) -> None:
        members = bytearray(512)
        for vlan in settings.members:
            members[vlan >> 3] |= 1 << (vlan & 7)
        self._engine.configure_port(
            port_id,
            members=bytes(members),
            pvid=settings.pvid,
            isolated=settings.isolated,
            learning=settings.learning,
            unknown_flood=settings.unknown_flood,
            broadcast_flood=settings.broadcast_flood,
            multicast_flood=settings.multicast_flood,
            hairpin=settings.hairpin,
            sticky=False,
            control=False,
            overflow_drop=False,
            storm_limit=0,
            mac_limit=0,
            mtu=0,
        )

    def _link_down(self, port: int) -> None:
        end = self._ends[port]
        end.hang_up()
        if end.outlives_link:
            self._wait_for(port, "state", "closed")
        else:
            self._engine.remove_port(self._ids.pop(port))

    def _link_up(self, state: State, port: int) -> None:
        if self._ends[port].outlives_link:
            self._engine.remove_port(self._ids[port])
        self._ids[port] = self._connect(port)
        self._configure(self._ids[port], state.settings[port])
        for pin in state.pins_on(port):
            self.do(state, pin)

    def _counters(self) -> dict[int, dict[str, Any]]:
        return {row["id"]: row for row in self._engine.stats()}

    def _wait_for(self, port: int, key: str, value: object) -> dict[int, dict[str, Any]]:
        """Wait until a counter of a port has a value; return all counters at that time.

        The engine does what one burst of frames takes in one go and answers afterwards, so then all of it is done.
        """
        end = time.monotonic() + TIMEOUT
        while (rows := self._counters())[self._ids[port]][key] != value:
            assert time.monotonic() < end, f"port {port}: {key} is {rows[self._ids[port]][key]}, not {value}"
        return rows

    def _send(self, step: Send) -> Received:
        before = self._counters()
        taken = before[self._ids[step.port]]["rx_frames"] + len(step.frames)
        self._ends[step.port].send([frame.data(number) for number, frame in enumerate(step.frames, step.first)])
        after = self._wait_for(step.port, "rx_frames", taken)
        received: Received = {}
        for port, port_id in self._ids.items():
            if after[port_id]["state"] != "up":
                continue
            frames = self._ends[port].receive()
            counted = after[port_id]["tx_frames"] - before[port_id]["tx_frames"]
            assert counted == len(frames), f"port {port} counts {counted} frames, and has sent {len(frames)}"
            if frames:
                received[port] = frames
        return received
