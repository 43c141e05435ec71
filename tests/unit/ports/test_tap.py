"""TAP ports between real Linux stacks."""

from __future__ import annotations

import os
import subprocess

import pytest

from vswitch.namespace import visiting
from vswitch.ports.tap import open_tap

from ..fabric.lan import Lan
from ..fabric.peers import BROADCAST, frame, mac
from .namespaces import Namespace, assert_tcp_works, assert_udp_works

pytestmark = [pytest.mark.root, pytest.mark.tun]


def add_tap(lan: Lan, namespace: Namespace, address: str, *, mtu: int = 1500) -> int:
    """A TAP device `eth0` with an address, up, on a port of the switch."""
    with visiting(namespace.fd):
        (fd,) = open_tap("eth0").fds
    port = lan.engine.add_port(lan.switch, "tap", [fd])
    namespace.ip(f"addr add {address}/24 dev eth0")
    namespace.ip(f"link set eth0 mtu {mtu} up")
    return port


@pytest.mark.parametrize("mtu", [1500, 9000, 65521])
def test_tap_hosts_talk_over_the_switch(mtu: int) -> None:
    """TCP and UDP pass between two hosts, with frames as long as their devices allow."""
    with Lan() as lan, Namespace() as a, Namespace() as b:
        a_port, b_port = add_tap(lan, a, "10.0.0.1", mtu=mtu), add_tap(lan, b, "10.0.0.2", mtu=mtu)
        with visiting(a.fd):
            assert f"mtu {mtu} " in subprocess.check_output(["ip", "link", "show", "eth0"], text=True)
        assert_udp_works(a, "10.0.0.1", b, "10.0.0.2", (1, 1000, mtu - 28))
        assert_tcp_works(a, "10.0.0.1", b, "10.0.0.2")
        assert lan.counters(a_port).rx_bytes > 8 << 20
        assert lan.counters(b_port).tx_bytes > 8 << 20


def test_tap_that_is_down_drops_and_counts(lan: Lan) -> None:
    """A device that is not up takes nothing; the port stays."""
    with Namespace() as namespace:
        port = add_tap(lan, namespace, "10.0.0.1")
        namespace.ip("link set eth0 down")
        (peer, _), (other, _) = lan.peer(), lan.peer()
        peer.send(frame(BROADCAST, mac(1)))
        other.receive()
        assert lan.counters(port).drops["link_down"] == 1
        assert lan.counters(port).state == "up"


def test_tap_whose_device_is_deleted_closes(lan: Lan) -> None:
    """The port ends with its device, and says so."""
    with Namespace() as namespace:
        port = add_tap(lan, namespace, "10.0.0.1")
        namespace.ip("link del eth0")
        assert lan.next_event() == (port, "closed", "the device is gone")


def test_open_tap_reports_a_name_that_is_taken() -> None:
    """A device somebody has open is refused."""
    with Namespace() as namespace, visiting(namespace.fd):
        (fd,) = open_tap("eth0").fds
        try:
            with pytest.raises(OSError, match="busy"):
                open_tap("eth0")
        finally:
            os.close(fd)
