"""What an echo sends back, as scapy reads it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from vswitch.emulated import probe
from vswitch.emulated.echo import Echo

OWN, PEER, THIRD = "02:00:00:00:00:0b", "02:00:00:00:00:0a", "02:00:00:00:00:0c"


def echo(**options: bool) -> Echo:
    return Echo([bytes.fromhex(OWN.replace(":", ""))], **options)


def answers(role: Echo, *frames: Any) -> list[Any]:
    return [Ether(bytes(answer)) for answer in role.handle(0, [bytes(frame) for frame in frames], 0)]


@pytest.mark.parametrize("tag", [False, True])
@pytest.mark.parametrize("version", [4, 6])
def test_addresses_and_ports_are_swapped_and_checksums_stay_right(version: int, tag: bool) -> None:
    ip = IP(src="10.0.0.1", dst="10.0.0.2") if version == 4 else IPv6(src="fd00::1", dst="fd00::2")
    sent = Ether(dst=OWN, src=PEER) / (Dot1Q(vlan=5) / ip if tag else ip) / UDP(sport=1, dport=2) / Raw(b"payload!")
    (back,) = answers(echo(), sent)
    layer = IP if version == 4 else IPv6
    assert (back.dst, back.src) == (PEER, OWN)
    assert (back[layer].src, back[layer].dst) == (sent[layer].dst, sent[layer].src)
    assert (back[UDP].sport, back[UDP].dport, back[Raw].load) == (2, 1, b"payload!")
    rebuilt = back.copy()
    del rebuilt[UDP].chksum
    assert bytes(rebuilt) == bytes(back)


@given(st.integers(0, 2**40 - 1), st.integers(0, 2**56 - 1), st.integers(0, probe.MAX_FLOW))
def test_probe_comes_back_marked_with_its_checksum_mended(sequence: int, stamp: int, flow: int) -> None:
    content = probe.pack(flow, sequence, stamp)
    sent = Ether(dst=OWN, src=PEER) / IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1, dport=9) / Raw(content)
    (back,) = answers(echo(), sent)
    raw = bytes(back)
    assert probe.unpack(raw, probe.find(raw)) == probe.Probe(flow, sequence, stamp, echoed=True)
    rebuilt = back.copy()
    del rebuilt[UDP].chksum
    assert bytes(rebuilt) == raw


def test_echoed_probe_is_not_echoed_again_so_that_two_echoes_stop() -> None:
    sent = Ether(dst=OWN, src=PEER, type=0x88B5) / Raw(probe.pack(0, 0, 0) + bytes(30))
    (back,) = answers(echo(), sent)
    back.dst, back.src = OWN, PEER
    role = echo()
    assert answers(role, back) == []
    assert role.stats()["ignored"] == 1


def test_only_what_is_addressed_to_it_is_answered_unless_promiscuous() -> None:
    to_third = Ether(dst=THIRD, src=PEER) / Raw(bytes(46))
    assert answers(echo(), to_third) == []
    (back,) = answers(echo(promiscuous=True), to_third)
    assert (back.dst, back.src) == (PEER, THIRD)


def test_broadcast_is_answered_from_its_own_address() -> None:
    (back,) = answers(echo(), Ether(dst="ff:ff:ff:ff:ff:ff", src=PEER) / Raw(bytes(46)))
    assert (back.dst, back.src) == (PEER, OWN)


def test_frame_from_a_group_or_from_itself_is_never_answered() -> None:
    frames = [Ether(dst=OWN, src=src) / Raw(bytes(46)) for src in ("ff:ff:ff:ff:ff:ff", OWN)]
    assert answers(echo(), *frames) == []


def test_icmp_has_no_ports_to_swap() -> None:
    sent = Ether(dst=OWN, src=PEER) / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(id=7, seq=9)
    (back,) = answers(echo(), sent)
    assert (back[ICMP].id, back[ICMP].seq) == (7, 9)


@given(st.binary(max_size=80))
def test_any_bytes_at_all_are_survived(tail: bytes) -> None:
    head = bytes.fromhex((OWN + PEER).replace(":", ""))
    role = echo()
    for kind in (b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x88\xb5", b""):
        for back in role.handle(0, [head + kind + tail, tail], 0):
            assert len(back) in (len(head) + len(kind) + len(tail), len(tail))
