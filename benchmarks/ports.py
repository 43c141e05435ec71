"""Frames per second through two ports of each type, beside whoever does the same, in one run.

    benchmarks/ports.py [--quick] [--json FILE] [--only CASE]...

Sender, switch and receiver are processes of their own (port_load.c says what the load does); ours is the fabric process
that a lab has. The same load, over the same sockets, is put on the peer: a QEMU without a machine whose hub joins two
netdevs of that type, vde_switch, or Linux's bridge with veth pairs. Frames are counted where they arrive. `gso` frames
are 64 KiB of TCP that the receiver's side may cut, but need not. `iperf3/tap` is TCP between two hosts' stacks. All of
it happens in a network namespace of its own, so nothing leaves it and every address in it is free.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import port_load
from port_load import End, Load, LoadError, Timing
from report import Row, machine, write
from rings import Fabric, fabric, missing, no_bridge
from stream import hub_of, running, serving_vde, stream_pairs, vde_client

from vswitch.errors import FabricError, MachineError
from vswitch.namespace import enter_lab_namespace
from vswitch.ports.mcast import open_bus
from vswitch.ports.packet import open_packet
from vswitch.ports.tap import open_tap

QUICK = Timing(warm_up=40, measure=100, runs=3)
FULL = Timing(warm_up=200, measure=800, runs=5)
SMALL, LARGE, GSO = 60, 1514, 14 + 40 + 45 * 1448
WINDOWS = {SMALL: 256, LARGE: 64, GSO: 8}
"""Frames under way where nothing holds the sender up: no more than any socket on the way has room for."""
CUT = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)
"""struct virtio_net_hdr: TCP over IPv4 to be cut into pieces of 1448 bytes, checksum to be filled in."""
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_RTMGRP_LINK, _SO_RCVBUFFORCE = 1, 33
BUSY = 0.85
"""A process that takes so much of a core is what bounds the rest."""


class Way(NamedTuple):
    """A way from a sender's end to a receiver's, and the processes between them."""

    sender: End
    receiver: End
    pids: tuple[int, ...]


Open = Callable[["Bench", int], contextlib.AbstractContextManager[Way]]
"""Opens a way for frames up to a size."""


class Bench:
    """What everybody needs: our fabric, a directory, the load program, names nobody else has."""

    def __init__(self, made: Fabric, scratch: Path, timing: Timing) -> None:
        self.fabric = made
        self.scratch = scratch
        self.timing = timing
        self.program = port_load.compile_load(scratch)
        self._numbers = itertools.count(1)

    def number(self) -> int:
        """A number that was not there before."""
        return next(self._numbers)

    def path(self) -> Path:
        """A path nobody uses."""
        return self.scratch / str(self.number())

    def udp_port(self) -> int:
        """A port nobody uses."""
        return 20000 + self.number()

    @contextlib.contextmanager
    def switch(self) -> Iterator[str]:
        """A switch of ours."""
        name = f"lan{self.number()}"
        self.fabric.add_switch(name)
        try:
            yield name
        finally:
            self.fabric.remove_switch(name)


# --- sockets ---------------------------------------------------------------------------------------------------------


def udp_socket(local: int, remote: int) -> socket.socket:
    """From one port of the loopback to another."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", local))
    sock.connect(("127.0.0.1", remote))
    return roomy(sock)


def ip(command: str) -> None:
    """Run `ip`, several times where lines say so."""
    subprocess.run(["ip", "-batch", "-"], input=textwrap.dedent(command), text=True, check=True)


def roomy(sock: socket.socket) -> socket.socket:
    """Have a socket of the load's keep what it gets while its reader sleeps, as far as we may."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return sock


def packet_end(device: str, size: int) -> End:
    """A packet socket on a device; for frames that are to be cut, with a header that says so."""
    sock = roomy(socket.socket(fileno=open_packet(device)))
    if size != GSO:
        return End(sock, "dgram")
    sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    return End(sock, "vnet", CUT)


# --- stream, dgram ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def our_streams(bench: Bench, size: int) -> Iterator[Way]:
    ends, switch_ends = stream_pairs()
    with bench.switch() as lan, ends[0] as a, ends[1] as b:
        for name, end in zip("ab", switch_ends, strict=True):
            bench.fabric.add_port(lan, name, "stream", [end.detach()])
        yield Way(End(a, "stream4"), End(b, "stream4"), (bench.fabric.pid,))


@contextlib.contextmanager
def qemu_streams(bench: Bench, size: int) -> Iterator[Way]:
    ends, switch_ends = stream_pairs()
    fds = [end.fileno() for end in switch_ends]
    with hub_of([f"stream,server=off,addr.type=fd,addr.str={fd}" for fd in fds], fds) as qemu:
        for end in switch_ends:
            end.close()
        with ends[0] as a, ends[1] as b:
            yield Way(End(a, "stream4"), End(b, "stream4"), (qemu.pid,))


def unix_datagrams(bench: Bench) -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def udp_datagrams(bench: Bench) -> tuple[socket.socket, socket.socket]:
    ours, theirs = bench.udp_port(), bench.udp_port()
    return udp_socket(ours, theirs), udp_socket(theirs, ours)


DatagramPair = Callable[[Bench], tuple[socket.socket, socket.socket]]


def our_datagrams(pair: DatagramPair) -> Open:
    @contextlib.contextmanager
    def opened(bench: Bench, size: int) -> Iterator[Way]:
        (a, a_switch), (b, b_switch) = pair(bench), pair(bench)
        with bench.switch() as lan, a, b:
            for name, end in (("a", a_switch), ("b", b_switch)):
                bench.fabric.add_port(lan, name, "dgram", [end.detach()])
            yield Way(End(a, "dgram"), End(b, "dgram"), (bench.fabric.pid,))

    return opened


def qemu_datagrams(pair: DatagramPair) -> Open:
    @contextlib.contextmanager
    def opened(bench: Bench, size: int) -> Iterator[Way]:
        (a, a_switch), (b, b_switch) = pair(bench), pair(bench)
        fds = [a_switch.fileno(), b_switch.fileno()]
        with a, b, hub_of([f"dgram,local.type=fd,local.str={fd}" for fd in fds], fds) as qemu:
            a_switch.close()
            b_switch.close()
            yield Way(End(a, "dgram"), End(b, "dgram"), (qemu.pid,))

    return opened


# --- mcast: from a bus to a stream, as two buses on one hub of QEMU's would hear each other's echoes for ever --------


@contextlib.contextmanager
def bus_end(group: str, port: int) -> Iterator[End]:
    receiving, sending = (socket.socket(fileno=fd) for fd in open_bus(group, port, "127.0.0.1"))
    with receiving, sending:
        yield End(receiving, "dgram", out=sending)


@contextlib.contextmanager
def our_mcast(bench: Bench, size: int) -> Iterator[Way]:
    group, port = "239.0.0.1", bench.udp_port()
    b, b_switch = socket.socketpair()
    with bench.switch() as lan, bus_end(group, port) as a, b:
        bench.fabric.add_outside_port(lan, "a", type="mcast", group=f"{group}:{port}", localaddr="127.0.0.1")
        bench.fabric.add_port(lan, "b", "stream", [b_switch.detach()])
        yield Way(a, End(b, "stream4"), (bench.fabric.pid,))


@contextlib.contextmanager
def qemu_mcast(bench: Bench, size: int) -> Iterator[Way]:
    group, port = "239.0.0.1", bench.udp_port()
    b, b_switch = socket.socketpair()
    netdevs = [
        f"socket,mcast={group}:{port},localaddr=127.0.0.1",
        f"stream,server=off,addr.type=fd,addr.str={b_switch.fileno()}",
    ]
    with bus_end(group, port) as a, b, hub_of(netdevs, [b_switch.fileno()]) as qemu:
        b_switch.close()
        yield Way(a, End(b, "stream4"), (qemu.pid,))


# --- l2tpv3 ----------------------------------------------------------------------------------------------------------


SESSION = 7
L2TPV3 = struct.pack(">II", 0x00030000, SESSION)


def l2tpv3_ports(bench: Bench) -> list[tuple[int, int]]:
    """The switch's and the load's port, of both ends."""
    return [(bench.udp_port(), bench.udp_port()) for _ in "ab"]


@contextlib.contextmanager
def l2tpv3_ends(ports: Sequence[tuple[int, int]]) -> Iterator[tuple[End, End]]:
    with udp_socket(*ports[0][::-1]) as a, udp_socket(*ports[1][::-1]) as b:
        yield End(a, "dgram", L2TPV3), End(b, "dgram", L2TPV3)


@contextlib.contextmanager
def our_l2tpv3(bench: Bench, size: int) -> Iterator[Way]:
    ports = l2tpv3_ports(bench)
    with bench.switch() as lan, l2tpv3_ends(ports) as (a, b):
        for name, (local, remote) in zip("ab", ports, strict=True):
            addresses = {"local": f"127.0.0.1:{local}", "remote": f"127.0.0.1:{remote}"}
            bench.fabric.add_outside_port(lan, name, type="l2tpv3", tx_session=SESSION, **addresses)
        yield Way(a, b, (bench.fabric.pid,))


@contextlib.contextmanager
def qemu_l2tpv3(bench: Bench, size: int) -> Iterator[Way]:
    ports = l2tpv3_ports(bench)
    same = f"src=127.0.0.1,dst=127.0.0.1,udp=on,txsession={SESSION},rxsession={SESSION}"
    netdevs = [f"l2tpv3,{same},srcport={local},dstport={remote}" for local, remote in ports]
    with l2tpv3_ends(ports) as (a, b), hub_of(netdevs) as qemu:
        yield Way(a, b, (qemu.pid,))


# --- vde, raw-pipe ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def vde_ends(bench: Bench, directory: Path) -> Iterator[tuple[End, End]]:
    with vde_client(directory, bench.path()) as a, vde_client(directory, bench.path()) as b:
        yield End(a, "dgram"), End(b, "dgram")


@contextlib.contextmanager
def our_vde(bench: Bench, size: int) -> Iterator[Way]:
    directory = bench.path()
    with bench.switch() as lan:
        bench.fabric.add_outside_port(lan, "v", type="vde", listen=str(directory))
        with vde_ends(bench, directory) as (a, b):
            yield Way(a, b, (bench.fabric.pid,))


@contextlib.contextmanager
def their_vde(bench: Bench, size: int) -> Iterator[Way]:
    directory = bench.path()
    with serving_vde(directory) as process, vde_ends(bench, directory) as (a, b):
        yield Way(a, b, (process.pid,))


HAND_OUT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    socket.send_fds(sock, [b"x"], [0, 1])
    sock.recv(1)
"""
"""A command for a pipe: gives its standard input and output to whoever listens, and ends when that is told to."""


@contextlib.contextmanager
def our_raw_pipes(bench: Bench, size: int) -> Iterator[Way]:
    with bench.switch() as lan, contextlib.ExitStack() as held:
        ends = []
        for name in "ab":
            path = bench.path()
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
                listener.listen()
                command = [sys.executable, "-c", HAND_OUT, str(path)]
                bench.fabric.add_outside_port(lan, name, type="raw-pipe", command=command, framing="vde")
                connection = held.enter_context(listener.accept()[0])
            fds = socket.recv_fds(connection, 1, 2)[1]
            sock, out = (held.enter_context(socket.socket(fileno=fd)) for fd in fds)
            ends.append(End(sock, "stream2", out=out))
        yield Way(ends[0], ends[1], (bench.fabric.pid,))


@contextlib.contextmanager
def vde_plugs(bench: Bench, size: int) -> Iterator[Way]:
    """Two vde_plug, the way of a pipe to a vde_switch."""
    directory = bench.path()
    with serving_vde(directory) as process, contextlib.ExitStack() as held:
        ends, pids = [], [process.pid]
        for _ in "ab":
            ours, theirs = socket.socketpair()
            with theirs:
                plug = running(["vde_plug", str(directory)], [], stdin=theirs.fileno(), stdout=theirs.fileno())
                pids.append(held.enter_context(plug).pid)
            ends.append(End(held.enter_context(ours), "stream2"))
        yield Way(ends[0], ends[1], tuple(pids))


# --- tap, packet -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def packet_ends(devices: Sequence[str], size: int) -> Iterator[tuple[End, End]]:
    a, b = (packet_end(device, size) for device in devices)
    with a.sock, b.sock:
        yield a, b


@contextlib.contextmanager
def veth_pairs(bench: Bench) -> Iterator[list[tuple[str, str]]]:
    """Two pairs, up: outer and inner ends."""
    pairs = [(f"v{number}", f"w{number}") for number in (bench.number(), bench.number())]
    for outer, inner in pairs:
        ip(f"link add {outer} type veth peer name {inner}\nlink set {outer} up\nlink set {inner} up")
    try:
        yield pairs
    finally:
        for outer, _ in pairs:
            ip(f"link del {outer}")


@contextlib.contextmanager
def our_taps(bench: Bench, size: int) -> Iterator[Way]:
    devices = [f"t{bench.number()}" for _ in "ab"]
    with bench.switch() as lan:
        for device in devices:
            bench.fabric.add_port(lan, device, "tap", [open_tap(device, mtu=1500)])
            ip(f"link set {device} up")
        with packet_ends(devices, size) as (a, b):
            yield Way(a, b, (bench.fabric.pid,))


@contextlib.contextmanager
def our_packets(bench: Bench, size: int) -> Iterator[Way]:
    with bench.switch() as lan, veth_pairs(bench) as pairs:
        for _, inner in pairs:
            bench.fabric.add_port(lan, inner, "packet", [open_packet(inner)])
        with packet_ends([outer for outer, _ in pairs], size) as (a, b):
            yield Way(a, b, (bench.fabric.pid,))


@contextlib.contextmanager
def linux_bridge(bench: Bench, size: int) -> Iterator[Way]:
    bridge = f"br{bench.number()}"
    with veth_pairs(bench) as pairs:
        ip(f"link add {bridge} type bridge\nlink set {bridge} up")
        for _, inner in pairs:
            ip(f"link set {inner} master {bridge}")
        with packet_ends([outer for outer, _ in pairs], size) as (a, b):
            yield Way(a, b, ())
        ip(f"link del {bridge}")


# --- the rows --------------------------------------------------------------------------------------------------------


class Type(NamedTuple):
    """What is measured of a port type: two of its ports, beside a peer's; at least `target` times its rate is asked."""

    ours: Open
    peer: str
    theirs: Open
    target: float | None = None
    window: bool = False
    """Nothing holds up who sends too fast."""
    sizes: tuple[int, ...] = (SMALL, LARGE)


TYPES = {
    "stream": Type(our_streams, "qemu-hub", qemu_streams, 2),
    "dgram": Type(our_datagrams(unix_datagrams), "qemu-hub", qemu_datagrams(unix_datagrams), 2),
    "dgram-udp": Type(our_datagrams(udp_datagrams), "qemu-hub", qemu_datagrams(udp_datagrams), 2, window=True),
    "mcast": Type(our_mcast, "qemu-hub", qemu_mcast, window=True),
    "l2tpv3": Type(our_l2tpv3, "qemu-hub", qemu_l2tpv3, window=True),
    "vde": Type(our_vde, "vde_switch", their_vde, 3),
    "raw-pipe": Type(our_raw_pipes, "vde_switch", vde_plugs),
    "tap": Type(our_taps, "linux-bridge", linux_bridge, window=True, sizes=(SMALL, LARGE, GSO)),
    "packet": Type(our_packets, "linux-bridge", linux_bridge, window=True, sizes=(SMALL, LARGE, GSO)),
}
PROGRAMS = {"qemu-hub": "qemu-system-x86_64", "vde_switch": "vde_switch", "vde_plug2tap": "vde_plug2tap"}


def absent(peer: str) -> str | None:
    """Why a peer cannot be measured, None if it can."""
    return no_bridge() if peer == "linux-bridge" else missing(PROGRAMS[peer])


def median_load(loads: Sequence[Load]) -> Load:
    """The median of each figure."""
    others = tuple(statistics.median(values) for values in zip(*(load.others for load in loads), strict=True))
    return Load(*(statistics.median(values) for values in zip(*(load[:4] for load in loads), strict=True)), others)


def bound_by(load: Load) -> str:
    """Say who is busy, and whether that is what holds up the rest."""
    cores = {"sender": load.sender, "switch": sum(load.others), "receiver": load.receiver}
    busiest = max(cores, key=lambda name: cores[name])
    if cores[busiest] >= BUSY:
        said = busiest
    elif sum(cores.values()) >= BUSY * len(os.sched_getaffinity(0)):
        said = "all cores"
    else:
        said = "nobody alone"
    used = " + ".join(f"{value:.2f}" for value in cores.values())
    return f"bound by {said} ({used}), lost {load.lost:.1%}"


def case_name(name: str, size: int) -> str:
    return f"{name}/gso" if size == GSO else f"{name}/{size}B"


def in_turns(bench: Bench, opens: dict[str, Open], size: int, window: int) -> dict[str, list[Load]]:
    """Measure every way once, then every way again."""
    batch = min(port_load.per_call(size), window // 4 or 1) if window else port_load.per_call(size)
    loads: dict[str, list[Load]] = {who: [] for who in opens}
    with contextlib.ExitStack() as held:
        ways = {who: held.enter_context(open_way(bench, size)) for who, open_way in opens.items()}
        for _ in range(bench.timing.runs):
            for who, way in ways.items():
                ends = way.sender, way.receiver
                load = port_load.measure(
                    bench.program, ends, size, bench.timing, batch=batch, window=window, pids=way.pids
                )
                loads[who].append(load)
    return loads


def rows_of(bench: Bench, name: str, kind: Type, size: int) -> Iterator[Row]:
    """Ours and the peer in turns, over the same two ways."""
    case, unit = case_name(name, size), "Gbit/s" if size == GSO else "Mfps"
    scale = size * 8 / 1e9 if size == GSO else 1e-6
    opens = {"ours": kind.ours}
    skipped = absent(kind.peer)
    if skipped is None:
        opens["peer"] = kind.theirs
    try:
        loads = in_turns(bench, opens, size, WINDOWS[size] if kind.window else 0)
    except (FabricError, LoadError, OSError) as error:
        yield Row(case=case, unit=unit, peer=kind.peer, skipped=str(error))
        return
    found = {who: median_load(some) for who, some in loads.items()}
    note = bound_by(found["ours"])
    if skipped is None:
        note += f"; {kind.peer}: {bound_by(found['peer'])}"
    if kind.target is not None:
        note = f"target at least {kind.target:g}; {note}"
    yield Row(
        case=case,
        unit=unit,
        value=found["ours"].rate * scale,
        peer=kind.peer,
        peer_value=found["peer"].rate * scale if skipped is None else None,
        runs=bench.timing.runs,
        skipped=skipped,
        note=note,
    )


# --- TCP between two hosts -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def host(device: str, address: str) -> Iterator[int]:
    """A network namespace that `device` has been moved into; yields the process that keeps it."""
    command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
    with running(command, [], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        ip(f"link set {device} netns {holder.pid}")
        script = f"ip addr add {address}/24 dev {device}; ip link set {device} up"
        subprocess.run([*inside(holder.pid), "sh", "-c", script], check=True)
        yield holder.pid


def inside(pid: int) -> list[str]:
    """How to run a command in a process's network namespace."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net"]


@contextlib.contextmanager
def tap_hosts(bench: Bench) -> Iterator[list[str]]:
    devices = [f"t{bench.number()}" for _ in "ab"]
    with bench.switch() as lan:
        for device in devices:
            bench.fabric.add_port(lan, device, "tap", [open_tap(device, mtu=1500)])
        yield devices


@contextlib.contextmanager
def bridged_hosts(bench: Bench) -> Iterator[list[str]]:
    bridge = f"br{bench.number()}"
    ip(f"link add {bridge} type bridge\nlink set {bridge} up")
    devices = []
    for number in (bench.number(), bench.number()):
        devices.append(f"v{number}")
        ip(f"link add v{number} type veth peer name w{number}\nlink set w{number} master {bridge} up")
    yield devices
    ip(f"link del {bridge}")


@contextlib.contextmanager
def plugged_hosts(bench: Bench) -> Iterator[list[str]]:
    directory = bench.path()
    with (
        serving_vde(directory),
        contextlib.ExitStack() as held,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news,
    ):
        news.bind((0, _RTMGRP_LINK))
        devices = [f"p{bench.number()}" for _ in "ab"]
        for device in devices:
            held.enter_context(running(["vde_plug2tap", "-s", str(directory), device], []))
            while device not in (name for _, name in socket.if_nameindex()):
                news.recv(1 << 16)
        yield devices


def tcp_rate(bench: Bench, start: Callable[[Bench], contextlib.AbstractContextManager[list[str]]]) -> float:
    """Gbit/s that iperf3 sees between two hosts."""
    with start(bench) as (a, b), host(a, "10.0.0.1") as client, host(b, "10.0.0.2") as server:
        serve = [*inside(server), "iperf3", "--server", "--one-off", "--forceflush"]
        with running(serve, [], stdout=subprocess.PIPE) as serving:
            assert serving.stdout is not None
            while "listening" not in serving.stdout.readline():
                pass
            seconds = max(1, bench.timing.measure * 4 // 1000)
            ask = [*inside(client), "iperf3", "--client", "10.0.0.2", "--time", str(seconds), "--json"]
            run = subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
            answer = json.loads(run.stdout)
            if "error" in answer:
                raise RuntimeError(f"iperf3: {answer['error']}")
            return float(answer["end"]["sum_received"]["bits_per_second"]) / 1e9


def tcp_rows(bench: Bench) -> Iterator[Row]:
    """`iperf3/tap`."""
    peers = {"linux-bridge": (bridged_hosts, 0.4), "vde_plug2tap": (plugged_hosts, 10.0)}
    skipped = {peer: absent(peer) for peer in peers}
    ours = missing("iperf3") or (None if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "no right to /dev/net/tun")
    rates: dict[str, list[float]] = {"ours": []} | {peer: [] for peer in peers if skipped[peer] is None}
    if ours is None:
        for _ in range(bench.timing.runs):
            for who, measured in rates.items():
                measured.append(tcp_rate(bench, tap_hosts if who == "ours" else peers[who][0]))
    for peer, (_, target) in peers.items():
        reason = ours or skipped[peer]
        yield Row(
            case="iperf3/tap",
            unit="Gbit/s",
            value=statistics.median(rates["ours"]) if ours is None else None,
            peer=peer,
            peer_value=statistics.median(rates[peer]) if reason is None else None,
            runs=bench.timing.runs,
            skipped=reason,
            note=f"target at least {target:g}",
        )


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter, fewer runs: every row in under 50 s")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--only", metavar="CASE", action="append", help="only cases that begin so")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        enter_lab_namespace()
    except MachineError as error:
        sys.exit(str(error))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="vsb-") as scratch, fabric(loop) as made:
        bench = Bench(made, Path(scratch), QUICK if arguments.quick else FULL)
        cases: dict[str, Callable[[], Iterator[Row]]] = {}
        for name, kind in TYPES.items():
            for size in kind.sizes:
                cases[case_name(name, size)] = lambda args=(name, kind, size): rows_of(bench, *args)
        cases["iperf3/tap"] = lambda: tcp_rows(bench)
        for case, measure in cases.items():
            if not arguments.only or any(case.startswith(wanted) for wanted in arguments.only):
                rows += measure()
    loop.close()
    print("  ".join(f"{name}: {value}" for name, value in machine().items()), f"load {os.getloadavg()[0]:.1f}\n")
    write(rows, arguments.json)


if __name__ == "__main__":
    main()
