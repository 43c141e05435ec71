"""Port type `vde` facing outside: a VDE switch others plug into, or a plug in somebody else's; see vde_server.py."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from ..errors import FabricError
from .background import running
from .backoff import Backoff
from .peer_name import peer_name
from .port import Attach, PortSpec, Status, attach_owned
from .vde_client import plugged_in
from .vde_directory import MAX_DIRECTORY, remove_dead_directory
from .vde_request import MAX_PORT
from .vde_server import VdeServer, hang_up

Mode = Annotated[str, Meta(pattern="^0?[0-7]{3}$", extra={"what": "octal permissions such as 660"})]
"""Permissions, octal, as in `chmod 660`."""


class VdeSpec(PortSpec, frozen=True, kw_only=True, tag="vde"):
    """Exactly one of `listen` and `connect`, a control directory such as /run/user/1000/lan.ctl.

    A listening port serves VDE clients, each a port NAME#1, NAME#2, ... of the network, by the number they ask for if
    they do. A connecting one is a client of a vde_switch, or of another lab's; it tries again, at growing intervals,
    whenever it is not connected. `mode` and `group` are those of the sockets it makes, `port` the one it asks for.
    """

    listen: str | None = None
    connect: str | None = None
    port: Annotated[int, Meta(ge=1, le=MAX_PORT)] | None = None
    mode: Mode | None = None
    group: str | None = None

    def problems(self) -> list[str]:
        """Check that there is one directory, and that it can be one."""
        given = [directory for directory in (self.listen, self.connect) if directory is not None]
        if len(given) != 1:
            return ["give exactly one of: listen, connect"]
        problems = []
        if not given[0].startswith("/") or len(os.fsencode(given[0])) > MAX_DIRECTORY:
            problems.append(f"{given[0]!r}: write the absolute path of a directory, of at most {MAX_DIRECTORY} bytes")
        if self.group is not None:
            try:
                _group_id(self.group)
            except FabricError as error:
                problems.append(f"group: {error}")
        if self.listen is not None and self.port is not None:
            problems.append("port: it is clients who ask for one; it goes with connect")
        return problems

    def many_peers(self) -> bool:
        """A listening port serves many clients."""
        return self.listen is not None

    def exclusive(self) -> dict[str, str]:
        """The directory served."""
        return {} if self.listen is None else {"listen": f"file {os.path.normpath(self.listen)}"}

    def remove_left(self) -> None:
        """Remove the directory that was served."""
        if self.listen is not None:
            remove_dead_directory(Path(self.listen))

    async def serve(self, attach: Attach, status: Status) -> None:
        """Listen or connect, for good. Raises FabricError when the directory or the group cannot be used."""
        mode = None if self.mode is None else int(self.mode, 8)
        group = None if self.group is None else _group_id(self.group)
        if self.listen is not None:
            await _serve_clients(self.listen, 0o600 if mode is None else mode, group, attach, status)
        elif self.connect is not None:
            await _stay_plugged(Path(self.connect), self.port, mode, group, attach, status)


def _group_id(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise FabricError(f"there is no group {name!r} on this machine") from None


async def _serve_clients(directory: str, mode: int, group: int | None, attach: Attach, status: Status) -> None:
    async def plug(number: int, data: socket.socket, peer: str) -> None:
        await _attach(attach, data, peer, f"#{number}")

    try:
        server = VdeServer(Path(directory), plug, lambda reason: status("listening", reason), mode=mode, group=group)
    except OSError as error:
        raise FabricError(f"serving VDE clients in {directory}: {error.strerror}") from None
    status("listening")
    await server.serve()


async def _stay_plugged(
    directory: Path, port: int | None, mode: int | None, group: int | None, attach: Attach, status: Status
) -> None:
    loop = asyncio.get_running_loop()
    backoff = Backoff()
    status("connecting")
    while True:
        try:
            async with plugged_in(directory, port, mode=mode, group=group) as (control, data):
                begun = loop.time()
                reason = await _plugged(attach, control, data)
                backoff.lasted(loop.time() - begun)
        except TimeoutError:
            reason = "the switch does not answer"
        except FabricError as error:
            reason = str(error)
        except OSError as error:
            reason = error.strerror or str(error)
        status("connecting", f"{directory}: {reason}")
        await backoff.wait()


async def _plugged(attach: Attach, control: socket.socket, data: socket.socket) -> str:
    """Have the port exist until it ends or the switch goes; return why. Raises FabricError."""
    async with running(_attach(attach, data, peer_name(control))) as port, running(hang_up(control)) as gone:
        await asyncio.wait({port, gone}, return_when=asyncio.FIRST_COMPLETED)
        return port.result() if port.done() else "the switch has gone"


async def _attach(attach: Attach, data: socket.socket, peer: str, label: str = "") -> str:
    """Have a port on `data`, which is taken over only once this runs."""
    return await attach_owned(attach, "dgram", [data.detach()], label, peer=peer)
