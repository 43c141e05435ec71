"""What drivers of machines with a kernel of their own share: a child process, its console, its agent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..coordinator.supervise import Child
from ..errors import AgentError, NodeError
from ..model.lab import Node
from .agent import AgentChannel
from .driver import Driver, NodeContext
from .serial_console import SerialConsole

LAST_WORDS_GRACE = 1.0
"""Seconds that what a machine says last may take after its process has ended."""


class GuestDriver(Driver):
    """A machine that is the process `_child`; once it has ended, the task `_watcher` has too, and `_reason` says how."""

    def __init__(self, node: Node, context: NodeContext, output: Callable[[bytes], None]) -> None:
        super().__init__(node, context)
        self._child: Child | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = False
        self._reason = ""
        self._console = SerialConsole(output)
        self._agent: AgentChannel | None = None

    async def _greeted(self, agent: AgentChannel) -> None:
        """Wait for the agent's greeting, and show what it warns of. Raises AgentError when the channel is lost."""
        hello = await agent.wait_hello()
        for warning in hello.warnings:
            self.context.console_output(f"[vswitch: {warning}]\n".encode())

    async def _or_death(self, work: Awaitable[Any]) -> None:
        """Wait for `work`, but not past the machine's end. Raises NodeError saying how it ended."""
        assert self._watcher is not None
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._watcher}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                try:
                    task.result()
                    return
                except (AgentError, NodeError, EOFError):
                    # What fails because the machine is ending is told by its end; give that a moment to show.
                    await asyncio.wait({self._watcher}, timeout=LAST_WORDS_GRACE)
                    if not self._watcher.done():
                        raise
            raise NodeError(self._reason)
        finally:
            task.cancel()

    async def console_write(self, data: bytes) -> None:
        """Type on the machine's serial console; waits while the guest does not take it."""
        await self._console.write(data)

    @property
    def has_console(self) -> bool:
        """Always."""
        return True

    @property
    def pid(self) -> int | None:
        """Process id of the machine, or of the process that waits for it and ends with it."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None
