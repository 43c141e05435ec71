"""The C engine that moves frames (core.c).

Only the fabric process imports this. Every call returns after the engine's thread has done the work, which takes
microseconds, as it happens between two bursts of frames.
"""

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

    def remove_switch(self, switch: int, /) -> None:
        """Remove a switch and its ports. Raises KeyError."""

    def add_port(self, switch: int, port_type: str, fds: list[int], /) -> int:
        """Make a port of `fds` and return its id.

        Raises ValueError (unknown type, wrong number of descriptors), after which the descriptors are still the
        caller's, or OSError (they are not what the type needs), after which they are closed.
        """

    def remove_port(self, port: int, /) -> None:
        """Remove a port, in whatever state it is. Raises KeyError."""

    def stats(self) -> list[tuple[int, str, str, str, int, int, int, int, int, int, dict[str, int]]]:
        """Return (id, type, state, reason, rx_frames, rx_bytes, tx_frames, tx_bytes, unlearnt, pauses, drops) per port.

        Received means by the switch from the port's peer. `drops` holds the reasons that occurred.
        """

    def events(self) -> list[tuple[int, str, str]]:
        """Return (port id, state, reason) of each port that has ended since the last call."""

    def fdb(self, switch: int, /) -> list[tuple[int, int, float]]:
        """Return (address as a number, port id, age in seconds) of each address learnt, in no order. Raises OSError."""
