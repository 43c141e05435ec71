"""The C engine that moves frames (core.c).

Only the fabric process imports this. Every call returns after the engine's thread has done the work, which takes
microseconds, as it happens between two bursts of frames.
"""

from typing import Any

PORT_TYPES: tuple[str, ...]
"""Port types `Engine.add_port` knows."""
DROP_REASONS: tuple[str, ...]
"""Every name that may occur in a port's drop counters."""

class Engine:
    """One frame-moving thread and its switches and ports. Raises OSError when it cannot be made."""

    def __init__(self) -> None: ...
    def fileno(self) -> int:
        """Return a descriptor that is readable while `events` has something to tell."""

    def close(self) -> None:
        """Stop the thread and close every port. Idempotent; everything else raises ValueError afterwards."""

    def add_switch(self, hub: bool, ageing: float, fdb_limit: int, /) -> int:
        """Make a learning switch, or a hub, and return its id. `ageing` in seconds, `fdb_limit` in entries."""

    def configure_switch(
        self,
        switch: int,
        /,
        *,
        ageing: float,
        fdb_limit: int,
        vlan_filtering: bool,
        vlan_protocol: int,
        reserved: bytes,
    ) -> None:
        """Change a switch's settings; a hub has them, too, and does not look at them.

        `vlan_protocol` is the type of the tags it sees, 0x8100 or 0x88a8. `reserved` has 16 bytes: by the last four
        bits of the addresses 01:80:c2:00:00:00 to 0f, whether frames for them are forwarded (0), dropped (1) or
        delivered to control ports only (2). What was learnt is forgotten when tags are to be looked at in another way;
        what is over a new limit, at once. Raises KeyError (no such switch) or ValueError.
        """

    def remove_switch(self, switch: int, /) -> None:
        """Remove a switch and its ports. Raises KeyError."""

    def add_port(self, switch: int, port_type: str, fds: list[int], options: bytes = b"", /, **settings: Any) -> int:
        """Make a port of `fds` and return its id. `options` holds the struct its C file reads, if it does.

        `settings` are none or all of what `configure_port` takes; they hold from the port's first frame on. Raises
        TypeError or ValueError (unknown type, wrong number of descriptors, wrong size of options, wrong settings),
        after which the descriptors are still the caller's, or OSError (they are not what the type needs), after which
        they are closed.
        """

    def configure_port(
        self,
        port: int,
        /,
        *,
        members: bytes,
        pvid: int,
        isolated: bool,
        learning: bool,
        unknown_flood: bool,
        broadcast_flood: bool,
        multicast_flood: bool,
        sticky: bool,
        hairpin: bool,
        control: bool,
        overflow_drop: bool,
        storm_limit: int,
        mac_limit: int,
        mtu: int,
    ) -> None:
        """Change a port's settings; a hub's port looks at `mtu` and `overflow_drop` only.

        `members` has 512 bytes: bit v & 7 of byte v >> 3 is set when the port is in VLAN v (1..4094). Untagged frames
        belong to VLAN `pvid` and those of that VLAN leave untagged; 0: they are dropped. `storm_limit` in frames/s,
        `mtu` in bytes; of all limits 0 means none. A new port is in VLAN 1 untagged, learns, floods all, and has no
        limits. What was learnt in VLANs the port leaves is forgotten. Raises KeyError (no such port) or ValueError.
        """

    def remove_port(self, port: int, /) -> None:
        """Remove a port, in whatever state it is. Raises KeyError."""

    def end_port(self, port: int, reason: str, /) -> None:
        """End a port that is up, its peer having gone; it stays, closed, and is among `events()`.

        Raises KeyError.
        """

    def stats(self) -> list[dict[str, Any]]:
        """Return a row per port.

        Its keys are `id` (int), `type`, `state`, `reason` (str); `macs`, how many addresses the switch has on it;
        `rx_frames`, `rx_bytes`, `tx_frames`, `tx_bytes`, each also with `unicast_`, `multicast_` and `broadcast_` after
        the direction; `unlearnt` and `pauses` (int); `drops` (dict[str, int]), the reasons that occurred. Received (rx)
        means by the switch from the port's peer.
        """

    def events(self) -> list[tuple[int, str, str]]:
        """Return (port id, state, reason) of each port that has ended since the last call."""

    def fdb(self, switch: int, /) -> list[tuple[int, int, int, float, str]]:
        """Return (address as a number, VLAN, port id, age in seconds, kind) of each address known, in no order.

        VLAN is 0 on a switch that does not filter; kind is "dynamic", "sticky" or "static". Raises KeyError.
        """

    def fdb_add(self, switch: int, mac: int, vlan: int, port: int, /) -> None:
        """Put a static entry in place of whatever there is for this address and VLAN.

        Raises KeyError (no such switch, or no such port on it), ValueError (not a station's address, not a VLAN) or
        OSError (the table is full of entries that may not go; a hub has none).
        """

    def fdb_remove(self, switch: int, mac: int, vlan: int, /) -> None:
        """Forget an entry of any kind.

        Raises KeyError (no such switch, no such entry), ValueError or OSError (a hub).
        """

    def fdb_flush(self, switch: int, port: int | None, vlan: int | None, /) -> int:
        """Forget what was learnt, sticky or not: all, or that of one port, of one VLAN, or of both. Return how many.

        Raises KeyError (no such switch, no such port on it), ValueError or OSError (a hub).
        """
