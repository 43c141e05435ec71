"""AF_PACKET sockets on a network device, for port type `packet` (packet.c). See packet(7)."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from contextlib import ExitStack, suppress
from typing import Annotated, Literal

from msgspec import Meta

from ..errors import FabricError
from .datagrams import adopt_socket, enlarge_buffers
from .netdevice import DeviceName, device_index, wait_for_device
from .port import Attach, Descriptor, PortSpec, Status
from .tap import MAX_QUEUES, close_all

Fanout = Literal["hash", "lb", "cpu", "rnd", "qm", "rollover"]

_ETH_P_ALL = 0x0003
_RECEIVE_BUFFER = (
    4 << 20
)  # bytes: a few dozen unfinished frames; of more than two or three a stream would lose the rest
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_DROP_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K, 0 bytes; linux/filter.h
# linux/if_packet.h
_SOL_PACKET = 263
_ADD_MEMBERSHIP, _VNET_HDR, _FANOUT, _IGNORE_OUTGOING = 1, 15, 18, 23
_MR_PROMISC = 1
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772  # linux/if_arp.h
_FANOUT_IGNORE_OUTGOING, _FANOUT_UNIQUE_ID = 0x4000, 0x2000
_FANOUT_TYPES: dict[Fanout, int] = {"hash": 0, "lb": 1, "cpu": 2, "rollover": 3, "rnd": 4, "qm": 5}

# Names of a device's features, as `ethtool -k` has them.
_BEYOND_HEADERS = frozenset(
    {
        *("tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-gre-segmentation", "tx-gre-csum-segmentation"),
        *("tx-ipxip4-segmentation", "tx-ipxip6-segmentation", "tx-esp-segmentation", "tx-gso-list", "tx-gso-partial"),
        *("tx-sctp-segmentation", "tx-checksum-sctp", "tx-tcp-accecn-segmentation", "tx-fcoe-segmentation"),
    }
)


def disable_offloads_beyond_headers(ifname: str) -> None:
    """Have the stack finish what it sends by device `ifname`, where a virtio-net header could not say what is missing.

    That is what is within tunnels (VXLAN, GRE), and SCTP. To be called for the end of a veth pair that the sending
    stack uses; plain TCP and UDP it goes on leaving to the other end. Raises OSError.
    """
    from pyroute2.ethtool.ioctl import IoctlEthtool

    device = IoctlEthtool(ifname)
    with device.sock:
        features = device.get_features()
        for name in _BEYOND_HEADERS.intersection(features.keys()):
            if features[name] and features.is_available(name):
                features[name] = False
        device.set_features(features)


def open_packet(
    ifname: str, *, queues: int = 1, fanout: Fanout = "hash", vnet_hdr: bool = True, promiscuous: bool = False
) -> list[int]:
    """Open raw sockets on device `ifname` of this thread's network namespace; return them, non-blocking.

    They receive what arrives at the device and none of what leaves by it; several share it as `fanout` says. With
    `vnet_hdr` a virtio-net header stands before each frame. `promiscuous` lasts until the first is closed. Raises
    OSError.
    """
    with ExitStack() as stack:
        # Protocol 0 receives nothing, so no frame of another device gets in before a socket is bound.
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        socks = [stack.enter_context(socket.socket(socket.AF_PACKET, kind, 0)) for _ in range(queues)]
        group = 0
        for sock in socks:
            enlarge_buffers(sock, receive=_RECEIVE_BUFFER)
            sock.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            if vnet_hdr:
                sock.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
            if queues > 1:  # until all have joined, each would receive what is for others, too
                program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
                sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(program)))
            sock.bind((ifname, _ETH_P_ALL))
            if queues > 1:
                how = _FANOUT_TYPES[fanout] | _FANOUT_IGNORE_OUTGOING | (0 if group else _FANOUT_UNIQUE_ID)
                sock.setsockopt(_SOL_PACKET, _FANOUT, group | how << 16)
                group = sock.getsockopt(_SOL_PACKET, _FANOUT) & 0xFFFF
        if promiscuous:
            index = socket.if_nametoindex(ifname)
            socks[0].setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("=iHH8x", index, _MR_PROMISC, 0))
        if queues > 1:
            for sock in socks:
                sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        return [sock.detach() for sock in socks]


class PacketSpec(PortSpec, frozen=True, kw_only=True, tag="packet"):
    """A network device of this machine, as it is: a veth, a physical NIC. Give `interface`, or a bound socket as `fd`.

    What arrives at the device enters the switch, what the switch sends leaves by it. This machine's own stack goes on
    using the device, and sees neither. `queues` are sockets among which `fanout` distributes what arrives (see
    packet(7)).
    """

    interface: DeviceName | None = None
    fd: Descriptor | None = None
    fds: Annotated[list[Descriptor], Meta(min_length=1, max_length=MAX_QUEUES)] | None = None
    queues: Annotated[int, Meta(ge=1, le=MAX_QUEUES)] = 1
    fanout: Fanout = "hash"
    vnet_hdr: bool = True
    promisc: bool = True

    def problems(self) -> list[str]:
        """Check what excludes what."""
        ways = [key for key in ("interface", "fd", "fds") if getattr(self, key) is not None]
        if len(ways) != 1:
            return ["give exactly one of: interface, fd, fds"]
        given = [key for key in ("queues", "fanout", "vnet_hdr", "promisc") if getattr(self, key) != getattr(_ANY, key)]
        if self.interface is None and given:
            return [f"a socket given by descriptor is somebody else's to set up; leave out: {', '.join(given)}"]
        return []

    async def serve(self, attach: Attach, status: Status) -> None:
        """Sit on the device; when it goes away, wait for one of that name to come back."""
        if self.interface is None:
            await self._serve_given(attach)
            return
        index = device_index(self.interface)
        while True:
            try:
                fds = self._open(self.interface)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise FabricError(_why_not_opened(error, self.interface)) from None
            else:
                try:
                    _check_ethernet(fds)
                    await attach("packet", fds, peer=f"device {self.interface}")
                finally:
                    close_all(fds)
                with suppress(OSError):
                    if socket.if_nametoindex(self.interface) == index:
                        return  # that has not been the reason
            status("waiting")
            await wait_for_device(self.interface)
            index = device_index(self.interface)

    def _open(self, ifname: str) -> list[int]:
        return open_packet(
            ifname, queues=self.queues, fanout=self.fanout, vnet_hdr=self.vnet_hdr, promiscuous=self.promisc
        )

    async def _serve_given(self, attach: Attach) -> None:
        fds = list(self.fds) if self.fds is not None else [fd for fd in (self.fd,) if fd is not None]
        try:
            ifname = _check_ethernet(fds)
            await attach("packet", fds, peer=f"device {ifname}")
        finally:
            close_all(fds)


_ANY = PacketSpec()


def _check_ethernet(fds: list[int]) -> str:
    """Raise FabricError unless these are raw sockets on one Ethernet device; return its name."""
    names = set()
    for fd in fds:
        with adopt_socket(os.dup(fd)) as sock:
            if sock.family != socket.AF_PACKET or sock.type != socket.SOCK_RAW:
                raise FabricError("the descriptor given is not a raw AF_PACKET socket")
            ifname, _, _, hardware, _ = sock.getsockname()
        if hardware == _ARPHRD_LOOPBACK:
            raise FabricError(f"device {ifname} hands back every frame sent to it; take another, such as a veth")
        if hardware != _ARPHRD_ETHER:
            raise FabricError(f"device {ifname or 'of the socket'} carries no Ethernet frames")
        names.add(ifname)
    if len(names) > 1:
        raise FabricError(f"the sockets given are on several devices: {', '.join(sorted(names))}")
    return str(names.pop())


def _why_not_opened(error: OSError, ifname: str) -> str:
    """What `open_packet` could not do, and the cure."""
    if error.errno == errno.EPERM:
        return (
            "sockets on network devices need CAP_NET_RAW; run `lab up` as root, or hand over one that is bound already "
            "(fd)"
        )
    return f"device {ifname}: {error.strerror}"
