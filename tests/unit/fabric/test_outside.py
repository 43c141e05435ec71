"""Ports that face outside: what becomes of one whose type, peer or end is not as it should be."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from vswitch.errors import FabricError
from vswitch.fabric.outside import OutsidePort
from vswitch.ports.port import Attach, Status
from vswitch.ports.stream import StreamSpec

from ..ports.served import Served
from ..ports.vde_peers import ask
from .lan import Lan
from .running import Fabric, run, within

SPEC = StreamSpec(listen="127.0.0.1:1")


def test_a_mistake_in_a_port_type_is_the_answer(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked for the port would wait for ever."""

    async def serve(self: StreamSpec, attach: Attach, status: Status) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(StreamSpec, "serve", serve)
    with pytest.raises(FabricError, match="internal error: ZeroDivisionError"), Served(lan, SPEC):
        pass


def test_a_mistake_in_a_port_type_is_that_ports_alone(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(self: StreamSpec, attach: Attach, status: Status) -> None:
        status("listening")
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(StreamSpec, "serve", serve)
    with Served(lan, SPEC) as served:
        served.wait_for("p", "error", "internal error")


def test_a_reason_is_short_and_can_be_encoded(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(self: StreamSpec, attach: Attach, status: Status) -> None:
        status("listening")
        status("listening", "\udcff" + "x" * 5000)
        await asyncio.Event().wait()

    monkeypatch.setattr(StreamSpec, "serve", serve)
    with Served(lan, SPEC) as served:
        served.wait_for("p", "listening", "xxx")
        (reason,) = [reason for _, _, reason in served.events if reason]
        assert len(reason) == 300
        assert reason.startswith("\\udcff")


def test_a_port_that_is_being_removed_takes_no_peer(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that came just before may ask for one just after."""
    refused: list[str] = []

    async def serve(self: StreamSpec, attach: Attach, status: Status) -> None:
        status("listening")
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await attach("stream", [], "#1")
            except FabricError as error:
                refused.append(str(error))

    monkeypatch.setattr(StreamSpec, "serve", serve)
    with Served(lan, SPEC):
        pass
    assert refused == ["port p is gone"]


def test_a_port_removed_before_it_was_there_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str | None] = []

    async def main() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def serve(self: StreamSpec, attach: Attach, status: Status) -> None:
            begun.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(StreamSpec, "serve", serve)
        fields = msgspec.to_builtins(SPEC)
        port = OutsidePort("p", fields, [], Mock(), Mock(), answers.append, Mock(), asyncio.Event())
        await within(begun.wait())
        port.stop(ended.set)
        await within(ended.wait())

    asyncio.run(main())
    assert answers == ["it was removed before it was there"]


def test_a_peers_mistake_is_shown_as_an_error(lan: Lan, runtime_dir: Path) -> None:
    """Not as if it had only hung up."""
    path = runtime_dir / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with Served(lan, StreamSpec(connect=f"unix:{path}", reconnect=0.0)) as served:
            client, _ = server.accept()
            with client:
                client.sendall(struct.pack(">I", 0xFFFFFFFF))
                engine_said = served.wait_for("p", "error")
                served.wait_for("p", "error", after=engine_said)


def test_a_name_that_is_no_text_is_told_and_harms_nobody(runtime_dir: Path) -> None:
    """A path is any bytes; what is told of it must be text."""
    directory = runtime_dir / "ctl.d"
    request = struct.pack("=IIIH108s", 0xFEEDFACE, 3, 0, socket.AF_UNIX, b"/tmp/\xff\xfe.sock")

    async def body(fabric: Fabric) -> None:
        await fabric.client.add_outside_port("lan", "v", {"type": "vde", "listen": str(directory)})
        for _ in range(2):
            with ask(directory, request) as control:
                assert await asyncio.to_thread(control.recv, 1) == b""
        assert "\\udcff" in (await within(fabric.events.get())).reason
        (row,) = await within(fabric.client.stats())
        assert (row.port, row.state) == ("v", "listening")

    run(body)
