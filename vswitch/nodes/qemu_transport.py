"""How frames travel between a QEMU machine's interface and the fabric: one function for each value of `transport`.

Each makes both ends, in the lab's own namespace: a `QemuPlug` and a `FabricEnd`. Nothing here has a name or number
that another lab, or another interface of this one, could have as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from ..errors import NodeError
from ..model.lab import Interface, Transport
from ..ports.bus import Bus
from ..ports.l2tpv3 import Header, open_l2tpv3
from ..ports.mcast import open_bus
from ..ports.packet import open_packet
from ..ports.tap import open_tap
from ..ports.vde_server import VdeCable
from . import cable
from .cable import Plug
from .driver import FabricEnd, NodeContext
from .qemu_command import escaped

_L2TP_PORT = 1701


class QemuPlug(Plug):
    """QEMU's end of a cable: its `-netdev` argument, without an id."""

    def __init__(self, netdev: str, *fds: int) -> None:
        super().__init__(*fds)
        self.netdev = netdev


Cable = tuple[QemuPlug, FabricEnd]


def plug_stream(sock: socket.socket) -> QemuPlug:
    """Have QEMU take `sock`, a connected stream socket."""
    fd = sock.detach()
    return QemuPlug(f"stream,server=off,addr.type=fd,addr.str={fd}", fd)


def plug_bus(bus: Bus) -> QemuPlug:
    """Have QEMU join `bus`."""
    return QemuPlug(f"socket,mcast={bus.group}:{bus.port},localaddr={bus.localaddr}")


async def open_cable(interface: Interface, context: NodeContext) -> Cable:
    """Make what the interface's transport asks for. Raises NodeError naming the interface."""
    return await cable.open_cable(interface, context, _CABLES, auto="stream", namespaced=_NEED_NAMESPACE)


async def _stream(interface: Interface, context: NodeContext) -> Cable:
    ours, theirs = socket.socketpair()
    return plug_stream(theirs), FabricEnd("stream", (ours.detach(),))


async def _dgram(interface: Interface, context: NodeContext) -> Cable:
    ours, theirs = (sock.detach() for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    return QemuPlug(f"dgram,local.type=fd,local.str={theirs}", theirs), FabricEnd("dgram", (ours,))


async def _mcast(interface: Interface, context: NodeContext) -> Cable:
    bus = Bus.numbered(context.new_number())
    return plug_bus(bus), FabricEnd("mcast", open_bus(*bus))


async def _tap(interface: Interface, context: NodeContext) -> Cable:
    name = f"tap{context.new_number()}"
    try:
        return await asyncio.get_running_loop().run_in_executor(None, _make_tap, name, interface)
    except (PermissionError, FileNotFoundError) as error:
        raise NodeError(f"/dev/net/tun is not for this user ({error.strerror}); use transport: stream") from None


def _make_tap(name: str, interface: Interface) -> Cable:
    """Make a TAP device for QEMU and a raw socket on it for the fabric. It is gone when QEMU is."""
    from pyroute2 import IPRoute

    fds = open_tap(name, queues=interface.queues).fds
    plug = QemuPlug(f"tap,fds={':'.join(map(str, fds))}" if len(fds) > 1 else f"tap,fd={fds[0]}", *fds)
    try:
        # Our own stack is at the device's other end, and nothing that it says of itself belongs into the lab.
        disabled = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        if disabled.exists():
            disabled.write_text("1")
        with IPRoute() as route:
            route.link("set", index=socket.if_nametoindex(name), mtu=interface.mtu, state="up")
        return plug, FabricEnd("packet", tuple(open_packet(name)))
    except BaseException:
        plug.close()
        raise


async def _vde(interface: Interface, context: NodeContext) -> Cable:
    directory = context.run_dir / f"{interface.name}.vde"
    served = VdeCable(directory)
    plug = QemuPlug(f"vde,sock={escaped(os.fspath(directory))}")
    plug.serve(served, directory)
    return plug, FabricEnd("dgram", (os.dup(served.fd),))


async def _l2tpv3(interface: Interface, context: NodeContext) -> Cable:
    number = context.new_number()
    ours, theirs = (f"127.{side}.{number >> 8}.{number & 255}" for side in (1, 2))
    # From the seed, like all that is random in a lab; the MAC address tells its interfaces apart.
    digest = hashlib.sha256(f"l2tpv3 {context.lab.seed} {interface.mac}".encode()).digest()
    session, cookie = int.from_bytes(digest[:4]) | 1, int.from_bytes(digest[4:12])
    header = Header(tx_session=session, rx_session=session, tx_cookie=cookie, rx_cookie=cookie, cookie64=True)
    fd, options = open_l2tpv3((ours, _L2TP_PORT), (theirs, _L2TP_PORT), header)
    netdev = f"l2tpv3,src={theirs},dst={ours},udp=on,srcport={_L2TP_PORT},dstport={_L2TP_PORT}"
    words = f"txsession={session},rxsession={session},cookie64=on,txcookie={cookie},rxcookie={cookie}"
    return QemuPlug(f"{netdev},{words}"), FabricEnd("l2tpv3", (fd,), options)


_CABLES: dict[Transport, Callable[[Interface, NodeContext], Awaitable[Cable]]] = {
    "stream": _stream,
    "dgram": _dgram,
    "mcast": _mcast,
    "tap": _tap,
    "vde": _vde,
    "l2tpv3": _l2tpv3,
}
_NEED_NAMESPACE: frozenset[Transport] = frozenset({"mcast", "tap", "l2tpv3"})

TRANSPORTS: tuple[Transport, ...] = ("auto", *_CABLES)
