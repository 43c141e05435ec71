"""What the coordinator and the fabric say to each other: msgpack in the datagrams of a SOCK_SEQPACKET socket pair.

The coordinator sends `Request`s, descriptors beside them (SCM_RIGHTS). The fabric answers each with one `Reply`, or
several where the rows of a table do not fit one message, and tells of ports that end with `FabricEvent`s.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

MAX_MESSAGE = 65536
"""Bytes; longer ones are a mistake. Below what a socket of default size takes at once."""
MAX_FDS = 4
"""Descriptors beside one request."""
ROWS_PER_REPLY = 100
"""Keeps a table's messages well below `MAX_MESSAGE`."""


class AddNetwork(Struct, frozen=True, tag="add-network"):
    """Make a switch or hub. `ageing` in seconds, `fdb_limit` in entries."""

    network: str
    kind: Literal["switch", "hub"]
    ageing: float
    fdb_limit: int


class RemoveNetwork(Struct, frozen=True, tag="remove-network"):
    """Remove a network and its ports."""

    network: str


class AddPort(Struct, frozen=True, tag="add-port"):
    """Make a port of the descriptors sent along."""

    network: str
    port: str
    port_type: str


class AddOutsidePort(Struct, frozen=True, tag="add-outside-port"):
    """Make a port that the fabric opens itself, from the settings in the lab file (`type` among them)."""

    network: str
    port: str
    spec: dict[str, Any]


class ListenRings(Struct, frozen=True, tag="listen-rings"):
    """Let clients open ring ports by name over the listening socket sent along."""


class RemovePort(Struct, frozen=True, tag="remove-port"):
    """Remove a port of either sort."""

    network: str
    port: str


class GetStats(Struct, frozen=True, tag="stats"):
    """Ask for the counters of all ports; answered with rows of `PortStats`."""


class GetFdb(Struct, frozen=True, tag="fdb"):
    """Ask for the addresses a network has learnt; answered with rows of `FdbEntry`."""

    network: str


Operation = AddNetwork | RemoveNetwork | AddPort | AddOutsidePort | ListenRings | RemovePort | GetStats | GetFdb


class Request(Struct, frozen=True):
    """One operation. `number` is the coordinator's choice and comes back in the replies."""

    number: int
    operation: Operation


class PortStats(Struct, frozen=True, kw_only=True):
    """Counters of one port since it was made. Received (rx) means by the switch from the port's peer.

    `state` is "up", "closed" or "error", `reason` why it is not up; a port that faces outside may also be "listening"
    or "connecting". `drops` maps the reasons that occurred (vswitch.fabric.core.DROP_REASONS) to frames; `unlearnt`
    counts frames whose source found the FDB full, `pauses` how often this port had to wait for a slower one.
    """

    network: str
    port: str
    type: str
    state: str
    reason: str = ""
    rx_frames: int = 0
    rx_bytes: int = 0
    tx_frames: int = 0
    tx_bytes: int = 0
    unlearnt: int = 0
    pauses: int = 0
    drops: dict[str, int] = {}


class FdbEntry(Struct, frozen=True, kw_only=True):
    """An address the switch has learnt, on which port, and how many seconds ago it was last heard."""

    mac: str
    port: str
    age: float


class Reply(Struct, frozen=True, tag="reply", omit_defaults=True):
    """The answer to request `number`: an error's text, or None. Rows follow in further replies while `more`."""

    number: int
    error: str | None = None
    stats: list[PortStats] = []
    fdb: list[FdbEntry] = []
    more: bool = False


class FabricEvent(Struct, frozen=True, tag="event"):
    """A port changed its `state` (see `PortStats`), and why."""

    network: str
    port: str
    state: str
    reason: str


FromFabric = Reply | FabricEvent
