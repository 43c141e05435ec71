"""Network devices of the namespace the fabric is in: named, configured, waited for, through rtnetlink(7).

pyroute2 is imported when first needed: it takes 0.2 s, and most labs have no port on a device.
"""

from __future__ import annotations

import difflib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from ..errors import FabricError

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

DeviceName = Annotated[
    str,
    Meta(
        pattern=r"^(?!\.{1,2}$)[!-$&-.0-9;-~]{1,15}$",
        extra={"what": "a network device's name: 15 ASCII characters at most, none of them '/', ':', '%' or a space"},
    ),
]


class DeviceRefusedError(FabricError):
    """The kernel would not change a device; `code` is its errno."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def device_index(name: str) -> int:
    """The index of device `name`. Raises FabricError, naming the devices there are."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        known = sorted(known for _, known in socket.if_nameindex())
        guess = difflib.get_close_matches(name, known, 1)
        meant = f"; did you mean {guess[0]!r}?" if guess else ""
        raise FabricError(f"there is no network device {name!r}; known: {', '.join(known)}{meant}") from None


@asynccontextmanager
async def configured(
    index: int, *, up: bool = False, mtu: int | None = None, bridge: str | None = None, undo: bool = True
) -> AsyncIterator[None]:
    """Have device `index` up, with `mtu` bytes and in Linux bridge `bridge`, as far as asked for, and undo it after.

    Without `undo` it is left so. Nothing is changed, and no privilege needed, where it is so already. Raises
    DeviceRefusedError, and FabricError when there is no such device or bridge.
    """
    from pyroute2 import AsyncIPRoute

    wanted: dict[str, Any] = {}
    if mtu is not None:
        wanted["mtu"] = mtu
    if bridge is not None:
        wanted["master"] = device_index(bridge)
    if up:
        wanted["state"] = "up"
    async with AsyncIPRoute() as route:
        before = await _state(route, index)
    try:
        async with AsyncIPRoute() as route:
            for key, value in wanted.items():
                if before[key] != value:
                    what = f"adding it to bridge {bridge}" if key == "master" else f"setting {key} to {value}"
                    await _change(route, index, f"device {before['ifname']}: {what}", **{key: value})
        yield
    finally:
        if undo:
            with suppress(FabricError):  # it is gone, or the right to change it
                async with AsyncIPRoute() as route:
                    now = await _state(route, index)
                    if changed := {key: before[key] for key in wanted if now[key] != before[key]}:
                        await _change(route, index, "undoing", **changed)


async def _state(route: AsyncIPRoute, index: int) -> dict[str, Any]:
    """What `configured` may change of a device."""
    from pyroute2 import NetlinkError

    try:
        async for link in await route.get_links(index):
            return {key: link.get(key) for key in ("ifname", "state", "mtu")} | {"master": link.get("master") or 0}
    except NetlinkError as error:
        raise DeviceRefusedError(f"looking at network device {index}: {error.args[1]}", error.code) from None
    raise FabricError(f"there is no network device with index {index}")


async def _change(route: AsyncIPRoute, index: int, what: str, **change: Any) -> None:
    from pyroute2 import NetlinkError

    try:
        await route.link("set", index=index, **change)
    except NetlinkError as error:
        raise DeviceRefusedError(f"{what}: {error.args[1]}", error.code) from None


async def wait_for_device(name: str) -> None:
    """Return once there is a device `name`. Raises OSError when the kernel cannot be asked to tell."""
    from pyroute2 import AsyncIPRoute, NetlinkError
    from pyroute2.netlink.rtnl import RTMGRP_LINK

    while True:
        async with AsyncIPRoute() as route:
            await route.bind(groups=RTMGRP_LINK)
            with suppress(OSError):
                socket.if_nametoindex(name)  # it came before we listened
                return
            with suppress(NetlinkError, OSError):  # more was told than we have read: look for ourselves
                async for message in route.get():
                    if message.get("event") == "RTM_NEWLINK" and message.get("ifname") == name:
                        return
