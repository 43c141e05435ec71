"""Ports on a UDP multicast bus, in a namespace that has only `lo` up and no route."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from vswitch.namespace import visiting
from vswitch.ports.mcast import McastSpec, open_bus

from ..fabric.lan import Lan
from ..fabric.peers import BROADCAST, frame, mac
from .namespaces import TIMEOUT, Namespace

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


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (McastSpec(group="230.0.0.1:1234"), None),
        (McastSpec(group="10.0.0.1:1234"), "not an IPv4 multicast address"),
        (McastSpec(group="230.0.0.1"), "is not an address"),
        (McastSpec(group="230.0.0.1:99999"), "is not an address"),
        (McastSpec(group="230.0.0.1:1234", localaddr="eth0"), "eth0"),
    ],
)
def test_mcast_spec_says_what_is_wrong(spec: McastSpec, problem: str | None) -> None:
    """Addresses are checked before the lab starts."""
    problems = spec.problems()
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0])
