"""TAP devices, for port type `tap` (tap.c). See Documentation/networking/tuntap.rst of the Linux kernel."""

from __future__ import annotations

import errno
import fcntl
import getpass
import logging
import os
import struct
from contextlib import AsyncExitStack, suppress
from typing import Annotated, NamedTuple

from msgspec import Meta

from ..errors import FabricError
from .helper_program import ask_bridge_helper, find_bridge_helper, run_program
from .netdevice import DeviceName, DeviceRefusedError, configured, device_index
from .port import Attach, Descriptor, PortSpec, Status

log = logging.getLogger(__name__)

MAX_MTU = 65521
"""Bytes; the longest frame a TAP device of Linux carries is 65535."""
MAX_QUEUES = 16
_MAX_SNDBUF = 0x7FFFFFFF
_ANY_NAME = "vsw%d"  # the kernel puts a number there

# linux/if_tun.h
_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_TUNSETPERSIST, _TUNSETSNDBUF = 0x400454CB, 0x400454D4
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_VNET_HDR = 0x0002, 0x1000, 0x0100, 0x4000
_IFREQ = struct.Struct("16sH22x")

_FORBIDDEN = (errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENODEV)
_NOT_BY_HELPER = ("ifname", "queues", "device_mtu", "persist")  # it makes one queue, and chooses the rest
_Path = Annotated[str, Meta(extra={"path": True})]


class Tap(NamedTuple):
    """A TAP device that is open: its name, and a descriptor for each of its queues."""

    name: str
    fds: list[int]


def open_tap(name: str, *, queues: int = 1, vnet_hdr: bool = True) -> Tap:
    """Create (or open, if it is there and free) TAP device `name` in this thread's network namespace.

    One read or write of a descriptor, which does not block, is one Ethernet frame, behind a virtio-net header if
    `vnet_hdr`. A "%d" in the name becomes a free number. Unless it is persistent, the device is gone when all are
    closed. Raises OSError (EPERM, EACCES, ENOENT or ENODEV when TAP devices are not for this user).
    """
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if vnet_hdr else 0) | (_IFF_MULTI_QUEUE if queues > 1 else 0)
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            try:
                answer = fcntl.ioctl(fds[-1], _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
            except OSError as error:
                if error.errno != errno.EINVAL or queues > 1:
                    raise
                # Perhaps it has been made for several queues: then it wants to hear so from each.
                answer = fcntl.ioctl(fds[-1], _TUNSETIFF, _IFREQ.pack(name.encode(), flags | _IFF_MULTI_QUEUE))
            name = _IFREQ.unpack(answer)[0].rstrip(b"\0").decode()
    except BaseException:
        close_all(fds)
        raise
    return Tap(name, fds)


def make_persistent(fd: int) -> None:
    """Have the device behind `fd` live on without a descriptor, until it is deleted or its namespace ends."""
    fcntl.ioctl(fd, _TUNSETPERSIST, 1)


def close_all(fds: list[int]) -> None:
    """Close what is in the list, and empty it."""
    while fds:
        os.close(fds.pop())


def _why_not_opened(error: OSError, name: str, *, queues: int) -> str:
    """What `open_tap` could not do, and the cure."""
    multi_queue = " multi_queue" if queues > 1 else ""
    for_you = f"ip tuntap add dev tap0 mode tap user {getpass.getuser()}{multi_queue} && ip link set tap0 up"
    match error.errno:
        case errno.ENOENT | errno.ENODEV:
            return "there is no /dev/net/tun on this machine: modprobe tun"
        case errno.EACCES:
            return "/dev/net/tun is not open to this user; run `lab up` as root, or chmod 666 /dev/net/tun"
        case errno.EPERM if name == _ANY_NAME:
            return (
                "making TAP devices needs CAP_NET_ADMIN; run `lab up` as root, "
                f"or have root make one for you ({for_you}) and give its name: ifname: tap0"
            )
        case errno.EPERM:
            return f"device {name} is not this user's; run `lab up` as root, or have root make it: " + for_you.replace(
                "tap0", name
            )
        case errno.EBUSY:
            return f"device {name} is in use by another program"
        case errno.EINVAL:
            return f"device {name} is not a TAP device" + (", or not one for several queues" if queues > 1 else "")
    return f"device {name}: {error.strerror}"


def _device_behind(fd: int) -> tuple[str, int]:
    """The name and the flags of an open TAP device. Raises OSError for anything else, and when it is gone."""
    name, flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
    return name.rstrip(b"\0").decode(), flags


def _given_tap(fds: list[int], stack: AsyncExitStack) -> Tap:
    """The device behind `fds`, which are closed with `stack`."""
    stack.callback(close_all, fds)
    names = set()
    for fd in fds:
        try:
            name, flags = _device_behind(fd)
        except OSError:
            name, flags = "", 0
        if flags & (_IFF_TAP | _IFF_NO_PI) != _IFF_TAP | _IFF_NO_PI:
            raise FabricError("the descriptor given is not that of a TAP device (IFF_TAP | IFF_NO_PI)")
        names.add(name)
    if len(names) > 1:
        raise FabricError(f"the descriptors given are of several devices: {', '.join(sorted(names))}")
    return Tap(names.pop(), fds)


async def _run_downscript(program: str, fd: int, name: str) -> None:
    """Run it with the name the device has by now; what goes wrong is for the log, nobody waits for it."""
    with suppress(OSError):  # it is gone: the script may have more to clear away
        name = _device_behind(fd)[0]
    try:
        await run_program([program, name])
    except FabricError as error:
        log.warning("downscript: %s", error)


class TapSpec(PortSpec, frozen=True, kw_only=True, tag="tap"):
    """A TAP device of this machine: created (or opened by name), or given by descriptors.

    `bridge` is a Linux bridge to put it in; `helper` says whether QEMU's qemu-bridge-helper may do that: "auto" where
    we may not ourselves, "none", or the helper to use. `script` and `downscript` are run with the device's name as
    their argument, as QEMU does, before the first frame and after the last. `sndbuf` is in bytes, `device_mtu` the
    device's own (`mtu` is the switch port's). `persist` leaves the device there when the port goes.
    """

    ifname: DeviceName | None = None
    fd: Descriptor | None = None
    fds: Annotated[list[Descriptor], Meta(min_length=1, max_length=MAX_QUEUES)] | None = None
    queues: Annotated[int, Meta(ge=1, le=MAX_QUEUES)] = 1
    vnet_hdr: bool = True
    device_mtu: Annotated[int, Meta(ge=68, le=MAX_MTU)] | None = None
    up: bool = True
    bridge: DeviceName | None = None
    helper: Annotated[str, Meta(pattern="^(auto|none|/.*)$", extra={"what": "auto, none, or a program's path"})] = (
        "auto"
    )
    script: _Path | None = None
    downscript: _Path | None = None
    sndbuf: Annotated[int, Meta(ge=1, le=_MAX_SNDBUF, extra={"unit": "size"})] | None = None
    persist: bool = False
    vhost: bool = False

    def problems(self) -> list[str]:
        """Check what excludes what."""
        found = []
        if self.vhost:
            found.append(
                "vhost: the frames pass through the switch, not through the kernel's vhost-net; leave it out "
                "(vnet_hdr, which is on by default, is what makes a TAP fast)"
            )
        if self.sndbuf is not None and not 0 < self.sndbuf <= _MAX_SNDBUF:
            found.append("sndbuf is from 1 byte to 2047M")
        if self.fd is not None and self.fds is not None:
            found.append("give one of: fd, fds")
        if self.fd is not None or self.fds is not None:
            ours = ("ifname", "queues", "vnet_hdr", "device_mtu", "up", "bridge", "helper", "script", "downscript")
            if given := self._given((*ours, "persist")):
                found.append(f"a device given by descriptor is somebody else's to set up; leave out: {given}")
        elif self.helper.startswith("/"):
            if self.bridge is None:
                found.append("helper: say which bridge")
            if given := self._given(_NOT_BY_HELPER):
                found.append(f"qemu-bridge-helper makes devices of its own choice; leave out: {given}")
        return found

    def exclusive(self) -> dict[str, str]:
        """The device, if it is named: a program has all its queues, or none."""
        return {} if self.ifname is None else {"ifname": f"device {self.ifname}"}

    def _given(self, keys: tuple[str, ...]) -> str:
        """Those of `keys` that are not at their default."""
        default = type(self)()
        return ", ".join(key for key in keys if getattr(self, key) != getattr(default, key))

    async def serve(self, attach: Attach, status: Status) -> None:
        """Open the device and serve it until it is deleted; what was changed of it is undone."""
        async with AsyncExitStack() as stack:
            tap = await self._open(stack)
            if self.sndbuf is not None:
                fcntl.ioctl(tap.fds[0], _TUNSETSNDBUF, struct.pack("i", self.sndbuf))
            # The downscript finds the device still there, although the engine has closed its descriptors by then.
            last = os.dup(tap.fds[0])
            stack.callback(os.close, last)
            if self.downscript is not None:
                stack.push_async_callback(_run_downscript, self.downscript, last, tap.name)
            if self.script is not None:
                await run_program([self.script, tap.name])
            await attach("tap", tap.fds, peer=f"device {tap.name}")

    async def _open(self, stack: AsyncExitStack) -> Tap:
        """The device as asked for, undone with `stack`."""
        given = [self.fd] if self.fd is not None else self.fds
        if given is not None:
            return _given_tap(list(given), stack)
        if self.helper.startswith("/"):
            return await self._ask_helper(self.helper, stack)
        name = self.ifname or _ANY_NAME
        try:
            return await self._make(name, stack)
        except OSError as error:
            why = _why_not_opened(error, name, queues=self.queues)
            forbidden = error.errno in _FORBIDDEN
        except DeviceRefusedError as error:
            forbidden = error.code == errno.EPERM
            why = f"{error}; run `lab up` as root, or have root do this beforehand" if forbidden else str(error)
        helper = find_bridge_helper() if self.bridge is not None and self.helper == "auto" else None
        if not forbidden or helper is None or self._given(_NOT_BY_HELPER):
            raise FabricError(why)
        return await self._ask_helper(helper, stack)

    async def _make(self, name: str, stack: AsyncExitStack) -> Tap:
        async with AsyncExitStack() as made:
            tap = open_tap(name, queues=self.queues, vnet_hdr=self.vnet_hdr)
            made.callback(close_all, tap.fds)
            if self.persist:
                make_persistent(tap.fds[0])
            index = device_index(tap.name)
            await made.enter_async_context(
                configured(index, up=self.up, mtu=self.device_mtu, bridge=self.bridge, undo=not self.persist)
            )
            stack.push_async_exit(made.pop_all())
        return tap

    async def _ask_helper(self, helper: str, stack: AsyncExitStack) -> Tap:
        assert self.bridge is not None
        try:
            fd = await ask_bridge_helper(helper, self.bridge, vnet_hdr=self.vnet_hdr)
        except FabricError as error:
            cure = f"it wants a line 'allow {self.bridge}' in /etc/qemu/bridge.conf, and to be setuid root"
            raise FabricError(f"{error} ({cure})") from None
        return _given_tap([fd], stack)
