"""A client of a VDE switch: asks at its control directory for a port, and gets a connected datagram socket."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from .peer_name import peer_credentials
from .unix_file import hand_over
from .vde_request import ADDRESS_SIZE, VdeRequest, make_request, parse_address
from .vde_server import open_data_socket

_PATIENCE = 10.0  # s for the switch's answer
_TRIES = 16  # names tried in a directory
_FALLBACKS = (Path("/var/run"), Path("/var/tmp"), Path("/tmp"))
_numbers = itertools.count()


@contextlib.asynccontextmanager
async def plugged_in(
    directory: Path, port: int | None, *, mode: int | None, group: int | None
) -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """Be a client of the switch at `directory`: yield the control stream, whose end is the port's, and the data socket.

    `mode` and `group` are those of our socket, to which the switch must be able to write. Raises OSError, TimeoutError
    when the switch does not answer.
    """
    loop = asyncio.get_running_loop()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as control,
        open_data_socket() as data,
    ):
        async with asyncio.timeout(_PATIENCE):
            await loop.sock_connect(control, str(directory / "ctl"))
            with _bound(data, directory, mode, group, control) as path:
                await loop.sock_sendall(control, make_request(VdeRequest(port, str(path)), _description()))
                data.connect(await _receive_address(control))
        yield control, data


def _description() -> str:
    return f"vswitch pid={os.getpid()} uid={os.getuid()}"


async def _receive_address(control: socket.socket) -> str:
    data = b""
    while len(data) < ADDRESS_SIZE:
        piece = await asyncio.get_running_loop().sock_recv(control, ADDRESS_SIZE - len(data))
        if not piece:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the switch refused us a port")
        data += piece
    try:
        return parse_address(data)
    except ValueError:
        raise OSError(errno.EPROTO, "the switch did not answer with the path of a socket") from None


@contextlib.contextmanager
def _bound(
    data: socket.socket, directory: Path, mode: int | None, group: int | None, control: socket.socket
) -> Iterator[Path]:
    """Give `data` a name for as long as it takes the switch to connect to it. Raises OSError."""
    os.fchmod(data.fileno(), 0o700 if mode is None else mode)  # what bind() gives the file, but for the umask
    path = _bind(data, directory)
    uid = -1
    if os.geteuid() == 0:  # a switch of another user could not write to what is root's
        _, uid = peer_credentials(control)
    try:
        hand_over(path, mode=mode, uid=uid, gid=-1 if group is None else group)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _bind(data: socket.socket, directory: Path) -> Path:
    failure = OSError(errno.EADDRINUSE, "no name is free")
    for folder, prefix in [(directory, "."), *((folder, "vde.") for folder in _FALLBACKS)]:
        for _ in range(_TRIES):
            path = folder / f"{prefix}{os.getpid():05d}-{next(_numbers):05d}"
            try:
                data.bind(str(path))
            except OSError as error:
                failure = error
                if error.errno == errno.EADDRINUSE:  # left by another of our number
                    continue
                break
            return path
    raise failure
