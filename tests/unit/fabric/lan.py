"""One switch on an engine of its own, in this process."""

from __future__ import annotations

import select
from typing import Any, NamedTuple

from vswitch.fabric import core

from .peers import TIMEOUT, Peer


class Counters(NamedTuple):
    """One row of `core.Engine.stats`."""

    id: int
    type: str
    state: str
    reason: str
    macs: int
    unlearnt: int
    pauses: int
    drops: dict[str, int]
    rx_frames: int
    rx_bytes: int
    rx_unicast_frames: int
    rx_unicast_bytes: int
    rx_multicast_frames: int
    rx_multicast_bytes: int
    rx_broadcast_frames: int
    rx_broadcast_bytes: int
    tx_frames: int
    tx_bytes: int
    tx_unicast_frames: int
    tx_unicast_bytes: int
    tx_multicast_frames: int
    tx_multicast_bytes: int
    tx_broadcast_frames: int
    tx_broadcast_bytes: int


class Lan:
    """A switch (or hub) and whatever ports a test adds."""

    def __init__(self, *, hub: bool = False, ageing: float = 300, fdb_limit: int = 8192) -> None:
        self.engine = core.Engine()
        self.switch = self.engine.add_switch(hub, ageing, fdb_limit)
        self._peers: list[Peer] = []

    def __enter__(self) -> Lan:
        return self

    def __exit__(self, *error: Any) -> None:
        self.engine.close()
        for peer in self._peers:
            peer.close()

    def peer(self) -> tuple[Peer, int]:
        """Add a stream port; return its far end and its id."""
        peer, fd = Peer.pair()
        self._peers.append(peer)
        return peer, self.engine.add_port(self.switch, "stream", [fd])

    def counters(self, port: int) -> Counters:
        """What port `port` has counted."""
        return next(Counters(**row) for row in self.engine.stats() if row["id"] == port)

    def next_event(self) -> tuple[int, str, str]:
        """Wait until a port ends; return (port, state, reason)."""
        readable, _, _ = select.select([self.engine.fileno()], [], [], TIMEOUT)
        assert readable, "no port ended"
        (event,) = self.engine.events()
        return event
