"""TAP devices, for port type `tap` (tap.c). See Documentation/networking/tuntap.rst of the Linux kernel."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_SIOCSIFMTU = 0x8922


def open_tap(name: str, *, mtu: int) -> int:
    """Create (or open, if it is there and free) TAP device `name` in this thread's network namespace.

    Returns a non-blocking descriptor; one read or write of it is one Ethernet frame. The device is gone when it is
    closed. Raises OSError (EPERM, EACCES or ENOENT when /dev/net/tun is not for this user).
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, _SIOCSIFMTU, struct.pack("16si20x", name.encode(), mtu))
    except OSError:
        os.close(fd)
        raise
    return fd
