"""Datagram ports: what a lab file may say, and QEMU as the peer over UDP and unix sockets."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.qemu_converter import QemuConverter, needs_qemu, qemu_peer
from vswitch.namespace import visiting
from vswitch.ports.datagrams import open_connected
from vswitch.ports.dgram import DgramSpec

from ..fabric.lan import Lan
from ..fabric.peers import BROADCAST, frame, framed, mac
from .namespaces import TIMEOUT, Namespace
from .passing import SIZES, UDP_MAX, assert_frames_pass, free_udp_port
from .serving import Serving


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (DgramSpec(local="127.0.0.1:1", remote="127.0.0.1:2"), None),
        (DgramSpec(local="[::1]:1", remote="[::1]:2"), None),
        (DgramSpec(local="unix:/a", remote="unix:/b"), None),
        (DgramSpec(fd=5), None),
        (DgramSpec(), "give both local and remote, or fd"),
        (DgramSpec(local="unix:/a"), "give both"),
        (DgramSpec(local="unix:/a", remote="unix:/b", fd=5), "give either fd"),
        (DgramSpec(local="unix:/a", remote="127.0.0.1:1"), "of one kind"),
        (DgramSpec(local="unix:/a", remote="unix:/a"), "are the same"),
        (DgramSpec(local="unix:a", remote="unix:/a"), "absolute path"),
        (DgramSpec(local="127.0.0.1", remote="127.0.0.1:2"), "is not an address"),
        (DgramSpec(local="127.0.0.1:1", remote="230.0.0.1:2"), "type: mcast"),
    ],
)
def test_dgram_spec_says_what_is_wrong(spec: DgramSpec, problem: str | None) -> None:
    """Addresses are checked before the lab starts."""
    problems = spec.problems()
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0])


@needs_qemu
def test_dgram_port_talks_to_qemu_over_udp(lan: Lan) -> None:
    """Every size UDP carries passes both ways; what it does not carry is counted."""
    inside, _ = lan.peer()
    ours, theirs = free_udp_port(), free_udp_port()
    netdev = f"dgram,local.type=inet,local.host=127.0.0.1,local.port={theirs}"
    netdev += f",remote.type=inet,remote.host=127.0.0.1,remote.port={ours}"
    spec = DgramSpec(local=f"127.0.0.1:{ours}", remote=f"127.0.0.1:{theirs}")
    with qemu_peer(netdev) as beyond, Serving(lan, spec) as serving:
        port = serving.wait_up()
        assert_frames_pass(inside, beyond, tuple(size for size in SIZES if size <= UDP_MAX))
        inside.send(frame(BROADCAST, mac(1), size=UDP_MAX + 1))
        inside.send(frame(BROADCAST, mac(1), b"next"))
        assert beyond.receive() == frame(BROADCAST, mac(1), b"next")
        assert lan.counters(port).drops == {"too_long": 1}


def test_two_dgram_ports_talk_over_ipv6() -> None:
    """Which QEMU's netdev does not."""
    a, b = (f"[::1]:{free_udp_port('::1')}" for _ in range(2))
    with (
        Lan() as left,
        Lan() as right,
        Serving(left, DgramSpec(local=a, remote=b)) as one,
        Serving(right, DgramSpec(local=b, remote=a)) as two,
    ):
        one.wait_up()
        two.wait_up()
        assert_frames_pass(left.peer()[0], right.peer()[0], tuple(size for size in SIZES if size <= UDP_MAX))


@needs_qemu
def test_dgram_port_talks_to_qemu_socket_udp(lan: Lan) -> None:
    """The older netdev speaks the same."""
    inside, _ = lan.peer()
    ours, theirs = free_udp_port(), free_udp_port()
    spec = DgramSpec(local=f"127.0.0.1:{ours}", remote=f"127.0.0.1:{theirs}")
    with (
        qemu_peer(f"socket,udp=127.0.0.1:{ours},localaddr=127.0.0.1:{theirs}") as beyond,
        Serving(lan, spec) as serving,
    ):
        serving.wait_up()
        assert_frames_pass(inside, beyond, (14, 60, 1514, 65507))


def unix_netdev(local: Path, remote: Path) -> str:
    return f"dgram,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"


def unix_spec(local: Path, remote: Path) -> DgramSpec:
    return DgramSpec(local=f"unix:{local}", remote=f"unix:{remote}")


@needs_qemu
def test_dgram_port_talks_to_qemu_over_unix_sockets_also_after_it_was_killed(lan: Lan, tmp_path: Path) -> None:
    """Every size passes; a QEMU that comes late is found, and one that comes again after SIGKILL."""
    inside, _ = lan.peer()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with Serving(lan, unix_spec(ours, theirs)) as serving:
        serving.wait_for("connecting")
        for times in (1, 2, 3):
            with qemu_peer(unix_netdev(theirs, ours)) as beyond:
                serving.wait_up(times)
                assert_frames_pass(inside, beyond, SIZES)
            if times == 1:  # found without anything being sent to it, the second time by its refusal
                serving.wait_for("connecting")
            else:
                inside.send(frame(BROADCAST, mac(1)))
                serving.wait_for("connecting")
    assert not ours.exists()


@needs_qemu
def test_dgram_port_notices_that_another_qemu_has_taken_its_peers_place(lan: Lan, tmp_path: Path) -> None:
    """A new socket under the old name, while the old one lives, is the peer from now on."""
    inside, _ = lan.peer()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with Serving(lan, unix_spec(ours, theirs)) as serving, qemu_peer(unix_netdev(theirs, ours)):
        serving.wait_up()
        with qemu_peer(unix_netdev(theirs, ours)) as beyond:
            serving.wait_up(2)
            assert_frames_pass(inside, beyond, (60, 1514))


def test_two_dgram_ports_talk_to_each_other_over_unix_sockets(tmp_path: Path) -> None:
    """Neither needs to be first; the files are gone afterwards."""
    a, b = tmp_path / "a", tmp_path / "b"
    with Lan() as left, Lan() as right, Serving(left, unix_spec(a, b)) as one:
        one.wait_for("connecting")
        with Serving(right, unix_spec(b, a)) as two:
            one.wait_up()
            two.wait_up()
            assert_frames_pass(left.peer()[0], right.peer()[0], SIZES)
    assert list(tmp_path.iterdir()) == []


def test_dgram_port_replaces_the_file_of_a_dead_process(lan: Lan, tmp_path: Path) -> None:
    """A file nobody has open is in nobody's way."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(tmp_path / "a"))
    with Serving(lan, unix_spec(tmp_path / "a", tmp_path / "b")) as serving:
        serving.wait_for("connecting")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("there", ["socket", "peered", "file", "directory"])
def test_dgram_port_replaces_nothing_else(lan: Lan, tmp_path: Path, there: str) -> None:
    """A socket that is in use, or anything but a socket, stays, and the error names it."""
    path = tmp_path / "a"
    with contextlib.ExitStack() as stack:
        if there == "file":
            path.write_text("mine")
        elif there == "directory":
            path.mkdir()
        else:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            sock.bind(str(path))
            if there == "peered":
                sock.connect(str(path))
        with Serving(lan, unix_spec(path, tmp_path / "b")) as serving:
            assert str(path) in serving.wait_error()
        assert path.exists()


def udp_socket() -> socket.socket:
    """A socket on the loopback device."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def test_dgram_port_takes_nothing_from_strangers_over_udp(lan: Lan) -> None:
    """Only what comes from `remote` is taken, by address and port."""
    inside, _ = lan.peer()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as friend, contextlib.ExitStack() as strangers:
        friend.bind(("127.0.0.1", 0))
        ours = free_udp_port()
        spec = DgramSpec(local=f"127.0.0.1:{ours}", remote=f"127.0.0.1:{friend.getsockname()[1]}")
        with Serving(lan, spec) as serving:
            port = serving.wait_up()
            for address in ("127.0.0.1", "127.0.0.2"):
                stranger = strangers.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                stranger.bind((address, 0))
                stranger.sendto(frame(BROADCAST, mac(6), b"strange"), ("127.0.0.1", ours))
            friend.sendto(b"", ("127.0.0.1", ours))
            friend.sendto(frame(BROADCAST, mac(7), b"friend"), ("127.0.0.1", ours))
            assert inside.receive() == frame(BROADCAST, mac(7), b"friend")
            assert lan.counters(port).rx_frames == 2
            assert lan.counters(port).drops == {"runt": 1}


def test_socket_takes_nothing_from_strangers_who_came_before_it_was_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between bind() and connect() anybody's datagrams are queued."""
    with udp_socket() as friend, udp_socket() as stranger:

        class Awaited(socket.socket):
            """A socket the stranger has been waiting for."""

            def connect(self, address: Any) -> None:
                for word in (b"a", b"", b"b"):
                    stranger.sendto(word, self.getsockname())
                assert select.select([self], [], [], TIMEOUT)[0]
                super().connect(address)

        local = ("127.0.0.1", free_udp_port())
        monkeypatch.setattr(socket, "socket", Awaited)
        with open_connected(socket.AF_INET, socket.SOCK_DGRAM, 0, local, friend.getsockname()) as sock:
            friend.sendto(b"friend", local)
            assert select.select([sock], [], [], TIMEOUT)[0]
            assert sock.recv(100) == b"friend"
            with pytest.raises(BlockingIOError):
                sock.recv(100)


def test_dgram_port_outlives_a_udp_peer_that_is_not_there(lan: Lan) -> None:
    """Refusals are counted, and end nothing: the peer is heard when it comes."""
    inside, _ = lan.peer()
    ours, theirs = free_udp_port(), free_udp_port()
    with Serving(lan, DgramSpec(local=f"127.0.0.1:{ours}", remote=f"127.0.0.1:{theirs}")) as serving:
        port = serving.wait_up()
        while not lan.counters(port).drops.get("refused"):
            inside.send(frame(BROADCAST, mac(1), b"nobody"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.settimeout(TIMEOUT)
            peer.bind(("127.0.0.1", theirs))
            inside.send(frame(BROADCAST, mac(1), b"somebody"))
            while b"somebody" not in peer.recv(100):
                pass
            peer.sendto(frame(BROADCAST, mac(2)), ("127.0.0.1", ours))
            assert inside.receive() == frame(BROADCAST, mac(2))
        assert lan.counters(port).state == "up"


def test_dgram_port_counts_what_the_kernel_dropped(lan: Lan) -> None:
    """Frames that came faster than they were read are not lost silently."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as b:
        for sock in (a, b):
            sock.bind(("127.0.0.1", 0))
        a.connect(b.getsockname())
        b.connect(a.getsockname())
        for _ in range(1000):
            b.send(frame(BROADCAST, mac(9), size=9000))
        port = lan.engine.add_port(lan.switch, "dgram", [a.detach()])
        while not (missed := lan.counters(port).drops.get("missed", 0)):  # looked at once a second
            select.select([], [], [], 0.01)
        assert missed + lan.counters(port).rx_frames == 1000


@contextlib.contextmanager
def descriptor(kind: socket.SocketKind = socket.SOCK_DGRAM) -> Iterator[tuple[int, socket.socket]]:
    """A descriptor to give away, and the socket it is connected to."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with theirs:
        theirs.settimeout(TIMEOUT)
        yield ours.detach(), theirs


@needs_qemu
def test_dgram_port_of_a_descriptor_talks_to_qemu(lan: Lan) -> None:
    """QEMU has the other end of a socket pair."""
    inside, _ = lan.peer()
    with descriptor() as (fd, theirs), Serving(lan, DgramSpec(fd=fd)) as serving:
        serving.wait_up()
        with qemu_peer(f"dgram,local.type=fd,local.str={theirs.fileno()}", fds=[theirs.fileno()]) as beyond:
            assert_frames_pass(inside, beyond, SIZES)


def test_dgram_port_of_a_wrong_descriptor_says_so(lan: Lan) -> None:
    """A stream socket and one without a peer are refused."""
    with descriptor(socket.SOCK_STREAM) as (fd, _), Serving(lan, DgramSpec(fd=fd)) as serving:
        assert serving.wait_error() == "fd is not a datagram socket"
    fd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()
    with Serving(lan, DgramSpec(fd=fd)) as serving:
        assert "not connected" in serving.wait_error()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    with Serving(lan, DgramSpec(fd=os.memfd_create("file"))) as serving:
        assert serving.wait_error() == "fd is not a socket"


@needs_qemu
def test_an_empty_frame_does_not_reach_qemu(lan: Lan, tmp_path: Path) -> None:
    """QEMU would never receive again: runts of a stream peer do not leave by a datagram port."""
    inside, _ = lan.peer()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with Serving(lan, unix_spec(ours, theirs)) as serving, qemu_peer(unix_netdev(theirs, ours)) as beyond:
        serving.wait_up()
        inside.sock.sendall(bytes(4) * 10)
        assert_frames_pass(inside, beyond, (14, 60))


@needs_qemu
def test_qemu_joins_a_dgram_port_with_a_stream_port(lan: Lan, tmp_path: Path) -> None:
    """Through QEMU's hub, a frame of one of our ports arrives at another, and both switches stay apart."""
    with Lan() as other, descriptor() as (fd, theirs):
        ours, qemus = socket.socketpair()
        netdevs = [f"dgram,local.type=fd,local.str={theirs.fileno()}", f"socket,fd={qemus.fileno()}"]
        with qemus, Serving(lan, DgramSpec(fd=fd)) as serving:
            serving.wait_up()
            other.engine.add_port(other.switch, "stream", [ours.detach()])
            with QemuConverter(*netdevs, fds=[theirs.fileno(), qemus.fileno()]):
                assert_frames_pass(lan.peer()[0], other.peer()[0], SIZES)


UDP_SEGMENT, UDP_GRO = 103, 104


@contextlib.contextmanager
def udp_port(lan: Lan) -> Iterator[tuple[int, socket.socket]]:
    """A UDP port and the socket of its peer."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
    ):
        for sock in (ours, far):
            sock.bind(("127.0.0.1", 0))
        ours.connect(far.getsockname())
        far.connect(ours.getsockname())
        far.settimeout(TIMEOUT)
        yield lan.engine.add_port(lan.switch, "dgram", [ours.detach()]), far


@pytest.mark.parametrize("last", [14, 13, 60, 100])
def test_dgram_port_takes_a_lump_of_datagrams_apart(lan: Lan, last: int) -> None:
    """What a sender with UDP_SEGMENT hands to the kernel at once may come in so; each frame stays itself."""
    inside, _ = lan.peer()
    with udp_port(lan) as (port, peer):
        peer.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 100)
        frames = [frame(BROADCAST, mac(number), b"%d" % number, size=100) for number in range(40)]
        frames.append(frame(BROADCAST, mac(41))[:last] if last < 60 else frame(BROADCAST, mac(41), size=last))
        for _ in range(10):
            peer.send(b"".join(frames))
        for data in frames * 10:
            if len(data) >= 14:
                assert inside.receive() == data
        counters = lan.counters(port)
        assert counters.rx_frames == 410
        assert counters.drops == ({} if last >= 14 else {"runt": 10})


def test_dgram_port_sends_frames_of_one_size_as_a_lump(lan: Lan) -> None:
    """A receiver that knows UDP_GRO gets it whole, any other each datagram by itself."""
    inside, _ = lan.peer()
    sizes = [60] * 70 + [50] + [1514] * 30 + [60, 61, 60, 9000, 9000, 14]
    frames = [frame(BROADCAST, mac(1), b"%d" % number, size=size) for number, size in enumerate(sizes)]
    frames[-1] = frames[-1][:14]
    with udp_port(lan) as (port, peer):
        inside.sock.sendall(b"".join(framed(data) for data in frames))
        assert [peer.recv(70000) for _ in frames] == frames
        peer.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
        inside.sock.sendall(b"".join(framed(data) for data in frames))
        whole = b"".join(frames)
        got, lumps = b"", 0
        while len(got) < len(whole):
            data, controls, _, _ = peer.recvmsg(70000, 100)
            got += data
            lumps += bool(controls)
        assert got == whole
        assert lumps > 0
        assert lan.counters(port).tx_frames == 2 * len(frames)
        assert lan.counters(port).drops == {}


@pytest.mark.root
def test_dgram_port_sends_what_is_longer_than_the_mtu_in_fragments() -> None:
    """The kernel does not take a lump of such datagrams."""
    with Namespace() as namespace, visiting(namespace.fd), Lan() as lan:
        namespace.ip("link set lo mtu 1500")
        inside, _ = lan.peer()
        with udp_port(lan) as (port, peer):
            for size in (1472, 1514, 9000, 60):
                frames = [frame(BROADCAST, mac(1), b"%d" % number, size=size) for number in range(10)]
                inside.sock.sendall(b"".join(framed(data) for data in frames))
                assert [peer.recv(70000) for _ in frames] == frames
            assert lan.counters(port).drops == {}
            assert lan.counters(port).tx_frames == 40
