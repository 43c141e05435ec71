"""AF_PACKET sockets, for port type `packet` (packet.c): the fabric's end of a veth pair. See packet(7)."""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_SIOCETHTOOL = 0x8946
# linux/ethtool.h: ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SUFO, ETHTOOL_STXCSUM
_OFFLOADS = (0x1F, 0x24, 0x22, 0x17)


def open_packet(ifname: str) -> int:
    """Open a raw socket on device `ifname` of this thread's network namespace; return its descriptor, non-blocking.

    It receives what arrives at the device and none of what leaves by it. Raises OSError.
    """
    # Protocol 0 receives nothing, so no frame of another device gets in before the socket is bound.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0) as sock:
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        sock.bind((ifname, _ETH_P_ALL))
        return sock.detach()


def disable_offloads(ifname: str) -> None:
    """Have the stack finish what it sends through `ifname`: checksums filled in, nothing longer than the MTU.

    To be called for the end of a veth pair that the *sending* stack uses: the pair itself passes frames on unfinished,
    trusting the stack at the other end, and a raw socket there would get them without checksums. Raises OSError.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in _OFFLOADS:
            value = array.array("I", [command, 0])  # struct ethtool_value
            try:
                fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", ifname.encode(), value.buffer_info()[0]))
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:  # the device does not have this one
                    raise
