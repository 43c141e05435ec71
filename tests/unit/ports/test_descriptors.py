"""Descriptors named in a lab file: found, counted, checked, and replaced on their way to the port."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta

from vswitch.errors import FabricError, LabError, LabFileError
from vswitch.model import load
from vswitch.ports.descriptors import MAX_OF_PORT, replace_descriptors
from vswitch.ports.port import Descriptor, PortSpec

from ..fabric.peers import BROADCAST, Peer, frame, mac
from ..fabric.running import Fabric, run, within

NODES = "nodes: {a: {kind: netns}}, links: [[a:eth0, lan0]]"


class Many(PortSpec, frozen=True, kw_only=True, tag="many"):
    """A spec that names descriptors in every way there is."""

    one: Descriptor | None = None
    queues: Annotated[list[Descriptor], Meta(max_length=4)] | None = None
    number: int = 5
    pair: tuple[Descriptor, ...] = ()


def test_descriptors_are_found_by_their_type_and_replaced_in_order() -> None:
    """Lists are looked into; other numbers stay as they are."""
    seen = []

    def replace(number: int, path: tuple[str | int, ...]) -> int:
        seen.append((number, path))
        return number + 100

    fields = {"type": "many", "pair": [8, 9], "number": 5, "queues": [5, 6], "one": 7}
    assert replace_descriptors(Many, fields, replace) == {
        "type": "many", "one": 107, "queues": [105, 106], "number": 5, "pair": [108, 109]
    }  # fmt: skip
    assert seen == [(7, ("one",)), (5, ("queues", 0)), (6, ("queues", 1)), (8, ("pair", 0)), (9, ("pair", 1))]
    assert replace_descriptors(Many, {"type": "many", "one": None}, replace) == {"type": "many", "one": None}


def test_descriptor_must_have_come_from_our_caller(tmp_path: Path) -> None:
    """One that is not open, and one of our own, are mistakes with a place in the file."""
    with socket.socket() as sock:
        for fd, inheritable in ((sock.fileno(), False), (1000, False), (sock.fileno(), True)):
            os.set_inheritable(sock.fileno(), inheritable)
            text = f"{{networks: {{lan0: {{ports: {{p: {{type: stream, fd: {fd}}}}}}}}}, {NODES}}}"
            load("lab.yaml", text=text, env={})  # whoever only looks at the file need not have it
            if inheritable:
                load("lab.yaml", text=text, env={}, inherited=True)
                continue
            with pytest.raises(LabFileError) as caught:
                load("lab.yaml", text=text, env={}, inherited=True)
            assert caught.value.problems == [
                f"lab.yaml:1:50: networks.lan0.ports.p.fd: descriptor {fd} is not open: "
                "it is to be handed to the lab up that is run"
            ]


def test_lab_and_port_have_a_limit_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than fit one message."""
    ports = {f"p{n}": {"type": "stream", "fd": n} for n in range(3, 258)}
    text = f"{{networks: {{lan0: {{ports: {ports}}}}}, {NODES}}}"
    with pytest.raises(LabError, match=r"networks\.lan0\.ports\.p256: brings the lab to more than 253 descriptors"):
        load("lab.yaml", text=text.replace("'", ""), env={})
    assert MAX_OF_PORT == 17


@pytest.mark.parametrize("kind", ["connected", "listening"])
def test_fabric_serves_a_descriptor_it_was_handed(kind: str) -> None:
    """A connected socket is a port; a listening one serves clients. The caller's copies are closed."""

    async def body(fabric: Fabric) -> None:
        inside = await fabric.peer("lan", "a")
        spec = {"type": "stream", "fd": 5}  # whatever it was called where the lab file was read
        if kind == "connected":
            outside, fd = Peer.pair()
            await fabric.client.add_outside_port("lan", "p", spec, fds=[fd])
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(fd)
            assert (await within(fabric.events.get())).port == "p"
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                address, fd = server.getsockname(), server.detach()
            await fabric.client.add_outside_port("lan", "p", spec, fds=[fd])
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(fd)
            outside = Peer(socket.create_connection(address))
            assert (await within(fabric.events.get())).port == "p#1"
        outside.send(frame(BROADCAST, mac(1)))
        assert inside.receive() == frame(BROADCAST, mac(1))
        inside.send(frame(mac(1), mac(2)))
        assert outside.receive() == frame(mac(1), mac(2))
        outside.close()
        assert (await within(fabric.events.get())).state == "closed"
        if kind == "connected":
            assert (await within(fabric.events.get())).reason == "the peer closed the connection"
            (row,) = [row for row in await fabric.client.stats() if row.port == "p"]
            assert (row.state, row.reason) == ("closed", "the peer closed the connection")
        inside.close()

    run(body)


def test_fabric_closes_descriptors_that_no_port_takes() -> None:
    """Refused, too many, too few: none of them stays open."""

    async def body(fabric: Fabric) -> None:
        open_before = _descriptors(fabric.process.pid)
        cases = [
            ({"type": "stream", "fd": 5, "listen": "127.0.0.1:1"}, 1, "exactly one of"),
            ({"type": "stream", "fd": 5, "nonsense": 1}, 1, "unknown field"),
            ({"type": "stream", "fd": 5}, 2, "more descriptors than"),
            ({"type": "stream", "fd": 5}, 0, "fd"),
            ({"type": "strem", "fd": 5}, 1, "unknown port type"),
            ({"type": "stream", "fd": 5}, 1, "neither listens nor is connected"),
            ({"type": "stream", "fd": 5, "connect": "127.0.0.1:1", "clients": "one"}, 1, "exactly one of"),
        ]
        for spec, count, reason in cases:
            fds = [socket.socket().detach() for _ in range(count)]
            with pytest.raises(FabricError, match=reason):
                await fabric.client.add_outside_port("lan", "p", spec, fds=fds)
        with pytest.raises(FabricError, match="not a stream socket"):
            await fabric.client.add_outside_port("lan", "p", {"type": "stream", "fd": 5}, fds=[os.open("/dev/null", 0)])
        with pytest.raises(FabricError, match="not a stream socket"):
            fd = socket.socket(type=socket.SOCK_DGRAM).detach()
            await fabric.client.add_outside_port("lan", "p", {"type": "stream", "fd": 5}, fds=[fd])
        assert _descriptors(fabric.process.pid) == open_before

    run(body)


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
