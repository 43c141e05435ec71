"""Packet ports as a lab file asks for them, served by a real fabric process in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vswitch.errors import FabricError
from vswitch.namespace import visiting
from vswitch.ports.packet import PacketSpec, open_packet

from ..fabric.lan import Lan
from ..fabric.peers import BROADCAST, frame, mac
from ..fabric.running import Fabric, run
from .namespaces import TIMEOUT, Namespace
from .serving import Serving

ROOT = pytest.mark.root
SIZES = (14, 42, 60, 64, 1514, 4096, 9014, 16000, 65535)


async def add(fabric: Fabric, **spec: Any) -> None:
    """Add a packet port `p`."""
    await fabric.client.add_outside_port("lan", "p", {"type": "packet", **spec})


def on_machine(host: Namespace) -> list[str]:
    """The command through which a fabric is started to which `host` is the machine."""
    return ["nsenter", f"--net=/proc/{host.pid}/ns/net"]


def add_veth(host: Namespace, beyond: Namespace, *, mtu: int = 1500) -> None:
    """A veth pair from `veth0` on the machine to `eth0` in `beyond`, up."""
    host.ip(f"link add veth0 mtu {mtu} type veth peer name eth0 netns {beyond.pid} mtu {mtu}")
    host.ip("link set veth0 up")
    beyond.ip("link set eth0 up")
    beyond.wait_up("eth0")
    host.wait_up("veth0")


@contextlib.contextmanager
def raw_socket(namespace: Namespace, device: str = "eth0") -> Iterator[socket.socket]:
    """A raw socket on `device` there."""
    with visiting(namespace.fd), socket.socket(fileno=open_packet(device, vnet_hdr=False)[0]) as raw:
        raw.settimeout(TIMEOUT)
        yield raw


def receive_from(raw: socket.socket, source: bytes) -> bytes:
    """The next frame that `source` has sent."""
    while (got := raw.recv(1 << 17))[6:12] != source:
        pass
    return got


@ROOT
@pytest.mark.parametrize("vnet_hdr", [True, False])
def test_frames_of_every_size_pass_both_ways(vnet_hdr: bool) -> None:
    """Byte for byte, through a device whose MTU allows it."""

    async def body(fabric: Fabric) -> None:
        peer = await fabric.peer("lan", "s")
        await add(fabric, interface="veth0", vnet_hdr=vnet_hdr)
        with raw_socket(beyond) as raw:
            for size in SIZES:
                sent = (BROADCAST + mac(1) + b"\x88\xb5" + os.urandom(size))[:size]
                raw.send(sent)
                while (got := peer.receive())[6:12] != mac(1):
                    pass  # what the stack says by itself
                assert got == sent
                peer.send(answer := sent[:6] + mac(2) + sent[12:])
                assert receive_from(raw, mac(2)) == answer
        peer.close()

    with Namespace() as host, Namespace() as beyond:
        add_veth(host, beyond, mtu=65521)
        run(body, on_machine(host))


@ROOT
def test_device_that_goes_is_waited_for() -> None:
    """The port says that it waits, and works again with a device of that name, as often as one comes."""

    async def next_event(fabric: Fabric) -> tuple[str, str]:
        event = await asyncio.wait_for(fabric.events.get(), TIMEOUT)
        return event.state, event.reason

    async def body(fabric: Fabric) -> None:
        await add(fabric, interface="veth0")
        peer = await fabric.peer("lan", "s")
        for _ in range(2):
            assert await next_event(fabric) == ("up", "device veth0")
            host.ip("link del veth0")
            assert await next_event(fabric) == ("closed", "the device is gone")
            assert (await next_event(fabric))[0] == "waiting"
            (row,) = [row for row in await fabric.client.stats() if row.port == "p"]
            assert row.state == "waiting"
            add_veth(host, beyond)
        assert await next_event(fabric) == ("up", "device veth0")
        with raw_socket(beyond) as raw:
            peer.send(frame(BROADCAST, mac(2)))
            assert receive_from(raw, mac(2)) == frame(BROADCAST, mac(2))
        peer.close()

    with Namespace() as host, Namespace() as beyond:
        add_veth(host, beyond)
        run(body, on_machine(host))


@ROOT
def test_promiscuous_for_as_long_as_the_port_is_there() -> None:
    """By default, and not if that is not wanted."""

    def promiscuity() -> str:
        lines = subprocess.check_output([*on_machine(host), "ip", "-d", "link", "show", "veth0"], text=True)
        return lines.split("promiscuity ")[1].split()[0]

    async def body(fabric: Fabric) -> None:
        await add(fabric, interface="veth0")
        assert promiscuity() == "1"
        await fabric.client.remove_port("lan", "p")
        assert promiscuity() == "0"
        await add(fabric, interface="veth0", promisc=False)
        assert promiscuity() == "0"

    with Namespace() as host, Namespace() as beyond:
        add_veth(host, beyond)
        run(body, on_machine(host))


@ROOT
@pytest.mark.parametrize("fanout", ["hash", "lb", "cpu", "rnd", "qm", "rollover"])
def test_fanout_gives_each_frame_to_one_socket(fanout: str) -> None:
    """Whatever the distribution, nothing comes twice, nothing is missing, and what leaves by it is not heard."""

    async def body(fabric: Fabric) -> None:
        peer = await fabric.peer("lan", "s")
        await add(fabric, interface="veth0", queues=4, fanout=fanout)
        with raw_socket(beyond) as raw:
            for number in range(200):
                raw.send(frame(BROADCAST, mac(100 + number % 20), number.to_bytes(2, "big")))
            seen: list[int] = []
            while len(seen) < 200:
                got = peer.receive()
                if got[12:14] == b"\x88\xb5":
                    seen.append(int.from_bytes(got[14:16], "big"))
            assert sorted(seen) == list(range(200))
            peer.send(frame(BROADCAST, mac(2)))
            assert receive_from(raw, mac(2)) == frame(BROADCAST, mac(2))
            with raw_socket(host, "veth0") as outgoing:
                outgoing.send(frame(BROADCAST, mac(4)))
            raw.send(frame(BROADCAST, mac(3)))
            while (got := peer.receive())[6:12] != mac(3):
                assert got[12:14] != b"\x88\xb5", "a frame came twice, or was on its way out"
        peer.close()

    with Namespace() as host, Namespace() as beyond:
        add_veth(host, beyond)
        run(body, on_machine(host))


@ROOT
def test_sockets_given_by_descriptor_are_used() -> None:
    """They stay bound to their device, wherever its namespace is; others are refused."""

    async def refuse(fabric: Fabric, sock: socket.socket, words: str) -> None:
        with pytest.raises(FabricError, match=words):
            await fabric.client.add_outside_port("lan", "q", {"type": "packet", "fd": 3}, fds=[sock.detach()])

    async def body(fabric: Fabric) -> None:
        peer = await fabric.peer("lan", "s")
        with visiting(host.fd):
            fds = open_packet("veth0", queues=2)
            loopback = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            loopback.bind(("lo", 3))
        await fabric.client.add_outside_port("lan", "p", {"type": "packet", "fds": [3, 4]}, fds=fds)
        with raw_socket(beyond) as raw:
            peer.send(frame(BROADCAST, mac(2)))
            assert receive_from(raw, mac(2)) == frame(BROADCAST, mac(2))
        await refuse(fabric, loopback, "device lo hands back every frame")
        await refuse(fabric, socket.socket(), "not a raw AF_PACKET socket")
        await refuse(fabric, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0), "of the socket carries no Ethernet")
        peer.close()

    with Namespace() as host, Namespace() as beyond:
        add_veth(host, beyond)
        run(body)


@ROOT
def test_mistakes_name_the_devices_there_are() -> None:
    """A device that is missing, one that is no Ethernet, and one that loops."""

    async def body(fabric: Fabric) -> None:
        with pytest.raises(
            FabricError, match="port p: there is no network device 'vet0'; known: lo, veth0; did you mean"
        ):
            await add(fabric, interface="vet0")
        with pytest.raises(FabricError, match="port p: device lo hands back every frame sent to it"):
            await add(fabric, interface="lo")
        assert await fabric.client.stats() == []

    with Namespace() as host, Namespace() as beyond:
        add_veth(host, beyond)
        run(body, on_machine(host))


@ROOT
def test_missing_right_is_named_with_its_cure() -> None:
    """Without CAP_NET_RAW there is no such socket."""

    async def body(fabric: Fabric) -> None:
        with pytest.raises(FabricError, match="need CAP_NET_RAW; run `lab up` as root"):
            await add(fabric, interface="veth0")

    with Namespace() as host, Namespace() as beyond:
        add_veth(host, beyond)
        run(body, [*on_machine(host), "setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "give exactly one of: interface, fd, fds"),
        ({"interface": "eth0", "fd": 3}, "give exactly one of: interface, fd, fds"),
        ({"fd": 3, "queues": 2, "promisc": False}, "leave out: queues, promisc"),
    ],
)
def test_keys_that_exclude_each_other(keys: dict[str, Any], words: str) -> None:
    """Said before anything is opened."""
    (problem,) = PacketSpec(**keys).problems()
    assert re.search(words, problem)


@pytest.mark.namespaces
@pytest.mark.timeout(300)
def test_packet_ports_of_a_file_need_no_root() -> None:
    """The above in an unprivileged user namespace; one kind of fanout stands for all."""
    if os.environ.get("VSWITCH_TEST_IN_USERNS"):
        pytest.skip("this is the inner run")
    command = [
        "unshare",
        "-Urn",
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "not fanout or hash",
        __file__,
    ]
    result = subprocess.run(
        command,
        env={**os.environ, "VSWITCH_TEST_IN_USERNS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed, 1 skipped" in result.stdout, result.stdout


def test_a_descriptor_that_is_no_socket_is_said_to_be_none(lan: Lan) -> None:
    """And nothing of it stays open."""
    fd = os.memfd_create("file")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Serving(lan, PacketSpec(fd=fd)) as serving:
        assert serving.wait_error() == "fd is not a socket"
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1
