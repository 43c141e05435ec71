"""A switch with a port of every type, each with its real peer behind it, for test_port_matrix.py.

All of it is in a network namespace of its own: the fabric, one QEMU without a machine with a hub for each of its
netdevs, a vde_switch, a veth pair. `MEMBERS` says of each how its port is asked for, who its peer is, and what of a
frame the two of them carry, and why not more.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.qemu_converter import QEMU, QemuConverter
from tests.ring_fabric import RingFabric
from tests.unit.fabric.peers import BROADCAST, TIMEOUT, Peer, frame, mac
from vswitch.ring import Ring

LONGEST = 69632
"""Bytes: what QEMU reads of a frame at most, and so the longest a switch of ours has."""
FRAME_MIN = 14
"""Bytes: a shorter one is none."""
UDP = 65507
"""Bytes: what a datagram of UDP over IPv4 holds."""
_RETRY = 0.05
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23

_HOLD = """
import sys
from vswitch.namespace import enter_lab_namespace
enter_lab_namespace()
print(flush=True)
sys.stdin.read()
"""
_OPEN_PACKET_SOCKETS = f"""
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as ours:
    for device in sys.argv[2:]:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.setsockopt({_SOL_PACKET}, {_PACKET_IGNORE_OUTGOING}, 1)
            sock.bind((device, 3))
            socket.send_fds(ours, [b"x"], [sock.fileno()])
"""


class Member(NamedTuple):
    """A port of the switch and its peer.

    `port` makes the port's settings of the directory where both may have sockets; `netdev` is QEMU's side, if that is
    the peer. `into` is the longest frame the peer gets into the switch whole, `out` the longest the port takes: what is
    longer is `too_long` for it. Of what goes out the peer keeps the first `kept` bytes.
    """

    port: Callable[[Path], dict[str, Any]]
    netdev: Callable[[Path], str] | None = None
    into: int = LONGEST
    out: int = LONGEST
    kept: int = LONGEST


def _stream(port: int) -> Callable[[Path], dict[str, Any]]:
    return lambda _: {"type": "stream", "listen": f"127.0.0.1:{port}"}


def _dgram(ours: int, theirs: int) -> Callable[[Path], dict[str, Any]]:
    return lambda _: {"type": "dgram", "local": f"127.0.0.1:{ours}", "remote": f"127.0.0.1:{theirs}"}


_L2TPV3 = "txsession=7,rxsession=8"
_SESSION = {"type": "l2tpv3", "tx_session": 8, "rx_session": 7}

MEMBERS: dict[str, Member] = {
    "socket-listen": Member(
        lambda _: {"type": "stream", "connect": "127.0.0.1:7001"},
        lambda _: "socket,listen=127.0.0.1:7001",
    ),
    "socket-connect": Member(_stream(7002), lambda _: "socket,connect=127.0.0.1:7002"),
    "socket-udp": Member(
        _dgram(7003, 7004),
        lambda _: "socket,udp=127.0.0.1:7003,localaddr=127.0.0.1:7004",
        into=UDP,
        out=UDP,
    ),
    "socket-mcast": Member(
        lambda _: {"type": "mcast", "group": "239.0.0.1:7005"},
        lambda _: "socket,mcast=239.0.0.1:7005,localaddr=127.0.0.1",
        into=UDP,
        out=UDP,
    ),
    "stream-inet": Member(
        _stream(7006),
        lambda _: "stream,server=off,addr.type=inet,addr.host=127.0.0.1,addr.port=7006",
    ),
    "stream-unix": Member(
        lambda path: {"type": "stream", "connect": f"unix:{path}/stream"},
        lambda path: f"stream,server=on,addr.type=unix,addr.path={path}/stream",
    ),
    "stream-fd": Member(lambda _: {"type": "stream"}, lambda _: "stream,server=off,addr.type=fd,addr.str={fd}"),
    "dgram-inet": Member(
        _dgram(7007, 7008),
        lambda _: (
            "dgram,local.type=inet,local.host=127.0.0.1,local.port=7008,"
            "remote.type=inet,remote.host=127.0.0.1,remote.port=7007"
        ),
        into=UDP,
        out=UDP,
    ),
    "dgram-mcast": Member(
        lambda _: {"type": "mcast", "group": "239.0.0.2:7009"},
        lambda _: (
            "dgram,local.type=inet,local.host=127.0.0.1,local.port=7009,"
            "remote.type=inet,remote.host=239.0.0.2,remote.port=7009"
        ),
        into=UDP,
        out=UDP,
    ),
    "dgram-unix": Member(
        lambda path: {"type": "dgram", "local": f"unix:{path}/ours", "remote": f"unix:{path}/theirs"},
        lambda path: f"dgram,local.type=unix,local.path={path}/theirs,remote.type=unix,remote.path={path}/ours",
    ),
    "dgram-fd": Member(lambda _: {"type": "dgram"}, lambda _: "dgram,local.type=fd,local.str={fd}"),
    # Eight bytes of header; QEMU reads 2048 bytes of a frame.
    "l2tpv3-udp": Member(
        lambda _: {**_SESSION, "local": "127.0.0.1:7010", "remote": "127.0.0.1:7011"},
        lambda _: f"l2tpv3,src=127.0.0.1,dst=127.0.0.1,udp=on,srcport=7011,dstport=7010,{_L2TPV3}",
        into=UDP - 8,
        out=UDP - 8,
        kept=2048,
    ),
    # Beside IPv4's header only the session.
    "l2tpv3-raw": Member(
        lambda _: {**_SESSION, "local": "127.0.0.1", "remote": "127.0.0.2", "udp": False},
        lambda _: f"l2tpv3,src=127.0.0.2,dst=127.0.0.1,{_L2TPV3}",
        into=65535 - 20 - 4,
        out=65535 - 20 - 4,
        kept=2048,
    ),
    "vde": Member(
        lambda path: {"type": "vde", "listen": f"{path}/ctl"},
        lambda path: f"vde,sock={path}/ctl",
    ),
    # Behind a vde_switch, which cuts every frame.
    "vde_switch": Member(
        lambda path: {"type": "vde", "connect": f"{path}/vde_switch"},
        lambda path: f"vde,sock={path}/vde_switch",
        into=1518,
        kept=1518,
    ),
    # The largest MTU a TAP may have bounds what the stack sends, but not what it takes.
    "tap": Member(lambda _: {"type": "tap", "ifname": "tap0", "device_mtu": 65521}, into=65535),
    # The largest MTU a veth may have bounds both.
    "packet": Member(lambda _: {"type": "packet", "interface": "veth0"}, into=65549, out=65549),
    "raw-pipe": Member(
        lambda path: {"type": "raw-pipe", "command": ["socat", "-", f"UNIX-CONNECT:{path}/pipe"]},
    ),
    "ring": Member(lambda _: {"type": "ring"}),
}
"""By name; those with a netdev are named after it. Addresses are of the namespace, so they are free."""


def missing(name: str) -> str | None:
    """Why a member cannot be here, None when it can."""
    if MEMBERS[name].netdev is not None and shutil.which(QEMU) is None:
        return "needs QEMU (package qemu-system-x86)"
    program = {"vde_switch": "vde_switch", "raw-pipe": "socat"}.get(name)
    if program is not None and shutil.which(program) is None:
        return f"needs {program}"
    if name == "tap" and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    return None


class Station(Protocol):
    """Where a member's peer has its frames from and to: what the tests send and receive."""

    def send(self, data: bytes, /) -> None:
        """Send one frame."""

    def receive(self) -> bytes:
        """Return the next frame, which is waited for."""

    def wait(self, timeout: float, /) -> bool:
        """Whether there is a frame, within `timeout` seconds."""


class _Stream(Peer):
    def wait(self, timeout: float) -> bool:
        return bool(select.select([self.sock], [], [], timeout)[0])


class _Device:
    """The Linux stack's side of a network device."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.settimeout(TIMEOUT)

    def send(self, data: bytes) -> None:
        self._sock.send(data)

    def receive(self) -> bytes:
        return self._sock.recv(1 << 17)

    def wait(self, timeout: float) -> bool:
        return bool(select.select([self._sock], [], [], timeout)[0])


class _RingClient:
    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def send(self, data: bytes) -> None:
        assert self._ring.send_all([data], TIMEOUT) == 1

    def receive(self) -> bytes:
        assert self._ring.wait(timeout=TIMEOUT), "no frame"
        return self._ring.receive(1)[0]

    def wait(self, timeout: float) -> bool:
        return self._ring.wait(timeout=timeout)


class World:
    """The switch, and every member that this machine can have. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = [name for name in MEMBERS if missing(name) is None]
        self.stations: dict[str, Station] = {}
        self._held = contextlib.ExitStack()

    def __enter__(self) -> World:
        with contextlib.ExitStack() as held:
            self._set_up(held)
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def mac(self, name: str) -> bytes:
        """A member's address."""
        return mac(1 + list(MEMBERS).index(name))

    def drops(self, name: str, why: str) -> int:
        """How many frames the ports of a member have not taken for this reason."""
        rows = self.fabric.ports().items()
        return sum(row.drops.get(why, 0) for port, row in rows if port.partition("#")[0] == name)

    # --- setting it up ------------------------------------------------------------------------------------------------

    def _set_up(self, held: contextlib.ExitStack) -> None:
        self._prefix = self._namespace(held)
        self._run("ip", "link", "add", "veth0", "mtu", "65535", "type", "veth", "peer", "name", "veth1", "mtu", "65535")
        for device in ("veth0", "veth1"):
            self._run("ip", "link", "set", device, "up")
        if "vde_switch" in self.names:
            _start_vde_switch(held, self.path / "vde_switch")
        self.fabric = held.enter_context(RingFabric(self.path / "rings", self._prefix))
        netdevs = {name: self._ask_for_port(held, name) for name in self.names}
        self._start_qemu(held, {name: netdev for name, netdev in netdevs.items() if netdev is not None})
        devices = {"tap": "tap0", "packet": "veth1"}
        self._open_devices(held, {name: device for name, device in devices.items() if name in self.names})
        self.stations["ring"] = _RingClient(held.enter_context(Ring.open(self.fabric.name("ring"))))
        for name in self.names:
            self._await(name)

    def _namespace(self, held: contextlib.ExitStack) -> list[str]:
        """Make the namespace; return what to put before a command to run it there."""
        holder = subprocess.Popen([sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        held.callback(holder.communicate)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n", "no namespace"
        users = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(holder.pid), "--net", *users]

    def _run(self, *command: str, fds: Sequence[int] = ()) -> None:
        subprocess.run([*self._prefix, *command], check=True, timeout=TIMEOUT, pass_fds=fds)

    def _ask_for_port(self, held: contextlib.ExitStack, name: str) -> str | None:
        """Have the fabric make a member's port; return what QEMU's netdev is to be, if it is QEMU's."""
        member = MEMBERS[name]
        fields = member.port(self.path)
        fds: list[int] = []
        netdev = member.netdev(self.path) if member.netdev is not None else None
        if netdev is not None and "{fd}" in netdev:
            kind = socket.SOCK_DGRAM if fields["type"] == "dgram" else socket.SOCK_STREAM
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
            held.enter_context(theirs)
            netdev = netdev.format(fd=theirs.fileno())
            fields["fd"] = 0
            fds = [ours.detach()]
        listener = _listening(held, self.path / "pipe") if name == "raw-pipe" else None
        self.fabric.ask(self.fabric.client.add_outside_port("lan", name, fields, fds=fds))
        if listener is not None:
            self.stations[name] = _Stream(held.enter_context(listener.accept()[0]))
        return netdev

    def _start_qemu(self, held: contextlib.ExitStack, netdevs: dict[str, str]) -> None:
        """Have QEMU convert each of them from and to a stream of ours."""
        hubs, fds = (
            [],
            [int(part.partition("=")[2]) for text in netdevs.values() for part in text.split(",") if "str=" in part],
        )
        for name, netdev in netdevs.items():
            ours, theirs = socket.socketpair()
            self.stations[name] = _Stream(held.enter_context(ours))
            held.enter_context(theirs)
            hubs.append((f"socket,fd={theirs.fileno()}", netdev))
            fds.append(theirs.fileno())
        if hubs:
            held.enter_context(QemuConverter(hubs=hubs, fds=fds, prefix=self._prefix))

    def _open_devices(self, held: contextlib.ExitStack, devices: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            fd = theirs.fileno()
            self._run(sys.executable, "-c", _OPEN_PACKET_SOCKETS, str(fd), *devices.values(), fds=[fd])
            for name in devices:
                sock = socket.socket(fileno=socket.recv_fds(ours, 1, 1)[1][0])
                self.stations[name] = _Device(held.enter_context(sock))

    def _await(self, name: str) -> None:
        """Wait until frames pass between a member and the ring, both ways; now the switch knows its address."""
        deadline = time.monotonic() + TIMEOUT
        for source, to in ((name, "ring"), ("ring", name)):
            hello = frame(BROADCAST, self.mac(source), b"hello")
            found = source == to
            while not found:
                assert time.monotonic() < deadline, f"nothing arrives at {to} from {source}"
                self.stations[source].send(hello)
                while not found and self.stations[to].wait(_RETRY):
                    found = self.stations[to].receive()[6:12] == self.mac(source)

    # --- using it -----------------------------------------------------------------------------------------------------

    def exchange(self, source: str, to: str, frames: Sequence[bytes]) -> list[bytes]:
        """Send `frames`, then one that says they were all; return those of them that arrived."""
        for name in (source, to):
            while self.stations[name].wait(0):
                self.stations[name].receive()
        last = frame(self.mac(to), self.mac(source), b"last")
        for data in (*frames, last):
            self.stations[source].send(data)
        arrived: list[bytes] = []
        while (data := self.stations[to].receive()) != last:
            if data[:12] == last[:12]:
                arrived.append(data)
        return arrived

    def add_port(self, name: str, port_type: str, end: socket.socket) -> None:
        """Make a port of the switch whose peer is the other end of `end`, which is handed over."""
        self.fabric.ask(self.fabric.client.add_port("lan", name, port_type, [end.detach()]))

    def heard(self, name: str, *, until: bytes) -> list[bytes]:
        """What a member hears of the sender of `until`, and of nobody in particular, before that."""
        heard: list[bytes] = []
        while (data := self.stations[name].receive()) != until:
            if len(data) < FRAME_MIN or data[6:12] == until[6:12]:
                heard.append(data)
        return heard


def _listening(held: contextlib.ExitStack, path: Path) -> socket.socket:
    listener = held.enter_context(socket.socket(socket.AF_UNIX))
    listener.settimeout(TIMEOUT)
    listener.bind(str(path))
    listener.listen()
    return listener


def _start_vde_switch(held: contextlib.ExitStack, directory: Path) -> None:
    """Run a vde_switch, which ends with its standard input, and wait until it serves `directory`."""
    process = subprocess.Popen(
        ["vde_switch", "-s", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    held.callback(process.communicate)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("port/print\n")
    process.stdin.flush()
    while not process.stdout.readline().startswith("1000"):
        pass
