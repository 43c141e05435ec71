"""The coordinator's process: sockets, requests, the life of one lab from claimed directory to nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from .. import __version__
from ..errors import FabricError, LabError, ProtocolError
from ..fabric.client import FabricClient, FabricEvent
from ..fabric.messages import PortStats
from ..model.lab import Lab
from ..nodes.driver import ExecRequest
from ..ports.helper_program import TIME_LIMIT
from ..rundir import Run, RunDir
from . import plan, protocol
from .descriptors import Descriptors
from .executor import Executor, Machine
from .leftovers import remove_left
from .log_budget import PERIOD, LogBudget
from .protocol import Answer, Done, Event, Failed, Reply, Request
from .state import Actual, LabState
from .streams import Stream
from .supervise import Child, describe_exit, spawn_task
from .sweep import sweep_fabric

log = logging.getLogger(__name__)

_MAX_STREAMS = 1024
_FABRIC_GRACE = TIME_LIMIT + 2.0  # s; its ports may have commands to run at the end
_MAX_UNREAD = 4 * protocol.WINDOW // protocol.cost(b"")  # replies a client may leave unread: four streams' windows
_MAX_UNREAD_EVENTS = 100_000
_TABLE_PART = protocol.MAX_MESSAGE // 4  # bytes of a table sent in one reply, give or take a row

_ClientId = bytes


class Coordinator:
    """Owns one lab. `fabric` is the running fabric process, `control` our end of its channel; `lifeline` our end of
    the pair the starting CLI holds; `descriptors` are those it gave the lab.
    """

    def __init__(
        self,
        run_dir: RunDir,
        lab: Lab,
        *,
        namespace: bool,
        fabric: Child,
        control: socket.socket,
        lifeline: socket.socket,
        descriptors: Descriptors,
    ) -> None:
        self._run_dir = run_dir
        self._run: Run = run_dir.run()
        self._lab = lab
        self._lifeline = lifeline
        self._detached = False
        self._fabric_child = fabric
        self._fabric = FabricClient(control, self._fabric_event)
        self._actual = Actual(lab, self._run.name, self._publish)
        self._executor = Executor(
            lab, run_dir, self._run.run_id, self._actual, self._fabric, descriptors, namespace=namespace
        )
        self._descriptors = descriptors
        self._context = zmq.asyncio.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._events = self._context.socket(zmq.XPUB)
        self._log_budget = LogBudget()
        self._streams: dict[tuple[_ClientId, int], Stream] = {}
        self._stop = asyncio.Event()
        self._stopped_by: list[tuple[_ClientId, int]] = []
        self._garbage = 0
        self._requests: dict[type[protocol.Operation], Callable[[Request, _ClientId], Awaitable[None]]] = {
            protocol.Status: self._status,
            protocol.Detach: self._detach,
            protocol.Down: self._down,
            protocol.Stats: self._stats,
            protocol.Fdb: self._fdb,
            protocol.Networks: self._networks,
            protocol.Ports: self._ports,
            protocol.Inspect: self._inspect,
            protocol.Configure: self._configure,
            protocol.AddStatic: self._add_static,
            protocol.Forget: self._forget,
            protocol.Flush: self._flush,
        }
        self._changing = asyncio.Lock()

    async def serve(self) -> None:
        """Bring the lab up, answer clients, and return once it has been taken down and only its directory is left."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        self._bind()
        loop.add_reader(self._lifeline.fileno(), self._lifeline_readable)
        receivers = [spawn_task(self._receive()), spawn_task(self._take_subscriptions())]
        fabric_watch = spawn_task(self._watch_fabric())
        try:
            await self._fabric.open()
            bringing_up = spawn_task(self._bring_up())
            await self._stop.wait()
            bringing_up.cancel()
            await asyncio.gather(bringing_up, return_exceptions=True)
        finally:
            await self._take_down(fabric_watch)
            for client, request in self._stopped_by:
                with contextlib.suppress(ConnectionError):
                    await self._reply(client, request, Done())
            for receiver in receivers:
                receiver.cancel()
            loop.remove_reader(self._lifeline.fileno())
            self._context.destroy(linger=500)

    def _bind(self) -> None:
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.SNDHWM, _MAX_UNREAD)
        self._events.setsockopt(zmq.SNDHWM, _MAX_UNREAD_EVENTS)
        self._router.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_MESSAGE)
        self._router.setsockopt(zmq.LINGER, 500)
        self._events.setsockopt(zmq.XPUB_WELCOME_MSG, protocol.HEADER)
        self._events.bind(f"ipc://{self._run_dir.events_socket}")
        self._router.bind(f"ipc://{self._run_dir.control_socket}")

    # --- the lab's life ---------------------------------------------------------------------------------------------

    async def _listen_for_rings(self) -> None:
        """Let clients open ring ports: once those that are declared have their settings, which would not hold else."""
        with _ring_listener(self._run_dir) as listener:
            await self._executor.networks_made.wait()
            await self._fabric.listen_rings(listener)

    async def _bring_up(self) -> None:
        try:
            listening = spawn_task(self._listen_for_rings())
            try:
                await self._executor.run(plan.diff(None, self._lab))
                await self._fabric.lab_up()
                await listening
            finally:
                listening.cancel()
                self._descriptors.close()
        except LabError as error:
            log.error("%s", error)
            if self._actual.state is LabState.STARTING:
                self._actual.lab_changed(LabState.BROKEN, str(error))
        except Exception as error:
            log.exception("bringing the lab up")
            if self._actual.state is LabState.STARTING:
                self._actual.lab_changed(LabState.BROKEN, f"internal error: {error!r}; see {self._run_dir.log}")
        else:
            if self._actual.state is LabState.STARTING:
                self._actual.lab_changed(LabState.RUNNING)

    async def _take_down(self, fabric_watch: asyncio.Task[None]) -> None:
        self._actual.lab_changed(LabState.STOPPING)
        fabric_watch.cancel()
        for stream in list(self._streams.values()):
            stream.hang_up()
        await self._executor.run_all(plan.diff(self._lab, None))
        await self._fabric.close()
        if await self._fabric_child.wait_or_kill(_FABRIC_GRACE) != 0:
            await self._sweep_fabric()
            remove_left(self._lab)

    async def _watch_fabric(self) -> None:
        code = await self._fabric_child.wait()
        reason = f"the fabric (pid {self._fabric_child.pid}) ended: {describe_exit(code)}; no frame moves any more"
        log.error("%s", reason)
        self._actual.happened("fabric", "fabric", "exited", describe_exit(code))
        if self._actual.state in (LabState.STARTING, LabState.RUNNING):
            self._actual.lab_changed(LabState.BROKEN, reason)
        await self._sweep_fabric()

    async def _sweep_fabric(self) -> None:
        """End what the ports of the fabric, which is dead, had started: it could not."""
        for pid in await asyncio.to_thread(sweep_fabric, self._run_dir.run().run_id):
            log.warning("killed process %d, which the fabric had left", pid)

    def _fabric_event(self, event: FabricEvent) -> None:
        self._actual.happened("port", f"{event.network}/{event.port}", event.state, event.reason)
        if self._actual.state is not LabState.STOPPING:
            self._executor.port_changed(event)

    def _lifeline_readable(self) -> None:
        """The CLI that started us closed its end, or died: unless it had detached, the lab goes down."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            if self._lifeline.recv(64):
                return
        asyncio.get_running_loop().remove_reader(self._lifeline.fileno())
        if not self._detached:
            log.warning("the command that was bringing the lab up has gone; taking the lab down")
            self._stop.set()

    # --- sockets ----------------------------------------------------------------------------------------------------

    def _publish(self, event: Event) -> None:
        self._events.send_multipart(protocol.pack(event), zmq.DONTWAIT)
        subject = f"{event.what} {event.name.partition('#')[0]}"  # a port's clients share what it may say
        if self._log_budget.allows(subject, time.monotonic()):
            log.info("%s %s: %s %s", event.what, event.name, event.state, event.cause)
            if self._log_budget.is_spent(subject):
                log.info("%s: no more of it for up to %g s", subject, PERIOD)

    async def _reply(self, client: _ClientId, number: int, answer: Answer) -> None:
        """Send a reply. Raises ConnectionError when the client is gone, or has long stopped reading."""
        try:
            await self._router.send_multipart([client, *protocol.pack(Reply(number, answer))], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise ConnectionError(str(error)) from None

    async def _take_subscriptions(self) -> None:
        """Read what subscribers send: a ZeroMQ socket greets a new peer only while somebody uses it."""
        while True:
            await self._events.recv()

    async def _receive(self) -> None:
        while True:
            client, *frames = await self._router.recv_multipart()
            try:
                request = protocol.unpack_request(frames)
            except ProtocolError as error:
                self._garbage += 1
                if self._garbage < 100:
                    log.warning("refused a message: %s", error)
                await self._refuse(client, 0, str(error))
                continue
            stream = self._streams.get((client, request.number))
            match request.operation:
                case protocol.Input() | protocol.Resize() | protocol.Signal() | protocol.Ack() as operation:
                    if stream is not None:
                        stream.handle(operation)
                case protocol.Hangup():
                    if stream is not None:
                        stream.hang_up()
                case protocol.Exec() | protocol.Console():
                    # Opened here and now: input for the stream may be the very next message.
                    stream = Stream(functools.partial(self._reply, client, request.number))
                    if len(self._streams) >= _MAX_STREAMS or (client, request.number) in self._streams:
                        refusal = f"{_MAX_STREAMS} streams are open in this lab, or this one is already"
                        spawn_task(self._refuse(client, request.number, refusal))
                        continue
                    self._streams[client, request.number] = stream
                    spawn_task(self._serve_stream(stream, request, client))
                case operation:
                    spawn_task(self._serve_request(self._requests[type(operation)], request, client))

    async def _refuse(self, client: _ClientId, number: int, why: str) -> None:
        with contextlib.suppress(ConnectionError):
            await self._reply(client, number, Failed(why))

    async def _serve_request(
        self, handler: Callable[[Request, _ClientId], Awaitable[None]], request: Request, client: _ClientId
    ) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                await handler(request, client)
            except LabError as error:
                await self._reply(client, request.number, Failed(str(error)))
            except Exception as error:
                log.exception("request %s", request)
                await self._reply(client, request.number, Failed(f"internal error: {error!r}; see {self._run_dir.log}"))

    # --- requests ---------------------------------------------------------------------------------------------------

    async def _status(self, request: Request, client: _ClientId) -> None:
        status = self._actual.status(
            source=self._run.source,
            version=__version__,
            pid=os.getpid(),
            fabric_pid=self._fabric_child.pid if self._fabric_child.returncode is None else None,
            live=self._live,
        )
        await self._reply(client, request.number, status)

    def _live(self, node: str) -> tuple[int | None, dict[str, str]]:
        machine = self._executor.machines.get(node)
        if machine is None:
            return None, {}
        waiting = self._executor.waiting_for(node)
        facts = {"waiting": f"waiting for a peer: {', '.join(waiting)}"} if waiting else {}
        return machine.driver.pid, {**machine.driver.facts(), **facts}

    async def _detach(self, request: Request, client: _ClientId) -> None:
        self._detached = True
        await self._reply(client, request.number, Done())

    async def _down(self, request: Request, client: _ClientId) -> None:
        self._stopped_by.append((client, request.number))
        self._stop.set()

    def _machine(self, name: str) -> Machine:
        machine = self._executor.machines.get(name)
        if machine is not None:
            return machine
        known = ", ".join(self._lab.nodes)
        if name in self._lab.nodes:
            raise LabError(f"node {name} has not been created yet; see: lab ps")
        raise LabError(f"no node {name!r} in lab {self._run.name}; nodes: {known or 'none'}")

    async def _serve_stream(self, stream: Stream, request: Request, client: _ClientId) -> None:
        operation = request.operation
        assert isinstance(operation, protocol.Exec | protocol.Console)

        async def work() -> int:
            machine = self._machine(operation.node)
            driver = machine.driver
            if isinstance(operation, protocol.Console):
                return await stream.console(driver, machine.console)
            environment = {**driver.node.env, **operation.env}
            wanted = ExecRequest(argv=operation.argv, env=environment, cwd=operation.cwd, tty=operation.tty)
            return await stream.command(lambda: driver.exec(wanted))

        try:
            await stream.run(work)
        except Exception:
            log.exception("request %s", request)
            with contextlib.suppress(ConnectionError):
                await self._reply(client, request.number, Failed(f"internal error; see {self._run_dir.log}"))
        finally:
            del self._streams[client, request.number]

    async def _reply_rows(self, client: _ClientId, number: int, rows: Iterable[dict[str, Any]]) -> None:
        """Send a table, in as many replies as its rows need."""
        part: list[dict[str, Any]] = []
        size = 0
        for row in rows:
            size += len(msgspec.msgpack.encode(row))
            if part and size > _TABLE_PART:
                await self._reply(client, number, protocol.Table(tuple(part), more=True))
                part, size = [], 0
            part.append(row)
        await self._reply(client, number, protocol.Table(tuple(part)))

    async def _stats(self, request: Request, client: _ClientId) -> None:
        rows = [msgspec.to_builtins(row) for row in await self._fabric.stats()]
        await self._reply_rows(client, request.number, rows)

    # --- switches and their ports -----------------------------------------------------------------------------------

    async def _fdb(self, request: Request, client: _ClientId) -> None:
        operation = request.operation
        assert isinstance(operation, protocol.Fdb)
        self._has_switch(operation.network)
        rows = [msgspec.to_builtins(row) for row in await self._fabric.fdb(operation.network)]
        await self._reply_rows(client, request.number, rows)

    def _has_switch(self, network: str) -> None:
        """Raise LabError unless `network` is one of the lab's that learn addresses."""
        from . import live

        kind = live.find_network(self._lab, network).type
        if kind == "hub":
            raise LabError(f"network {network} is a hub: it sends every frame to all, and learns no addresses")
        if kind == "mcast" and not self._executor.is_bridged(network):
            raise LabError(f"network {network} is a multicast bus: nobody learns addresses there")

    async def _networks(self, request: Request, client: _ClientId) -> None:
        from . import live

        learnt: Counter[str] = Counter()
        with contextlib.suppress(FabricError):  # what it is set to can be told without it
            for row in await self._fabric.stats():
                learnt[row.network] += row.macs
        await self._reply_rows(client, request.number, live.network_rows(self._lab, learnt))

    async def _ports(self, request: Request, client: _ClientId) -> None:
        from . import live

        operation = request.operation
        assert isinstance(operation, protocol.Ports)
        await self._reply_rows(client, request.number, live.port_rows(self._lab, operation.network))

    async def _inspect(self, request: Request, client: _ClientId) -> None:
        from .inspection import interface_rows

        operation = request.operation
        assert isinstance(operation, protocol.Inspect)
        if operation.node is not None:
            self._machine(operation.node)  # raises where there is none
        stats: tuple[PortStats, ...] = ()
        with contextlib.suppress(FabricError):  # all else can be told without it
            stats = tuple(await self._fabric.stats())
        drivers = {name: machine.driver for name, machine in self._executor.machines.items()}
        await self._reply_rows(client, request.number, interface_rows(self._lab, drivers, stats, operation.node))

    async def _configure(self, request: Request, client: _ClientId) -> None:
        from . import live

        operation = request.operation
        assert isinstance(operation, protocol.Configure)
        network, port = operation.network, operation.port

        def change(lab: Lab) -> Lab:
            if port is None:
                return live.change_network(lab, network, operation.settings)
            return live.change_port(lab, network, port, operation.settings)

        await self._change(change)
        await self._reply(client, request.number, Done())

    async def _add_static(self, request: Request, client: _ClientId) -> None:
        from . import live

        operation = request.operation
        assert isinstance(operation, protocol.AddStatic)
        await self._change(lambda lab: live.add_static(lab, operation.network, operation.entry, operation.port))
        await self._reply(client, request.number, Done())

    async def _forget(self, request: Request, client: _ClientId) -> None:
        from . import live

        operation = request.operation
        assert isinstance(operation, protocol.Forget)
        network, mac, vlan = operation.network, operation.mac, operation.vlan
        self._has_switch(network)
        before = self._lab
        await self._change(lambda lab: live.remove_static(lab, network, mac, vlan))
        learnt = [
            entry
            for entry in await self._fabric.fdb(network)
            if entry.mac == mac and vlan in (None, entry.vlan) and entry.kind != "static"
        ]
        for entry in learnt:
            await self._fabric.remove_fdb_entry(network, mac, entry.vlan)
        if not learnt and self._lab is before:
            where = f" in VLAN {vlan}" if vlan else ""
            raise LabError(f"network {network} knows no {mac}{where}; see: lab fdb {network}")
        if learnt:
            self._actual.happened("network", network, "forgot", mac)
        await self._reply(client, request.number, Done())

    async def _flush(self, request: Request, client: _ClientId) -> None:
        operation = request.operation
        assert isinstance(operation, protocol.Flush)
        self._has_switch(operation.network)
        count = await self._fabric.flush_fdb(operation.network, port=operation.port, vlan=operation.vlan)
        self._actual.happened("network", operation.network, "flushed", f"{count} addresses forgotten")
        await self._reply(client, request.number, protocol.Count(count))

    async def _change(self, change: Callable[[Lab], Lab]) -> None:
        """Make the lab what `change` makes of it, or leave it as it is. Raises LabError."""
        async with self._changing:
            if self._actual.state is LabState.STARTING:
                raise LabError(f"lab {self._run.name} is still starting; see: lab ps")
            before, after = self._lab, change(self._lab)
            actions = plan.diff(before, after)
            if not actions:
                return
            try:
                await self._executor.run(actions)
            except LabError:
                await self._executor.run_all(plan.diff(after, before))
                raise
            self._lab = self._executor.lab = self._actual.lab = after
            for action in actions:
                self._tell(action, before)
            self._run_dir.write_lab(msgspec.json.encode(after))

    def _tell(self, action: plan.Action, before: Lab) -> None:
        """Publish what a change of settings changed."""
        from . import live

        match action:
            case plan.ConfigureNetwork(name, settings):
                self._actual.happened(
                    "network", name, "changed", live.difference(before.networks[name].settings, settings)
                )
            case plan.ConfigurePort(network, port, settings):
                old = before.ports(network)[port]
                self._actual.happened("port", f"{network}/{port}", "changed", live.difference(old, settings))
            case _:
                pass


def _ring_listener(run_dir: RunDir) -> socket.socket:
    """Make the socket in the lab's directory over which clients open ring ports (fabric/ring_ports.py)."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(run_dir.ring_socket))
    listener.listen(128)
    return listener
