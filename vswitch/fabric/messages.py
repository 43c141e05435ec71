"""What the coordinator and the fabric say to each other: msgpack in the datagrams of a SOCK_SEQPACKET socket pair.

The coordinator sends `Request`s, descriptors beside them (SCM_RIGHTS). The fabric answers each with one `Reply`, or
several where the rows of a table do not fit one message, and tells of ports that end with `FabricEvent`s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from ..model.lab import PortSettings, SwitchSettings
from ..ports.descriptors import MAX_OF_PORT

MAX_MESSAGE = 65536
"""Bytes; longer ones are a mistake. Below what a socket of default size takes at once."""
MAX_FDS = MAX_OF_PORT
"""Descriptors beside one request."""
_MAX_ROWS = MAX_MESSAGE // 2
"""Bytes of a table's rows in one reply; a single row is far smaller."""


class AddNetwork(Struct, frozen=True, tag="add-network"):
    """Make a switch or hub."""

    network: str
    kind: Literal["switch", "hub"]
    settings: SwitchSettings


class ConfigureNetwork(Struct, frozen=True, tag="configure-network"):
    """Change a switch's settings while it runs."""

    network: str
    settings: SwitchSettings


class RemoveNetwork(Struct, frozen=True, tag="remove-network"):
    """Remove a network and its ports."""

    network: str


class AddPort(Struct, frozen=True, tag="add-port"):
    """Make a port of the descriptors sent along, and its type's `options`; `settings` hold from its first frame."""

    network: str
    port: str
    port_type: str
    settings: PortSettings
    options: bytes = b""


class AddOutsidePort(Struct, frozen=True, tag="add-outside-port"):
    """Make a port that the fabric opens itself, from the fields of its type (`type` among them).

    Descriptors that the fields name are sent along, in their order.
    `settings` hold for each peer it ever has, from the first frame on.
    """

    network: str
    port: str
    spec: dict[str, Any]
    settings: PortSettings


class ConfigurePort(Struct, frozen=True, tag="configure-port"):
    """Change the settings of a port of either sort while it runs; static entries are among them."""

    network: str
    port: str
    settings: PortSettings


class AddPipe(Struct, frozen=True, tag="add-pipe"):
    """Join the two ring clients at the other ends of the sockets sent along directly, with nothing of ours between."""

    pipe: str


class RemovePipe(Struct, frozen=True, tag="remove-pipe"):
    """Forget a pipe's ends that nobody has opened yet; an open pipe belongs to its clients."""

    pipe: str


class ListenRings(Struct, frozen=True, tag="listen-rings"):
    """Let clients open ring ports by name over the listening socket sent along."""


class LabUp(Struct, frozen=True, tag="lab-up"):
    """Every node of the lab is ready: what was to wait for that begins."""


class RemovePort(Struct, frozen=True, tag="remove-port"):
    """Remove a port of either sort."""

    network: str
    port: str


class EndPort(Struct, frozen=True, tag="end-port"):
    """The peer of a port made by `AddPort` has gone, which the port itself may not see; no matter if it has ended."""

    network: str
    port: str
    reason: str


class GetStats(Struct, frozen=True, tag="stats"):
    """Ask for the counters of all ports; answered with rows of `PortStats`."""


class GetFdb(Struct, frozen=True, tag="fdb"):
    """Ask for the addresses a network has learnt; answered with rows of `FdbEntry`."""

    network: str


class RemoveFdbEntry(Struct, frozen=True, tag="remove-fdb-entry"):
    """Forget an address that was learnt, sticky or not."""

    network: str
    mac: str
    vlan: int


class FlushFdb(Struct, frozen=True, tag="flush-fdb"):
    """Forget all addresses that were learnt, sticky or not, or only those of a port, of a VLAN, or of both.

    Answered with their number.
    """

    network: str
    port: str | None
    vlan: int | None


Operation = (
    AddNetwork
    | ConfigureNetwork
    | RemoveNetwork
    | AddPort
    | AddOutsidePort
    | ConfigurePort
    | AddPipe
    | RemovePipe
    | ListenRings
    | RemovePort
    | EndPort
    | LabUp
    | GetStats
    | GetFdb
    | RemoveFdbEntry
    | FlushFdb
)


class Request(Struct, frozen=True):
    """One operation. `number` is the coordinator's choice and comes back in the replies."""

    number: int
    operation: Operation


class PortStats(Struct, frozen=True, kw_only=True):
    """Counters of one port since it was made. Received (rx) means by the switch from the port's peer.

    `state` is "up", "closed" or "error", `reason` why it is not up; a port that faces outside may also be "listening",
    "connecting" or the like; `peer` is what it has found at its other end. `drops` maps the reasons that occurred
    (vswitch.fabric.core.DROP_REASONS) to frames; `unlearnt` counts frames whose source could not be learnt, `pauses`
    how often this port had to wait for a slower one; `macs` is how many addresses the switch has on this port now.
    """

    network: str
    port: str
    type: str
    state: str
    reason: str = ""
    peer: str = ""
    rx_frames: int = 0
    rx_bytes: int = 0
    tx_frames: int = 0
    tx_bytes: int = 0
    rx_unicast_frames: int = 0
    rx_unicast_bytes: int = 0
    rx_multicast_frames: int = 0
    rx_multicast_bytes: int = 0
    rx_broadcast_frames: int = 0
    rx_broadcast_bytes: int = 0
    tx_unicast_frames: int = 0
    tx_unicast_bytes: int = 0
    tx_multicast_frames: int = 0
    tx_multicast_bytes: int = 0
    tx_broadcast_frames: int = 0
    tx_broadcast_bytes: int = 0
    macs: int = 0
    unlearnt: int = 0
    pauses: int = 0
    drops: dict[str, int] = {}


class FdbEntry(Struct, frozen=True, kw_only=True):
    """An address the switch knows, in which VLAN (0: it does not look), on which port.

    `kind` is "dynamic", "sticky" or "static"; `age` is how many seconds ago it was last heard.
    """

    mac: str
    vlan: int
    port: str
    kind: str
    age: float


class Reply(Struct, frozen=True, tag="reply", omit_defaults=True):
    """The answer to request `number`: an error's text, or None. Rows follow in further replies while `more`."""

    number: int
    error: str | None = None
    count: int = 0
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

_Row = TypeVar("_Row", PortStats, FdbEntry)
_encoder = msgspec.msgpack.Encoder()


def batches(rows: list[_Row]) -> Iterator[tuple[list[_Row], bool]]:
    """As many of a table's rows as one reply may hold, and whether there are more; at least once."""
    some: list[_Row] = []
    size = 0
    for row in rows:
        needed = len(_encoder.encode(row))
        if size + needed > _MAX_ROWS:
            yield some, True
            some, size = [], 0
        some.append(row)
        size += needed
    yield some, False
