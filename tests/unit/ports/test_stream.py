"""Stream ports: what a lab file may say, and QEMU itself as the peer."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.qemu_converter import needs_qemu, qemu_peer
from vswitch.errors import FabricError
from vswitch.fabric.client import FabricEvent
from vswitch.ports.address import split_host_port
from vswitch.ports.port import load_port_types
from vswitch.ports.stream import StreamSpec

from ..fabric.peers import BROADCAST, Peer, exchange, frame, join, mac
from ..fabric.running import Fabric, run, within


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:7001", ("127.0.0.1", 7001)), ("[::1]:1", ("::1", 1)), ("host.example:65535", ("host.example", 65535))],
)
def test_address_splits(text: str, expected: tuple[str, int]) -> None:
    """Host and port come apart at the last colon."""
    assert split_host_port(text) == expected


@pytest.mark.parametrize("text", ["", ":", "host", ":1", "host:", "host:0", "host:65536", "::1:7001", "h:-1", "h:1x"])
def test_address_that_is_none_is_refused(text: str) -> None:
    """What is expected is said."""
    with pytest.raises(ValueError, match="write host:port"):
        split_host_port(text)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (StreamSpec(listen="127.0.0.1:7001"), None),
        (StreamSpec(connect="unix:/run/x.sock"), None),
        (StreamSpec(), "exactly one of"),
        (StreamSpec(listen="a:1", connect="b:1"), "exactly one of"),
        (StreamSpec(listen="a:1", fd=5), "exactly one of"),
        (StreamSpec(fd=5), None),
        (StreamSpec(fd=5, clients="many"), None),
        (StreamSpec(connect="a:1", clients="one"), "clients is for"),
        (StreamSpec(listen="a:1", reconnect=1.0), "reconnect is for"),
        (StreamSpec(connect="a:1", reconnect=3601.0), "at most 1h"),
        (StreamSpec(listen="a:1", keepalive=3601.0), "at most 1h"),
        (StreamSpec(listen="unix:@name"), None),
        (StreamSpec(listen="unix:@"), "unix:@ and a name"),
        (StreamSpec(listen="unix:@" + "x" * 108), "107 bytes"),
        (StreamSpec(listen="unix:relative"), "absolute path"),
        (StreamSpec(listen="unix:/" + "x" * 107), "107 bytes"),
        (StreamSpec(connect="nowhere"), "is not an address"),
    ],
)
def test_stream_spec_says_what_is_wrong(spec: StreamSpec, problem: str | None) -> None:
    """Addresses are checked before the lab starts."""
    problems = spec.problems()
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0])


def test_port_types_are_found_by_import() -> None:
    """A file in the package is enough to add a type."""
    assert load_port_types()["stream"] is StreamSpec


def free_port(host: str) -> int:
    """A TCP port nobody has now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        return int(server.getsockname()[1])


class Place(NamedTuple):
    """One address: as our port spec has it, and as QEMU's stream and, where it can, socket netdevs do."""

    ours: str
    stream: str
    socket: str | None = None

    @classmethod
    def new(cls, kind: str, directory: Path) -> Place:
        """A free one."""
        if kind in ("127.0.0.1", "::1"):
            port = free_port(kind)
            ours = f"[{kind}]:{port}" if ":" in kind else f"{kind}:{port}"
            return cls(ours, f"addr.type=inet,addr.host={kind},addr.port={port}", ours if "." in kind else None)
        if kind == "abstract":
            name = f"vst-{secrets.token_hex(8)}"
            return cls(f"unix:@{name}", f"addr.type=unix,addr.path={name},addr.abstract=on")
        return cls(f"unix:{directory}/s", f"addr.type=unix,addr.path={directory}/s")


KINDS = ("127.0.0.1", "::1", "unix", "abstract")


def netdevs(role: str) -> list[tuple[str, str]]:
    """Every kind of address, with each of QEMU's netdevs that can have it."""
    return [(kind, "stream") for kind in KINDS] + [("127.0.0.1", role)]


@needs_qemu
@pytest.mark.parametrize(("kind", "netdev"), netdevs("socket"))
def test_qemu_connects_to_a_listening_port(kind: str, netdev: str, runtime_dir: Path) -> None:
    """Frames of every size pass both ways, unchanged; a second machine is served beside the first."""

    async def body(fabric: Fabric) -> None:
        place = Place.new(kind, runtime_dir)
        await fabric.client.add_outside_port("lan", "p", {"type": "stream", "listen": place.ours})
        inside = await fabric.peer("lan", "a")
        option = f"socket,connect={place.socket}" if netdev == "socket" else f"stream,server=off,{place.stream}"
        for number in (1, 2):
            with qemu_peer(option) as beyond:
                assert (await within(fabric.events.get())).port == f"p#{number}"
                join(inside, beyond)
                exchange(inside, beyond)
            assert (await within(fabric.events.get())).state == "closed"
        inside.close()

    run(body)


@needs_qemu
@pytest.mark.parametrize(("kind", "netdev"), netdevs("socket"))
def test_port_connects_to_a_listening_qemu(kind: str, netdev: str, runtime_dir: Path) -> None:
    """The port is there first, tries until it is answered, says why it is not, and comes back to the next machine."""

    async def body(fabric: Fabric) -> None:
        place = Place.new(kind, runtime_dir)
        await fabric.client.add_outside_port("lan", "p", {"type": "stream", "connect": place.ours, "reconnect": 0.2})
        inside = await fabric.peer("lan", "a")
        option = f"socket,listen={place.socket}" if netdev == "socket" else f"stream,server=on,{place.stream}"
        for _ in range(2):
            event = await until(fabric, "connecting", with_reason=True)
            assert event.reason.startswith(f"connecting to {place.ours}: ")
            rows = {row.port: row for row in await fabric.client.stats()}
            assert (rows["p"].state, rows["p"].reason) == ("connecting", event.reason)
            with qemu_peer(option) as beyond:
                await until(fabric, "up")
                # From our side: QEMU 7.2 crashes when a frame for its client comes while it is still accepting it.
                join(beyond, inside)
                exchange(inside, beyond)
        inside.close()

    run(body)


async def until(fabric: Fabric, state: str, *, with_reason: bool = False) -> FabricEvent:
    """The next event that says `state`."""
    while True:
        event = await within(fabric.events.get())
        if event.state == state and (event.reason or not with_reason):
            return event


@needs_qemu
@pytest.mark.parametrize("netdev", ["socket,fd={}", "stream,server=off,addr.type=fd,addr.str={}"])
def test_port_and_qemu_take_the_ends_of_a_socket_pair(netdev: str) -> None:
    """Either side is given its end as a descriptor."""

    async def body(fabric: Fabric) -> None:
        inside = await fabric.peer("lan", "a")
        ours, theirs = socket.socketpair()
        with theirs, qemu_peer(netdev.format(theirs.fileno()), fds=[theirs.fileno()]) as beyond:
            theirs.close()
            await fabric.client.add_outside_port("lan", "p", {"type": "stream", "fd": 5}, fds=[ours.detach()])
            join(inside, beyond)
            exchange(inside, beyond)
        inside.close()

    run(body)


def test_port_for_one_client_serves_one_after_the_other() -> None:
    """It is the port itself; the next client is taken once the first is gone, and waits until then."""

    async def body(fabric: Fabric) -> None:
        inside = await fabric.peer("lan", "a")
        port = free_port("127.0.0.1")
        spec = {"type": "stream", "listen": f"127.0.0.1:{port}", "clients": "one"}
        await fabric.client.add_outside_port("lan", "p", spec)
        first, second = (Peer(socket.create_connection(("127.0.0.1", port))) for _ in range(2))
        there = "{}:{}".format(*first.sock.getsockname())
        assert await within(fabric.events.get()) == FabricEvent("lan", "p", "up", there)
        second.send(frame(BROADCAST, mac(2), b"second"))
        exchange(inside, first, (60, 1514))
        first.close()
        assert [(await within(fabric.events.get())).state for _ in range(3)] == ["closed", "listening", "up"]
        assert inside.receive() == frame(BROADCAST, mac(2), b"second")
        assert [row.port for row in await fabric.client.stats()] == ["a", "p"]
        second.close()
        assert [(await within(fabric.events.get())).state for _ in range(2)] == ["closed", "listening"]
        inside.close()

    run(body)


def test_port_that_is_not_to_reconnect_ends_with_its_connection() -> None:
    """Not being able to connect at all is an error of the request."""

    async def body(fabric: Fabric) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            spec = {"type": "stream", "connect": address, "reconnect": 0.0}
            await fabric.client.add_outside_port("lan", "p", spec)
            accepted, _ = await asyncio.to_thread(server.accept)
        assert (await within(fabric.events.get())).state == "up"
        accepted.close()
        for _ in range(2):  # the peer's port, then the port that had it
            event = await within(fabric.events.get())
            assert (event.state, event.reason) == ("closed", "the peer closed the connection")
        with pytest.raises(FabricError, match=f"network lan, port q: connecting to {address}: Connection refused"):
            await fabric.client.add_outside_port("lan", "q", spec)

    run(body)


@pytest.mark.parametrize(("keepalive", "expected"), [(None, (1, 10, 5, 30000)), (2.0, (1, 2, 1, 6000)), (0.0, (0,))])
def test_half_open_tcp_peers_are_noticed(keepalive: float | None, expected: tuple[int, ...]) -> None:
    """A TCP port asks for keepalives, a limit on unacknowledged data, and no delay."""

    async def body(fabric: Fabric) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
        with client, accepted:
            spec = {"type": "stream", "fd": 5} | ({} if keepalive is None else {"keepalive": keepalive})
            await fabric.client.add_outside_port("lan", "p", spec, fds=[os.dup(accepted.fileno())])
            asked = [accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
            tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
            asked += [accepted.getsockopt(socket.IPPROTO_TCP, option) for option in tcp]
            assert tuple(asked[: len(expected)]) == expected
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    run(body)
