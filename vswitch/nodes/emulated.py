"""Driver `emulated`: an endpoint that is a process of ours on shared-memory rings; see vswitch/emulated/.

The process gets one end of a socket pair per interface, over which the fabric hands it the interface's ring, and one
for commands, over which it speaks the agent's protocol: its greeting says that it is attached to all its rings.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import ClassVar

import msgspec
from msgspec import Struct

from ..coordinator.supervise import Child, describe_exit, spawn_task
from ..emulated.settings import EmulatedSpec
from ..errors import AgentError, NodeError
from ..model.lab import Interface, Lab, Node
from .agent import AgentChannel
from .driver import Driver, ExecRequest, ExecSession, FabricEnd, NodeContext
from .process_output import ProcessOutput

_STOP_GRACE = 1.0  # s
_LAST_WORDS_GRACE = 1.0  # s


class EmulatedDriver(Driver):
    """One emulated node."""

    name: ClassVar[str] = "emulated"
    Spec: ClassVar[type[Struct]] = EmulatedSpec
    opens_rings: ClassVar[bool] = True

    def __init__(self, node: Node, context: NodeContext) -> None:
        super().__init__(node, context)
        self._spec = msgspec.convert(node.settings, EmulatedSpec)
        self._rings: dict[str, socket.socket] = {}
        self._child: Child | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._channel: AgentChannel | None = None
        self._console = ProcessOutput(context.console_output)
        self._stopping = False

    async def prepare(self) -> None:
        """Find out what the names in the settings mean."""
        from ..emulated.targets import resolve

        try:
            self._spec = resolve(self._spec, self.node, self.context.lab)
        except ValueError as error:
            raise NodeError(str(error)) from None

    async def open_port(self, interface: Interface) -> FabricEnd:
        """Keep one end of a socket pair for the process, return the other."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._rings[interface.name] = ours
        return FabricEnd("ring", (theirs.detach(),))

    async def start(self) -> None:
        """Start the process; return once it has attached to its rings."""
        if self._child is not None or self._stopping:
            raise NodeError(f"node {self.node.name} was started before")
        self._channel = AgentChannel(self._lost)
        ours = await self._spawn()
        await self._channel.open(ours)
        hello = asyncio.ensure_future(self._channel.wait_hello())
        assert self._watcher is not None
        try:
            await hello
        except AgentError:
            # It ended instead; how, and its last words, say more.
            await asyncio.wait({self._watcher}, timeout=_LAST_WORDS_GRACE)
            raise NodeError(self._reason or "its process does not answer") from None

    async def _spawn(self) -> socket.socket:
        """Start the process with its ends of everything; return our end of its control socket."""
        ours, theirs = socket.socketpair()
        words_read, words_write = os.pipe()
        assignment = os.memfd_create("assignment")
        rings = {name: ring.fileno() for name, ring in self._rings.items()}
        try:
            os.write(assignment, self._assignment(rings))
            os.lseek(assignment, 0, os.SEEK_SET)
            argv = [sys.executable, "-m", "vswitch.emulated", "--parent", str(os.getpid())]
            argv += ["--assignment-fd", str(assignment), "--control-fd", str(theirs.fileno())]
            self._child = Child.spawn(
                argv,
                run_id=self.context.run_id,
                pass_fds=[assignment, theirs.fileno(), *rings.values()],
                env={**os.environ, **self.node.env, "PYTHONUNBUFFERED": "1"},
                output=words_write,
            )
        except OSError as error:
            os.close(words_read)
            ours.close()
            raise NodeError(f"starting its process: {error}") from error
        finally:
            os.close(assignment)
            os.close(words_write)
            theirs.close()
            for ring in self._rings.values():
                ring.close()
            self._rings.clear()
        self._watcher = spawn_task(self._watch(self._child), name=f"watch {self.node.name}")
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: self._console, os.fdopen(words_read, "rb", 0))
        return ours

    def _assignment(self, rings: dict[str, int]) -> bytes:
        from ..emulated.assignment import Assignment
        from ..emulated.meter import RUNS

        lab = self.context.lab
        nodes = tuple(lab.nodes)
        # Another number for each start, so that a sink does not take a new run's frames for late ones of the last.
        run = int(time.monotonic()) % RUNS
        return msgspec.json.encode(
            Assignment(
                node=self.node.name,
                interfaces=self.node.interfaces,
                rings=rings,
                settings={key: value for key, value in msgspec.to_builtins(self._spec).items() if value is not None},
                flow=nodes.index(self.node.name) * RUNS + run if self.node.name in nodes else run,
                nodes=nodes,
                names=_names(lab),
                directory=os.fspath(Path(lab.source).absolute().parent),
            )
        )

    def _lost(self, reason: str) -> None:
        """The process does not talk to us any more: it is ending, and its exit will say why, or is made to."""
        if self._child is not None and not self._stopping:
            spawn_task(self._child.wait_or_kill(_STOP_GRACE))

    # --- end --------------------------------------------------------------------------------------------------------

    _reason = ""

    async def _watch(self, child: Child) -> None:
        code = await child.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_GRACE):
                await self._console.ended.wait()
        said = self._console.last_line if code > 0 else ""
        self._reason = f"{describe_exit(code)}: {said}" if said else describe_exit(code)
        if not self._stopping:
            self.context.exited(self._reason)

    async def stop(self) -> None:
        """Hang up, upon which the process ends; make it if it does not."""
        self._stopping = True
        for ring in self._rings.values():
            ring.close()
        self._rings.clear()
        if self._channel is not None:
            await self._channel.close()
        if self._child is not None:
            await self._child.wait_or_kill(_STOP_GRACE)
        if self._watcher is not None:
            await asyncio.wait({self._watcher})
        self._console.close()

    # --- use --------------------------------------------------------------------------------------------------------

    async def exec(self, request: ExecRequest) -> ExecSession:
        """Run one of the node's own commands; `help` lists them."""
        if self._channel is None:
            raise NodeError(f"node {self.node.name} is not up")
        return await self._channel.exec(request)

    @property
    def has_console(self) -> bool:
        """Its console shows what it says; there is nothing to type at."""
        return True

    async def console_write(self, data: bytes) -> None:
        """Refuse: raises NodeError for anything but nothing."""
        if data:
            raise NodeError(f"an emulated node's console only shows; use: lab exec {self.node.name} -- help")

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    def facts(self) -> dict[str, str]:
        """What it does."""
        return {"role": self._spec.does}


def _names(lab: Lab) -> dict[str, tuple[str, ...]]:
    """The addresses each name of the lab stands for."""
    found: dict[str, tuple[str, ...]] = {}
    for address, names in lab.hosts.items():
        for name in names:
            found[name] = (*found.get(name, ()), address)
    return found
