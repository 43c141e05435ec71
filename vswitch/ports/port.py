"""What a port type is on the Python side: the settings a lab file may give it, and how it is found.

Adding a port type is one file here (a `PortSpec` subclass plus what opens its descriptors) and, if it moves frames in a
new way, one C file with a `struct port_ops` and one line in port_types.def.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Protocol

from msgspec import Meta, Struct

Descriptor = Annotated[
    int, Meta(ge=3, lt=1 << 20, extra={"descriptor": True, "what": "the number of an open descriptor, 3 or more"})
]
"""An open one: in the lab file its number in the `lab up` that is run; in `serve()` its number there, to be owned."""


_lab_up: ContextVar[asyncio.Event] = ContextVar("lab_up")


def say_when_lab_is_up(event: asyncio.Event) -> None:
    """Have `lab_is_up()` wait for `event`, in this task and those it makes."""
    _lab_up.set(event)


async def lab_is_up() -> None:
    """Within `serve()`: return once every node of the lab is ready."""
    await _lab_up.get().wait()


class Attach(Protocol):
    """Makes a port in the network: see `PortSpec.serve`."""

    async def __call__(
        self, port_type: str, fds: list[int], label: str = "", options: bytes = b"", peer: str = ""
    ) -> str:
        """Hand `fds` to the engine as a port of `port_type` and return, once that has ended, why.

        `label` is put after the port's name where several may exist at once; `options` are the bytes of the
        struct that the type's C file reads, if it does; `peer` tells people what is at the other end, where the
        lab file does not. The descriptors taken are removed from the list, the rest stays the caller's. Raises
        FabricError when the engine refuses.
        """


async def attach_owned(
    attach: Attach, port_type: str, fds: list[int], label: str = "", options: bytes = b"", peer: str = ""
) -> str:
    """`attach` descriptors nobody else will close: those the engine has not taken are closed. Raises FabricError."""
    try:
        return await attach(port_type, fds, label, options, peer)
    finally:
        for fd in fds:
            os.close(fd)


class Status(Protocol):
    """Tells what a port does while nothing is attached to it: see `PortSpec.serve`."""

    def __call__(self, state: str, reason: str = "") -> None:
        """Note the new state ("listening", "connecting") and, if it is not as it should be, why."""


class PortSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Settings of a port that faces outside the lab, as written under `networks.NAME.ports`. Subclasses set `tag=`.

    Beside them stand the settings every port of a switch has (model.spec.PortSettingsSpec), whose names are taken.

    Override `problems()` for rules that types cannot say.
    """

    def problems(self) -> list[str]:
        """Return what is wrong with the values taken together, [] when nothing is. Asked before `serve()`, too."""
        return []

    def many_peers(self) -> bool:
        """Whether several peers may be attached at once, each as a port of its own."""
        return False

    def exclusive(self) -> dict[str, str]:
        """What of this machine no two ports can have at once, in words, by the key that names it."""
        return {}

    def remove_left(self) -> None:
        """Remove the files a process leaves that was killed while it served this, unless somebody serves them again."""

    async def serve(self, attach: Attach, status: Status) -> None:
        """Open what the settings say, `attach` it, and go on for as long as the port is wanted; then cancelled.

        Runs in the fabric process, in the host's network namespace. `status` tells what it does while nothing is
        attached. The first call of either says that opening worked; before, raise OSError or FabricError when it did
        not. To return says that the port is closed for good, for the reason its peer left.
        """
        raise NotImplementedError(type(self).__name__)


def load_port_types() -> dict[str, type[PortSpec]]:
    """Import every module of this package and return the port specs by type name."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return {str(spec.__struct_config__.tag): spec for spec in PortSpec.__subclasses__()}
