"""Driver `netns`: a real Linux network stack in namespaces of its own, run by the agent as PID 1.

An interface is a TAP device whose descriptor the fabric reads and writes; where /dev/net/tun is not ours to open, it is
one end of a veth pair, and the fabric has an AF_PACKET socket on the other end, which stays in the lab's namespace.
Either has virtio-net headers, so that a host's stack hands over large TCP segments whole and leaves checksums undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from msgspec import Struct

from ..coordinator.supervise import Child, describe_exit, spawn_task
from ..errors import NodeError
from ..model.lab import Interface, Lab, Node
from ..namespace import visiting
from ..ports.packet import disable_offloads_beyond_headers, open_packet
from ..ports.tap import MAX_MTU, make_persistent, open_tap
from .agent import AgentChannel, agent_program
from .driver import Driver, ExecRequest, ExecSession, FabricEnd, NodeContext

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_T = TypeVar("_T")
_IFA_F_NODAD = 0x02  # linux/if_addr.h: do not wait a second to see whether somebody else has the address
_UP_PAUSE, _UP_TRIES = 0.001, 1000  # s
_STDERR = 2  # ours, which goes to the lab's log
_STOP_GRACE = 2.0  # s

# What commands in a host find set, whoever brought the lab up; more comes from `env` in the lab file.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": str(Path.home()),
    "LANG": "C.UTF-8",
}

# Stepping into a namespace concerns one thread, and pyroute2 runs an event loop of its own: one thread does both.
_netlink_thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
_veth_numbers = itertools.count()


class NetnsSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A netns host has no settings of its own; what it runs goes under `exec`."""

    def mistakes(self, node: Node, lab: Lab) -> list[tuple[tuple[str, ...], str]]:
        """Find interfaces with an MTU that no TAP device has."""
        return [
            (("interfaces", interface.name, "mtu"), f"{interface.mtu} is more than the {MAX_MTU} a netns host can have")
            for interface in node.interfaces
            if interface.mtu > MAX_MTU
        ]


class NetnsDriver(Driver):
    """One network-namespace host."""

    name: ClassVar[str] = "netns"
    Spec: ClassVar[type[Struct]] = NetnsSpec

    def __init__(self, node: Node, context: NodeContext) -> None:
        super().__init__(node, context)
        self._child: Child | None = None
        self._channel: AgentChannel | None = None
        self._namespace = -1
        self._stopping = False

    async def prepare(self) -> None:
        """Start the agent in new namespaces and wait until it answers."""
        if not self.context.namespace:
            raise NodeError("a netns host needs network namespaces, which this machine does not allow; see: lab doctor")
        _warm_up()
        ours, theirs = socket.socketpair()
        with theirs:
            argv: list[str | Path] = [agent_program(), "--fd", str(theirs.fileno()), "--hostname", self.node.name]
            self._child = Child.spawn(
                [*argv, "--hosts", self.context.hosts_file],
                run_id=self.context.run_id,
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT,
                output=_STDERR,
            )
        spawn_task(self._watch(self._child))
        self._channel = AgentChannel(self._lost)
        await self._channel.open(ours)
        hello = await self._channel.wait_hello()
        for warning in hello.warnings:
            self.context.console_output(f"[vswitch: {warning}]\n".encode())
        self._namespace = os.open(f"/proc/{self._child.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    async def _watch(self, child: Child) -> None:
        code = await child.wait()
        if not self._stopping:
            self.context.exited(describe_exit(code))

    def _lost(self, reason: str) -> None:
        """The host cannot be reached any more, so it is ended (if it has not been: then its exit says why)."""
        if self._child is not None and not self._stopping:
            self.context.console_output(f"[vswitch: {reason}]\n".encode())
            self._child.kill()

    async def open_port(self, interface: Interface) -> FabricEnd:
        """Create the interface in the host, configured and up."""
        assert self._child is not None
        try:
            return await _in_netlink_thread(lambda: _make_interface(self._namespace, interface))
        except NodeError as error:
            what = f"{interface.name} (mtu {interface.mtu}, {', '.join(interface.addresses) or 'no address'})"
            raise NodeError(f"node {self.node.name}: interface {what}: {error}") from None

    async def set_carrier(self, interface: Interface, up: bool) -> None:
        """Have the host's stack see it."""
        if self._namespace >= 0:
            await _in_netlink_thread(lambda: _set_carrier(self._namespace, interface.name, up))

    async def start(self) -> None:
        """Nothing is left to do: the agent answered in `prepare`, the interfaces came with their links."""

    async def stop(self) -> None:
        """End PID 1 of the host, and with it everything that runs there."""
        self._stopping = True
        if self._channel is not None:
            await self._channel.close()
        if self._child is not None:
            await self._child.wait_or_kill(_STOP_GRACE)
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1

    async def exec(self, request: ExecRequest) -> ExecSession:
        """Start a command in the host."""
        if self._channel is None:
            raise NodeError(f"node {self.node.name} is not up")
        return await self._channel.exec(request)

    @property
    def pid(self) -> int | None:
        """Process id of the agent."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None


@functools.cache
def _warm_up() -> None:
    """Have the thread import pyroute2, which takes a while, before the first interface is asked for."""
    _netlink_thread.submit(importlib.import_module, "pyroute2")


async def _in_netlink_thread(work: Callable[[], _T]) -> _T:
    try:
        return await asyncio.get_running_loop().run_in_executor(_netlink_thread, work)
    except Exception as error:
        raise NodeError(f"configuring the host's network: {error}") from error


def _make_interface(namespace: int, interface: Interface) -> FabricEnd:
    """Create `interface` in the network namespace, set it up; return what the fabric gets."""
    from pyroute2 import IPRoute

    try:
        with visiting(namespace), IPRoute() as route:
            (fd,) = open_tap(interface.name).fds
            with _closed_on_error(fd):
                # Closing the last descriptor of a TAP destroys it, at some 20 ms each; a persistent one goes with its
                # namespace, which the kernel takes apart in the background, many at once (measured: 0.1 ms).
                make_persistent(fd)
                _configure(route, interface)
        return FabricEnd("tap", (fd,))
    except (PermissionError, FileNotFoundError):
        pass  # no TUN for us
    outside = f"v{next(_veth_numbers)}"
    with IPRoute() as route:
        peer = {"ifname": interface.name, "net_ns_fd": namespace, "mtu": interface.mtu}
        route.link("add", ifname=outside, kind="veth", mtu=interface.mtu, peer=peer)
        index = route.link_lookup(ifname=outside)[0]
        route.link("set", index=index, state="up")
    (fd,) = open_packet(outside)
    with _closed_on_error(fd), visiting(namespace), IPRoute() as route:
        disable_offloads_beyond_headers(interface.name)
        _configure(route, interface)
        _wait_up(route, interface.name)
    return FabricEnd("packet", (fd,))


def _configure(route: IPRoute, interface: Interface) -> None:
    index = route.link_lookup(ifname=interface.name)[0]
    route.link("set", index=index, address=interface.mac, mtu=interface.mtu)
    route.link("set", index=index, state="up")
    for text in interface.addresses:
        address = ip_interface(text)
        extra: dict[str, str | int] = {}
        if address.version == 6:
            extra["flags"] = _IFA_F_NODAD
        elif address.network.prefixlen < 31:
            extra["broadcast"] = str(address.network.broadcast_address)
        route.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **extra)


def _set_carrier(namespace: int, name: str, up: bool) -> None:
    """A TAP device has a carrier to set; one end of a veth pair has one while the other, which is here, is up."""
    from pyroute2 import IPRoute

    with visiting(namespace), IPRoute() as route:
        index = route.link_lookup(ifname=name)[0]
        kind = route.get_links(index)[0].get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")
        if kind != "veth":
            route.link("set", index=index, attrs=[("IFLA_CARRIER", int(up))])  # `carrier=` is quietly left out
            return
        outside = route.get_links(index)[0].get_attr("IFLA_LINK")
    with IPRoute() as route:
        route.link("set", index=outside, state="up" if up else "down")


def _wait_up(route: IPRoute, name: str) -> None:
    """Wait until the kernel has activated both ends of a veth pair: what is sent before is lost, counted nowhere."""
    index = route.link_lookup(ifname=name)[0]
    pause = threading.Event()
    for _ in range(_UP_TRIES):
        if route.get_links(index)[0].get_attr("IFLA_OPERSTATE") == "UP":
            return
        pause.wait(_UP_PAUSE)
    raise NodeError(f"interface {name} did not come up within {_UP_TRIES * _UP_PAUSE:g} s")


@contextlib.contextmanager
def _closed_on_error(fd: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(fd)
        raise
