"""Carries out a plan's actions through the node drivers and the fabric, as early as their order allows."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shlex
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec

from ..errors import FabricError, LabError, MachineError, NodeError
from ..fabric.client import FabricClient, FabricEvent
from ..model.lab import Endpoint, Interface, Lab, Link, Node, PortSettings, SwitchSettings
from ..nodes.driver import Driver, ExecRequest, NodeContext, NodeState, load_drivers, run_to_end
from ..ports.bus import Bus, parse_group
from ..ports.port import PortSpec
from ..rundir import RunDir
from . import plan
from .carrier import Carriers, Change
from .console import ConsoleLog
from .descriptors import Descriptors
from .plan import Action
from .state import Actual
from .supervise import spawn_task

log = logging.getLogger(__name__)

_TAIL_LINES = 15


class Machine:
    """One node as the executor holds it: its driver, its console, and word of its unexpected end."""

    def __init__(self, driver: Driver, console: ConsoleLog) -> None:
        self.driver = driver
        self.console = console
        self.exited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.carrier_lock = asyncio.Lock()


class Executor:
    """Runs actions. One per lab; `namespace` tells whether the lab has a network namespace of its own.

    `descriptors` are those the lab was given for its ports.
    """

    def __init__(
        self,
        lab: Lab,
        run_dir: RunDir,
        run_id: str,
        actual: Actual,
        fabric: FabricClient,
        descriptors: Descriptors,
        *,
        namespace: bool,
    ) -> None:
        self.lab = lab
        self.machines: dict[str, Machine] = {}
        self.networks_made = asyncio.Event()
        """Set once the networks, and the ports they declare, are there."""
        self._run_dir = run_dir
        self._run_id = run_id
        self._actual = actual
        self._fabric = fabric
        self._descriptors = descriptors
        self._namespace = namespace
        self._drivers = load_drivers()
        self._hosts = _hosts(lab)
        self._hosts_file = run_dir.path / "hosts"
        self._hosts_file.write_text(self._hosts)
        self._buses: dict[str, Bus] = {}
        self._carriers = Carriers()
        self._linked: set[Endpoint] = set()
        """Interfaces that are there, so that they may be told of their carrier."""
        self._bridged: dict[str, asyncio.Task[None]] = {}
        self._numbers = itertools.count(1)
        self._handlers: dict[type[Action], Callable[[Any], Awaitable[None]]] = {
            plan.AddNetwork: self._add_network,
            plan.ConfigureNetwork: self._configure_network,
            plan.ConfigurePort: self._configure_port,
            plan.RemoveNetwork: self._remove_network,
            plan.CreateNode: self._create_node,
            plan.StopNode: self._stop_node,
            plan.AddLink: self._add_link,
            plan.RemoveLink: self._remove_link,
            plan.StartNode: self._start_node,
        }

    async def run(self, actions: Sequence[Action]) -> None:
        """Do all actions, each once those before it are done; at the first failure give up the rest and raise it."""
        order = plan.prerequisites(actions)
        finished = {action.key: asyncio.Event() for action in actions}
        networks = {action.key for action in actions if isinstance(action, plan.AddNetwork)}

        async def perform(action: Action) -> None:
            for key in order[action.key]:
                await finished[key].wait()
            await self._handlers[type(action)](action)
            finished[action.key].set()
            networks.discard(action.key)
            if not networks:
                self.networks_made.set()

        try:
            async with asyncio.TaskGroup() as group:
                for action in actions:
                    group.create_task(perform(action), name=str(action))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def run_all(self, actions: Iterable[Action]) -> list[str]:
        """Do all actions, in order of kind, whatever fails; return what did. For taking things down."""
        failures = []
        for _, same_kind in itertools.groupby(actions, key=type):
            group = list(same_kind)
            results = await asyncio.gather(*(self._handlers[type(a)](a) for a in group), return_exceptions=True)
            for action, result in zip(group, results, strict=True):
                if isinstance(result, BaseException):
                    log.warning("%s: %s", action, result)
                    failures.append(f"{action}: {result}")
        return failures

    # --- networks ---------------------------------------------------------------------------------------------------

    async def _add_network(self, action: plan.AddNetwork) -> None:
        network = action.network
        if network.type == "mcast":
            if not self._namespace:
                raise MachineError(
                    f"network {network.name}: a multicast bus needs the lab to have a network namespace of its own, "
                    "which this machine does not allow; use type: switch, or see: lab doctor"
                )
            if network.group is None:
                self._buses[network.name] = Bus.numbered(self._new_number())
            else:
                self._buses[network.name] = Bus(*parse_group(network.group))
        else:
            await self._fabric.add_network(network.name, network.type, network.settings)
        if network.ports and network.type == "mcast":
            await self._bridge_bus(network.name)
        for name, port in network.ports.items():
            fds = self._descriptors.take(port)
            await self._fabric.add_outside_port(network.name, name, port.spec, port.settings, fds)
        self._actual.happened("network", network.name, "added")

    async def _configure_network(self, action: plan.ConfigureNetwork) -> None:
        if action.name not in self._buses or action.name in self._bridged:
            await self._fabric.configure_network(action.name, action.settings)

    async def _configure_port(self, action: plan.ConfigurePort) -> None:
        await self._fabric.configure_port(action.network, action.port, action.settings)

    async def _remove_network(self, action: plan.RemoveNetwork) -> None:
        if self._buses.pop(action.name, None) is None or self._bridged.pop(action.name, None) is not None:
            await self._fabric.remove_network(action.name)
        self._actual.happened("network", action.name, "removed")

    def _new_number(self) -> int:
        return next(self._numbers)

    def is_bridged(self, network: str) -> bool:
        """Whether a multicast bus has a switch beside it."""
        return network in self._bridged

    async def _bridge_bus(self, name: str) -> None:
        """Give the bus `name` a switch with a port on it, for members that cannot sit on the bus themselves."""
        if name not in self._bridged:
            self._bridged[name] = asyncio.get_running_loop().create_task(self._make_bridge(name))
        await self._bridged[name]

    async def _make_bridge(self, name: str) -> None:
        from ..ports.mcast import open_bus

        await self._fabric.add_network(name, "switch", self.lab.networks[name].settings)
        await self._fabric.add_port(name, "bus", "mcast", list(open_bus(*self._buses[name])))

    # --- links ------------------------------------------------------------------------------------------------------

    def _interface(self, end: Endpoint) -> Interface:
        node = self.machines[end.target].driver.node
        return next(interface for interface in node.interfaces if interface.name == end.interface)

    def _outside(self, end: Endpoint) -> PortSpec | None:
        """The port facing outside by which an interface joins, if it does."""
        return self.machines[end.target].driver.outside_port(self._interface(end))

    def waiting_for(self, node: str) -> list[str]:
        """The interfaces of a node whose peers, from outside, are not there."""
        driver = self.machines[node].driver
        return [
            interface.name
            for interface in driver.node.interfaces
            if driver.outside_port(interface) is not None
            and not self._carriers.has_peer(Endpoint(node, interface.name))
        ]

    def _joined_directly(self, link: Link) -> bool:
        """Whether both ends take one socket pair, with nothing of ours between."""
        ends = (link.a, link.b)
        return link.point_to_point and all(
            self.machines[end.target].driver.takes_stream and self._interface(end).wants_stream for end in ends
        )

    async def _add_link(self, action: plan.AddLink) -> None:
        link = action.link
        a = self.machines[link.a.target].driver
        direct = self._joined_directly(link)
        interfaces = (link.a, link.b) if link.point_to_point else (link.a,)
        waiting = frozenset(end for end in interfaces if self._outside(end) is not None)
        self._follow(self._carriers.link_added(link, direct=direct or link.pipe, waiting=waiting))
        if direct:
            pair = socket.socketpair()
            b = self.machines[link.b.target].driver
            await a.join_socket(self._interface(link.a), pair[0])
            await b.join_socket(self._interface(link.b), pair[1])
        elif link.pipe:
            ends = [await self.machines[end.target].driver.open_port(self._interface(end)) for end in (link.a, link.b)]
            await self._fabric.add_pipe(link.name, (ends[0].fds[0], ends[1].fds[0]))
        elif link.point_to_point:
            await self._fabric.add_network(link.name, "hub", SwitchSettings(ageing=0, fdb_limit=1))
            for end in (link.a, link.b):
                await self._add_port(link.name, end, link.settings)
        elif link.b.target in self._buses:
            interface = self._interface(link.a)
            if a.takes_bus and interface.transport in ("auto", "mcast"):
                await a.join_bus(interface, self._buses[link.b.target])
            else:
                await self._bridge_bus(link.b.target)
                await self._add_port(link.b.target, link.a, link.settings)
        else:
            await self._add_port(link.b.target, link.a, link.settings)
        self._linked.update(interfaces)
        for end in interfaces:
            if not self._carriers.has_carrier(end):
                await self._set_carrier(end)
        self._actual.happened("link", link.name, "added")

    async def _add_port(self, network: str, end: Endpoint, settings: PortSettings) -> None:
        outside = self._outside(end)
        if outside is not None:
            spec: dict[str, Any] = msgspec.to_builtins(outside)
            await self._fabric.add_outside_port(network, str(end), spec, settings)
            return
        port_type, fds, options = await self.machines[end.target].driver.open_port(self._interface(end))
        await self._fabric.add_port(network, str(end), port_type, fds, settings, options)

    async def _remove_link(self, action: plan.RemoveLink) -> None:
        link = action.link
        self._carriers.link_removed(link)
        self._linked -= {link.a, link.b}
        if link.pipe:
            with contextlib.suppress(LabError):
                await self._fabric.remove_pipe(link.name)
        elif link.point_to_point:
            # Joined sockets ended with their nodes; otherwise a hub of the fabric's stood between.
            with contextlib.suppress(LabError):
                await self._fabric.remove_network(link.name)
        else:
            with contextlib.suppress(LabError):
                await self._fabric.remove_port(link.b.target, str(link.a))
        self._actual.happened("link", link.name, "removed")

    # --- carriers ---------------------------------------------------------------------------------------------------

    def port_changed(self, event: FabricEvent) -> None:
        """Have the carriers of interfaces follow a port of the fabric."""
        self._follow(self._carriers.port_changed(event.network, event.port, event.state, event.reason))

    def _follow(self, changes: Iterable[Change]) -> None:
        for change in changes:
            why = f": {change.why}" if change.why else ""
            self._actual.happened("link", change.link, f"carrier {'on' if change.up else 'off'}", f"{change.end}{why}")
            spawn_task(self._set_carrier(change.end), name=f"carrier of {change.end}")

    async def _set_carrier(self, end: Endpoint) -> None:
        """Tell a node what its interface is to have by now: of several changes only the last counts."""
        machine = self.machines.get(end.target)
        if machine is None:
            return
        async with machine.carrier_lock:
            if machine.exited.done() or end not in self._linked:
                return
            try:
                await machine.driver.set_carrier(self._interface(end), self._carriers.has_carrier(end))
            except LabError as error:
                log.warning("carrier of %s: %s", end, error)

    # --- nodes ------------------------------------------------------------------------------------------------------

    async def _create_node(self, action: plan.CreateNode) -> None:
        node = action.node
        console = ConsoleLog(self._run_dir.console_log(node.name))
        context = NodeContext(
            lab_name=self.lab.name,
            run_id=self._run_id,
            run_dir=self._run_dir.node_dir(node.name),
            lab_dir=self._run_dir.path,
            hosts=self._hosts,
            hosts_file=self._hosts_file,
            console_output=console.write,
            exited=lambda reason: self._node_exited(node.name, reason),
            namespace=self._namespace,
            lab=self.lab,
            new_number=self._new_number,
        )
        driver_type = self._drivers[node.driver]
        if missing := driver_type.check(node):
            raise NodeError(f"node {node.name}: " + "; ".join(missing))
        driver = driver_type(node, context)
        self.machines[node.name] = Machine(driver, console)
        self._carriers.node_made(node.name)
        self._actual.node_created(node)
        try:
            await driver.prepare()
        except LabError as error:
            raise NodeError(f"node {node.name}: {error}") from None

    def _node_exited(self, name: str, reason: str) -> None:
        machine = self.machines.get(name)
        if machine is None or machine.exited.done():
            return
        machine.exited.set_result(reason)
        self._actual.node_changed(name, NodeState.EXITED, reason)
        self._follow(self._carriers.node_gone(name, reason))
        for network, port in self._carriers.ports_of(name):
            spawn_task(self._end_port(network, port), name=f"end port {network}/{port}")

    async def _end_port(self, network: str, port: str) -> None:
        """Close a port of a node that has exited: a datagram socket does not tell that nobody is behind it."""
        with contextlib.suppress(FabricError):  # it has none there, or the lab is being taken down
            await self._fabric.end_port(network, port, "the node has exited")

    async def _start_node(self, action: plan.StartNode) -> None:
        node = action.node
        machine = self.machines[node.name]
        self._actual.node_changed(node.name, NodeState.BOOTING)
        work = asyncio.get_running_loop().create_task(self._boot(node, machine), name=f"boot {node.name}")
        try:
            waited: set[asyncio.Future[Any]] = {work, machine.exited}
            done, _ = await asyncio.wait(waited, timeout=node.ready_timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                work.cancel()
        if work in done and work.exception() is None:
            self._actual.node_changed(node.name, NodeState.READY)
            return
        if work in done:
            why = str(work.exception())
        elif machine.exited in done:
            why = f"exited: {machine.exited.result()}"
        else:
            why = f"not ready within {node.ready_timeout:g} s"
        if machine.exited not in done:
            self._actual.node_failed(node.name, why)
        tail = machine.console.tail(_TAIL_LINES)
        shown = "\n".join(f"    {line}" for line in tail)
        raise NodeError(
            f"node {node.name}: {why}"
            + (f"\n  last lines of its console:\n{shown}" if tail else " (its console is empty)")
        )

    async def _boot(self, node: Node, machine: Machine) -> None:
        await machine.driver.start()
        for command in node.exec:
            code, out, err = await run_to_end(machine.driver.exec(_shell(node, command)))
            machine.console.write(out + err)
            if code != 0:
                raise NodeError(f"exec {shlex.quote(command)} ended with exit code {code}: {_last_line(err or out)}")
        check = node.healthcheck
        if check is not None:
            await self._healthy(node, machine, check.run, check.interval, check.timeout)

    async def _healthy(self, node: Node, machine: Machine, command: str, interval: float, timeout: float) -> None:
        last = "it never ended"
        try:
            async with asyncio.timeout(timeout):
                while True:
                    code, out, err = await run_to_end(machine.driver.exec(_shell(node, command)))
                    if code == 0:
                        return
                    last = f"exit code {code}: {_last_line(err or out)}"
                    await asyncio.sleep(interval)
        except TimeoutError:
            raise NodeError(f"healthcheck {shlex.quote(command)} failed for {timeout:g} s; last: {last}") from None

    async def _stop_node(self, action: plan.StopNode) -> None:
        machine = self.machines.pop(action.name, None)
        if machine is None:
            return
        try:
            await machine.driver.stop()
        finally:
            machine.console.close()
            self._actual.node_removed(action.name)


def _shell(node: Node, command: str) -> ExecRequest:
    return ExecRequest(argv=("sh", "-c", command), env=node.env)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def _hosts(lab: Lab) -> str:
    """The /etc/hosts every node gets, hosts(5)."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{address} {' '.join(names)}" for address, names in lab.hosts.items()]
    return "\n".join(lines) + "\n"
