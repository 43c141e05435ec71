"""Two ports of a switch that have nothing to do with a third one's trouble, and must not notice it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from vswitch.fabric.client import PortStats

from .peers import BROADCAST, Peer, frame, mac
from .running import Fabric, within

_SIZES = (60, 1514, 9014, 69632)


class Bystanders:
    """Peers `a` and `b` on network `lan`. Frames between them all arrive, as they were sent, whatever else goes on."""

    def __init__(self, fabric: Fabric, a: Peer, b: Peer) -> None:
        self.fabric = fabric
        self.a, self.b = a, b

    def flood(self, count: int, size: int) -> None:
        """Send broadcasts, which go to the port in trouble as well; each must arrive at `b`, in order and whole."""
        for number in range(count):
            sent = frame(BROADCAST, mac(0xA), number.to_bytes(4, "big"), size=size)
            self.a.send(sent)
            while (got := self.b.receive()) != sent:
                assert got[6:12] not in (mac(0xA), mac(0xB)), f"frame {number} came changed, or out of order"

    def exchange(self) -> None:
        """Send unicast frames both ways. What the one in trouble floods meanwhile is passed over."""
        pairs = ((self.a, self.b, 0xB, 0xA), (self.b, self.a, 0xA, 0xB))
        for size in _SIZES:
            for sender, receiver, to, source in pairs:
                sent = frame(mac(to), mac(source), size=size)
                sender.send(sent)
                while (got := receiver.receive()) != sent:
                    assert got[6:12] not in (mac(0xA), mac(0xB)), "a frame came changed, or twice"

    async def check(self) -> None:
        """Frames flow, and none of theirs has ever been dropped."""
        await asyncio.to_thread(self.exchange)
        for name in ("a", "b"):
            row = await row_of(self.fabric, name)
            assert (row.state, row.drops) == ("up", {})


@asynccontextmanager
async def bystanders(fabric: Fabric) -> AsyncIterator[Bystanders]:
    """Two of them, checked before and after."""
    there = Bystanders(fabric, await fabric.peer("lan", "a"), await fabric.peer("lan", "b"))
    there.a.send(frame(BROADCAST, mac(0xA)))
    there.b.receive()
    there.b.send(frame(BROADCAST, mac(0xB)))
    there.a.receive()
    try:
        await there.check()
        yield there
        await there.check()
    finally:
        there.a.close()
        there.b.close()


async def row_of(fabric: Fabric, port: str) -> PortStats:
    """The counters of a port."""
    return next(row for row in await fabric.client.stats() if row.port == port)


async def eventually(fabric: Fabric, port: str, state: str) -> PortStats:
    """Wait until `port` is as `state` says."""

    async def look() -> PortStats:
        while True:
            for row in await fabric.client.stats():
                if row.port == port and row.state == state:
                    return row

    return await within(look())


def descriptors(fabric: Fabric) -> int:
    """How many the fabric has open."""
    return len(list(Path(f"/proc/{fabric.process.pid}/fd").iterdir()))


def resident(fabric: Fabric) -> int:
    """Bytes of memory it has."""
    return 4096 * int(Path(f"/proc/{fabric.process.pid}/statm").read_text().split()[1])
