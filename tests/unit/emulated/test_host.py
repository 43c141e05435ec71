"""A host answers what scapy asks it, and pings; scapy judges every frame and checksum."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from vswitch.emulated import headers
from vswitch.emulated.host import MAX_KNOWN, MAX_PINGS, Host
from vswitch.emulated.neighbours import link_local
from vswitch.model.lab import Interface

from .asking import Heard, ask

OWN, PEER = "02:00:00:00:00:0b", "02:00:00:00:00:0a"
ETH = Ether(dst=OWN, src=PEER)
SECOND = 10**9


def host(**settings: Any) -> Host:
    addresses = ("10.0.0.2/24", "fd00::2/64")
    return Host([Interface(name="eth0", mac=OWN, addresses=addresses)], **settings)


def answers(role: Host, *frames: Any, now: int = 0) -> list[Any]:
    return [Ether(bytes(answer)) for answer in role.handle(0, [bytes(frame) for frame in frames], now)]


def sent(role: Host, now: int) -> list[Any]:
    """What it sends of itself at `now`."""
    out = []
    while (due := role.due()) is not None and due <= now:
        _, frames = role.emit(now, 256)
        if not frames:
            break
        out += [Ether(bytes(frame)) for frame in frames]
        role.sent(len(frames), now)
    return out


def checksums_are_right(frame: Any) -> bool:
    """Have scapy compute them anew."""
    rebuilt = frame.copy()
    for layer in (IP, UDP, ICMP):
        if layer in rebuilt:
            del rebuilt[layer].chksum
    for message in (ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS):
        if message in rebuilt:
            del rebuilt[message].cksum
    return bytes(rebuilt) == bytes(frame)


@given(st.binary(max_size=100))
def test_checksum_is_the_one_scapy_computes(data: bytes) -> None:
    from scapy.utils import checksum

    assert headers.checksum(data) == checksum(data)


def test_arp_request_is_answered_and_the_asker_learnt() -> None:
    role = host()
    (back,) = answers(
        role, Ether(dst="ff:ff:ff:ff:ff:ff", src=PEER) / ARP(hwsrc=PEER, psrc="10.0.0.1", pdst="10.0.0.2")
    )
    assert (back.dst, back.src, back[ARP].op) == (PEER, OWN, 2)
    assert (back[ARP].hwsrc, back[ARP].psrc, back[ARP].hwdst, back[ARP].pdst) == (OWN, "10.0.0.2", PEER, "10.0.0.1")
    assert PEER in ask(role, "neighbours")[1]


def test_arp_for_somebody_else_is_neither_answered_nor_learnt() -> None:
    role = host()
    asked = Ether(dst="ff:ff:ff:ff:ff:ff", src=PEER) / ARP(hwsrc=PEER, psrc="10.0.0.1", pdst="10.0.0.3")
    assert answers(role, asked) == []
    assert ask(role, "neighbours")[1] == ""


def test_probe_for_its_address_is_answered_though_the_asker_has_none() -> None:
    """Duplicate address detection: RFC 5227's ARP probe, RFC 4862's solicitation from ::."""
    (back,) = answers(
        host(), Ether(dst="ff:ff:ff:ff:ff:ff", src=PEER) / ARP(hwsrc=PEER, psrc="0.0.0.0", pdst="10.0.0.2")
    )
    assert back[ARP].op == 2
    group = Ether(dst="33:33:ff:00:00:02", src=PEER) / IPv6(src="::", dst="ff02::1:ff00:2", hlim=255)
    (back,) = answers(host(), group / ICMPv6ND_NS(tgt="fd00::2"))
    assert (back.dst, back[IPv6].dst, back[ICMPv6ND_NA].S) == ("33:33:00:00:00:01", "ff02::1", 0)
    assert checksums_are_right(back)


@pytest.mark.parametrize("target", ["fd00::2", str(link_local(bytes.fromhex(OWN.replace(":", ""))))])
def test_neighbour_solicitation_is_answered_for_every_address(target: str) -> None:
    tail = target.split(":")[-1].rjust(4, "0")
    low = int(target.split("::")[-1].split(":")[-2][-2:], 16) if "ff" in target.split("::")[-1] else 0
    group_mac = f"33:33:ff:{low:02x}:{tail[:2]}:{tail[2:]}"
    question = (
        Ether(dst=group_mac, src=PEER)
        / IPv6(src="fd00::1", dst=f"ff02::1:ff{low:02x}:{tail}", hlim=255)
        / ICMPv6ND_NS(tgt=target)
        / ICMPv6NDOptSrcLLAddr(lladdr=PEER)
    )
    (back,) = answers(host(), question)
    assert (back.dst, back[IPv6].dst, back[IPv6].hlim) == (PEER, "fd00::1", 255)
    assert (back[ICMPv6ND_NA].tgt, back[ICMPv6ND_NA].S, back[ICMPv6ND_NA].O) == (target, 1, 1)
    assert back[ICMPv6NDOptDstLLAddr].lladdr == OWN
    assert checksums_are_right(back)


@pytest.mark.parametrize("size", [0, 9])
def test_solicitation_with_an_option_of_impossible_length_is_dropped(size: int) -> None:
    question = ETH / IPv6(src="fd00::1", dst="fd00::2", hlim=255) / ICMPv6ND_NS(tgt="fd00::2")
    role = host()
    assert answers(role, question / ICMPv6NDOptSrcLLAddr(lladdr=PEER, len=size)) == []
    assert role.stats()["other_icmp"] == 1


def test_link_local_address_is_made_from_the_mac_as_linux_does() -> None:
    assert str(link_local(bytes.fromhex("5254000a0b0c"))) == "fe80::5054:ff:fe0a:b0c"


def test_udp_checksum_that_would_be_nothing_is_sent_as_all_ones() -> None:
    from ipaddress import ip_address

    ends = (ip_address("10.0.0.1"), ip_address("10.0.0.2"), 1, 2)
    made = headers.udp(*ends, b"\0\0")
    assert headers.udp(*ends, made[6:8])[6:8] == b"\xff\xff"


def test_solicitation_that_crossed_a_router_is_ignored() -> None:
    question = ETH / IPv6(src="fd00::1", dst="fd00::2", hlim=254) / ICMPv6ND_NS(tgt="fd00::2")
    assert answers(host(), question) == []


@given(st.binary(max_size=300), st.integers(0, 65535), st.integers(0, 65535))
def test_ping_is_answered_with_what_it_carried(payload: bytes, identifier: int, sequence: int) -> None:
    v4 = ETH / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(id=identifier, seq=sequence) / Raw(payload)
    v6 = ETH / IPv6(src="fd00::1", dst="fd00::2") / ICMPv6EchoRequest(id=identifier, seq=sequence, data=payload)
    four, six = answers(host(), v4, v6)
    assert (four.dst, four[IP].src, four[IP].dst, four[ICMP].type) == (PEER, "10.0.0.2", "10.0.0.1", 0)
    assert (four[ICMP].id, four[ICMP].seq, bytes(four[ICMP].payload)) == (identifier, sequence, payload)
    assert (six[IPv6].src, six[IPv6].dst) == ("fd00::2", "fd00::1")
    assert (six[ICMPv6EchoReply].id, six[ICMPv6EchoReply].data) == (identifier, payload)
    assert checksums_are_right(four)
    assert checksums_are_right(six)


@pytest.mark.parametrize("version", [4, 6])
def test_udp_echo_answers_on_port_7_and_never_to_port_7(version: int) -> None:
    ip = IP(src="10.0.0.1", dst="10.0.0.2") if version == 4 else IPv6(src="fd00::1", dst="fd00::2")
    role = host()
    asked = [ETH / ip / UDP(sport=sport, dport=dport) / Raw(b"odd") for sport, dport in ((999, 7), (7, 7), (999, 8))]
    (back,) = answers(role, *asked)
    assert (back[UDP].sport, back[UDP].dport, back[Raw].load[:3]) == (7, 999, b"odd")
    assert checksums_are_right(back)
    assert role.stats()["other_udp"] == 2


@pytest.mark.parametrize(
    ("frame", "counter"),
    [
        (ETH / IP(src="10.0.0.1", dst="10.0.0.2", chksum=1) / ICMP(), "bad_checksum"),
        (ETH / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(chksum=1), "bad_checksum"),
        (ETH / IPv6(src="fd00::1", dst="fd00::2") / ICMPv6EchoRequest(cksum=1), "bad_checksum"),
        (ETH / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(dport=7, chksum=1) / Raw(b"x"), "bad_checksum"),
        (ETH / IPv6(src="fd00::1", dst="fd00::2") / UDP(dport=7, chksum=0) / Raw(b"x"), "bad_checksum"),
        (ETH / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(dport=7, len=4000) / Raw(b"x"), "malformed"),
        (ETH / IP(src="10.0.0.1", dst="10.0.0.2", len=4000) / ICMP(), "malformed"),
        (ETH / IP(src="10.0.0.1", dst="10.0.0.2", flags="MF") / ICMP(), "fragment"),
        (ETH / IP(src="10.0.0.1", dst="10.0.0.9") / ICMP(), "not_for_us"),
        (Ether(dst="02:00:00:00:00:0c", src=PEER) / IP(dst="10.0.0.2") / ICMP(), "not_for_us"),
        (Ether(dst=OWN, src=PEER) / Dot1Q(vlan=5) / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(), "not_for_us"),
    ],
)
def test_what_is_wrong_or_not_for_it_is_dropped_and_counted_by_reason(frame: Any, counter: str) -> None:
    role = host()
    assert answers(role, frame) == []
    assert role.stats() == {"role": "host", counter: 1}


@given(st.binary(max_size=120), st.sampled_from([b"\x08\x06", b"\x08\x00", b"\x86\xdd", b"\x81\x00", b""]))
def test_any_bytes_at_all_are_survived(tail: bytes, kind: bytes) -> None:
    host().handle(0, [bytes.fromhex((OWN + PEER).replace(":", "")) + kind + tail, tail], 0)


def test_every_prefix_and_every_changed_byte_of_good_frames_is_survived() -> None:
    question = Ether(dst=OWN, src=PEER) / IPv6(src="fd00::1", dst="fd00::2", hlim=255) / ICMPv6ND_NS(tgt="fd00::2")
    good = [bytes(question / ICMPv6NDOptSrcLLAddr(lladdr=PEER)), bytes(ETH / ARP(psrc="10.0.0.1", pdst="10.0.0.2"))]
    role = host()
    for frame in good:
        for at in range(len(frame)):
            for value in (0, 1, 0x45, 0xFF):
                role.handle(0, [frame[:at], frame[:at] + bytes([value]) + frame[at + 1 :]], 0)


def test_host_in_a_vlan_answers_tagged() -> None:
    role = host(vlan=5)
    (back,) = answers(role, Ether(dst=OWN, src=PEER) / Dot1Q(vlan=5) / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP())
    assert back[Dot1Q].vlan == 5


def test_host_announces_its_addresses_when_it_begins() -> None:
    role = host()
    role.begin(0)
    arp, *advertisements = sent(role, 0)
    assert (arp[ARP].psrc, arp[ARP].pdst) == ("10.0.0.2", "10.0.0.2")
    assert {frame[ICMPv6ND_NA].tgt for frame in advertisements} >= {"fd00::2"}
    assert all(checksums_are_right(frame) for frame in advertisements)


def test_neighbours_known_are_bounded() -> None:
    role = host()
    for number in range(MAX_KNOWN + 50):
        mac = bytes([2, 0, 0, 1, number >> 8, number & 255]).hex(":")
        address = f"10.1.{number >> 8}.{number & 255}"
        role.handle(0, [bytes(ETH / ARP(hwsrc=mac, psrc=address, pdst="10.0.0.2"))], 0)
    assert len(ask(role, "neighbours")[1].splitlines()) == MAX_KNOWN


# --- ping -----------------------------------------------------------------------------------------------------------


def start_ping(role: Host, *arguments: str, now: int = 0) -> Heard:
    heard = Heard()
    role.command(("ping", *arguments), heard, now)
    return heard


@pytest.mark.parametrize(("own", "peer"), [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")])
def test_ping_finds_the_neighbour_asks_and_reports(own: str, peer: str) -> None:
    role = host()
    heard = start_ping(role, "-c2", "-s", "100", peer)
    (question,) = sent(role, 0)
    if "." in peer:
        assert (question.dst, question[ARP].pdst) == ("ff:ff:ff:ff:ff:ff", peer)
        role.handle(0, [bytes(ETH / ARP(op=2, hwsrc=PEER, psrc=peer, hwdst=OWN, pdst=own))], 1000)
    else:
        assert (question[ICMPv6ND_NS].tgt, question[IPv6].dst) == (peer, "ff02::1:ff00:1")
        assert checksums_are_right(question)
        advert = IPv6(src=peer, dst=own, hlim=255) / ICMPv6ND_NA(tgt=peer) / ICMPv6NDOptDstLLAddr(lladdr=PEER)
        role.handle(0, [bytes(ETH / advert)], 1000)
    for number in range(2):
        now = number * SECOND + 2000
        (echo,) = sent(role, now)
        assert checksums_are_right(echo)
        assert echo.dst == PEER
        if "." in peer:
            assert len(echo[ICMP].payload) == 100
            reply = IP(src=peer, dst=own) / ICMP(type=0, id=echo[ICMP].id, seq=echo[ICMP].seq) / echo[ICMP].payload
        else:
            request = echo[ICMPv6EchoRequest]
            reply = IPv6(src=peer, dst=own) / ICMPv6EchoReply(id=request.id, seq=request.seq, data=request.data)
        role.handle(0, [bytes(ETH / reply)], now + 500_000)
    sent(role, SECOND * 2)
    assert heard.code == 0
    assert f"108 bytes from {peer}: seq=2 ttl=64 time=0.500 ms" in heard.stdout
    assert "2 packets transmitted, 2 packets received, 0% packet loss" in heard.stdout


def test_ping_of_nobody_fails_when_the_time_is_over() -> None:
    role = host()
    heard = start_ping(role, "-c1", "-W2", "10.0.0.77")
    for now in range(0, 3 * SECOND, SECOND // 10):
        sent(role, now)
        assert (heard.code is None) == (now < 2 * SECOND)
    assert heard.code == 1
    assert "no neighbour 10.0.0.77 for seq=1" in heard.stdout
    assert "100% packet loss" in heard.stdout
    assert role.due() is None


def test_ping_goes_through_the_gateway_when_the_address_is_elsewhere() -> None:
    role = host(gateway="10.0.0.1")
    start_ping(role, "-c1", "192.0.2.1")
    (question,) = sent(role, 0)
    assert question[ARP].pdst == "10.0.0.1"
    role.handle(0, [bytes(ETH / ARP(op=2, hwsrc=PEER, psrc="10.0.0.1", pdst="10.0.0.2"))], 0)
    (echo,) = sent(role, 1)
    assert (echo.dst, echo[IP].dst) == (PEER, "192.0.2.1")


def test_ping_by_name_takes_the_family_asked_for() -> None:
    role = host(names={"vm1": ("10.0.0.1", "fd00::1")})
    start_ping(role, "-6", "vm1")
    (question,) = sent(role, 0)
    assert question[ICMPv6ND_NS].tgt == "fd00::1"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["10.0.0.2"], "own address"),
        (["192.0.2.1"], "no route"),
        (["vm9"], "neither an address nor a name"),
        ([], "one address or node"),
        (["-c", "10.0.0.1"], "-c wants a number"),
        (["-x", "10.0.0.1"], "not understood"),
        (["-c0", "10.0.0.1"], "at least one packet"),
        (["-s", "1473", "10.0.0.1"], "at most 1472 bytes"),
    ],
)
def test_ping_that_cannot_be_says_why(arguments: list[str], what: str) -> None:
    code, _, err = ask(host(), "ping", *arguments)
    assert code == 2
    assert what in err


def test_pings_under_way_are_bounded_and_an_interrupt_ends_one() -> None:
    role = host()
    pings = [start_ping(role, "10.0.0.1") for _ in range(MAX_PINGS)]
    assert "under way" in start_ping(role, "10.0.0.1").stderr
    assert pings[0].cancelled is not None
    pings[0].cancelled()
    assert pings[0].code == 130
    sent(role, 0)
    assert start_ping(role, "10.0.0.1").code is None
