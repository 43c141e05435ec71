"""L2TPv3 ports: what a lab file may say, and QEMU, a second instance of ours, and strangers as peers."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

import msgspec
import pytest

from tests.qemu_converter import needs_qemu, qemu_peer
from vswitch.namespace import visiting
from vswitch.ports.l2tpv3 import Header, L2tpv3Spec, open_l2tpv3

from ..fabric.lan import Lan, port_settings
from ..fabric.peers import BROADCAST, frame, mac
from .namespaces import TIMEOUT, Namespace
from .passing import SIZES, assert_frames_pass, free_udp_port
from .serving import Serving

QEMU_MAX = 2048
"""QEMU cuts longer datagrams, header included."""


def spec(**settings: Any) -> L2tpv3Spec:
    """A spec, which is wrong where `settings` are."""
    return msgspec.convert(
        {"type": "l2tpv3", "local": "127.0.0.1:1", "remote": "127.0.0.1:2", "tx_session": 1} | settings, L2tpv3Spec
    )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, None),
        ({"local": "[::1]:1", "remote": "[::1]:2"}, None),
        ({"udp": False, "local": "10.0.0.1", "remote": "host.example"}, None),
        ({"udp": False, "local": "::1", "remote": "[::2]"}, None),
        ({"tx_cookie": "0xFFFFFFFF", "rx_cookie": "0"}, None),
        ({"rx_cookie": "18446744073709551615", "cookie64": True}, None),
        ({"counter": True, "pincounter": True, "offset": 256}, None),
        ({"local": None, "remote": None, "fd": 5}, None),
        ({"remote": None}, "give both local and remote, or fd"),
        ({"fd": 5}, "leave out local, remote and udp"),
        ({"local": "127.0.0.1"}, "is not an address"),
        ({"udp": False, "local": "127.0.0.1", "remote": "127.0.0.1:5"}, "without a port"),
        ({"tx_cookie": "0x100000000"}, "tx_cookie has more than 32 bits; see cookie64"),
        ({"rx_cookie": "0x10000000000000000", "cookie64": True}, "rx_cookie has more than 64 bits"),
        ({"rx_cookie": "secret"}, "rx_cookie: 'secret' is not a number"),
        ({"rx_cookie": "-1"}, "rx_cookie is below 0"),
        ({"cookie64": True}, "cookie64 needs a cookie"),
        ({"pincounter": True}, "pincounter needs counter"),
    ],
)
def test_l2tpv3_spec_says_what_is_wrong(settings: dict[str, Any], problem: str | None) -> None:
    """Before the lab starts."""
    problems = spec(**settings).problems()
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0])


@pytest.mark.parametrize("settings", [{"tx_session": 0}, {"tx_session": 1 << 32}, {"rx_session": 0}, {"offset": 257}])
def test_l2tpv3_spec_bounds_its_numbers(settings: dict[str, Any]) -> None:
    """Session 0 belongs to messages between daemons."""
    with pytest.raises(msgspec.ValidationError):
        spec(**settings)


COOKIES = {"tx_cookie": "0x11223344", "rx_cookie": "0x55667788"}
COOKIES64 = {"tx_cookie": "0x1122334455667788", "rx_cookie": "0x99aabbccddeeff00", "cookie64": True}
QEMU_COOKIES = "rxcookie=0x11223344,txcookie=0x55667788"
QEMU_COOKIES64 = "cookie64=on,rxcookie=0x1122334455667788,txcookie=0x99aabbccddeeff00"
HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({}, ""),
    "cookie": (COOKIES, QEMU_COOKIES),
    "cookie64": (COOKIES64, QEMU_COOKIES64),
    "counter": ({"counter": True}, "counter=on"),
    "pincounter": ({"counter": True, "pincounter": True}, "counter=on,pincounter=on"),
    "offset": ({"offset": 4}, "offset=4"),
    "everything": (
        COOKIES64 | {"counter": True, "offset": 256},
        f"{QEMU_COOKIES64},counter=on,offset=256",
    ),
}


def header_size(settings: dict[str, Any]) -> int:
    """Bytes before each frame over UDP."""
    cookie = 0 if "tx_cookie" not in settings else 8 if settings.get("cookie64") else 4
    return 8 + cookie + (4 if settings.get("counter") else 0) + int(settings.get("offset", 0))


@needs_qemu
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("header", HEADERS)
def test_l2tpv3_port_talks_to_qemu_over_udp(lan: Lan, header: str, host: str) -> None:
    """Every header QEMU knows, and every size it takes."""
    settings, options = HEADERS[header]
    inside, _ = lan.peer()
    ours, theirs = free_udp_port(host), free_udp_port(host)
    written = f"[{host}]" if ":" in host else host
    netdev = (
        f"l2tpv3,src={host},dst={host},udp=on,srcport={theirs},dstport={ours},ipv6={'on' if ':' in host else 'off'}"
    )
    netdev += f",txsession=0xffffffff,rxsession=7,{options}".rstrip(",")
    port_spec = spec(
        local=f"{written}:{ours}", remote=f"{written}:{theirs}", tx_session=7, rx_session=0xFFFFFFFF, **settings
    )
    with qemu_peer(netdev) as beyond, Serving(lan, port_spec) as serving:
        port = serving.wait_up()
        longest = QEMU_MAX - header_size(settings)
        assert_frames_pass(inside, beyond, (*(size for size in SIZES if size < longest), longest))
        for size in (4096, 16000, 65000):  # it has no limit in what it sends
            beyond.send(frame(mac(1), mac(2), size=size))
            assert inside.receive() == frame(mac(1), mac(2), size=size)
        assert lan.counters(port).drops == {}


@needs_qemu
@pytest.mark.root
@pytest.mark.parametrize("addresses", [("127.0.0.1", "127.0.0.2"), ("fd00::1", "fd00::2")])
@pytest.mark.parametrize("header", HEADERS)
def test_l2tpv3_port_talks_to_qemu_over_raw_ip(header: str, addresses: tuple[str, str]) -> None:
    """Without UDP, in IPv4, where we see the IP header, and in IPv6, where we do not."""
    settings, options = HEADERS[header]
    local, remote = addresses
    v6 = "on" if ":" in local else "off"
    netdev = f"l2tpv3,src={remote},dst={local},udp=off,ipv6={v6},txsession=9,rxsession=8,{options}".rstrip(",")
    port_spec = spec(local=local, remote=remote, udp=False, tx_session=8, rx_session=9, **settings)
    with Namespace() as namespace, visiting(namespace.fd), Lan() as lan:
        for address in ("fd00::1", "fd00::2"):
            namespace.ip(f"addr add {address}/128 dev lo nodad")
        inside, _ = lan.peer()
        with qemu_peer(netdev) as beyond, Serving(lan, port_spec) as serving:
            port = serving.wait_up()
            assert_frames_pass(inside, beyond, (14, 60, 1514, 1700))
            assert lan.counters(port).drops == {}


@pytest.mark.parametrize("header", HEADERS)
def test_two_l2tpv3_ports_talk_to_each_other(header: str) -> None:
    """All UDP carries, which is more than QEMU takes."""
    settings, _ = HEADERS[header]
    turned = settings | {
        there: settings[here]
        for here, there in (("tx_cookie", "rx_cookie"), ("rx_cookie", "tx_cookie"))
        if here in settings
    }
    a, b = (f"127.0.0.1:{free_udp_port()}" for _ in range(2))
    with (
        Lan() as left,
        Lan() as right,
        Serving(left, spec(local=a, remote=b, tx_session=5, **settings)) as one,
        Serving(right, spec(local=b, remote=a, tx_session=5, **turned)) as two,
    ):
        one.wait_up()
        two.wait_up()
        longest = 65507 - header_size(settings)
        assert_frames_pass(left.peer()[0], right.peer()[0], (*(size for size in SIZES if size < longest), longest))


class Wire:
    """An L2TPv3 port over UDP and the socket of its peer, to write and read headers by hand."""

    def __init__(self, lan: Lan, header: Header) -> None:
        self.lan = lan
        self.inside, _ = lan.peer()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.bind(("127.0.0.1", 0))
        self.address = ("127.0.0.1", free_udp_port())
        fd, options = open_l2tpv3(self.address, self.sock.getsockname(), header)
        self.port = lan.engine.add_port(lan.switch, "l2tpv3", [fd], options, **port_settings())

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error: Any) -> None:
        self.sock.close()

    def drops_of(self, *datagrams: bytes, then: bytes) -> dict[str, int]:
        """Send; wait for the last, which is to be taken; return the drops."""
        for datagram in (*datagrams, then):
            self.sock.sendto(datagram, self.address)
        assert self.inside.receive() == frame(BROADCAST, mac(9))
        assert self.inside.silent()
        return self.lan.counters(self.port).drops


FRAME = frame(BROADCAST, mac(9))


def test_l2tpv3_port_drops_wrong_sessions_and_cookies(lan: Lan) -> None:
    """Each is counted, whichever bit of it is wrong, and nothing of it reaches the switch."""
    good = bytes.fromhex("00030000 00000007 0102030405060708")
    bad_sessions = [good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :] for at in range(4, 8) for bit in range(8)]
    bad_cookies = [good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :] for at in range(8, 16) for bit in range(8)]
    with Wire(lan, Header(1, 7, rx_cookie=0x0102030405060708, cookie64=True)) as wire:
        drops = wire.drops_of(*(head + FRAME for head in bad_sessions + bad_cookies), then=good + FRAME)
        assert drops == {"bad_session": 32, "bad_cookie": 64}


def test_l2tpv3_port_ignores_messages_between_daemons_and_what_is_cut_off(lan: Lan) -> None:
    """A message with the T bit, a header that ends too early, and a frame too short to be one."""
    good = bytes.fromhex("00030000 00000007 01020304 00000000 aaaaaaaa")
    hello = bytes.fromhex("c8030014 00000007 0000 0000") + bytes(8)
    cut = [(good + FRAME)[:size] for size in range(len(good) + 14)]
    with Wire(lan, Header(1, 7, rx_cookie=0x01020304, counter=True, offset=4)) as wire:
        drops = wire.drops_of(hello, *cut, then=good + FRAME)
        assert drops == {"bad_session": 1, "runt": len(cut)}


def test_l2tpv3_port_does_not_look_at_counters_and_padding(lan: Lan) -> None:
    """QEMU's padding is whatever its memory holds; its counter may begin again."""
    with Wire(lan, Header(1, 7, counter=True, offset=3)) as wire:
        for counter in (0, 5, 4, 0xFFFFFFFF):
            head = struct.pack(">IIII", 0x00030000, 7, counter, 0xDEADBEEF)[:-1]
            assert wire.drops_of(then=head + FRAME) == {}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (Header(7, 1), "00030000 00000007"),
        (Header(7, 1, tx_cookie=0x01020304), "00030000 00000007 01020304"),
        (Header(7, 1, tx_cookie=0x01020304, cookie64=True), "00030000 00000007 0000000001020304"),
        (Header(7, 1, rx_cookie=0x01020304), "00030000 00000007"),
        (Header(0xFFFFFFFF, 1, offset=3), "00030000 ffffffff 000000"),
        (Header(7, 1, counter=True, pincounter=True), "00030000 00000007 00000000"),
    ],
)
def test_l2tpv3_port_sends_exactly_this_header(lan: Lan, header: Header, expected: str) -> None:
    """Byte for byte, the padding zero."""
    with Wire(lan, header) as wire:
        for _ in range(2):
            wire.inside.send(FRAME)
            assert wire.sock.recv(2000) == bytes.fromhex(expected) + FRAME


def test_l2tpv3_port_counts_from_one(lan: Lan) -> None:
    """Each frame has the next number, whether it was sent alone, with others, or after waiting."""
    with Wire(lan, Header(7, 1, counter=True)) as wire:
        for first, n in ((1, 1), (2, 100), (102, 3)):
            wire.inside.sock.sendall((struct.pack(">I", len(FRAME)) + FRAME) * n)
            for counter in range(first, first + n):
                assert wire.sock.recv(2000) == struct.pack(">III", 0x00030000, 7, counter) + FRAME


def test_l2tpv3_port_takes_nothing_from_strangers(lan: Lan) -> None:
    """The cookie alone is not enough: QEMU takes a frame from anybody, we do not."""
    with Wire(lan, Header(1, 7)) as wire, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        good = bytes.fromhex("00030000 00000007")
        stranger.sendto(good + frame(BROADCAST, mac(6)), wire.address)
        assert wire.drops_of(then=good + FRAME) == {}
        assert lan.counters(wire.port).rx_frames == 1


@pytest.mark.root
def test_raw_l2tpv3_port_takes_nothing_from_strangers_and_counts_what_is_no_session(lan: Lan) -> None:
    """Protocol 115 from another address does not reach us; session 0 is a message between daemons."""
    inside, _ = lan.peer()
    fd, options = open_l2tpv3(("127.0.0.1", 0), ("127.0.0.2", 0), Header(1, 7), udp=False)
    port = lan.engine.add_port(lan.switch, "l2tpv3", [fd], options, **port_settings())
    for source, session in (("127.0.0.3", 7), ("127.0.0.2", 0), ("127.0.0.2", 7)):
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, 115) as sock:
            sock.bind((source, 0))
            sock.sendto(struct.pack(">I", session) + FRAME, ("127.0.0.1", 0))
    assert inside.receive() == FRAME
    assert lan.counters(port).rx_frames == 2
    assert lan.counters(port).drops == {"bad_session": 1}


@pytest.mark.root
def test_raw_l2tpv3_port_steps_over_ip_options(lan: Lan) -> None:
    """The IP header says how long it is; QEMU takes it for 20 bytes."""
    inside, _ = lan.peer()
    fd, options = open_l2tpv3(("127.0.0.1", 0), ("127.0.0.2", 0), Header(1, 7), udp=False)
    lan.engine.add_port(lan.switch, "l2tpv3", [fd], options, **port_settings())
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 115) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([1] * 8))  # no-operation
        sock.bind(("127.0.0.2", 0))
        sock.sendto(struct.pack(">I", 7) + FRAME, ("127.0.0.1", 0))
    assert inside.receive() == FRAME


def test_options_that_python_would_not_pack_are_refused(lan: Lan) -> None:
    """The engine checks what it is given."""
    good = Header(1, 2).pack()
    for at, value in ((24, 3), (25, 9), (29, 2)):  # the sizes of cookies; the padding's high byte (of 512)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 9))
            options = good[:at] + bytes([value]) + good[at + 1 :]
            with pytest.raises(OSError, match="Invalid"):
                lan.engine.add_port(lan.switch, "l2tpv3", [sock.detach()], options, **port_settings())
    with pytest.raises(ValueError, match="options"):
        lan.engine.add_port(lan.switch, "l2tpv3", [0], good[:-1], **port_settings())
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with b, pytest.raises(OSError, match="family"):
        lan.engine.add_port(lan.switch, "l2tpv3", [a.detach()], good, **port_settings())


@pytest.mark.parametrize("side", ["udp", pytest.param("raw", marks=pytest.mark.root)])
def test_l2tpv3_port_takes_a_connected_socket(lan: Lan, side: str) -> None:
    """By its descriptor: frames pass both ways to a port that has opened its own."""
    a, b = ((f"127.0.0.{n}", free_udp_port() if side == "udp" else 0) for n in (1, 2))
    given, _ = open_l2tpv3(a, b, Header(5, 5), udp=side == "udp")
    there: dict[str, Any] = {"remote": ":".join(map(str, a)), "local": ":".join(map(str, b))}
    if side == "raw":
        there = {"remote": a[0], "local": b[0], "udp": False}
    with (
        Lan() as right,
        Serving(lan, L2tpv3Spec(fd=given, tx_session=5)) as one,
        Serving(right, spec(tx_session=5, **there)) as two,
    ):
        one.wait_up()
        two.wait_up()
        assert_frames_pass(lan.peer()[0], right.peer()[0], (60, 1514))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given)


def test_l2tpv3_port_refuses_descriptors_that_are_no_session(lan: Lan) -> None:
    """And closes them."""
    for fd, why in (
        (os.memfd_create("file"), "fd is not a socket"),
        (socket.socket(socket.AF_INET).detach(), "neither a UDP socket nor a raw one of IP protocol 115"),
        (socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(), "a socket that is not connected"),
    ):
        with Serving(lan, L2tpv3Spec(fd=fd, tx_session=1)) as serving:
            assert why in serving.wait_error()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
