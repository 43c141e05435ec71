"""Port type `raw-pipe`: a command whose standard input and output are the cable, so that ssh can be a link.

The command has one end of a socket pair for both, which programs read, write, poll and shut down like a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal

from msgspec import Meta

from ..coordinator.supervise import Child, describe_exit
from ..errors import FabricError
from ..nodes.agent import agent_program
from ..nodes.process_output import ProcessOutput
from ..rundir import RUN_ENV
from .background import running
from .backoff import Backoff
from .port import Attach, PortSpec, Status, attach_owned

_GRACE = 2.0  # s between the end of the command and that of its output, whichever comes first
_LONGEST_DELAY = 30.0  # s
_SETTLED = 0.5  # s after which a command that neither says anything nor ends counts as one that works
_ENGINE_TYPES = {"qemu": "stream", "vde": "vdestream"}
_SOCKET_TYPES = {"stream": socket.SOCK_STREAM, "vdestream": socket.SOCK_SEQPACKET}
"""What a vde_plug reads at a time must not end within a length, or it loses frames: it gets a frame at a time."""

Word = Annotated[str, Meta(min_length=1)]


class RawPipeSpec(PortSpec, frozen=True, kw_only=True, tag="raw-pipe"):
    """`command` is a list of words, or a text for the shell; frames go to its standard input and come from its output.

    Each is preceded by its length: 32 bits in QEMU's `framing`, 16 bits in that of `vde`, which `vde_plug` and
    `dpipe` use. A command that ends is started again, at growing intervals, unless `restart` is false.
    """

    command: Word | Annotated[list[str], Meta(min_length=1)]
    framing: Literal["qemu", "vde"] = "qemu"
    restart: bool = True

    def problems(self) -> list[str]:
        """Check that it can be a command at all."""
        words = [self.command] if isinstance(self.command, str) else self.command
        if any("\0" in word for word in words):
            return ["command: no word of it can hold the character NUL"]
        return [] if words[0] else ["command: its first word names a program"]

    async def serve(self, attach: Attach, status: Status) -> None:
        """Run the command, again and again. Raises FabricError when there is no such program, or it may not restart."""
        argv = ["/bin/sh", "-c", self.command] if isinstance(self.command, str) else self.command
        if shutil.which(argv[0]) is None:
            raise FabricError(f"there is no program {argv[0]} to run")
        loop = asyncio.get_running_loop()
        backoff = Backoff(longest=_LONGEST_DELAY)
        status("starting")
        while True:
            begun = loop.time()
            code, reason = await _run(argv, _ENGINE_TYPES[self.framing], attach)
            if not self.restart:
                if code:
                    raise FabricError(reason)
                return
            backoff.lasted(loop.time() - begun)
            status("restarting", reason)
            await backoff.wait()


async def _run(argv: Sequence[str], engine_type: str, attach: Attach) -> tuple[int, str]:
    """Have a port on the command until either ends; return its exit code, and how it ended in words."""
    ours, theirs = socket.socketpair(type=_SOCKET_TYPES[engine_type])
    refusal = ""
    with ours, theirs:
        async with _started(argv, theirs) as (child, errors):
            theirs.close()
            async with (
                running(_attach(attach, engine_type, ours, f"pid {child.pid}")) as port,
                running(child.wait()) as ended,
            ):
                await asyncio.wait({port, ended}, return_when=asyncio.FIRST_COMPLETED)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GRACE):  # one follows the other
                        await asyncio.wait({port, ended})
                if port.done() and (error := port.exception()) is not None:
                    if not isinstance(error, FabricError):
                        raise error
                    refusal = str(error)
            child.kill()
            code = await child.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await errors.ended.wait()
            return code, refusal or ": ".join(part for part in (describe_exit(code), errors.last_line) if part)


@contextlib.asynccontextmanager
async def _started(argv: Sequence[str], pipe: socket.socket) -> AsyncIterator[tuple[Child, ProcessOutput]]:
    """The running command, and what it says on its standard error; it has ended afterwards."""
    errors = ProcessOutput(lambda data: None)
    reading, writing = os.pipe()
    said = os.fdopen(reading, "rb", buffering=0)
    try:
        child = Child.spawn(
            [agent_program(), "--die-with", str(os.getpid()), *argv],
            run_id=os.environ.get(RUN_ENV, ""),
            stdin=pipe.fileno(),
            output=pipe.fileno(),
            errors=writing,
            whole_group=True,
        )
    except BaseException:
        said.close()
        raise
    finally:
        os.close(writing)
    try:
        await asyncio.get_running_loop().connect_read_pipe(lambda: errors, said)
        yield child, errors
    finally:
        child.kill()
        await child.wait()
        errors.close()


async def _attach(attach: Attach, engine_type: str, sock: socket.socket, peer: str) -> None:
    if not await _works(sock):  # no port is up for a moment each time a command is tried that cannot work
        return
    await attach_owned(attach, engine_type, [sock.detach()], peer=peer)


async def _works(sock: socket.socket) -> bool:
    """Return once the command at the other end has said something, or has run for a while; False if it ends before."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        async with asyncio.timeout(_SETTLED):
            await readable.wait()
    except TimeoutError:
        return True
    finally:
        loop.remove_reader(sock)
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except OSError:  # it has ended, as when there is nothing to read
        return False
