"""A fabric process of a test's own, with its client."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from vswitch.errors import FabricError
from vswitch.fabric.client import FabricClient, FabricEvent
from vswitch.model.lab import PortSettings

from .peers import TIMEOUT, Peer

_T = TypeVar("_T")
_DEFAULTS = PortSettings()


class Fabric:
    """A running fabric process, its client, and the events it sent."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "vswitch.fabric", "--control-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )
        self.events: asyncio.Queue[FabricEvent] = asyncio.Queue()
        self.client = FabricClient(ours, self.events.put_nowait)

    async def peer(self, network: str, port: str, settings: PortSettings = _DEFAULTS) -> Peer:
        """Add a stream port and return its far end."""
        peer, fd = Peer.pair()
        try:
            await self.client.add_port(network, port, "stream", [fd], settings)
        except FabricError:
            peer.close()
            raise
        return peer


@asynccontextmanager
async def running_fabric(prefix: Sequence[str] = ()) -> AsyncIterator[Fabric]:
    """A fabric with a switch `lan`; it must have ended, with status 0, soon after its client has closed.

    `prefix` is the command it is started through.
    """
    fabric = Fabric(prefix)
    try:
        await fabric.client.open()
        await fabric.client.add_network("lan", "switch")
        yield fabric
    finally:
        await fabric.client.close()
        status = await asyncio.to_thread(fabric.process.wait, TIMEOUT)
    assert status == 0


def run(test: Callable[[Fabric], Coroutine[Any, Any, None]], prefix: Sequence[str] = ()) -> None:
    """Run a test's body with a fabric, started through the command `prefix`."""

    async def main() -> None:
        async with asyncio.timeout(60), running_fabric(prefix) as fabric:
            await test(fabric)

    asyncio.run(main())


def within(work: Awaitable[_T]) -> Awaitable[_T]:
    """`work`, with a limit on its time."""
    return asyncio.wait_for(work, TIMEOUT)
