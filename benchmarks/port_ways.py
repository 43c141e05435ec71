"""Ways from a sender's end to a receiver's, through two ports of one type of ours and through a peer, for ports.py.

All of them are opened in this process's network namespace, where every address is free and nothing leaves.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from port_load import End
from rings import Fabric
from stream import hub_of, running, serving_vde, stream_pairs, vde_client

from vswitch.ports.datagrams import enlarge_buffers
from vswitch.ports.mcast import open_bus
from vswitch.ports.packet import open_packet

GSO = 14 + 40 + 45 * 1448
"""Bytes of a frame of TCP that is to be cut."""
CUT = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)
"""struct virtio_net_hdr of it: TCP over IPv4, in pieces of 1448 bytes, its checksum to be filled in."""


class Way(NamedTuple):
    """A way from a sender's end to a receiver's, and the processes between them."""

    sender: End
    receiver: End
    pids: tuple[int, ...]


Open = Callable[["Place", int], contextlib.AbstractContextManager[Way]]
"""Opens a way for frames up to a size."""


class Place:
    """What every way needs: our fabric, a directory, names nobody else has."""

    def __init__(self, made: Fabric, scratch: Path) -> None:
        self.fabric = made
        self.scratch = scratch
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
    enlarge_buffers(sock)
    return sock


def ip(command: str) -> None:
    """Run `ip`, several times where lines say so."""
    subprocess.run(["ip", "-batch", "-"], input=textwrap.dedent(command), text=True, check=True)


def packet_end(device: str, size: int) -> End:
    """A packet socket on a device; for frames that are to be cut, with a header that says so."""
    (fd,) = open_packet(device, vnet_hdr=size == GSO)
    sock = socket.socket(fileno=fd)
    enlarge_buffers(sock)
    return End(sock, "vnet", CUT) if size == GSO else End(sock, "dgram")


# --- stream, dgram ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def our_streams(place: Place, size: int) -> Iterator[Way]:
    ends, switch_ends = stream_pairs()
    with place.switch() as lan, ends[0] as a, ends[1] as b:
        for name, end in zip("ab", switch_ends, strict=True):
            place.fabric.add_port(lan, name, "stream", [end.detach()])
        yield Way(End(a, "stream4"), End(b, "stream4"), (place.fabric.pid,))


@contextlib.contextmanager
def qemu_streams(place: Place, size: int) -> Iterator[Way]:
    ends, switch_ends = stream_pairs()
    fds = [end.fileno() for end in switch_ends]
    with hub_of([f"stream,server=off,addr.type=fd,addr.str={fd}" for fd in fds], fds) as qemu:
        for end in switch_ends:
            end.close()
        with ends[0] as a, ends[1] as b:
            yield Way(End(a, "stream4"), End(b, "stream4"), (qemu.pid,))


def unix_datagrams(place: Place) -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def udp_datagrams(place: Place) -> tuple[socket.socket, socket.socket]:
    ours, theirs = place.udp_port(), place.udp_port()
    return udp_socket(ours, theirs), udp_socket(theirs, ours)


DatagramPair = Callable[[Place], tuple[socket.socket, socket.socket]]


def our_datagrams(pair: DatagramPair) -> Open:
    @contextlib.contextmanager
    def opened(place: Place, size: int) -> Iterator[Way]:
        (a, a_switch), (b, b_switch) = pair(place), pair(place)
        with place.switch() as lan, a, b:
            for name, end in (("a", a_switch), ("b", b_switch)):
                place.fabric.add_outside_port(lan, name, [end.detach()], type="dgram", fd=0)
            yield Way(End(a, "dgram"), End(b, "dgram"), (place.fabric.pid,))

    return opened


def qemu_datagrams(pair: DatagramPair) -> Open:
    @contextlib.contextmanager
    def opened(place: Place, size: int) -> Iterator[Way]:
        (a, a_switch), (b, b_switch) = pair(place), pair(place)
        fds = [a_switch.fileno(), b_switch.fileno()]
        with a, b, hub_of([f"dgram,local.type=fd,local.str={fd}" for fd in fds], fds) as qemu:
            a_switch.close()
            b_switch.close()
            yield Way(End(a, "dgram"), End(b, "dgram"), (qemu.pid,))

    return opened


# --- nothing between: what sender and receiver could do at best -----------------------------------------------------


@contextlib.contextmanager
def bare_stream(place: Place, size: int) -> Iterator[Way]:
    a, b = socket.socketpair()
    with a, b:
        yield Way(End(a, "stream4"), End(b, "stream4"), ())


def bare_datagrams(pair: DatagramPair) -> Open:
    @contextlib.contextmanager
    def opened(place: Place, size: int) -> Iterator[Way]:
        a, b = pair(place)
        with a, b:
            yield Way(End(a, "dgram"), End(b, "dgram"), ())

    return opened


@contextlib.contextmanager
def bare_veth(place: Place, size: int) -> Iterator[Way]:
    with veth_pairs(place) as pairs, packet_ends(pairs[0], size) as (a, b):
        yield Way(a, b, ())


# --- mcast: from a bus to a stream, as two buses on one hub of QEMU's would hear each other's echoes for ever --------


@contextlib.contextmanager
def bus_end(group: str, port: int) -> Iterator[End]:
    receiving, sending = (socket.socket(fileno=fd) for fd in open_bus(group, port, "127.0.0.1"))
    with receiving, sending:
        yield End(receiving, "dgram", out=sending)


@contextlib.contextmanager
def our_mcast(place: Place, size: int) -> Iterator[Way]:
    group, port = "239.0.0.1", place.udp_port()
    b, b_switch = socket.socketpair()
    with place.switch() as lan, bus_end(group, port) as a, b:
        place.fabric.add_outside_port(lan, "a", type="mcast", group=f"{group}:{port}", localaddr="127.0.0.1")
        place.fabric.add_port(lan, "b", "stream", [b_switch.detach()])
        yield Way(a, End(b, "stream4"), (place.fabric.pid,))


@contextlib.contextmanager
def qemu_mcast(place: Place, size: int) -> Iterator[Way]:
    group, port = "239.0.0.1", place.udp_port()
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


def l2tpv3_ports(place: Place) -> list[tuple[int, int]]:
    """The switch's and the load's port, of both ends."""
    return [(place.udp_port(), place.udp_port()) for _ in "ab"]


@contextlib.contextmanager
def l2tpv3_ends(ports: Sequence[tuple[int, int]]) -> Iterator[tuple[End, End]]:
    with udp_socket(*ports[0][::-1]) as a, udp_socket(*ports[1][::-1]) as b:
        yield End(a, "dgram", L2TPV3), End(b, "dgram", L2TPV3)


@contextlib.contextmanager
def our_l2tpv3(place: Place, size: int) -> Iterator[Way]:
    ports = l2tpv3_ports(place)
    with place.switch() as lan, l2tpv3_ends(ports) as (a, b):
        for name, (local, remote) in zip("ab", ports, strict=True):
            addresses = {"local": f"127.0.0.1:{local}", "remote": f"127.0.0.1:{remote}"}
            place.fabric.add_outside_port(lan, name, type="l2tpv3", tx_session=SESSION, **addresses)
        yield Way(a, b, (place.fabric.pid,))


@contextlib.contextmanager
def qemu_l2tpv3(place: Place, size: int) -> Iterator[Way]:
    ports = l2tpv3_ports(place)
    same = f"src=127.0.0.1,dst=127.0.0.1,udp=on,txsession={SESSION},rxsession={SESSION}"
    netdevs = [f"l2tpv3,{same},srcport={local},dstport={remote}" for local, remote in ports]
    with l2tpv3_ends(ports) as (a, b), hub_of(netdevs) as qemu:
        yield Way(a, b, (qemu.pid,))


# --- vde, raw-pipe ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def vde_ends(place: Place, directory: Path) -> Iterator[tuple[End, End]]:
    with vde_client(directory, place.path()) as a, vde_client(directory, place.path()) as b:
        yield End(a, "dgram"), End(b, "dgram")


@contextlib.contextmanager
def our_vde(place: Place, size: int) -> Iterator[Way]:
    directory = place.path()
    with place.switch() as lan:
        place.fabric.add_outside_port(lan, "v", type="vde", listen=str(directory))
        with vde_ends(place, directory) as (a, b):
            yield Way(a, b, (place.fabric.pid,))


@contextlib.contextmanager
def their_vde(place: Place, size: int) -> Iterator[Way]:
    directory = place.path()
    with serving_vde(directory) as process, vde_ends(place, directory) as (a, b):
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
def our_raw_pipes(place: Place, size: int) -> Iterator[Way]:
    with place.switch() as lan, contextlib.ExitStack() as held:
        ends = []
        for name in "ab":
            path = place.path()
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
                listener.listen()
                command = [sys.executable, "-c", HAND_OUT, str(path)]
                place.fabric.add_outside_port(lan, name, type="raw-pipe", command=command)
                connection = held.enter_context(listener.accept()[0])
            fds = socket.recv_fds(connection, 1, 2)[1]
            sock, out = (held.enter_context(socket.socket(fileno=fd)) for fd in fds)
            ends.append(End(sock, "stream4", out=out))
        yield Way(ends[0], ends[1], (place.fabric.pid,))


@contextlib.contextmanager
def vde_plugs(place: Place, size: int) -> Iterator[Way]:
    """Two vde_plug, the way of a pipe to a vde_switch."""
    directory = place.path()
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
def veth_pairs(place: Place) -> Iterator[list[tuple[str, str]]]:
    """Two pairs, up: outer and inner ends."""
    pairs = [(f"v{number}", f"w{number}") for number in (place.number(), place.number())]
    for outer, inner in pairs:
        ip(f"link add {outer} type veth peer name {inner}\nlink set {outer} up\nlink set {inner} up")
    try:
        yield pairs
    finally:
        for outer, _ in pairs:
            ip(f"link del {outer}")


@contextlib.contextmanager
def our_taps(place: Place, size: int) -> Iterator[Way]:
    devices = [f"t{place.number()}" for _ in "ab"]
    with place.switch() as lan:
        for device in devices:
            place.fabric.add_outside_port(lan, device, type="tap", ifname=device)
        with packet_ends(devices, size) as (a, b):
            yield Way(a, b, (place.fabric.pid,))


@contextlib.contextmanager
def our_packets(place: Place, size: int) -> Iterator[Way]:
    with place.switch() as lan, veth_pairs(place) as pairs:
        for _, inner in pairs:
            place.fabric.add_outside_port(lan, inner, type="packet", interface=inner)
        with packet_ends([outer for outer, _ in pairs], size) as (a, b):
            yield Way(a, b, (place.fabric.pid,))


@contextlib.contextmanager
def linux_bridge(place: Place, size: int) -> Iterator[Way]:
    bridge = f"br{place.number()}"
    with veth_pairs(place) as pairs:
        ip(f"link add {bridge} type bridge\nlink set {bridge} up")
        for _, inner in pairs:
            ip(f"link set {inner} master {bridge}")
        with packet_ends([outer for outer, _ in pairs], size) as (a, b):
            yield Way(a, b, ())
        ip(f"link del {bridge}")
