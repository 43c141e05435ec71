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


def vlans(*members: int) -> bytes:
    """VLANs as the engine takes them."""
    return sum(1 << vlan for vlan in members).to_bytes(512, "little")


def port_settings(**changes: Any) -> dict[str, Any]:
    """All settings of a port, the default ones but for `changes`."""
    names = ("isolated", "sticky", "hairpin", "control", "overflow_drop")
    floods = ("learning", "unknown_flood", "broadcast_flood", "multicast_flood")
    limits = ("storm_limit", "mac_limit", "mtu")
    settings: dict[str, Any] = {"members": vlans(1), "pvid": 1}
    settings |= dict.fromkeys(names, False) | dict.fromkeys(floods, True) | dict.fromkeys(limits, 0)
    return settings | changes


def switch_settings(**changes: Any) -> dict[str, Any]:
    """All settings of a switch, the default ones but for `changes`."""
    settings: dict[str, Any] = {"ageing": 300.0, "fdb_limit": 8192, "vlan_filtering": False, "vlan_protocol": 0x8100}
    return settings | {"reserved": bytes(16)} | changes


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

    def peer(self, **settings: Any) -> tuple[Peer, int]:
        """Add a stream port, with what `settings` differ from the default in; return its far end and its id."""
        peer, fd = Peer.pair()
        self._peers.append(peer)
        return peer, self.engine.add_port(self.switch, "stream", [fd], **port_settings(**settings))

    def counters(self, port: int) -> Counters:
        """What port `port` has counted."""
        return next(Counters(**row) for row in self.engine.stats() if row["id"] == port)

    def next_event(self) -> tuple[int, str, str]:
        """Wait until a port ends; return (port, state, reason)."""
        readable, _, _ = select.select([self.engine.fileno()], [], [], TIMEOUT)
        assert readable, "no port ended"
        (event,) = self.engine.events()
        return event
