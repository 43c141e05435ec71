"""The coordinator's side of the fabric's control channel."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from ..errors import FabricError
from ..model.lab import PortSettings, SwitchSettings
from .messages import (
    MAX_MESSAGE,
    AddNetwork,
    AddOutsidePort,
    AddPipe,
    AddPort,
    ConfigureNetwork,
    ConfigurePort,
    EndPort,
    FabricEvent,
    FdbEntry,
    FlushFdb,
    FromFabric,
    GetFdb,
    GetStats,
    LabUp,
    ListenRings,
    Operation,
    PortStats,
    RemoveFdbEntry,
    RemoveNetwork,
    RemovePipe,
    RemovePort,
    Reply,
    Request,
)

__all__ = ["FabricClient", "FabricEvent", "FdbEntry", "PortStats"]

_SWITCH_DEFAULTS, _PORT_DEFAULTS = SwitchSettings(), PortSettings()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FromFabric)


class _Pending:
    """A request whose answer, or the rest of it, is still to come."""

    def __init__(self, number: int, operation: Operation, fds: Sequence[int]) -> None:
        self.message = _encoder.encode(Request(number, operation))
        self.fds = fds
        self.stats: list[PortStats] = []
        self.fdb: list[FdbEntry] = []
        self.count = 0
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class FabricClient:
    """Talks to one fabric process over `sock`, our end of its control channel, which is closed with the client.

    Requests may be made concurrently; the fabric handles them in the order they were made. `on_event` is called for
    every port that ends by itself. All requests raise FabricError when the fabric refuses, naming network and port, or
    when it is gone.
    """

    def __init__(self, sock: socket.socket, on_event: Callable[[FabricEvent], None]) -> None:
        self._sock = sock
        self._on_event = on_event
        self._numbers = itertools.count()
        self._pending: dict[int, _Pending] = {}
        self._outbox: deque[_Pending] = deque()
        self._gone: str | None = "not opened"

    async def open(self) -> None:
        """Begin to listen to the fabric."""
        self._sock.setblocking(False)
        self._gone = None
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._readable)

    async def close(self) -> None:
        """Close the channel, upon which the fabric ends. Idempotent; requests under way fail."""
        self._lose("the lab is being taken down")

    async def add_network(
        self, name: str, kind: Literal["switch", "hub"], settings: SwitchSettings = _SWITCH_DEFAULTS
    ) -> None:
        """Make a switch or a hub."""
        await self._request(AddNetwork(name, kind, settings))

    async def configure_network(self, name: str, settings: SwitchSettings) -> None:
        """Change a switch's settings; what it has learnt is forgotten when it is to look at VLANs in another way."""
        await self._request(ConfigureNetwork(name, settings))

    async def remove_network(self, name: str) -> None:
        """Remove a network and its ports."""
        await self._request(RemoveNetwork(name))

    async def add_port(
        self,
        network: str,
        port: str,
        port_type: str,
        fds: Sequence[int],
        settings: PortSettings = _PORT_DEFAULTS,
        options: bytes = b"",
    ) -> None:
        """Make a port of `fds`, which are handed over: the caller's copies are closed, also on failure.

        `settings` hold from its first frame on; `options` are those of its type, as its C file wants them.
        """
        try:
            await self._request(AddPort(network, port, port_type, settings, options), fds)
        finally:
            for fd in fds:
                os.close(fd)

    async def add_outside_port(
        self,
        network: str,
        port: str,
        spec: dict[str, Any],
        settings: PortSettings = _PORT_DEFAULTS,
        fds: Sequence[int] = (),
    ) -> None:
        """Have the fabric serve a port that faces outside the lab; `spec` holds a port spec's fields and its type.

        `fds` stand, in their order, for the descriptors that the fields name (ports/descriptors.py); they are handed
        over. Returns once the port listens, or has begun to connect.
        """
        try:
            await self._request(AddOutsidePort(network, port, spec, settings), fds)
        finally:
            for fd in fds:
                os.close(fd)

    async def configure_port(self, network: str, port: str, settings: PortSettings) -> None:
        """Change a port's settings; those of one that faces outside hold for all its peers, now and later."""
        await self._request(ConfigurePort(network, port, settings))

    async def add_pipe(self, pipe: str, fds: tuple[int, int]) -> None:
        """Join two ring clients directly; `fds` are the control sockets of both, which are handed over."""
        try:
            await self._request(AddPipe(pipe), fds)
        finally:
            for fd in fds:
                os.close(fd)

    async def remove_pipe(self, pipe: str) -> None:
        """Forget what nobody has opened of a pipe."""
        await self._request(RemovePipe(pipe))

    async def listen_rings(self, listener: socket.socket) -> None:
        """Let clients open ring ports by name over `listener`, a listening SOCK_SEQPACKET socket; it is handed over."""
        with listener:
            await self._request(ListenRings(), [listener.fileno()])

    async def remove_port(self, network: str, port: str) -> None:
        """Remove a port; its peer is disconnected."""
        await self._request(RemovePort(network, port))

    async def end_port(self, network: str, port: str, reason: str) -> None:
        """Close a port whose peer has gone for `reason`; it stays, with its counters, until it is removed."""
        await self._request(EndPort(network, port, reason))

    async def lab_up(self) -> None:
        """Tell that every node of the lab is ready."""
        await self._request(LabUp())

    async def stats(self) -> list[PortStats]:
        """Return the counters of all ports, in order of network and port."""
        return (await self._request(GetStats())).stats

    async def fdb(self, network: str) -> list[FdbEntry]:
        """Return the addresses `network` knows, in order of VLAN and address."""
        return (await self._request(GetFdb(network))).fdb

    async def remove_fdb_entry(self, network: str, mac: str, vlan: int) -> None:
        """Forget an address that was learnt."""
        await self._request(RemoveFdbEntry(network, mac, vlan))

    async def flush_fdb(self, network: str, *, port: str | None = None, vlan: int | None = None) -> int:
        """Forget the addresses that were learnt, or only those of a port, of a VLAN, or of both; return how many."""
        return (await self._request(FlushFdb(network, port, vlan))).count

    async def _request(self, operation: Operation, fds: Sequence[int] = ()) -> _Pending:
        if self._gone is not None:
            raise FabricError(self._gone)
        number = next(self._numbers)
        pending = self._pending[number] = _Pending(number, operation, fds)
        try:
            self._outbox.append(pending)
            if len(self._outbox) == 1:
                self._flush()
            await pending.answer
        finally:
            self._pending.pop(number, None)
            if pending in self._outbox:
                self._outbox.remove(pending)
        return pending

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._outbox:
            pending = self._outbox[0]
            try:
                socket.send_fds(self._sock, [pending.message], list(pending.fds))
            except BlockingIOError:
                loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError as error:
                if isinstance(error, (BrokenPipeError, ConnectionError)):
                    self._lose("the fabric is gone")
                    return
                if not pending.answer.done():
                    pending.answer.set_exception(FabricError(f"the fabric could not be asked: {error.strerror}"))
            self._outbox.popleft()
        if self._gone is None:
            loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        while self._gone is None:
            try:
                data = self._sock.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(f"the fabric is gone: {error.strerror}")
                return
            if not data:
                self._lose("the fabric is gone")
                return
            message = _decoder.decode(data)
            if isinstance(message, FabricEvent):
                self._on_event(message)
            else:
                self._answered(message)

    def _answered(self, reply: Reply) -> None:
        pending = self._pending.get(reply.number)
        if pending is None or pending.answer.done():
            return  # whoever asked was cancelled
        pending.stats += reply.stats
        pending.fdb += reply.fdb
        pending.count = reply.count
        if reply.error is not None:
            pending.answer.set_exception(FabricError(reply.error))
        elif not reply.more:
            pending.answer.set_result(None)

    def _lose(self, reason: str) -> None:
        if self._sock.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock.fileno())
        loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._gone = reason
        self._outbox.clear()
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(FabricError(reason))
