"""Frames that real Linux stacks leave unfinished, between ports with virtio-net headers and ports without."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from vswitch.namespace import visiting
from vswitch.ports.packet import disable_offloads_beyond_headers, open_packet
from vswitch.ports.tap import open_tap

from ..fabric.lan import Lan, port_settings, switch_settings, vlans
from .namespaces import TIMEOUT, Namespace, assert_tcp_works, assert_udp_works

pytestmark = [pytest.mark.root, pytest.mark.tun]

A, B = "10.0.0.1", "10.0.0.2"
AddHost = Callable[[Lan, Namespace, str], int]


def add_tap(lan: Lan, host: Namespace, address: str, *, queues: int = 1, vnet_hdr: bool = True) -> int:
    """A host on a TAP device."""
    with visiting(host.fd):
        fds = open_tap("eth0", queues=queues, vnet_hdr=vnet_hdr).fds
    port = lan.engine.add_port(lan.switch, "tap", fds)
    host.ip(f"addr add {address}/24 dev eth0")
    host.ip("link set eth0 up")
    return port


def add_plain_tap(lan: Lan, host: Namespace, address: str) -> int:
    """One whose port wants finished frames."""
    return add_tap(lan, host, address, vnet_hdr=False)


def add_queued_tap(lan: Lan, host: Namespace, address: str) -> int:
    """One with several queues."""
    return add_tap(lan, host, address, queues=3)


def add_veth(lan: Lan, host: Namespace, address: str, *, queues: int = 1) -> int:
    """A host on a veth pair, the port on its other end, which is in the host's namespace as well."""
    host.ip("link add eth0 type veth peer name outer")
    host.ip("link set outer arp off up")
    with visiting(host.fd):
        disable_offloads_beyond_headers("eth0")
        fds = open_packet("outer", queues=queues)
    port = lan.engine.add_port(lan.switch, "packet", fds)
    host.ip(f"addr add {address}/24 dev eth0")
    host.ip("link set eth0 up")
    host.wait_up("eth0")
    return port


def add_queued_veth(lan: Lan, host: Namespace, address: str) -> int:
    """One with a fanout group of sockets."""
    return add_veth(lan, host, address, queues=3)


def counted(host: Namespace, name: str) -> int:
    """One of the counters of a host's stack."""
    command = ["nsenter", f"--net=/proc/{host.pid}/ns/net", "nstat", "-asz", name]
    return int(subprocess.check_output(command, text=True).split()[-2])


def assert_sums_were_right(*hosts: Namespace) -> None:
    """No stack has seen a wrong checksum."""
    for host in hosts:
        assert counted(host, "TcpInCsumErrors") == counted(host, "UdpInCsumErrors") == 0


@pytest.mark.parametrize("add_b", [add_tap, add_plain_tap, add_queued_tap, add_veth, add_queued_veth])
@pytest.mark.parametrize("add_a", [add_tap, add_queued_tap, add_veth])
def test_offload_streams_pass_in_long_frames(add_a: AddHost, add_b: AddHost) -> None:
    """TCP comes in long frames, leaves as it came where there are headers, and in segments where there are none."""
    with Lan() as lan, Namespace() as a, Namespace() as b:
        a_port, b_port = add_a(lan, a, A), add_b(lan, b, B)
        assert_tcp_works(a, A, b, B)
        assert_udp_works(a, A, b, B, (1, 1000, 1472))
        assert_sums_were_right(a, b)
        sent, received = lan.counters(a_port), lan.counters(b_port)
        assert sent.rx_bytes > 8 << 20
        assert sent.rx_frames < sent.rx_bytes / 4000
        if add_b is add_plain_tap:
            assert received.tx_frames > received.tx_bytes / 1514
        else:
            assert received.tx_frames < received.tx_bytes / 4000
        assert not {"bad_offload", "no_checksum", "too_long", "refused"} & {*sent.drops, *received.drops}


def with_sums(packet: Packet) -> bytes:
    """The packet as scapy would send it, all checksums worked out anew."""
    again = packet.copy()
    for layer in (IP, TCP, UDP):
        if layer in again:
            del again[layer].chksum
    return bytes(again)


def test_offload_a_peer_without_headers_gets_finished_segments(lan: Lan) -> None:
    """What arrives at a peer that knows nothing of headers is what a network card would have sent."""
    peer, peer_port = lan.peer()
    data = os.urandom(100000)
    with Namespace() as a:
        port = add_tap(lan, a, A)
        a.ip(f"neigh replace {B} lladdr 52:54:00:00:00:02 dev eth0")
        with a.bound(socket.SOCK_STREAM, A) as client:

            def send() -> None:
                client.connect((B, 80))
                client.sendall(data)

            sender = threading.Thread(target=send)
            sender.start()
            got, lengths, first = bytearray(), [], 0
            while len(got) < len(data):
                raw = peer.receive()
                packet = Ether(raw)
                if TCP not in packet:
                    continue
                assert with_sums(packet) == raw
                answer = TCP(sport=80, dport=packet[TCP].sport, flags="A", window=65535, seq=1)
                if "S" in packet[TCP].flags:
                    first = packet[TCP].seq + 1
                    answer = TCP(sport=80, dport=packet[TCP].sport, flags="SA", window=65535, options=[("MSS", 1460)])
                elif first + len(got) & 0xFFFFFFFF == packet[TCP].seq:
                    piece = raw[34 + 4 * packet[TCP].dataofs : 14 + packet[IP].len]
                    got += piece
                    lengths.append(len(piece))
                answer.ack = first + len(got) & 0xFFFFFFFF
                peer.send(bytes(Ether(src="52:54:00:00:00:02", dst=packet.src) / IP(src=B, dst=A) / answer))
            sender.join(TIMEOUT)
        assert bytes(got) == data
        assert max(lengths) == 1460
        assert lan.counters(peer_port).tx_frames > lan.counters(port).rx_frames  # some were unfinished


def test_offload_datagrams_sent_at_once_arrive_one_by_one(lan: Lan) -> None:
    """USO: one frame of a host that sends datagrams with UDP_SEGMENT, as many as there are for its peers."""
    data = os.urandom(12345)
    with Namespace() as a, Namespace() as b:
        a_port, b_port = add_tap(lan, a, A), add_plain_tap(lan, b, B)
        with a.bound(socket.SOCK_DGRAM, A) as client, b.bound(socket.SOCK_DGRAM, B) as server:
            client.sendto(b"so that both know each other", server.getsockname())
            server.recv(100)
            before = lan.counters(a_port).rx_frames, lan.counters(b_port).tx_frames
            client.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
            client.sendto(data, server.getsockname())
            got = [server.recv(65536) for _ in range(13)]
        assert got == [data[at : at + 1000] for at in range(0, len(data), 1000)]
        assert_sums_were_right(b)
        major, minor = os.uname().release.split(".")[:2]
        if (int(major), int(minor)) >= (6, 2):  # or its TAP devices know nothing of it
            assert lan.counters(a_port).rx_frames - before[0] < 13
        assert lan.counters(b_port).tx_frames - before[1] >= 13


def test_offload_tags_are_put_back_before_what_is_left_to_do(lan: Lan) -> None:
    """A tagged frame with an unfinished checksum, whose tag the kernel hands over beside it."""
    peer, _ = lan.peer()
    packet = Ether(src="52:54:00:00:00:01", dst="52:54:00:00:00:02") / Dot1Q(vlan=5, prio=3) / IP(src=A, dst=B)
    packet /= UDP(sport=1, dport=2) / b"unfinished"
    finished = bytes(packet)
    pseudo = struct.pack("!4s4sBBH", socket.inet_aton(A), socket.inet_aton(B), 0, 17, 18)
    total = sum(struct.unpack("!6H", pseudo))
    left = finished[:44] + struct.pack("!H", (total & 0xFFFF) + (total >> 16)) + finished[46:]
    with Namespace() as a:
        port = add_veth(lan, a, A)
        with visiting(a.fd):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with raw:
            raw.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
            raw.bind(("eth0", 0))
            raw.send(struct.pack("<BBHHHH", 1, 0, 0, 0, 38, 6) + left)
        while (got := peer.receive())[:14] != finished[:14]:
            pass  # what the stack says by itself
        assert got == finished
        assert "bad_offload" not in lan.counters(port).drops


def test_offload_vlans_of_the_switch_fit_unfinished_frames() -> None:
    """A host whose frames the switch tags on their way to a trunk and untags again is still understood."""
    with Lan() as lan, Namespace() as a, Namespace() as b:
        lan.engine.configure_switch(lan.switch, **switch_settings(vlan_filtering=True))
        other = lan.engine.add_switch(False, 300.0, 100)
        lan.engine.configure_switch(other, **switch_settings(vlan_filtering=True))
        access = port_settings(members=vlans(10), pvid=10)
        trunk = port_settings(members=vlans(10), pvid=0)
        a_port, b_port = add_tap(lan, a, A), add_tap(lan, b, B)
        lan.engine.remove_port(b_port)  # its host goes to the other switch
        with visiting(b.fd):
            fds = open_tap("eth0").fds
        lan.engine.add_port(other, "tap", fds, **access)
        b.ip(f"addr add {B}/24 dev eth0")
        b.ip("link set eth0 up")
        lan.engine.configure_port(a_port, **access)
        # The trunk: a TAP device in a third namespace would need a bridge there; a socket pair does.
        ours, theirs = socket.socketpair()
        lan.engine.add_port(lan.switch, "stream", [ours.detach()], **trunk)
        lan.engine.add_port(other, "stream", [theirs.detach()], **trunk)
        assert_tcp_works(a, A, b, B)
        assert_tcp_works(b, B, a, A)
        assert_sums_were_right(a, b)


def test_offload_of_tunnels_is_left_to_the_stack() -> None:
    """TCP within VXLAN from a host on a veth pair: its kernel would leave it to the other end, which cannot be told."""
    with Lan() as lan, Namespace() as a, Namespace() as b:
        ports = [add_veth(lan, a, "10.0.1.1"), add_veth(lan, b, "10.0.1.2")]
        for host, mine, other in ((a, 1, 2), (b, 2, 1)):
            tunnel = f"link add vx type vxlan id 5 dstport 4789 local 10.0.1.{mine} remote 10.0.1.{other}"
            try:
                host.ip(tunnel)
            except subprocess.CalledProcessError:
                pytest.skip("this kernel has no VXLAN")
            host.ip(f"addr add 10.0.0.{mine}/24 dev vx")
            host.ip("link set vx up")
        assert_tcp_works(a, A, b, B)
        assert not any("bad_offload" in lan.counters(port).drops for port in ports)


def test_offload_that_no_header_can_say_is_dropped_and_counted(lan: Lan) -> None:
    """A datagram left to be cut into IP fragments: the kernel takes it from one side and cannot tell the other."""
    peer, _ = lan.peer()
    packet = Ether(src="52:54:00:00:00:01", dst="52:54:00:00:00:02") / IP(src=A, dst=B) / UDP() / bytes(4000)
    with Namespace() as a:
        with visiting(a.fd):
            (tap,) = open_tap("eth0").fds
            a.ip("link set eth0 up")
            port = lan.engine.add_port(lan.switch, "packet", open_packet("eth0"))
        try:
            os.write(tap, struct.pack("=BBHHHH", 1, 3, 42, 1000, 34, 6) + bytes(packet))
            after = bytes(Ether(src="52:54:00:00:00:01", dst="52:54:00:00:00:02", type=0x88B5) / bytes(46))
            os.write(tap, bytes(10) + after)
            while (got := peer.receive()) != after:
                assert got[12:14] != b"\x08\x00"
        finally:
            os.close(tap)
        assert lan.counters(port).drops == {"bad_offload": 1}


def test_offload_queues_of_several_devices_are_refused(lan: Lan) -> None:
    """The descriptors of a port are one device's."""
    with Namespace() as a, visiting(a.fd):
        fds = [*open_tap("eth0").fds, *open_tap("eth1").fds]
        with pytest.raises(OSError, match="cross-device"):
            lan.engine.add_port(lan.switch, "tap", fds)


@pytest.mark.parametrize("add", [add_queued_tap, add_queued_veth])
def test_offload_port_of_several_queues_ends_with_its_device(lan: Lan, add: AddHost) -> None:
    """As one with a single queue does."""
    with Namespace() as a:
        port = add(lan, a, A)
        a.ip("link del eth0")
        assert lan.next_event() == (port, "closed", "the device is gone")
