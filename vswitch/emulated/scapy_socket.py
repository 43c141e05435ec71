"""A scapy socket over a ring: `sr1`, `sniff`, `AnsweringMachine` and whatever else scapy has, on a port of a lab.

    from vswitch.emulated.scapy_socket import RingSocket
    from vswitch.ring import Ring

    with RingSocket(Ring.open("duo/lan0:scapy")) as sock:
        answer = sock.sr1(Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="10.0.0.1"), timeout=1)

Scapy is not installed with vswitch.
"""

from __future__ import annotations

import select
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ..errors import MachineError

try:
    from scapy.layers.l2 import Ether
    from scapy.supersocket import SuperSocket
except ImportError:
    raise MachineError("scapy is not installed; run: pip install scapy") from None

if TYPE_CHECKING:
    from ..ring import Ring


class RingSocket(SuperSocket):
    """Sends and receives Ethernet frames through `ring`, which it closes with itself."""

    desc = "a port of a vswitch lab"
    nonblocking_socket = True

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.ins = self.outs = ring  # type: ignore[assignment]  # what scapy does with them is `fileno`
        self.basecls = Ether
        self.closed = False
        self._frames: deque[tuple[bytes, float]] = deque()

    def fileno(self) -> int:
        """The ring's descriptor."""
        return self.ring.fileno()

    def send(self, x: Any) -> int:
        """Send a packet; waits while the ring has no room. Returns its size in bytes."""
        data = bytes(x)
        self.ring.send_all([data])
        return len(data)

    def recv_raw(self, x: int = 65535) -> tuple[type[Any] | None, bytes | None, float | None]:
        """The next frame and when it was taken from the ring, (None, None, None) when there is none."""
        if not self._frames:
            now = time.time()
            self._frames.extend((frame, now) for frame in self.ring.receive())
        if not self._frames:
            return None, None, None
        frame, when = self._frames.popleft()
        return self.basecls, frame, when

    def close(self) -> None:
        """Close the ring. Idempotent."""
        if not self.closed:
            self.closed = True
            self.ring.close()

    @staticmethod
    def select(sockets: list[SuperSocket], remain: float | None = None) -> list[SuperSocket]:
        """Those of `sockets` that have something, waiting `remain` seconds (None: for ever) for one to."""
        rings = [sock for sock in sockets if isinstance(sock, RingSocket)]
        ready: list[SuperSocket] = [sock for sock in rings if sock._frames]
        if ready:
            return ready
        armed = [sock for sock in rings if sock.ring.arm()]
        found, _, _ = select.select(sockets, [], [], 0 if armed else remain)
        for sock in rings:
            sock.ring.disarm()
        # Others may have been woken as well; a ring that was is looked at, and may turn out to have nothing.
        return list(dict.fromkeys([*armed, *found]))
