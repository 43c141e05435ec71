"""The fabric process: carries out the coordinator's requests on the engine, and serves the ports that face outside.

Python does control only; frames never pass through it. When the coordinator's end of the control channel closes, for
whatever reason, its ports clean up, and the process ends, and everything it holds with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import FabricError
from ..model.lab import PortSettings, SwitchSettings
from ..ports.ring import RingSpec
from . import core
from .messages import (
    MAX_FDS,
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
    PortStats,
    RemoveFdbEntry,
    RemoveNetwork,
    RemovePipe,
    RemovePort,
    Reply,
    Request,
    batches,
)
from .outside import OutsidePort
from .ring_ports import RingPorts
from .settings import mac_number, mac_text, port_arguments, static_entries, switch_arguments

_CLEANING_UP = 40.0
"""Seconds that ports facing outside have to clean up at the end: longer than a script may take."""
_decoder = msgspec.msgpack.Decoder(Request)
_encoder = msgspec.msgpack.Encoder()


class _Network:
    """A switch or hub of the engine, and its ports by name: engine ids, or ports that face outside.

    `declared` has the settings of every port that was asked for by name, for whatever peers it has and will have;
    `settled` those the engine's ports have; `static` says which port has each static entry, by address and VLAN.
    """

    def __init__(self, switch: int, settings: SwitchSettings) -> None:
        self.switch = switch
        self.settings = settings
        self.ports: dict[str, int] = {}
        self.declared: dict[str, PortSettings] = {}
        self.settled: dict[str, PortSettings] = {}
        self.static: dict[tuple[int, int], str] = {}
        self.outside: dict[str, OutsidePort] = {}

    def engine_ports(self, name: str) -> list[str] | None:
        """The names of the engine's ports that `name` stands for; None when there is no such port."""
        if name in self.outside:
            return self.outside[name].attached
        if name in self.ports:
            return [name]
        return [] if name in self.declared else None


class Fabric:
    """Serves one control channel until it closes."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._engine = core.Engine()
        self._networks: dict[str, _Network] = {}
        self._names: dict[int, tuple[str, str]] = {}
        self._outbox: deque[bytes] = deque()
        self._closed = asyncio.Event()
        self._lab_up = asyncio.Event()
        self._failure: BaseException | None = None
        self._handlers: dict[type[Any], Callable[[int, Any, list[int]], None]] = {
            AddNetwork: self._add_network,
            ConfigureNetwork: self._configure_network,
            RemoveNetwork: self._remove_network,
            AddPort: self._add_port,
            AddOutsidePort: self._add_outside_port,
            ConfigurePort: self._configure_port,
            AddPipe: self._add_pipe,
            RemovePipe: self._remove_pipe,
            ListenRings: self._listen_rings,
            RemovePort: self._remove_port,
            EndPort: self._end_port,
            LabUp: self._lab_is_up,
            GetStats: self._get_stats,
            GetFdb: self._get_fdb,
            RemoveFdbEntry: self._remove_fdb_entry,
            FlushFdb: self._flush_fdb,
        }

    async def run(self) -> None:
        """Serve until the coordinator closes its end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._failed)
        self._rings = RingPorts(self._attach_ring, self._detach_ring, self._ring_changed, self._networks.__contains__)
        self._control.setblocking(False)
        loop.add_signal_handler(signal.SIGTERM, self._closed.set)  # the coordinator has died
        loop.add_reader(self._engine.fileno(), self._ports_ended)
        loop.add_reader(self._control.fileno(), self._readable)
        try:
            await self._closed.wait()
        finally:
            loop.remove_reader(self._control.fileno())
            loop.remove_writer(self._control.fileno())
            loop.remove_reader(self._engine.fileno())
            self._rings.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLEANING_UP):
                    await asyncio.gather(*(self._stop_outside(network) for network in self._networks.values()))
            self._engine.close()
        if self._failure is not None:
            sys.exit(f"internal error: {self._failure!r}")

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End on a mistake of ours: the lab is marked broken with it, rather than waiting for an answer for ever."""
        loop.default_exception_handler(context)
        self._failure = context.get("exception") or RuntimeError(context["message"])
        self._closed.set()

    # --- the channel --------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data, fds, flags, _ = socket.recv_fds(self._control, MAX_MESSAGE, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, fds, flags = b"", [], 0
        if not data:
            self._closed.set()
            return
        request = _decoder.decode(data)
        refusal = None
        try:
            if flags & socket.MSG_CTRUNC:
                raise FabricError("the fabric is out of descriptors (ulimit -Hn)")
            self._handlers[type(request.operation)](request.number, request.operation, fds)
        except FabricError as error:
            refusal = Reply(request.number, str(error))
        finally:
            for fd in fds:  # those that were not handed on
                os.close(fd)
        if refusal is not None:
            self._send(refusal)

    def _send(self, message: FromFabric) -> None:
        self._outbox.append(_encoder.encode(message))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._outbox:
            try:
                self._control.send(self._outbox[0])
            except BlockingIOError:
                # A coordinator that does not read its answers is not read from either.
                loop.remove_reader(self._control.fileno())
                loop.add_writer(self._control.fileno(), self._writable)
                return
            except OSError:
                self._closed.set()
                return
            self._outbox.popleft()

    def _writable(self) -> None:
        self._flush()
        if not self._outbox and not self._closed.is_set():
            loop = asyncio.get_running_loop()
            loop.remove_writer(self._control.fileno())
            loop.add_reader(self._control.fileno(), self._readable)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _network(self, name: str) -> _Network:
        try:
            return self._networks[name]
        except KeyError:
            raise FabricError(f"there is no network {name} in the fabric") from None

    def _add_network(self, number: int, request: AddNetwork, fds: list[int]) -> None:
        if request.network in self._networks:
            raise FabricError(f"network {request.network} is in the fabric already")
        settings = request.settings
        try:
            switch = self._engine.add_switch(request.kind == "hub", settings.ageing, settings.fdb_limit)
            self._engine.configure_switch(switch, **switch_arguments(settings))
        except (OSError, ValueError) as error:
            raise FabricError(f"network {request.network}: {error}") from None
        self._networks[request.network] = _Network(switch, settings)
        self._send(Reply(number))

    def _configure_network(self, number: int, request: ConfigureNetwork, fds: list[int]) -> None:
        network = self._network(request.network)
        try:
            self._engine.configure_switch(network.switch, **switch_arguments(request.settings))
            before, network.settings = network.settings, request.settings
            if before.vlan_filtering != request.settings.vlan_filtering:  # static entries have another VLAN now
                for port in network.ports:
                    self._settle_static(network, port)
        except (OSError, ValueError) as error:
            raise FabricError(f"network {request.network}: {error}") from None
        self._send(Reply(number))

    def _remove_network(self, number: int, request: RemoveNetwork, fds: list[int]) -> None:
        network = self._network(request.network)
        self._rings.remove_network(request.network)
        cleaned_up = self._stop_outside(network)
        for port in network.ports.values():
            del self._names[port]
        self._engine.remove_switch(network.switch)
        del self._networks[request.network]
        cleaned_up.add_done_callback(lambda _: self._send(Reply(number)))

    def _stop_outside(self, network: _Network) -> asyncio.Future[Any]:
        """End the network's ports that face outside; return what is done once they have cleaned up."""
        ends = []
        for outside in network.outside.values():
            ended = asyncio.get_running_loop().create_future()
            outside.stop(functools.partial(ended.set_result, None))
            ends.append(ended)
        return asyncio.gather(*ends)

    def _free_name(self, network_name: str, port: str) -> _Network:
        network = self._network(network_name)
        if port in network.ports or port in network.outside or (network_name, port) in self._rings:
            raise FabricError(f"network {network_name} has a port {port} already")
        return network

    def _attach(
        self,
        network_name: str,
        port: str,
        port_type: str,
        fds: list[int],
        settings: PortSettings,
        options: bytes = b"",
    ) -> int:
        """Make an engine port of `fds`; those handed on are taken from the list. Raises FabricError."""
        network = self._network(network_name)
        if port in network.ports:
            raise FabricError(f"network {network_name} has a port {port} already")
        try:
            handed_on = fds[:]
            try:
                fds.clear()
                number = self._engine.add_port(
                    network.switch, port_type, handed_on, options, **port_arguments(settings)
                )
            except ValueError:
                fds[:] = handed_on
                raise
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise FabricError(f"network {network_name}, port {port}: {reason}") from None
        network.ports[port] = number
        self._names[number] = (network_name, port)
        network.settled[port] = settings
        try:
            self._settle_static(network, port)
        except (OSError, ValueError) as error:
            self._detach(network, port)
            raise FabricError(f"network {network_name}, port {port}: {error}") from None
        return number

    def _detach(self, network: _Network, port: str) -> None:
        number = network.ports.pop(port)
        network.settled.pop(port, None)
        network.static = {entry: owner for entry, owner in network.static.items() if owner != port}
        del self._names[number]
        self._engine.remove_port(number)

    def _add_port(self, number: int, request: AddPort, fds: list[int]) -> None:
        network = self._free_name(request.network, request.port)
        if request.port_type == "ring":
            self._rings.hand_down(request.network, request.port, socket.socket(fileno=fds.pop()))
        else:
            self._attach(request.network, request.port, request.port_type, fds, request.settings, request.options)
        network.declared[request.port] = request.settings
        self._send(Reply(number))

    def _settle(self, network: _Network, port: str, settings: PortSettings) -> None:
        """Have the engine's port do as `settings` say. Raises OSError or ValueError."""
        self._engine.configure_port(network.ports[port], **port_arguments(settings))
        network.settled[port] = settings
        self._settle_static(network, port)

    def _settle_static(self, network: _Network, port: str) -> None:
        """Make a port's static entries those its settings name. Raises OSError or ValueError."""
        wanted = static_entries(network.settled[port], filtering=network.settings.vlan_filtering)
        there = {entry for entry, owner in network.static.items() if owner == port}
        for entry in there - wanted:
            with contextlib.suppress(KeyError):
                self._engine.fdb_remove(network.switch, *entry)
            del network.static[entry]
        for entry in wanted - there:  # it may be another port's still, which is about to lose it
            self._engine.fdb_add(network.switch, *entry, network.ports[port])
            network.static[entry] = port

    def _configure_port(self, number: int, request: ConfigurePort, fds: list[int]) -> None:
        network = self._network(request.network)
        names = self._ports_called(network, request.network, request.port)
        before = {name: network.settled[name] for name in names}
        try:
            for name in names:
                self._settle(network, name, request.settings)
        except (OSError, ValueError) as error:
            for name, settings in before.items():
                with contextlib.suppress(OSError, ValueError):
                    self._settle(network, name, settings)
            raise FabricError(f"network {request.network}, port {request.port}: {error}") from None
        network.declared[request.port] = request.settings
        self._send(Reply(number))

    def _ports_called(self, network: _Network, network_name: str, port: str) -> list[str]:
        names = network.engine_ports(port)
        if names is None:
            raise FabricError(f"network {network_name} has no port {port}")
        return names

    def _add_outside_port(self, number: int, request: AddOutsidePort, fds: list[int]) -> None:
        network = self._free_name(request.network, request.port)
        if request.spec.get("type") == "ring":
            self._rings.declare(request.network, request.port, msgspec.convert(request.spec, RingSpec))
            network.declared[request.port] = request.settings
            self._send(Reply(number))
            return

        def attach(name: str, port_type: str, fds: list[int], options: bytes) -> None:
            self._attach(request.network, name, port_type, fds, network.declared[request.port], options)

        def detach(name: str) -> None:
            if name in network.ports:
                self._detach(network, name)

        def answer(error: str | None) -> None:
            if error is not None:
                if network.outside.get(request.port) is outside:
                    del network.outside[request.port], network.declared[request.port]
                where = f"network {request.network}, port {request.port}: "
                error = where + error.removeprefix(where)  # it may be the engine's, and have that
            self._send(Reply(number, error))

        def changed(name: str, state: str, reason: str) -> None:
            self._send(FabricEvent(request.network, name, state, reason))

        network.declared[request.port] = request.settings
        network.outside[request.port] = outside = OutsidePort(
            request.port, request.spec, fds, attach, detach, answer, changed, self._lab_up
        )

    def _add_pipe(self, number: int, request: AddPipe, fds: list[int]) -> None:
        b, a = socket.socket(fileno=fds.pop()), socket.socket(fileno=fds.pop())
        self._rings.hand_down_pipe(request.pipe, (a, b))
        self._send(Reply(number))

    def _remove_pipe(self, number: int, request: RemovePipe, fds: list[int]) -> None:
        self._rings.remove_pipe(request.pipe)
        self._send(Reply(number))

    def _listen_rings(self, number: int, request: ListenRings, fds: list[int]) -> None:
        self._rings.listen(socket.socket(fileno=fds.pop()))
        self._send(Reply(number))

    def _attach_ring(self, network: str, port: str, fds: list[int]) -> None:
        try:
            there = self._network(network)
            if port in there.outside:  # also while it has no peer: the name is its own
                raise FabricError(f"network {network}: port {port} is one of type {there.outside[port].type}")
            self._attach(network, port, "ring", fds, there.declared.get(port, PortSettings()))
        finally:
            for fd in fds:  # those that were not handed on
                os.close(fd)

    def _detach_ring(self, network_name: str, port: str) -> None:
        network = self._networks[network_name]
        if port in network.ports:
            self._detach(network, port)

    def _ring_changed(self, network: str, port: str, state: str, reason: str) -> None:
        self._send(FabricEvent(network, port, state, reason))

    def _remove_port(self, number: int, request: RemovePort, fds: list[int]) -> None:
        network = self._network(request.network)
        if self._rings.remove(request.network, request.port):
            self._send(Reply(number))
        elif request.port in network.outside:
            network.outside.pop(request.port).stop(lambda: self._send(Reply(number)))
        elif request.port in network.ports:
            self._detach(network, request.port)
            self._send(Reply(number))
        else:
            raise FabricError(f"network {request.network} has no port {request.port}")
        network.declared.pop(request.port, None)

    def _end_port(self, number: int, request: EndPort, fds: list[int]) -> None:
        network = self._network(request.network)
        if request.port in network.ports:
            self._engine.end_port(network.ports[request.port], request.reason)
        elif request.port not in network.declared:  # that of a ring may not have been opened, or is closed already
            raise FabricError(f"network {request.network} has no port {request.port}")
        self._send(Reply(number))

    def _lab_is_up(self, number: int, request: LabUp, fds: list[int]) -> None:
        self._lab_up.set()
        self._send(Reply(number))

    # --- tables -------------------------------------------------------------------------------------------------------

    def _get_stats(self, number: int, request: GetStats, fds: list[int]) -> None:
        peers = {
            (name, port): peer
            for name, there in self._networks.items()
            for outside in there.outside.values()
            for port, peer in outside.peers.items()
        }
        rows = []
        for row in self._engine.stats():
            network, port = self._names[row.pop("id")]
            rows.append(PortStats(network=network, port=port, peer=peers.get((network, port), ""), **row))
        for name, there in self._networks.items():
            rows += [
                PortStats(network=name, port=port, type=outside.type, state=outside.state, reason=outside.reason)
                for port, outside in there.outside.items()
                if port not in outside.attached and (not outside.attached or outside.reason)
            ]
        rows += [
            PortStats(network=network, port=port, type="ring", state="waiting")
            for network, port in self._rings.waiting()
        ]
        rows.sort(key=lambda row: (row.network, row.port))
        for some, more in batches(rows):
            self._send(Reply(number, stats=some, more=more))

    def _get_fdb(self, number: int, request: GetFdb, fds: list[int]) -> None:
        network = self._network(request.network)
        entries = sorted(self._engine.fdb(network.switch), key=lambda entry: (entry[1], entry[0]))
        rows = [
            FdbEntry(mac=mac_text(mac), vlan=vlan, port=self._names[port][1], kind=kind, age=round(age, 1))
            for mac, vlan, port, age, kind in entries
        ]
        for some, more in batches(rows):
            self._send(Reply(number, fdb=some, more=more))

    def _remove_fdb_entry(self, number: int, request: RemoveFdbEntry, fds: list[int]) -> None:
        network = self._network(request.network)
        try:
            entry = mac_number(request.mac), request.vlan
            if entry in network.static:
                raise FabricError(f"{request.mac} is static; it belongs to port {network.static[entry]}")
            self._engine.fdb_remove(network.switch, *entry)
        except KeyError:
            vlan = f" of VLAN {request.vlan}" if request.vlan else ""
            raise FabricError(f"network {request.network} knows no {request.mac}{vlan}") from None
        except (OSError, ValueError) as error:
            raise FabricError(f"network {request.network}: {error}") from None
        self._send(Reply(number))

    def _flush_fdb(self, number: int, request: FlushFdb, fds: list[int]) -> None:
        network = self._network(request.network)
        ports: list[int | None] = [None]
        if request.port is not None:
            names = self._ports_called(network, request.network, request.port)
            ports = [network.ports[name] for name in names]
        try:
            count = sum(self._engine.fdb_flush(network.switch, port, request.vlan) for port in ports)
        except (OSError, ValueError) as error:
            raise FabricError(f"network {request.network}: {error}") from None
        self._send(Reply(number, count=count))

    # --- events -------------------------------------------------------------------------------------------------------

    def _ports_ended(self) -> None:
        for number, state, reason in self._engine.events():
            network_name, port = self._names[number]
            network = self._networks[network_name]
            self._send(FabricEvent(network_name, port, state, reason))
            self._rings.port_ended(network_name, port)
            for outside in network.outside.values():
                outside.port_ended(port, state, reason)


def serve(control_fd: int) -> None:
    """Run the fabric on the control channel behind `control_fd` until the coordinator closes its end."""
    with socket.socket(fileno=control_fd) as control:
        control.set_inheritable(False)
        asyncio.run(Fabric(control).run())
