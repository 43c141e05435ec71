"""Ports on a UDP multicast bus, in a namespace that has only `lo` up and no route."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator

import pytest

from tests.qemu_converter import needs_qemu, qemu_peer
from vswitch.namespace import visiting
from vswitch.ports.mcast import McastSpec, open_bus

from ..fabric.lan import Lan
from ..fabric.peers import BROADCAST, frame, mac
from .namespaces import TIMEOUT, Namespace
from .passing import SIZES, UDP_MAX
from .serving import Serving

GROUP, PORT = "230.0.0.1", 5544


@contextlib.contextmanager
def member() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Another member of the bus: (receiving, sending) sockets."""
    receiving, sending = (socket.socket(fileno=fd) for fd in open_bus(GROUP, PORT, "127.0.0.1"))
    with receiving, sending:
        receiving.settimeout(TIMEOUT)
        yield receiving, sending


@pytest.mark.root
def test_mcast_port_joins_bus_and_switch(lan: Lan) -> None:
    """Frames pass both ways, and the port does not take its own echoes for the bus's."""
    with Namespace() as namespace, visiting(namespace.fd), member() as (receiving, sending):
        port = lan.engine.add_port(lan.switch, "mcast", list(open_bus(GROUP, PORT, "127.0.0.1")))
        (a, a_port), (b, _) = lan.peer(), lan.peer()
        a.send(frame(BROADCAST, mac(1)))
        assert b.receive() == receiving.recv(65536) == frame(BROADCAST, mac(1))
        sending.send(frame(mac(1), mac(9)))
        assert a.receive() == frame(mac(1), mac(9))
        a.send(frame(mac(9), mac(1), b"answer"))
        while b"answer" not in receiving.recv(65536):  # the member gets its own frame, too
            pass
        assert {row[0]: row[2] for row in lan.engine.fdb(lan.switch)} == {
            int.from_bytes(mac(1), "big"): a_port,
            int.from_bytes(mac(9), "big"): port,
        }
        assert lan.counters(port).rx_frames == 1
        assert b.silent()


@pytest.mark.root
def test_mcast_port_ignores_empty_datagrams_and_never_sends_them(lan: Lan) -> None:
    """An empty datagram would stop a QEMU on the bus for good."""
    with Namespace() as namespace, visiting(namespace.fd), member() as (receiving, sending):
        port = lan.engine.add_port(lan.switch, "mcast", list(open_bus(GROUP, PORT, "127.0.0.1")))
        peer, _ = lan.peer()
        sending.send(b"")
        sending.send(frame(BROADCAST, mac(9)))
        assert peer.receive() == frame(BROADCAST, mac(9))
        assert lan.counters(port).drops == {"runt": 1}
        assert [receiving.recv(100), receiving.recv(100)] == [b"", frame(BROADCAST, mac(9))]
        peer.sock.sendall(bytes(4))
        peer.send(frame(BROADCAST, mac(1)))
        assert receiving.recv(100) == frame(BROADCAST, mac(1))


@pytest.mark.root
def test_mcast_port_carries_up_to_65507_bytes(lan: Lan) -> None:
    """What UDP cannot carry is dropped and counted; the rest passes whole."""
    with Namespace() as namespace, visiting(namespace.fd), member() as (receiving, _):
        port = lan.engine.add_port(lan.switch, "mcast", list(open_bus(GROUP, PORT, "127.0.0.1")))
        peer, _ = lan.peer()
        peer.send(frame(BROADCAST, mac(1), size=65508))
        peer.send(frame(BROADCAST, mac(1), size=65507))
        assert receiving.recv(70000) == frame(BROADCAST, mac(1), size=65507)
        assert lan.counters(port).drops == {"too_long": 1}


def test_mcast_port_needs_a_sender_whose_echo_can_be_told(lan: Lan) -> None:
    """A sender bound to no address is refused."""
    fds = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach() for _ in range(2)]
    with pytest.raises(OSError, match="assign"):
        lan.engine.add_port(lan.switch, "mcast", fds)


@pytest.mark.root
def test_mcast_port_counts_what_the_kernel_dropped(lan: Lan) -> None:
    """Frames that came faster than they were read are not lost silently."""
    with Namespace() as namespace, visiting(namespace.fd), member() as (_, sending):
        fds = open_bus(GROUP, PORT, "127.0.0.1")
        for _ in range(1000):
            sending.send(frame(BROADCAST, mac(9), size=9000))  # more than the socket's buffer holds
        port = lan.engine.add_port(lan.switch, "mcast", list(fds))
        while not (missed := lan.counters(port).drops.get("missed", 0)):  # looked at once a second
            pass
        assert missed + lan.counters(port).rx_frames == 1000


QEMU_BUS = f"socket,mcast={GROUP}:{PORT},localaddr=127.0.0.1"
QEMU_DGRAM = f"dgram,remote.type=inet,remote.host={GROUP},remote.port={PORT},"
QEMU_DGRAM += f"local.type=inet,local.host=127.0.0.1,local.port={PORT}"
SPEC = McastSpec(group=f"{GROUP}:{PORT}")


@needs_qemu
@pytest.mark.root
@pytest.mark.parametrize("netdev", [QEMU_BUS, QEMU_DGRAM])
def test_mcast_port_talks_to_qemu(netdev: str) -> None:
    """Every size UDP carries, both ways; QEMU's hub passes its own echo on to nobody."""
    with Namespace() as namespace, visiting(namespace.fd), Lan() as lan:
        inside, _ = lan.peer()
        with qemu_peer(netdev) as beyond, Serving(lan, SPEC) as serving:
            port = serving.wait_up()
            for number, size in enumerate(size for size in SIZES if size <= UDP_MAX):
                there = frame(BROADCAST, mac(1), b"%d" % number if size > 20 else b"", size=size)
                inside.send(there)
                assert beyond.receive() == there
                back = frame(mac(1), mac(2), size=size)
                beyond.send(back)
                assert inside.receive() == back
                assert beyond.receive() == back  # a QEMU on the bus hears itself
            assert lan.counters(port).drops == {}
            assert lan.counters(port).rx_frames == lan.counters(port).tx_frames


@needs_qemu
@pytest.mark.root
def test_a_switch_on_a_bus_never_learns_its_own_hosts_there() -> None:
    """Two machines and two switches on one bus: an address stays where its host is, whatever comes back."""
    with (
        Namespace() as namespace,
        visiting(namespace.fd),
        Lan() as left,
        Lan() as right,
        qemu_peer(QEMU_BUS) as beyond,
        Serving(left, SPEC) as one,
        Serving(right, SPEC) as two,
    ):
        (a, a_port), (b, b_port) = left.peer(), right.peer()
        left_bus, right_bus = one.wait_up(), two.wait_up()
        for number in range(20):
            a.send(frame(BROADCAST, mac(1), b"a%d" % number))
            assert b.receive() == beyond.receive() == frame(BROADCAST, mac(1), b"a%d" % number)
            b.send(frame(BROADCAST, mac(2), b"b%d" % number))
            assert a.receive() == beyond.receive() == frame(BROADCAST, mac(2), b"b%d" % number)
            beyond.send(frame(BROADCAST, mac(3), b"c%d" % number))
            assert a.receive() == b.receive() == beyond.receive() == frame(BROADCAST, mac(3), b"c%d" % number)
        places = {row[0] & 0xFF: row[2] for row in left.engine.fdb(left.switch)}
        assert places == {1: a_port, 2: left_bus, 3: left_bus}
        places = {row[0] & 0xFF: row[2] for row in right.engine.fdb(right.switch)}
        assert places == {1: right_bus, 2: b_port, 3: right_bus}
        assert left.counters(left_bus).rx_frames == right.counters(right_bus).rx_frames == 40


@pytest.mark.root
def test_mcast_port_of_a_descriptor_joins_with_it() -> None:
    """A socket that has joined, as handed to QEMU's `socket,fd=`, needs no more to be said."""
    with Namespace() as namespace, visiting(namespace.fd), Lan() as lan, member() as (receiving, sending):
        inside, _ = lan.peer()
        given, other = open_bus(GROUP, PORT, "127.0.0.1")
        socket.socket(fileno=other).close()
        with Serving(lan, McastSpec(fd=given)) as serving:
            serving.wait_up()
            inside.send(frame(BROADCAST, mac(1)))
            assert receiving.recv(100) == frame(BROADCAST, mac(1))
            sending.send(frame(BROADCAST, mac(2)))
            assert inside.receive() == frame(BROADCAST, mac(2))
            assert inside.silent()


def test_mcast_port_of_a_wrong_descriptor_says_so(lan: Lan) -> None:
    """One that is bound to no group, and what is no UDP socket."""
    with Serving(lan, McastSpec(fd=socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach())) as serving:
        assert serving.wait_error() == "fd is bound to 0.0.0.0, which is no multicast group: say which by group"
    with Serving(lan, McastSpec(fd=socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).detach())) as serving:
        assert serving.wait_error() == "fd is not a UDP socket of IPv4"
    with Serving(lan, McastSpec(fd=os.memfd_create("file"))) as serving:
        assert serving.wait_error() == "fd is not a socket"


@pytest.mark.root
@pytest.mark.parametrize("ttl", [0, 1, 64])
def test_mcast_frames_go_as_far_as_they_are_to(ttl: int) -> None:
    """The time to live is in every datagram."""
    with Namespace() as namespace, visiting(namespace.fd), member() as (receiving, _):
        fds = open_bus(GROUP, PORT, "127.0.0.1", ttl)
        receiving.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        with socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1]) as sending:
            sending.send(b"x")
            _, [(_, _, value)], _, _ = receiving.recvmsg(10, 100)
            assert int.from_bytes(value[:4], sys.byteorder) == ttl


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (McastSpec(group="230.0.0.1:1234"), None),
        (McastSpec(group="10.0.0.1:1234"), "not an IPv4 multicast address"),
        (McastSpec(group="230.0.0.1"), "is not an address"),
        (McastSpec(group="230.0.0.1:99999"), "is not an address"),
        (McastSpec(group="230.0.0.1:1234", localaddr="eth0"), "eth0"),
        (McastSpec(group="230.0.0.1:1234", localaddr="0.0.0.0"), "not an address of one interface"),
        (McastSpec(), "give group, or fd"),
        (McastSpec(fd=5), None),
        (McastSpec(fd=5, group="10.0.0.1:1234"), "not an IPv4 multicast address"),
    ],
)
def test_mcast_spec_says_what_is_wrong(spec: McastSpec, problem: str | None) -> None:
    """Addresses are checked before the lab starts."""
    problems = spec.problems()
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0])


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (
            McastSpec(group="239.1.1.1:7000", localaddr="192.0.2.77"),
            "joining 239.1.1.1:7000: no interface of this machine has localaddr 192.0.2.77",
        ),
        (McastSpec(group="239.1.1.1:7000", localaddr="300.1.1.1"), "localaddr 300.1.1.1 is not an IPv4 address"),
        (McastSpec(group="[ff02::1]:7000"), "group ff02::1 is not an IPv4 multicast address"),
    ],
)
def test_why_a_bus_cannot_be_joined_names_the_key(lan: Lan, spec: McastSpec, why: str) -> None:
    problems = spec.problems()
    if problems:
        assert why in problems[0]
        return
    with Serving(lan, spec) as serving:
        assert why in serving.wait_error()
