"""The cable between a machine's interface and the fabric: a plug for the machine's side, and how its transport is made.

What a plug says to its machine is the driver's; see qemu_transport.py and uml_transport.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from ..coordinator.supervise import spawn_task
from ..errors import NodeError
from ..model.lab import Interface, Transport
from ..ports.vde_server import VdeCable
from .driver import FabricEnd, NodeContext


class Plug:
    """The machine's end of a cable: the descriptors it inherits for it, which `close` closes here."""

    def __init__(self, *fds: int) -> None:
        self.fds = fds
        self._cable: VdeCable | None = None
        self._serving: asyncio.Task[None] | None = None

    def serve(self, cable: VdeCable, directory: Path) -> None:
        """Let the machine ask for its end at control directory `directory`, as often as it likes, until `remove`."""
        self._cable = cable
        self._serving = spawn_task(cable.serve(), name=f"serve {directory}")

    def close(self) -> None:
        """Close our copies of the descriptors: the machine has its own by now, or will never want them. Idempotent."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()

    async def remove(self) -> None:
        """Close what is left of the cable once the machine is gone."""
        self.close()
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait({self._serving})
        if self._cable is not None:
            self._cable.close()


P = TypeVar("P", bound=Plug)
Makers = Mapping[Transport, Callable[[Interface, NodeContext], Awaitable[tuple[P, FabricEnd]]]]


async def open_cable(
    interface: Interface, context: NodeContext, makers: Makers[P], *, auto: Transport, namespaced: Collection[Transport]
) -> tuple[P, FabricEnd]:
    """Make what the interface's transport asks for by its function of `makers`; `auto` says which "auto" is.

    Those in `namespaced` need the lab to have a network namespace of its own. Raises NodeError naming the interface.
    """
    transport = auto if interface.transport == "auto" else interface.transport
    try:
        if transport in namespaced and not context.namespace:
            raise NodeError(
                "it needs the lab to have a network namespace of its own, which this machine does not allow; "
                f"use transport: {auto}, or see: lab doctor"
            )
        return await makers[transport](interface, context)
    except (NodeError, OSError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NodeError(f"{interface.name}, transport {transport}: {what}") from None
