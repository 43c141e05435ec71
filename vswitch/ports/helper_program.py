"""Programs a port runs for a moment: hooks, and QEMU's bridge helper. Bounded in time, and quoted when they fail."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from ..coordinator.supervise import Child, describe_exit
from ..errors import FabricError
from ..nodes.agent import agent_program
from ..rundir import RUN_ENV

TIME_LIMIT = 30.0
"""Seconds a program may take."""
_QUOTED = 4096  # bytes of its output, from the end
_BRIDGE_HELPERS = tuple(
    f"/usr/{directory}/qemu-bridge-helper" for directory in ("lib/qemu", "libexec", "local/libexec", "local/lib/qemu")
)


async def run_program(argv: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
    """Run `argv` to its end. Raises FabricError when it fails or takes too long, with the last line it printed."""
    _check_executable(argv[0])
    with tempfile.TemporaryFile() as output:
        try:
            child = Child.spawn(
                [agent_program(), "--die-with", str(os.getpid()), *argv],
                run_id=os.environ.get(RUN_ENV, ""),
                pass_fds=pass_fds,
                output=output,
            )
        except OSError as error:
            raise FabricError(f"{argv[0]}: {error.strerror}") from None
        try:
            async with asyncio.timeout(TIME_LIMIT):
                code = await child.wait()
        except TimeoutError:
            raise FabricError(f"{argv[0]}: not done within {TIME_LIMIT:g} s{_last_line(output)}") from None
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # with whatever it has started
                await child.wait()
        if code != 0:
            raise FabricError(f"{argv[0]}: {describe_exit(code)}{_last_line(output)}")


def _check_executable(program: str) -> None:
    """Raises FabricError when it cannot be run, as far as one can see."""
    path = shutil.which(program)
    if path is None:
        there = os.path.lexists(program)
        raise FabricError(f"{program}: {os.strerror(errno.EACCES if there else errno.ENOENT)}")


def _last_line(output: IO[bytes]) -> str:
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - _QUOTED))
    lines = output.read(_QUOTED).decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def find_bridge_helper() -> str | None:
    """Where qemu-bridge-helper is, if it is installed."""
    return next((path for path in _BRIDGE_HELPERS if os.access(path, os.X_OK)), None)


async def ask_bridge_helper(program: str, bridge: str, *, vnet_hdr: bool) -> int:
    """Have qemu-bridge-helper make a TAP device in `bridge`, up, and return its descriptor. Raises FabricError."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            argv = [program, "--use-vnet"] if vnet_hdr else [program]
            await run_program([*argv, f"--br={bridge}", f"--fd={theirs.fileno()}"], [theirs.fileno()])
        _, fds, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    if not fds:
        raise FabricError(f"{program} handed over no device")
    return fds[0]
