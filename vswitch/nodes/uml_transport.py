"""How frames travel between a User-Mode Linux machine's interface and the fabric: one function for each `transport`.

Each makes both ends, in the lab's own namespace: a `UmlPlug` and a `FabricEnd`. Nothing here has a
name or number that another lab, or another interface of this one, could have as well.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Literal

from ..errors import NodeError
from ..model.lab import Interface, Transport
from ..ports.bus import Bus
from ..ports.l2tpv3 import Header, open_l2tpv3
from ..ports.mcast import open_bus
from ..ports.vde_server import VdeCable
from . import cable
from .cable import Plug
from .driver import FabricEnd, NodeContext

OLD_MTU = 1500
"""The most that the drivers of `mcast` and `vde` take; the others are vector drivers."""
_L2TP_PORT = 1701
_DEPTH = 64  # frames a vector driver sends or receives with one system call


class UmlPlug(Plug):
    """User-Mode Linux's end of a cable: its driver, and that driver's options, which name the descriptors."""

    def __init__(self, driver: Literal["vec", "eth"], options: str, *fds: int) -> None:
        super().__init__(*fds)
        self._driver = driver
        self._options = options

    def word(self, number: int) -> str:
        """The word on the kernel's command line that makes it interface `number`."""
        return f"{self._driver}{number}{':' if self._driver == 'vec' else '='}{self._options}"


Cable = tuple[UmlPlug, FabricEnd]


async def plug_bus(interface: Interface, bus: Bus) -> UmlPlug:
    """Have the guest's kernel join `bus`. Raises NodeError."""
    await asyncio.get_running_loop().run_in_executor(None, _route_multicast_over_loopback)
    return UmlPlug("eth", f"mcast,{interface.mac},{bus.group},{bus.port},1")


async def open_cable(interface: Interface, context: NodeContext) -> Cable:
    """Make what the interface's transport asks for. Raises NodeError naming the interface."""
    return await cable.open_cable(interface, context, _CABLES, auto="dgram", namespaced=_NEED_NAMESPACE)


def _vector(transport: str, interface: Interface) -> str:
    return f"transport={transport},mac={interface.mac},mtu={interface.mtu},depth={_DEPTH}"


async def _dgram(interface: Interface, context: NodeContext) -> Cable:
    ours, theirs = (sock.detach() for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    return UmlPlug("vec", f"{_vector('fd', interface)},fd={theirs}", theirs), FabricEnd("dgram", (ours,))


async def _mcast(interface: Interface, context: NodeContext) -> Cable:
    bus = Bus.numbered(context.new_number())
    return await plug_bus(interface, bus), FabricEnd("mcast", open_bus(*bus))


async def _vde(interface: Interface, context: NodeContext) -> Cable:
    directory = context.run_dir / f"{interface.name}.vde"
    served = VdeCable(directory)
    plug = UmlPlug("eth", f"vde,{directory},{interface.mac}")
    plug.serve(served, directory)  # the guest's kernel asks each time the interface is set up
    return plug, FabricEnd("dgram", (os.dup(served.fd),))


async def _l2tpv3(interface: Interface, context: NodeContext) -> Cable:
    number = context.new_number()
    ours, theirs = (f"127.{side}.{number >> 8}.{number & 255}" for side in (3, 4))
    fd, options = open_l2tpv3((ours, _L2TP_PORT), (theirs, _L2TP_PORT), Header(tx_session=number, rx_session=number))
    between = f"src={theirs},dst={ours},srcport={_L2TP_PORT},dstport={_L2TP_PORT},udp=1"
    session = f"tx_session={number},rx_session={number}"
    return UmlPlug("vec", f"{_vector('l2tpv3', interface)},{between},{session}"), FabricEnd("l2tpv3", (fd,), options)


_CABLES: dict[Transport, Callable[[Interface, NodeContext], Awaitable[Cable]]] = {
    "dgram": _dgram,
    "mcast": _mcast,
    "vde": _vde,
    "l2tpv3": _l2tpv3,
}
_NEED_NAMESPACE: frozenset[Transport] = frozenset({"mcast", "l2tpv3"})

TRANSPORTS: tuple[Transport, ...] = ("auto", *_CABLES)


def _route_multicast_over_loopback() -> None:
    """Have this namespace, the lab's, send multicast over lo, where User-Mode Linux then joins. Raises NodeError."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as route:
            route.route("replace", dst="224.0.0.0/4", oif=socket.if_nametoindex("lo"))
    except NetlinkError as error:
        raise NodeError(f"routing multicast over lo: {error}") from None
