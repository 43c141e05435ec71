"""AF_PACKET ports over veth pairs between real Linux stacks."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vswitch.namespace import visiting
from vswitch.ports.packet import open_packet

from ..fabric.lan import Lan
from ..fabric.peers import BROADCAST, frame, mac
from .namespaces import TIMEOUT, Namespace, assert_tcp_works, assert_udp_works


def add_veth(lan: Lan, outer: Namespace, host: Namespace, name: str, address: str, **how: Any) -> int:
    """A veth pair from `eth0` in `host` to `name` in `outer`, where a packet port sits on it, opened `how`."""
    outer.ip(f"link add {name} type veth peer name eth0 netns {host.pid}")
    outer.ip(f"link set {name} up")
    with visiting(outer.fd):
        fds = open_packet(name, **how)
    port = lan.engine.add_port(lan.switch, "packet", fds)
    host.ip(f"addr add {address}/24 dev eth0")
    host.ip("link set eth0 up")
    host.wait_up("eth0")
    outer.wait_up(name)
    return port


def without_offloads(host: Namespace) -> None:
    """Have the host's stack finish what it sends by `eth0`, for a port without virtio-net headers."""
    features = ("tx", "tso", "gso")
    switches = [word for feature in features for word in (feature, "off")]
    command = ["nsenter", f"--net=/proc/{host.pid}/ns/net", "ethtool", "-K", "eth0", *switches]
    subprocess.run(command, check=True, timeout=TIMEOUT, stdout=subprocess.DEVNULL)


@pytest.mark.root
@pytest.mark.parametrize("how", [{}, {"vnet_hdr": False}, {"queues": 4}], ids=["vnet", "plain", "fanout"])
def test_packet_hosts_talk_over_the_switch(how: dict[str, Any]) -> None:
    """TCP and UDP arrive with their checksums, whole where headers say so, within the MTU elsewhere."""
    with Lan() as lan, Namespace() as outer, Namespace() as a, Namespace() as b:
        a_port = add_veth(lan, outer, a, "va", "10.0.0.1", **how)
        b_port = add_veth(lan, outer, b, "vb", "10.0.0.2", **how)
        if how == {"vnet_hdr": False}:
            without_offloads(a)
            without_offloads(b)
        assert_udp_works(a, "10.0.0.1", b, "10.0.0.2", (1, 1000, 1472))
        assert_tcp_works(a, "10.0.0.1", b, "10.0.0.2")
        for port in (a_port, b_port):
            assert not {"no_checksum", "oversize", "too_long"} & set(lan.counters(port).drops)
        counters = lan.counters(a_port)
        assert counters.rx_bytes > 8 << 20
        whole = counters.rx_bytes / counters.rx_frames > 1514
        assert whole == (how != {"vnet_hdr": False})


@pytest.mark.root
def test_packet_port_counts_frames_left_without_checksum() -> None:
    """Without a header that says so, unfinished frames are dropped under a name of their own."""
    with Lan() as lan, Namespace() as outer, Namespace() as a, Namespace() as b:
        port = add_veth(lan, outer, a, "va", "10.0.0.1", vnet_hdr=False)
        b_port = add_veth(lan, outer, b, "vb", "10.0.0.2")
        # Only ARP, which has no checksum, gets through; the answer to it shows that the datagram has been sent.
        with a.bound(socket.SOCK_DGRAM, "10.0.0.1") as client, b.bound(socket.SOCK_DGRAM, "10.0.0.2") as server:
            a.ip("neigh replace 10.0.0.2 lladdr 52:54:00:00:00:99 dev eth0")
            client.sendto(b"unfinished", server.getsockname())
            without_offloads(a)
            client.sendto(b"finished", server.getsockname())
            while lan.counters(b_port).tx_frames == 0:
                pass
        assert lan.counters(port).drops["no_checksum"] >= 1


@pytest.mark.root
def test_packet_port_keeps_vlan_tags(lan: Lan) -> None:
    """The tag the kernel takes out of a frame is put back; one that goes out arrives as a tag."""
    with Namespace() as outer, Namespace() as host:
        add_veth(lan, outer, host, "va", "10.0.0.1")
        peer, _ = lan.peer()
        tagged = frame(BROADCAST, mac(1))[:12] + bytes.fromhex("8100a005") + frame(BROADCAST, mac(1))[12:]
        with visiting(host.fd):
            raw = socket.socket(fileno=open_packet("eth0", vnet_hdr=False)[0])
        with raw:
            raw.settimeout(TIMEOUT)
            raw.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
            raw.send(tagged)
            while (data := peer.receive())[6:12] != mac(1):
                pass  # what the host's stack says by itself
            assert data == tagged
            peer.send(tagged[:6] + mac(2) + tagged[12:])
            while (received := raw.recvmsg(2000, 100))[0][6:12] != mac(2):
                pass
        data, [(_, _, auxdata)], _, _ = received
        assert data == tagged[:6] + mac(2) + tagged[16:]  # the kernel has taken it out here, too
        assert struct.unpack_from("=H", auxdata, 16) == (0xA005,)  # tpacket_auxdata.tp_vlan_tci


@pytest.mark.root
def test_packet_port_drops_what_its_device_cannot_carry(lan: Lan) -> None:
    """A frame over the MTU is counted; so is one for a device that is down; the port stays."""
    with Namespace() as outer, Namespace() as host:
        port = add_veth(lan, outer, host, "va", "10.0.0.1")
        (peer, _), (other, _) = lan.peer(), lan.peer()
        peer.send(frame(BROADCAST, mac(1), size=2000))
        other.receive()
        assert lan.counters(port).drops["too_long"] == 1
        outer.ip("link set va down")
        peer.send(frame(BROADCAST, mac(1)))
        while other.receive()[12:14] != b"\x88\xb5":
            pass
        assert lan.counters(port).drops["link_down"] == 1
        assert lan.counters(port).state == "up"


@pytest.mark.root
def test_packet_port_counts_what_the_kernel_dropped(lan: Lan) -> None:
    """Frames that came faster than they were read are not lost silently."""
    with Namespace() as outer, Namespace() as host:
        outer.ip(f"link add va type veth peer name eth0 netns {host.pid}")
        outer.ip("link set va up")
        host.ip("link set eth0 up")
        host.wait_up("eth0")
        with visiting(outer.fd):
            fds = open_packet("va")
        with visiting(host.fd), socket.socket(fileno=open_packet("eth0", vnet_hdr=False)[0]) as raw:
            for _ in range(4000):
                raw.send(frame(BROADCAST, mac(1), size=1514))  # more than the socket's buffer holds
        port = lan.engine.add_port(lan.switch, "packet", fds)
        while not (missed := lan.counters(port).drops.get("missed", 0)):  # looked at once a second
            pass
        assert missed + lan.counters(port).rx_frames >= 4000  # and what the host's stack says by itself


@pytest.mark.root
def test_packet_port_whose_device_is_deleted_closes(lan: Lan) -> None:
    """The port ends with its device, and says so."""
    with Namespace() as outer, Namespace() as host:
        port = add_veth(lan, outer, host, "va", "10.0.0.1")
        outer.ip("link del va")
        assert lan.next_event() == (port, "closed", "the device is gone")


@pytest.mark.namespaces
def test_packet_ports_need_no_root() -> None:
    """All of the above in an unprivileged user namespace, as a lab without root has it."""
    if os.environ.get("VSWITCH_TEST_IN_USERNS"):
        pytest.skip("this is the inner run")
    command = ["unshare", "-Urn", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(
        command,
        env={**os.environ, "VSWITCH_TEST_IN_USERNS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "8 passed" in result.stdout, result.stdout
