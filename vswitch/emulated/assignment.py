"""What the driver tells the process of an emulated node, and the role that comes of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..model.lab import Interface
from .captures import Captured, CaptureError, read_capture
from .echo import Echo
from .host import Host
from .pktgen import Pktgen
from .python_role import Node, Python, load_class
from .replay import Replay
from .role import Role
from .settings import EmulatedSpec
from .sink import Sink


class Assignment(Struct, frozen=True, kw_only=True):
    """One node. `settings` are those of `targets.resolve`; `rings` maps interface names to descriptors of ring sockets.

    `flow` is for the probes of a generator; `nodes` are the lab's nodes in order, `names` maps names to addresses.
    """

    node: str
    interfaces: tuple[Interface, ...]
    rings: dict[str, int]
    settings: dict[str, Any]
    flow: int
    nodes: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    directory: str


def make_role(assignment: Assignment, spec: EmulatedSpec) -> Role:
    """The role, not yet begun. Raises LabError, ValueError, and whatever a user's class raises."""
    flows = dict(enumerate(assignment.nodes))
    linked = [interface for interface in assignment.interfaces if interface.name in assignment.rings]
    match spec.does:
        case "pktgen":
            return Pktgen(spec, assignment.flow, flows)
        case "sink":
            return Sink(flows)
        case "echo":
            macs = [bytes.fromhex(interface.mac.replace(":", "")) for interface in linked]
            return Echo(macs, promiscuous=bool(spec.promiscuous))
        case "host":
            vlan = int(spec.vlan) if spec.vlan is not None else None
            return Host(linked, vlan=vlan, gateway=spec.gateway, names=assignment.names)
        case "replay":
            assert spec.replay is not None
            return Replay(spec, functools.partial(_open_capture, Path(spec.replay)))
        case _:
            assert spec.python is not None
            user = load_class(spec.python, Path(assignment.directory))
            return Python(user(), Node(assignment.node, linked, spec.options or {}))


def _open_capture(path: Path) -> Iterator[Captured]:
    try:
        with path.open("rb") as file:
            yield from read_capture(file)
    except CaptureError as error:
        raise CaptureError(f"{path}: {error}") from None
